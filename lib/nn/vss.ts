import type { ConnectorConfig } from '../checkpoint/config.ts';
import { causalConv1d2d, linear, selectiveScan2d } from '../ops/index.ts';
import type { QuantisedWeight } from '../ops/quantised.ts';
import type { Graph } from '../program.ts';
import { index, slice, type Tensor, transpose } from '../tensor.ts';
import { type Loaded, matrix, vector } from '../weights.ts';

/** A VSS module of width d; e = expand · d, k directions. */
export interface VssConfig
  extends Pick<ConnectorConfig, 'scan' | 'weights' | 'merge' | 'stateSize' | 'convKernel' | 'expand' | 'timeStepRank'> {
  width: number;
}

const directions = (scan: ConnectorConfig['scan']) => (scan === 'bsm' ? 2 : 4);

/** The weights under `prefix`; with per-direction weights all but in_proj and out_proj have a leading k, in the scan's order. */
export function vssParams(
  prefix: string,
  { width: d, scan, weights, stateSize: n, convKernel: w, expand, timeStepRank: r }: VssConfig,
) {
  const e = expand * d;
  const lead = weights === 'per-direction' ? [directions(scan)] : [];
  const dense = (name: string, shape: number[]) => matrix(`${prefix}.${name}.weight`, shape, { fewestBits: 8 });
  return {
    in_proj: { weight: dense('in_proj', [2 * e, d]) },
    conv1d: {
      weight: vector(`${prefix}.conv1d.weight`, [...lead, e, w], { stored: [...lead, e, 1, w] }),
      bias: vector(`${prefix}.conv1d.bias`, [...lead, e]),
    },
    x_proj: { weight: dense('x_proj', [...lead, r + 2 * n, e]) },
    dt_proj: {
      weight: dense('dt_proj', [...lead, e, r]),
      bias: vector(`${prefix}.dt_proj.bias`, [...lead, e]),
    },
    A: vector(`${prefix}.A_log`, [...lead, e, n], { transform: 'neg_exp' }),
    D: vector(`${prefix}.D`, [...lead, e]),
    out_proj: { weight: dense('out_proj', [d, e]) },
  };
}

/**
 * The two-dimensional scan of VL-Mamba (arXiv 2403.13600 §3.2, Fig. 3): the patches of a height × width grid read along
 * each direction by a Mamba layer, put back in their places and merged. in_proj reads every patch once, because each
 * direction reads the same patches; the merge comes before the gate and out_proj, because both are the same for every
 * direction and linear in what is merged (architecture.md, decision 7).
 * u, result: [b, height · width, d] f32, patches row by row.
 */
export function vss(
  g: Graph,
  w: Loaded<ReturnType<typeof vssParams>>,
  u: Tensor,
  height: number,
  width: number,
  { width: d, scan, weights, merge, stateSize: n, expand, timeStepRank: r }: VssConfig,
): Tensor {
  const e = expand * d;
  const channels = (t: Tensor) => transpose(t, t.shape.length - 2, t.shape.length - 1);
  const grid = { scan, height, width };
  const xz = linear(g, { x: u, ...w.in_proj }).y;
  // [b, k, e, l] by name, [b, k, l, e] in memory: each direction's result at its patch's place.
  const conv = causalConv1d2d(g, { x: channels(slice(xz, 2, 0, e)), ...w.conv1d }, { ...grid, activation: 'silu' }).y;
  const project = (x: Tensor, { weight, scale, grid }: QuantisedWeight, to: number): Tensor => {
    if (weights === 'shared') return linear(g, { x, weight, scale, grid }, { dtype: 'f32' }).y;
    const y = g.empty('f32', x.shape.with(-1, to));
    for (let k = 0; k < x.shape[1]!; k++) {
      const of = (t: Tensor | undefined) => t && index(t, 0, k);
      linear(g, { x: index(x, 1, k), weight: of(weight)!, scale: of(scale), grid: of(grid), y: index(y, 1, k) });
    }
    return y;
  };
  const dbc = project(channels(conv), w.x_proj, r + 2 * n);
  const dt = project(slice(dbc, 3, 0, r), w.dt_proj, e);
  const y = selectiveScan2d(
    g,
    {
      u: conv,
      delta: channels(dt),
      A: w.A,
      B: channels(slice(dbc, 3, r, r + n)),
      C: channels(slice(dbc, 3, r + n, r + 2 * n)),
      D: w.D,
      z: channels(slice(xz, 2, e, 2 * e)),
      deltaBias: w.dt_proj.bias,
    },
    { ...grid, merge, deltaSoftplus: true },
  ).y;
  return linear(g, { x: channels(y), ...w.out_proj }).y;
}

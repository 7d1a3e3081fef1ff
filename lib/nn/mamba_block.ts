import type { TextConfig } from '../checkpoint/config.ts';
import { causalConv1d, linear, selectiveScan } from '../ops/index.ts';
import type { Graph } from '../program.ts';
import { slice, type Tensor, transpose, unsqueeze } from '../tensor.ts';
import { type Loaded, matrix, vector } from '../weights.ts';

export type MambaBlockConfig = Pick<
  TextConfig,
  'hiddenSize' | 'intermediateSize' | 'stateSize' | 'timeStepRank' | 'convKernel' | 'useBias' | 'useConvBias'
>;

/** The weights of `mixer` under `prefix`. A_log is kept as A = −exp(A_log), which is all that the scan wants of it. */
export function mambaBlockParams(
  name: (path: string) => { name: string; aliases: string[] },
  {
    hiddenSize: d,
    intermediateSize: e,
    stateSize: n,
    timeStepRank: r,
    convKernel: w,
    useBias,
    useConvBias,
  }: MambaBlockConfig,
) {
  const dense = (path: string, to: number, from: number, fewestBits: 4 | 8 = 4) => {
    const weight = name(`${path}.weight`);
    return matrix(weight.name, [to, from], { ...weight, fewestBits });
  };
  const small = (path: string, shape: number[], options: Parameters<typeof vector>[2] = {}) => {
    const { name: full, aliases } = name(path);
    return vector(full, shape, { aliases, ...options });
  };
  return {
    in_proj: { weight: dense('in_proj', 2 * e, d), bias: useBias ? small('in_proj.bias', [2 * e]) : undefined },
    conv1d: {
      weight: small('conv1d.weight', [e, w], { stored: [e, 1, w] }),
      bias: useConvBias ? small('conv1d.bias', [e]) : undefined,
    },
    // Small, and what decides how fast a state fades.
    x_proj: { weight: dense('x_proj', r + 2 * n, e, 8) },
    dt_proj: { weight: dense('dt_proj', e, r, 8), bias: small('dt_proj.bias', [e]) },
    A: small('A_log', [e, n], { transform: 'neg_exp' }),
    D: small('D', [e]),
    out_proj: { weight: dense('out_proj', d, e), bias: useBias ? small('out_proj.bias', [d]) : undefined },
  };
}

/** The recurrent state of one layer, one row for each slot: read before a block runs, and written by it. */
export interface MambaState {
  /** [slots, e, w − 1] f32: the last inputs of the convolution */
  conv: Tensor;
  /** [slots, e, n] f32: h of the selective scan */
  ssm: Tensor;
}

/**
 * A Mamba mixer (arXiv 2312.00752, Fig. 3) with the residual added:
 * x, z = in_proj(u); x = silu(conv1d(x)); dt, B, C = x_proj(x); y = selective_scan(x, dt_proj(dt), A, B, C, D) · silu(z);
 * out_proj(y) + residual.
 * u, residual, result: [b, l, d] f32; slots: [b] i32, each batch row's row of the state.
 */
export function mambaBlock(
  g: Graph,
  w: Loaded<ReturnType<typeof mambaBlockParams>>,
  u: Tensor,
  residual: Tensor,
  state: MambaState,
  slots: Tensor,
  { intermediateSize: e, stateSize: n, timeStepRank: r }: MambaBlockConfig,
): Tensor {
  // Memory is [b, l, channels] throughout: products read and write it so. The scan and the convolution name their axes
  // [b, channels, l], which is a matter of strides.
  const channels = (t: Tensor) => transpose(t, 1, 2);
  const xz = linear(g, { x: u, ...w.in_proj }).y;
  const conv = causalConv1d(
    g,
    { x: channels(slice(xz, 2, 0, e)), ...w.conv1d, initialState: state.conv, slots, finalState: state.conv },
    { activation: 'silu' },
  ).y;
  // What decides how fast a state fades stays f32 where activations are 16 bits wide.
  const dbc = linear(g, { x: channels(conv), ...w.x_proj }, { dtype: 'f32' }).y;
  const { bias: deltaBias, ...dtProj } = w.dt_proj;
  const dt = linear(g, { x: slice(dbc, 2, 0, r), ...dtProj }, { dtype: 'f32' }).y;
  const group = (begin: number) => unsqueeze(channels(slice(dbc, 2, begin, begin + n)), 1);
  const y = selectiveScan(
    g,
    {
      u: conv,
      delta: channels(dt),
      A: w.A,
      B: group(r),
      C: group(r + n),
      D: w.D,
      z: channels(slice(xz, 2, e, 2 * e)),
      deltaBias,
      initialState: state.ssm,
      slots,
      lastState: state.ssm,
    },
    { deltaSoftplus: true },
  ).y;
  return linear(g, { x: channels(y), ...w.out_proj, residual }).y;
}

import type { ConnectorConfig } from '../checkpoint/config.ts';
import { type VssConfig, vss, vssParams } from '../nn/vss.ts';
import { activation, layerNorm, linear, rmsNorm } from '../ops/index.ts';
import type { Graph } from '../program.ts';
import type { Tensor } from '../tensor.ts';
import { type Loaded, matrix, vector } from '../weights.ts';

/** Widths around the connector: what the tower gives and what the language model reads. */
interface Widths {
  vision: number;
  text: number;
}

const vssConfig = (config: ConnectorConfig, width: number): VssConfig => ({ ...config, width });

/** Width of the VSS module and its norm. */
const vssWidth = ({ type, hiddenSize }: ConnectorConfig, { vision }: Widths) =>
  type === 'vss-mlp' ? vision : hiddenSize;

/** The weights under `multi_modal_projector`. */
export function connectorParams(prefix: string, config: ConnectorConfig, widths: Widths) {
  const { type, hiddenSize: h, norm } = config;
  const dense = (name: string, to: number, from: number) => ({
    weight: matrix(`${prefix}.${name}.weight`, [to, from], { fewestBits: 8 }),
    bias: vector(`${prefix}.${name}.bias`, [to]),
  });
  const d = vssWidth(config, widths);
  return {
    linear_1: dense('linear_1', h, widths.vision),
    linear_2: dense('linear_2', widths.text, h),
    vss:
      type === 'mlp'
        ? undefined
        : {
            mixer: vssParams(`${prefix}.vss`, vssConfig(config, d)),
            norm: {
              weight: vector(`${prefix}.norm.weight`, [d]),
              bias: norm === 'layer' ? vector(`${prefix}.norm.bias`, [d]) : undefined,
            },
          },
  };
}

type Weights = Loaded<ReturnType<typeof connectorParams>>;

/**
 * The multimodal connector of VL-Mamba (arXiv 2403.13600 §3.2, Fig. 2, eq. 5–6):
 *   mlp      linear_2(act(linear_1(V)))
 *   vss-mlp  h = norm(VSS(V) + V);                       linear_2(act(linear_1(h)))
 *   vss-l2   v = linear_1(V);  h = norm(VSS(act(v)) + v);  linear_2(h)
 * features: [b, height · width, vision] f32 (any number of rows for mlp); result: [b, rows, text] f32.
 */
export function connector(
  g: Graph,
  w: Weights,
  features: Tensor,
  height: number,
  width: number,
  config: ConnectorConfig,
): Tensor {
  const { type, hiddenAct, norm, normEps: eps } = config;
  const scanned = (u: Tensor, skip: Tensor): Tensor => {
    const { mixer, norm: weights } = w.vss!;
    const x = vss(g, mixer, u, height, width, vssConfig(config, skip.shape[2]!));
    const inputs = { x, residual: skip, weight: weights.weight };
    return norm === 'layer'
      ? layerNorm(g, { ...inputs, bias: weights.bias }, { eps }).y
      : rmsNorm(g, inputs, { eps }).y;
  };
  const mlp = (x: Tensor) =>
    linear(g, { x: linear(g, { x, ...w.linear_1 }, { activation: hiddenAct }).y, ...w.linear_2 }, { dtype: 'f32' }).y;
  switch (type) {
    case 'mlp':
      return mlp(features);
    case 'vss-mlp':
      return mlp(scanned(features, features));
    case 'vss-l2': {
      const v = linear(g, { x: features, ...w.linear_1 }, { dtype: 'f32' }).y;
      const h = scanned(activation(g, { x: v }, { activation: hiddenAct }).y, v);
      return linear(g, { x: h, ...w.linear_2 }, { dtype: 'f32' }).y;
    }
  }
}

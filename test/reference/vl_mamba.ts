/**
 * The whole model from its published formulas, in float64 and without a thought for speed: every direction of a VSS module
 * is a Mamba layer of its own over permuted patches, put back and added. Rows are arrays of Float64Arrays.
 */
import { activations } from './activation.ts';
import { BLOCK, quantiseRow } from './quantised.ts';

export type Rows = Float64Array[];

/** Weights by their names in a checkpoint. */
export type Weights = (name: string) => { shape: readonly number[]; data: ArrayLike<number> };

const rows = (n: number, make: (i: number) => Float64Array): Rows => Array.from({ length: n }, (_, i) => make(i));
const add = (a: Rows, b: Rows): Rows => a.map((row, i) => row.map((x, j) => x + b[i]![j]!));
const apply = (a: Rows, f: (x: number) => number): Rows => a.map((row) => row.map(f));
const softplus = (x: number) => (x > 30 ? x : Math.log1p(Math.exp(x)));

/** Weights whose products round the other side to int8 first. */
export const rounding = new WeakSet<ArrayLike<number>>();

function rounded(row: Float64Array): Float64Array {
  const { values, scale } = quantiseRow(row);
  return Float64Array.from(values, (q, i) => q * scale[Math.floor(i / BLOCK)]!);
}

function linear(x: Rows, weight: ArrayLike<number>, n: number, bias?: ArrayLike<number>): Rows {
  const k = x[0]!.length;
  const seen = rounding.has(weight) ? x.map(rounded) : x;
  return seen.map((row) =>
    Float64Array.from({ length: n }, (_, j) => {
      let sum = bias ? bias[j]! : 0;
      for (let i = 0; i < k; i++) sum += row[i]! * weight[j * k + i]!;
      return sum;
    }),
  );
}

const dense = (w: Weights, name: string, x: Rows): Rows => {
  const { shape, data } = w(`${name}.weight`);
  return linear(x, data, shape[0]!, w(`${name}.bias`).data);
};

function layerNorm(x: Rows, weight: ArrayLike<number>, bias: ArrayLike<number>, eps: number): Rows {
  return x.map((row) => {
    const mean = row.reduce((sum, v) => sum + v, 0) / row.length;
    const variance = row.reduce((sum, v) => sum + (v - mean) ** 2, 0) / row.length;
    return row.map((v, i) => ((v - mean) / Math.sqrt(variance + eps)) * weight[i]! + bias[i]!);
  });
}

function rmsNorm(x: Rows, weight: ArrayLike<number>, eps: number): Rows {
  return x.map((row) => {
    const square = row.reduce((sum, v) => sum + v * v, 0) / row.length;
    return row.map((v, i) => (v / Math.sqrt(square + eps)) * weight[i]!);
  });
}

interface Block {
  inProj: ArrayLike<number>;
  conv: ArrayLike<number>;
  convBias: ArrayLike<number>;
  xProj: ArrayLike<number>;
  dtProj: ArrayLike<number>;
  dtBias: ArrayLike<number>;
  aLog: ArrayLike<number>;
  d: ArrayLike<number>;
  outProj: ArrayLike<number>;
}

/** Mamba's mixer (arXiv 2312.00752, Fig. 3 and Alg. 2), one position after the other. e inner width, n states, r rank. */
function mambaLayer(u: Rows, w: Block, e: number, n: number, r: number, taps: number): Rows {
  const xz = linear(u, w.inProj, 2 * e);
  const x = xz.map((_, t) =>
    Float64Array.from({ length: e }, (_, c) => {
      let sum = w.convBias[c]!;
      for (let k = 0; k < taps; k++)
        if (t - taps + 1 + k >= 0) sum += w.conv[c * taps + k]! * xz[t - taps + 1 + k]![c]!;
      return activations.silu(sum);
    }),
  );
  const dbc = linear(x, w.xProj, r + 2 * n);
  const dt = linear(
    dbc.map((row) => row.subarray(0, r)),
    w.dtProj,
    e,
  );
  const h = new Float64Array(e * n);
  const y = x.map((row, t) =>
    Float64Array.from({ length: e }, (_, c) => {
      const step = softplus(dt[t]![c]! + w.dtBias[c]!);
      let sum = w.d[c]! * row[c]!;
      for (let s = 0; s < n; s++) {
        const at = c * n + s;
        h[at] = Math.exp(-step * Math.exp(w.aLog[at]!)) * h[at]! + step * dbc[t]![r + s]! * row[c]!;
        sum += dbc[t]![r + n + s]! * h[at]!;
      }
      return sum * activations.silu(xz[t]![e + c]!);
    }),
  );
  return linear(y, w.outProj, u[0]!.length);
}

/** Patch numbers in the order of each direction: rows, their reverse, and with csm columns and theirs. */
function directions(scan: 'bsm' | 'csm', side: number): number[][] {
  const byRow = Array.from({ length: side * side }, (_, i) => i);
  const byColumn = byRow.map((i) => (i % side) * side + Math.floor(i / side));
  const ways = scan === 'bsm' ? [byRow] : [byRow, byColumn];
  return ways.flatMap((way) => [way, way.toReversed()]);
}

export interface ConnectorSettings {
  type: 'mlp' | 'vss-mlp' | 'vss-l2';
  scan: 'bsm' | 'csm';
  weights: 'shared' | 'per-direction';
  merge: 'sum' | 'mean';
  state_size: number;
  conv_kernel: number;
  expand: number;
  time_step_rank: number;
  norm: 'layer' | 'rms';
  norm_eps: number;
  hidden_act: 'gelu' | 'gelu_pytorch_tanh';
}

const PROJECTOR = 'multi_modal_projector';

/** VSS(u) = merge over directions of unpermute(mamba(permute(u))), VL-Mamba (arXiv 2403.13600) §3.2, Fig. 3. */
function vss(w: Weights, u: Rows, c: ConnectorSettings): Rows {
  const e = c.expand * u[0]!.length;
  const orders = directions(c.scan, Math.sqrt(u.length));
  const total = rows(u.length, () => new Float64Array(u[0]!.length));
  orders.forEach((order, k) => {
    const own = (name: string) => {
      const { data } = w(`${PROJECTOR}.vss.${name}`);
      if (c.weights === 'shared') return data;
      const size = data.length / orders.length;
      return Array.from(data).slice(k * size, (k + 1) * size);
    };
    const block: Block = {
      inProj: w(`${PROJECTOR}.vss.in_proj.weight`).data,
      conv: own('conv1d.weight'),
      convBias: own('conv1d.bias'),
      xProj: own('x_proj.weight'),
      dtProj: own('dt_proj.weight'),
      dtBias: own('dt_proj.bias'),
      aLog: own('A_log'),
      d: own('D'),
      outProj: w(`${PROJECTOR}.vss.out_proj.weight`).data,
    };
    const out = mambaLayer(
      order.map((p) => u[p]!),
      block,
      e,
      c.state_size,
      c.time_step_rank,
      c.conv_kernel,
    );
    order.forEach((p, i) => {
      for (let j = 0; j < out[i]!.length; j++) total[p]![j]! += out[i]![j]! / (c.merge === 'mean' ? orders.length : 1);
    });
  });
  return total;
}

/** The connector of VL-Mamba (arXiv 2403.13600, Fig. 2, eq. 5–6). */
export function connector(w: Weights, v: Rows, c: ConnectorSettings): Rows {
  const act = (x: Rows) => apply(x, activations[c.hidden_act]);
  const linear1 = (x: Rows) => dense(w, `${PROJECTOR}.linear_1`, x);
  const linear2 = (x: Rows) => dense(w, `${PROJECTOR}.linear_2`, x);
  const norm = (x: Rows) => {
    const weight = w(`${PROJECTOR}.norm.weight`).data;
    return c.norm === 'layer'
      ? layerNorm(x, weight, w(`${PROJECTOR}.norm.bias`).data, c.norm_eps)
      : rmsNorm(x, weight, c.norm_eps);
  };
  if (c.type === 'mlp') return linear2(act(linear1(v)));
  if (c.type === 'vss-mlp') return linear2(act(linear1(norm(add(vss(w, v, c), v)))));
  const h = linear1(v);
  return linear2(norm(add(vss(w, act(h), c), h)));
}

export interface VisionSettings {
  model_type: 'siglip_vision_model' | 'clip_vision_model';
  hidden_size: number;
  num_hidden_layers: number;
  num_attention_heads: number;
  image_size: number;
  patch_size: number;
  hidden_act: 'gelu' | 'gelu_pytorch_tanh' | 'quick_gelu';
  layer_norm_eps: number;
}

function attention(q: Rows, k: Rows, v: Rows, heads: number): Rows {
  const width = q[0]!.length / heads;
  return q.map((query) => {
    const out = new Float64Array(query.length);
    for (let h = 0; h < heads; h++) {
      const scores = k.map((key) => {
        let sum = 0;
        for (let i = h * width; i < (h + 1) * width; i++) sum += query[i]! * key[i]!;
        return sum / Math.sqrt(width);
      });
      const top = Math.max(...scores);
      const weights = scores.map((s) => Math.exp(s - top));
      const total = weights.reduce((a, b) => a + b, 0);
      for (let i = h * width; i < (h + 1) * width; i++)
        out[i] = weights.reduce((sum, p, j) => sum + (p / total) * v[j]![i]!, 0);
    }
    return out;
  });
}

/** The tower up to the block before the last, class token dropped: what `vision_feature_layer: -2` means. */
export function tower(w: Weights, pixels: ArrayLike<number>, c: VisionSettings): Rows {
  const prefix = 'vision_tower.vision_model';
  const { image_size: side, patch_size: p, hidden_size: d, layer_norm_eps: eps } = c;
  const clip = c.model_type === 'clip_vision_model';
  const across = Math.floor(side / p);
  const patches = rows(across * across, (i) => {
    const [top, left] = [Math.floor(i / across) * p, (i % across) * p];
    return Float64Array.from({ length: 3 * p * p }, (_, j) => {
      const [channel, y, x] = [Math.floor(j / (p * p)), Math.floor(j / p) % p, j % p];
      return pixels[(channel * side + top + y) * side + left + x]!;
    });
  });
  const embedded = linear(
    patches,
    w(`${prefix}.embeddings.patch_embedding.weight`).data,
    d,
    clip ? undefined : w(`${prefix}.embeddings.patch_embedding.bias`).data,
  );
  const position = w(`${prefix}.embeddings.position_embedding.weight`).data;
  let x = clip ? [Float64Array.from(w(`${prefix}.embeddings.class_embedding`).data), ...embedded] : embedded;
  x = x.map((row, i) => row.map((v, j) => v + position[i * d + j]!));
  const norm = (name: string, t: Rows) => layerNorm(t, w(`${name}.weight`).data, w(`${name}.bias`).data, eps);
  if (clip) x = norm(`${prefix}.pre_layrnorm`, x);
  for (let i = 0; i < c.num_hidden_layers - 1; i++) {
    const layer = `${prefix}.encoder.layers.${i}`;
    const y = norm(`${layer}.layer_norm1`, x);
    const [q, k, v] = ['q_proj', 'k_proj', 'v_proj'].map((name) => dense(w, `${layer}.self_attn.${name}`, y)) as [
      Rows,
      Rows,
      Rows,
    ];
    x = add(x, dense(w, `${layer}.self_attn.out_proj`, attention(q, k, v, c.num_attention_heads)));
    const up = apply(dense(w, `${layer}.mlp.fc1`, norm(`${layer}.layer_norm2`, x)), activations[c.hidden_act]);
    x = add(x, dense(w, `${layer}.mlp.fc2`, up));
  }
  return clip ? x.slice(1) : x;
}

export interface TextSettings {
  hidden_size: number;
  state_size: number;
  num_hidden_layers: number;
  conv_kernel: number;
  expand: number;
  time_step_rank: number;
  layer_norm_epsilon: number;
  tie_word_embeddings?: boolean;
}

/** The row of the embedding for a token. */
export function embed(w: Weights, prefix: string, id: number): Float64Array {
  const { shape, data } = w(`${prefix}backbone.embeddings.weight`);
  return Float64Array.from({ length: shape[1]! }, (_, i) => data[id * shape[1]! + i]!);
}

/** Logits after the last of the rows that a Mamba language model reads. */
export function languageModel(w: Weights, prefix: string, input: Rows, c: TextSettings): Float64Array {
  const norm = (name: string, x: Rows) => rmsNorm(x, w(`${name}.weight`).data, c.layer_norm_epsilon);
  let x = input;
  for (let i = 0; i < c.num_hidden_layers; i++) {
    const layer = `${prefix}backbone.layers.${i}`;
    const own = (name: string) => w(`${layer}.mixer.${name}`).data;
    const block: Block = {
      inProj: own('in_proj.weight'),
      conv: own('conv1d.weight'),
      convBias: own('conv1d.bias'),
      xProj: own('x_proj.weight'),
      dtProj: own('dt_proj.weight'),
      dtBias: own('dt_proj.bias'),
      aLog: own('A_log'),
      d: own('D'),
      outProj: own('out_proj.weight'),
    };
    const y = mambaLayer(
      norm(`${layer}.norm`, x),
      block,
      c.expand * c.hidden_size,
      c.state_size,
      c.time_step_rank,
      c.conv_kernel,
    );
    x = add(x, y);
  }
  const last = norm(`${prefix}backbone.norm_f`, x.slice(-1));
  const tied = c.tie_word_embeddings ?? true;
  const head = w(`${prefix}${tied ? 'backbone.embeddings' : 'lm_head'}.weight`);
  return linear(last, head.data, head.shape[0]!)[0]!;
}

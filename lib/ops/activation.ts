import type { Graph } from '../program.ts';
import type { Tensor } from '../tensor.ts';
import { expectDtype } from './check.ts';

/** The spelling of Hugging Face's `hidden_act`: `gelu` is the exact erf form, `gelu_pytorch_tanh` its approximation. */
export type Activation = 'none' | 'silu' | 'gelu' | 'gelu_pytorch_tanh' | 'quick_gelu';

/** y = act(x), element by element; x and y [rows…, d] f32 (GELU: Hendrycks & Gimpel 2016; SiLU: Elfwing et al. 2017). */
export function activation(
  g: Graph,
  { x }: { /** [rows…, d] f32 */ x: Tensor },
  { activation = 'gelu' }: { activation?: Activation } = {},
): { y: Tensor } {
  expectDtype('activation', 'x', x, ...g.floats);
  const y = g.empty(x.dtype, x.shape);
  g.push('activation', { x }, { y }, { activation });
  return { y };
}

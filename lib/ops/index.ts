/** Every op: the functions that record a step of a program, and `ops`, which runs a single one on typed arrays. */
import { eager } from './eager.ts';
import { rmsNorm } from './rms_norm.ts';

export { rmsNorm };

export const ops = {
  rmsNorm: eager('rms_norm', rmsNorm),
};

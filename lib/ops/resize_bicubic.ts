import type { Resampling, Size } from '../image/geometry.ts';
import type { Graph } from '../program.ts';
import type { Tensor } from '../tensor.ts';
import { expect, expectDtype, expectShape } from './check.ts';

export interface ResizeBicubicInputs {
  /** [h, w, 3] u8 */
  image: Tensor;
}

/**
 * y = the middle `window` of the canvas, resized as Pillow's bicubic does, bit for bit; the canvas has colour `fill` and the
 * image in its middle (reference/model-facts.md §5.4, §6.2). Middles round down. Returns y [window.height, window.width, 3] u8.
 */
export function resizeBicubic(
  g: Graph,
  { image }: ResizeBicubicInputs,
  { canvas, fill, resized, window }: Resampling,
): { y: Tensor } {
  const op = 'resize_bicubic';
  expectDtype(op, 'image', image, 'u8');
  expectShape(op, 'image', image, 'h,w,3', [-1, -1, 3]);
  const [height, width] = image.shape as [number, number, number];
  const holds = (outer: Size, inner: Size) => outer.width >= inner.width && outer.height >= inner.height;
  expect(op, holds(canvas, { width, height }), `canvas ${sized(canvas)} must hold the image ${width}×${height}`);
  expect(op, holds(resized, window), `resized ${sized(resized)} must hold the window ${sized(window)}`);
  const y = g.empty('u8', [window.height, window.width, 3]);
  const attrs = {
    canvas_height: canvas.height,
    canvas_width: canvas.width,
    fill: (fill[0] << 16) | (fill[1] << 8) | fill[2],
    height: resized.height,
    width: resized.width,
  };
  g.push(op, { image }, { y }, attrs);
  return { y };
}

const sized = ({ width, height }: Size): string => `${width}×${height}`;

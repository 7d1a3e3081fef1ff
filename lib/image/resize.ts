import { CancelToken, type Device } from '../device.ts';
import { resizeBicubic } from '../ops/resize_bicubic.ts';
import { Graph } from '../program.ts';
import type { ResizeFn } from './preprocess.ts';

/** Resizes on a CPU device's own threads. The image is read in place: nobody else may write to it meanwhile. */
export const resizeOn =
  (device: Device): ResizeFn =>
  async (image, how, signal) => {
    signal?.throwIfAborted();
    const g = new Graph();
    const { y } = resizeBicubic(g, { image: g.input('image', 'u8', [image.height, image.width, 3]) }, how);
    g.output('y', y);
    const program = await device.compile(g);
    const token = new CancelToken(signal);
    try {
      const results = await program.run({ image: image.data }, { token, borrow: true });
      return results.y as Uint8Array;
    } catch (error) {
      signal?.throwIfAborted();
      throw error;
    } finally {
      token.release();
      program.drop();
    }
  };

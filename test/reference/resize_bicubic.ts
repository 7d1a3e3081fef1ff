import type { Resampling, Rgb } from '../../lib/image/geometry.ts';

/** The convolution kernel of bicubic interpolation, a = -0.5 (Keys 1981), in Pillow's order of operations. */
function cubic(x: number): number {
  const d = Math.abs(x);
  if (d < 1) return (1.5 * d - 2.5) * d * d + 1;
  if (d < 2) return (((d - 5) * d + 8) * d - 4) * -0.5;
  return 0;
}

/** For every output: the first input it reads, and the 22-bit fixed-point weights of the inputs from there on. */
function weights(from: number, to: number): { first: number; k: number[] }[] {
  const scale = from / to;
  const stretch = Math.max(scale, 1);
  return Array.from({ length: to }, (_, i) => {
    const center = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - 2 * stretch + 0.5));
    const end = Math.min(from, Math.trunc(center + 2 * stretch + 0.5));
    const w = Array.from({ length: end - first }, (_, j) => cubic((j + first - center + 0.5) * (1 / stretch)));
    const sum = w.reduce((a, b) => a + b, 0);
    return { first, k: w.map((v) => Math.trunc((v / sum) * 2 ** 22 + (v / sum < 0 ? -0.5 : 0.5))) };
  });
}

const clip8 = (sum: number): number => Math.min(255, Math.max(0, Math.floor((2 ** 21 + sum) / 2 ** 22)));

/** Pillow's bicubic resize of 8-bit RGB: rows first, rounded to 8 bits, then columns (model-facts §5.4). */
export function resizeBicubic({ data, width, height }: Rgb, toWidth: number, toHeight: number): Rgb {
  const rows = new Uint8Array(height * toWidth * 3);
  const across = weights(width, toWidth);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < toWidth; x++)
      for (let c = 0; c < 3; c++) {
        const { first, k } = across[x]!;
        let sum = 0;
        for (let j = 0; j < k.length; j++) sum += data[(y * width + first + j) * 3 + c]! * k[j]!;
        rows[(y * toWidth + x) * 3 + c] = clip8(sum);
      }
  const out = new Uint8Array(toHeight * toWidth * 3);
  const down = weights(height, toHeight);
  for (let y = 0; y < toHeight; y++)
    for (let x = 0; x < toWidth; x++)
      for (let c = 0; c < 3; c++) {
        const { first, k } = down[y]!;
        let sum = 0;
        for (let j = 0; j < k.length; j++) sum += rows[((first + j) * toWidth + x) * 3 + c]! * k[j]!;
        out[(y * toWidth + x) * 3 + c] = clip8(sum);
      }
  return { data: out, width: toWidth, height: toHeight };
}

/** Copies `image` to (left, top) of a new picture filled with `fill`; what does not fit is cut off. */
function paste(image: Rgb, width: number, height: number, left: number, top: number, fill: readonly number[]): Rgb {
  const data = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      for (let c = 0; c < 3; c++) {
        const [u, v] = [x - left, y - top];
        const inside = u >= 0 && u < image.width && v >= 0 && v < image.height;
        data[(y * width + x) * 3 + c] = inside ? image.data[(v * image.width + u) * 3 + c]! : fill[c]!;
      }
  return { data, width, height };
}

/** What the op `resize_bicubic` means: pad to the canvas, resize the canvas, cut the window out of its middle. */
export function resample(image: Rgb, { canvas, fill, resized, window }: Resampling): Uint8Array {
  const half = (outer: number, inner: number) => Math.floor((outer - inner) / 2);
  const [left, top] = [half(canvas.width, image.width), half(canvas.height, image.height)];
  const whole = resizeBicubic(
    paste(image, canvas.width, canvas.height, left, top, fill),
    resized.width,
    resized.height,
  );
  const [x, y] = [half(resized.width, window.width), half(resized.height, window.height)];
  return paste(whole, window.width, window.height, -x, -y, fill).data;
}

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { Device } from '../../lib/device.ts';
import { type Resampling, type Rgb, resampling } from '../../lib/image/geometry.ts';
import { resizeOn } from '../../lib/image/resize.ts';
import { resizeBicubic } from '../../lib/ops/resize_bicubic.ts';
import { Graph } from '../../lib/program.ts';
import { onCuda, testDevice } from '../kit.ts';
import { resample } from '../reference/resize_bicubic.ts';

const test = suite<{ devices: Device[] }>('resize_bicubic');
test.before((context) => {
  context.devices = onCuda ? [new Device({ name: testDevice })] : [1, 3].map((threads) => new Device({ threads }));
});
test.after(async ({ devices }) => {
  for (const device of devices) await device.dispose();
});

/** Noise, the content that rounding differs on most. */
function noise(width: number, height: number): Rgb {
  let state = width * 7919 + height;
  const data = Uint8Array.from({ length: width * height * 3 }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    // A third each of black and white: clipping and full swing.
    return state >>> 30 === 0 ? 0 : state >>> 30 === 1 ? 255 : (state >>> 16) & 255;
  });
  return { data, width, height };
}

async function same(devices: Device[], image: Rgb, how: Resampling): Promise<void> {
  const expected = resample(image, how);
  for (const device of devices) {
    const got = await resizeOn(device)(image, how);
    assert.is(got.length, expected.length);
    const off = got.findIndex((v, i) => v !== expected[i]);
    assert.is(
      off,
      -1,
      `${image.width}×${image.height} ${JSON.stringify(how)}: byte ${off} is ${got[off]}, not ${expected[off]}`,
    );
  }
}

const fill = [122, 116, 104] as const;
const sizes = [
  [1, 1],
  [1, 3],
  [3, 1],
  [7, 5],
  [20, 20],
  [62, 62],
  [63, 61],
  [640, 48],
  [33, 500],
  [300, 201],
] as const;

for (const mode of ['squash', 'crop', 'pad'] as const) {
  for (const [width, height] of sizes) {
    test(`equals the reference: ${mode} ${width}×${height}`, async ({ devices }) => {
      for (const [resize, crop] of [
        [20, 20],
        [62, 62],
        [48, 31],
      ] as const) {
        await same(devices, noise(width, height), resampling({ width, height }, { mode, resize, crop, fill }));
      }
    });
  }
}

test('sides that are kept or change alone', async ({ devices }) => {
  const canvas = { width: 40, height: 30 };
  for (const resized of [canvas, { width: 40, height: 12 }, { width: 17, height: 30 }, { width: 90, height: 30 }]) {
    await same(devices, noise(40, 30), { canvas, fill, resized, window: resized });
  }
});

test('a canvas much larger than the picture, and a window that sees only canvas', async ({ devices }) => {
  const canvas = { width: 300, height: 200 };
  const square = { width: 32, height: 32 };
  await same(devices, noise(5, 4), { canvas, fill, resized: square, window: square });
  await same(devices, noise(1, 1), {
    canvas: { width: 2, height: 2 },
    fill,
    resized: { width: 64, height: 64 },
    window: { width: 1, height: 1 },
  });
});

(process.env.VL_MAMBA_TEST_EMULATED ? test.skip : test)(
  'a strip of 100000 pixels costs what its pixels cost',
  async ({ devices }) => {
    for (const mode of ['squash', 'crop', 'pad'] as const) {
      for (const [width, height] of [
        [100_000, 1],
        [1, 100_000],
      ] as const) {
        const begin = process.cpuUsage();
        const out = await resizeOn(devices[0]!)(
          noise(width, height),
          resampling({ width, height }, { mode, resize: 384, crop: 384, fill }),
        );
        assert.is(out.length, 384 * 384 * 3);
        // Processor time: the clock on the wall also counts what else the machine does.
        const { user, system } = process.cpuUsage(begin);
        assert.ok(user + system < 2e6, `${(user + system) / 1e3} ms`);
      }
    }
  },
);

test('abort rejects with the reason', async ({ devices }) => {
  const reason = new Error('enough');
  const image = noise(64, 64);
  const how = resampling(image, { mode: 'squash', resize: 32, crop: 32, fill });
  assert.is(await resizeOn(devices[0]!)(image, how, AbortSignal.abort(reason)).catch((e) => e), reason);
});

test('what does not fit is refused where it is recorded', () => {
  const record = (change: Partial<Resampling>, shape = [4, 6, 3], dtype: 'u8' | 'f32' = 'u8') => {
    const g = new Graph();
    const size = { width: 6, height: 4 };
    resizeBicubic(
      g,
      { image: g.input('image', dtype, shape) },
      { canvas: size, fill, resized: size, window: size, ...change },
    );
    return g;
  };
  assert.match(
    String(record({})),
    /resize_bicubic\(image=%0\) canvas_height=4 canvas_width=6 fill=8025192 height=4 width=6 {2}u8 \[4,6,3\]/,
  );
  const refuses = (work: () => unknown, message: RegExp) => assert.throws(work, (e: Error) => message.test(e.message));
  refuses(() => record({ canvas: { width: 5, height: 9 } }), /canvas 5×9 must hold the image 6×4/);
  refuses(() => record({ window: { width: 7, height: 1 } }), /resized 6×4 must hold the window 7×1/);
  refuses(() => record({}, [4, 6, 4]), /image must be \[h,w,3\]/);
  refuses(() => record({}, [4, 6, 3], 'f32'), /image must be u8/);
});

test('native code checks for itself', async ({ devices }) => {
  const attrs = { canvas_height: 4, canvas_width: 6, fill: 0, height: 4, width: 6 };
  for (const [change, message] of [
    [{ canvas_height: 3 }, /canvas must hold the image/],
    [{ canvas_width: 2 ** 25 }, /at most 16777216/],
    [{ width: 5 }, /must hold y/],
    [{ height: -1 }, /must hold y/],
    [{ fill: -1 }, /fill must be 0xRRGGBB/],
    [{ canvas_width: 2 ** 24 }, /at most 4095/],
  ] as const) {
    const g = new Graph();
    const y = g.empty('u8', [4, 6, 3]);
    g.push('resize_bicubic', { image: g.input('image', 'u8', [4, 6, 3]) }, { y }, { ...attrs, ...change });
    g.output('y', y);
    const error = await devices[0]!.compile(g).catch((e) => e);
    assert.is(error.code, 'ERR_OP_ARG', JSON.stringify(change));
    assert.match(error.message, message);
  }
});

test.run();

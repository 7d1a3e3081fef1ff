import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { patchEmbed } from '../../lib/ops/index.ts';
import { close, device, failure, floats, ops, run, same } from '../kit.ts';
import * as reference from '../reference/patch_embed.ts';
import { seen, weightDtypes, weights } from './weights.ts';

type Shape = reference.PatchEmbedShape;

function tensors({ b, c, h, w, d, p }: Shape, withClass: boolean) {
  const rows = Math.floor(h / p) * Math.floor(w / p) + (withClass ? 1 : 0);
  return {
    image: { shape: [b, c, h, w], data: floats(h, b * c * h * w) },
    bias: { shape: [d], data: floats(h + 1, d) },
    position: { shape: [rows, d], data: floats(h + 2, rows * d) },
    ...(withClass && { classEmbedding: { shape: [d], data: floats(h + 3, d) } }),
  };
}

const shapes: [string, Shape][] = [
  ['27×27 patches of 14', { b: 1, c: 3, h: 378, w: 378, d: 9, p: 14 }],
  ['pixels left over on both sides', { b: 1, c: 3, h: 45, w: 50, d: 11, p: 14 }],
  ['wide, patches of 16', { b: 2, c: 3, h: 32, w: 112, d: 18, p: 16 }],
  ['tall, one channel, odd patches', { b: 3, c: 1, h: 50, w: 15, d: 5, p: 7 }],
  ['patches of one pixel', { b: 1, c: 3, h: 5, w: 4, d: 4, p: 1 }],
  ['one patch', { b: 1, c: 3, h: 14, w: 14, d: 65, p: 14 }],
  ['more patches than a pass', { b: 1, c: 1, h: 66, w: 64, d: 3, p: 2 }],
];

for (const [name, shape] of shapes)
  for (const dtype of weightDtypes)
    test(`${name}, ${dtype} weights`, async () => {
      const weight = weights(dtype, shape.d, [shape.d, shape.c, shape.p, shape.p]);
      for (const withClass of [false, true]) {
        const args = tensors(shape, withClass);
        const { y } = await ops.patchEmbed({ ...args, weight: weight.argument });
        assert.equal(y.shape, [shape.b, args.position.shape[0], shape.d]);
        const want = reference.patchEmbed(shape, seen(args.image.data, dtype), weight.values, {
          bias: args.bias.data,
          position: args.position.data,
          ...(withClass && { classEmbedding: args.classEmbedding!.data }),
        });
        close(y.data, want, 1e-6, withClass ? 'with a class row' : 'patches');
      }
    });

test('image and weight alone', async () => {
  const shape = { b: 2, c: 3, h: 28, w: 28, d: 7, p: 14 };
  const { image } = tensors(shape, false);
  const weight = weights('f32', 1, [7, 3, 14, 14]);
  const { y } = await ops.patchEmbed({ image, weight: weight.argument });
  close(y.data, reference.patchEmbed(shape, image.data, weight.values), 1e-6, 'y');
});

test('pixels beyond the last whole patch are not read', async () => {
  const shape = { b: 1, c: 2, h: 31, w: 30, d: 5, p: 14 };
  const { image } = tensors(shape, false);
  const weight = weights('f32', 1, [5, 2, 14, 14]).argument;
  const before = await ops.patchEmbed({ image, weight });
  for (let i = 0; i < image.data.length; i++)
    if (i % 30 >= 28 || Math.floor(i / 30) % 31 >= 28) image.data[i] = Number.NaN;
  same((await ops.patchEmbed({ image, weight })).y.data, before.y.data, 'y');
});

for (const dtype of weightDtypes)
  test(`${dtype} weights: a picture alone has the bytes it has among others, on 1 and 2 threads`, async () => {
    const shape = { b: 3, c: 3, h: 70, w: 56, d: 33, p: 14 };
    const weight = weights(dtype, 1, [33, 3, 14, 14]).argument;
    const { image, bias, classEmbedding } = tensors(shape, true);
    const args = { image, weight, bias, classEmbedding: classEmbedding! };
    const [one, two] = await Promise.all(
      [1, 2].map((threads) => run(args, (g, t) => patchEmbed(g, t as never), device(threads))),
    );
    same(one!.y!, two!.y!, 'threads');
    const pixels = image.data.length / 3;
    for (let n = 0; n < 3; n++) {
      const single = { shape: [1, 3, 70, 56], data: image.data.slice(n * pixels, (n + 1) * pixels) };
      const { y } = await ops.patchEmbed({ ...args, image: single });
      same(y.data, one!.y!.subarray(n * y.data.length, (n + 1) * y.data.length), `picture ${n}`);
    }
  });

test('no picture, no columns', async () => {
  const weight = weights('bf16', 1, [4, 3, 2, 2]).argument;
  const none = await ops.patchEmbed({ image: { shape: [0, 3, 8, 8], data: new Float32Array(0) }, weight });
  assert.equal(none.y.shape, [0, 16, 4]);
  const narrow = await ops.patchEmbed({
    image: { shape: [1, 3, 8, 8], data: floats(1, 192) },
    weight: { shape: [0, 3, 2, 2], data: new Float32Array(0) },
  });
  assert.equal(narrow.y.shape, [1, 16, 0]);
});

test('errors', async () => {
  const image = { shape: [1, 3, 28, 28], data: floats(1, 3 * 784) };
  const weight = { shape: [4, 3, 14, 14], data: floats(2, 12 * 196) };
  const vector = (n: number) => ({ shape: [n], data: floats(3, n) });
  const cases: [string, () => unknown, RegExp][] = [
    [
      'ERR_OP_SHAPE',
      () => ops.patchEmbed({ image: { shape: [3, 28, 28], data: image.data }, weight }),
      /image must be \[b,c,h,w\]/,
    ],
    [
      'ERR_OP_SHAPE',
      () => ops.patchEmbed({ image, weight: { shape: [4, 588], data: weight.data } }),
      /weight must be \[d,c,p,p\]/,
    ],
    [
      'ERR_OP_SHAPE',
      () => ops.patchEmbed({ image, weight: { shape: [4, 3, 28, 7], data: weight.data } }),
      /weight must be \[d,c,p,p\] = \[4,3,28,28\]/,
    ],
    [
      'ERR_OP_SHAPE',
      () => ops.patchEmbed({ image, weight: { shape: [12, 1, 14, 14], data: weight.data } }),
      /weight must be \[d,c,p,p\] = \[12,3,14,14\]/,
    ],
    [
      'ERR_OP_SHAPE',
      () => ops.patchEmbed({ image: { shape: [1, 3, 8, 98], data: image.data }, weight }),
      /a patch of 14 pixels does not fit a picture of 98×8/,
    ],
    [
      'ERR_OP_SHAPE',
      () => ops.patchEmbed({ image, weight: { shape: [4, 3, 0, 0], data: new Float32Array(0) } }),
      /patch of 0 pixels/,
    ],
    ['ERR_OP_SHAPE', () => ops.patchEmbed({ image, weight, bias: vector(3) }), /bias must be \[d\] = \[4\]/],
    [
      'ERR_OP_SHAPE',
      () =>
        ops.patchEmbed({ image, weight, classEmbedding: vector(4), position: { shape: [4, 4], data: floats(3, 16) } }),
      /position must be \[rows,d\] = \[5,4\]/,
    ],
    [
      'ERR_OP_SHAPE',
      () => ops.patchEmbed({ image, weight, classEmbedding: vector(5) }),
      /classEmbedding must be \[d\] = \[4\]/,
    ],
    [
      'ERR_OP_DTYPE',
      () => ops.patchEmbed({ image: { shape: [1, 3, 28, 28], data: new Uint8Array(3 * 784) }, weight }),
      /image must be f32/,
    ],
    [
      'ERR_OP_DTYPE',
      () => ops.patchEmbed({ image, weight: { shape: [4, 3, 14, 14], data: new Int32Array(2352) } }),
      /weight must be f32 or f16/,
    ],
    ['ERR_ARG_TYPE', () => ops.patchEmbed({ image } as never), /weight is missing/],
  ];
  for (const [code, act, message] of cases) {
    const error = await failure(act);
    assert.is(error.code, code, error.message);
    assert.match(error.message, message);
  }
});

test.run();

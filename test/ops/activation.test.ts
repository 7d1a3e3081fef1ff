import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type Activation, activation } from '../../lib/ops/activation.ts';
import { slice } from '../../lib/tensor.ts';
import { close, device, failure, floats, hardLengths, ops, run, same } from '../kit.ts';
import { activations } from '../reference/activation.ts';

for (const [kind, reference] of Object.entries(activations) as [Activation, (x: number) => number][])
  for (const range of [0.01, 1, 30])
    test(`${kind} within ±${range} at every hard length`, async () => {
      for (const d of hardLengths) {
        const data = floats(d, 3 * d, -range, range);
        const { y } = await ops.activation({ x: { shape: [3, d], data } }, { activation: kind });
        close(y.data, Array.from(data, reference), 1e-6, `d ${d}`);
      }
    });

test('far out: 0 and x, never NaN', async () => {
  const data = Float32Array.of(-1e30, -1e4, -100, 100, 1e4, 1e18);
  for (const kind of ['silu', 'gelu', 'gelu_pytorch_tanh', 'quick_gelu'] as const) {
    const { y } = await ops.activation({ x: { shape: [1, 6], data } }, { activation: kind });
    assert.equal(Array.from(y.data, Math.abs), [0, 0, 0, 100, 1e4, Math.fround(1e18)], kind);
  }
});

test('a part of wider rows, the same bytes on 1 and 2 threads', async () => {
  const x = { shape: [5, 77], data: floats(3, 385) };
  const record: Parameters<typeof run>[1] = (g, t) =>
    activation(g, { x: slice(t.x!, 1, 3, 50) }, { activation: 'silu' });
  const [one, two] = [await run({ x }, record, device(1)), await run({ x }, record, device(2))];
  const cut = x.data.filter((_, i) => i % 77 >= 3 && i % 77 < 50);
  close(one.y!, Array.from(cut, activations.silu), 1e-6, 'y');
  same(one.y!, two.y!, 'threads');
});

test('an activation that is none', async () => {
  const error = await failure(() =>
    ops.activation({ x: { shape: [1], data: new Float32Array(1) } }, { activation: 'relu' as never }),
  );
  assert.is(error.code, 'ERR_OP_ATTR');
  assert.match(error.message, /\[activation\] activation must be none \| silu/);
});

test.run();

/** The decode layers of one text as one kernel, beside the kernels that run them one by one. */
import * as assert from 'uvu/assert';
import { Device, type RunInput } from '../../lib/device.ts';
import { devices } from '../../lib/devices.ts';
import { stateFloats, stateViews } from '../../lib/models/mamba.ts';
import { type MambaBlockConfig, mambaBlock } from '../../lib/nn/mamba_block.ts';
import { rmsNorm } from '../../lib/ops/index.ts';
import { Graph } from '../../lib/program.ts';
import type { Tensor } from '../../lib/tensor.ts';
import { type Half, toHalf } from '../half.ts';
import { failure, floats, same, suite } from '../kit.ts';
import { BLOCK, blocksOf, GROUP } from '../reference/quantised.ts';

const LAYERS = 2;
const SLOTS = 3;

type Config = Parameters<typeof stateFloats>[0] & MambaBlockConfig;
const configOf = (d: number) =>
  ({
    hiddenSize: d,
    intermediateSize: 2 * d,
    stateSize: 16,
    timeStepRank: d / 16,
    convKernel: 4,
    numHiddenLayers: LAYERS,
    useBias: false,
    useConvBias: true,
  }) as Config;

/** What the weights are stored as. */
type Stored = Half | 'int8' | 'int4';

/** Records the layers over inputs; `apart`: with an output between them, which keeps each step to itself. */
function record(config: Config, stored: Stored, state: ReturnType<typeof stateViews>, apart: boolean) {
  const { hiddenSize: d, intermediateSize: e, timeStepRank: r } = config;
  const dtype = stored === 'f16' ? 'f16' : 'bf16';
  const g = new Graph(dtype);
  const data: Record<string, RunInput> = {};
  let seed = 1;
  const given = (name: string, shape: number[], low = -1, high = 1, as: 'f32' | Half = 'f32'): Tensor => {
    const values = floats(
      seed++,
      shape.reduce((a, b) => a * b, 1),
      low,
      high,
    );
    data[name] = as === 'f32' ? values : Uint16Array.from(values, (x) => toHalf(x, as));
    return g.input(name, as, shape);
  };
  const bytes = (name: string, as: 'i8' | 'u8', shape: number[], low: number, high: number): Tensor => {
    const values = floats(
      seed++,
      shape.reduce((a, b) => a * b, 1),
      low,
      high,
    );
    const whole = values.map(Math.floor);
    data[name] = as === 'i8' ? Int8Array.from(whole) : Uint8Array.from(whole);
    return g.input(name, as, shape);
  };
  /** fewestBits: of a weight that would be kept in int4. */
  const matrix = (name: string, n: number, k: number, fewestBits = 4) => {
    const blocks = blocksOf(k);
    const large = 1.7 / Math.sqrt(k);
    if (stored !== 'int8' && stored !== 'int4') return { weight: given(name, [n, k], -large, large, dtype) } as const;
    const scale = given(`${name} scale`, [n, blocks], large / 200, large / 100);
    if (stored === 'int8' || fewestBits === 8) return { weight: bytes(name, 'i8', [n, k], -127, 128), scale } as const;
    const weight = bytes(name, 'u8', [n, (blocks * BLOCK) / 2], 0, 256);
    const grid = bytes(`${name} grid`, 'i8', [n, (blocks * BLOCK) / GROUP, 2], 0, 1);
    const values = data[`${name} grid`] as Int8Array;
    for (let i = 0; i < values.length; i += 2)
      [values[i], values[i + 1]] = [1 + (i % 14), -8 * (1 + (i % 14)) + (i % 5)];
    return { weight, scale, grid } as const;
  };
  const slots = g.input('slots', 'i32', [1]);
  let h = given('h', [1, 1, d]);
  for (let i = 0; i < LAYERS; i++) {
    const x = rmsNorm(g, { x: h, weight: given(`norm ${i}`, [d], 0.5, 1.5) }).y;
    const weights = {
      in_proj: { ...matrix(`in_proj ${i}`, 2 * e, d), bias: undefined },
      conv1d: { weight: given(`conv ${i}`, [e, 4]), bias: given(`conv bias ${i}`, [e]) },
      x_proj: matrix(`x_proj ${i}`, r + 32, e, 8),
      dt_proj: { ...matrix(`dt_proj ${i}`, e, r, 8), bias: given(`dt_proj bias ${i}`, [e], -3, -1) },
      A: given(`A ${i}`, [e, 16], -8, -0.5),
      D: given(`D ${i}`, [e]),
      out_proj: { ...matrix(`out_proj ${i}`, d, e), bias: undefined },
    };
    h = mambaBlock(g, weights as Parameters<typeof mambaBlock>[1], x, h, state[i]!, slots, config);
    if (apart && i === 0) g.output('between', h);
  }
  g.output('y', h);
  return { g, data };
}

async function outcome(device: Device, d: number, stored: Stored, apart: boolean) {
  const config = configOf(d);
  const bytes = SLOTS * stateFloats(config) * 4;
  const buffer = await device.alloc(bytes, 'state');
  await device.write(buffer, floats(99, bytes / 4));
  const { g, data } = record(config, stored, stateViews(buffer, SLOTS, config), apart);
  const program = await device.compile(g);
  const ys: RunInput[] = [];
  for (const slot of [2, 0, 2]) {
    const { y } = await program.run({ ...data, slots: Int32Array.of(slot) });
    ys.push(y!.slice());
  }
  const before = await device.read(buffer);
  const error = await failure(() => program.run({ ...data, slots: Int32Array.of(SLOTS) }));
  const state = await device.read(buffer);
  same(new Uint8Array(state), new Uint8Array(before), 'states after a slot that does not exist');
  program.drop();
  buffer.free();
  return { ys, state: new Uint8Array(state), error };
}

const test = suite('decode layers as one kernel');
const { available } = devices()[1]!;
const cases = (['bf16', 'f16', 'int8', 'int4'] as const).flatMap((stored) =>
  [640, 768, 1024].map((d) => ({ d, stored })),
);
for (const { d, stored } of cases) {
  const title = `${d} channels, ${stored}: the bytes of the layers one by one`;
  if (!available) {
    test.skip(title);
    continue;
  }
  test(title, async () => {
    const device = new Device({ name: 'cuda:0' });
    const together = await outcome(device, d, stored, false);
    const apart = await outcome(device, d, stored, true);
    for (const [i, y] of together.ys.entries()) same(y, apart.ys[i]!, `token ${i}`);
    same(together.state, apart.state, 'states');
    assert.is(together.error.code, 'ERR_OP_INDEX');
    assert.is(together.error.message, apart.error.message);
    await device.dispose();
  });
}

test.run();

import { execFileSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import * as assert from 'uvu/assert';
import { suite } from '../kit.ts';
import { buildMocks, type Mocks, root } from './mocks.ts';

const test = suite('which device');
const linux = process.platform === 'linux';
// On a machine with a GPU the mock would stand in front of the real driver, which sharp and others may want.
const add = linux ? test : test.skip;

let mocks: Mocks;
test.before(() => {
  if (linux) mocks = buildMocks();
});
test.after(() => mocks && rmSync(mocks.scratch, { recursive: true }));

interface Outcome {
  devices: { name: string; available: boolean; description: string; computeCapability?: string }[];
  /** Where the demo model went, or the code and message of why not. */
  ran: string;
  warnings: string[];
}

const H200 = '90:NVIDIA H200';

/** What a process finds and does with a driver, a library and a wish for a device. */
function ask(env: Record<string, string>, device = 'auto', then = '', more: object = {}): Outcome {
  const script = `
    const { devices, load, ops } = await import(${JSON.stringify(pathToFileURL(join(root, 'lib', 'index.ts')).href)});
    const result = { devices: devices(), ran: '', warnings: [] };
    try {
      const model = await load(${JSON.stringify(join(root, 'models', 'demo'))}, ${JSON.stringify({ device, ...more })});
      result.ran = model.device.name;
      result.warnings = model.warnings;
      ${then}
      await model.dispose();
    } catch (error) {
      result.ran = error.code + ' ' + error.message;
    }
    console.log(JSON.stringify(result));`;
  const output = execFileSync(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script], {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, LD_LIBRARY_PATH: mocks.driver, ...env },
  });
  return JSON.parse(output.trim().split('\n').at(-1)!) as Outcome;
}
const mocked = (env: Record<string, string>) => ({
  MOCK_DRIVER_CARDS: H200,
  VL_MAMBA_CUDA_LIBRARY: mocks.library,
  ...env,
});

/** The CPU is taken, and the reason is said by devices() and by the error for whoever insists. */
function refused(env: Record<string, string>, reason: RegExp, device = 'cuda'): void {
  const auto = ask(env);
  assert.is(auto.ran, 'cpu');
  assert.match(auto.devices[1]!.description, reason);
  assert.not.ok(auto.devices[1]!.available);
  const { ran } = ask(env, device);
  assert.match(ran, /^ERR_CUDA_UNAVAILABLE device cuda:0: /);
  assert.match(ran, reason);
  assert.match(ran, /use device 'cpu' or 'auto'$/);
}

add('no driver', () => refused({ LD_LIBRARY_PATH: mocks.nothing }, /no NVIDIA driver is installed|can't be loaded/));
add('a driver that is too old', () =>
  refused(mocked({ MOCK_DRIVER_VERSION: '12080' }), /knows CUDA 12\.8, and 13\.0 or later is needed: update it to 580/),
);
add('a driver without GPUs', () => refused(mocked({ MOCK_DRIVER_CARDS: '' }), /shows no GPU/));
add('a driver that shows none to this process', () =>
  refused(mocked({ MOCK_DRIVER_INIT: '100' }), /CUDA_VISIBLE_DEVICES/),
);
add('a driver that was updated under its kernel module', () =>
  refused(mocked({ MOCK_DRIVER_INIT: '803' }), /kernel module and its library are of different versions/),
);
add('a driver that does not start', () => refused(mocked({ MOCK_DRIVER_INIT: '999' }), /cuInit returned 999/));
add('no library of ours', () =>
  refused(
    mocked({ VL_MAMBA_CUDA_LIBRARY: join(mocks.scratch, 'none.so') }),
    /CUDA library of vl-mamba can't be loaded.*none\.so/,
  ),
);
add('a library of another version', () =>
  refused(mocked({ MOCK_LIBRARY_FAILS: 'version' }), /belongs to another version of vl-mamba/),
);
add('a card that there is no machine code for', () =>
  refused(
    mocked({ MOCK_DRIVER_CARDS: '75:Tesla T4' }),
    /Tesla T4.*7\.5.*kernels for 8\.0, 8\.6, 8\.9, 9\.0, 10\.0, 12\.0|7\.5.*kernels for/,
  ),
);

add('a later minor version, and a later major one through PTX, can be used', () => {
  const { devices } = ask(mocked({ MOCK_DRIVER_CARDS: '87:Orin;103:B300;121:GB10;130:next;110:Thor' }), 'cpu');
  assert.equal(
    devices.slice(1).map(({ available, computeCapability }) => [available, computeCapability]),
    [
      [true, '8.7'],
      [true, '10.3'],
      [true, '12.1'],
      [true, '13.0'],
      [false, '11.0'],
    ],
  );
});

add('auto takes the first card that can be used, cuda:1 the second', () => {
  const env = mocked({ MOCK_DRIVER_CARDS: `75:Tesla T4;${H200}` });
  assert.is(ask(env).ran, 'cuda:1');
  assert.is(ask(env, 'cuda:1').ran, 'cuda:1');
  assert.match(
    ask(env, 'cuda:2').ran,
    /^ERR_CUDA_UNAVAILABLE device cuda:2: there is no GPU number 2: the driver shows 2/,
  );
});

add('a card that can not be opened: auto goes on with the CPU and says why', () => {
  const env = mocked({ MOCK_LIBRARY_FAILS: 'start' });
  const { ran, warnings } = ask(env);
  assert.is(ran, 'cpu');
  assert.match(warnings.at(-1)!, /cuda:0 is not used: .*the GPU is busy/);
  const insisted = ask(env, 'cuda').ran;
  assert.is(insisted.split(' ')[0], 'ERR_CUDA');
  assert.match(insisted, /the GPU is busy/);
});

add('a card without room for the model: auto goes on with the CPU and says why', () => {
  const env = mocked({ MOCK_LIBRARY_FAILS: 'alloc' });
  const { ran, warnings } = ask(env);
  assert.is(ran, 'cpu');
  assert.match(warnings.at(-1)!, /cuda:0 is not used: .*3 of its 16384 MiB left/);
  assert.match(ask(env, 'cuda').ran, /^ERR_OUT_OF_MEMORY .*12 MiB more were asked for/);
});

add('weights in int8 and int4 go to a card as others do', () => {
  for (const dtype of ['int8', 'int4']) assert.is(ask(mocked({}), 'auto', '', { dtype }).ran, 'cuda:0');
});

add('a card that stops: everything asked of it fails, the CPU goes on', () => {
  const { ran } = ask(
    mocked({ MOCK_LIBRARY_FAILS: 'run' }),
    'cuda',
    `const picture = { data: new Uint8Array(12), width: 2, height: 2, channels: 3 };
     const code = (use) => Promise.resolve().then(use).then(() => 'works', (error) => error.code);
     const session = model.session();
     const chat = model.chat();
     await code(() => model.generate({ prompt: 'a' }));
     const codes = {
       generate: () => model.generate({ prompt: 'a' }),
       several: () => model.generate({ prompt: 'a', n: 2 }),
       'three at once': () => Promise.all(Array.from({ length: 3 }, () => model.generate({ prompt: 'a' }))),
       logits: () => model.logits({ prompt: 'a' }),
       score: () => model.score({ prompt: 'a', choices: [' b', ' c'] }),
       imageEmbeds: () => model.imageEmbeds(picture),
       look: () => model.look(picture),
       profile: () => model.profile(),
       append: () => session.append({ text: 'a b c' }),
       'session.generate': () => session.generate({ text: 'a' }),
       say: () => chat.say('a'),
       pixels: () => model.pixels(picture),
       tokenize: () => model.tokenize('a'),
       fork: () => session.fork().dispose(),
       snapshot: () => session.snapshot(),
       load: () => { if (model.load.running !== 0) throw new Error('still running'); },
       'on the CPU': () => ops.activation({ x: { data: Float32Array.of(1), shape: [1, 1] } }, { activation: 'silu', device: 'cpu' }),
       'session.dispose': () => session.dispose(),
       'chat.dispose': () => chat.dispose(),
       dispose: () => Promise.all([model.dispose(), model.dispose()]),
     };
     const found = {};
     for (const [name, use] of Object.entries(codes)) (found[await code(use)] ??= []).push(name);
     result.ran = JSON.stringify(found);`,
  );
  const lost = 'generate|several|three at once|logits|score|imageEmbeds|look|profile|append|session.generate|say';
  const works = 'pixels|tokenize|fork|snapshot|load|on the CPU|session.dispose|chat.dispose|dispose';
  assert.equal(JSON.parse(ran), { ERR_CUDA_LOST: lost.split('|'), works: works.split('|') });
});

add('verify finds a GPU that computes nothing, at the first step', () => {
  const { ran } = ask(mocked({}), 'cuda', `await model.generate({ prompt: 'a' });`, { verify: true });
  assert.ok(ran.startsWith('ERR_VERIFY' + ' [embedding] output 0 f32'), ran);
});

add('a model on a card leaves the process when it is told to', () => {
  const { ran } = ask(mocked({}), 'cuda:0', `await model.dispose(); result.ran = 'disposed';`);
  assert.is(ran, 'disposed');
});

test.run();

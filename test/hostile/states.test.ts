/** Every method in every state: what works, and which error it is where it doesn't. */
import * as assert from 'uvu/assert';
import { Device } from '../../lib/device.ts';
import { type Chat, type Generation, load, type Mark, type Model, type Session } from '../../lib/index.ts';
import { activation } from '../../lib/ops/index.ts';
import { Graph } from '../../lib/program.ts';
import { autoDevice, failure, suite } from '../kit.ts';
import { slowCheckpoint } from '../lifetime/model.ts';

const test = suite('states');
let dir: string;
let remove: () => void;
test.before(async () => {
  ({ dir, remove } = await slowCheckpoint());
});
test.after(() => remove());

const picture = { data: new Uint8Array(12).fill(9), width: 2, height: 2, channels: 3 as const };
const long = { prompt: 'for ever', maxNewTokens: 100_000, temperature: 1, seed: 5 };
const reason = new Error('enough');

/** A generation that has written something, boxed: as a bare result it would be awaited. */
async function begun(model: Model, signal?: AbortSignal): Promise<{ generation: Generation }> {
  const generation = model.generate({ ...long, signal });
  await generation[Symbol.asyncIterator]().next();
  return { generation };
}

/** Brings something new into a state; what it returns ends what is left running. */
type State<T> = (subject: T) => Promise<(() => unknown) | undefined>;
type Cells<T> = Record<string, [use: (subject: T) => unknown, ...codes: (string | null)[]]>;

let cells = 0;

/** Each use in each state: null where it has to work, else the code. A fresh subject for every cell. */
function matrix<T>(
  what: string,
  make: () => Promise<{ subject: T; end: () => unknown }>,
  states: Record<string, State<T>>,
  uses: Cells<T>,
): void {
  for (const [i, [state, enter]] of Object.entries(states).entries())
    test(`${what}, ${state}: ${Object.keys(uses).join(', ')}`, async () => {
      for (const [name, [use, ...codes]] of Object.entries(uses)) {
        const { subject, end } = await make();
        const leave = await enter(subject);
        const code = codes[i]!;
        if (code === null) await use(subject);
        else assert.is((await failure(() => use(subject))).code, code, `${name} in the state ${state}`);
        await leave?.();
        await end();
        cells++;
      }
    });
}

const D = 'ERR_DISPOSED';
const model = async () => {
  const subject = await load(dir);
  return { subject, end: () => subject.dispose() };
};

matrix<Model>(
  'a model',
  model,
  {
    idle: async () => undefined,
    generating: async (m) => {
      const controller = new AbortController();
      const { generation } = await begun(m, controller.signal);
      return async () => {
        controller.abort(reason);
        // A model that the cell disposed of ended the generation first.
        assert.ok([reason.message, 'the model was disposed'].includes((await failure(() => generation)).message));
      };
    },
    aborted: async (m) => {
      const controller = new AbortController();
      const { generation } = await begun(m, controller.signal);
      controller.abort(reason);
      assert.is(await failure(() => generation), reason);
      return undefined;
    },
    failed: async (m) => {
      await failure(() => m.generate({ prompt: 'x', topK: -1 }));
      await failure(() => m.generate({ prompt: '<image>' }));
      return undefined;
    },
    left: async (m) => {
      for await (const _ of m.generate(long)) break;
      return undefined;
    },
    disposing: async (m) => {
      const { generation } = await begun(m);
      const ended = m.dispose();
      return async () => {
        assert.is((await failure(() => generation)).code, D);
        await ended;
      };
    },
    disposed: async (m) => {
      await m.dispose();
      return undefined;
    },
  },
  {
    generate: [(m) => m.generate({ prompt: 'a', maxNewTokens: 2 }), null, null, null, null, null, D, D],
    logits: [(m) => m.logits({ prompt: 'a' }), null, null, null, null, null, D, D],
    imageEmbeds: [(m) => m.imageEmbeds(picture), null, null, null, null, null, D, D],
    pixels: [(m) => m.pixels(picture), null, null, null, null, null, D, D],
    chat: [(m) => m.chat().say('a', { maxNewTokens: 2 }), null, null, null, null, null, D, D],
    profile: [(m) => m.profile(), null, null, null, null, null, D, D],
    tokenize: [(m) => m.tokenize('a b'), null, null, null, null, null, null, null],
    detokenize: [(m) => m.detokenize([5, 6]), null, null, null, null, null, null, null],
    sizes: [
      (m) => assert.ok(m.weightBytes > 0 && m.parameters > 0 && m.stateBytes > 0 && m.device.name === autoDevice),
      null,
      null,
      null,
      null,
      null,
      null,
      null,
    ],
    dispose: [(m) => Promise.all([m.dispose(), m.dispose()]), null, null, null, null, null, null, null],
  },
);

const said = { maxNewTokens: 2 };
matrix<{ chat: Chat; model: Model }>(
  'a chat',
  async () => {
    const { subject, end } = await model();
    return { subject: { chat: subject.chat(), model: subject }, end };
  },
  {
    new: async () => undefined,
    answered: async ({ chat }) => {
      await chat.say('a', said);
      return undefined;
    },
    answering: async ({ chat }) => {
      const controller = new AbortController();
      const answer = chat.say('tell', { ...long, prompt: undefined, signal: controller.signal } as never);
      void answer.catch(() => {});
      setTimeout(() => controller.abort(reason), 50);
      return undefined;
    },
    aborted: async ({ chat }) => {
      for await (const _ of chat.say('a', { maxNewTokens: 1000, temperature: 1, seed: 1 })) break;
      return undefined;
    },
    disposed: async ({ chat }) => {
      await chat.dispose();
      return undefined;
    },
    'of a disposed model': async ({ chat, model }) => {
      await chat.say('a', said);
      await model.dispose();
      return undefined;
    },
  },
  {
    say: [({ chat }) => chat.say('b', said), null, null, null, null, D, D],
    reset: [({ chat }) => chat.reset(), null, null, null, null, null, null],
    dispose: [({ chat }) => Promise.all([chat.dispose(), chat.dispose()]), null, null, null, null, null, null],
    messages: [({ chat }) => assert.ok(Array.isArray(chat.messages)), null, null, null, null, null, null],
  },
);

matrix<{ session: Session; mark: Mark; model: Model }>(
  'a session',
  async () => {
    const { subject, end } = await model();
    const session = subject.session();
    return { subject: { session, mark: session.mark(), model: subject }, end };
  },
  {
    new: async () => undefined,
    read: async ({ session }) => {
      await session.append({ text: 'a b c' });
      return undefined;
    },
    answering: async ({ session }) => {
      const controller = new AbortController();
      const { prompt, ...options } = long;
      const answer = session.generate({ text: prompt, ...options, signal: controller.signal });
      const ended = answer.catch(() => {});
      await answer[Symbol.asyncIterator]().next();
      setTimeout(() => controller.abort(reason), 50);
      return () => ended;
    },
    aborted: async ({ session }) => {
      const answer = session.generate({ text: 'a', maxNewTokens: 1000, temperature: 1, seed: 1 });
      for await (const _ of answer) break;
      await answer;
      return undefined;
    },
    failed: async ({ session }) => {
      await failure(() => session.generate({ text: 'a', topK: -1 }));
      await failure(() => session.append({}));
      return undefined;
    },
    disposed: async ({ session }) => {
      session.dispose();
      return undefined;
    },
    'of a disposed model': async ({ session, model }) => {
      await session.append({ text: 'a b c' });
      await model.dispose();
      return undefined;
    },
  },
  {
    append: [({ session }) => session.append({ text: 'd' }), null, null, null, null, null, D, D],
    generate: [({ session }) => session.generate({ text: 'd', ...said }), null, null, null, null, null, D, D],
    fork: [({ session }) => session.fork().append({ text: 'd' }), null, null, null, null, null, D, D],
    mark: [({ session }) => session.mark().dispose(), null, null, null, null, null, D, D],
    rewind: [({ session, mark }) => session.rewind(mark), null, null, 'ERR_SESSION_BUSY', null, null, D, D],
    snapshot: [({ session }) => session.snapshot(), null, null, null, null, null, D, D],
    sizes: [
      ({ session }) => assert.ok(session.tokens >= 0 && session.stateBytes > 0 && session.messages.length === 0),
      null,
      null,
      null,
      null,
      null,
      null,
      null,
    ],
    dispose: [({ session }) => [session.dispose(), session.dispose()], null, null, null, null, null, null, null],
  },
);

async function read(generation: Generation): Promise<string> {
  let text = '';
  for await (const piece of generation) text += piece;
  return text;
}

matrix<{ model: Model; generation?: Generation }>(
  'a generation',
  async () => {
    const { subject, end } = await model();
    return { subject: { model: subject }, end };
  },
  {
    running: async (s) => {
      s.generation = s.model.generate({ prompt: 'a', maxNewTokens: 20 });
      return undefined;
    },
    done: async (s) => {
      s.generation = s.model.generate({ prompt: 'a', maxNewTokens: 3 });
      await s.generation;
      return undefined;
    },
    left: async (s) => {
      s.generation = s.model.generate(long);
      for await (const _ of s.generation) break;
      return undefined;
    },
    failed: async (s) => {
      s.generation = s.model.generate({ prompt: 'a', topK: -1 });
      await failure(() => s.generation);
      return undefined;
    },
    'of a disposed model': async (s) => {
      ({ generation: s.generation } = await begun(s.model));
      await s.model.dispose();
      return undefined;
    },
  },
  {
    await: [(s) => s.generation, null, null, null, 'ERR_GEN_TOP_K', D],
    'await twice': [
      async (s) => assert.is(await s.generation, await s.generation),
      null,
      null,
      null,
      'ERR_GEN_TOP_K',
      D,
    ],
    iterate: [(s) => read(s.generation!), null, null, null, 'ERR_GEN_TOP_K', D],
    'iterate, then await': [
      async (s) => {
        await read(s.generation!);
        await s.generation;
      },
      null,
      null,
      null,
      'ERR_GEN_TOP_K',
      D,
    ],
    finally: [(s) => s.generation!.finally(() => {}), null, null, null, 'ERR_GEN_TOP_K', D],
  },
);

const graph = () => {
  const g = new Graph();
  g.output('y', activation(g, { x: g.input('x', 'f32', [4]) }).y);
  return g;
};
async function parts() {
  const device = new Device({ threads: 2 });
  const buffer = await device.alloc(64, 'b');
  const program = await device.compile(graph());
  return { subject: { device, buffer, program }, end: () => device.dispose() };
}
type Parts = Awaited<ReturnType<typeof parts>>['subject'];

matrix<Parts>(
  'a device',
  parts,
  {
    idle: async () => undefined,
    busy: async ({ device, program }) => {
      const work = Promise.allSettled(Array.from({ length: 50 }, () => program.run({ x: new Float32Array(4) })));
      void device;
      return () => work;
    },
    closing: async ({ device, program }) => {
      const work = Promise.allSettled(Array.from({ length: 50 }, () => program.run({ x: new Float32Array(4) })));
      void device.dispose();
      return () => work;
    },
    closed: async ({ device }) => {
      await device.dispose();
      return undefined;
    },
  },
  {
    alloc: [({ device }) => device.alloc(8, 'c'), null, null, D, D],
    compile: [({ device }) => device.compile(graph()), null, null, D, D],
    write: [({ device, buffer }) => device.write(buffer, new Float32Array(2)), null, null, D, D],
    read: [({ device, buffer }) => device.read(buffer), null, null, D, D],
    copy: [({ device, buffer }) => device.copy(buffer, 0, buffer, 32, 8), null, null, D, D],
    zero: [({ device, buffer }) => device.zero(buffer), null, null, D, D],
    run: [({ program }) => program.run({ x: new Float32Array(4) }), null, null, D, D],
    profile: [({ program }) => program.profile({ x: new Float32Array(4) }), null, null, D, D],
    drop: [({ program }) => program.drop(), null, null, null, null],
    free: [({ buffer }) => buffer.free(), null, null, null, null],
    dispose: [({ device }) => Promise.all([device.dispose(), device.dispose()]), null, null, null, null],
  },
);

test('there are at least 60 cells', () => {
  console.log(`${cells} cells`);
  assert.ok(cells >= 60, `${cells} cells`);
});

test.run();

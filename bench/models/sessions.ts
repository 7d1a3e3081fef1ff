/**
 * npx tsx bench/models/sessions.ts [--device cpu|cuda] [MODEL [PICTURE…]]
 *
 * What sessions cost and save, as the tables of docs/sessions.md: fork, snapshot and restore against reading the picture
 * again, many questions as one batch, many streams at once, and a stream of frames. By default the bundled model on its
 * bundled pictures.
 */
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { type DeviceName, openDevice } from '../../lib/devices.ts';
import { load, type Model } from '../../lib/index.ts';
import { machine } from '../kit.ts';

const QUESTIONS = [
  'Describe the picture.',
  'How many objects are there?',
  'Which is larger, the star or the circle?',
  'What colour is the ring?',
  'What is below the ring?',
  'What does it say?',
  'Is there a star?',
  'What is in the middle?',
];
/** Timings of one thing: so many, or as many as fit into LIMIT_MS. */
const ROUNDS = 9;
const LIMIT_MS = 5000;
const STREAMS = [1, 8, 64];
const STREAM_TOKENS = 64;
/** At most; fewer when they take longer than WATCH_MS. */
const FRAMES = 200;
const WATCH_MS = 60_000;

const number = (value: number) => (value >= 100 ? value.toFixed(0) : value.toPrecision(3));
const median = (values: number[]) => values.sort((a, b) => a - b)[values.length >> 1]!;

async function ms(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await work();
  return performance.now() - start;
}

async function medianMs(work: () => Promise<unknown>): Promise<number> {
  await work();
  const times: number[] = [];
  const start = performance.now();
  while (times.length < ROUNDS && (times.length === 0 || performance.now() - start < LIMIT_MS))
    times.push(await ms(work));
  return median(times);
}

function table(title: string, head: string[], rows: (string | number)[][]): void {
  const line = (cells: (string | number)[]) =>
    `| ${cells.map((cell) => (typeof cell === 'number' ? number(cell) : cell)).join(' | ')} |`;
  console.log(`\n${title}\n\n${line(head)}\n|${head.map(() => '---').join('|')}|\n${rows.map(line).join('\n')}`);
}

async function copying(model: Model): Promise<number> {
  await using device = await openDevice(model.device.name as DeviceName);
  const from = await device.alloc(model.stateBytes, 'from');
  const to = await device.alloc(model.stateBytes, 'to');
  return await medianMs(() => device.copy(from, 0, to, 0, model.stateBytes));
}

async function saving(model: Model, picture: string): Promise<void> {
  const looked = await medianMs(async () => (await model.look(picture)).dispose());
  const session = await model.look(picture);
  const rows: (string | number)[][] = [
    ['read the picture', looked, '', 1],
    ['fork, once one of the two goes on', await copying(model), model.stateBytes],
  ];
  for (const dtype of ['f32', 'bf16'] as const) {
    const bytes = await session.snapshot({ dtype });
    rows.push([`snapshot, ${dtype}`, await medianMs(() => session.snapshot({ dtype })), bytes.length]);
    rows.push([`restore, ${dtype}`, await medianMs(async () => (await model.restore(bytes)).dispose()), bytes.length]);
  }
  session.dispose();
  table(
    'Going on from a state instead of reading the picture again',
    ['', 'ms', 'bytes', 'times faster'],
    rows.map(([name, time, bytes]) => [name!, time!, String(bytes), looked / (time as number)]),
  );
}

async function rounding(model: Model, pictures: readonly string[]): Promise<void> {
  let same = 0;
  for (const picture of pictures) {
    const exact = await model.look(picture);
    const rounded = await model.restore(await exact.snapshot({ dtype: 'bf16' }));
    const options = { maxNewTokens: 64 };
    const answers = await Promise.all(
      QUESTIONS.map((question) => Promise.all([exact.ask(question, options), rounded.ask(question, options)])),
    );
    same += answers.filter(([a, b]) => a.tokens.join() === b.tokens.join()).length;
    exact.dispose();
    rounded.dispose();
  }
  const all = pictures.length * QUESTIONS.length;
  console.log(`\nGreedy answers that a bf16 snapshot leaves as they are, to the last token: ${same} of ${all}.`);
}

async function asking(model: Model, picture: string): Promise<void> {
  const questions = Array.from({ length: 32 }, (_, i) => QUESTIONS[i % QUESTIONS.length]!);
  const options = { maxNewTokens: 64 };
  const alone = async () => {
    for (const content of questions)
      await model.generate({ messages: [{ role: 'user', content }], images: [picture], ...options });
  };
  const together = () => Promise.all(model.ask(picture, questions, options));
  await together();
  const [one, many] = [await ms(alone), await ms(together)];
  table(
    '32 questions about one picture',
    ['', 'seconds'],
    [
      ['one run after the other', one / 1000],
      ['model.ask', many / 1000],
      ['times faster', one / many],
    ],
  );
}

async function streaming(model: Model): Promise<void> {
  const rows: (string | number)[][] = [];
  for (const count of STREAMS) {
    const run = async () => {
      let tokens = 0;
      let worstFirst = 0;
      let worstGap = 0;
      const start = performance.now();
      await Promise.all(
        Array.from({ length: count }, async (_, seed) => {
          // Hot enough that hardly any text ends before its length.
          const options = { prompt: `Stream number ${seed}:`, temperature: 50, seed, maxNewTokens: STREAM_TOKENS };
          const generation = model.generate(options);
          let last = performance.now();
          for await (const _ of generation) {
            worstGap = Math.max(worstGap, performance.now() - last);
            last = performance.now();
          }
          const result = await generation;
          tokens += result.tokens.length;
          worstFirst = Math.max(worstFirst, result.timings.firstToken);
        }),
      );
      return [String(count), (tokens / (performance.now() - start)) * 1000, worstFirst, worstGap];
    };
    await run();
    rows.push(await run());
  }
  const head = ['streams', 'tokens/s in all', 'worst first token, ms', 'worst wait for a piece, ms'];
  table(`Streams at once, ${STREAM_TOKENS} tokens each`, head, rows);
}

async function watching(model: Model, pictures: readonly string[]): Promise<void> {
  const session = model.session();
  const times: number[] = [];
  const memory: number[] = [];
  const start = performance.now();
  for (let i = 0; i < FRAMES && (i < 40 || performance.now() - start < WATCH_MS); i++) {
    times.push(await ms(() => session.append({ images: [pictures[i % pictures.length]!] })));
    memory.push(process.memoryUsage().rss / 2 ** 20);
  }
  const tokens = session.tokens;
  session.dispose();
  table(
    `A stream of ${times.length} frames (${tokens} positions)`,
    ['', 'ms a frame', 'RSS, MiB'],
    [
      ['frames 11 to 30', median(times.slice(10, 30)), median(memory.slice(10, 30))],
      [`the last 20`, median(times.slice(-20)), median(memory.slice(-20))],
    ],
  );
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { device: { type: 'string', default: 'cpu' } },
  });
  const [folder = join('models', 'demo'), ...given] = positionals;
  const bundled = ['shapes', 'ring', 'word'].map((name) => join('models', 'demo', 'pictures', `${name}.png`));
  const pictures = given.length > 0 ? given : bundled;
  const model = await load(folder, { device: values.device as DeviceName });
  console.log(`${folder}, ${model.parameters} parameters, ${machine(model.device)}`);
  await saving(model, pictures[0]!);
  await rounding(model, pictures);
  await asking(model, pictures[0]!);
  await streaming(model);
  await watching(model, pictures);
  await model.dispose();
}

main();

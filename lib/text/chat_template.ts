import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { Environment, Interpreter, parse, tokenize } from '@huggingface/jinja';
import { readSmallFile } from '../checkpoint/regular_file.ts';
import { rangeError, show, VLMambaError } from '../errors.ts';
import type { Span } from './tokenizer.ts';
import { IMAGE_MARK, readOptional, type TokenizerFile } from './tokenizer_file.ts';

const MAX_TEMPLATE_BYTES = 1 << 16;
/** Longest text or list that a template may make; what people wrote is not in it. */
const MAX_LENGTH = 1 << 20;
const MAX_STEPS = 1 << 18;
const MAX_MS = 1000;

/** A message taken apart: its texts and the places of its pictures, in order. */
export interface Turn {
  role: 'system' | 'user' | 'assistant';
  parts: readonly ({ text: string } | 'image')[];
}

/** A prompt of known origin: the template's text is trusted, a message's is not; 'image' is the place of a picture. */
export type Rendering = (Span | 'image')[];

export interface RenderOptions {
  /** End with the words after which the assistant speaks. */
  addGenerationPrompt: boolean;
  /** What the template finds under `bos_token` and so on. */
  named: TokenizerFile['named'];
}

/**
 * The chat template of a checkpoint: `chat_template.jinja`, else `chat_template` in `tokenizer_config.json` (of a list the
 * one named "default"), else null.
 *
 * @throws VLMambaError `ERR_CHAT_TEMPLATE` when it is no text or longer than 64 KiB, `ERR_TOK_JSON` for a damaged config
 */
export async function readChatTemplate(dir: string): Promise<string | null> {
  const path = join(dir, 'chat_template.jinja');
  try {
    const bytes = await readSmallFile(path, { code: 'ERR_CHAT_TEMPLATE', maxBytes: MAX_TEMPLATE_BYTES });
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    if (!(cause instanceof VLMambaError)) throw templateError(`${path}: is not UTF-8 text`, cause);
    if (cause.details.reason !== 'ENOENT') throw cause;
  }
  const configPath = join(dir, 'tokenizer_config.json');
  const field = (await readOptional(configPath))?.chat_template;
  if (field == null) return null;
  for (const entry of Array.isArray(field) ? field : [{ name: 'default', template: field }]) {
    if (typeof entry !== 'object' || entry === null || Array.isArray(entry) || entry.name !== 'default') continue;
    if (typeof entry.template === 'string') return entry.template;
  }
  throw templateError(
    `${configPath}: chat_template must be a string or hold one named "default", found ${show(field)}`,
  );
}

/**
 * Renders turns with a Jinja template that never sees what people wrote: in each text's place stands a private sign, so
 * that nothing typed in a message becomes template text, a mark or a special token, or steers the template. A template may
 * place a text and trim it, not rewrite it. The picture's place is where it prints `<image>`.
 *
 * @throws VLMambaError `ERR_CHAT_TEMPLATE` when the template is too long, does not parse, fails, takes too many steps, or
 *   does not print a text
 * @throws RangeError `ERR_PROMPT_IMAGES` when it prints another number of marks than there are pictures
 */
export function renderTemplate(template: string, turns: readonly Turn[], options: RenderOptions): Rendering {
  if (Buffer.byteLength(template) > MAX_TEMPLATE_BYTES)
    throw templateError(`the chat template has more than ${MAX_TEMPLATE_BYTES} bytes`);
  const signs = new Signs(turns);
  const failures = new Map<Form, unknown>();
  for (const form of turns.some(({ parts }) => parts.includes('image')) ? FORMS : TEXT_FORMS) {
    try {
      return signs.read(run(template, signs, form, options));
    } catch (failure) {
      failures.set(form, failure);
    }
  }
  throw failures.get('string');
}

/**
 * How a message's content is handed over: as a list of parts, as a string (parts joined by a newline, a picture as
 * `<image>`), or as a string without marks. Templates know some of these; the first that prints everything is taken.
 */
type Form = 'parts' | 'string' | 'bare';
const FORMS: readonly Form[] = ['parts', 'string', 'bare'];
const TEXT_FORMS: readonly Form[] = ['string', 'parts'];

function run(template: string, signs: Signs, form: Form, { addGenerationPrompt, named }: RenderOptions): string {
  try {
    const environment = new Environment();
    const globals = {
      ...{ true: true, True: true, false: false, False: false, none: null, None: null, range, raise_exception },
      ...{ messages: signs.messages(form), add_generation_prompt: addGenerationPrompt },
      ...{ bos_token: named.bos, eos_token: named.eos, unk_token: named.unk, pad_token: named.pad },
    };
    for (const [name, value] of Object.entries(globals)) environment.set(name, value);
    const program = parse(tokenize(template, { lstrip_blocks: true, trim_blocks: true }));
    return String(new BoundedInterpreter(environment).run(program).value);
  } catch (cause) {
    throw templateError(`the chat template fails: ${(cause as Error).message}`, cause);
  }
}

/** Ends templates that loop for too long or make too much. */
class BoundedInterpreter extends Interpreter {
  #steps = 0;
  readonly #deadline = performance.now() + MAX_MS;

  override evaluate(...args: Parameters<Interpreter['evaluate']>): ReturnType<Interpreter['evaluate']> {
    if (++this.#steps > MAX_STEPS || performance.now() > this.#deadline)
      throw new Error(`it takes more than ${MAX_STEPS} steps or ${MAX_MS} ms`);
    const result = super.evaluate(...args);
    const value: unknown = result.value;
    if ((typeof value === 'string' || Array.isArray(value)) && value.length > MAX_LENGTH)
      throw new Error(`it makes a value longer than ${MAX_LENGTH}`);
    return result;
  }
}

/** Python's `range`, of at most `MAX_LENGTH` numbers. */
function range(first: number, end?: number | null, step = 1): number[] {
  const [from, to] = end == null ? [0, first] : [first, end];
  const count = Math.max(0, Math.ceil((to - from) / step));
  if (!(count <= MAX_LENGTH)) throw new Error(`range of ${count} numbers`);
  return Array.from({ length: count }, (_, i) => from + i * step);
}

function raise_exception(message: unknown): never {
  throw new Error(String(message));
}

// Around a sign, to see whether the template trims: blanks that no template writes.
const EDGE = '\u2003\u2002\u2003';
const END = '\uf8ff';

/** What stands for the texts of the messages in a rendering. */
class Signs {
  readonly #turns: readonly Turn[];
  /** Private-use characters: they have no case and are no blanks, so filters leave them alone. */
  readonly #start: string;
  readonly #pattern: RegExp;

  constructor(turns: readonly Turn[]) {
    this.#turns = turns;
    this.#start = Array.from(randomBytes(16), (byte) => String.fromCharCode(0xe000 + byte)).join('');
    this.#pattern = new RegExp(`(${EDGE})?${this.#start}(\\d+)\\.(\\d+)${END}(${EDGE})?`, 'gu');
  }

  messages(form: Form): object[] {
    return this.#turns.map(({ role, parts }, i) => {
      const texts = parts.map((part, j) => (part === 'image' ? IMAGE_MARK : this.#sign(part.text, i, j)));
      if (form === 'string') return { role, content: texts.join('\n') };
      if (form === 'bare') return { role, content: texts.filter((_, j) => parts[j] !== 'image').join('\n') };
      // `sign` betrays a template that prints the list itself.
      const listed = (part: Turn['parts'][number], j: number): object =>
        part === 'image' ? { type: 'image', sign: END } : { type: 'text', text: texts[j], sign: END };
      return { role, content: parts.map(listed) };
    });
  }

  #sign(text: string, i: number, j: number): string {
    return text === '' ? '' : `${EDGE}${this.#start}${i}.${j}${END}${EDGE}`;
  }

  /** The output with the texts in their places. */
  read(output: string): Rendering {
    const rendering: Rendering = [];
    const seen = new Set<unknown>();
    let from = 0;
    for (const { 0: sign, 1: left, 2: i, 3: j, 4: right, index } of output.matchAll(this.#pattern)) {
      rendering.push(...trusted(output.slice(from, index)));
      const part = this.#turns[Number(i)]!.parts[Number(j)]!;
      if (part !== 'image') {
        const kept = left === undefined ? part.text.trimStart() : part.text;
        rendering.push({ text: right === undefined ? kept.trimEnd() : kept, trusted: false });
        seen.add(part);
      }
      from = index + sign.length;
    }
    rendering.push(...trusted(output.slice(from)));
    this.#checkComplete(rendering, seen);
    return rendering;
  }

  #checkComplete(rendering: Rendering, seen: ReadonlySet<unknown>): void {
    let images = 0;
    this.#turns.forEach(({ role, parts }, i) => {
      for (const part of parts) {
        if (part === 'image') images++;
        else if (part.text !== '' && !seen.has(part))
          throw templateError(`the chat template does not print the text of messages[${i}] (${role})`);
      }
    });
    const marks = rendering.filter((item) => item === 'image').length;
    if (marks !== images)
      throw rangeError(
        'ERR_PROMPT_IMAGES',
        `the chat template prints ${marks} ${IMAGE_MARK} marks for ${images} pictures; there must be one for each`,
      );
  }
}

/** Template text with its marks. */
function trusted(text: string): Rendering {
  if (/[\ue000-\uf8ff]/.test(text)) throw templateError('the chat template takes a text to pieces');
  return text.split(IMAGE_MARK).flatMap((piece, i): Rendering => {
    const span: Rendering = piece === '' ? [] : [{ text: piece, trusted: true }];
    return i === 0 ? span : ['image', ...span];
  });
}

const VICUNA_SYSTEM =
  'A chat between a curious user and an artificial intelligence assistant. ' +
  "The assistant gives helpful, detailed, and polite answers to the user's questions.";

/**
 * LLaVA-1.5's `vicuna_v1`, for checkpoints without a template:
 * `{system} USER: {question} ASSISTANT: {answer}</s>USER: {question} ASSISTANT:`. A leading system message takes the place
 * of the standard one; parts of a message are joined by a newline.
 *
 * @throws RangeError `ERR_PROMPT_ROLE` for a system message elsewhere
 */
export function renderVicuna(turns: readonly Turn[], { addGenerationPrompt }: RenderOptions): Rendering {
  const literal = (text: string): Span => ({ text, trusted: true });
  const content = ({ parts }: Turn): Rendering =>
    parts.flatMap((part, i): Rendering => {
      const item = part === 'image' ? part : { text: part.text, trusted: false };
      return i === 0 ? [item] : [literal('\n'), item];
    });
  const rendering: Rendering = turns[0]?.role === 'system' ? content(turns[0]) : [literal(VICUNA_SYSTEM)];
  rendering.push(literal(' '));
  turns.forEach((turn, i) => {
    if (turn.role === 'user') rendering.push(literal('USER: '), ...content(turn), literal(' '));
    else if (turn.role === 'assistant') rendering.push(literal('ASSISTANT: '), ...content(turn), literal('</s>'));
    else if (i > 0)
      throw rangeError(
        'ERR_PROMPT_ROLE',
        `messages[${i}].role is "system"; only the first message can be the system's`,
      );
  });
  if (addGenerationPrompt) rendering.push(literal('ASSISTANT:'));
  return rendering;
}

const templateError = (message: string, cause?: unknown): VLMambaError =>
  new VLMambaError('ERR_CHAT_TEMPLATE', message, { cause });

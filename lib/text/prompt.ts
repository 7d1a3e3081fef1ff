import { rangeError, show, typeError } from '../errors.ts';
import { type Rendering, renderTemplate, renderVicuna, type Turn } from './chat_template.ts';
import { MAX_TEXT_LENGTH, type Span, type Tokenizer } from './tokenizer.ts';
import { IMAGE_MARK } from './tokenizer_file.ts';

const MAX_MESSAGES = 1024;
const MAX_PARTS = 4096;

/** A piece of a message. A picture without `image` is the next one of the call's `images`. */
export type ContentPart =
  | { type: 'text'; text: string }
  | { type: 'image'; image?: unknown }
  | { type: 'image_url'; image_url: string | { url: string } };

/** A turn of a conversation. Its text is data: `<image>` or `<|endoftext|>` in it stays text. */
export interface Message {
  /** Who says it. */
  role: 'system' | 'user' | 'assistant';
  /** What is said: a text, or texts and pictures in their order. */
  content: string | readonly ContentPart[];
}

/** A stretch of prompt: token ids, or the place of `images[image]`. */
export type Piece = { ids: number[] } | { image: number };

/** A conversation as the model reads it. */
export interface Prompt {
  /** Never two stretches of ids in a row, none of them empty. */
  pieces: Piece[];
  /** The pictures in the order of their places. */
  images: unknown[];
  /** The whole conversation with every picture inside its message: what `continueMessages` goes on from. */
  messages: Message[];
}

export interface MessageOptions {
  /** End with the words after which the assistant speaks. Default true. */
  addGenerationPrompt?: boolean;
}

/**
 * Splits an author's prompt at `<image>` and tokenizes each piece on its own, special tokens included.
 *
 * @throws TypeError `ERR_PROMPT_TYPE` when `prompt` is no string
 * @throws RangeError `ERR_PROMPT_IMAGES` when marks and pictures differ in number, `ERR_PROMPT_EMPTY` for an empty prompt,
 *   `ERR_PROMPT_TOO_LONG` over 2²² characters
 */
export async function fromPrompt(tokenizer: Tokenizer, prompt: string, imageCount: number): Promise<Piece[]> {
  if (typeof prompt !== 'string') throw typeError('ERR_PROMPT_TYPE', `prompt must be a string, found ${show(prompt)}`);
  checkLength('prompt', prompt.length);
  const texts = prompt.split(IMAGE_MARK);
  if (texts.length - 1 !== imageCount)
    throw rangeError(
      'ERR_PROMPT_IMAGES',
      `prompt holds ${texts.length - 1} ${IMAGE_MARK} marks and images ${imageCount} pictures; write one mark for each picture`,
    );
  return toPieces(
    tokenizer,
    texts.flatMap((text, i): Rendering => (i === 0 ? [{ text, trusted: true }] : ['image', { text, trusted: true }])),
  );
}

/**
 * Renders a conversation with the checkpoint's chat template (null: LLaVA-1.5's vicuna_v1) and tokenizes it. What stands
 * in messages is data: `<image>` or `<|endoftext|>` typed there is ordinary text. Pictures of the call that no part asks
 * for go before the text of the first user message.
 *
 * @throws TypeError `ERR_PROMPT_TYPE` for a message or part of the wrong form
 * @throws RangeError `ERR_PROMPT_ROLE` for an unknown role, `ERR_PROMPT_IMAGES` when pictures and places differ in number,
 *   `ERR_PROMPT_EMPTY` without messages, `ERR_PROMPT_TOO_LONG` over 2²² characters or 1024 messages
 * @throws VLMambaError `ERR_CHAT_TEMPLATE` for a template that does not work
 */
export async function fromMessages(
  tokenizer: Tokenizer,
  template: string | null,
  messages: readonly Message[],
  images: readonly unknown[] = [],
  { addGenerationPrompt = true }: MessageOptions = {},
): Promise<Prompt> {
  const placed = placeImages(messages, images);
  const rendering = render(tokenizer, template, placed, addGenerationPrompt);
  return { pieces: await toPieces(tokenizer, rendering), images: imagesOf(placed), messages: placed };
}

/**
 * What a model that has read `past` (the `messages` of an earlier {@link Prompt}) has yet to read of the conversation that
 * goes on with `next`, tokenized on its own. `answer` is what the model said to `past`, or null when it was not asked: it
 * has read `past` without the words after which the assistant speaks. `messages` of the result is the whole conversation.
 * Null when the template does not write the past again as it was: then everything has to be read anew. Errors as in
 * `fromMessages`, but `next` and `pieces` may be empty.
 */
export async function continueMessages(
  tokenizer: Tokenizer,
  template: string | null,
  past: readonly Message[],
  answer: string | null,
  next: readonly Message[],
  images: readonly unknown[] = [],
  { addGenerationPrompt = true }: MessageOptions = {},
): Promise<Prompt | null> {
  // Blanks around the answer are in the model's state as it was generated, and not worth reading again.
  const said = answer?.trim() ?? '';
  const added = next.length === 0 && images.length === 0 ? [] : placeImages(next, images);
  const spoken: Message[] = answer === null ? [] : [{ role: 'assistant', content: said }];
  const whole: Message[] = [...past, ...spoken, ...added];
  const rest = without(
    render(tokenizer, template, whole, addGenerationPrompt),
    render(tokenizer, template, past, answer !== null),
  );
  if (!rest) return null;
  if (said !== '') {
    const first = rest.findIndex((item) => item === 'image' || item.text.trim() !== '');
    const item = rest.splice(0, first + 1).at(-1);
    if (item === undefined || item === 'image' || item.trusted || item.text !== said) return null;
  }
  // Some templates write nothing where the assistant begins to speak.
  const pieces = rest.length === 0 ? [] : await toPieces(tokenizer, rest);
  return { pieces, images: imagesOf(added), messages: whole };
}

/** Checks messages and copies them with every picture of the call in its place. */
function placeImages(messages: readonly Message[], images: readonly unknown[]): Message[] {
  if (!Array.isArray(messages))
    throw typeError('ERR_PROMPT_TYPE', `messages must be an array, found ${show(messages)}`);
  if (messages.length === 0) throw rangeError('ERR_PROMPT_EMPTY', 'messages is empty: give it a message of the user');
  if (messages.length > MAX_MESSAGES)
    throw rangeError('ERR_PROMPT_TOO_LONG', `messages holds ${messages.length}, at most ${MAX_MESSAGES} are read`);
  const placed = messages.map((message, i) => checkMessage(message, `messages[${i}]`));
  const parts = placed.flatMap(({ content }) => content);
  if (parts.length > MAX_PARTS)
    throw rangeError('ERR_PROMPT_TOO_LONG', `messages holds ${parts.length} parts, at most ${MAX_PARTS} are read`);
  checkLength(
    'messages',
    parts.reduce((sum, part) => sum + (part.type === 'text' ? part.text.length : 0), 0),
  );
  const open = parts.filter((part) => part.type === 'image' && part.image === undefined) as { image?: unknown }[];
  if (open.length === 0 && images.length > 0) {
    const first = placed.find(({ role }) => role === 'user');
    if (!first)
      throw rangeError('ERR_PROMPT_IMAGES', `images holds ${images.length} pictures, but no message is the user's`);
    first.content.unshift(...images.map((image) => ({ type: 'image', image }) as const));
  } else if (open.length !== images.length) {
    throw rangeError(
      'ERR_PROMPT_IMAGES',
      `messages has ${open.length} image parts without a picture and images ${images.length} pictures; give one for each`,
    );
  } else {
    open.forEach((part, i) => {
      part.image = images[i];
    });
  }
  return placed;
}

type CheckedPart = { type: 'text'; text: string } | { type: 'image'; image?: unknown };
type CheckedMessage = { role: Message['role']; content: CheckedPart[] };

function checkMessage(message: Message, where: string): CheckedMessage {
  if (typeof message !== 'object' || message === null)
    throw typeError('ERR_PROMPT_TYPE', `${where} must be an object with role and content, found ${show(message)}`);
  const { role, content } = message;
  if (role !== 'system' && role !== 'user' && role !== 'assistant')
    throw rangeError('ERR_PROMPT_ROLE', `${where}.role must be "system", "user" or "assistant", found ${show(role)}`);
  if (typeof content === 'string') return { role, content: [{ type: 'text', text: content }] };
  if (!Array.isArray(content))
    throw typeError(
      'ERR_PROMPT_TYPE',
      `${where}.content must be a string or an array of parts, found ${show(content)}`,
    );
  return { role, content: content.map((part, i) => checkPart(part, `${where}.content[${i}]`)) };
}

function checkPart(part: ContentPart, where: string): CheckedPart {
  if (part?.type === 'text') {
    if (typeof part.text === 'string') return { type: 'text', text: part.text };
    throw typeError('ERR_PROMPT_TYPE', `${where}.text must be a string, found ${show(part.text)}`);
  }
  if (part?.type === 'image') return { type: 'image', image: part.image };
  if (part?.type === 'image_url') {
    const url = typeof part.image_url === 'object' && part.image_url !== null ? part.image_url.url : part.image_url;
    if (typeof url === 'string') return { type: 'image', image: url };
    throw typeError('ERR_PROMPT_TYPE', `${where}.image_url must be a URL or { url }, found ${show(part.image_url)}`);
  }
  throw typeError(
    'ERR_PROMPT_TYPE',
    `${where} must be a part of type "text", "image" or "image_url", found ${show(part)}`,
  );
}

function checkLength(what: string, length: number): void {
  if (length > MAX_TEXT_LENGTH)
    throw rangeError('ERR_PROMPT_TOO_LONG', `${what} has ${length} characters, at most ${MAX_TEXT_LENGTH} are read`);
}

const partsOf = ({ content }: Message): readonly ContentPart[] =>
  typeof content === 'string' ? [{ type: 'text', text: content }] : content;

const imagesOf = (messages: readonly Message[]): unknown[] =>
  messages.flatMap(partsOf).flatMap((part) => (part.type === 'image' ? [part.image] : []));

/** The conversation as one text of known origin: no two trusted stretches in a row, none empty. */
function render(
  { named }: Tokenizer,
  template: string | null,
  messages: readonly Message[],
  addGenerationPrompt: boolean,
): Rendering {
  const turns = messages.map(
    (message): Turn => ({
      role: message.role,
      parts: partsOf(message).map((part) => (part.type === 'text' ? { text: part.text } : 'image')),
    }),
  );
  const options = { addGenerationPrompt, named };
  const rendering = template === null ? renderVicuna(turns, options) : renderTemplate(template, turns, options);
  const joined: Rendering = [];
  for (const item of rendering) {
    const last = joined.at(-1);
    if (item === 'image') joined.push(item);
    else if (last !== undefined && last !== 'image' && last.trusted && item.trusted) last.text += item.text;
    else if (item.text !== '') joined.push({ ...item });
  }
  return joined;
}

/** `whole` without its beginning `prefix`; null when it begins otherwise. */
function without(whole: Rendering, prefix: Rendering): Rendering | null {
  const rest = whole.slice(prefix.length);
  for (let i = 0; i < prefix.length; i++) {
    const [item, expected] = [whole[i], prefix[i]!];
    if (item === 'image' || expected === 'image' || item === undefined) {
      if (item !== expected) return null;
    } else if (item.trusted !== expected.trusted) return null;
    else if (item.text !== expected.text) {
      if (i < prefix.length - 1 || !item.trusted || !item.text.startsWith(expected.text)) return null;
      rest.unshift({ text: item.text.slice(expected.text.length), trusted: true });
    }
  }
  return rest;
}

async function toPieces(tokenizer: Tokenizer, rendering: Rendering): Promise<Piece[]> {
  const pieces: Piece[] = [];
  let spans: Span[] = [];
  let image = 0;
  const close = async (): Promise<void> => {
    const ids = await tokenizer.encodeSpans(spans);
    if (ids.length > 0) pieces.push({ ids });
    spans = [];
  };
  for (const item of rendering) {
    if (item !== 'image') {
      spans.push(item);
      continue;
    }
    await close();
    pieces.push({ image: image++ });
  }
  await close();
  if (pieces.length === 0) throw rangeError('ERR_PROMPT_EMPTY', 'the prompt is empty: give it text or a picture');
  return pieces;
}

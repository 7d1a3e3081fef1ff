import { stderr, stdin, stdout } from 'node:process';
import { createInterface } from 'node:readline/promises';
import { type LoadFlags, loadModel } from './load.ts';
import { type SamplingFlags, sampling } from './options.ts';
import { report } from './report.ts';
import { stats } from './text.ts';

interface ChatFlags extends LoadFlags, SamplingFlags {
  image?: string[];
  stats?: boolean;
}

const HELP = `  /image FILE   show a picture with the next line
  /reset        forget the conversation
  /quit         leave (so do Ctrl-C and Ctrl-D)
`;

/** A conversation: a line of stdin is a turn, the answers go to stdout. Ctrl-C stops an answer, or else leaves. */
export async function chat(path: string, flags: ChatFlags, signal: AbortSignal): Promise<void> {
  await using model = await loadModel(path, flags, signal);
  await using conversation = model.chat();
  const options = sampling(flags);
  const terminal = stdin.isTTY === true;
  const lines = createInterface({ input: stdin, output: terminal ? stderr : undefined, terminal, prompt: '> ' });
  let pictures = [...(flags.image ?? [])];
  let answering: AbortController | undefined;
  const leave = () => lines.close();
  lines.on('SIGINT', () => (answering ? answering.abort() : leave()));
  signal.addEventListener('abort', leave, { once: true });
  if (terminal && !flags.quiet) stderr.write('Ask about the picture; /help lists what else you can type.\n');
  lines.prompt();
  for await (const line of lines) {
    const [, command, rest] = /^\s*\/(\w+)\s*(.*)$/.exec(line) ?? [];
    if (command === 'quit' || command === 'exit') break;
    if (command === 'reset') await conversation.reset();
    else if (command === 'image' && rest) pictures.push(rest.trim());
    else if (command) stderr.write(HELP);
    else if (line.trim()) {
      answering = new AbortController();
      const stop = AbortSignal.any([answering.signal, signal]);
      const images = pictures;
      pictures = [];
      try {
        const generation = conversation.say(line.trim(), { ...options, images, signal: stop });
        for await (const text of generation) stdout.write(text);
        stdout.write('\n');
        if (flags.stats) stderr.write(`${stats(await generation)}\n`);
      } catch (error) {
        if (signal.aborted) break;
        if (answering.signal.aborted) stdout.write('\n');
        else report(error);
      }
      answering = undefined;
    }
    lines.prompt();
  }
  if (terminal) stderr.write('\n');
  lines.close();
}

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Argument, Command, CommanderError, Option } from 'commander';
import { packageRoot } from '../binding.ts';
import { rangeError } from '../errors.ts';
import { onInterrupt } from './interrupt.ts';
import { report, status } from './report.ts';

const MODEL = 'checkpoint folder, org/name or demo';

/** 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated. */
export async function main(argv: readonly string[]): Promise<number> {
  const interrupt = onInterrupt();
  try {
    await build(interrupt.signal).parseAsync(argv);
    return interrupt.status();
  } catch (error) {
    if (interrupt.signal.aborted) return interrupt.status();
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    report(error);
    return status(error);
  } finally {
    interrupt.release();
  }
}

export const version = (): string =>
  (JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8')) as { version: string }).version;

function build(signal: AbortSignal): Command {
  const program = new Command('vl-mamba')
    .usage('<command> [options]')
    .description('Answers questions about pictures, in this process. <command> --help says more.')
    .version(version())
    .exitOverride()
    .helpCommand(false)
    .configureOutput({ outputError: (text) => report(usageError(text)) })
    .configureHelp({
      subcommandTerm,
      visibleOptions: (command) => (command.parent ? command.options.filter(isShown) : []),
    })
    .addHelpText(
      'after',
      `
Examples:
  vl-mamba run demo -i photo.jpg -p "What is in this picture?"
  curl -s https://example.com/cat.png | vl-mamba run org/name -i -

<model> is a checkpoint folder, org/name on the Hugging Face hub, or demo.
Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated.`,
    );

  loading(
    program
      .command('demo')
      .description('the model of the package, on its pictures or yours')
      .argument('[picture]', 'file of a picture of simple shapes or a word')
      .option('-p, --prompt <question...>', 'what to ask'),
  ).action(async (picture, options) => (await import('./demo.ts')).demo(picture, options, signal));

  generating(
    program
      .command('run')
      .description('answer one question')
      .argument('<model>', MODEL)
      .option('-i, --image <picture...>', 'file or URL of a picture, - for stdin')
      .option('-p, --prompt <text>', 'the question; absent, it is what is piped in')
      .option('--raw', 'the prompt as it is, <image> where a picture goes')
      .option('--json', 'print one object: text, tokens, usage, timings, …')
      .option('--stats', 'say on stderr how long everything took'),
  ).action(async (model, options) => (await import('./run.ts')).run(model, options, signal));

  generating(
    program
      .command('chat')
      .description('a conversation: one line, one turn')
      .argument('<model>', MODEL)
      .option('-i, --image <picture...>', 'pictures that the conversation begins with')
      .option('--stats', 'say after each answer how long it took'),
  ).action(async (model, options) => (await import('./chat.ts')).chat(model, options, signal));

  loading(
    program
      .command('index')
      .description('read pictures once, for ask')
      .argument('<picture...>', 'files, or folders of them')
      .requiredOption('-m, --model <model>', MODEL)
      .requiredOption('-o, --out <folder>', 'where the snapshots go; those that are there already are kept')
      .option('--exact', 'keep every bit of the state, in twice the bytes')
      .option('--json', 'print one object: added, kept, failed, out'),
  ).action(async (pictures, options) => (await import('./index_pictures.ts')).index(pictures, options, signal));

  generating(
    program
      .command('ask')
      .description('one question about all pictures that index has read')
      .argument('<folder>', 'what index wrote')
      .requiredOption('-p, --prompt <text>', 'the question')
      .option('-m, --model <model>', 'checkpoint folder (default: where it was when index ran)')
      .option('--json', 'print an object for each picture, one a line'),
  ).action(async (folder, options) => (await import('./ask.ts')).ask(folder, options, signal));

  program
    .command('pull')
    .description('fetch a model of the hub, or what is missing of it')
    .argument('<name>', 'org/name, or org/name@revision')
    .option('--revision <revision>', 'branch, tag or commit (default: main)')
    .option('--json', 'print one object: path, repo, revision, commit, fetched, warnings')
    .option('-q, --quiet', 'no progress, no notes')
    .action(async (name, options) => (await import('./pull.ts')).pull(name, options, signal));

  program
    .command('convert')
    .description('a checkpoint out of tower, language model, connector')
    .argument('<out>', 'the folder to make; nothing is overwritten')
    .requiredOption('--vision <folder>', 'SigLIP or CLIP, the whole model or its tower, with preprocessor_config.json')
    .requiredOption('--lm <folder>', "Mamba with Hugging Face's names or state-spaces', with tokenizer.json")
    .requiredOption('--connector <file>', 'safetensors file of the connector')
    .requiredOption(
      '--config <file>',
      'config.json with connector_config; vision_config and text_config may be left out',
    )
    .option('--tokenizer <folder>', 'a folder with tokenizer.json (default: that of --lm)')
    .option('--shard-size <size>', 'most of a file of weights, e.g. 500MB', '5GB')
    .option('--json', 'print one object: path, files, bytes, warnings')
    .option('-q, --quiet', 'no progress, no notes')
    .action(async (out, options) => (await import('./convert.ts')).convert(out, options, signal));

  program
    .command('quantize')
    .description('the same model in int8 or int4, for the CPU')
    .argument('<model>', MODEL)
    .argument('<out>', 'the folder to make; nothing is overwritten')
    .option('--dtype <name>', 'int8 or int4', 'int8')
    .option('--threads <n>', 'CPU threads (default: one for each core)')
    .option('--shard-size <size>', 'most of a file of weights, e.g. 500MB', '5GB')
    .option('--json', 'print one object: path, files, bytes, warnings')
    .option('-q, --quiet', 'no progress, no notes')
    .action(async (model, out, options) => (await import('./quantize.ts')).quantize(model, out, options, signal));

  program
    .command('info')
    .description('what a checkpoint holds, without loading it')
    .argument('<model>', MODEL)
    .option('--json', 'print one object')
    .action(async (model, options) => (await import('./info.ts')).info(model, options, signal));

  program
    .command('doctor')
    .description('what this machine offers, and what is missing')
    .option('--json', 'print one object')
    .action(async (options) => (await import('./doctor.ts')).doctor(options));

  loading(
    program
      .command('bench')
      .description('how fast a model runs here')
      .argument('<model>', MODEL)
      .option('--tokens <n>', 'length of the prompt that is read', '512')
      .option('--steps', 'list the time of every step of the programs')
      .option('--json [file]', 'write one object to a file, or print it')
      .option('--svg <file>', 'draw what each kind of step takes'),
  ).action(async (model, options) => (await import('./bench.ts')).bench(model, options, signal));

  for (const command of program.commands) command.exitOverride();
  return program;
}

/** What cannot be meant, in one line with the way out. */
const usageError = (text: string): Error => {
  const message = text.replace(/^error: /, '').trim();
  return rangeError('ERR_USAGE', `${message} (vl-mamba --help shows what there is)`);
};

const isShown = (option: Option): boolean => !option.hidden;

const subcommandTerm = (command: Command): string =>
  [command.name(), ...command.registeredArguments.map(argumentTerm)].join(' ');

const argumentTerm = (argument: Argument): string => {
  const name = `${argument.name()}${argument.variadic ? '...' : ''}`;
  return argument.required ? `<${name}>` : `[${name}]`;
};

function loading(command: Command): Command {
  return command
    .addOption(new Option('--device <name>', 'auto, cpu, cuda or cuda:N').default('auto'))
    .addOption(new Option('--dtype <name>', 'weights: auto, f32, bf16, f16, int8 or int4').default('auto'))
    .option('--threads <n>', 'CPU threads (default: one for each core)')
    .option('-q, --quiet', 'no progress, no notes');
}

function generating(command: Command): Command {
  return loading(command)
    .option('-n, --max-new-tokens <n>', 'longest answer, in tokens')
    .option('--temperature <t>', '0, the default, takes the likeliest token, 1 draws')
    .option('--top-k <k>', 'draw from the k likeliest tokens')
    .option('--top-p <p>', 'draw from the likeliest that make up probability p')
    .option('--min-p <p>', 'draw from those p times as likely as the likeliest')
    .option('--repetition-penalty <x>', 'above 1: what occurred becomes less likely')
    .option('--seed <n>', 'the same seed draws the same answer')
    .option('--stop <text...>', 'end the answer before this text');
}

/** The documents hold what they say: links lead somewhere, code is right by its types, options and error codes exist. */
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import * as assert from 'uvu/assert';
import * as pictures from '../docs/pictures/draw.ts';
import { suite } from './kit.ts';

const test = suite('docs');
const root = fileURLToPath(new URL('..', import.meta.url));
const folder = (name: string) =>
  readdirSync(join(root, name))
    .filter((file) => file.endsWith('.md'))
    .map((file) => join(name, file));
const files = [...folder('.'), ...folder('docs'), ...folder('examples'), ...folder('bench'), ...folder('test')];
const documents = new Map(files.map((file) => [file, readFileSync(join(root, file), 'utf8')]));

interface Block {
  file: string;
  line: number;
  language: string;
  code: string;
}

/** Fenced blocks, also those inside of lists. */
const blocks: Block[] = [...documents].flatMap(([file, text]) =>
  [...text.matchAll(/^( *)```(\w*)\n([\s\S]*?)^\1```$/gm)].map((found) => ({
    file,
    line: text.slice(0, found.index).split('\n').length,
    language: found[2]!,
    code: found[3]!,
  })),
);

/** As GitHub writes it. */
const anchor = (heading: string) =>
  heading
    .toLowerCase()
    .replace(/[^\p{L}\p{N}\s_-]/gu, '')
    .trim()
    .replaceAll(/\s/g, '-');

test('links and pictures lead to something that is there', () => {
  let count = 0;
  for (const [file, text] of documents) {
    const prose = text.replace(/^ *```[\s\S]*?^ *```$/gm, '');
    for (const [, link] of prose.matchAll(/(?:\]\(|(?:src|href)=")([^)"\s]+)/g)) {
      if (/^https?:/.test(link!)) continue;
      const [path, hash] = link!.split('#') as [string, string?];
      const target = path ? join(dirname(file), path) : file;
      assert.ok(existsSync(join(root, target)), `${file} links to ${link}, which is not there`);
      if (hash) {
        const headings = [...documents.get(target)!.matchAll(/^#+ (.*)$/gm)].map(([, heading]) => anchor(heading!));
        assert.ok(headings.includes(hash), `${file} links to ${link}: there is no such heading`);
      }
      count++;
    }
  }
  assert.ok(count > 30, `${count} links`);
});

test('every error code is one that there is', () => {
  const known = documents.get('ERRORS.md')!;
  for (const [file, text] of documents)
    for (const [code] of text.matchAll(/\bERR_[A-Z0-9_]*[A-Z0-9]\b(?!_?…)/g))
      assert.ok(known.includes(`\`${code}\``), `${file} names ${code}, which is not in ERRORS.md`);
});

test('what runs vl-mamba uses commands and options that it has', () => {
  const help = new Map<string, string>();
  const helpOf = (command: string) => {
    if (!help.has(command))
      help.set(
        command,
        execFileSync(process.execPath, ['--import', 'tsx', join('lib', 'cli.ts'), ...command.split(' '), '--help'], {
          cwd: root,
          encoding: 'utf8',
        }),
      );
    return help.get(command)!;
  };
  let count = 0;
  for (const { file, line, code } of blocks)
    for (const [, command, rest] of code.matchAll(/^(?:\$ )?(?:npx )?vl-mamba ([a-z]+)((?:.*\\\n)*.*)$/gm)) {
      const known = helpOf(command!);
      for (const [option] of rest!.split(/ {3,}/)[0]!.matchAll(/(?<=\s)--?[a-z][\w-]*/g))
        assert.ok(
          new RegExp(`(^|[\\s,])${option}\\b`, 'm').test(known),
          `${file}:${line}: vl-mamba ${command} has no ${option}`,
        );
      count++;
    }
  assert.ok(count > 15, `${count} commands`);
});

/** What the blocks take for granted. */
const PRELUDE = `
declare const model: import('vl-mamba').Model;
declare const session: import('vl-mamba').Session;
declare const prompt: string;
declare const frame: Uint8Array;
declare const images: string[];
declare const messages: import('vl-mamba').Message[];
declare const signal: AbortSignal;
declare const onProgress: (progress: import('vl-mamba').LoadProgress) => void;
declare const getModel: () => Promise<import('vl-mamba').Model>;
declare const { readFile, writeFile }: typeof import('node:fs/promises');
`;

test('TypeScript in the documents is right by its types', () => {
  const { config } = ts.readConfigFile(join(root, 'tsconfig.json'), ts.sys.readFile);
  const { options } = ts.parseJsonConfigFileContent(config, ts.sys, root);
  const sources = new Map([[join(root, 'prelude.d.ts'), PRELUDE]]);
  for (const { file, line, language, code } of blocks)
    if (language === 'ts') sources.set(join(root, `${file}.${line}.ts`), `${code}\nexport {};\n`);
  assert.ok(sources.size > 12, `${sources.size} blocks`);
  const host = ts.createCompilerHost(options);
  const { fileExists, readFile } = host;
  host.fileExists = (path) => sources.has(path) || fileExists(path);
  host.readFile = (path) => sources.get(path) ?? readFile(path);
  const program = ts.createProgram([...sources.keys()], options, host);
  const wrong = [...sources.keys()].flatMap((path) => {
    const source = program.getSourceFile(path)!;
    return [...program.getSyntacticDiagnostics(source), ...program.getSemanticDiagnostics(source)].map((found) => {
      const { line } = source.getLineAndCharacterOfPosition(found.start!);
      return `${path.slice(root.length)}+${line + 1}: ${ts.flattenDiagnosticMessageText(found.messageText, ' ')}`;
    });
  });
  assert.equal(wrong, []);
});

test('the pictures are what the package says of itself today', async () => {
  for (const [name, draw] of Object.entries(pictures))
    assert.is(
      await draw(),
      readFileSync(join(root, 'docs', 'pictures', `${name}.svg`), 'utf8'),
      `docs/pictures/${name}.svg is out of date: npx tsx docs/pictures/draw.ts`,
    );
});

test.run();

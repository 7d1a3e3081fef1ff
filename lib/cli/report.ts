import { stderr } from 'node:process';
import { paint } from './style.ts';

/** One line on stderr: the code and the message, no stack. NODE_DEBUG=vl-mamba adds the stack. */
export function report(error: unknown): void {
  const { code, message, stack } = error as { code?: string; message?: string; stack?: string };
  const line = (message ?? String(error)).replace(/\s*\n\s*/g, ' ');
  stderr.write(`vl-mamba: ${code ? `${paint(stderr, 'red', code)}: ` : ''}${line}\n`);
  if (process.env.NODE_DEBUG?.includes('vl-mamba') && stack) stderr.write(`${stack}\n`);
}

/** 2 for what the user typed, 1 for everything else. */
export function status(error: unknown): 1 | 2 {
  const code = (error as { code?: string }).code ?? '';
  return /^ERR_(ARG|GEN|PROMPT|USAGE)_?/.test(code) ? 2 : 1;
}

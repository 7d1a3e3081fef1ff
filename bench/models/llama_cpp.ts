import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { type GgufType, writeMambaGguf } from './gguf.ts';

/** The little of node-llama-cpp that is called. */
interface Sequence {
  evaluateWithoutGeneratingNewTokens(tokens: number[]): Promise<void>;
  evaluate(tokens: number[], options: object): AsyncGenerator<number>;
  clearHistory(): Promise<void>;
}
interface Context {
  getSequence(): Sequence;
  dispose(): Promise<void>;
}
interface Model {
  createContext(options: object): Promise<Context>;
  dispose(): Promise<void>;
}
interface Llama {
  loadModel(options: object): Promise<Model>;
  dispose(): Promise<void>;
}

const median = (list: number[]) => list.sort((a, b) => a - b)[list.length >> 1]!;

/**
 * Times llama.cpp, through node-llama-cpp's prebuilt binary, on a random Mamba of the same shape: milliseconds of a token
 * and of reading `length` tokens. `folder` is where node-llama-cpp was installed (`npm install node-llama-cpp` there), `path` where
 * that model is, or is written.
 */
export async function timeLlamaCpp(
  folder: string,
  shape: Parameters<typeof writeMambaGguf>[1],
  type: GgufType,
  { threads, length, path }: { threads: number; length: number; path: string },
): Promise<{ token: number; read: number }> {
  const entry = createRequire(join(resolve(folder), 'package.json')).resolve('node-llama-cpp');
  const { getLlama } = (await import(pathToFileURL(entry).href)) as { getLlama(options: object): Promise<Llama> };
  if (!existsSync(path)) writeMambaGguf(path, shape, type);
  const llama = await getLlama({ gpu: false, build: 'never', logLevel: 'error', maxThreads: threads });
  try {
    const model = await llama.loadModel({ modelPath: path, gpuLayers: 0 });
    const context = await model.createContext({ contextSize: 2048, batchSize: length, threads });
    const sequence = context.getSequence();
    const prompt = Array.from({ length }, (_, i) => 100 + i);
    const read: number[] = [];
    for (let i = 0; i < 4; i++) {
      await sequence.clearHistory();
      const start = performance.now();
      await sequence.evaluateWithoutGeneratingNewTokens(prompt);
      if (i > 0) read.push(performance.now() - start);
    }
    const token: number[] = [];
    let last = performance.now();
    for await (const _ of sequence.evaluate([7], { temperature: 0, yieldEogToken: true })) {
      const now = performance.now();
      token.push(now - last);
      last = now;
      if (token.length === 40) break;
    }
    await context.dispose();
    await model.dispose();
    return { token: median(token.slice(4)), read: median(read) };
  } finally {
    await llama.dispose();
  }
}

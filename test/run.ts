/**
 * npm test [-- WORDS…] [--device cpu|cuda] [--node COMMAND]: runs every test/**\/*.test.ts (or those whose path holds one of the
 * words), each in a process of its own, so that a crash in native code fails one file and not the run. What holds on any device
 * runs on each: on a machine without a GPU its tests are counted as skipped. --node takes another Node, an emulated one perhaps,
 * which has to read TypeScript by itself; it loads the addon of prebuilds/. Ends with `N passed, N failed, N skipped`.
 */
import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { devices } from '../lib/devices.ts';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const { positionals: words, values } = parseArgs({
  allowPositionals: true,
  options: { device: { type: 'string' }, node: { type: 'string' } },
});
const [command, ...flags] = values.node?.split(' ') ?? [process.execPath, '--import', 'tsx'];

/** What holds on every device. */
const ANY_DEVICE = /^test\/(ops|sessions)\/|^test\/models\/(parity|demo)/;
const files = readdirSync(join(root, 'test'), { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.test.ts'))
  .map((file) => join('test', file))
  .filter((file) => words.length === 0 || words.some((word) => file.includes(word)))
  .sort();

const LIMIT_MS = 300_000;

const gpu = devices()[1]!;
const onCpu = values.device !== 'cuda';
const onGpu = values.device !== 'cpu';

interface Job {
  file: string;
  device: 'cpu' | 'cuda';
}

interface Outcome {
  passed: number;
  failed: number;
  skipped: number;
  output: string;
}

function runFile({ file, device }: Job): Promise<Outcome> {
  return new Promise((resolve) => {
    const child = spawn(command!, [...flags, '--expose-gc', file], {
      cwd: root,
      env: {
        ...process.env,
        FORCE_COLOR: '0',
        VL_MAMBA_TEST_DEVICE: device,
        ...(values.node ? { PREBUILDS_ONLY: '1', VL_MAMBA_TEST_EMULATED: '1' } : {}),
      },
    });
    let output = '';
    child.stdout.on('data', (data) => (output += data));
    child.stderr.on('data', (data) => (output += data));
    const timer = setTimeout(() => child.kill('SIGKILL'), LIMIT_MS);
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      const count = (word: string) => Number(new RegExp(`${word}:\\s+(\\d+)`).exec(output)?.[1] ?? Number.NaN);
      const total = count('Total');
      const passed = count('Passed');
      const skipped = count('Skipped');
      if (Number.isNaN(total)) {
        const how = signal ? `ended by ${signal}` : `exited with ${code} before its summary`;
        resolve({ passed: 0, failed: 1, skipped: 0, output: `${output}\n${file} ${how}` });
        return;
      }
      const failed = Math.max(total - passed - skipped, code === 0 ? 0 : 1);
      resolve({ passed, failed, skipped, output });
    });
  });
}

const total = { passed: 0, failed: 0, skipped: 0 };
let skippedOnGpu = 0;
const queue: Job[] = files.flatMap((file) => {
  const any = ANY_DEVICE.test(file);
  return [
    ...(onCpu ? [{ file, device: 'cpu' as const }] : []),
    ...(onGpu && any && gpu.available ? [{ file, device: 'cuda' as const }] : []),
  ];
});
async function worker(): Promise<void> {
  for (let job = queue.shift(); job !== undefined; job = queue.shift()) {
    const start = performance.now();
    const { passed, failed, skipped, output } = await runFile(job);
    total.passed += passed;
    total.failed += failed;
    total.skipped += skipped;
    if (ANY_DEVICE.test(job.file) && !gpu.available) skippedOnGpu += passed + failed + skipped;
    const seconds = ((performance.now() - start) / 1000).toFixed(1);
    const where = job.device === 'cpu' ? '' : ` on ${job.device}`;
    console.log(`${failed ? 'FAIL' : 'ok  '} ${relative('test', job.file)}${where}  ${passed} passed  ${seconds} s`);
    if (failed) console.log(output);
  }
}
await Promise.all(Array.from({ length: Math.min(values.device === 'cuda' ? 8 : 2, availableParallelism()) }, worker));
if (onGpu && skippedOnGpu > 0) console.log(`${skippedOnGpu} tests skipped on cuda: ${gpu.description}`);
total.skipped += onGpu ? skippedOnGpu : 0;
console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exitCode = total.failed > 0 || total.passed === 0 ? 1 : 0;

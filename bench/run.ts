/**
 * npm run bench -- [WORDS…] [--threads N] [--json FILE]
 *
 * Runs bench/ops/*.bench.ts (those whose name holds one of the words) and prints a table under a line that names the
 * machine.
 */
import { readdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import type { Device } from '../lib/device.ts';
import { machine, openDevice, type Row } from './kit.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { threads: { type: 'string' }, device: { type: 'string', default: 'cpu' }, json: { type: 'string' } },
});
if (values.device !== 'cpu') throw new Error(`bench runs on the cpu; found --device ${values.device}`);

const folder = join(dirname(fileURLToPath(import.meta.url)), 'ops');
const files = readdirSync(folder)
  .filter((file) => file.endsWith('.bench.ts'))
  .filter((file) => positionals.length === 0 || positionals.some((word) => file.includes(word)))
  .sort();

const device = openDevice(values.threads ? Number(values.threads) : undefined);
const head = machine(device.threads);
console.log(`# ${head}\n`);
console.log(`${'op'.padEnd(52)}${'ms'.padStart(10)}${'GB/s'.padStart(9)}${'GFLOP/s'.padStart(10)}`);
const rows: Row[] = [];
for (const file of files) {
  const bench = (await import(pathToFileURL(join(folder, file)).href)) as {
    default: (device: Device) => AsyncGenerator<Row>;
  };
  for await (const row of bench.default(device)) {
    rows.push(row);
    const cell = (n: number | undefined, digits: number, width: number) =>
      (n === undefined ? '' : n.toFixed(digits)).padStart(width);
    console.log(row.name.padEnd(52) + cell(row.ms, 3, 10) + cell(row.gbps, 1, 9) + cell(row.gflops, 0, 10));
  }
}
await device.dispose();
if (values.json) writeFileSync(values.json, `${JSON.stringify({ machine: head, rows }, null, 2)}\n`);

/**
 * npm run bench -- [WORDS…] [--device cpu|cuda] [--threads N] [--json FILE]
 *
 * On the CPU runs bench/ops/*.bench.ts (those whose name holds one of the words), on a GPU the kernel table of
 * bench/cuda/kernels.ts (those of its rows), and prints a table under a line that names the machine.
 */
import { readdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import type { Device } from '../lib/device.ts';
import { checkDeviceName, openDevice } from '../lib/devices.ts';
import { machine, type Row } from './kit.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { threads: { type: 'string' }, device: { type: 'string', default: 'cpu' }, json: { type: 'string' } },
});
checkDeviceName(values.device);

/** The rows of every op's bench on the CPU. */
async function* ops(device: Device): AsyncGenerator<Row> {
  const folder = join(dirname(fileURLToPath(import.meta.url)), 'ops');
  const files = readdirSync(folder)
    .filter((file) => file.endsWith('.bench.ts'))
    .filter((file) => positionals.length === 0 || positionals.some((word) => file.includes(word)))
    .sort();
  for (const file of files) {
    const bench = (await import(pathToFileURL(join(folder, file)).href)) as {
      default: (device: Device) => AsyncGenerator<Row>;
    };
    yield* bench.default(device);
  }
}

const device = await openDevice(values.device, values.threads ? { threads: Number(values.threads) } : {});
const head = machine(device);
console.log(`# ${head}\n`);
const columns = device.cuda ? ['µs', 'floor', 'aim', 'peer', 'GB/s', 'GFLOP/s'] : ['ms', 'GB/s', 'GFLOP/s'];
console.log('op'.padEnd(52) + columns.map((column) => column.padStart(10)).join(''));
const rows: Row[] = [];
const all = device.cuda ? (await import('./cuda/kernels.ts')).default(device, positionals) : ops(device);
for await (const row of all) {
  rows.push(row);
  const { ms, gbps, gflops, us, floor, aim, peer } = row;
  const cells: [number | undefined, number][] = device.cuda
    ? [
        [us, 1],
        [floor, 1],
        [aim, 1],
        [peer, 1],
        [gbps, 0],
        [gflops, 0],
      ]
    : [
        [ms, 3],
        [gbps, 1],
        [gflops, 0],
      ];
  const text = cells.map(([n, digits]) => (n === undefined ? '' : n.toFixed(digits)).padStart(10));
  console.log(row.name.padEnd(52) + text.join(''));
}
await device.dispose();
if (values.json) writeFileSync(values.json, `${JSON.stringify({ machine: head, rows }, null, 2)}\n`);

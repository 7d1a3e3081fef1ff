/**
 * npm run bench -- [WORDS…] [--device cpu|cuda] [--threads N] [--json FILE] [--svg FILE]
 *
 * On the CPU runs bench/ops/*.bench.ts (those whose name holds one of the words), on a GPU the kernel table of
 * bench/cuda/kernels.ts (those of its rows), and prints a table under a line that names the machine.
 */
import { readdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { chart, type Panel } from '../lib/cli/chart.ts';
import type { Device } from '../lib/device.ts';
import { checkDeviceName, openDevice } from '../lib/devices.ts';
import { machine, type Row } from './kit.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: 'string' },
    device: { type: 'string', default: 'cpu' },
    json: { type: 'string' },
    svg: { type: 'string' },
  },
});
checkDeviceName(values.device);

const LIMIT = 'limit: ';

type Unit = 'gflops' | 'gbps';
const UNITS = {
  gflops: { title: 'Operations', unit: 'GFLOP/s', other: 'gbps' },
  gbps: { title: 'Bytes', unit: 'GB/s', other: 'gflops' },
} as const;

/** Each op under the limit, measured in the same run, that it comes nearer to. */
function panels(rows: readonly Row[]): Panel[] {
  const best = (unit: Unit) =>
    rows.filter(({ name }) => name.startsWith(LIMIT)).sort((a, b) => (b[unit] ?? 0) - (a[unit] ?? 0))[0];
  const share = (row: Row, unit: Unit) => (row[unit] ?? 0) / (best(unit)?.[unit] ?? 1);
  return Object.entries(UNITS)
    .map(([key, { title, unit, other }]): Panel => {
      const of = key as Unit;
      const limit = best(of);
      const bound = rows.filter((row) => !row.name.startsWith(LIMIT) && row[of] && share(row, of) >= share(row, other));
      return {
        title,
        unit,
        bars: bound.map((row) => ({ label: row.name, value: row[of]! })),
        ...(limit?.[of] && { limit: { label: limit.name.slice(LIMIT.length), value: limit[of] } }),
      };
    })
    .filter(({ bars }) => bars.length > 0);
}

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
if (values.svg) writeFileSync(values.svg, chart('vl-mamba: kernels', head, panels(rows)));

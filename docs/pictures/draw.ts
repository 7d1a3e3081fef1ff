/** npx tsx docs/pictures/draw.ts: draws the pictures of docs/scan.md from what the package says of itself. */
import { writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { load, ops } from '../../lib/index.ts';

const INK = '#24292f';
const MUTED = '#6e7781';
const PAPER = '#ffffff';
const BLUE = '#0969da';
const ORANGE = '#bc4c00';

const svg = (width: number, height: number, title: string, parts: string[]): string =>
  `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" font-family="ui-sans-serif, system-ui, sans-serif" font-size="12">
<title>${title}</title>
<defs><marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="6" markerHeight="6" orient="auto"><path d="M0 0 8 4 0 8z" fill="context-stroke"/></marker></defs>
<rect width="${width}" height="${height}" rx="8" fill="${PAPER}"/>
${parts.join('\n')}
</svg>
`;

const text = (x: number, y: number, what: string, more = ''): string =>
  `<text x="${x}" y="${y}" fill="${INK}"${more && ` ${more}`}>${what}</text>`;

/** The four orders in which a grid is read, as cross_scan gives them. */
export async function directions(): Promise<string> {
  const side = 4;
  const cell = 34;
  const panel = side * cell + 28;
  const patches = { data: Float32Array.from({ length: side * side }, (_, i) => i), shape: [1, 1, side, side] };
  const { xs } = await ops.crossScan({ x: patches }, { scan: 'csm', device: 'cpu' });
  const names = ['row by row', 'its reverse', 'column by column', 'its reverse'];
  const parts = names.map((name, k) => {
    const order = [...xs.data.subarray(k * side * side, (k + 1) * side * side)];
    const centre = (patch: number) => [(patch % side) * cell + cell / 2, Math.floor(patch / side) * cell + cell / 2];
    const cells = order.map((patch, at) => {
      const [x, y] = centre(patch) as [number, number];
      const shade = 0.06 + (0.3 * at) / order.length;
      return `<rect x="${x - cell / 2 + 1}" y="${y - cell / 2 + 1}" width="${cell - 2}" height="${cell - 2}" rx="3" fill="${BLUE}" fill-opacity="${shade.toFixed(2)}"/>${text(x - cell / 2 + 4, y - cell / 2 + 12, String(at + 1), 'font-size="8"')}`;
    });
    const path = `<polyline points="${order.map((patch) => centre(patch).join(',')).join(' ')}" fill="none" stroke="${ORANGE}" stroke-width="1.6" stroke-linejoin="round" marker-end="url(#tip)"/>`;
    const label = text((side * cell) / 2, side * cell + 20, `${k + 1}  ${name}`, 'text-anchor="middle"');
    return `<g transform="translate(${20 + k * panel} 20)">${cells.join('')}${path}${label}</g>`;
  });
  return svg(4 * panel + 12, side * cell + 52, 'The four directions in which a grid of patches is read', parts);
}

interface Step {
  op: string;
  inputs: string[];
  outputs: string[];
  shape: string;
  /** What its weight is called inside the layer. */
  name: string;
  state: boolean;
}

/** "%8, state = selective_scan(u=%5, …) delta_softplus=1  f32 [1,384,1], …" */
function parse(line: string): Step {
  const [, outputs, op, args, , shape] = /^(.*?) = (\w+)\((.*)\)(.*?) {2}\w+ (\[[\d,]*\])/.exec(line)!;
  return {
    op: op!,
    outputs: outputs!.match(/%\d+/g) ?? [],
    inputs: args!.match(/%\d+/g) ?? [],
    shape: shape!,
    name: /weight=[\w.]*?(?:mixer\.)?(\w+)\.weight/.exec(args!)?.[1] ?? '',
    state: /initial_state=state/.test(args!),
  };
}

/** One layer of the program that writes a token: its steps, who reads whose result, and the state that is left behind. */
export async function program(): Promise<string> {
  await using model = await load('demo', { device: 'cpu' });
  const lines = (await model.profile(1)).program.split('\n');
  const begin = lines.findIndex((line) => line.includes('layers.0.'));
  const end = lines.findIndex((line) => line.includes('layers.1.'));
  const steps = lines.slice(begin, end).map(parse);
  const row = 50;
  const left = 150;
  const width = 260;
  const top = 64;
  const centre = left + width / 2;
  const y = (i: number) => top + i * row;
  const from = new Map(steps.flatMap((step, i) => step.outputs.map((id) => [id, i] as const)));
  const parts: string[] = [];
  const line = (path: string, colour: string) =>
    parts.push(`<path d="${path}" fill="none" stroke="${colour}" stroke-width="1.4" marker-end="url(#tip)"/>`);
  for (const [i, step] of steps.entries()) {
    const name = step.op === 'linear' ? `, ${step.name}` : '';
    parts.push(
      `<rect x="${left}" y="${y(i)}" width="${width}" height="30" rx="5" fill="#f6f8fa" stroke="${MUTED}"/>`,
      text(left + 10, y(i) + 19, `${step.op}${name}`, 'font-family="ui-monospace, monospace" font-weight="600"'),
      `<text x="${left + width - 10}" y="${y(i) + 19}" text-anchor="end" font-size="10" fill="${MUTED}">${step.shape}</text>`,
    );
    // What comes from further up than the step before goes around it; what the layer was given goes all the way.
    for (const id of new Set(step.inputs)) {
      const source = from.get(id) ?? (id === '%1' ? undefined : -1);
      if (source === undefined) continue;
      if (source === i - 1) line(`M${centre} ${y(i) - 20}V${y(i) - 3}`, INK);
      else {
        const out = left - 20 * Math.min(i - source, 5);
        const start = source < 0 ? top - 26 : y(source) + 22;
        line(`M${source < 0 ? centre : left} ${start}H${out}V${y(i) + 15}H${left - 3}`, MUTED);
      }
    }
    if (step.state) {
      const x = left + width + 46;
      parts.push(
        `<rect x="${x}" y="${y(i) - 4}" width="92" height="38" rx="5" fill="${ORANGE}" fill-opacity="0.1" stroke="${ORANGE}"/>`,
        text(x + 46, y(i) + 12, 'state', `text-anchor="middle" font-weight="600" style="fill:${ORANGE}"`),
        text(x + 46, y(i) + 26, 'read and written', 'text-anchor="middle" font-size="9"'),
      );
      line(`M${x} ${y(i) + 9}H${left + width + 3}`, ORANGE);
      line(`M${left + width} ${y(i) + 22}H${x - 3}`, ORANGE);
    }
  }
  line(`M${centre} ${top - 40}V${top - 3}`, INK);
  line(`M${centre} ${y(steps.length - 1) + 30}v20`, INK);
  parts.push(text(centre + 8, top - 26, `from the layer before, ${steps.at(-1)!.shape}`, `font-size="10"`));
  const layers = model.config.text.numHiddenLayers;
  const bottom = y(steps.length - 1) + 66;
  parts.push(
    text(left, bottom, `× ${layers} layers; before them embedding, behind them`, 'font-size="10"'),
    text(left, bottom + 14, 'rms_norm, linear and sample: one call from JavaScript', 'font-size="10"'),
  );
  return svg(left + width + 160, bottom + 30, 'One layer of the program that writes a token', parts);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const here = dirname(fileURLToPath(import.meta.url));
  void (async () => {
    for (const [name, draw] of Object.entries({ directions, program })) {
      writeFileSync(join(here, `${name}.svg`), await draw());
    }
  })();
}

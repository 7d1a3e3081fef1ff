/** Bars that are measured in one unit, with the machine's limit where it is known. */
export interface Panel {
  title: string;
  unit: string;
  bars: readonly { label: string; value: number }[];
  limit?: { label: string; value: number };
}

const WIDTH = 760;
const LABELS = 300;
const VALUES = 90;
const ROW = 20;
const HEAD = 34;
const LIMIT_LABEL = 16;

/** Text inside of SVG. */
export const xml = (text: string): string => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

/** "1555", "15.3", "0.64": three digits that say something. */
export const figure = (value: number): string =>
  value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toPrecision(2);

/** Panels of bars under one another as an SVG file, each on a scale of its own that begins at 0. */
export function chart(title: string, subtitle: string, panels: readonly Panel[]): string {
  const parts: string[] = [];
  const text = (x: number, y: number, what: string, style = '') =>
    parts.push(`<text x="${x}" y="${y.toFixed(0)}"${style}>${xml(what)}</text>`);
  let y = 66;
  for (const { title, unit, bars, limit } of panels) {
    const most = Math.max(...bars.map(({ value }) => value), limit?.value ?? 0) || 1;
    const scale = (WIDTH - LABELS - VALUES) / most;
    text(16, y, `${title}, ${unit}`, ' font-weight="600"');
    y += 10 + (limit ? LIMIT_LABEL : 0);
    const top = y;
    for (const { label, value } of bars) {
      text(LABELS - 8, y + 14, label, ' text-anchor="end"');
      parts.push(
        `<rect x="${LABELS}" y="${y + 3}" width="${(value * scale).toFixed(1)}" height="${ROW - 6}" rx="2" fill="#0969da"/>`,
      );
      text(LABELS + value * scale + 6, y + 14, figure(value));
      y += ROW;
    }
    if (limit) {
      const x = LABELS + limit.value * scale;
      parts.push(`<path d="M${x.toFixed(1)} ${top}V${y}" stroke="#bc4c00" stroke-width="2" stroke-dasharray="4 3"/>`);
      text(x, top - 5, `${limit.label} ${figure(limit.value)}`, ' text-anchor="end" fill="#bc4c00"');
    }
    y += HEAD;
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${y - 14}" width="${WIDTH}" height="${y - 14}" role="img" font-family="ui-sans-serif, system-ui, sans-serif" font-size="12" fill="#24292f">
<title>${xml(title)}</title>
<rect width="100%" height="100%" rx="8" fill="#ffffff"/>
<text x="16" y="24" font-size="15" font-weight="600">${xml(title)}</text>
<text x="16" y="40" font-size="11" fill="#6e7781">${xml(subtitle)}</text>
${parts.join('\n')}
</svg>
`;
}

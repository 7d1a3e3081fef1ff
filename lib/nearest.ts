/**
 * The candidate most like `name`, or undefined where none is alike: the share of the longer name that a common beginning
 * and a common end cover, at least 0.7. Linear in the text, so it may be asked of a whole checkpoint's names.
 */
export function nearest(name: string, candidates: Iterable<string>): string | undefined {
  let best: string | undefined;
  let bestShare = 0.7;
  for (const candidate of candidates) {
    const [short, long] = [Math.min(name.length, candidate.length), Math.max(name.length, candidate.length)];
    if (short < bestShare * long) continue;
    let head = 0;
    while (head < short && name[head] === candidate[head]) head++;
    let tail = 0;
    while (tail < short - head && name[name.length - 1 - tail] === candidate[candidate.length - 1 - tail]) tail++;
    const share = (head + tail) / long;
    if (share > bestShare) [best, bestShare] = [candidate, share];
  }
  return best;
}

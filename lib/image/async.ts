import { setImmediate } from 'node:timers/promises';

/** `work`, or a rejection with the signal's reason as soon as it is aborted; `work` itself goes on unheard. */
export async function abortable<T>(work: Promise<T>, signal?: AbortSignal): Promise<T> {
  if (!signal) return work;
  let stop!: () => void;
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(signal.reason);
  });
  if (signal.aborted) stop();
  else signal.addEventListener('abort', stop, { once: true });
  try {
    return await Promise.race([aborted, work]);
  } finally {
    signal.removeEventListener('abort', stop);
  }
}

/** Calls `step(begin, end)` over [0, count), and lets the event loop turn between pieces of `grain`. */
export async function inTurns(
  count: number,
  grain: number,
  signal: AbortSignal | undefined,
  step: (begin: number, end: number) => void,
): Promise<void> {
  for (let begin = 0; begin < count; begin += grain) {
    if (begin > 0) await setImmediate();
    signal?.throwIfAborted();
    step(begin, Math.min(count, begin + grain));
  }
}

import { constants } from 'node:os';

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/**
 * The first Ctrl-C, or another signal that asks for an end, stops the work, so that what is half written goes; the second ends
 * the process at once. `status` is then the one that a shell gives to such an end.
 */
export function onInterrupt(): { signal: AbortSignal; status: () => number; release: () => void } {
  const controller = new AbortController();
  let status = 0;
  const handler = (name: NodeJS.Signals) => {
    status = 128 + constants.signals[name];
    if (controller.signal.aborted) process.exit(status);
    controller.abort(new Error('interrupted'));
  };
  // Whoever reads our output may leave early, as `head` does.
  const onPipe = (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
    process.exit(0);
  };
  for (const name of SIGNALS) process.on(name, handler);
  process.stdout.on('error', onPipe);
  return {
    signal: controller.signal,
    status: () => status,
    release() {
      for (const name of SIGNALS) process.off(name, handler);
      process.stdout.off('error', onPipe);
    },
  };
}

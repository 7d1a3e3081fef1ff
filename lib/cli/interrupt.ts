/** The first Ctrl-C stops the work, the second ends the process at once. */
export function onInterrupt(): { signal: AbortSignal; release: () => void } {
  const controller = new AbortController();
  const handler = () => {
    if (controller.signal.aborted) process.exit(130);
    controller.abort(new Error('interrupted'));
  };
  // Whoever reads our output may leave early, as `head` does.
  const onPipe = (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
    process.exit(0);
  };
  process.on('SIGINT', handler);
  process.stdout.on('error', onPipe);
  return {
    signal: controller.signal,
    release() {
      process.off('SIGINT', handler);
      process.stdout.off('error', onPipe);
    },
  };
}

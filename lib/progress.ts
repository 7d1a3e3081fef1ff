const PROGRESS_MS = 50;

/**
 * Calls `report` now and then while `work` goes on, and once when it is done. What `report` throws stops the work through the
 * signal that it is given, and comes out in place of its result.
 */
export async function reporting<T>(
  report: (() => void) | undefined,
  signal: AbortSignal | undefined,
  work: (signal: AbortSignal | undefined) => Promise<T>,
): Promise<T> {
  if (!report) return work(signal);
  const own = new AbortController();
  const timer = setInterval(() => {
    try {
      report();
    } catch (error) {
      clearInterval(timer);
      own.abort(error);
    }
  }, PROGRESS_MS);
  try {
    const result = await work(signal ? AbortSignal.any([signal, own.signal]) : own.signal);
    own.signal.throwIfAborted();
    report();
    return result;
  } catch (error) {
    own.signal.throwIfAborted();
    throw error;
  } finally {
    clearInterval(timer);
  }
}

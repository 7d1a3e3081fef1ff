/** What every error of this package carries besides its message. */
export interface ErrorDetails {
  /** Plain data about the failure: names, shapes, offsets, limits. */
  details?: Record<string, unknown>;
  /** The error behind it. */
  cause?: unknown;
}

/**
 * The error class of the package. `code` is stable and part of the API; the message is for people: it names the file,
 * tensor, argument or option, what was expected, what was found, and the fix where there is one.
 */
export class VLMambaError extends Error {
  /** One of ERRORS.md, e.g. `ERR_CKPT_MISSING`. */
  readonly code: string;
  /** Plain data about the failure: names, shapes, offsets, limits. */
  readonly details: Record<string, unknown>;

  constructor(code: string, message: string, { details = {}, cause }: ErrorDetails = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'VLMambaError';
    this.code = code;
    this.details = details;
  }
}

/** An argument of the wrong type: a `TypeError` with a `code`. */
export const typeError = (code: string, message: string): TypeError & { code: string } =>
  Object.assign(new TypeError(message), { code });

/** An argument of the right type and a wrong value: a `RangeError` with a `code`. */
export const rangeError = (code: string, message: string): RangeError & { code: string } =>
  Object.assign(new RangeError(message), { code });

/** Renders a value for an error message: short, on one line, control characters escaped. */
export function show(value: unknown, limit = 80): string {
  let text: string;
  if (typeof value === 'string') text = JSON.stringify(value);
  else if (typeof value === 'function') text = 'a function';
  else if (ArrayBuffer.isView(value)) text = `a ${value.constructor?.name ?? 'typed array'}`;
  else if (typeof value === 'object' && value !== null) {
    try {
      text = JSON.stringify(value) ?? 'an object';
    } catch {
      text = 'an object';
    }
  } else text = String(value);
  return text.length > limit ? `${text.slice(0, limit - 1)}…` : text;
}

/** Throws unless `signal` is an AbortSignal or absent; `where` names the function. */
export function checkSignal(where: string, signal: unknown): void {
  if (signal !== undefined && !(signal instanceof AbortSignal))
    throw typeError('ERR_ARG_TYPE', `[${where}] signal must be an AbortSignal, got ${show(signal)}`);
}

/**
 * The printable character that stands for each byte in a byte-level vocabulary: printable Latin-1 bytes stand for
 * themselves, the other 68 are numbered from U+0100 (GPT-2's `bytes_to_unicode`, Radford et al. 2019).
 */
export const byteSymbols: readonly string[] = (() => {
  const symbols: string[] = [];
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
    symbols.push(String.fromCharCode(printable ? byte : next++));
  }
  return symbols;
})();

const byteOf = new Map(byteSymbols.map((symbol, byte) => [symbol, byte]));

/** The bytes that a token of a byte-level vocabulary stands for; null when it holds a character that is no byte symbol. */
export function symbolBytes(token: string): Uint8Array | null {
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) {
    const byte = byteOf.get(token[i]!);
    if (byte === undefined) return null;
    bytes[i] = byte;
  }
  return bytes;
}

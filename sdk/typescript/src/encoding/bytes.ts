/** Bytes: joining, comparing, numbers as big-endian. */

/** Source of random bytes: `rng(size)` gives that many. */
export type Rng = (size: number) => Uint8Array;

const ENCODER = new TextEncoder();
const DECODER = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** All parts joined. */
export function concat(...parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** Whether two byte strings are equal; the time depends on the lengths alone. */
export function equalBytes(left: Uint8Array, right: Uint8Array): boolean {
  if (left.length !== right.length) return false;
  let differing = 0;
  for (let i = 0; i < left.length; i++) differing |= left[i]! ^ right[i]!;
  return differing === 0;
}

/** UTF-8 of a text. */
export function utf8(text: string): Uint8Array<ArrayBuffer> {
  return ENCODER.encode(text);
}

/** The text of UTF-8 bytes, or undefined for other bytes. */
export function fromUtf8(data: Uint8Array): string | undefined {
  try {
    return DECODER.decode(data);
  } catch {
    return undefined;
  }
}

/** An unsigned number as `size` bytes, big-endian. Throws RangeError if it does not fit: our mistake. */
export function uintBytes(value: number | bigint, size: number): Uint8Array<ArrayBuffer> {
  let rest = BigInt(value);
  const out = new Uint8Array(size);
  for (let i = size - 1; i >= 0; i--) {
    out[i] = Number(rest & 0xffn);
    rest >>= 8n;
  }
  if (rest !== 0n) throw new RangeError(`a number of at most ${size} bytes`);
  return out;
}

/** Eight bytes, big-endian. */
export function u64(value: number | bigint): Uint8Array<ArrayBuffer> {
  return uintBytes(value, 8);
}

/** The unsigned number that the bytes are, big-endian. */
export function bigOf(data: Uint8Array): bigint {
  let value = 0n;
  for (const byte of data) value = (value << 8n) | BigInt(byte);
  return value;
}

/** Four bytes at `at` as a number. */
export function readU32(data: Uint8Array, at: number): number {
  return ((data[at]! << 24) | (data[at + 1]! << 16) | (data[at + 2]! << 8) | data[at + 3]!) >>> 0;
}

/** Hex and integer fields at the border: one spelling, exact sizes, named refusals (spec/encoding.md 1, 5). */

import { define, EncodingError, isObject } from "../errors.ts";

const HEX = /^0x(?:[0-9a-f]{2})*$/;
const DIGITS = Array.from({ length: 256 }, (_, i) => i.toString(16).padStart(2, "0"));

export const BAD_HEX = define(
  "encoding.hex",
  EncodingError,
  "a byte field is lower-case hex with 0x and of the right size",
  "send bytes as 0x followed by lower-case hex pairs",
);
export const BAD_SIZE = define(
  "encoding.size",
  EncodingError,
  "a field has the size that the format gives it",
  "build the value with the functions of this package",
);
export const BAD_FIELD = define(
  "encoding.field",
  EncodingError,
  "an object has exactly the fields of its format, each of its type",
  "compare the object with the format in spec/",
);

/** `0x` + lower-case hex. */
export function toHex(data: Uint8Array): string {
  let text = "0x";
  for (const byte of data) text += DIGITS[byte];
  return text;
}

/** Bytes of a hex field, spelled as `toHex` spells it. `size` undefined: any up to `maxSize`. Throws EncodingError. */
export function fromHex(text: unknown, size?: number, name = "field", maxSize = 1 << 22): Uint8Array<ArrayBuffer> {
  if (typeof text !== "string" || text.length > 2 + 2 * maxSize || !HEX.test(text)) {
    throw BAD_HEX(`${name} as 0x… lower-case hex`, `${typeof text} of another form`);
  }
  const data = new Uint8Array((text.length - 2) / 2);
  for (let i = 0; i < data.length; i++) data[i] = parseInt(text.slice(2 + 2 * i, 4 + 2 * i), 16);
  if (size !== undefined && data.length !== size) throw BAD_HEX(`${name} of ${size} bytes`, `${data.length} bytes`);
  return data;
}

/** The value, if it is exactly `size` bytes. Throws EncodingError. */
export function needBytes(name: string, value: unknown, size: number): Uint8Array {
  if (!(value instanceof Uint8Array) || value.length !== size) {
    throw BAD_SIZE(`${name} of ${size} bytes`, value instanceof Uint8Array ? `${value.length} bytes` : typeof value);
  }
  return value;
}

/** The value, if it is an unsigned integer that JSON can carry exactly, below 2^bits. Throws EncodingError. */
export function needUint(name: string, value: unknown, bits = 53): number {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0 || value >= 2 ** bits) {
    throw BAD_SIZE(`${name} as an unsigned ${bits}-bit integer`, String(value).slice(0, 80));
  }
  return value;
}

/** Throw EncodingError unless the value is this integer. */
export function needVersion(name: string, value: unknown, version: number): void {
  if (value !== version) throw BAD_FIELD(`${name} of version ${version}`, String(value).slice(0, 40));
}

/** The object, if it has exactly these keys: unknown fields are refused, not ignored. Throws EncodingError. */
export function needFields(name: string, value: unknown, fields: readonly string[]): Record<string, unknown> {
  if (isObject(value) && hasExactly(value, fields)) return value;
  const found = isObject(value) ? `fields ${Object.keys(value).sort().join(", ")}` : "no object";
  throw BAD_FIELD(`${name} with fields ${[...fields].sort().join(", ")}`, found);
}

/** Whether an object has exactly these keys. */
export function hasExactly(value: object, fields: readonly string[]): boolean {
  const found = Object.keys(value);
  return found.length === fields.length && fields.every((field) => Object.hasOwn(value, field));
}

/** The list, if it is one of at most `max` items; `refusal` otherwise. */
export function needList(value: unknown, max: number, refuse: (found: string) => Error): unknown[] {
  if (!Array.isArray(value)) throw refuse(typeof value);
  if (value.length > max) throw refuse(`${value.length} items`);
  return value;
}

/** Canonical JSON: RFC 8785, restricted to what is signed (spec/encoding.md 2). */

import { define, EncodingError, isObject } from "../errors.ts";
import { equalBytes, fromUtf8, utf8 } from "./bytes.ts";

const MAX_DEPTH = 32;

/** A value of the signed subset: no fractions, integers within ±(2^53 - 1). */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [name: string]: Json };

export const NOT_CANONICAL = define(
  "encoding.not_canonical",
  EncodingError,
  "the text is canonical JSON of the signed subset",
  "encode with encoding/jcs.encode",
);

/** Canonical UTF-8 bytes of a JSON value. Throws EncodingError for fractions, big integers, other types. */
export function encode(value: unknown): Uint8Array<ArrayBuffer> {
  return utf8(text(value, 0));
}

/** Parse canonical bytes; refuse whatever would not encode to the same bytes again. */
export function decode(data: Uint8Array, maxSize = 1 << 20): unknown {
  if (data.length > maxSize) throw NOT_CANONICAL(`at most ${maxSize} bytes`, `${data.length} bytes`);
  const value = parse(data);
  if (value === undefined) throw NOT_CANONICAL("JSON", "other bytes");
  if (!equalBytes(encode(value), data)) throw NOT_CANONICAL("the canonical form", "another form of the same value");
  return value;
}

/** The value of JSON bytes, canonical or not; undefined for anything that is no JSON. */
export function parse(data: Uint8Array): unknown {
  const source = fromUtf8(data);
  if (source === undefined) return undefined;
  try {
    return JSON.parse(source);
  } catch {
    return undefined;
  }
}

function text(value: unknown, depth: number): string {
  if (depth > MAX_DEPTH) throw NOT_CANONICAL(`depth <= ${MAX_DEPTH}`, "deeper");
  if (value === null || typeof value === "boolean") return String(value);
  if (typeof value === "string") return quoted(value);
  if (typeof value === "number") return integer(value);
  if (Array.isArray(value)) return `[${value.map((item) => text(item, depth + 1)).join(",")}]`;
  if (!isObject(value)) throw NOT_CANONICAL("a JSON value without fractions", typeof value);
  const names = Object.keys(value).sort(); // by UTF-16 code units, as RFC 8785 wants
  return `{${names.map((name) => `${quoted(name)}:${text(value[name], depth + 1)}`).join(",")}}`;
}

function integer(value: number): string {
  if (!Number.isSafeInteger(value)) throw NOT_CANONICAL("an integer within 2^53 - 1", "another number");
  return String(value === 0 ? 0 : value); // no negative zero
}

function quoted(value: string): string {
  if (/\p{Surrogate}/u.test(value)) throw NOT_CANONICAL("valid Unicode", "a lone surrogate");
  return JSON.stringify(value);
}

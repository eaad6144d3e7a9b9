/**
 * Binary HTTP messages (RFC 9292), of known and of indeterminate length, padded or not (spec/ohttp.md 2).
 *
 * Strict: lengths are held against what is there before anything is cut out; padding is zeros.
 */

import { CloisterError, define, EnvelopeError } from "../errors.ts";
import { concat, uintBytes } from "../encoding/bytes.ts";
import { checkHeaders, type Headers, MAX_HEAD, MAX_HEADERS } from "./model.ts";

const [KNOWN_REQUEST, KNOWN_RESPONSE, OPEN_REQUEST, OPEN_RESPONSE] = [0, 1, 2, 3];
const MAX_INFORMATIONAL = 8;
const [SMALLEST, STEP] = [512, 64 << 10];
const CONTROL: readonly [name: string, form: RegExp][] = [
  ["method", /^[A-Z]{1,16}$/],
  ["scheme", /^[a-z][a-z0-9+.-]{0,15}$/],
  ["authority", /^[\x21-\x2e\x30-\x3e\x40-\x7e]{0,255}$/],
  ["path", /^(\/[\x21-\x7e]{0,8191}|\*)$/],
];

export const MALFORMED = define(
  "bhttp.malformed",
  EnvelopeError,
  "a message has the shape of RFC 9292: lengths that fit, zeros as padding",
  "encode the message again; it may have been damaged or cut",
);
export const TOO_LARGE = define(
  "bhttp.too_large",
  EnvelopeError,
  "a message stays within the caps on its content and its fields",
  "send less, or put large data into a blob",
  413,
);
export const BAD_FIELD = define(
  "bhttp.field",
  EnvelopeError,
  "control data and field lines are within their form: names are lower-case tokens, values printable",
  "compare the message with spec/ohttp.md 2",
);

/** A request. */
export interface BinaryRequest {
  readonly method: string;
  readonly scheme: string;
  readonly authority: string;
  readonly path: string;
  readonly headers: Headers;
  readonly content: Uint8Array;
  readonly trailers: Headers;
}

/** A final response, and what came before it. */
export interface BinaryResponse {
  readonly status: number;
  readonly headers: Headers;
  readonly content: Uint8Array;
  readonly trailers: Headers;
  readonly informational: readonly (readonly [status: number, headers: Headers])[];
}

/** What a message of `size` bytes grows to: powers of two from 512 to 64 KiB, then whole steps of 64 KiB. */
export function paddedSize(size: number): number {
  if (size >= STEP) return Math.ceil(size / STEP) * STEP;
  let grown = SMALLEST;
  while (grown < size) grown *= 2;
  return grown;
}

/** Framing indicator, control data and header fields. Throws EnvelopeError. */
export function encodeRequestHead(request: BinaryRequest, indeterminate = false): Uint8Array<ArrayBuffer> {
  const words = [request.method, request.scheme, request.authority, request.path];
  checkControl(words);
  const lead = varint(indeterminate ? OPEN_REQUEST! : KNOWN_REQUEST!);
  return concat(lead, ...words.map((word) => sized(latin(word))), section(request.headers, indeterminate));
}

/** The message, with zeros up to `size` bytes. Throws EnvelopeError. */
export function encodeRequest(request: BinaryRequest, indeterminate = false, size = 0): Uint8Array<ArrayBuffer> {
  const head = encodeRequestHead(request, indeterminate);
  return padded(concat(head, tail(request.content, request.trailers, indeterminate)), size);
}

/** The message, with zeros up to `size` bytes. Throws EnvelopeError. */
export function encodeResponse(response: BinaryResponse, indeterminate = false, size = 0): Uint8Array<ArrayBuffer> {
  const parts = [varint(indeterminate ? OPEN_RESPONSE! : KNOWN_RESPONSE!)];
  for (const [status, headers] of response.informational) {
    checkStatus(status, 100, 199);
    parts.push(varint(status), section(headers, indeterminate));
  }
  checkStatus(response.status, 200, 599);
  parts.push(varint(response.status), section(response.headers, indeterminate));
  return padded(concat(...parts, tail(response.content, response.trailers, indeterminate)), size);
}

/** Parse a request of either framing. Throws EnvelopeError: bhttp.malformed, bhttp.too_large, bhttp.field. */
export function decodeRequest(data: Uint8Array, maxContent: number): BinaryRequest {
  const reader = new Reader(data);
  const indeterminate = framing(reader, KNOWN_REQUEST!, OPEN_REQUEST!);
  const words = CONTROL.map(([name]) => text(reader.sized(MAX_HEAD, name)));
  checkControl(words);
  const headers = reader.fields(indeterminate);
  const [content, trailers] = reader.tail(indeterminate, maxContent);
  const [method, scheme, authority, path] = words as [string, string, string, string];
  return { method, scheme, authority, path, headers, content, trailers };
}

/** Parse a response of either framing. Throws EnvelopeError: bhttp.malformed, bhttp.too_large, bhttp.field. */
export function decodeResponse(data: Uint8Array, maxContent: number): BinaryResponse {
  const reader = new Reader(data);
  const { indeterminate, informational, status, headers } = readHead(reader);
  const [content, trailers] = reader.tail(indeterminate, maxContent);
  return { status, headers, content, trailers, informational };
}

/** A response up to its content. Throws as `decodeResponse` does. */
export function readHead(reader: Reader) {
  const indeterminate = framing(reader, KNOWN_RESPONSE!, OPEN_RESPONSE!);
  const informational: [number, Headers][] = [];
  let status = reader.varint("a status");
  while (status >= 100 && status <= 199) {
    if (informational.length >= MAX_INFORMATIONAL) {
      throw TOO_LARGE(`at most ${MAX_INFORMATIONAL} informational responses`, "more");
    }
    informational.push([status, reader.fields(indeterminate)]);
    status = reader.varint("a status");
  }
  checkStatus(status, 200, 599);
  return { indeterminate, informational, status, headers: reader.fields(indeterminate) };
}

/** What is left of a message. Every length is compared with it before a cut. */
export class Reader {
  #at = 0;

  constructor(readonly data: Uint8Array) {}

  get #left(): number {
    return this.data.length - this.#at;
  }

  /** Whether nothing is left. */
  get over(): boolean {
    return this.#left === 0;
  }

  /** A QUIC integer (RFC 9000 section 16), any of its spellings. One beyond 2^53 is beyond every cap too. */
  varint(what: string): number {
    if (this.#left === 0) throw MALFORMED(what, "the end of the message");
    const word = this.cut(1 << (this.data[this.#at]! >> 6), what);
    return word.subarray(1).reduce((sum, byte) => sum * 256 + byte, word[0]! & 0x3f);
  }

  cut(size: number, what: string): Uint8Array {
    if (size > this.#left) throw MALFORMED(`${what} of ${size} bytes`, `${this.#left} bytes`);
    this.#at += size;
    return this.data.slice(this.#at - size, this.#at);
  }

  sized(cap: number, what: string): Uint8Array {
    const size = this.varint(`the length of ${what}`);
    if (size > cap) throw TOO_LARGE(`${what} of at most ${cap} bytes`, `${size} bytes`);
    return this.cut(size, what);
  }

  /** One field section; none where the message ends here. */
  fields(indeterminate: boolean): Headers {
    if (this.#left === 0) return [];
    if (indeterminate) return this.#lines(this.data.length, true);
    const size = this.varint("the length of a field section");
    if (size > MAX_HEAD) throw TOO_LARGE(`fields of at most ${MAX_HEAD} bytes`, `${size} bytes`);
    if (size > this.#left) throw MALFORMED(`${size} bytes of fields`, `${this.#left} bytes`);
    return this.#lines(this.#at + size, false);
  }

  /** Content and trailers; the rest is padding. */
  tail(indeterminate: boolean, cap: number): [Uint8Array, Headers] {
    const content = this.#left === 0 ? new Uint8Array(0) : this.#content(indeterminate, cap);
    const trailers = this.fields(indeterminate);
    if (this.data.subarray(this.#at).some((byte) => byte !== 0)) throw MALFORMED("zeros as padding", "other bytes");
    return [content, trailers];
  }

  #content(indeterminate: boolean, cap: number): Uint8Array {
    if (!indeterminate) return this.sized(cap, "content");
    const chunks: Uint8Array[] = [];
    let left = cap;
    for (let size = this.varint("the length of a chunk"); size; size = this.varint("the length of a chunk")) {
      if (size > left) throw TOO_LARGE(`content of at most ${cap} bytes`, "more");
      chunks.push(this.cut(size, "a chunk"));
      left -= size;
    }
    return concat(...chunks);
  }

  #lines(end: number, stop: boolean): Headers {
    const start = this.#at;
    const lines: [string, string][] = [];
    while (stop || this.#at < end) {
      const size = this.varint("the length of a name");
      if (size === 0 && stop) break;
      if (lines.length >= MAX_HEADERS || this.#at - start > MAX_HEAD) {
        throw TOO_LARGE(`at most ${MAX_HEADERS} fields in ${MAX_HEAD} bytes`, "more");
      }
      lines.push([text(this.cut(size, "a name")), text(this.sized(MAX_HEAD, "a value"))]);
    }
    if (!stop && this.#at !== end) throw MALFORMED("field lines that end with their section", "one that goes beyond");
    checkFields(lines);
    return lines;
  }
}

function framing(reader: Reader, known: number, open: number): boolean {
  const found = reader.varint("a framing indicator");
  if (found !== known && found !== open) throw MALFORMED(`framing indicator ${known} or ${open}`, String(found));
  return found === open;
}

function checkControl(words: readonly string[]): void {
  CONTROL.forEach(([name, form], i) => {
    if (!form.test(words[i]!)) throw BAD_FIELD(`${name} of its form`, `${words[i]!.length} characters of another`);
  });
}

function checkStatus(status: number, low: number, high: number): void {
  if (!(status >= low && status <= high)) throw BAD_FIELD(`a status in ${low}..${high}`, String(status));
}

function checkFields(headers: Headers): void {
  try {
    checkHeaders(headers);
  } catch (error) {
    throw error instanceof CloisterError ? BAD_FIELD(error.expected, error.found) : error;
  }
}

/** The shortest spelling of a QUIC integer (RFC 9000 section 16). */
export function varint(value: number): Uint8Array<ArrayBuffer> {
  const power = [1 << 6, 1 << 14, 2 ** 30, 2 ** 53].findIndex((limit) => value < limit);
  if (power < 0) throw new RangeError("a length beyond 53 bits");
  const word = uintBytes(value, 1 << power);
  word[0]! |= power << 6;
  return word;
}

function sized(data: Uint8Array): Uint8Array<ArrayBuffer> {
  return concat(varint(data.length), data);
}

function section(headers: Headers, indeterminate: boolean): Uint8Array<ArrayBuffer> {
  checkFields(headers);
  const lines = concat(...headers.flatMap(([name, value]) => [sized(latin(name)), sized(latin(value))]));
  if (lines.length > MAX_HEAD) throw TOO_LARGE(`fields of at most ${MAX_HEAD} bytes`, `${lines.length} bytes`);
  return indeterminate ? concat(lines, Uint8Array.of(0)) : sized(lines);
}

function tail(content: Uint8Array, trailers: Headers, indeterminate: boolean): Uint8Array<ArrayBuffer> {
  const end = indeterminate ? Uint8Array.of(0) : new Uint8Array(0);
  const body = indeterminate && content.length === 0 ? end : concat(sized(content), end);
  return concat(body, section(trailers, indeterminate));
}

function padded(message: Uint8Array, size: number): Uint8Array<ArrayBuffer> {
  return concat(message, new Uint8Array(Math.max(0, size - message.length)));
}

/** Latin-1: forms are checked before, so every character is one byte. */
function latin(words: string): Uint8Array {
  return Uint8Array.from(words, (letter) => letter.charCodeAt(0));
}

function text(data: Uint8Array): string {
  return Array.from(data, (byte) => String.fromCharCode(byte)).join("");
}

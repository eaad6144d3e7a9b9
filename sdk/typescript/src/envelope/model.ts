/** The nouns of sealed HTTP: heads, callers, the request record and its caps (spec/sealed-http.md 4, 5). */

import { define, EnvelopeError, isObject } from "../errors.ts";
import { concat, readU32, u64, uintBytes, utf8 } from "../encoding/bytes.ts";
import { Context, frame } from "../encoding/contexts.ts";
import { parse } from "../encoding/jcs.ts";

export const MAGIC = utf8("CLS1");
export const KIND_SESSION = 1;
export const KIND_ONE_SHOT = 2;
export const FLAG_IBE = 1;
export const FLAG_XWING = 2;
export const HEADER_SIZE = 142;
export const MAX_HEAD = 64 * 1024;
export const MAX_CHUNK = 256 * 1024;
export const MAX_HEADERS = 128;
export const TAG = 16;
export const PSK_SIZE = 32;
/** Of a contract account. */
export const MAX_SIGNATURE = 4096;
export const CALLER_EXPORT = frame(Context.SEALED_INFO, utf8("caller"));

/** Header pairs in order; names in lower case. */
export type Headers = readonly (readonly [name: string, value: string])[];

export const MALFORMED = define(
  "envelope.malformed",
  EnvelopeError,
  "a sealed message has the shape of spec/sealed-http.md",
  "use a client of the same protocol version; the message may have been damaged on its way",
);
export const TOO_LARGE = define(
  "envelope.too_large",
  EnvelopeError,
  "a sealed message stays within its caps",
  "send less, or put large data into a blob",
  413,
);
export const BAD_HEAD = define(
  "envelope.head",
  EnvelopeError,
  "a head has exactly its fields, each within its form",
  "compare the head with spec/sealed-http.md 5",
);

const METHOD = /^[A-Z]{1,16}$/;
const PATH = /^\/[\x21-\x7e]{0,8191}$/;
const NAME = /^[!#$%&'*+\-.^_`|~0-9a-z]{1,256}$/;
const VALUE = /^[\t\x20-\x7e\x80-\xff]{0,16384}$/;
const IDEM = /^[\x20-\x7e]{1,128}$/;
const REQUEST_ID = /^0x[0-9a-f]{32}$/;

/** Left out for a wallet. */
export type CallerKind = "contract" | "apikey";

/**
 * Who opens the session: an address, an expiry (Unix seconds) and its word over the session, bytes as hex.
 *
 * A wallet's or contract account's address and signature; an API key's id and MAC (spec/sealed-http.md 9, 11, 12).
 */
export interface Caller {
  address: string;
  expiry: number;
  signature: string;
  kind?: CallerKind;
}

/** The head of a sealed request. `requestId` is 0x and 32 hex digits; `path` includes the query. */
export interface RequestHead {
  requestId: string;
  method: string;
  path: string;
  deadlineMs: number;
  headers: Headers;
  idempotencyKey?: string;
  caller?: Caller;
}

/** The head of a sealed answer. `checkpoint` is the height that the worker answered at. */
export interface ResponseHead {
  status: number;
  headers: Headers;
  checkpoint: number;
}

/** The head's bytes as they are sealed. Throws EnvelopeError (envelope.head) for a field out of its form. */
export function encodeRequestHead(head: RequestHead): Uint8Array {
  match(REQUEST_ID, "request id", head.requestId);
  match(METHOD, "method", head.method);
  match(PATH, "path", head.path);
  if (!Number.isSafeInteger(head.deadlineMs) || head.deadlineMs < 0) {
    throw BAD_HEAD("a deadline in Unix milliseconds", String(head.deadlineMs).slice(0, 40));
  }
  if (head.idempotencyKey !== undefined) match(IDEM, "idempotency key", head.idempotencyKey);
  checkHeaders(head.headers);
  return capped({
    id: head.requestId,
    m: head.method,
    p: head.path,
    d: head.deadlineMs,
    h: head.headers,
    idem: head.idempotencyKey ?? null,
    c: head.caller ?? null,
    v: 1,
  });
}

/** Parse and check a response head. Throws EnvelopeError (envelope.head). */
export function decodeResponseHead(data: Uint8Array): ResponseHead {
  const value = parse(data);
  if (!isObject(value) || !onlyKeys(value, ["status", "checkpoint"], ["h"])) {
    throw BAD_HEAD("a response head", "another form");
  }
  const { status, checkpoint, h: headers = [] } = value;
  if (!isUint(status) || status < 100 || status > 599 || !isUint(checkpoint)) {
    throw BAD_HEAD("a status in 100..599 and a height", `status ${status}`.slice(0, 40));
  }
  if (!isHeaders(headers)) throw BAD_HEAD("headers as pairs of texts", "another form");
  checkHeaders(headers);
  return { status, headers, checkpoint };
}

/** Throw EnvelopeError unless names are lower-case tokens and values printable Latin-1 (no line breaks). */
export function checkHeaders(headers: Headers): void {
  if (headers.length > MAX_HEADERS) throw BAD_HEAD(`at most ${MAX_HEADERS} headers`, String(headers.length));
  for (const [name, value] of headers) {
    if (!NAME.test(name)) throw BAD_HEAD("header names as lower-case tokens", JSON.stringify(name).slice(0, 80));
    if (!VALUE.test(value)) throw BAD_HEAD(`a printable value of header ${name}`, "other characters or over 16 KiB");
  }
}

/** The fields of a record's header: 142 bytes. */
export interface RecordHeader {
  kind: number;
  flags: number;
  boot: Uint8Array;
  certificateId: Uint8Array;
  enc: Uint8Array;
  pskId: Uint8Array;
  seq: number;
}

/** The header's bytes. */
export function encodeHeader(header: RecordHeader): Uint8Array {
  const { kind, flags, boot, certificateId, enc, pskId, seq } = header;
  return concat(MAGIC, Uint8Array.of(kind, flags), boot, certificateId, enc, pskId, u64(seq));
}

/** What the request's AEAD authenticates besides the plaintext. */
export function requestAad(header: Uint8Array, agent: Uint8Array): Uint8Array {
  return frame(Context.SEALED_REQUEST, header, agent);
}

/** The record's bytes. `sent`: encapsulation and IBE ciphertext; empty exactly if the header's flag says so. */
export function encodeRecord(header: Uint8Array, sent: Uint8Array, ciphertext: Uint8Array): Uint8Array<ArrayBuffer> {
  return concat(header, uintBytes(sent.length, 2), sent, ciphertext);
}

/** u32 head length ‖ head ‖ body. */
export function encodePlaintext(head: Uint8Array, body: Uint8Array): Uint8Array {
  return concat(uintBytes(head.length, 4), head, body);
}

/** [head bytes, body]. Throws EnvelopeError. */
export function splitPlaintext(data: Uint8Array): [Uint8Array, Uint8Array] {
  const size = data.length < 4 ? MAX_HEAD + 1 : readU32(data, 0);
  if (size > MAX_HEAD || 4 + size > data.length) {
    throw MALFORMED("a head and a body", `a head of ${size} in ${data.length} bytes`);
  }
  return [data.subarray(4, 4 + size), data.subarray(4 + size)];
}

/** Whether an object has all of `needed`, perhaps some of `optional`, and nothing else. */
export function onlyKeys(value: object, needed: readonly string[], optional: readonly string[] = []): boolean {
  const keys = Object.keys(value);
  return needed.every((key) => keys.includes(key)) && keys.every((k) => needed.includes(k) || optional.includes(k));
}

function capped(value: unknown): Uint8Array {
  const data = utf8(JSON.stringify(value));
  if (data.length > MAX_HEAD) throw TOO_LARGE(`a head of at most ${MAX_HEAD} bytes`, `${data.length} bytes`);
  return data;
}

function isUint(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

function isHeaders(value: unknown): value is Headers {
  const isPair = (p: unknown) => Array.isArray(p) && p.length === 2 && p.every((t) => typeof t === "string");
  return Array.isArray(value) && value.every(isPair);
}

function match(pattern: RegExp, name: string, text: string): void {
  if (!pattern.test(text)) throw BAD_HEAD(`${name} of the form ${pattern.source}`, JSON.stringify(text).slice(0, 80));
}

/**
 * The response stream, the client's end (spec/sealed-http.md 7, 8).
 *
 * States: rand (32 bytes) -> head (chunk 0) -> body (chunks) -> done (the final chunk came). An error chunk may end it
 * from head or body. Anything else is refused, and the opener stays refused.
 */

import { sha256 } from "@noble/hashes/sha2.js";
import { CloisterError, define, EnvelopeError, fromWire, isObject } from "../errors.ts";
import { concat, equalBytes, readU32, utf8 } from "../encoding/bytes.ts";
import { fromHex } from "../encoding/hexes.ts";
import { parse } from "../encoding/jcs.ts";
import type { Context as SealedContext } from "../keys/hpke.ts";
import { BatchPath } from "../receipts/batch.ts";
import { responseCommitment } from "../receipts/commitments.ts";
import {
  BAD_HEAD,
  decodeResponseHead,
  type Headers,
  MALFORMED,
  MAX_CHUNK,
  onlyKeys,
  type ResponseHead,
  TAG,
  TOO_LARGE,
} from "./model.ts";
import { AnswerCipher, RAND_SIZE } from "./stream.ts";

const PREFIX = 5;
const MAX_INDEX = 2 ** 32;
const LEAD = utf8('{"receipt":');
// What follows a receipt. A receipt holds no such text, and it is no longer than MAX_TAIL.
const TAIL = /,"signature":"(0x[0-9a-f]{130})"(?:,"batch":(\{"first":\d+,"path":"0x[0-9a-f]*","size":\d+\}))?\}$/;
const MAX_TAIL = 1024;

export const TRUNCATED = define(
  "envelope.truncated",
  EnvelopeError,
  "the response stream ends with its final chunk",
  "the connection broke or somebody cut the answer; repeat if the request is safe to repeat",
  502,
);

/** First event: status, headers and the height that the worker answered at. */
export interface Head {
  type: "head";
  status: number;
  headers: Headers;
  checkpoint: number;
}
/** Some bytes of the body, in order. */
export interface Body {
  type: "body";
  data: Uint8Array;
}
/** Last event of a good answer: the receipt's canonical bytes and the worker's 65-byte signature. */
export interface Final {
  type: "final";
  receipt: Uint8Array;
  signature: Uint8Array;
  /** The receipt's place in what was signed; not there if it was signed alone. */
  batch?: BatchPath;
}
/** Last event of a failed answer: the worker's sealed refusal. */
export interface Failed {
  type: "failed";
  error: CloisterError;
}
export type Event = Head | Body | Final | Failed;

type State = "rand" | "head" | "body" | "done" | "refused";
const WAITING: Readonly<Record<State, string>> = {
  rand: "waiting for the random part",
  head: "waiting for the head",
  body: "waiting for the body or the end",
  done: "the final chunk came",
  refused: "a check failed",
};

/** What an opener needs. `onAuthentic` is called once, when the first chunk opened: `answered` if it is a head. */
export interface OpenerOptions {
  context: SealedContext;
  seq: number;
  requestId: Uint8Array;
  maxBody: number;
  onAuthentic?: (answered: boolean) => void;
}

/** The client's end: feed it what arrives, in pieces of any size, and take the events. */
export class Opener {
  #state: State = "rand";
  #parts: Uint8Array[] = [];
  #held = 0;
  #cipher?: AnswerCipher;
  #index = 0;
  #head?: ResponseHead;
  #bodyBytes = 0;
  readonly #hash = sha256.create();

  constructor(readonly options: OpenerOptions) {}

  /** The events that these bytes complete. Throws EnvelopeError; after that the answer is lost for good. */
  feed(data: Uint8Array): Event[] {
    if (this.#state === "refused") throw TRUNCATED("an intact answer", "bytes after a failed check");
    try {
      this.#parts.push(data);
      this.#held += data.length;
      return this.#drain();
    } catch (error) {
      this.#state = "refused";
      throw error;
    }
  }

  /**
   * Say that the stream ended: no event comes with that. Throws EnvelopeError (envelope.truncated) unless the final chunk
   * came.
   */
  close(): Event[] {
    if (this.#state !== "done") throw TRUNCATED("a final chunk", `the end, ${WAITING[this.#state]}`);
    return [];
  }

  /** The salted commitment to what was received (spec/receipts.md 3). Throws EnvelopeError before the head. */
  commitment(salt: Uint8Array): Uint8Array {
    if (!this.#head) throw TRUNCATED("a head", "none");
    return responseCommitment(salt, this.#head.status, this.#head.headers, this.#hash.clone().digest());
  }

  #drain(): Event[] {
    const events: Event[] = [];
    if (this.#state === "rand" && this.#held >= RAND_SIZE) this.#begin(this.#take(RAND_SIZE));
    while ((this.#state === "head" || this.#state === "body") && this.#held >= PREFIX) {
      const prefix = this.#peek(PREFIX);
      const [size, last] = [readU32(prefix, 0), prefix[4]!];
      if (size < TAG || size > MAX_CHUNK + TAG || last > 1) {
        throw MALFORMED("a chunk of at most 256 KiB", `${size} bytes, flag ${last}`);
      }
      if (this.#held < PREFIX + size) break;
      events.push(this.#chunk(last === 1, this.#take(PREFIX + size).subarray(PREFIX)));
    }
    if (this.#state === "done" && this.#held) throw MALFORMED("nothing after the final chunk", `${this.#held} bytes`);
    return events;
  }

  #begin(rand: Uint8Array): void {
    const { context, seq, requestId } = this.options;
    this.#cipher = new AnswerCipher(context, seq, requestId, rand);
    this.#state = "head";
  }

  #peek(size: number): Uint8Array {
    if (this.#parts[0]!.length < size) this.#parts = [concat(...this.#parts)];
    return this.#parts[0]!.subarray(0, size);
  }

  #take(size: number): Uint8Array {
    const found = this.#peek(size);
    const rest = this.#parts[0]!.subarray(size);
    if (rest.length) this.#parts[0] = rest;
    else this.#parts.shift();
    this.#held -= size;
    return found;
  }

  #chunk(last: boolean, text: Uint8Array): Event {
    if (!this.#cipher || this.#index >= MAX_INDEX) throw MALFORMED("a chunk within the stream", `index ${this.#index}`);
    const data = this.#cipher.open(this.#index, last, text);
    const first = this.#index++ === 0;
    if (first) this.options.onAuthentic?.(!last);
    if (last) this.#state = "done";
    if (last) return end(data, first);
    return first ? this.#first(data) : this.#body(data);
  }

  #first(data: Uint8Array): Head {
    this.#head = decodeResponseHead(data);
    this.#state = "body";
    return { type: "head", ...this.#head };
  }

  #body(data: Uint8Array): Body {
    this.#bodyBytes += data.length;
    if (this.#bodyBytes > this.options.maxBody) {
      throw TOO_LARGE(`a body of at most ${this.options.maxBody} bytes`, "more");
    }
    this.#hash.update(data);
    return { type: "body", data };
  }
}

/** The last chunk: a failure, or (never as the first chunk) the receipt. */
function end(data: Uint8Array, first: boolean): Final | Failed {
  return !first && equalBytes(data.subarray(0, LEAD.length), LEAD) ? receiptOf(data) : failureOf(data);
}

/** A refusal: {status, error}. Throws EnvelopeError. */
export function failureOf(data: Uint8Array): Failed {
  const value = parse(data);
  if (!isObject(value) || !onlyKeys(value, ["status", "error"]) || !isTexts(value["error"])) {
    throw BAD_HEAD("a failure", "another form");
  }
  const status = value["status"];
  if (typeof status !== "number" || !Number.isInteger(status) || status < 400 || status > 599) {
    throw MALFORMED("a status in 400..599", String(status).slice(0, 20));
  }
  return { type: "failed", error: fromWire(value["error"], status) };
}

/**
 * {"receipt":…,"signature":"0x…"} with {"batch":…} after it or not: the receipt is cut out as it is, since its very bytes
 * are signed.
 */
export function receiptOf(data: Uint8Array): Final {
  const led = equalBytes(data.subarray(0, LEAD.length), LEAD);
  const found = led && TAIL.exec(latin1(data.subarray(Math.max(data.length - MAX_TAIL, LEAD.length))));
  if (!found) throw BAD_HEAD("a receipt and a signature", "another form");
  const final: Final = {
    type: "final",
    receipt: data.slice(LEAD.length, data.length - found[0].length),
    signature: fromHex(found[1], 65, "receipt signature"),
  };
  if (found[2] !== undefined) final.batch = BatchPath.fromJson(parse(utf8(found[2])));
  return final;
}

/** One character per byte, so that a place in the text is a place in the bytes. */
function latin1(data: Uint8Array): string {
  return String.fromCharCode(...data);
}

function isTexts(value: unknown): boolean {
  return isObject(value) && Object.values(value).every((text) => typeof text === "string");
}

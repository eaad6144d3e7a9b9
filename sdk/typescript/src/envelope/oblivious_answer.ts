/**
 * Answers to oblivious calls, the client's end: one message, or chunks (spec/ohttp.md 7, 11).
 *
 * An opener has the states of `Opener`: a head, the body, the end; a refusal may come instead of each. What it refused
 * stays refused.
 */

import { sha256 } from "@noble/hashes/sha2.js";
import { define, EnvelopeError } from "../errors.ts";
import { concat } from "../encoding/bytes.ts";
import { responseCommitment } from "../receipts/commitments.ts";
import { type BinaryResponse, decodeResponse, Reader, readHead } from "./bhttp.ts";
import { type Headers, TOO_LARGE } from "./model.ts";
import { type Exchange, TOO_LARGE as MESSAGE_TOO_LARGE } from "./ohttp.ts";
import { ChunkOpener } from "./ohttp_chunks.ts";
import { type Body, type Event, type Failed, failureOf, type Final, type Head, receiptOf } from "./opener.ts";

export const MAX_ANSWER = 16 << 20;
/** Body bytes of an answer in chunks. */
export const MAX_STREAM = 64 << 20;
export const RESERVED = "cloister-";
const CHECKPOINT = "cloister-checkpoint";
const REFUSAL = "cloister-refusal";
const FAILURE = "cloister-failure";
const RECEIPT = "cloister-receipt";

export const BAD_FIELD = define(
  "oblivious.field",
  EnvelopeError,
  "a request has every field that spec/ohttp.md 5 demands, once and in its form, and no other of that name",
  "use a client of this version, or compare the request with spec/ohttp.md 5",
);
export const BAD_ANSWER = define(
  "oblivious.answer",
  EnvelopeError,
  "an answer is a response with checkpoint and receipt, or a refusal with its code",
  "the worker does not speak this version; take another seat",
  502,
);

/** What both have: the head that came, and what the receipt must say of the response. */
abstract class AnswerOpener {
  protected head: Head | undefined;
  protected readonly hash = sha256.create();

  /** The events that these bytes complete. Throws EnvelopeError; after that the answer is lost for good. */
  abstract feed(data: Uint8Array): Event[];
  /** Say that the stream ended: the events that this completes. Throws EnvelopeError for what is no answer to its end. */
  abstract close(): Event[];

  /** The salted commitment to what was received (spec/receipts.md 3). Throws EnvelopeError before the head. */
  commitment(salt: Uint8Array): Uint8Array {
    if (!this.head) throw BAD_ANSWER("a head", "none");
    return responseCommitment(salt, this.head.status, this.head.headers, this.hash.clone().digest());
  }
}

/** Opens an answer that is one message: nothing of it counts before `close`. */
export class WholeOpener extends AnswerOpener {
  readonly #parts: Uint8Array[] = [];
  #size = 0;

  constructor(readonly exchange: Exchange) {
    super();
  }

  feed(data: Uint8Array): Event[] {
    this.#size += data.length;
    if (this.#size > MAX_ANSWER) throw MESSAGE_TOO_LARGE(`at most ${MAX_ANSWER} bytes`, "more");
    this.#parts.push(data);
    return [];
  }

  close(): Event[] {
    const message = this.exchange.openResponse(concat(...this.#parts), MAX_ANSWER);
    const response = decodeResponse(message, MAX_ANSWER);
    const events = eventsOf(response);
    if (events[0]?.type === "head") {
      this.head = events[0];
      this.hash.update(response.content);
    }
    return events;
  }
}

/** Opens an answer in chunks: the head, some of the body in each, and the end, which comes with `close`. */
export class StreamOpener extends AnswerOpener {
  readonly #chunks: ChunkOpener;
  #bodyBytes = 0;

  constructor(exchange: Exchange, readonly maxBody: number = MAX_STREAM) {
    super();
    this.#chunks = new ChunkOpener(exchange);
  }

  feed(data: Uint8Array): Event[] {
    try {
      return this.#chunks.feed(data).map((text) => this.#event(text));
    } catch (error) {
      this.#chunks.drop();
      throw error;
    }
  }

  close(): Event[] {
    const text = this.#chunks.close();
    if (this.head) return [endOf(new Reader(text).tail(true, 0)[1])];
    const refused = refusalOf(decodeResponse(text, MAX_ANSWER));
    if (refused) return [refused];
    throw BAD_ANSWER("a head before the end, or a refusal", "an answer in its end");
  }

  #event(text: Uint8Array): Head | Body {
    const reader = new Reader(text);
    if (!this.head) {
      const { indeterminate, status, headers } = readHead(reader);
      if (!indeterminate || !reader.over) {
        throw BAD_ANSWER("a head alone, of indeterminate length", "something else");
      }
      return this.head = headFrom(status, headers);
    }
    const pieces: Uint8Array[] = [];
    while (!reader.over) pieces.push(reader.sized(text.length, "content"));
    if (!pieces.length || pieces.some((one) => !one.length)) throw BAD_ANSWER("some content in each chunk", "none");
    const data = concat(...pieces);
    this.#bodyBytes += data.length;
    if (this.#bodyBytes > this.maxBody) throw TOO_LARGE(`a body of at most ${this.maxBody} bytes`, "more");
    this.hash.update(data);
    return { type: "body", data };
  }
}

/** The events of a whole answer: one refusal, or head, body and end. Throws EnvelopeError by name. */
export function eventsOf(response: BinaryResponse): Event[] {
  const refused = refusalOf(response);
  if (refused) return [refused];
  const head = headFrom(response.status, response.headers);
  const final = endOf(response.trailers);
  if (final.type === "failed") throw BAD_ANSWER("a receipt", "a failure after the head");
  const { content: data } = response;
  return data.length ? [head, { type: "body", data }, final] : [head, final];
}

function headFrom(status: number, headers: Headers): Head {
  const ours = headers.filter(([name]) => name.startsWith(RESERVED));
  const [first] = ours;
  if (ours.length !== 1 || first?.[0] !== CHECKPOINT) {
    throw BAD_ANSWER("one checkpoint", namesOf(ours));
  }
  const theirs = headers.filter(([name]) => !name.startsWith(RESERVED));
  return { type: "head", status, headers: theirs, checkpoint: numberOf(first[1]) };
}

function endOf(trailers: Headers): Final | Failed {
  const [last] = trailers;
  if (trailers.length !== 1 || !last || (last[0] !== RECEIPT && last[0] !== FAILURE)) {
    throw BAD_ANSWER("one receipt", namesOf(trailers));
  }
  const said = Uint8Array.from(last[1], (letter) => letter.charCodeAt(0));
  return last[0] === FAILURE ? failureOf(said) : receiptOf(said);
}

function refusalOf(response: BinaryResponse): Failed | undefined {
  const code = response.headers.find(([name]) => name === REFUSAL)?.[1];
  if (code === undefined) return undefined;
  const failed = failureOf(response.content);
  if (failed.error.code === code) return failed;
  throw BAD_ANSWER("a refusal that says what its field says", code.slice(0, 80));
}

function namesOf(headers: Headers): string {
  return headers.map(([name]) => name).join(", ").slice(0, 120) || "none";
}

function numberOf(text: string): number {
  if (!/^(0|[1-9][0-9]{0,15})$/.test(text)) throw BAD_FIELD(`${CHECKPOINT} as a number`, text.slice(0, 40));
  return Number(text);
}

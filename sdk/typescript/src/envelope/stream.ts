/** The cipher of one answer (spec/sealed-http.md 7): chunk i opens only as chunk i of this request and this attempt. */

import { gcm } from "@noble/ciphers/aes.js";
import { define, EnvelopeError } from "../errors.ts";
import { concat, u64, uintBytes } from "../encoding/bytes.ts";
import { Context, frame } from "../encoding/contexts.ts";
import type { Context as SealedContext } from "../keys/hpke.ts";

export const RAND_SIZE = 32;

export const NOT_AUTHENTIC = define(
  "envelope.not_authentic",
  EnvelopeError,
  "the message opens under the keys of this session, in its place",
  "open a new session; the message was altered, reordered, or belongs to another request",
  403,
);

/** Key and associated data of one answer. */
export class AnswerCipher {
  readonly #key: Uint8Array;

  constructor(context: SealedContext, readonly seq: number, readonly requestId: Uint8Array, rand: Uint8Array) {
    this.#key = context.export(frame(Context.SEALED_RESPONSE, u64(seq), rand), 32);
  }

  /** Chunk `index` as it travels: length, flag, ciphertext. Only a worker seals; a client's tests do too. */
  seal(index: number, last: boolean, data: Uint8Array): Uint8Array {
    const text = gcm(this.#key, uintBytes(index, 12), this.#bound(index, last)).encrypt(data);
    return concat(uintBytes(text.length, 4), Uint8Array.of(last ? 1 : 0), text);
  }

  /** The data of chunk `index`. Throws EnvelopeError (envelope.not_authentic). */
  open(index: number, last: boolean, text: Uint8Array): Uint8Array {
    try {
      return gcm(this.#key, uintBytes(index, 12), this.#bound(index, last)).decrypt(text);
    } catch {
      throw NOT_AUTHENTIC(`chunk ${index} of this answer`, "another chunk");
    }
  }

  #bound(index: number, last: boolean): Uint8Array {
    return frame(Context.SEALED_RESPONSE, u64(this.seq), this.requestId, u64(index), Uint8Array.of(last ? 1 : 0));
  }
}

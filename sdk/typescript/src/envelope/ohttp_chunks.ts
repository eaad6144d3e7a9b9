/**
 * Responses of Oblivious HTTP in chunks (draft-ietf-ohai-chunked-ohttp-08, section 6.2; spec/ohttp.md 11).
 *
 * nonce ‖ chunks; a chunk is its length (RFC 9000 section 16) and its ciphertext, the final one a length of zero and what
 * is left. Its number is in its nonce, and whether it is the final one in its associated data.
 */

import { define, EnvelopeError } from "../errors.ts";
import { concat } from "../encoding/bytes.ts";
import { needBytes } from "../encoding/hexes.ts";
import { cipherOf } from "../keys/hpke.ts";
import { varint } from "./bhttp.ts";
import { type Exchange, FINAL, MALFORMED, NOT_AUTHENTIC, TOO_LARGE } from "./ohttp.ts";

const TAG = 16;
const MAX_CHUNK = 256 << 10;
const MOST = MAX_CHUNK + TAG;
const MAX_NUMBER = 2 ** 32;
const NOTHING = new Uint8Array(0);

export const TRUNCATED = define(
  "ohttp.truncated",
  EnvelopeError,
  "an answer in chunks ends with its final chunk",
  "the connection broke or somebody cut the answer; repeat if the request is safe to repeat",
  502,
);

/** Key and counter of one response. Either end holds one, and passes every chunk through it in order. */
export class ChunkCipher {
  readonly #key: Uint8Array;
  readonly #iv: Uint8Array;
  #number = 0;

  constructor(readonly exchange: Exchange, nonce: Uint8Array) {
    const { key, iv } = exchange.keys(needBytes("response nonce", nonce, exchange.nonceSize));
    [this.#key, this.#iv] = [key, iv];
  }

  /** The next chunk, as it travels. */
  seal(data: Uint8Array, last: boolean): Uint8Array<ArrayBuffer> {
    const text = this.#next(last).encrypt(data);
    return concat(varint(last ? 0 : text.length), text);
  }

  /** The data of the next chunk, by its ciphertext. Throws EnvelopeError (ohttp.not_authentic). */
  open(text: Uint8Array, last: boolean): Uint8Array {
    const number = this.#number;
    const cipher = this.#next(last);
    try {
      return cipher.decrypt(text);
    } catch {
      throw NOT_AUTHENTIC(`chunk ${number} of this answer`, "another chunk");
    }
  }

  #next(last: boolean) {
    if (this.#number >= MAX_NUMBER) throw NOT_AUTHENTIC(`at most ${MAX_NUMBER} chunks`, "more");
    const nonce = this.#iv.slice();
    const end = new DataView(nonce.buffer, nonce.length - 4);
    end.setUint32(0, (end.getUint32(0) ^ this.#number++) >>> 0);
    return cipherOf(this.exchange.aead)(this.#key, nonce, last ? FINAL : NOTHING);
  }
}

/** Feed it what arrives, in pieces of any size. The final chunk ends where the stream does: `close` opens it. */
export class ChunkOpener {
  #held: Uint8Array = NOTHING;
  #cipher: ChunkCipher | undefined;
  #last = false;
  #refused = false;

  constructor(readonly exchange: Exchange) {}

  /**
   * The data of each chunk that these bytes complete; never the final one's.
   *
   * Throws EnvelopeError: ohttp.malformed, ohttp.too_large, ohttp.not_authentic. After that nothing opens.
   */
  feed(data: Uint8Array): Uint8Array[] {
    if (this.#refused) throw TRUNCATED("an intact answer", "bytes after a failed check");
    this.#refused = true;
    this.#held = concat(this.#held, data);
    const opened = this.#drained();
    this.#refused = false;
    return opened;
  }

  /** What opened was no answer: nothing opens any more. */
  drop(): void {
    this.#refused = true;
  }

  /** Say that the stream ended: the data of the final chunk. Throws EnvelopeError: ohttp.truncated where there is none. */
  close(): Uint8Array {
    if (this.#refused || !this.#cipher || !this.#last || this.#held.length < TAG) {
      throw TRUNCATED("a final chunk", `the end, ${this.#held.length} bytes into another`);
    }
    this.#refused = true; // there is one end
    return this.#cipher.open(this.#held, true);
  }

  #drained(): Uint8Array[] {
    const size = this.exchange.nonceSize;
    if (!this.#cipher && this.#held.length >= size) {
      this.#cipher = new ChunkCipher(this.exchange, this.#held.slice(0, size));
      this.#held = this.#held.subarray(size);
    }
    const opened: Uint8Array[] = [];
    while (this.#cipher && !this.#last) {
      const length = lengthOf(this.#held);
      if (!length) break;
      const [size, start] = length;
      if (size && (size < TAG || size > MOST)) throw MALFORMED(`a chunk of ${TAG} to ${MOST} bytes`, `${size} bytes`);
      if (this.#held.length < start + size) break;
      if (size) opened.push(this.#cipher.open(this.#held.subarray(start, start + size), false));
      else this.#last = true;
      this.#held = this.#held.subarray(start + size);
    }
    if (this.#held.length > MOST + 8) throw TOO_LARGE(`a final chunk of at most ${MOST} bytes`, "more");
    return opened;
  }
}

/** [length, where it ends], in any spelling; nothing where it is cut. One beyond 2^53 is beyond every cap too. */
function lengthOf(data: Uint8Array): [size: number, end: number] | undefined {
  const end = data.length ? 1 << (data[0]! >> 6) : 1;
  if (end > data.length) return undefined;
  return [data.subarray(1, end).reduce((sum, byte) => sum * 256 + byte, data[0]! & 0x3f), end];
}

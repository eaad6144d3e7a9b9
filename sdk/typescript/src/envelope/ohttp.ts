/**
 * Oblivious HTTP (RFC 9458): key configurations, encapsulated requests and responses (spec/ohttp.md 1, 3).
 *
 * The size of a configuration's public key says which KEM: 32 bytes DHKEM(X25519, HKDF-SHA256); 1216 bytes X-Wing.
 */

import { hmac } from "@noble/hashes/hmac.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { CloisterError, define, EnvelopeError } from "../errors.ts";
import { concat, equalBytes, type Rng, uintBytes, utf8 } from "../encoding/bytes.ts";
import { needBytes } from "../encoding/hexes.ts";
import {
  AES_128_GCM,
  AES_256_GCM,
  CHACHA20_POLY1305,
  cipherOf,
  type Context,
  KEY_SIZES,
  setupRecipient,
  setupSender,
} from "../keys/hpke.ts";
import { ENC_SIZE as XWING_ENC, PUBLIC_SIZE as XWING_PUBLIC, type XWingKey } from "../keys/xwing.ts";

export const KEM_X25519 = 0x0020;
export const KEM_XWING = 0x647a;
const KDF_SHA256 = 1;
const [HDR_SIZE, TAG, NONCE] = [7, 16, 12];
const NOTHING = new Uint8Array(0);
/** Bytes of a public key and of an encapsulation, by KEM. */
const KEMS: Readonly<Record<number, readonly [publicKey: number, enc: number]>> = {
  [KEM_X25519]: [32, 32],
  [KEM_XWING]: [XWING_PUBLIC, XWING_ENC],
};
const [MAX_PAIRS, MAX_CONFIGS] = [22, 16];
export const MAX_CONFIG = 5 + XWING_PUBLIC + 4 * MAX_PAIRS;
/** What a final chunk is bound to, besides its place. */
export const FINAL = utf8("final");
const REQUEST = utf8("message/bhttp request\0");
const RESPONSE = utf8("message/bhttp response");
const CHUNKED_REQUEST = utf8("message/bhttp chunked request\0");
const CHUNKED_RESPONSE = utf8("message/bhttp chunked response");

export const MALFORMED = define(
  "ohttp.malformed",
  EnvelopeError,
  "key configurations and encapsulated messages have the shape of RFC 9458",
  "fetch the key configuration again and encapsulate anew; the bytes may have been damaged",
);
export const TOO_LARGE = define(
  "ohttp.too_large",
  EnvelopeError,
  "an encapsulated message stays within its cap",
  "send less, or put large data into a blob",
  413,
);
export const KEY_UNKNOWN = define(
  "ohttp.key_unknown",
  EnvelopeError,
  "the key that the request names is one that is held now",
  "fetch the key configuration again: periods and leases end",
);
export const SUITE = define(
  "ohttp.suite",
  EnvelopeError,
  "the request uses algorithms that the key configuration offers",
  "use one of the pairs of KDF and AEAD in the key configuration",
);
export const NOT_AUTHENTIC = define(
  "ohttp.not_authentic",
  EnvelopeError,
  "the encapsulated message opens under this key, as it was sent",
  "fetch the key configuration again and encapsulate anew; the message was altered or is for another key",
);

/** A pair (KDF, AEAD). */
export type Suite = readonly [kdf: number, aead: number];
/** What a configuration of ours offers, best first. */
export const OFFERED: readonly Suite[] = [AES_256_GCM, CHACHA20_POLY1305, AES_128_GCM].map((a) => [KDF_SHA256, a!]);

/** A key configuration (section 3.1). `publicKey`: X25519, 32 bytes, or X-Wing, 1216. */
export class KeyConfig {
  constructor(readonly keyId: number, readonly publicKey: Uint8Array, readonly suites: readonly Suite[] = OFFERED) {}

  encode(): Uint8Array<ArrayBuffer> {
    const pairs = concat(...this.suites.flatMap(([kdf, aead]) => [uintBytes(kdf, 2), uintBytes(aead, 2)]));
    const lead = concat(Uint8Array.of(this.keyId), uintBytes(this.kem, 2), this.publicKey);
    return concat(lead, uintBytes(pairs.length, 2), pairs);
  }

  /** The KEM that the public key is of. */
  get kem(): number {
    if (this.publicKey.length === XWING_PUBLIC) return KEM_XWING;
    needBytes("key", this.publicKey, 32);
    return KEM_X25519;
  }

  /** Parse one configuration. Throws EnvelopeError: ohttp.malformed, and ohttp.suite for another KEM. */
  static decode(data: Uint8Array): KeyConfig {
    if (data.length < 4 || data.length > MAX_CONFIG) {
      throw MALFORMED(`a configuration of 4 to ${MAX_CONFIG} bytes`, `${data.length} bytes`);
    }
    const size = KEMS[word(data, 1)]?.[0];
    if (size === undefined) throw SUITE("KEM 0x0020 or 0x647a", `KEM ${word(data, 1)}`);
    const pairs = data.subarray(5 + size);
    const whole = pairs.length >= 4 && pairs.length <= 4 * MAX_PAIRS && pairs.length % 4 === 0;
    if (!whole || word(data, 3 + size) !== pairs.length) {
      throw MALFORMED("a key and whole pairs of algorithms", `${data.length} bytes`);
    }
    const count = pairs.length / 4;
    const suites = Array.from({ length: count }, (_, i): Suite => [word(pairs, 4 * i), word(pairs, 4 * i + 2)]);
    return new KeyConfig(data[0]!, data.slice(3, 3 + size), suites);
  }

  /** The AEAD to use: the first of the configuration that we speak. Throws EnvelopeError (ohttp.suite). */
  choose(): number {
    const found = this.suites.find(([kdf, aead]) => kdf === KDF_SHA256 && aead in KEY_SIZES);
    if (!found) throw SUITE("HKDF-SHA256 with an AEAD of RFC 9180", `${this.suites.length} other pairs`);
    return found[1];
  }

  /** The seven bytes that a request under it begins with. */
  hdr(aead: number): Uint8Array<ArrayBuffer> {
    return concat(Uint8Array.of(this.keyId), ...[this.kem, KDF_SHA256, aead].map((value) => uintBytes(value, 2)));
  }
}

/** Parse application/ohttp-keys; configurations of other KEMs are left out. Throws EnvelopeError. */
export function decodeConfigs(data: Uint8Array): KeyConfig[] {
  const found: KeyConfig[] = [];
  for (let at = 0, count = 0; at < data.length; count++) {
    const size = at + 2 > data.length ? Infinity : word(data, at);
    if (at + 2 + size > data.length || count >= MAX_CONFIGS || size < 3) {
      throw MALFORMED(`at most ${MAX_CONFIGS} configurations after their lengths`, "another shape");
    }
    const one = data.subarray(at + 2, at + 2 + size);
    if (word(one, 1) in KEMS) found.push(KeyConfig.decode(one));
    at += 2 + size;
  }
  return found;
}

/** One request's context: what its response is sealed under. Either end holds one. `chunked`: both are in chunks. */
export class Exchange {
  constructor(readonly context: Context, readonly enc: Uint8Array, readonly aead: number, readonly chunked = false) {}

  /** nonce ‖ ciphertext (section 4.4). */
  sealResponse(response: Uint8Array, rng: Rng): Uint8Array<ArrayBuffer> {
    const nonce = needBytes("response nonce", rng(this.nonceSize), this.nonceSize);
    return concat(nonce, this.#whole(nonce).encrypt(response));
  }

  /** The response. Throws EnvelopeError: ohttp.too_large, ohttp.malformed, ohttp.not_authentic. */
  openResponse(data: Uint8Array, maxSize: number): Uint8Array {
    if (data.length > maxSize) throw TOO_LARGE(`at most ${maxSize} bytes`, `${data.length} bytes`);
    if (data.length < this.nonceSize + TAG) throw MALFORMED("an encapsulated response", `${data.length} bytes`);
    return opened("the response to this request", () => {
      return this.#whole(data.subarray(0, this.nonceSize)).decrypt(data.subarray(this.nonceSize));
    });
  }

  /** Bytes of a response's nonce. */
  get nonceSize(): number {
    return Math.max(NONCE, KEY_SIZES[this.aead]!);
  }

  #whole(nonce: Uint8Array) {
    const { key, iv } = this.keys(nonce);
    return cipherOf(this.aead)(key, iv);
  }

  /** Key and nonce of a response, from the exported secret, salted by enc and the response's nonce. */
  keys(nonce: Uint8Array): { key: Uint8Array; iv: Uint8Array } {
    const secret = this.context.export(this.chunked ? CHUNKED_RESPONSE : RESPONSE, this.nonceSize);
    const prk = hmac(sha256, concat(this.enc, nonce), secret);
    const part = (label: string, size: number) => hmac(sha256, prk, utf8(`${label}\x01`)).slice(0, size);
    return { key: part("key", KEY_SIZES[this.aead]!), iv: part("nonce", NONCE) };
  }
}

/**
 * What a request will be sealed under: `seal` gives hdr ‖ enc ‖ ciphertext (section 4.3), once. `chunked`: an answer in
 * chunks is wanted; the request itself is one final chunk.
 */
export class Encapsulator {
  readonly exchange: Exchange;
  readonly #hdr: Uint8Array;

  /** `rng(32)` gives the ephemeral key, and with X-Wing ML-KEM's message after it. Throws EnvelopeError, SealError. */
  constructor(config: KeyConfig, rng: Rng, aead: number = config.choose(), chunked = false) {
    if (!config.suites.some(([kdf, one]) => kdf === KDF_SHA256 && one === aead)) {
      throw SUITE("an AEAD of the configuration", String(aead));
    }
    this.#hdr = config.hdr(aead);
    const info = concat(chunked ? CHUNKED_REQUEST : REQUEST, this.#hdr);
    const { enc, context } = setupSender(config.publicKey, info, rng, undefined, aead);
    this.exchange = new Exchange(context, enc, aead, chunked);
  }

  seal(request: Uint8Array): Uint8Array<ArrayBuffer> {
    const { context, enc, chunked } = this.exchange;
    const [length, bound] = chunked ? [Uint8Array.of(0), FINAL] : [NOTHING, NOTHING];
    return concat(this.#hdr, enc, length, context.sealAt(0, bound, request));
  }
}

/** A request that does not depend on its exchange, encapsulated. Throws EnvelopeError. */
export function encapsulate(
  config: KeyConfig,
  request: Uint8Array,
  rng: Rng,
  aead: number = config.choose(),
  chunked = false,
): { data: Uint8Array<ArrayBuffer>; exchange: Exchange } {
  const made = new Encapsulator(config, rng, aead, chunked);
  return { data: made.seal(request), exchange: made.exchange };
}

/**
 * The recipient's end, with its private key: 32 bytes, or an X-Wing key. `chunked`: of a request in one final chunk.
 * Throws EnvelopeError by name.
 */
export function decapsulate(
  data: Uint8Array,
  key: Uint8Array | XWingKey,
  config: KeyConfig,
  maxSize: number,
  chunked = false,
): { request: Uint8Array; exchange: Exchange } {
  const size = (data.length < HDR_SIZE ? undefined : KEMS[word(data, 1)]?.[1]) ?? 32;
  if (data.length > maxSize) throw TOO_LARGE(`at most ${maxSize} bytes`, `${data.length} bytes`);
  if (data.length < HDR_SIZE + size + TAG) throw MALFORMED("an encapsulated request", `${data.length} bytes`);
  if (data[0] !== config.keyId) throw KEY_UNKNOWN(`key ${config.keyId}`, `key ${data[0]}`);
  const [hdr, enc, text] = [
    data.slice(0, HDR_SIZE),
    data.slice(HDR_SIZE, HDR_SIZE + size),
    data.slice(HDR_SIZE + size + (chunked ? 1 : 0)),
  ];
  if (chunked && data[HDR_SIZE + size] !== 0) throw MALFORMED("one final chunk", "another");
  const aead = config.suites.find(([kdf, one]) => kdf === KDF_SHA256 && equalBytes(config.hdr(one), hdr))?.[1];
  if (aead === undefined || !(aead in KEY_SIZES)) throw SUITE("algorithms of the key configuration", "others");
  return opened("a request encapsulated to this key", () => {
    const context = setupRecipient(enc, key, concat(chunked ? CHUNKED_REQUEST : REQUEST, hdr), undefined, aead);
    const request = context.openAt(0, chunked ? FINAL : NOTHING, text);
    return { request, exchange: new Exchange(context, enc, aead, chunked) };
  });
}

function opened<T>(what: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof RangeError && !(error instanceof CloisterError)) throw error;
    throw NOT_AUTHENTIC(what, "other bytes");
  }
}

function word(data: Uint8Array, at: number): number {
  return (data[at]! << 8) | data[at + 1]!;
}

/**
 * HPKE (RFC 9180), modes base and psk, HKDF-SHA256, with one of two KEMs; AES-256-GCM unless another AEAD is asked for.
 *
 * The size of a public key says which KEM: 32 bytes DHKEM(X25519, HKDF-SHA256); 1216 bytes X-Wing (`xwing.ts`).
 *
 * Contexts only: a caller numbers its messages itself and must never seal twice under one number.
 */

import { gcm } from "@noble/ciphers/aes.js";
import { chacha20poly1305 } from "@noble/ciphers/chacha.js";
import { x25519 } from "@noble/curves/ed25519.js";
import { hmac } from "@noble/hashes/hmac.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { define, SealError } from "../errors.ts";
import { concat, type Rng, u64, uintBytes, utf8 } from "../encoding/bytes.ts";
import { needBytes } from "../encoding/hexes.ts";
import { encapsulate, PUBLIC_SIZE, XWingKey } from "./xwing.ts";

const MAX_EXPORT = 255 * 32;
const MIN_PSK = 32;
const NONE = new Uint8Array(0);
const KEM = concat(utf8("HPKE-v1KEM"), Uint8Array.of(0, 0x20));
const SUITE = concat(utf8("HPKE-v1HPKE"), Uint8Array.of(0, 0x20, 0, 1, 0, 2));
const XWING = concat(utf8("HPKE-v1HPKE"), Uint8Array.of(0x64, 0x7a, 0, 1, 0, 2));

/** AEAD ids of RFC 9180 section 7.3: the last byte of a suite. */
export const [AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305] = [1, 2, 3];
/** Key size by AEAD id. */
export const KEY_SIZES: Readonly<Record<number, number>> = { 1: 16, 2: 32, 3: 32 };

/** The cipher of an AEAD id. */
export function cipherOf(aead: number): typeof gcm | typeof chacha20poly1305 {
  return aead === CHACHA20_POLY1305 ? chacha20poly1305 : gcm;
}

export const BAD_KEY = define(
  "seal.hpke_key",
  SealError,
  "an HPKE public key is 32 bytes and not of low order",
  "fetch the peer's key again; this one was damaged or made to be weak",
);
export const BAD_PSK = define(
  "seal.hpke_psk",
  SealError,
  "a pre-shared key has at least 32 bytes and a name, or neither is given",
  "give both psk and psk_id (RFC 9180 section 5.1.2), or none",
);
export const BAD_OPEN = define(
  "seal.hpke_open",
  SealError,
  "the ciphertext opens under this key, number and associated data",
  "seal again to the current key; the message was altered, misdirected or sealed to another key",
);

/** A pre-shared key (at least 32 bytes) and its name. */
export interface NamedPsk {
  secret: Uint8Array;
  id: Uint8Array;
}

function extract(salt: Uint8Array, label: string, ikm: Uint8Array, suite: Uint8Array = SUITE): Uint8Array {
  return hmac(sha256, salt, concat(suite, utf8(label), ikm)); // LabeledExtract, section 4
}

function expand(prk: Uint8Array, label: string, info: Uint8Array, size: number, suite: Uint8Array = SUITE): Uint8Array {
  const labeled = concat(uintBytes(size, 2), suite, utf8(label), info); // LabeledExpand, section 4
  let [block, out]: Uint8Array[] = [NONE, NONE];
  for (let counter = 1; out!.length < size; counter++) {
    block = hmac(sha256, prk, concat(block!, labeled, Uint8Array.of(counter)));
    out = concat(out!, block);
  }
  return out!.slice(0, size);
}

/** The two ends of one set-up share it. Numbers are the caller's business. */
export class Context {
  readonly #key: Uint8Array;
  readonly #nonce: Uint8Array;
  readonly #exporter: Uint8Array;

  constructor(key: Uint8Array, nonce: Uint8Array, exporter: Uint8Array, readonly suite: Uint8Array = SUITE) {
    [this.#key, this.#nonce, this.#exporter] = [key, nonce, exporter];
  }

  /** Ciphertext and tag of message number `seq`. Sealing twice at one number breaks the cipher. */
  sealAt(seq: number, aad: Uint8Array, plaintext: Uint8Array): Uint8Array {
    return cipherOf(this.suite.at(-1)!)(this.#key, this.#nonceAt(seq), aad).encrypt(plaintext);
  }

  /** The plaintext of message number `seq`. Throws SealError (seal.hpke_open). */
  openAt(seq: number, aad: Uint8Array, ciphertext: Uint8Array): Uint8Array {
    try {
      return cipherOf(this.suite.at(-1)!)(this.#key, this.#nonceAt(seq), aad).decrypt(ciphertext);
    } catch {
      throw BAD_OPEN("an authentic message", `${ciphertext.length} bytes that are not`);
    }
  }

  /** `length` secret bytes for this context text (section 5.3). */
  export(context: Uint8Array, length: number): Uint8Array {
    if (length < 1 || length > MAX_EXPORT) throw new RangeError(`an export of 1 to ${MAX_EXPORT} bytes`);
    return expand(this.#exporter, "sec", context, length, this.suite);
  }

  #nonceAt(seq: number): Uint8Array {
    const number = u64(seq);
    return this.#nonce.map((byte, i) => (i < 4 ? byte : byte ^ number[i - 4]!));
  }
}

/**
 * Set up towards `publicKey`: 32 bytes, or 1216 for X-Wing; `enc` is 32 bytes, or 1120. `rng(32)` gives the ephemeral
 * key, and with X-Wing ML-KEM's message after it. Throws SealError.
 */
export function setupSender(
  publicKey: Uint8Array,
  info: Uint8Array,
  rng: Rng,
  psk?: NamedPsk,
  aead: number = AES_256_GCM,
): { enc: Uint8Array; context: Context } {
  if (publicKey.length === PUBLIC_SIZE) {
    const { enc, shared } = encapsulate(publicKey, rng);
    return { enc, context: schedule(shared, info, psk, suiteOf(XWING, aead)) };
  }
  needBytes("public key", publicKey, 32);
  const ephemeral = needBytes("ephemeral key", rng(32), 32);
  const enc = x25519.getPublicKey(ephemeral);
  return {
    enc,
    context: schedule(shared(ephemeral, publicKey, concat(enc, publicKey)), info, psk, suiteOf(SUITE, aead)),
  };
}

/** The recipient's end, with its private key: 32 bytes of X25519, or an X-Wing key. Throws SealError. */
export function setupRecipient(
  enc: Uint8Array,
  key: Uint8Array | XWingKey,
  info: Uint8Array,
  psk?: NamedPsk,
  aead: number = AES_256_GCM,
): Context {
  if (key instanceof XWingKey) return schedule(key.decapsulate(enc), info, psk, suiteOf(XWING, aead));
  needBytes("enc", enc, 32);
  return schedule(shared(key, enc, concat(enc, x25519.getPublicKey(key))), info, psk, suiteOf(SUITE, aead));
}

function suiteOf(kem: Uint8Array, aead: number): Uint8Array {
  return concat(kem.subarray(0, -1), Uint8Array.of(aead));
}

function shared(key: Uint8Array, peer: Uint8Array, kemContext: Uint8Array): Uint8Array {
  const dh = exchange(key, peer); // Encap and Decap, section 4.1
  return expand(extract(NONE, "eae_prk", dh, KEM), "shared_secret", kemContext, 32, KEM);
}

function exchange(key: Uint8Array, peer: Uint8Array): Uint8Array {
  try {
    return x25519.getSharedSecret(key, peer);
  } catch {
    throw BAD_KEY("a point of full order", "a point of low order");
  }
}

function schedule(secret: Uint8Array, info: Uint8Array, psk?: NamedPsk, suite: Uint8Array = SUITE): Context {
  if (psk && (psk.secret.length < MIN_PSK || psk.id.length === 0)) { // KeySchedule, section 5.1
    throw BAD_PSK("psk and psk_id, or none", "one of them missing or too short");
  }
  const mode = Uint8Array.of(psk ? 1 : 0);
  const names = concat(
    mode,
    extract(NONE, "psk_id_hash", psk?.id ?? NONE, suite),
    extract(NONE, "info_hash", info, suite),
  );
  const root = extract(secret, "secret", psk?.secret ?? NONE, suite);
  return new Context(
    expand(root, "key", names, KEY_SIZES[suite.at(-1)!]!, suite),
    expand(root, "base_nonce", names, 12, suite),
    expand(root, "exp", names, 32, suite),
    suite,
  );
}

/**
 * X-Wing: ML-KEM-768 and X25519 in one key encapsulation (draft-connolly-cfrg-xwing-kem-10).
 *
 * Safe while either of the two is. Public keys are 1216 bytes (ML-KEM 1184, X25519 32), encapsulations 1120 (1088, 32),
 * shared secrets 32. Unlike the draft, a point of low order is refused: it can only come from somebody who wants the
 * X25519 part to be known.
 */

import { x25519 } from "@noble/curves/ed25519.js";
import { sha3_256, shake256 } from "@noble/hashes/sha3.js";
import { ml_kem768 } from "@noble/post-quantum/ml-kem.js";
import { define, SealError } from "../errors.ts";
import { concat, type Rng, utf8 } from "../encoding/bytes.ts";
import { needBytes } from "../encoding/hexes.ts";

export const SEED_SIZE = 32;
export const PUBLIC_SIZE = 1216;
export const ENC_SIZE = 1120;
const MLKEM_PUBLIC = 1184;
const MLKEM_ENC = 1088;
const LABEL = utf8("\\.//^\\");

export const BAD_KEY = define(
  "seal.xwing_key",
  SealError,
  "an X-Wing key or encapsulation has its size, a valid ML-KEM part and a point of full order",
  "fetch the peer's key again; this one was damaged or made to be weak",
);

/** A private key, from 32 random bytes. `publicKey`: 1216 bytes. */
export class XWingKey {
  readonly publicKey: Uint8Array;
  readonly #mlkem: Uint8Array;
  readonly #x25519: Uint8Array;

  constructor(seed: Uint8Array) {
    const expanded = shake256(needBytes("X-Wing seed", seed, SEED_SIZE), { dkLen: 96 });
    const { secretKey, publicKey } = ml_kem768.keygen(expanded.subarray(0, 64));
    [this.#mlkem, this.#x25519] = [secretKey, expanded.slice(64)];
    this.publicKey = concat(publicKey, x25519.getPublicKey(this.#x25519));
  }

  /** The shared secret of an encapsulation. An altered one gives another secret, or throws SealError (seal.xwing_key). */
  decapsulate(enc: Uint8Array): Uint8Array {
    needBytes("X-Wing encapsulation", enc, ENC_SIZE);
    const point = enc.subarray(MLKEM_ENC);
    const shared = border("ML-KEM ciphertext", () => ml_kem768.decapsulate(enc.subarray(0, MLKEM_ENC), this.#mlkem));
    return combined(shared, exchange(this.#x25519, point), point, this.publicKey.subarray(MLKEM_PUBLIC));
  }
}

/**
 * Towards a public key: the encapsulation (1120 bytes) and the shared secret (32). Throws SealError (seal.xwing_key).
 *
 * `rng(32)` is asked twice: for the X25519 part's key, then for ML-KEM's message.
 */
export function encapsulate(publicKey: Uint8Array, rng: Rng): { enc: Uint8Array; shared: Uint8Array } {
  needBytes("X-Wing public key", publicKey, PUBLIC_SIZE);
  const [own, peer] = [publicKey.subarray(0, MLKEM_PUBLIC), publicKey.subarray(MLKEM_PUBLIC)];
  const ephemeral = needBytes("private key", rng(32), 32);
  const point = x25519.getPublicKey(ephemeral);
  const sharedX = exchange(ephemeral, peer);
  const message = needBytes("ML-KEM message", rng(32), 32);
  const made = border("ML-KEM public key", () => ml_kem768.encapsulate(own, message));
  return { enc: concat(made.cipherText, point), shared: combined(made.sharedSecret, sharedX, point, peer) };
}

function exchange(key: Uint8Array, peer: Uint8Array): Uint8Array {
  return border("point of full order", () => x25519.getSharedSecret(key, peer));
}

/** Foreign exceptions become SealError here. */
function border<T>(what: string, work: () => T): T {
  try {
    return work();
  } catch {
    throw BAD_KEY(`a ${what}`, "another");
  }
}

/** The draft's combiner. */
function combined(sharedM: Uint8Array, sharedX: Uint8Array, point: Uint8Array, peer: Uint8Array): Uint8Array {
  return sha3_256(concat(sharedM, sharedX, point, peer, LABEL));
}

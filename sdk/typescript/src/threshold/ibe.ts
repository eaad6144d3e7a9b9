/** Identity-based encryption: Boneh-Franklin with Fujisaki-Okamoto (spec/sharing.md 6). */

import { gcm } from "@noble/ciphers/aes.js";
import { hkdf } from "@noble/hashes/hkdf.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { CloisterError, define, ThresholdError } from "../errors.ts";
import { concat, equalBytes, type Rng } from "../encoding/bytes.ts";
import { Context, digest, frame } from "../encoding/contexts.ts";
import { needBytes } from "../encoding/hexes.ts";
import {
  g1FromBytes,
  G2,
  G2_SIZE,
  g2FromBytes,
  type G2Point,
  hashIdentity,
  hashToScalar,
  pairingBytes,
} from "./groups.ts";

const VERSION = 1;
const MAX_MESSAGE = 1 << 20;
const MAX_AAD = 1 << 16;
const MIN_CIPHERTEXT = 1 + G2_SIZE + 32 + 16;
const NONCE = new Uint8Array(12); // each body key opens one message: it depends on sigma and on U

export const MALFORMED = define(
  "threshold.ibe_malformed",
  ThresholdError,
  "an identity-based ciphertext has version 1, a good point U, and sizes within the caps",
  "fetch the ciphertext again; do not ask its sender's code to repair it",
);
export const NOT_OPENED = define(
  "threshold.ibe_not_opened",
  ThresholdError,
  "the ciphertext was made for this key, identity and associated data, and nothing in it changed",
  "check epochs and slot; a ciphertext for a closed epoch must be made again by its setter",
);

/**
 * Encrypt to whoever will hold the key of `identity` under `mpk` (96 bytes). Throws ThresholdError.
 *
 * 1. sizes; 2. sigma = 32 random bytes; 3. r = H2(sigma, MPK, id, aad, message), U = g2^r;
 * 4. V = sigma xor H(e(h(id)^r, MPK)); 5. W seals the message under a key from (sigma, U).
 */
export function encrypt(
  mpk: Uint8Array,
  identity: Uint8Array,
  message: Uint8Array,
  aad: Uint8Array,
  rng: Rng,
): Uint8Array<ArrayBuffer> {
  checkSizes(message.length, aad); // 1
  const [master, h] = [g2FromBytes(mpk, "public key"), hashIdentity(identity)];
  const sigma = needBytes("sigma", rng(32), 32); // 2
  const r = hashToScalar(Context.IBE_SCALAR, sigma, mpk, identity, aad, message); // 3
  const u = G2.Point.BASE.multiply(r).toBytes(true);
  const v = xor(sigma, digest(Context.IBE_MASK, pairingBytes(h.multiply(r), master))); // 4
  const w = gcm(bodyKey(sigma, u), NONCE, bodyAad(mpk, identity, aad, u, v)).encrypt(message); // 5
  return concat(Uint8Array.of(VERSION), u, v, w);
}

/**
 * Open a ciphertext of `encrypt` with the derived key (48 bytes). Throws ThresholdError.
 *
 * 1. sizes and version; 2. U is a good point; 3. sigma = V xor H(e(k, U)); 4. W opens; 5. r made again gives U again.
 */
export function decrypt(
  key: Uint8Array,
  mpk: Uint8Array,
  identity: Uint8Array,
  ciphertext: Uint8Array,
  aad: Uint8Array,
): Uint8Array {
  checkSizes(ciphertext.length - MIN_CIPHERTEXT, aad); // 1
  if (ciphertext[0] !== VERSION) throw MALFORMED("version 1", String(ciphertext[0]));
  const [u, v, w] = [ciphertext.subarray(1, 97), ciphertext.subarray(97, 129), ciphertext.subarray(129)];
  const pairing = pairingBytes(g1FromBytes(key, "derived key"), goodU(u)); // 2
  const sigma = xor(v, digest(Context.IBE_MASK, pairing)); // 3
  const message = opened(bodyKey(sigma, u), w, bodyAad(mpk, identity, aad, u, v)); // 4
  const r = hashToScalar(Context.IBE_SCALAR, sigma, mpk, identity, aad, message);
  if (!equalBytes(G2.Point.BASE.multiply(r).toBytes(true), u)) throw notOpened(); // 5
  return message;
}

function goodU(u: Uint8Array): G2Point {
  try {
    return g2FromBytes(u, "U");
  } catch (error) {
    throw error instanceof CloisterError ? MALFORMED("a good point U", error.found) : error;
  }
}

function opened(key: Uint8Array, w: Uint8Array, aad: Uint8Array): Uint8Array {
  try {
    return gcm(key, NONCE, aad).decrypt(w);
  } catch {
    throw notOpened();
  }
}

function notOpened(): Error {
  return NOT_OPENED("a ciphertext for this key, identity and data", "another");
}

function checkSizes(message: number, aad: Uint8Array): void {
  if (message < 0 || message > MAX_MESSAGE || aad.length > MAX_AAD) {
    const caps = `a message of at most ${MAX_MESSAGE} and data of at most ${MAX_AAD} bytes`;
    throw MALFORMED(caps, `${message} and ${aad.length}`);
  }
}

function bodyKey(sigma: Uint8Array, u: Uint8Array): Uint8Array {
  return hkdf(sha256, sigma, undefined, frame(Context.IBE_BODY, u), 32);
}

function bodyAad(mpk: Uint8Array, id: Uint8Array, aad: Uint8Array, u: Uint8Array, v: Uint8Array): Uint8Array {
  return frame(Context.IBE_CIPHERTEXT, mpk, id, aad, u, v);
}

function xor(left: Uint8Array, right: Uint8Array): Uint8Array {
  return left.map((byte, i) => byte ^ right[i]!);
}

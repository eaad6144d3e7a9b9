/** secp256k1 signatures r ‖ s ‖ v with low s: one signer, or t distinct members of a committee (spec/statements.md 3). */

import { secp256k1 } from "@noble/curves/secp256k1.js";
import { define, EncodingError } from "../errors.ts";
import { concat, equalBytes } from "./bytes.ts";
import { needBytes, needUint, toHex } from "./hexes.ts";
import { keccak256 } from "./keccak.ts";

/** The largest committee. */
export const MAX_MEMBERS = 64;

export const BAD_SIGNATURE = define(
  "encoding.signature",
  EncodingError,
  "a signature is r || s || v, low s, and recovers to the named signer",
  "ask the signer again; if it repeats, the signer or the path to it is broken",
  403,
);
export const TOO_FEW_SIGNERS = define(
  "encoding.too_few_signers",
  EncodingError,
  "t distinct members of the committee signed the statement",
  "ask more gatekeepers; with fewer than t alive the network refuses on purpose",
  503,
);
export const WRONG_TERM = define(
  "encoding.wrong_term",
  EncodingError,
  "the statement names the term of the committee that signs it",
  "fetch the current committee by proof and ask again",
);

/** A committee of one term: distinct member addresses (20 bytes each) and the threshold t. */
export class SignerSet {
  constructor(readonly term: number, readonly threshold: number, readonly members: readonly Uint8Array[]) {
    needUint("term", term, 64);
    for (const member of members) needBytes("member address", member, 20);
    const distinct = new Set(members.map(toHex)).size;
    if (distinct !== members.length || members.length < 1 || members.length > MAX_MEMBERS) {
      throw TOO_FEW_SIGNERS("1 to 64 distinct members", `${members.length} entries`);
    }
    if (!Number.isInteger(threshold) || threshold < 1 || threshold > members.length) {
      throw TOO_FEW_SIGNERS("1 <= t <= n", `t = ${threshold}`);
    }
  }

  /** Whether another set says the same, order included. */
  equals(other: SignerSet): boolean {
    const same = this.term === other.term && this.threshold === other.threshold;
    return same && equalBytes(concat(...this.members), concat(...other.members));
  }
}

/** The 20-byte EVM address of an uncompressed public key (65 bytes). */
export function addressOf(publicKey: Uint8Array): Uint8Array {
  return keccak256(publicKey.subarray(1)).slice(-20);
}

/** The signer's address. Throws EncodingError for a malformed or malleable signature. */
export function recover(digest: Uint8Array, signature: Uint8Array): Uint8Array {
  const v = signature[64];
  if (signature.length !== 65 || (v !== 27 && v !== 28)) {
    throw BAD_SIGNATURE("65 bytes with v 27 or 28", `${signature.length} bytes`);
  }
  const parsed = parsedSignature(signature);
  if (parsed?.hasHighS()) throw BAD_SIGNATURE("low s", "high s");
  try {
    return addressOf(parsed!.recoverPublicKey(digest).toBytes(false));
  } catch {
    throw BAD_SIGNATURE("a point on the curve", "none");
  }
}

function parsedSignature(signature: Uint8Array) {
  try {
    return secp256k1.Signature.fromBytes(
      concat(Uint8Array.of(signature[64]! - 27), signature.subarray(0, 64)),
      "recovered",
    );
  } catch {
    return undefined;
  }
}

/** Throw EncodingError unless `signer` (20 bytes) made the signature. */
export function verifySigner(digest: Uint8Array, signature: Uint8Array, signer: Uint8Array): void {
  const found = recover(digest, signature);
  if (!equalBytes(found, signer)) throw BAD_SIGNATURE(`signer ${toHex(signer)}`, toHex(found));
}

/** Sign 32 bytes that are already a hash with a private key (32 bytes): 65 bytes. For programs, not for browsers. */
export function signDigest(key: Uint8Array, digest: Uint8Array): Uint8Array {
  const raw = secp256k1.sign(needBytes("digest", digest, 32), key, { prehash: false, lowS: true, format: "recovered" });
  return concat(raw.subarray(1), Uint8Array.of(raw[0]! + 27));
}

/**
 * Throw EncodingError unless t distinct members of `signers` signed `digest`, a statement of `term`.
 *
 * 1. the statement names the committee's term; 2. at most n signatures; 3. each recovers to a member;
 * 4. no member counts twice; 5. at least t remain.
 */
export function verifyCommittee(
  term: number,
  digest: Uint8Array,
  signatures: readonly Uint8Array[],
  signers: SignerSet,
): void {
  if (term !== signers.term) throw WRONG_TERM(`term ${signers.term}`, `term ${term}`); // 1
  if (signatures.length > signers.members.length) { // 2
    throw TOO_FEW_SIGNERS(`at most ${signers.members.length}`, `${signatures.length} signatures`);
  }
  const seen = new Set(signatures.map((s) => toHex(recover(digest, s)))); // 3, 4
  const members = new Set(signers.members.map(toHex));
  const stranger = [...seen].sort().find((one) => !members.has(one));
  if (stranger !== undefined) throw BAD_SIGNATURE("only members", `signer ${stranger}`);
  if (seen.size < signers.threshold) throw TOO_FEW_SIGNERS(`${signers.threshold} distinct signers`, `${seen.size}`); // 5
}

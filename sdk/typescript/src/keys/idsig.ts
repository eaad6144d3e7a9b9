/** Signatures by a derived key: whoever has k = h(id)^s signs as `id` (spec/ohttp.md 4; Cha and Cheon, PKC 2003). */

import { define, ThresholdError } from "../errors.ts";
import { Context } from "../encoding/contexts.ts";
import {
  G1_SIZE,
  g1FromBytes,
  G2,
  g2FromBytes,
  hashIdentity,
  hashToScalar,
  pairingsEqual,
} from "../threshold/groups.ts";

export const SIGNATURE_SIZE = 2 * G1_SIZE;

export const BAD_SIGNATURE = define(
  "threshold.key_signature",
  ThresholdError,
  "the signature was made with the derived key of this identity",
  "take another worker: this one does not have the key that its lease speaks of",
);

/** Throw ThresholdError unless the holder of the key of `identity` signed: 1. two good points; 2. the equation. */
export function verify(mpk: Uint8Array, identity: Uint8Array, message: Uint8Array, signature: Uint8Array): void {
  if (signature.length !== SIGNATURE_SIZE) throw BAD_SIGNATURE(`${SIGNATURE_SIZE} bytes`, `${signature.length} bytes`);
  const [u, v] = [signature.subarray(0, G1_SIZE), signature.subarray(G1_SIZE)];
  const [nonce, answer] = [g1FromBytes(u, "U"), g1FromBytes(v, "V")]; // 1
  const c = hashToScalar(Context.KEY_SIGNATURE, mpk, identity, message, u);
  const asked = nonce.add(hashIdentity(identity).multiply(c));
  if (!pairingsEqual(answer, G2.Point.BASE, asked, g2FromBytes(mpk, "public key"))) { // 2
    throw BAD_SIGNATURE("a signature by the key of this identity", "another");
  }
}

/** BLS12-381 behind checked doors (spec/sharing.md). */

import { bls12_381 } from "@noble/curves/bls12-381.js";
import { sha512 } from "@noble/hashes/sha2.js";
import { define, ThresholdError } from "../errors.ts";
import { bigOf, equalBytes, utf8 } from "../encoding/bytes.ts";
import { type ContextName, frame } from "../encoding/contexts.ts";

export const ORDER = 0x73eda753299d7d483339d80809a1d80553bda402fffe5bfeffffffff00000001n;
export const G1_SIZE = 48;
export const G2_SIZE = 96;
export const DST = utf8("CLOISTER-V1-BLS12381G1_XMD:SHA-256_SSWU_RO_");
const FIELD_SIZE = 48;
const MAX_IDENTITY = 4096;

export const { G1, G2 } = bls12_381;
/** Points of the two groups. */
export type G1Point = InstanceType<typeof G1.Point>;
export type G2Point = InstanceType<typeof G2.Point>;

export const BAD_POINT = define(
  "threshold.point",
  ThresholdError,
  "a point is spelled as its place asks, in the prime-order subgroup, and not the identity",
  "the sender is broken or hostile; do not use this value",
);
export const BAD_IDENTITY = define(
  "threshold.identity",
  ThresholdError,
  `a key identity has 1 to ${MAX_IDENTITY} bytes`,
  "build it with encoding/identity",
);

/** The first 48 bytes of SHA-512(frame(context, parts)), big-endian, modulo the order. */
export function hashToScalar(context: ContextName, ...parts: readonly Uint8Array[]): bigint {
  return bigOf(sha512(frame(context, ...parts)).subarray(0, 48)) % ORDER;
}

/** Decode 48 compressed bytes, subgroup checked, identity refused. Throws ThresholdError. */
export function g1FromBytes(data: Uint8Array, name = "point"): G1Point {
  if (data.length !== G1_SIZE) throw BAD_POINT(`${name} of 48 bytes`, `${data.length} bytes`);
  return checked(data, name, "G1", () => G1.Point.fromBytes(data));
}

/** Decode 96 compressed bytes, subgroup checked, identity refused. Throws ThresholdError. */
export function g2FromBytes(data: Uint8Array, name = "point"): G2Point {
  if (data.length !== G2_SIZE) throw BAD_POINT(`${name} of 96 bytes`, `${data.length} bytes`);
  return checked(data, name, "G2", () => G2.Point.fromBytes(data));
}

interface Checkable {
  is0(): boolean;
  assertValidity(): void;
  isTorsionFree(): boolean;
  toBytes(compressed?: boolean): Uint8Array;
}

function checked<P extends Checkable>(data: Uint8Array, name: string, group: string, decode: () => P): P {
  const point = quietly(() => {
    const found = decode();
    if (!found.is0()) found.assertValidity();
    return found.is0() || found.isTorsionFree() ? found : undefined;
  });
  if (point === undefined) throw BAD_POINT(`${name} in the subgroup of ${group}`, "no such point");
  if (point.is0() || !equalBytes(point.toBytes(true), data)) {
    throw BAD_POINT(`${name} other than the identity`, "the identity or a second spelling");
  }
  return point;
}

function quietly<T>(work: () => T | undefined): T | undefined {
  try {
    return work();
  } catch {
    return undefined;
  }
}

/** h(id): RFC 9380 hash to G1 under our DST. Throws ThresholdError for sizes off the cap. */
export function hashIdentity(identity: Uint8Array): G1Point {
  if (identity.length < 1 || identity.length > MAX_IDENTITY) {
    throw BAD_IDENTITY(`1 to ${MAX_IDENTITY} bytes`, `${identity.length} bytes`);
  }
  return G1.Point.fromAffine(bls12_381.G1.hashToCurve(identity, { DST }).toAffine());
}

/** e(g1, g2) as 576 bytes: twelve field elements of 48 bytes, little-endian, in tower order (spec/sharing.md 6). */
export function pairingBytes(g1: G1Point, g2: G2Point): Uint8Array {
  const bytes = bls12_381.fields.Fp12.toBytes(bls12_381.pairing(g1, g2)).slice();
  for (let at = 0; at < bytes.length; at += FIELD_SIZE) bytes.subarray(at, at + FIELD_SIZE).reverse();
  return bytes;
}

/** Whether e(left1, left2) = e(right1, right2): one final exponentiation over both. The identity equals nothing. */
export function pairingsEqual(left1: G1Point, left2: G2Point, right1: G1Point, right2: G2Point): boolean {
  if (left1.is0() || right1.is0()) return false;
  const product = bls12_381.pairingBatch([{ g1: left1, g2: left2 }, { g1: right1.negate(), g2: right2 }]);
  return bls12_381.fields.Fp12.eql(product, bls12_381.fields.Fp12.ONE);
}

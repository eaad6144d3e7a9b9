/**
 * Key generation, resharing and partial evaluations, checked by another language and another library (noble-curves).
 *
 * Written from spec/sharing.md 1-4 and gatekeepers.md R1-R2 alone; the client itself needs none of it.
 */

import { assert, refuses, vectors } from "./support.ts";
import { sha256, sha512 } from "@noble/hashes/sha2.js";
import { x25519 } from "@noble/curves/ed25519.js";
import { bls12_381 } from "@noble/curves/bls12-381.js";
import { bigOf, concat, u64, uintBytes } from "../src/encoding/bytes.ts";
import { type ContextName, digest, frame } from "../src/encoding/contexts.ts";
import { fromHex, toHex } from "../src/encoding/hexes.ts";
import {
  G1,
  g1FromBytes,
  type G1Point,
  G2,
  g2FromBytes,
  type G2Point,
  hashIdentity,
  ORDER,
} from "../src/threshold/groups.ts";
import { setupRecipient } from "../src/keys/hpke.ts";

interface Seat {
  index: number;
  address: string;
  dkg_key: string;
  dkg_private: string;
}
interface Dealing {
  dealer: number;
  commitments: string[];
  proof: string;
  shares: string[];
}
interface Result {
  id: string;
  threshold: number;
  members: Seat[];
  binding: string;
  dealings: Dealing[];
  digests: string[];
  public: { mpk: string; share_keys: string[]; transcript: string; term?: number };
  secrets: string[];
}
interface Partial {
  index: number;
  e1: string;
  e2: string;
  e3: string;
}

const FILE = vectors("sharing.json");
const FOUND: Result & { refused: { why: string; dealing: Dealing; receiver: number }[] } = FILE.ceremony;
const AGAIN: Result = FILE.resharing;
const { fields: { Fr } } = bls12_381;

/** Contexts of the committee are not in the client's list. */
const context = (name: string) => `cloister/v1/dkg/${name}` as ContextName;
const u16 = (value: number) => uintBytes(value, 2);
const joined = (items: string[]) => concat(...items.map((item) => fromHex(item)));
const seat = (m: Seat) => concat(u16(m.index), fromHex(m.address, 20), fromHex(m.dkg_key, 32));

function sum(points: G2Point[]): G2Point {
  return points.reduce((total, point) => total.add(point), G2.Point.ZERO);
}

/** A polynomial in the exponent at x: the sum of x^k C_k. */
function at(points: G2Point[], x: number): G2Point {
  return points.reduceRight((total, point) => total.multiplyUnsafe(BigInt(x)).add(point), G2.Point.ZERO);
}

/** Lagrange coefficients at 0. */
function weights(indexes: number[]): bigint[] {
  return indexes.map((i) =>
    indexes.filter((j) => j !== i).reduce(
      (value, j) => Fr.mul(value, Fr.div(BigInt(j), Fr.create(BigInt(j - i)))),
      1n,
    )
  );
}

function foundingBinding(): Uint8Array {
  return digest(context("ceremony"), fromHex(FOUND.id), u16(FOUND.threshold), ...FOUND.members.map(seat));
}

function resharingBinding(): Uint8Array {
  const old = FOUND.members.map((m, i) =>
    concat(u16(m.index), fromHex(m.address, 20), fromHex(FOUND.public.share_keys[i]!, 96))
  );
  return digest(
    context("resharing"),
    fromHex(AGAIN.id, 32),
    u64(AGAIN.public.term!),
    u16(FOUND.threshold),
    u16(AGAIN.threshold),
    fromHex(FOUND.public.mpk, 96),
    fromHex(FOUND.public.transcript, 32),
    u16(old.length),
    ...old,
    ...AGAIN.members.map(seat),
  );
}

function digestOf(binding: Uint8Array, d: Dealing): Uint8Array {
  const parts = [joined(d.commitments), fromHex(d.proof, 48), joined(d.shares)];
  return digest(context("dealing"), binding, u16(d.dealer), ...parts);
}

/** A commitment: x.c0, x.c1, y.c0, y.c1 of 48 bytes each, a point of the group and not the identity. */
function commitment(text: string): G2Point {
  const data = fromHex(text, 192);
  const [xc0, xc1, yc0, yc1] = [0, 48, 96, 144].map((at) => bigOf(data.subarray(at, at + 48)));
  const point = G2.Point.fromAffine({ x: { c0: xc0!, c1: xc1! }, y: { c0: yc0!, c1: yc1! } });
  assert.ok(!point.is0());
  point.assertValidity();
  assert.ok(point.isTorsionFree());
  assert.equal(toHex(plain(point)), text, "one spelling");
  return point;
}

function plain(point: G2Point): Uint8Array {
  const { x, y } = point.toAffine();
  return concat(...[x.c0, x.c1, y.c0, y.c1].map((value) => uintBytes(value, 48)));
}

/** The commitments of a dealing that everybody may accept: its size, its points, its proof of possession. */
function checked(result: Result, binding: Uint8Array, d: Dealing): G2Point[] {
  assert.equal(d.commitments.length, result.threshold);
  assert.equal(d.shares.length, result.members.length);
  const points = d.commitments.map(commitment);
  const [c, z] = [bigOf(fromHex(d.proof).subarray(0, 16)), bigOf(fromHex(d.proof).subarray(16))];
  assert.ok(c > 0n && z > 0n && z < ORDER);
  const nonce = plain(G2.Point.BASE.multiply(z).subtract(points[0]!.multiply(c)));
  const said = frame(context("proof-of-possession"), binding, u16(d.dealer), joined(d.commitments), nonce);
  assert.equal(bigOf(sha512(said).subarray(0, 16)), c);
  return points;
}

/** What a dealing holds for a receiver: opened with its key, and fitting the commitments. */
function shareOf(binding: Uint8Array, d: Dealing, points: G2Point[], receiver: Seat): bigint {
  const sealed = fromHex(d.shares[receiver.index - 1]!, 80);
  const names = [u16(d.dealer), u16(receiver.index), sha256(joined(d.commitments))];
  const info = frame(context("share-transport"), binding, ...names);
  const key = fromHex(receiver.dkg_private, 32);
  assert.equal(toHex(x25519.getPublicKey(key)), receiver.dkg_key);
  const value = bigOf(
    setupRecipient(sealed.subarray(0, 32), key, info).openAt(0, new Uint8Array(0), sealed.subarray(32)),
  );
  assert.ok(G2.Point.BASE.multiply(value).equals(at(points, receiver.index)), "the share fits the commitments");
  return value;
}

/** A whole ceremony again: from the dealings to every secret. `weigh`: what each dealer's polynomial counts. */
function replayed(result: Result, binding: Uint8Array, weigh: bigint[]): void {
  const { dealings, members, secrets } = result;
  const shown = result.public;
  assert.deepEqual(dealings.map((d) => toHex(digestOf(binding, d))), result.digests);
  const rows = dealings.map((d) => checked(result, binding, d));
  const columns = rows[0]!.map((_, k) => sum(rows.map((row, i) => row[k]!.multiply(weigh[i]!))));
  assert.equal(toHex(columns[0]!.toBytes(true)), shown.mpk);
  members.forEach((m, i) => {
    assert.equal(toHex(at(columns, m.index).toBytes(true)), shown.share_keys[i]);
    const parts = dealings.map((d, j) => Fr.mul(shareOf(binding, d, rows[j]!, m), weigh[j]!));
    const secret = parts.reduce((total, part) => Fr.add(total, part), 0n);
    assert.equal(toHex(uintBytes(secret, 32)), secrets[i]);
    assert.equal(toHex(G2.Point.BASE.multiply(secret).toBytes(true)), shown.share_keys[i]);
  });
  const named = dealings.map((d, i) => concat(u16(d.dealer), fromHex(result.digests[i]!, 32)));
  assert.equal(toHex(digest(context("transcript"), binding, ...named)), shown.transcript);
}

Deno.test("key generation: binding, digests, proofs, shares, share keys, master key and transcript", () => {
  assert.equal(toHex(foundingBinding()), FOUND.binding);
  replayed(FOUND, foundingBinding(), FOUND.dealings.map(() => 1n));
});

Deno.test("resharing: dealers deal their shares, and the master key is the old one", () => {
  assert.equal(toHex(resharingBinding()), AGAIN.binding);
  for (const d of AGAIN.dealings) {
    assert.equal(toHex(commitment(d.commitments[0]!).toBytes(true)), FOUND.public.share_keys[d.dealer - 1]);
  }
  replayed(AGAIN, resharingBinding(), weights(AGAIN.dealings.map((d) => d.dealer)));
  assert.equal(AGAIN.public.mpk, FOUND.public.mpk);
});

Deno.test("shares: any t give the secret behind the master key, in both terms, and t - 1 of both none", () => {
  const secret = (of: Result, indexes: number[]) =>
    weights(indexes).reduce(
      (total, w, i) => Fr.add(total, Fr.mul(w, bigOf(fromHex(of.secrets[indexes[i]! - 1]!)))),
      0n,
    );
  const master = secret(FOUND, [1, 2, 3]);
  assert.equal(toHex(G2.Point.BASE.multiply(master).toBytes(true)), FOUND.public.mpk);
  assert.equal(secret(FOUND, [2, 3, 4]), master);
  assert.equal(secret(AGAIN, [1, 2, 3, 4]), master);
  assert.equal(secret(AGAIN, [2, 3, 4, 5]), master);
  assert.notEqual(secret(FOUND, [1, 2]), master);
  assert.notEqual(secret(AGAIN, [1, 2, 3]), master);
});

for (const { why, dealing, receiver } of FOUND.refused) {
  Deno.test(`a dealing is refused: ${why}`, () => {
    const binding = foundingBinding();
    if (receiver === 0) {
      assert.throws(() => checked(FOUND, binding, dealing));
    } else {
      const points = checked(FOUND, binding, dealing);
      assert.throws(() => shareOf(binding, dealing, points, FOUND.members[receiver - 1]!));
    }
  });
}

const { derivation: DERIVATION } = FILE;
const [ID, T] = [fromHex(DERIVATION.identity), g1FromBytes(fromHex(DERIVATION.transport_public, 48))];

/** e(a, b) = the product of e(c, d), by the values themselves. */
function paired(left: [G1Point, G2Point], ...right: [G1Point, G2Point][]): boolean {
  const { Fp12 } = bls12_381.fields;
  const product = right.map(([p, q]) => bls12_381.pairing(p, q)).reduce((total, value) => Fp12.mul(total, value));
  return Fp12.eql(bls12_381.pairing(...left), product);
}

function verified(p: Partial): void {
  const [e1, e3] = [g1FromBytes(fromHex(p.e1, 48)), g1FromBytes(fromHex(p.e3, 48))];
  const [e2, key] = [g2FromBytes(fromHex(p.e2, 96)), g2FromBytes(fromHex(FOUND.public.share_keys[p.index - 1]!, 96))];
  assert.ok(paired([e1, G2.Point.BASE], [G1.Point.BASE, e2]), "one r");
  assert.ok(paired([e3, G2.Point.BASE], [hashIdentity(ID), key], [T, e2]), "the member's answer");
}

Deno.test("partials: each verifies, and any t combine to the derived key", () => {
  const partials: Partial[] = DERIVATION.partials;
  partials.forEach(verified);
  const x = bigOf(fromHex(DERIVATION.transport_private, 32));
  assert.ok(G1.Point.BASE.multiply(x).equals(T));
  for (const chosen of [[0, 1, 2], [1, 2, 3], [3, 0, 2]].map((places) => places.map((i) => partials[i]!))) {
    const lambda = weights(chosen.map((p) => p.index));
    const combined = (part: "e1" | "e3") =>
      chosen.map((p, i) => g1FromBytes(fromHex(p[part], 48)).multiply(lambda[i]!)).reduce((a, b) => a.add(b));
    const key = combined("e3").subtract(combined("e1").multiply(x));
    assert.equal(toHex(key.toBytes(true)), DERIVATION.key);
    assert.ok(paired([key, G2.Point.BASE], [hashIdentity(ID), g2FromBytes(fromHex(FOUND.public.mpk, 96))]));
  }
});

for (const { why, partial } of DERIVATION.refused as { why: string; partial: Partial }[]) {
  Deno.test(`a partial is refused: ${why}`, () => {
    assert.throws(() => verified(partial), assert.AssertionError);
  });
}

Deno.test("partials: points that are none are refused before any pairing", () => {
  const good: Partial = DERIVATION.partials[0];
  refuses("threshold.point", () => verified({ ...good, e1: `0xc0${"00".repeat(47)}` }));
  refuses("threshold.point", () => verified({ ...good, e2: `0xc0${"00".repeat(95)}` }));
});

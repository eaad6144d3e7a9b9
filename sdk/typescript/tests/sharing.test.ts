import { assert, flipped, refuses, stream, vectors } from "./support.ts";
import { sha256 } from "@noble/hashes/sha2.js";
import { bls12_381 } from "@noble/curves/bls12-381.js";
import { concat, uintBytes, utf8 } from "../src/encoding/bytes.ts";
import { fromHex, toHex } from "../src/encoding/hexes.ts";
import {
  DST,
  G1,
  g1FromBytes,
  G2,
  g2FromBytes,
  hashIdentity,
  hashToScalar,
  pairingBytes,
} from "../src/threshold/groups.ts";
import { decrypt, encrypt } from "../src/threshold/ibe.ts";
import { Context, setupRecipient, setupSender } from "../src/keys/hpke.ts";

const SHARING = vectors("sharing.json");
const SEALED = vectors("sealed-http.json");
const [MPK, ID] = [fromHex(SEALED.mpk, 96), fromHex(SEALED.call_identity)];
const KEY = fromHex(SEALED.derived_key, 48);

Deno.test("hash to curve, scalars and pairing bytes are those of the vectors", () => {
  assert.equal(new TextDecoder().decode(DST), SHARING.dst);
  const { context, parts, value } = SHARING.scalar;
  const scalar = hashToScalar(context, ...parts.map((p: string) => fromHex(p)));
  assert.equal(toHex(uintBytes(scalar, 32)), value);
  assert.equal(toHex(sha256(pairingBytes(G1.Point.BASE, G2.Point.BASE))), SHARING.gt_generator_sha256);
});

Deno.test("identity-based encryption: opens the vector, and encrypts to the same bytes", () => {
  const { sigma, message, aad, ciphertext } = SHARING.ibe;
  const { identity, key } = derivation();
  const mpk = fromHex(SHARING.ceremony.public.mpk, 96);
  assert.equal(toHex(decrypt(key, mpk, identity, fromHex(ciphertext), fromHex(aad))), message);
  const made = encrypt(mpk, identity, fromHex(message), fromHex(aad), () => fromHex(sigma, 32));
  assert.equal(toHex(made), ciphertext);
});

function derivation() {
  const { derivation } = SHARING;
  return { identity: fromHex(derivation.identity), key: fromHex(derivation.key ?? derivation.derived_key, 48) };
}

Deno.test("identity-based encryption: every byte of a ciphertext counts", () => {
  const aad = utf8("aad");
  const made = encrypt(MPK, ID, utf8("secret"), aad, stream("ibe"));
  assert.equal(new TextDecoder().decode(decrypt(KEY, MPK, ID, made, aad)), "secret");
  for (const at of [0, 1, 40, 96, 97, 120, 128, 129, made.length - 1]) {
    const bad = flipped(made, at, 1);
    assert.throws(() => decrypt(KEY, MPK, ID, bad, aad), /threshold\.ibe_(malformed|not_opened)/);
  }
  refuses("threshold.ibe_not_opened", () => decrypt(KEY, MPK, ID, made, utf8("other")));
  refuses("threshold.ibe_not_opened", () => decrypt(KEY, MPK, concat(ID, ID), made, aad));
  refuses("threshold.ibe_malformed", () => decrypt(KEY, MPK, ID, made.subarray(0, 140), aad));
  refuses("threshold.ibe_malformed", () => encrypt(MPK, ID, new Uint8Array((1 << 20) + 1), aad, stream("x")));
});

Deno.test("points: wrong size, off the curve, outside the subgroup, identity, second spelling", () => {
  const infinity = concat(Uint8Array.of(0xc0), new Uint8Array(95));
  refuses("threshold.point", () => g2FromBytes(infinity));
  refuses("threshold.point", () => g1FromBytes(infinity.subarray(0, 48)));
  refuses("threshold.point", () => g2FromBytes(MPK.subarray(0, 95)));
  refuses("threshold.point", () => g1FromBytes(new Uint8Array(48).fill(0xff)));
  refuses("threshold.point", () => g1FromBytes(outsideG1()));
  refuses("threshold.point", () => g2FromBytes(flipped(MPK, 0, 7)));
  assert.equal(toHex(g2FromBytes(MPK).toBytes(true)), SEALED.mpk);
  refuses("threshold.identity", () => hashIdentity(new Uint8Array(0)));
  refuses("threshold.identity", () => hashIdentity(new Uint8Array(4097)));
});

/** A point of the curve that is not in the prime-order subgroup. */
function outsideG1(): Uint8Array {
  const { Fp } = bls12_381.fields;
  for (let x = 1n;; x++) {
    const raw = uintBytes(x, 48);
    raw[0]! |= 0x80;
    const y2 = Fp.add(Fp.pow(x, 3n), 4n);
    if (!Fp.eql(Fp.pow(y2, (Fp.ORDER - 1n) / 2n), Fp.ONE)) continue;
    const point = G1.Point.fromAffine({ x, y: Fp.sqrt(y2) });
    if (!point.isTorsionFree()) return raw;
  }
}

Deno.test("HPKE: both ends agree in base and psk mode, and weak keys are refused", () => {
  const key = fromHex(SEALED.recipient_key, 32);
  const publicKey = fromHex(SEALED.seat.certificate.hpke_key, 32);
  const psk = { secret: new Uint8Array(32).fill(7), id: utf8("name") };
  for (const used of [undefined, psk]) {
    const { enc, context } = setupSender(publicKey, utf8("info"), stream("hpke"), used);
    const other = setupRecipient(enc, key, utf8("info"), used);
    assert.deepEqual(other.openAt(3, utf8("aad"), context.sealAt(3, utf8("aad"), utf8("hi"))), utf8("hi"));
    assert.deepEqual(other.export(utf8("x"), 80), context.export(utf8("x"), 80));
    refuses("seal.hpke_open", () => other.openAt(4, utf8("aad"), context.sealAt(3, utf8("aad"), utf8("hi"))));
    refuses("seal.hpke_open", () => other.openAt(3, utf8("axd"), context.sealAt(3, utf8("aad"), utf8("hi"))));
  }
  refuses("seal.hpke_psk", () => setupSender(publicKey, utf8(""), stream("x"), { ...psk, id: utf8("") }));
  refuses("seal.hpke_psk", () => setupSender(publicKey, utf8(""), stream("x"), { ...psk, secret: utf8("short") }));
  refuses("seal.hpke_key", () => setupSender(new Uint8Array(32), utf8(""), stream("x")));
  assert.throws(() => new Context(key, key.subarray(0, 12), key).export(utf8("x"), 0), RangeError);
});

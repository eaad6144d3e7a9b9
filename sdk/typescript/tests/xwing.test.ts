import { assert, flipped, refuses, stream, vectors } from "./support.ts";
import { sha256 } from "@noble/hashes/sha2.js";
import { ml_kem768_x25519 } from "@noble/post-quantum/hybrid.js";
import { concat, utf8 } from "../src/encoding/bytes.ts";
import { fromHex, toHex } from "../src/encoding/hexes.ts";
import { KeyCertificate } from "../src/envelope/certificate.ts";
import { ClientSession } from "../src/envelope/client.ts";
import { FLAG_IBE, FLAG_XWING, HEADER_SIZE, requestAad, splitPlaintext } from "../src/envelope/model.ts";
import { setupRecipient, setupSender } from "../src/keys/hpke.ts";
import { ENC_SIZE, encapsulate, PUBLIC_SIZE, XWingKey } from "../src/keys/xwing.ts";
import { build, draws, given } from "./xwing_vector.ts";

const PART = HEADER_SIZE + 2;
const SEALED = vectors("callers.json").xwing;
const MADE = vectors("xwing.json");
const { certificate: CERT, key: KEY, psk: PSK } = given();
const HEAD = {
  requestId: "0x" + "07".repeat(16),
  method: "GET",
  path: "/",
  deadlineMs: 1_700_000_030_000,
  headers: [],
};

// draft-connolly-cfrg-xwing-kem-10, appendix C, first vector: seed, eseed, ss; ct by its first bytes.
const DRAFT = {
  seed: "0x7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26",
  eseed: "0x3cb1eea988004b93103cfb0aeefd2a686e01fa4a58e8a3639ca8a1e3f9ae57e2" +
    "35b8cc873c23dc62b8d260169afa2f75ab916a58d974918835d25e6a435085b2",
  publicStart: "0xe2236b35a8c24b39b10aa1323a96a919a2ced88400633a7b07131713fc14b2b5",
  encStart: "0xb83aa828d4d62b9a83ceffe1d3d3bb1ef31264643c070c5798927e41fb07914a273f8f96",
  shared: "0xd2df0522128f09dd8e2c92b1e905c793d8f57a54c3da25861f10bf4ca613e384",
};

/** Opens a record as the worker does, from the bytes of the record alone. */
function open(record: Uint8Array, key = KEY, info = CERT.info): { head: Uint8Array; body: Uint8Array } {
  const header = record.subarray(0, HEADER_SIZE);
  const size = (record[HEADER_SIZE]! << 8) | record[HEADER_SIZE + 1]!;
  const enc = record.subarray(PART, PART + ENC_SIZE);
  assert.deepEqual(sha256(enc), header.slice(70, 102));
  const context = setupRecipient(enc, key, info, { secret: PSK.secret, id: header.subarray(102, 134) });
  const [head, body] = splitPlaintext(
    context.openAt(0, requestAad(header, CERT.fields.agent), record.subarray(PART + size)),
  );
  return { head, body };
}

Deno.test("X-Wing: the draft's answer, both ways", () => {
  const key = new XWingKey(fromHex(DRAFT.seed, 32));
  assert.equal(toHex(key.publicKey.subarray(0, 32)), DRAFT.publicStart);
  const eseed = fromHex(DRAFT.eseed, 64);
  const left = [eseed.slice(32), eseed.slice(0, 32)];
  const { enc, shared } = encapsulate(key.publicKey, () => left.shift()!);
  assert.equal(toHex(enc.subarray(0, 36)), DRAFT.encStart);
  assert.equal(toHex(shared), DRAFT.shared);
  assert.equal(toHex(key.decapsulate(enc)), DRAFT.shared);
});

Deno.test("X-Wing: the library's own construction agrees with ours", () => {
  const raw = new Uint8Array(32).fill(3);
  const key = new XWingKey(raw);
  const theirs = ml_kem768_x25519.keygen(raw);
  assert.deepEqual(theirs.publicKey, key.publicKey);
  const made = encapsulate(key.publicKey, stream("library"));
  assert.deepEqual(ml_kem768_x25519.decapsulate(made.enc, theirs.secretKey), made.shared);
  const sent = ml_kem768_x25519.encapsulate(key.publicKey);
  assert.deepEqual(key.decapsulate(sent.cipherText), sent.sharedSecret);
});

Deno.test("X-Wing: what Python sealed opens here", () => {
  const record = fromHex(SEALED.record);
  assert.equal(toHex(CERT.id), SEALED.certificate_id);
  assert.equal(new TextDecoder().decode(open(record).body), SEALED.body);
  refuses("seal.hpke_open", () => open(record, KEY, concat(CERT.info, Uint8Array.of(0))));
  refuses("seal.hpke_open", () => open(record, new XWingKey(new Uint8Array(32).fill(9))));
});

Deno.test("X-Wing: our record from given random bytes is the one of the vectors", () => {
  assert.deepEqual(build(), MADE);
  const session = new ClientSession(CERT, PSK, draws());
  assert.equal(toHex(session.exporter), MADE.exporter);
});

Deno.test("X-Wing: a session uses it where the certificate has it, and the client may choose the other suite", () => {
  const session = new ClientSession(CERT, PSK, stream("a"));
  const first = session.seal(HEAD, utf8("question"));
  assert.equal(first.data[5], FLAG_IBE | FLAG_XWING);
  assert.deepEqual(open(first.data).body, utf8("question"));
  const later = session.seal(HEAD, utf8("question"), { withIbe: false });
  assert.equal(later.data[5], FLAG_XWING);
  assert.equal(first.data.length - later.data.length, ENC_SIZE + PSK.ciphertext.length);
  assert.deepEqual(later.data.subarray(70, 102), first.data.subarray(70, 102));
  const once = new ClientSession(CERT, PSK, stream("b"), true).seal(HEAD, utf8("once"));
  assert.deepEqual([once.data[4], once.data[5]], [2, FLAG_IBE | FLAG_XWING]);
  assert.deepEqual(open(once.data).body, utf8("once"));
  const classic = new ClientSession(CERT, PSK, stream("c"), false, false);
  assert.equal(classic.seal(HEAD, utf8("")).data[5], FLAG_IBE);
  assert.notDeepEqual(classic.exporter, session.exporter);
});

Deno.test("X-Wing: without a key in the certificate it is our mistake", () => {
  const { xwing_key: _, ...rest } = CERT.toJson();
  const plain = KeyCertificate.fromJson({ ...rest, suite: 1 });
  assert.equal(plain.hybrid, false);
  assert.throws(
    () => new ClientSession(plain, { ...PSK, certificateId: plain.id }, stream("x"), false, true),
    TypeError,
  );
  refuses("encoding.field", () => KeyCertificate.fromJson({ ...rest, suite: 2 }));
  refuses("encoding.field", () => KeyCertificate.fromJson({ ...CERT.toJson(), suite: 1 }));
  refuses("encoding.hex", () => KeyCertificate.fromJson({ ...CERT.toJson(), xwing_key: "0x00" }));
});

Deno.test("X-Wing: every byte of a record counts", () => {
  const { data } = new ClientSession(CERT, PSK, stream("d")).seal(HEAD, utf8("body"));
  const fields = { flags: 5, boot: 6, certificate: 38, psk: 102, seq: 141, first: PART, last: PART + ENC_SIZE - 1 };
  for (const at of [...Object.values(fields), data.length - 1]) {
    assert.throws(() => open(flipped(data, at, 1)), Error, `byte ${at}`);
  }
});

Deno.test("X-Wing: altered encapsulations give another secret; weak and damaged keys are refused", () => {
  const { enc, shared } = encapsulate(KEY.publicKey, stream("e"));
  assert.deepEqual(KEY.decapsulate(enc), shared);
  for (const at of [0, 97, 500, 1087, 1088, 1100]) assert.notDeepEqual(KEY.decapsulate(flipped(enc, at)), shared);
  const weak = concat(enc.subarray(0, 1088), new Uint8Array(32));
  refuses("seal.xwing_key", () => KEY.decapsulate(weak));
  refuses(
    "seal.xwing_key",
    () => encapsulate(concat(KEY.publicKey.subarray(0, 1184), new Uint8Array(32)), stream("f")),
  );
  const large = concat(new Uint8Array(1184).fill(0xff), KEY.publicKey.subarray(1184)); // FIPS 203 7.2
  refuses("seal.xwing_key", () => encapsulate(large, stream("g")));
  for (const size of [0, 32, PUBLIC_SIZE - 1, PUBLIC_SIZE + 1]) {
    refuses("encoding.size", () => encapsulate(new Uint8Array(size), stream("h")));
    refuses("encoding.size", () => KEY.decapsulate(new Uint8Array(size)));
  }
  refuses("encoding.size", () => new XWingKey(new Uint8Array(31)));
});

Deno.test("X-Wing: as a KEM of HPKE both ends agree, and the suites are separate", () => {
  for (const psk of [undefined, { secret: new Uint8Array(32).fill(7), id: utf8("name") }]) {
    const { enc, context } = setupSender(KEY.publicKey, utf8("info"), stream("i"), psk);
    const other = setupRecipient(enc, KEY, utf8("info"), psk);
    assert.deepEqual(other.openAt(7, utf8("aad"), context.sealAt(7, utf8("aad"), utf8("text"))), utf8("text"));
    assert.deepEqual(other.export(utf8("x"), 100), context.export(utf8("x"), 100));
  }
  const { enc, context } = setupSender(KEY.publicKey, utf8("info"), stream("j"));
  const sealed = context.sealAt(0, utf8(""), utf8("text"));
  refuses("seal.hpke_open", () => setupRecipient(enc, KEY, utf8("other")).openAt(0, utf8(""), sealed));
  refuses("seal.hpke_psk", () => setupSender(KEY.publicKey, utf8(""), stream("k"), { secret: enc, id: utf8("") }));
});

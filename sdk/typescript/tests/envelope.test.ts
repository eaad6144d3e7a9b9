import { assert, flipped, refuses, stream, vectors } from "./support.ts";
import { shake256 } from "@noble/hashes/sha3.js";
import { concat, readU32, type Rng, uintBytes, utf8 } from "../src/encoding/bytes.ts";
import { fromHex, toHex } from "../src/encoding/hexes.ts";
import * as jcs from "../src/encoding/jcs.ts";
import { signDigest, SignerSet } from "../src/encoding/signatures.ts";
import { CallerSession, Lease } from "../src/encoding/statements.ts";
import { KeyCertificate, Seat } from "../src/envelope/certificate.ts";
import { ClientSession, encapsulate, type SealedRequest } from "../src/envelope/client.ts";
import {
  decodeResponseHead,
  encodeRequestHead,
  HEADER_SIZE,
  requestAad,
  type RequestHead,
  splitPlaintext,
} from "../src/envelope/model.ts";
import { type Event, Opener } from "../src/envelope/opener.ts";
import { AnswerCipher } from "../src/envelope/stream.ts";
import { type Context, setupRecipient } from "../src/keys/hpke.ts";
import { privateKeySigner, signSession } from "../src/client/wallet.ts";

const DATA = vectors("sealed-http.json");
const NOW = 1_700_000_000_000;
const SEAT = Seat.fromJson(DATA.seat);
const CERT = SEAT.certificate;
const NETWORK = CERT.fields.network;
const SIGNERS = new SignerSet(1, 2, DATA.members.map((m: string) => fromHex(m, 20)));
const MPK = fromHex(DATA.mpk, 96);
const WALLET = privateKeySigner("0x" + (55).toString(16).padStart(64, "0"));

/** The random source of gen_sealed_http.py: SHAKE-256 of seed and call number. */
function shake(seed: string): Rng {
  let calls = 0;
  return (size) => shake256(utf8(`${seed}/${++calls}`), { dkLen: size });
}

function head(number: number): RequestHead {
  return {
    requestId: "0x" + number.toString(16).padStart(32, "0"),
    method: "POST",
    path: "/ask?x=1",
    headers: [["content-type", "application/json"], ["x-note", "é"]],
    deadlineMs: NOW + 30_000,
    idempotencyKey: "order 7",
  };
}

async function session(): Promise<ClientSession> {
  const made = new ClientSession(CERT, encapsulate(CERT, MPK, shake("psk")), shake("session"));
  await made.authenticate(fromHex(WALLET.address), NOW / 1000 + 60, (word) => signSession(WALLET, word, NETWORK));
  return made;
}

function same(sealed: SealedRequest, call: Record<string, string | number>): void {
  assert.equal(sealed.seq, call["seq"]);
  assert.equal(toHex(sealed.headBytes), call["head"]);
  assert.equal(toHex(sealed.data), call["record"]);
  assert.equal(toHex(sealed.salt), call["salt"]);
  assert.equal(toHex(sealed.commitment), call["request_commitment"]);
}

Deno.test("certificate: bytes, id, identity and seat of the vectors", () => {
  assert.equal(new TextDecoder().decode(CERT.encoded), DATA.certificate);
  assert.equal(toHex(CERT.id), DATA.certificate_id);
  assert.equal(toHex(CERT.callIdentity), DATA.call_identity);
  assert.deepEqual(SEAT.toJson(), DATA.seat);
  SEAT.verify(SIGNERS, NETWORK, 199);
});

Deno.test("sealing with the vectors' random bytes gives the vectors' records", async () => {
  const psk = encapsulate(CERT, MPK, shake("psk"));
  assert.equal(toHex(psk.id), DATA.psk.id);
  assert.equal(toHex(psk.ciphertext), DATA.psk.ciphertext);
  const open = await session();
  assert.equal(toHex(open.exporter), DATA.caller.exporter);
  assert.equal(WALLET.address, DATA.caller.address);
  const first = open.seal(head(0), utf8("first"), { withIbe: true });
  same(first, DATA.calls[0]);
  same(open.seal(head(1), utf8(""), { withIbe: false }), DATA.calls[1]);
  const once = new ClientSession(CERT, psk, shake("once"), true);
  same(once.seal(head(2), utf8("once")), DATA.calls[2]);
  assert.throws(() => once.seal(head(2), utf8("once")), TypeError);
  same(open.seal(head(3), utf8("fails"), { withIbe: false }), DATA.calls[3]);
});

Deno.test("the caller's digest is the one that the wallet signs", async () => {
  const { agent, boot } = CERT.fields;
  const word = { agent, boot, exporter: fromHex(DATA.caller.exporter), expiry: NOW / 1000 + 60 };
  assert.equal(toHex(CallerSession.digest(word, NETWORK)), DATA.caller.digest);
  assert.equal((await signSession(WALLET, word, NETWORK)).length, 65);
});

Deno.test("the worker's end opens our records; every byte of header and ciphertext counts", async () => {
  const sealed = (await session()).seal(head(5), utf8("body"));
  const [headBytes, body] = splitPlaintext(openRecord(sealed.data));
  assert.deepEqual([headBytes, body], [sealed.headBytes, utf8("body")]);
  const fields = { magic: 0, kind: 4, flags: 5, boot: 6, certificate: 38, enc: 70, psk: 102, seq: 134 };
  for (const at of [...Object.values(fields), HEADER_SIZE - 1]) {
    assert.throws(() => openRecord(flipped(sealed.data, at, 2)), /seal\.hpke/, `byte ${at}`);
  }
  for (const at of [sealed.data.length - 1, sealed.data.length - 30]) {
    refuses("seal.hpke_open", () => openRecord(flipped(sealed.data, at)));
  }
  refuses("seal.hpke_open", () => openRecord(sealed.data, new Uint8Array(32)));
});

/** Opens a record as the holder of the recipient key and PSK, from the bytes of the record alone. */
function openRecord(record: Uint8Array, agent: Uint8Array = CERT.fields.agent): Uint8Array {
  const header = record.subarray(0, HEADER_SIZE);
  const size = (record[HEADER_SIZE]! << 8) | record[HEADER_SIZE + 1]!;
  const psk = { secret: fromHex(DATA.psk.secret), id: header.subarray(102, 134) };
  const context = setupRecipient(header.subarray(70, 102), fromHex(DATA.recipient_key), CERT.info, psk);
  const seq = Number(new DataView(header.buffer, header.byteOffset + 134, 8).getBigUint64(0));
  return context.openAt(Math.min(seq, 2 ** 53 - 1), requestAad(header, agent), record.subarray(HEADER_SIZE + 2 + size));
}

Deno.test("every request takes its own number, and IBE goes until the first answer's head", async () => {
  const open = await session();
  const sizes = [open.seal(head(0), utf8("a")), open.seal(head(1), utf8("a")), open.seal(head(1), utf8("a"))];
  assert.deepEqual(sizes.map((s) => s.seq), [0, 1, 2]);
  assert.deepEqual(sizes.map((s) => s.data[5]), [1, 1, 1]);
  const confirmed = await session();
  confirmed.seal(head(0), utf8("first"), { withIbe: true }).opener.feed(fromHex(DATA.calls[0].answer.stream));
  const short = confirmed.seal(head(1), utf8("a"));
  assert.equal(short.data[5], 0);
  assert.ok(!new TextDecoder().decode(short.headBytes).includes("signature"));
  assert.ok(
    new TextDecoder().decode(confirmed.seal(head(1), utf8(""), { withIbe: true }).headBytes).includes("signature"),
  );
  const other = KeyCertificate.fromJson({ ...CERT.toJson(), expiry: 199 });
  assert.throws(() => new ClientSession(other, encapsulate(CERT, MPK, stream("x")), stream("y")), TypeError);
});

Deno.test("answers of the vectors open, in pieces of any size", async () => {
  for (const step of [1, 7, 100, 1 << 20]) {
    for (const [sealed, call] of await allCalls()) {
      const events = pieces(sealed.opener, fromHex(call.answer.stream), step);
      sealed.opener.close();
      const [first, ...rest] = events;
      assert.deepEqual(first, { type: "head", status: 200, headers: call.answer.headers, checkpoint: 123 });
      const text = rest.map((e) => (e.type === "body" ? new TextDecoder().decode(e.data) : "")).join("");
      assert.equal(text, call.answer.chunks.join(""));
      const final = rest.at(-1)!;
      assert.ok(final.type === "final");
      assert.equal(new TextDecoder().decode(final.receipt), call.answer.receipt);
      assert.equal(toHex(final.signature), call.answer.signature);
      assert.equal(toHex(sealed.opener.commitment(sealed.salt)), call.answer.response_commitment);
    }
  }
});

// deno-lint-ignore no-explicit-any
async function allCalls(): Promise<[SealedRequest, any][]> {
  const open = await session();
  const once = new ClientSession(CERT, encapsulate(CERT, MPK, shake("psk")), shake("once"), true);
  const first = open.seal(head(0), utf8("first"), { withIbe: true });
  first.opener.options.onAuthentic?.(true);
  const second = open.seal(head(1), utf8(""), { withIbe: false });
  return [[first, DATA.calls[0]], [second, DATA.calls[1]], [once.seal(head(2), utf8("once")), DATA.calls[2]]];
}

function pieces(opener: Opener, data: Uint8Array, step: number): Event[] {
  const events: Event[] = [];
  for (let at = 0; at < data.length; at += step) events.push(...opener.feed(data.subarray(at, at + step)));
  return events;
}

Deno.test("a sealed refusal of the vectors is thrown under its own code", async () => {
  const open = await session();
  for (const number of [0, 1]) open.seal(head(number), utf8(""), { withIbe: false });
  const { opener } = open.seal(head(3), utf8("fails"), { withIbe: false });
  const [event] = opener.feed(fromHex(DATA.calls[3].error_stream));
  assert.ok(event?.type === "failed" && event.error.code === "envelope.deadline");
  opener.close();
  assert.equal(open.confirmed, false);
});

// --- streams that nobody should believe; both ends from one context ---

const CONTEXT = contextOf();
const ID = new Uint8Array(16).fill(3);
const RAND = new Uint8Array(32).fill(4);
const HEAD = utf8('{"status":200,"checkpoint":5,"h":[]}');
const FINAL = utf8(`{"receipt":{"a":1},"signature":"0x${"00".repeat(65)}"}`);

function contextOf(): Context {
  const psk = { secret: new Uint8Array(32), id: utf8("x") };
  const { enc } = { enc: fromHex(DATA.calls[0].record).subarray(70, 102) };
  return setupRecipient(enc, fromHex(DATA.recipient_key), CERT.info, psk);
}

function cipher(seq = 0, id = ID, rand = RAND): AnswerCipher {
  return new AnswerCipher(CONTEXT, seq, id, rand);
}

function opener(maxBody = 1000): Opener {
  return new Opener({ context: CONTEXT, seq: 0, requestId: ID, maxBody });
}

/** A good stream as its parts: rand, head, two body chunks, final. */
function good(): Uint8Array[] {
  const c = cipher();
  const body = [utf8("one"), utf8("two")].map((data, i) => c.seal(1 + i, false, data));
  return [RAND, c.seal(0, false, HEAD), ...body, c.seal(3, true, FINAL)];
}

function openAll(...parts: Uint8Array[]): Event[] {
  const reader = opener();
  const events = parts.flatMap((part) => reader.feed(part));
  reader.close();
  return events;
}

Deno.test("stream: the good one has four events", () => {
  assert.deepEqual(openAll(...good()).map((e) => e.type), ["head", "body", "body", "final"]);
});

Deno.test("stream: no flipped bit passes", () => {
  const all = concat(...good());
  for (let at = 0; at < all.length; at++) {
    const codes = /envelope\.(not_authentic|malformed|truncated)/;
    assert.throws(() => openAll(flipped(all, at, at % 8)), codes, `byte ${at}`);
  }
});

Deno.test("stream: cut anywhere it is truncated", () => {
  const all = concat(...good());
  for (let end = 0; end < all.length; end++) refuses("envelope.truncated", () => openAll(all.subarray(0, end)));
});

Deno.test("stream: reordered, repeated, left out, of another request, number or attempt", () => {
  const [rand, first, one, two, last] = good() as [Uint8Array, Uint8Array, Uint8Array, Uint8Array, Uint8Array];
  const bad: [string, Uint8Array[]][] = [
    ["reordered", [rand, first, two, one, last]],
    ["repeated", [rand, first, one, one, two, last]],
    ["left out", [rand, first, two, last]],
    ["final early", [rand, first, last]],
    ["head missing", [rand, one, two, last]],
    ["another request", [rand, cipher(0, new Uint8Array(16)).seal(0, false, HEAD)]],
    ["another number", [rand, cipher(1).seal(0, false, HEAD)]],
    ["another attempt", [rand, cipher(0, ID, new Uint8Array(32)).seal(0, false, HEAD)]],
    ["a body chunk as final", [rand, first, asFinal(one)]],
  ];
  for (const [what, parts] of bad) assert.ok(refuses("envelope.not_authentic", () => openAll(...parts)), what);
  refuses("envelope.malformed", () => openAll(...good(), utf8("x")));
});

function asFinal(chunk: Uint8Array): Uint8Array {
  const copy = new Uint8Array(chunk);
  copy[4] = 1;
  return copy;
}

Deno.test("stream: sizes and forms", () => {
  const c = cipher();
  refuses("envelope.malformed", () => openAll(RAND, uintBytes(256 * 1024 + 17, 4), Uint8Array.of(0)));
  refuses("envelope.malformed", () => openAll(RAND, uintBytes(15, 4), Uint8Array.of(0)));
  refuses("envelope.malformed", () => openAll(RAND, uintBytes(20, 4), Uint8Array.of(2)));
  refuses("envelope.too_large", () => openAll(RAND, c.seal(0, false, HEAD), c.seal(1, false, new Uint8Array(1001))));
  for (
    const text of ["{}", "[]", "x", '{"status":200,"checkpoint":5,"h":[["A","b"]]}', '{"status":99,"checkpoint":5}']
  ) {
    refuses("envelope.head", () => openAll(RAND, c.seal(0, false, utf8(text))));
  }
  const finals = ['{"receipt":{},"signature":"0x00"}', '{"receipt":{}}', "{}", '{"status":500,"error":{"code":1}}'];
  for (const text of finals) {
    refuses("envelope.head", () => openAll(RAND, c.seal(0, false, HEAD), c.seal(1, true, utf8(text))));
  }
  const early = utf8('{"receipt":{},"signature":"0x' + "00".repeat(65) + '"}');
  refuses("envelope.head", () => openAll(RAND, c.seal(0, true, early)));
  refuses("envelope.malformed", () => openAll(RAND, c.seal(0, true, utf8('{"status":200,"error":{"code":"a.b"}}'))));
});

Deno.test("stream: after a refusal it stays refused", () => {
  const reader = opener();
  reader.feed(RAND);
  refuses("envelope.not_authentic", () => reader.feed(flipped(cipher().seal(0, false, HEAD), 9)));
  refuses("envelope.truncated", () => reader.feed(cipher().seal(0, false, HEAD)));
  refuses("envelope.truncated", () => reader.close());
  refuses("envelope.truncated", () => opener().commitment(RAND));
});

Deno.test("request heads: every field has its form", () => {
  const bad: Partial<RequestHead>[] = [
    { requestId: "0x00" },
    { requestId: "0x" + "A".repeat(32) },
    { method: "get" },
    { method: "" },
    { path: "x" },
    { path: "/a b" },
    { path: "/é" },
    { path: "/" + "a".repeat(8192) },
    { deadlineMs: -1 },
    { deadlineMs: 1.5 },
    { idempotencyKey: "" },
    { idempotencyKey: "é" },
    { headers: [["A", "b"]] },
    { headers: [["a", "b\n"]] },
    { headers: [["a", "€"]] },
    { headers: Array(129).fill(["a", "b"]) },
  ];
  for (const change of bad) refuses("envelope.head", () => encodeRequestHead({ ...head(1), ...change }));
  const large: RequestHead["headers"] = Array(5).fill(["a", "b".repeat(16384)]);
  refuses("envelope.too_large", () => encodeRequestHead({ ...head(1), headers: large }));
  assert.deepEqual(decodeResponseHead(HEAD), { status: 200, checkpoint: 5, headers: [] });
});

Deno.test("plaintext: head length within the bytes", () => {
  for (const bad of ["0x", "0x000000", "0x00000005aa", "0xffffffff"]) {
    refuses("envelope.malformed", () => splitPlaintext(fromHex(bad)));
  }
  assert.equal(readU32(fromHex("0xfffffffe"), 0), 0xfffffffe);
});

// --- seats ---

function signedSeat(
  lease: Partial<Lease> = {},
  certificate: Record<string, jcs.Json> = {},
  members = [100, 101],
): Seat {
  const key = (n: number) => uintBytes(n, 32);
  const statement = { ...SEAT.lease, ...lease };
  const made = KeyCertificate.fromJson({ ...CERT.toJson(), ...certificate });
  const message = Lease.digest(statement, NETWORK);
  return new Seat(made, signDigest(key(7), made.id), statement, members.map((n) => signDigest(key(n), message)));
}

Deno.test("seats: each check in its order, with its own code", () => {
  const check = (seat: Seat, height = 100) => () => seat.verify(SIGNERS, NETWORK, height);
  check(signedSeat())();
  const zero = toHex(new Uint8Array(32));
  refuses("envelope.wrong_network", check(signedSeat({}, { network: zero, suite: 3 })));
  refuses("envelope.suite", check(signedSeat({}, { suite: 3, agent: zero })));
  for (const name of ["agent", "code_hash", "manifest_hash", "cluster", "boot"]) {
    refuses("envelope.not_leased", check(signedSeat({}, { [name]: zero })));
  }
  for (const name of ["master_epoch", "cluster_epoch", "agent_epoch", "period"]) {
    refuses("envelope.not_leased", check(signedSeat({}, { [name]: 9 })));
  }
  refuses("envelope.not_leased", check(signedSeat({}, { worker: toHex(new Uint8Array(20)) })));
  refuses("envelope.not_leased", check(signedSeat({}, { expiry: 201 }), 300));
  refuses("envelope.certificate_expired", check(signedSeat(), 200));
  refuses("encoding.signature", check(new Seat(CERT, flipped(SEAT.signature, 5), SEAT.lease, [])));
  refuses("encoding.too_few_signers", check(signedSeat({}, {}, [100])));
  refuses("encoding.signature", check(signedSeat({}, {}, [100, 103])));
  refuses("encoding.wrong_term", check(signedSeat({ term: 2 })));
});

Deno.test("seats: unknown fields, wrong sizes and too many signatures are refused", () => {
  refuses("encoding.field", () => Seat.fromJson({ ...DATA.seat, extra: 1 }));
  refuses("encoding.field", () => KeyCertificate.fromJson({ ...CERT.toJson(), extra: 1 }));
  refuses("encoding.hex", () => KeyCertificate.fromJson({ ...CERT.toJson(), boot: "0x00" }));
  refuses("encoding.size", () => KeyCertificate.fromJson({ ...CERT.toJson(), period: -1 }));
  const many = { ...DATA.seat.lease, signatures: Array(65).fill(DATA.seat.lease.signatures[0]) };
  refuses("envelope.not_leased", () => Seat.fromJson({ ...DATA.seat, lease: many }));
  refuses("envelope.not_leased", () => Seat.fromJson({ ...DATA.seat, lease: { ...DATA.seat.lease, signatures: "x" } }));
});

Deno.test("a certificate of both suites reads back byte for byte; another form of it is refused", () => {
  const { xwing } = vectors("callers.json");
  const certificate = KeyCertificate.fromJson(JSON.parse(xwing.certificate));
  assert.equal(new TextDecoder().decode(certificate.encoded), xwing.certificate);
  assert.equal(toHex(certificate.id), xwing.certificate_id);
  assert.equal(certificate.fields.xwing_key?.length, 1216);
  const changed = (change: Record<string, unknown>) => ({ ...certificate.toJson(), ...change });
  const { xwing_key: _, ...without } = certificate.toJson();
  refuses("encoding.field", () => KeyCertificate.fromJson(without));
  refuses("encoding.field", () => KeyCertificate.fromJson(changed({ suite: 1 })));
  refuses("encoding.field", () => KeyCertificate.fromJson(changed({ suite: 3 })));
  refuses("encoding.hex", () => KeyCertificate.fromJson(changed({ xwing_key: "0x00" })));
});

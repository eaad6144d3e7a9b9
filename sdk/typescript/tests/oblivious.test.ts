import { assert, flipped, refuses, rejects, stream, vectors } from "./support.ts";
import { concat } from "../src/encoding/bytes.ts";
import { fromHex, toHex } from "../src/encoding/hexes.ts";
import { decodeRequest, decodeResponse, encodeRequest, encodeResponse } from "../src/envelope/bhttp.ts";
import { KeyCertificate } from "../src/envelope/certificate.ts";
import { keyNumber, ObliviousKey, type ObliviousRequest, seal, toMessage } from "../src/envelope/oblivious.ts";
import { eventsOf } from "../src/envelope/oblivious_answer.ts";
import { decapsulate, decodeConfigs, encapsulate, KEM_X25519, KEM_XWING, KeyConfig } from "../src/envelope/ohttp.ts";
import * as idsig from "../src/keys/idsig.ts";
import { XWingKey } from "../src/keys/xwing.ts";
import { given } from "./xwing_vector.ts";

const ALL = vectors("ohttp.json");
const CAP = 1 << 20;
const CALL = ALL.call;
const CERTIFICATE = KeyCertificate.fromJson(JSON.parse(CALL.certificate));
const MPK = fromHex(CALL.mpk);
const SHOWN = ObliviousKey.fromJson(CALL.key);
const HEAD = {
  requestId: CALL.head.id,
  method: CALL.head.m,
  path: CALL.head.p,
  deadlineMs: CALL.head.d,
  headers: CALL.head.h,
  idempotencyKey: CALL.head.idem,
};

function changed(changes: Partial<Record<"certificate" | "config" | "signature" | "proof", Uint8Array>>): ObliviousKey {
  const { certificate, config, signature, proof } = { ...SHOWN, ...changes };
  return new ObliviousKey(certificate, config, signature, proof);
}

Deno.test("the key of the vectors verifies, and names its period", () => {
  const config = SHOWN.verify(CERTIFICATE, MPK);
  assert.equal(config.keyId, keyNumber(CERTIFICATE));
  assert.equal(config.kem, KEM_X25519);
  assert.ok(SHOWN.isFor(CERTIFICATE));
});

Deno.test("a key that something certifies wrongly is refused", () => {
  const bad = (code: string, key: ObliviousKey, mpk = MPK) => refuses(code, () => key.verify(CERTIFICATE, mpk));
  bad("oblivious.key", changed({ certificate: flipped(SHOWN.certificate, 0) }));
  bad("oblivious.key", changed({ config: flipped(SHOWN.config, 0) }));
  bad("ohttp.suite", changed({ config: flipped(SHOWN.config, 1) }));
  bad("ohttp.malformed", changed({ config: SHOWN.config.subarray(0, -1) }));
  const { hpke_key } = CERTIFICATE.fields;
  bad("oblivious.key", changed({ config: new KeyConfig(SHOWN.config[0]!, hpke_key).encode() }));
  bad("threshold.point", changed({ proof: new Uint8Array(96) }));
  bad("threshold.key_signature", changed({ proof: SHOWN.proof.slice(0, 95) }));
  const [u, v] = [SHOWN.proof.subarray(0, 48), SHOWN.proof.subarray(48)];
  bad("threshold.key_signature", changed({ proof: concat(v, u) }));
  bad("threshold.key_signature", changed({ proof: concat(u, u) }));
});

Deno.test("a signature by a derived key is over one message, identity and master key", () => {
  const identity = CERTIFICATE.callIdentity;
  idsig.verify(MPK, identity, SHOWN.id, SHOWN.proof);
  const code = "threshold.key_signature";
  refuses(code, () => idsig.verify(MPK, identity, flipped(SHOWN.id, 3), SHOWN.proof));
  refuses(code, () => idsig.verify(MPK, flipped(identity, 3), SHOWN.id, SHOWN.proof));
  refuses("threshold.point", () => idsig.verify(flipped(MPK, 90), identity, SHOWN.id, SHOWN.proof));
});

Deno.test("a request is made as in the vectors, and its answer and its refusal are opened", async () => {
  const config = SHOWN.verify(CERTIFICATE, MPK);
  const make = () => seal(config, CERTIFICATE, HEAD, fromHex(CALL.body), () => fromHex(CALL.client_random));
  const sealed = await make();
  assert.equal(toHex(sealed.data), CALL.encapsulated_request);
  assert.equal(toHex(sealed.commitment), CALL.request_commitment);
  const [head, body, final] = opened(sealed, fromHex(CALL.encapsulated_response));
  assert.ok(head?.type === "head" && body?.type === "body" && final?.type === "final");
  assert.deepEqual([head.status, head.checkpoint, toHex(body.data)], [200, CALL.checkpoint, CALL.answer]);
  assert.equal(toHex(sealed.opener.commitment(sealed.salt)), CALL.response_commitment);
  assert.equal(new TextDecoder().decode(final.receipt), CALL.receipt);
  assert.equal(toHex(final.signature), CALL.receipt_signature);
  const [refused] = opened(await make(), fromHex(CALL.encapsulated_refusal));
  assert.ok(refused?.type === "failed");
  assert.equal(refused.error.code, CALL.refusal);
  for (let at = 0; at < 200; at += 9) {
    const other = await make();
    refuses("ohttp.not_authentic", () => opened(other, flipped(fromHex(CALL.encapsulated_response), at)));
  }
});

Deno.test("an agent's field that begins with cloister- is refused, and a head out of form", async () => {
  const config = SHOWN.verify(CERTIFICATE, MPK);
  const body = new Uint8Array(0);
  const make = (changes: Partial<typeof HEAD>) => seal(config, CERTIFICATE, { ...HEAD, ...changes }, body, stream("x"));
  await rejects("oblivious.field", () => make({ headers: [["cloister-boot", "0x00"]] }));
  await rejects("envelope.head", () => make({ path: "no path" }));
  await rejects("envelope.head", () => make({ headers: [["A", "b"]] }));
});

Deno.test("a caller's word is over this request's own context", async () => {
  const config = SHOWN.verify(CERTIFICATE, MPK);
  const exporters: Uint8Array[] = [];
  const speaker = {
    address: new Uint8Array(20).fill(1),
    expiry: 9,
    sign: (session: { exporter: Uint8Array }) => {
      exporters.push(session.exporter);
      return new Uint8Array(65);
    },
  };
  for (const seed of ["one", "two"]) {
    await seal(config, CERTIFICATE, HEAD, new Uint8Array(0), stream(seed), speaker);
  }
  assert.equal(exporters.length, 2);
  assert.notDeepEqual(exporters[0], exporters[1]);
  const caller = { address: "0x01", expiry: 9, signature: "0x02" };
  const fields = new Map(toMessage(CERTIFICATE, { ...HEAD, caller }, new Uint8Array(0)).headers);
  assert.deepEqual(JSON.parse(fields.get("cloister-caller")!), caller);
});

/** The events of an answer that arrives `step` bytes at a time. */
function opened({ opener }: ObliviousRequest, data: Uint8Array, step = data.length + 1) {
  const events = [];
  for (let at = 0; at < data.length; at += step) events.push(...opener.feed(data.subarray(at, at + step)));
  return [...events, ...opener.close()];
}

Deno.test("an answer has one checkpoint and one receipt, a refusal its own code", () => {
  const good = decodeResponse(
    encodeResponse({
      status: 200,
      headers: [["cloister-checkpoint", "7"], ["a", "b"]],
      content: new Uint8Array(3),
      trailers: [["cloister-receipt", `{"receipt":{},"signature":"0x${"01".repeat(65)}"}`]],
      informational: [],
    }),
    CAP,
  );
  const [head] = eventsOf(good);
  assert.ok(head?.type === "head");
  assert.deepEqual(head.headers, [["a", "b"]]);
  const bad = (code: string, changes: Partial<typeof good>) => refuses(code, () => eventsOf({ ...good, ...changes }));
  bad("oblivious.answer", { headers: [] });
  bad("oblivious.answer", { headers: [["cloister-checkpoint", "7"], ["cloister-checkpoint", "7"]] });
  bad("oblivious.answer", { headers: [["cloister-checkpoint", "7"], ["cloister-more", "7"]] });
  bad("oblivious.field", { headers: [["cloister-checkpoint", "07"]] });
  bad("oblivious.answer", { trailers: [] });
  bad("oblivious.answer", { trailers: [...good.trailers, ["x", "y"]] });
  bad("envelope.head", { trailers: [["cloister-receipt", `["receipt":{},"signature":"0x${"01".repeat(65)}"}`]] });
  bad("envelope.head", { headers: [["cloister-refusal", "x.y"]] });
  const error = JSON.stringify({ status: 403, error: { code: "policy.paused" } });
  const content = new TextEncoder().encode(error);
  bad("oblivious.answer", { headers: [["cloister-refusal", "other.code"]], content });
  assert.equal(eventsOf({ ...good, headers: [["cloister-refusal", "policy.paused"]], content })[0]?.type, "failed");
});

Deno.test("a certificate with X-Wing: the key of X-Wing is taken, the other refused", () => {
  const { mpk, certificate, keys, refused } = ALL.xwing;
  const of = KeyCertificate.fromJson(JSON.parse(certificate));
  const [classic, hybrid] = keys.map((one: unknown) => ObliviousKey.fromJson(one)) as [ObliviousKey, ObliviousKey];
  const config = hybrid.verify(of, fromHex(mpk));
  assert.deepEqual([config.kem, config.keyId], [KEM_XWING, (260 + 128) % 256]);
  assert.deepEqual([classic.isFor(of), hybrid.isFor(of)], [false, true]);
  refuses(refused, () => classic.verify(of, fromHex(mpk)));
  refuses("oblivious.key", () => hybrid.verify(CERTIFICATE, MPK));
});

Deno.test("X-Wing goes both ways, and no byte of it can be changed", () => {
  const { ohttp: made } = vectors("xwing.json");
  const { key } = given();
  const [config] = decodeConfigs(
    concat(Uint8Array.of(made.config.length / 2 - 1 >> 8, (made.config.length / 2 - 1) & 255), fromHex(made.config)),
  );
  const data = fromHex(made.encapsulated_request);
  const came = decapsulate(data, key, config!, CAP);
  assert.equal(new TextDecoder().decode(came.request), made.request);
  const mine = encapsulate(config!, came.request, stream("client"));
  const told = decapsulate(mine.data, key, config!, CAP).exchange.sealResponse(came.request, stream("worker"));
  assert.deepEqual(mine.exchange.openResponse(told, CAP), came.request);
  for (const at of [0, 1, 4, 8, 900, 1094, 1095, 1126, 1127, data.length - 1]) {
    const code = at === 0 ? "ohttp.key_unknown" : at < 6 ? "ohttp.suite" : "ohttp.not_authentic";
    refuses(code, () => decapsulate(flipped(data, at), key, config!, CAP));
  }
  refuses("ohttp.malformed", () => decapsulate(data.subarray(0, 1142), key, config!, CAP));
  refuses("ohttp.malformed", () => KeyConfig.decode(config!.encode().subarray(0, 1200)));
  refuses(
    "ohttp.suite",
    () => decapsulate(data, new XWingKey(new Uint8Array(32)), new KeyConfig(7, new Uint8Array(32)), CAP),
  );
  assert.equal(decodeRequest(encodeRequest(toMessage(CERTIFICATE, HEAD, new Uint8Array(0))), CAP).scheme, "https");
});

import { assert, flipped, refuses, stream, vectors } from "./support.ts";
import { concat, utf8 } from "../src/encoding/bytes.ts";
import { fromHex, toHex } from "../src/encoding/hexes.ts";
import {
  type BinaryRequest,
  type BinaryResponse,
  decodeRequest,
  decodeResponse,
  encodeRequest,
  encodeRequestHead,
  encodeResponse,
  paddedSize,
} from "../src/envelope/bhttp.ts";
import { decapsulate, decodeConfigs, encapsulate, Exchange, KeyConfig } from "../src/envelope/ohttp.ts";
import { setupSender } from "../src/keys/hpke.ts";
import { x25519 } from "@noble/curves/ed25519.js";

const ALL = vectors("ohttp.json");
const CAP = 1 << 20;
const rfc = (name: string) => fromHex(ALL.rfc9458[name]);

function fresh(suites?: KeyConfig["suites"]): { key: Uint8Array; config: KeyConfig } {
  const key = stream("oblivious key")(32);
  return { key, config: new KeyConfig(7, x25519.getPublicKey(key), suites) };
}

Deno.test("OHTTP: Appendix A of RFC 9458, byte for byte and both ways", () => {
  const config = KeyConfig.decode(rfc("key_config"));
  assert.deepEqual(config.encode(), rfc("key_config"));
  const { data, exchange } = encapsulate(config, rfc("request"), () => rfc("client_ephemeral"));
  assert.equal(toHex(data), ALL.rfc9458.encapsulated_request);
  const came = decapsulate(data, rfc("gateway_key"), config, CAP);
  assert.deepEqual(came.request, rfc("request"));
  const nonce = rfc("encapsulated_response").slice(0, 16);
  assert.equal(toHex(came.exchange.sealResponse(rfc("response"), () => nonce)), ALL.rfc9458.encapsulated_response);
  assert.deepEqual(exchange.openResponse(rfc("encapsulated_response"), CAP), rfc("response"));
  assert.equal(decodeRequest(rfc("request"), 0).authority, "example.com");
  assert.equal(decodeResponse(rfc("response"), 0).status, 200);
});

Deno.test("binary HTTP: the vectors are read and written, in both framings", () => {
  const said = ALL.bhttp;
  for (const open of [false, true]) {
    const suffix = open ? "_indeterminate" : "";
    const asked: BinaryRequest = { ...said.request_fields, content: fromHex(said.request_fields.content) };
    const request = fromHex(said[`request${suffix}`]);
    assert.deepEqual(decodeRequest(request, 100), asked);
    assert.deepEqual(encodeRequest(asked, open, request.length), request);
    const told: BinaryResponse = { ...said.response_fields, content: fromHex(said.response_fields.content) };
    const response = fromHex(said[`response${suffix}`]);
    assert.deepEqual(decodeResponse(response, 100), told);
    assert.deepEqual(encodeResponse(told, open, response.length), response);
  }
  assert.equal(toHex(encodeRequestHead(decodeRequest(fromHex(said.request), 100))), said.request_head);
});

Deno.test("a whole call: the request is made, the answer and the refusal are opened", () => {
  const said = ALL.call;
  const [config] = decodeConfigs(fromHex(said.ohttp_keys));
  assert.equal(config!.keyId, 260 % 256);
  assert.deepEqual(config!.encode(), fromHex(said.key.config));
  const message = fromHex(said.message);
  const { data, exchange } = encapsulate(config!, message, () => fromHex(said.client_random));
  assert.equal(toHex(data), said.encapsulated_request);
  const asked = decodeRequest(message, CAP);
  assert.equal(asked.path, said.head.p);
  assert.equal(toHex(asked.content), said.body);
  assert.equal(new Map(asked.headers).get("cloister-request"), said.head.id);
  const bare = encodeRequest(asked);
  assert.deepEqual(encodeRequest(asked, false, paddedSize(bare.length)), message);
  const answer = decodeResponse(exchange.openResponse(fromHex(said.encapsulated_response), CAP), CAP);
  assert.equal(answer.status, said.status);
  assert.equal(toHex(answer.content), said.answer);
  assert.equal(new Map(answer.headers).get("cloister-checkpoint"), String(said.checkpoint));
  const final = new Map(answer.trailers).get("cloister-receipt")!;
  assert.ok(final.startsWith(`{"receipt":${said.receipt},"signature":"${said.receipt_signature}"`));
  const refusal = decodeResponse(exchange.openResponse(fromHex(said.encapsulated_refusal), CAP), CAP);
  assert.equal(new Map(refusal.headers).get("cloister-refusal"), said.refusal);
});

Deno.test("every AEAD goes both ways", () => {
  const { key, config } = fresh();
  for (const aead of [1, 2, 3]) {
    const { data, exchange } = encapsulate(config, utf8("question"), stream("client"), aead);
    const came = decapsulate(data, key, config, CAP);
    assert.deepEqual(came.request, utf8("question"));
    const told = came.exchange.sealResponse(utf8("answer"), stream("worker"));
    assert.deepEqual(exchange.openResponse(told, CAP), utf8("answer"));
  }
});

Deno.test("no byte can be changed, cut or added", () => {
  const { key, config } = fresh();
  const { data, exchange } = encapsulate(config, utf8("question"), stream("client"));
  const told = decapsulate(data, key, config, CAP).exchange.sealResponse(utf8("answer"), stream("worker"));
  for (let at = 0; at < data.length; at += 3) {
    const code = at === 0 ? "ohttp.key_unknown" : at < 6 ? "ohttp.suite" : "ohttp.not_authentic";
    refuses(code, () => decapsulate(flipped(data, at), key, config, CAP));
  }
  for (let at = 0; at < told.length; at += 3) {
    refuses("ohttp.not_authentic", () => exchange.openResponse(flipped(told, at), CAP));
  }
  refuses("ohttp.malformed", () => decapsulate(data.subarray(0, 54), key, config, CAP));
  refuses("ohttp.not_authentic", () => decapsulate(data.subarray(0, -1), key, config, CAP));
  refuses("ohttp.not_authentic", () => decapsulate(concat(data, Uint8Array.of(0)), key, config, CAP));
  refuses("ohttp.malformed", () => exchange.openResponse(told.subarray(0, 47), CAP));
  refuses("ohttp.too_large", () => exchange.openResponse(told, told.length - 1));
  refuses("ohttp.too_large", () => decapsulate(data, key, config, data.length - 1));
});

Deno.test("an answer opens for its own request alone", () => {
  const { key, config } = fresh();
  const [one, two] = [stream("one"), stream("two")].map((rng) => encapsulate(config, utf8("x"), rng));
  const told = decapsulate(one!.data, key, config, CAP).exchange.sealResponse(utf8("answer"), stream("worker"));
  assert.deepEqual(one!.exchange.openResponse(told, CAP), utf8("answer"));
  refuses("ohttp.not_authentic", () => two!.exchange.openResponse(told, CAP));
  const { enc, context } = setupSender(config.publicKey, utf8("another info"), stream("one"), undefined, 2);
  refuses("ohttp.not_authentic", () => new Exchange(context, enc, 2).openResponse(told, CAP));
});

Deno.test("algorithms that nobody offers, and keys of another shape, are refused", () => {
  refuses("ohttp.suite", () => encapsulate(fresh([[2, 2], [1, 0xffff]]).config, utf8(""), stream("x")));
  refuses("ohttp.suite", () => encapsulate(fresh([[1, 2]]).config, utf8(""), stream("x"), 1));
  const { config } = fresh();
  const good = config.encode();
  for (const bad of [good.subarray(0, 20), good.subarray(0, -1), concat(good, Uint8Array.of(0)), new Uint8Array(0)]) {
    refuses("ohttp.malformed", () => KeyConfig.decode(bad));
  }
  refuses("ohttp.suite", () => KeyConfig.decode(concat(good.subarray(0, 2), Uint8Array.of(0x10), good.subarray(3))));
  const listed = concat(Uint8Array.of(0, good.length), good);
  assert.equal(decodeConfigs(concat(listed, listed)).length, 2);
  assert.deepEqual(decodeConfigs(concat(Uint8Array.of(0, 3, 1, 0, 0x10), listed)).length, 1);
  for (const bad of [listed.subarray(0, 1), listed.subarray(0, -1), concat(...Array(17).fill(listed))]) {
    refuses("ohttp.malformed", () => decodeConfigs(bad));
  }
});

Deno.test("binary HTTP: what is out of form is refused by name", () => {
  const lead = concat(Uint8Array.of(0, 3), utf8("GET"), Uint8Array.of(5), utf8("https"), utf8("\x01h\x01/"));
  const with_ = (...more: number[]) => concat(lead, Uint8Array.from(more));
  const cases: [Uint8Array, string][] = [
    [new Uint8Array(0), "bhttp.malformed"],
    [Uint8Array.of(1, 0x40, 0xc8), "bhttp.malformed"],
    [concat(Uint8Array.of(4), lead.subarray(1)), "bhttp.malformed"],
    [lead.subarray(0, 8), "bhttp.malformed"],
    [concat(Uint8Array.of(0, 3), utf8("get"), lead.subarray(5)), "bhttp.field"],
    [with_(9, 1, 97, 1, 98), "bhttp.malformed"],
    [with_(4, 1, 65, 1, 98), "bhttp.field"],
    [with_(4, 1, 97, 1, 10), "bhttp.field"],
    [with_(0, 17, ...new Uint8Array(17)), "bhttp.too_large"],
    [with_(0, ...new Uint8Array(8).fill(255)), "bhttp.too_large"],
    [with_(...new Uint8Array(8).fill(255)), "bhttp.too_large"],
    [with_(0, 0, 0, 0, 1), "bhttp.malformed"],
    [concat(Uint8Array.of(2), lead.subarray(1), Uint8Array.of(0, 3, 97)), "bhttp.malformed"],
  ];
  for (const [data, code] of cases) refuses(code, () => decodeRequest(data, 16));
  refuses("bhttp.field", () => decodeResponse(Uint8Array.of(1, 0x42, 0x58), 0));
  refuses("bhttp.malformed", () => decodeResponse(Uint8Array.of(1, 0x40, 0x67, 0), 0));
  refuses("bhttp.too_large", () => decodeResponse(Uint8Array.from([1, ...Array(9).fill([0x40, 0x67, 0]).flat()]), 0));
  const asked: BinaryRequest = {
    method: "GET",
    scheme: "https",
    authority: "h",
    path: "/\u20ac",
    headers: [],
    content: new Uint8Array(0),
    trailers: [],
  };
  refuses("bhttp.field", () => encodeRequest(asked));
  refuses("bhttp.field", () => encodeRequest({ ...asked, path: "/", headers: [["A", "b"]] }));
  assert.deepEqual([0, 512, 513, 65537].map(paddedSize), [512, 512, 1024, 131072]);
});

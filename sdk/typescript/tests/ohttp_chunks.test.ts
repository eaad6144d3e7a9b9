import { assert, flipped, refuses, stream, vectors } from "./support.ts";
import { sha256 } from "@noble/hashes/sha2.js";
import { concat, utf8 } from "../src/encoding/bytes.ts";
import { fromHex, toHex } from "../src/encoding/hexes.ts";
import { encodeResponse, varint } from "../src/envelope/bhttp.ts";
import { KeyCertificate } from "../src/envelope/certificate.ts";
import { ObliviousKey, type ObliviousRequest, seal } from "../src/envelope/oblivious.ts";
import { StreamOpener } from "../src/envelope/oblivious_answer.ts";
import { decapsulate, encapsulate, type Exchange, KeyConfig } from "../src/envelope/ohttp.ts";
import { ChunkCipher, ChunkOpener } from "../src/envelope/ohttp_chunks.ts";
import { x25519 } from "@noble/curves/ed25519.js";

const SAID = vectors("ohttp.json").chunked;
const CAP = 1 << 20;
const DRAFT = (name: string) => fromHex(SAID.draft[name]);
const KEY = stream("chunked key")(32);
const CONFIG = new KeyConfig(7, x25519.getPublicKey(KEY));

/** Both ends of one exchange in chunks. */
function ends(): [Exchange, Exchange] {
  const { data, exchange } = encapsulate(CONFIG, utf8("asked"), stream("client"), undefined, true);
  return [exchange, decapsulate(data, KEY, CONFIG, CAP, true).exchange];
}

/** A nonce and sealed chunks, the last one final. */
function chunksOf(exchange: Exchange, ...texts: (string | Uint8Array)[]): Uint8Array[] {
  const nonce = stream("nonce")(exchange.nonceSize);
  const cipher = new ChunkCipher(exchange, nonce);
  const data = texts.map((text) => typeof text === "string" ? utf8(text) : text);
  return [nonce, ...data.map((text, at) => cipher.seal(text, at === data.length - 1))];
}

function read(exchange: Exchange, data: Uint8Array, step = data.length + 1): string[] {
  const opener = new ChunkOpener(exchange);
  const found: Uint8Array[] = [];
  for (let at = 0; at < data.length; at += step) found.push(...opener.feed(data.subarray(at, at + step)));
  return [...found, opener.close()].map((text) => new TextDecoder().decode(text));
}

Deno.test("chunks: the draft's answer opens, and is made again", () => {
  const config = KeyConfig.decode(DRAFT("key_config"));
  const { exchange } = encapsulate(config, new Uint8Array(0), () => DRAFT("client_ephemeral"), undefined, true);
  const told = DRAFT("encapsulated_response");
  const texts = SAID.draft.response_chunks.map((text: string) => fromHex(text));
  const opener = new ChunkOpener(exchange);
  assert.deepEqual([...opener.feed(told), opener.close()], texts);
  const cipher = new ChunkCipher(exchange, told.slice(0, 16));
  const made = texts.map((text: Uint8Array, at: number) => cipher.seal(text, at === 2));
  assert.equal(toHex(concat(told.subarray(0, 16), ...made)), SAID.draft.encapsulated_response);
});

Deno.test("chunks: however an answer arrives, it is the same", () => {
  const [sent, came] = ends();
  const data = concat(...chunksOf(came, "one", "", "x".repeat(300), "the end"));
  for (const step of [1, 7, 100, 10_000]) {
    assert.deepEqual(read(sent, data, step), ["one", "", "x".repeat(300), "the end"]);
  }
});

Deno.test("chunks: an answer that somebody moved, cut or grew is refused by name", () => {
  const [sent, came] = ends();
  const c = chunksOf(came, "one", "two and more", "three", "the end");
  const [nonce, one, two, three, last] = c as [Uint8Array, Uint8Array, Uint8Array, Uint8Array, Uint8Array];
  const forged = "ohttp.not_authentic";
  const cases: [string, string, Uint8Array[]][] = [
    ["two chunks change places", forged, [nonce, two, one, three, last]],
    ["the first chunk is left out", forged, [nonce, two, three, last]],
    ["one in the middle is left out", forged, [nonce, one, three, last]],
    ["a chunk comes twice", forged, [nonce, one, two, two, three, last]],
    ["the final chunk comes first", forged, [nonce, last, one, two, three]],
    ["the final chunk comes twice", forged, [...c, last]],
    ["bytes stand behind the end", forged, [...c, Uint8Array.of(0)]],
    ["a chunk is passed for the final one", forged, [nonce, one, two, concat(Uint8Array.of(0), three.subarray(1))]],
    ["the final one is passed for a chunk", forged, [
      nonce,
      one,
      two,
      three,
      varint(last.length - 1),
      last.subarray(1),
    ]],
    ["the final chunk has lost a byte", forged, [nonce, one, two, three, last.subarray(0, -1)]],
    ["another nonce", forged, [new Uint8Array(32), one, two, three, last]],
    ["the final chunk is missing", "ohttp.truncated", [nonce, one, two, three]],
    ["the final chunk has lost its tag", "ohttp.truncated", [nonce, one, two, three, last.subarray(0, 10)]],
    ["it ends in the middle of a chunk", "ohttp.truncated", [nonce, one, two.subarray(0, 9)]],
    ["only the nonce came", "ohttp.truncated", [nonce]],
    ["nothing came", "ohttp.truncated", []],
    ["a chunk too short for a tag", "ohttp.malformed", [nonce, new Uint8Array(16).fill(15)]],
    ["a chunk over the cap", "ohttp.malformed", [nonce, varint((256 << 10) + 17)]],
    ["a chunk beyond every number", "ohttp.malformed", [nonce, new Uint8Array(8).fill(255)]],
    ["a final chunk without end", "ohttp.too_large", [nonce, one, two, three, new Uint8Array((256 << 10) + 100)]],
  ];
  for (const [, code, parts] of cases) {
    const data = concat(...parts);
    for (const step of [data.length + 1, Math.max(5, data.length / 200 | 0)]) {
      refuses(code, () => read(sent, data, step));
    }
  }
});

Deno.test("chunks: no bit can be changed, and nothing opens after a refusal", () => {
  const [sent, came] = ends();
  const c = chunksOf(came, "one", "two", "end");
  const data = concat(...c);
  const codes = new Set(["ohttp.not_authentic", "ohttp.malformed", "ohttp.truncated"]);
  for (let at = 0; at < data.length; at++) {
    try {
      read(sent, flipped(data, at));
    } catch (error) {
      assert.ok(codes.has((error as { code: string }).code));
      continue;
    }
    assert.fail(`byte ${at} was changed`);
  }
  const opener = new ChunkOpener(sent);
  assert.equal(opener.feed(concat(c[0]!, c[1]!)).length, 1);
  refuses("ohttp.not_authentic", () => opener.feed(c[1]!));
  refuses("ohttp.truncated", () => opener.feed(c[2]!));
  refuses("ohttp.truncated", () => opener.close());
});

Deno.test("chunks: the two forms of a message share no key", () => {
  const whole = encapsulate(CONFIG, utf8("asked"), stream("client"));
  const chunked = encapsulate(CONFIG, utf8("asked"), stream("client"), undefined, true);
  refuses("ohttp.not_authentic", () => decapsulate(chunked.data, KEY, CONFIG, CAP));
  const lent = concat(whole.data.subarray(0, 39), Uint8Array.of(0), whole.data.subarray(39));
  refuses("ohttp.not_authentic", () => decapsulate(lent, KEY, CONFIG, CAP, true));
  refuses("ohttp.malformed", () => decapsulate(whole.data, KEY, new KeyConfig(7, CONFIG.publicKey), CAP, true));
});

// The answer of a worker.

const HEAD = concat(
  encodeResponse({
    status: 200,
    headers: [["cloister-checkpoint", "5"], ["a", "b"]],
    content: new Uint8Array(0),
    trailers: [],
    informational: [],
  }, true).slice(0, -2),
);
const CONTENT = concat(Uint8Array.of(4), utf8("body"));

/** An end with one trailer. */
function end(name: string, value: string): Uint8Array {
  const sized = (text: string) => concat(varint(text.length), utf8(text));
  return concat(Uint8Array.of(0), sized(name), sized(value), Uint8Array.of(0));
}
const END = end("cloister-receipt", `{"receipt":{},"signature":"0x${"01".repeat(65)}"}`);

function taken(...texts: Uint8Array[]) {
  const [sent, came] = ends();
  const opener = new StreamOpener(sent, 1000);
  const events = opener.feed(concat(...chunksOf(came, ...texts)));
  return [...events, ...opener.close()];
}

Deno.test("an answer in chunks: head, pieces, receipt", () => {
  const [head, body, more, final, ...rest] = taken(HEAD, CONTENT, concat(CONTENT, CONTENT), END);
  assert.deepEqual(head, { type: "head", status: 200, headers: [["a", "b"]], checkpoint: 5 });
  assert.ok(body?.type === "body" && more?.type === "body" && final?.type === "final");
  assert.deepEqual([body.data, more.data], [utf8("body"), utf8("bodybody")]);
  assert.equal(rest.length, 0);
  const failed = taken(HEAD, CONTENT, end("cloister-failure", '{"status":403,"error":{"code":"policy.paused"}}'));
  assert.ok(failed[2]?.type === "failed" && failed[2].error.code === "policy.paused");
});

Deno.test("an answer in chunks: another division, and what a broken worker could send", () => {
  const bad = (code: string, ...texts: Uint8Array[]) => refuses(code, () => taken(...texts));
  const nothing = new Uint8Array(0);
  bad("bhttp.malformed", CONTENT, END);
  bad("bhttp.malformed", END);
  bad("oblivious.answer", concat(HEAD, CONTENT), END);
  bad("oblivious.answer", HEAD, nothing, END);
  bad("oblivious.answer", HEAD, Uint8Array.of(0), END);
  bad("bhttp.malformed", HEAD, CONTENT.subarray(0, -1), END);
  bad("bhttp.too_large", HEAD, concat(CONTENT, END));
  bad("oblivious.answer", HEAD, Uint8Array.of(0, 0));
  bad("oblivious.answer", HEAD, nothing);
  bad("oblivious.answer", HEAD, end("t", "u"));
  bad("bhttp.malformed", HEAD, concat(END, Uint8Array.of(0, 1)));
  bad("envelope.head", HEAD, end("cloister-receipt", "{"));
  bad("envelope.head", HEAD, end("cloister-failure", "no"));
  bad("envelope.malformed", HEAD, end("cloister-failure", '{"status":200,"error":{"code":"a.b"}}'));
  bad("envelope.too_large", HEAD, concat(varint(1001), new Uint8Array(1001)), END);
});

async function vector(): Promise<ObliviousRequest> {
  const certificate = KeyCertificate.fromJson(JSON.parse(SAID.certificate));
  const config = ObliviousKey.fromJson(SAID.key).verify(certificate, fromHex(SAID.mpk));
  const { id: requestId, m: method, p: path, h: headers, d: deadlineMs } = SAID.head;
  const head = { requestId, method, path, headers, deadlineMs };
  const random = () => fromHex(SAID.client_random);
  return await seal(config, certificate, head, new Uint8Array(0), random, undefined, true);
}

Deno.test("an answer in chunks: the vectors are made and opened", async () => {
  const sealed = await vector();
  assert.equal(toHex(sealed.data), SAID.encapsulated_request);
  assert.equal(toHex(sealed.commitment), SAID.request_commitment);
  const told = fromHex(SAID.encapsulated_response);
  const hash = sha256.create();
  for (let at = 0; at < told.length; at += 1000) {
    for (const event of sealed.opener.feed(told.subarray(at, at + 1000))) {
      if (event.type === "body") hash.update(event.data);
    }
  }
  const [final] = sealed.opener.close();
  assert.ok(final?.type === "final");
  assert.equal(new TextDecoder().decode(final.receipt), SAID.receipt);
  assert.equal(toHex(hash.digest()), SAID.answer_sha256);
  assert.equal(toHex(sealed.opener.commitment(sealed.salt)), SAID.response_commitment);
  for (const name of ["encapsulated_failure", "encapsulated_refusal"]) {
    const { opener } = await vector();
    opener.feed(fromHex(SAID[name]));
    const [failed] = opener.close();
    assert.ok(failed?.type === "failed" && failed.error.code === SAID.refusal);
  }
});

import { assert, flipped, refuses, vectors } from "./support.ts";
import { concat, equalBytes, uintBytes, utf8 } from "../src/encoding/bytes.ts";
import { Context, digest, frame } from "../src/encoding/contexts.ts";
import { fromHex, needFields, needUint, toHex } from "../src/encoding/hexes.ts";
import * as jcs from "../src/encoding/jcs.ts";
import { keccak256 } from "../src/encoding/keccak.ts";
import { genesisId, parseNetwork, policyHash } from "../src/encoding/network.ts";
import { recover, signDigest, SignerSet, verifyCommittee, verifySigner } from "../src/encoding/signatures.ts";
import { CallerSession, Checkpoint, domainSeparator, Lease, StatementType } from "../src/encoding/statements.ts";
import { CloisterError, define, EnvelopeError, fromWire, RemoteError } from "../src/errors.ts";

const STATEMENTS = vectors("statements.json");
const CHAIN = vectors("chainview.json");
const NETWORK = utf8(CHAIN.network);

Deno.test("hex has one spelling", () => {
  assert.equal(toHex(fromHex("0x00ff", 2)), "0x00ff");
  for (const bad of ["0xFF", "ff", "0x0", "0x0g", "0x ", "", 7, null, undefined, "0x00\n"]) {
    refuses("encoding.hex", () => fromHex(bad));
  }
  refuses("encoding.hex", () => fromHex("0x00", 2));
  refuses("encoding.hex", () => fromHex("0x0000", undefined, "field", 1));
});

Deno.test("integers are exact and in range", () => {
  assert.equal(needUint("n", 2 ** 53 - 1), 2 ** 53 - 1);
  for (const bad of [-1, 1.5, 2 ** 53, NaN, "1", null, true]) refuses("encoding.size", () => needUint("n", bad));
  refuses("encoding.size", () => needUint("n", 256, 8));
});

Deno.test("unknown and missing fields are refused", () => {
  assert.deepEqual(needFields("x", { a: 1 }, ["a"]), { a: 1 });
  for (const bad of [{}, { a: 1, b: 2 }, [], null, "a"]) refuses("encoding.field", () => needFields("x", bad, ["a"]));
  for (const bad of [{ "a\0b": 1 }, { a: 1, "a,b": 2 }, { __proto__: { a: 1, b: 1 } }]) {
    refuses("encoding.field", () => needFields("x", bad, ["a", "b"]));
  }
});

Deno.test("canonical JSON: what is signed has one form", () => {
  const value = { "é": [1, -0, null, true], "b": { "\u20ac": '\u0007\t"\\/' }, "": "", "😀": 1, "\ufb33": 2 };
  const text = '{"":"","b":{"€":"\\u0007\\t\\"\\\\/"},"é":[1,0,null,true],"😀":1,"\ufb33":2}';
  assert.equal(new TextDecoder().decode(jcs.encode(value)), text);
  assert.deepEqual(jcs.decode(utf8(text)), JSON.parse(text));
});

Deno.test("canonical JSON: every other form is refused", () => {
  const bad = [
    '{"a": 1}',
    '{"b":1,"a":1}',
    "1.0",
    "1e2",
    "-0",
    '{"a":1,"a":1}',
    "9007199254740993",
    '"\\u0061"',
    "{",
    "",
  ];
  for (const text of [...bad, " 1", "1 ", '"\\ud800"', "[".repeat(40) + "]".repeat(40)]) {
    refuses("encoding.not_canonical", () => jcs.decode(utf8(text)));
  }
  for (const value of [1.5, 2 ** 53, undefined, "\ud800", { a: "\udc00" }, () => 1]) {
    refuses("encoding.not_canonical", () => jcs.encode(value));
  }
  refuses("encoding.not_canonical", () => jcs.decode(Uint8Array.of(0x22, 0xff, 0x22)));
  refuses("encoding.not_canonical", () => jcs.decode(utf8("1".repeat(20)), 10));
});

Deno.test("frames are injective", () => {
  const framed = frame(Context.RECEIPT, utf8("ab"), utf8(""));
  assert.equal(new TextDecoder().decode(framed), "cloister/v1/receipt\0\0\0\0\x02ab\0\0\0\0");
  assert.ok(!equalBytes(digest(Context.RECEIPT, utf8("a"), utf8("b")), digest(Context.RECEIPT, utf8("ab"))));
});

Deno.test("keccak and big-endian numbers", () => {
  assert.equal(toHex(keccak256()), "0xc5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470");
  assert.equal(toHex(uintBytes(2n ** 64n - 1n, 8)), "0xffffffffffffffff");
  assert.throws(() => uintBytes(256, 1), RangeError);
});

Deno.test("statements: type, struct hash, digest and signatures of every vector", () => {
  const network = fromHex(STATEMENTS.network, 32);
  assert.equal(toHex(domainSeparator(network)), STATEMENTS.domain_separator);
  const signers = new SignerSet(
    STATEMENTS.term,
    STATEMENTS.threshold,
    STATEMENTS.members.map((m: string) => fromHex(m)),
  );
  // deno-lint-ignore no-explicit-any
  for (const [name, shown] of Object.entries<any>(STATEMENTS.statements)) {
    const type = typeOf(name, shown["type"], Object.keys(shown["fields"]));
    assert.equal(type.typeString(), shown["type"]);
    const values = type.fromJson(shown["fields"]);
    assert.equal(toHex(type.structHash(values)), shown["struct_hash"]);
    const message = type.digest(values, network);
    assert.equal(toHex(message), shown["digest"]);
    assert.deepEqual(type.toJson(values), shown["fields"]);
    const signatures = (shown["signatures"] as string[]).map((s) => fromHex(s, 65));
    signatures.forEach((s, i) => verifySigner(message, s, signers.members[i]!));
    verifyCommittee(STATEMENTS.term, message, signatures, signers);
  }
});

function typeOf(name: string, text: string, fields: string[]) {
  const kinds = text.slice(name.length + 1, -1).split(",").map((part) => part.split(" ")[0]);
  return new StatementType(name, Object.fromEntries(fields.map((f, i) => [f, kinds[i] as "uint64"])));
}

Deno.test("statements: our three types are those of the vectors", () => {
  for (const type of [Checkpoint, Lease, CallerSession]) {
    assert.equal(type.typeString(), STATEMENTS.statements[type.name].type);
  }
  refuses("encoding.field", () => CallerSession.fromJson({ agent: "0x" }));
  const good = STATEMENTS.statements.Checkpoint.fields;
  for (const chain_id of ["x", "-1", "1".repeat(79), String(2n ** 256n), 1.5, null]) {
    refuses("encoding.size", () => Checkpoint.fromJson({ ...good, chain_id }));
  }
});

Deno.test("a quorum is t distinct members, low s, of the named term", () => {
  const { signers, message, signatures } = quorum();
  const sign = (some: Uint8Array[], term = 1) => verifyCommittee(term, message, some, signers);
  sign(signatures.slice(0, 3));
  refuses("encoding.wrong_term", () => sign(signatures, 2));
  refuses("encoding.too_few_signers", () => sign(signatures.slice(0, 2)));
  refuses("encoding.too_few_signers", () => sign([signatures[0]!, signatures[0]!, signatures[1]!]));
  refuses("encoding.too_few_signers", () => sign([...signatures, signatures[0]!]));
  const stranger = signDigest(new Uint8Array(32).fill(9), message);
  refuses("encoding.signature", () => sign([...signatures.slice(0, 3), stranger]));
});

function quorum() {
  const shown = STATEMENTS.statements.Checkpoint;
  const members = STATEMENTS.members.map((m: string) => fromHex(m, 20));
  return {
    signers: new SignerSet(1, 3, members),
    message: fromHex(shown.digest, 32),
    signatures: shown.signatures.map((s: string) => fromHex(s, 65)) as Uint8Array[],
  };
}

Deno.test("a signature has one form", () => {
  const { message, signatures, signers } = quorum();
  const good = signatures[0]!;
  const order = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n;
  const s = BigInt(toHex(good.subarray(32, 64)));
  const high = concat(good.subarray(0, 32), uintBytes(order - s, 32), Uint8Array.of(good[64] === 27 ? 28 : 27));
  assert.equal(refuses("encoding.signature", () => recover(message, high)).found, "high s");
  refuses("encoding.signature", () => recover(message, good.subarray(0, 64)));
  refuses("encoding.signature", () => recover(message, concat(good.subarray(0, 64), Uint8Array.of(0))));
  refuses("encoding.signature", () => recover(message, concat(new Uint8Array(64), Uint8Array.of(27))));
  for (let at = 0; at < 65; at += 4) {
    refuses("encoding.signature", () => verifySigner(message, flipped(good, at), signers.members[0]!));
  }
});

Deno.test("signing and recovering belong together", () => {
  const key = fromHex("0x" + "07".repeat(32));
  const found = recover(keccak256(utf8("x")), signDigest(key, keccak256(utf8("x"))));
  assert.equal(found.length, 20);
  assert.ok(!equalBytes(found, recover(keccak256(utf8("y")), signDigest(key, keccak256(utf8("x"))))));
});

Deno.test("a committee is distinct members and a threshold among them", () => {
  const [one, two] = [new Uint8Array(20), new Uint8Array(20).fill(1)];
  for (const bad of [[1, [one, one]], [0, [one]], [3, [one, two]], [1, []]] as const) {
    refuses("encoding.too_few_signers", () => new SignerSet(1, bad[0], [...bad[1]]));
  }
});

Deno.test("network.json: ids and fingerprint follow from the bytes", () => {
  const network = parseNetwork(NETWORK, CHAIN.fingerprint);
  assert.equal(toHex(network.id), CHAIN.network_id);
  assert.equal(toHex(genesisId(network.genesis)), CHAIN.genesis_id);
  assert.equal(toHex(policyHash(network.genesis)), CHAIN.policy_hash);
  assert.equal(network.fingerprint, CHAIN.fingerprint);
  refuses("encoding.fingerprint", () => parseNetwork(NETWORK, "00".repeat(32)));
  refuses("encoding.fingerprint", () => parseNetwork(flipped(NETWORK, 40), CHAIN.fingerprint));
});

Deno.test("network.json: every other file is refused, also without a fingerprint", () => {
  const file = JSON.parse(CHAIN.network);
  const changes: [string, string, unknown][] = [
    ["another id", "encoding.network", { network_id: toHex(new Uint8Array(32)) }],
    ["another chain", "encoding.network", { chain_id: 1 }],
    ["an unknown field", "encoding.field", { extra: 1 }],
    ["another version", "encoding.field", { version: 2 }],
    ["no such mode", "encoding.network", { mode: "test" }],
    ["a share key too few", "encoding.network", { share_keys: file.share_keys.slice(1) }],
    ["a repeated member", "encoding.too_few_signers", {
      founding: { ...file.founding, members: Array(5).fill(file.founding.members[0]) },
    }],
    ["a short mpk", "encoding.hex", { mpk: "0x00" }],
    ["unsorted roots", "encoding.network", { roots: { intel: ["0x" + "f".repeat(64), "0x" + "0".repeat(64)] } }],
  ];
  for (const [what, code, change] of changes) {
    const data = jcs.encode({ ...file, ...(change as object) });
    assert.ok(refuses(code, () => parseNetwork(data)), what);
  }
  refuses("encoding.not_canonical", () => parseNetwork(utf8(" " + CHAIN.network)));
  refuses("encoding.network", () => parseNetwork(utf8("[]")));
});

Deno.test("network.json: no changed byte passes", () => {
  for (let at = 0; at < NETWORK.length; at += 211) {
    assert.throws(() => parseNetwork(flipped(NETWORK, at, at % 7), CHAIN.fingerprint), CloisterError);
  }
});

Deno.test("errors keep code, class and fields on the wire", () => {
  const made = refuses("encoding.hex", () => fromHex(7));
  const again = fromWire(JSON.parse(JSON.stringify(made)), 500);
  assert.deepEqual(again.toWire(), made.toWire());
  assert.equal(again.constructor, made.constructor);
  assert.equal(again.status, 400);
  const remote = fromWire({ code: "worker.unknown_to_us", check: "\u202e" + "x".repeat(900), found: 7 }, 503);
  assert.ok(remote instanceof RemoteError && remote.status === 503 && remote.expected === "not said");
  assert.ok(fromWire(null) instanceof RemoteError);
  assert.throws(() => define("encoding.hex", EnvelopeError, "c", "r"), TypeError);
  assert.throws(() => define("Bad", EnvelopeError, "c", "r"), TypeError);
});

import { assert, flipped, refuses, vectors } from "./support.ts";
import { uintBytes, utf8 } from "../src/encoding/bytes.ts";
import { fromHex, toHex } from "../src/encoding/hexes.ts";
import * as jcs from "../src/encoding/jcs.ts";
import { signDigest } from "../src/encoding/signatures.ts";
import { Seat } from "../src/envelope/certificate.ts";
import { decodeReceipt, type Exchange } from "../src/receipts/receipt.ts";
import { admissionOfLease, verifyChain, verifyReceipt } from "../src/receipts/verify.ts";

const DATA = vectors("sealed-http.json");
const SEAT = Seat.fromJson(DATA.seat);
const CALLS = DATA.calls.slice(0, 3);
const ADMISSION = admissionOfLease(SEAT.lease);

function exchangeOf(number: number): Exchange {
  const call = CALLS[number];
  return {
    requestId: uintBytes(number, 16),
    status: 200,
    request: fromHex(call.request_commitment),
    response: fromHex(call.answer.response_commitment),
  };
}

function verify(number = 0, changes: Partial<Exchange> = {}, admission = ADMISSION) {
  const { receipt, signature } = CALLS[number].answer;
  const exchange = { ...exchangeOf(number), ...changes };
  return verifyReceipt(utf8(receipt), fromHex(signature), SEAT.certificate, admission, exchange);
}

/** The first receipt with some fields changed, signed by key 7 (the worker) or another. */
function resigned(changes: Record<string, unknown>, key = 7): [Uint8Array, Uint8Array] {
  const data = jcs.encode({ ...JSON.parse(CALLS[0].answer.receipt), ...changes });
  return [data, signDigest(uintBytes(key, 32), decodeReceipt(data).id)];
}

Deno.test("receipts of the vectors verify, and follow one another", () => {
  const found = CALLS.map((_: unknown, i: number) => verify(i));
  assert.deepEqual(
    found.map((r: { id: Uint8Array }) => toHex(r.id)),
    CALLS.map((c: { answer: { receipt_id: string } }) => c.answer.receipt_id),
  );
  verifyChain(found);
  verifyChain([]);
  refuses("receipt.chain", () => verifyChain([found[0], found[2]]));
  refuses("receipt.chain", () => verifyChain([found[1], found[0]]));
  refuses("receipt.chain", () => verifyChain([{ ...found[0], prev: found[1].id }]));
  refuses("receipt.chain", () => verifyChain([found[0], { ...found[1], boot: found[0].id }]));
});

Deno.test("1: the form, canonical and complete", () => {
  const text = CALLS[0].answer.receipt;
  const plain = JSON.parse(text);
  const bad: unknown[] = [
    { ...plain, extra: 1 },
    { ...plain, v: 1 },
    { ...plain, usage: { cpu_us: 1, egress_bytes: 2, request_bytes: 3, response_bytes: 4 } },
    { ...plain, seq: -1 },
    { ...plain, boot: "0x" },
    { ...plain, usage: { ...plain.usage, cpu_us: "1" } },
    { ...plain, state: { ...plain.state, kind: "maybe" } },
    { ...plain, epochs: [] },
  ];
  for (const value of bad) refuses("receipt.malformed", () => decodeReceipt(jcs.encode(value)));
  refuses("receipt.malformed", () => decodeReceipt(utf8(text + " ")));
  refuses("receipt.malformed", () => decodeReceipt(new Uint8Array(4097)));
  for (let at = 0; at < text.length; at += 17) {
    const { signature } = CALLS[0].answer;
    const changed = flipped(utf8(text), at, at % 8);
    const codes = /receipt\.(malformed|wrong_certificate|signature)/;
    assert.throws(() => verifyReceipt(changed, fromHex(signature), SEAT.certificate, ADMISSION), codes);
  }
});

Deno.test("2: network, agent, hashes, epochs, worker and boot are the certificate's", () => {
  const zero = toHex(new Uint8Array(32));
  const changes: Record<string, unknown>[] = ["network", "agent", "code_hash", "manifest_hash", "boot"].map((name) => ({
    [name]: zero,
  }));
  changes.push({ worker: toHex(new Uint8Array(20)) }, { epochs: { master: 1, cluster: 2, agent: 4 } });
  for (const change of changes) {
    const [data, signature] = resigned(change);
    refuses("receipt.wrong_certificate", () => verifyReceipt(data, signature, SEAT.certificate, ADMISSION));
  }
});

Deno.test("3: the worker signed", () => {
  const [data, signature] = resigned({}, 8);
  refuses("receipt.signature", () => verifyReceipt(data, signature, SEAT.certificate, ADMISSION));
  refuses("receipt.signature", () => verifyReceipt(data, signature.subarray(1), SEAT.certificate, ADMISSION));
});

Deno.test("4: the worker's admission", () => {
  refuses("receipt.not_admitted", () => verify(0, {}, { ...ADMISSION, worker: new Uint8Array(20) }));
  refuses("receipt.not_admitted", () => verify(0, {}, { ...ADMISSION, boot: new Uint8Array(32) }));
  refuses("receipt.not_admitted", () => verify(0, {}, { ...ADMISSION, removed: true }));
  refuses("receipt.not_admitted", () => verify(0, {}, { ...ADMISSION, expiry: 123 }));
  verify(0, {}, { ...ADMISSION, expiry: 124 });
});

Deno.test("5: request id, status and both commitments", () => {
  const other = new Uint8Array(32);
  for (
    const change of [{ requestId: new Uint8Array(16).fill(1) }, { status: 201 }, { request: other }, {
      response: other,
    }]
  ) {
    refuses("receipt.wrong_exchange", () => verify(0, change));
  }
});

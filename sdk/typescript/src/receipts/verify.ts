/** How an outsider checks a receipt and a worker's log of them (spec/receipts.md 4, 5). */

import { CloisterError, define, ReceiptError } from "../errors.ts";
import { equalBytes } from "../encoding/bytes.ts";
import { toHex } from "../encoding/hexes.ts";
import { verifySigner } from "../encoding/signatures.ts";
import type { Lease } from "../encoding/statements.ts";
import type { KeyCertificate } from "../envelope/certificate.ts";
import type { BatchPath } from "./batch.ts";
import { decodeReceipt, type Exchange, type Receipt } from "./receipt.ts";

export const WRONG_CERTIFICATE = define(
  "receipt.wrong_certificate",
  ReceiptError,
  "the receipt names the agent, code, epochs, worker and boot that the request was sealed to",
  "do not trust the answer: another worker, code or epoch made it",
  403,
);
export const BAD_SIGNATURE = define(
  "receipt.signature",
  ReceiptError,
  "the worker's attested key signed the receipt",
  "do not trust the answer",
  403,
);
export const NOT_ADMITTED = define(
  "receipt.not_admitted",
  ReceiptError,
  "proven chain state admits this worker with this boot at the receipt's height",
  "do not trust the answer: the worker was removed, restarted or never admitted",
  403,
);
export const WRONG_EXCHANGE = define(
  "receipt.wrong_exchange",
  ReceiptError,
  "the receipt commits to this request and this answer",
  "do not trust the answer: the receipt belongs to another exchange",
  403,
);
export const BROKEN_CHAIN = define(
  "receipt.chain",
  ReceiptError,
  "receipts of one boot are consecutive and each names the one before it",
  "ask for the missing receipts; a worker that cannot show them hides or forked its log",
  403,
);

/** A worker as proven chain state has it: until which height (exclusive), with which boot, removed or not. */
export interface Admission {
  worker: Uint8Array;
  boot: Uint8Array;
  expiry: number;
  removed: boolean;
}

/** The admission that a verified lease vouches for: the committee grants leases to admitted workers alone. */
export function admissionOfLease(lease: Lease): Admission {
  return { worker: lease.worker, boot: lease.boot, expiry: lease.expiry, removed: false };
}

/**
 * The receipt, after the checks of spec/receipts.md 4, by number. Throws ReceiptError at the first that fails.
 *
 * `batch`: its place in what was signed, undefined if it was signed alone. `exchange` undefined is for an auditor who has no texts: then step 5 is left out and the receipt says nothing of them.
 */
export function verifyReceipt(
  encoded: Uint8Array,
  signature: Uint8Array,
  certificate: KeyCertificate,
  admission: Admission,
  exchange?: Exchange,
  batch?: BatchPath,
): Receipt {
  const receipt = decodeReceipt(encoded); // 1
  sameCertificate(receipt, certificate); // 2
  verifySigned(receipt, signature, batch); // 3
  admitted(receipt, admission); // 4
  if (exchange) sameExchange(receipt, exchange); // 5
  return receipt;
}

function sameCertificate(receipt: Receipt, { fields }: KeyCertificate): void {
  const names = ["network", "agent", "code_hash", "manifest_hash", "worker", "boot"] as const;
  const differing: string[] = names.filter((name) => !equalBytes(receipt[name], fields[name]));
  for (const name of ["master", "cluster", "agent"] as const) {
    if (receipt.epochs[name] !== fields[`${name}_epoch`]) differing.push(`${name}_epoch`);
  }
  if (differing.length) throw WRONG_CERTIFICATE("the certificate's fields", `other ${differing.join(", ")}`);
}

/** Throw ReceiptError unless the receipt's worker signed it, alone or in a batch. */
export function verifySigned(receipt: Receipt, signature: Uint8Array, batch?: BatchPath): void {
  const digest = batch ? batch.digest(receipt) : receipt.id;
  try {
    verifySigner(digest, signature, receipt.worker);
  } catch (error) {
    throw error instanceof CloisterError ? BAD_SIGNATURE(error.expected, error.found) : error;
  }
}

function admitted(receipt: Receipt, admission: Admission): void {
  if (!equalBytes(admission.worker, receipt.worker) || !equalBytes(admission.boot, receipt.boot)) {
    throw NOT_ADMITTED(toHex(receipt.worker), "another worker or boot");
  }
  if (admission.removed || receipt.checkpoint >= admission.expiry) {
    const found = admission.removed ? "a removed worker" : `an admission until block ${admission.expiry}`;
    throw NOT_ADMITTED(`an admission at block ${receipt.checkpoint}`, found);
  }
}

function sameExchange(receipt: Receipt, exchange: Exchange): void {
  if (!equalBytes(receipt.request_id, exchange.requestId) || receipt.status !== exchange.status) {
    const expected = `${toHex(exchange.requestId)}, status ${exchange.status}`;
    throw WRONG_EXCHANGE(expected, `${toHex(receipt.request_id)}, status ${receipt.status}`);
  }
  for (const name of ["request", "response"] as const) {
    if (!equalBytes(receipt[name], exchange[name])) throw WRONG_EXCHANGE(`the commitment to this ${name}`, "another");
  }
}

/** Throw ReceiptError (receipt.chain) unless these are consecutive receipts of one boot, in order. */
export function verifyChain(receipts: readonly Receipt[]): void {
  receipts.slice(1).forEach((after, i) => follows(receipts[i]!, after));
  const first = receipts[0];
  if (first?.seq === 0 && first.prev.some((byte) => byte !== 0)) {
    throw BROKEN_CHAIN("zero before the first receipt", toHex(first.prev));
  }
}

function follows(before: Receipt, after: Receipt): void {
  if (!equalBytes(before.worker, after.worker) || !equalBytes(before.boot, after.boot)) {
    throw BROKEN_CHAIN("one worker and boot", "receipts of two");
  }
  if (after.seq !== before.seq + 1 || !equalBytes(after.prev, before.id)) {
    throw BROKEN_CHAIN(`receipt ${before.seq + 1} after ${toHex(before.id)}`, String(after.seq));
  }
}

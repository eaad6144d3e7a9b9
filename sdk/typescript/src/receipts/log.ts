/** A receipt's place in a log whose head the committee signed (spec/receipts.md 12, 14). */

import { equalBytes } from "../encoding/bytes.ts";
import { fromHex, needFields, needList, needUint } from "../encoding/hexes.ts";
import { SignerSet, verifyCommittee } from "../encoding/signatures.ts";
import { StatementType, type Values } from "../encoding/statements.ts";
import { define, ReceiptError } from "../errors.ts";
import { hashesFrom } from "./batch.ts";
import { leafHash, MAX_PATH, verifyInclusion } from "./merkle.ts";
import type { Receipt } from "./receipt.ts";

export const OTHER_LOG = define(
  "receipt.other_log",
  ReceiptError,
  "the head that the committee signed is of the receipt's worker and boot, and covers its number",
  "ask for the proof again later: the committee signs heads every few seconds",
  403,
);

/** The committee saw this head, and that it continues every earlier one that it saw. */
export const LogHead = new StatementType("LogHead", {
  term: "uint64",
  worker: "address",
  boot: "bytes32",
  size: "uint64",
  root: "bytes32",
});
export type LogHead = Values<typeof LogHead.fields>;

/** How many of `members` sign a head: with fewer, `faults` liars could sign two forks (2q - n > f). */
export function witnessQuorum(members: number, faults = 1): number {
  return Math.min(members, Math.floor((members + faults) / 2) + 1);
}

/** What a saved proof holds. */
export class LogProof {
  constructor(
    readonly index: number,
    readonly path: readonly Uint8Array[],
    readonly head: LogHead,
    readonly signatures: readonly Uint8Array[],
  ) {}

  /** Parse {head: {statement, signatures}, index, path}. Throws EncodingError, ReceiptError. */
  static fromJson(value: unknown): LogProof {
    const data = needFields("log proof", value, ["head", "index", "path"]);
    const head = needFields("signed log head", data["head"], ["statement", "signatures"]);
    const refuse = (found: string) => OTHER_LOG("at most 64 signatures", found);
    const signatures = needList(head["signatures"], 64, refuse).map((one) => fromHex(one, 65, "signature"));
    const path = hashesFrom(data["path"], MAX_PATH);
    return new LogProof(needUint("index", data["index"]), path, LogHead.fromJson(head["statement"]), signatures);
  }

  /**
   * Throw unless the committee signed a log that has this receipt at its number (spec/receipts.md 14).
   *
   * 1. q members signed the head; 2. it is of the receipt's worker and boot; 3. index = seq, below size; 4. path.
   */
  verify(receipt: Receipt, signers: SignerSet, network: Uint8Array): void {
    const quorum = Math.max(signers.threshold, witnessQuorum(signers.members.length));
    const raised = new SignerSet(signers.term, quorum, signers.members);
    verifyCommittee(this.head.term, LogHead.digest(this.head, network), this.signatures, raised); // 1
    if (!equalBytes(this.head.worker, receipt.worker) || !equalBytes(this.head.boot, receipt.boot)) { // 2
      throw OTHER_LOG("the receipt's worker and boot", "another log");
    }
    if (this.index !== receipt.seq || this.index >= this.head.size) { // 3
      throw OTHER_LOG(`number ${receipt.seq} in a log of ${this.head.size}`, String(this.index));
    }
    verifyInclusion(leafHash(receipt.id), this.index, this.head.size, this.path, this.head.root); // 4
  }
}

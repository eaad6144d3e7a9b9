/**
 * A receipt below a root that the Receipts contract holds: found and proven, or read from a file (spec/receipts.md 17, 18).
 *
 * Every word that this rests on is proven at a checkpoint that the committee signed. The search needs no event of the
 * chain and no index that anybody names: roots of a worker stand in the order of their blocks, and a receipt names one.
 */

import { define, EncodingError, isObject, ReceiptError } from "../errors.ts";
import { ProvenState } from "../chain/proven.ts";
import { BAD_ANSWER, type Call, Rpc } from "../chain/rpc.ts";
import { readLoggedSize, readRootCount, readRoots, type RootRecord } from "../chainview/logged.ts";
import { SignedHandover, type Terms } from "../chainview/terms.ts";
import { equalBytes, utf8 } from "../encoding/bytes.ts";
import { fromHex, needFields, needList, needUint } from "../encoding/hexes.ts";
import { parse } from "../encoding/jcs.ts";
import type { Network } from "../encoding/network.ts";
import { MAX_MEMBERS, verifyCommittee } from "../encoding/signatures.ts";
import { Checkpoint } from "../encoding/statements.ts";
import { hashesFrom } from "../receipts/batch.ts";
import type { LogProof } from "../receipts/log.ts";
import { MAX_PATH, verifyConsistency } from "../receipts/merkle.ts";
import type { Receipt } from "../receipts/receipt.ts";
import { type KeptReceipt, parseKept } from "./receipts.ts";
import type { View } from "./resolve.ts";

const CONTRACT = "Receipts";
const PROBES = 16;
const WALK = 32;
const MAX_WALKED = 1024;
const MAX_ANSWERS = 4;
const MAX_HANDOVERS = 4096;
const MAX_BUNDLE = 8 << 20;

export const NOT_ANCHORED = define(
  "receipt.not_anchored",
  ReceiptError,
  "the Receipts contract holds a root of this worker's log that covers the receipt",
  "try again in ten minutes: workers put roots on chain every `root_s` seconds (600 where nothing is set), as long as " +
    "they hold gas; of a boot that ended no more roots come",
  404,
);
export const NO_CONTRACT = define(
  "client.no_receipts_contract",
  ReceiptError,
  "the network's genesis names a Receipts contract",
  "leave --on-chain out: this network keeps no roots of receipts on chain",
  404,
);
export const BAD_BUNDLE = define(
  "client.receipt_bundle",
  EncodingError,
  "a file of `cloister receipts --export` is whole, of version 1 and of the pinned network",
  "export the receipt again, or name the network that it is of",
);

/** Why the chain holds a receipt's log, as a file says it: nothing of it is believed unproven. */
export interface Anchor {
  index: number;
  checkpoint: Checkpoint;
  signatures: readonly Uint8Array[];
  path: readonly Uint8Array[];
  answers: readonly Record<string, unknown>[];
}

/** A file of `cloister receipts ID --export`, parsed and not verified. `network`: bytes of network.json. */
export interface Bundle {
  network: Uint8Array;
  handovers: readonly SignedHandover[];
  kept: KeptReceipt;
  proof: LogProof;
  anchor: Anchor;
}

/** Parse a bundle; nothing of it is verified. Throws EncodingError, ReceiptError, ChainViewError. */
export function parseBundle(data: Uint8Array | string): Bundle {
  const raw = typeof data === "string" ? utf8(data) : data;
  const names = ["cloister", "version", "network", "handovers", "receipt", "anchor"];
  const value = needFields("receipt bundle", raw.length <= MAX_BUNDLE ? parse(raw) : undefined, names);
  const { cloister, version, network } = value;
  if (cloister !== "receipt bundle" || version !== 1) throw BAD_BUNDLE("a receipt bundle of version 1", "another file");
  const tooMany = (found: string) => BAD_BUNDLE(`at most ${MAX_HANDOVERS} hand-overs`, found);
  const handovers = needList(value["handovers"], MAX_HANDOVERS, tooMany);
  const kept = parseKept(value["receipt"]);
  const { proof } = kept;
  if (!proof || typeof network !== "string") throw BAD_BUNDLE("a network file, and a receipt with its proof", "none");
  return {
    network: utf8(network),
    handovers: handovers.map((one) => SignedHandover.fromJson(one)),
    kept,
    proof,
    anchor: parseAnchor(value["anchor"]),
  };
}

/**
 * The root that the contract holds, by the proofs of a file alone. Throws CloisterError.
 *
 * 1. t members of a term that may speak of the block signed the checkpoint; 2. the account proof leads to the pinned
 * contract, the storage proofs to the words of this root of this worker.
 */
export async function rootOf(anchor: Anchor, network: Network, terms: Terms, worker: Uint8Array): Promise<RootRecord> {
  const { checkpoint: at, signatures, answers, index } = anchor;
  verifyCommittee(at.term, Checkpoint.digest(at, network.id), signatures, terms.signersOf(at.term, at.number)); // 1
  const state = new ProvenState(new Replay(answers), receiptsOf(network), at);
  return (await state.read(CONTRACT, (slots) => readRoots(slots, worker, [index])))[0]!; // 2
}

/**
 * Throw ReceiptError (receipt.not_anchored, receipt.not_consistent) unless root and head are of one log.
 *
 * 1. one boot, and the root covers the receipt; 2. the longer log begins with the shorter. As the head has the receipt at
 * its number, so does the root then.
 */
export function requireOneLog(proof: LogProof, root: RootRecord, path: readonly Uint8Array[]): void {
  const { head, index } = proof;
  if (!equalBytes(root.boot, head.boot) || root.size <= index) { // 1
    throw NOT_ANCHORED(`a root over receipt ${index} of this boot`, "a root of another log");
  }
  const [old, now] = root.size <= head.size ? [root, head] : [head, root];
  verifyConsistency(old.size, old.root, now.size, now.root, path); // 2
}

/**
 * The first recorded root of the receipt's worker that covers it, and its number. Throws NOT_ANCHORED, ChainError.
 *
 * 1. proven: so many receipts of this boot are below roots; 2. proven: the first root of a block not before that of the
 * receipt, by rounds of 16 places; 3. from there on, the first of this boot that is long enough.
 */
export async function findRoot(
  { state, checkpoint }: View,
  network: Network,
  receipt: Receipt,
): Promise<{ index: number; root: RootRecord }> {
  receiptsOf(network);
  const { worker, boot, seq } = receipt;
  const size = await state.read(CONTRACT, (slots) => readLoggedSize(slots, worker, boot)); // 1
  if (size <= seq) {
    throw NOT_ANCHORED(
      `a root over ${seq + 1} receipts of its boot`,
      `${size} at block ${checkpoint.number}; this one is number ${seq}`,
    );
  }
  const read = (indexes: number[]) => state.read(CONTRACT, (slots) => readRoots(slots, worker, indexes));
  const count = await state.read(CONTRACT, (slots) => readRootCount(slots, worker));
  const start = await firstSince(read, count, receipt.checkpoint); // 2
  for (let low = start; low < Math.min(count, start + MAX_WALKED); low += WALK) { // 3
    const indexes = Array.from({ length: Math.min(count - low, WALK) }, (_, i) => low + i);
    const roots = await read(indexes);
    const at = roots.findIndex((one) => one.size > seq && equalBytes(one.boot, boot));
    if (at >= 0) return { index: low + at, root: roots[at]! };
  }
  throw NOT_ANCHORED(`a root soon after block ${receipt.checkpoint}`, "none of this boot there");
}

/** The first root that is on chain since `block` or later; `count` if there is none. */
async function firstSince(
  read: (indexes: number[]) => Promise<RootRecord[]>,
  count: number,
  block: number,
): Promise<number> {
  let [low, high] = [0, count]; // all below low are older, all from high on are not
  while (low < high) {
    const [from, span] = [low, high - low];
    const places = [...new Set(Array.from({ length: PROBES }, (_, i) => from + Math.floor(span * i / PROBES)))];
    for (const [i, one] of (await read(places)).entries()) {
      if (one.atBlock >= block) {
        high = places[i]!;
        break;
      }
      low = places[i]! + 1;
    }
  }
  return low;
}

function receiptsOf({ genesis }: Network) {
  const reference = genesis.contracts.get(CONTRACT);
  if (!reference) throw NO_CONTRACT("a Receipts contract", "none");
  return new Map([[CONTRACT, reference]]);
}

function parseAnchor(value: unknown): Anchor {
  const data = needFields("anchor", value, ["index", "checkpoint", "path", "answers"]);
  const signed = needFields("signed checkpoint", data["checkpoint"], ["statement", "signatures"]);
  const tooMany = (what: string) => (found: string) => BAD_BUNDLE(what, found);
  const signatures = needList(signed["signatures"], MAX_MEMBERS, tooMany(`at most ${MAX_MEMBERS} signatures`));
  const answers = needList(data["answers"], MAX_ANSWERS, tooMany(`at most ${MAX_ANSWERS} proofs`));
  if (!answers.every(isObject)) throw BAD_BUNDLE("proofs", "another form");
  return {
    index: needUint("index", data["index"], 32),
    checkpoint: Checkpoint.fromJson(signed["statement"]),
    signatures: signatures.map((one) => fromHex(one, 65, "checkpoint signature")),
    path: hashesFrom(data["path"], MAX_PATH),
    answers,
  };
}

/** An endpoint that gives kept answers, in their order, whatever is asked. */
class Replay extends Rpc {
  #left: readonly unknown[];

  constructor(answers: readonly unknown[]) {
    super(() => Promise.reject(new TypeError("a file is not asked")));
    this.#left = answers;
  }

  /** The next ones. Throws ChainError when there are no more. */
  override batch(calls: readonly Call[]): Promise<unknown[]> {
    if (calls.length > this.#left.length) return Promise.reject(BAD_ANSWER("a kept proof", "none left"));
    const given = this.#left.slice(0, calls.length);
    this.#left = this.#left.slice(calls.length);
    return Promise.resolve(given);
  }
}

/**
 * Which committee is in office: from a pinned term along signed hand-overs (spec/gatekeepers.md H1-H4).
 *
 * Each `Handover` leads to the next term; then the old term's word counts only up to the block of the hand-over. Time is
 * the verifier's own clock: who holds the keys of a term long gone could otherwise write a second history, and date it
 * as it likes. So a verifier that was away for longer than 90 days must pin anew.
 */

import { ChainViewError, CloisterError, define } from "../errors.ts";
import { equalBytes } from "../encoding/bytes.ts";
import { fromHex, needFields, toHex } from "../encoding/hexes.ts";
import type { Json } from "../encoding/jcs.ts";
import { keccak256 } from "../encoding/keccak.ts";
import type { Network } from "../encoding/network.ts";
import { MAX_MEMBERS, SignerSet, verifyCommittee } from "../encoding/signatures.ts";
import { Handover, type Lease, membersHash } from "../encoding/statements.ts";
import { UNKNOWN_TERM } from "./refusals.ts";

/** How many hand-overs one endpoint's answer may hold; what is beyond is not looked at. */
export const MAX_OFFERED = 512;
export const MAX_TERM_AGE_S = 90 * 24 * 3600;
const FUTURE_SKEW_S = 30;

export const BAD_HANDOVER = define(
  "chainview.handover",
  ChainViewError,
  "a hand-over names the next term, the members whose hash it holds, and a later block",
  "fetch the hand-overs again from another gateway or gatekeeper",
);
export const HANDOVER_FORK = define(
  "chainview.handover_fork",
  ChainViewError,
  "a term hands over once",
  "t members of that term signed two successors: trust neither, and pin the network anew from its contract",
  409,
);
export const MASTER_KEY_MOVED = define(
  "chainview.master_key_moved",
  ChainViewError,
  "the master key changes with the master epoch only, and the epoch never goes back",
  "do not trust this successor; resharing keeps the key",
);
export const TERM_TOO_OLD = define(
  "chainview.term_too_old",
  ChainViewError,
  "the pinned term was known to be in office lately, and the last term did not outstay its time (H3)",
  "fetch newer hand-overs; if there are none, pin the network anew from its contract",
  503,
);
export const TERM_OVER = define(
  "chainview.term_over",
  ChainViewError,
  "a term speaks of blocks from its first to that of its hand-over",
  "ask the committee in office",
  409,
);

/**
 * A committee of one term. `mpk`: keccak256 of the master key; `height`: the block that put it in office; `seen`: Unix
 * seconds by the verifier's clock when it last knew this term in office, of later terms those of that block.
 */
export interface Term {
  readonly signers: SignerSet;
  readonly masterEpoch: number;
  readonly mpk: Uint8Array;
  readonly height: number;
  readonly seen: number;
}

/** A hand-over as it travels: the statement, the members behind its hash (20 bytes each), t signatures (65). */
export class SignedHandover {
  /** The statement's hash, as a name. */
  readonly said: string;

  constructor(
    readonly statement: Handover,
    readonly members: readonly Uint8Array[],
    readonly signatures: readonly Uint8Array[],
  ) {
    this.said = toHex(Handover.structHash(statement));
  }

  /** JSON-ready fields. */
  toJson(): { [name: string]: Json } {
    return {
      statement: Handover.toJson(this.statement),
      members: this.members.map(toHex),
      signatures: this.signatures.map(toHex),
    };
  }

  /** Parse `toJson` output. Throws EncodingError, ChainViewError. */
  static fromJson(value: unknown): SignedHandover {
    const data = needFields("hand-over", value, ["statement", "members", "signatures"]);
    return new SignedHandover(
      Handover.fromJson(data["statement"]),
      hexList("members", data["members"], 20),
      hexList("signatures", data["signatures"], 65),
    );
  }
}

/** The terms that a verifier knows, the last one in office. `told`: the hand-over of each but the last, in order. */
export class Terms {
  constructor(
    readonly network: Uint8Array,
    readonly known: readonly Term[],
    readonly told: readonly SignedHandover[] = [],
  ) {}

  /** The last term. */
  get inOffice(): Term {
    return this.known.at(-1)!;
  }

  /**
   * The committee of a term, if it may speak of block `number` (H2): the checkpoint that a statement rests on.
   *
   * 1. the term is known; 2. the block is within it. Throws ChainViewError.
   */
  signersOf(term: number, number: number): SignerSet {
    const place = this.#place(term); // 1
    const [first, last] = [this.known[place]!.height, this.known[place + 1]?.height];
    if (number < first || (last !== undefined && number > last)) { // 2
      throw TERM_OVER(`blocks ${first} to ${last ?? "now"} in term ${term}`, `block ${number}`);
    }
    return this.known[place]!.signers;
  }

  /** The committee of the term that a statement of no block names, such as a log's head. Throws ChainViewError. */
  membersOf(term: number): SignerSet {
    return this.known[this.#place(term)]!.signers;
  }

  /**
   * The committee that may have signed a lease. Throws ChainViewError.
   *
   * 1. its term may speak of its checkpoint; 2. a lease of a term that is over ends by the second period after that
   * term's last block: members of a term long gone date no lease into the future.
   */
  lessors(lease: Lease, periodBlocks: number): SignerSet {
    const signers = this.signersOf(lease.term, lease.checkpoint); // 1
    const over = this.known[this.#place(lease.term) + 1];
    const end = over ? (Math.floor(over.height / periodBlocks) + 2) * periodBlocks : Infinity;
    if (lease.expiry > end) { // 2
      throw TERM_OVER(`an end by block ${end} in term ${lease.term}`, `block ${lease.expiry}`);
    }
    return signers;
  }

  /** Throw chainview.master_key_moved if a hand-over, or the pin, named another key (96 bytes) of this epoch. */
  requireKey(epoch: number, mpk: Uint8Array): void {
    const found = keccak256(mpk);
    const other = this.known.find((one) => one.masterEpoch === epoch && !equalBytes(one.mpk, found));
    if (other) {
      throw MASTER_KEY_MOVED(`the key that term ${other.signers.term} began with`, `epoch ${epoch} with another key`);
    }
  }

  /** Throw chainview.term_too_old unless the term in office was known to be so lately, by our own clock (H3). */
  requireFresh(now: number, maxTermAge = MAX_TERM_AGE_S): void {
    const { signers, seen } = this.inOffice;
    const age = now - seen;
    if (age > maxTermAge) throw TERM_TOO_OLD(`term ${signers.term} known within ${maxTermAge} s`, `${age} s ago`);
    if (age < -FUTURE_SKEW_S) {
      throw TERM_TOO_OLD(`at most ${FUTURE_SKEW_S} s ahead of this clock`, `${-age} s ahead`);
    }
  }

  /** The same, with the term in office known to be so at `now` (H3). */
  seenAt(now: number): Terms {
    const last = { ...this.inOffice, seen: Math.max(now, this.inOffice.seen) };
    return new Terms(this.network, [...this.known.slice(0, -1), last], this.told);
  }

  #place(term: number): number {
    const place = this.known.findIndex((one) => one.signers.term === term);
    if (place >= 0) return place;
    throw UNKNOWN_TERM(`terms ${this.known[0]!.signers.term} to ${this.inOffice.signers.term}`, `term ${term}`);
  }
}

/** The committee that a network file names, as in office at `now`: who pins the file vouches for it (H3). */
export function pinned(network: Network, now: number): Terms {
  const { founding, masterEpoch, mpk, id } = network;
  return new Terms(id, [{ signers: founding, masterEpoch, mpk: keccak256(mpk), height: 0, seen: now }]);
}

/**
 * On from the term in office along hand-overs that anybody offered. Times in seconds, `now` by our own clock.
 *
 * 1. the term in office was known to be so within `maxTermAge`; 2. no second successor of a term that handed over,
 * signed by its t members; 3. offers of the term in office that t of its members signed: one successor; 4. it names the
 * members that it hashes, and a later block, and the key moves only with the epoch; again from it. 5. the last one is
 * not too old, nor of the future. Offers that do not count are passed over: one liar stops nobody.
 * Throws ChainViewError, EncodingError.
 */
export function follow(
  terms: Terms,
  offered: readonly SignedHandover[],
  now: number,
  maxTermAge = MAX_TERM_AGE_S,
): Terms {
  terms.requireFresh(now, maxTermAge); // 1
  noSecond(terms, offered); // 2
  let found = terms;
  for (let good = counting(found, offered); good.length; good = counting(found, offered)) {
    if (good.length > 1) { // 3
      throw HANDOVER_FORK(`one successor of term ${good[0]!.statement.term}`, "two, both signed");
    }
    found = new Terms(found.network, [...found.known, next(found.inOffice, good[0]!)], [...found.told, good[0]!]); // 4
  }
  if (found !== terms) found.requireFresh(now, maxTermAge); // 5
  return found;
}

/** The complete hand-overs of an answer of `GET /v1/handovers`; what is none is left out. Throws EncodingError. */
export function offers(value: unknown): SignedHandover[] {
  const items = needFields("hand-overs", value, ["handovers", "signing"])["handovers"];
  return (Array.isArray(items) ? items.slice(0, MAX_OFFERED) : []).flatMap((item) => {
    try {
      return [SignedHandover.fromJson(item)];
    } catch (error) {
      if (error instanceof CloisterError) return [];
      throw error;
    }
  });
}

function noSecond(terms: Terms, offered: readonly SignedHandover[]): void {
  for (const one of offered) {
    const place = terms.told.findIndex((told) => told.statement.term === one.statement.term);
    if (place < 0 || terms.told[place]!.said === one.said) continue;
    if (counts(one, terms.known[place]!, terms.network)) {
      throw HANDOVER_FORK(`one successor of term ${one.statement.term}`, "two, both signed");
    }
  }
}

/** Offers of the term in office that t of its members signed: one of each statement. */
function counting(terms: Terms, offered: readonly SignedHandover[]): SignedHandover[] {
  const last = terms.inOffice;
  const found = new Map<string, SignedHandover>();
  for (const one of offered) {
    const ours = one.statement.term === last.signers.term && !found.has(one.said);
    if (ours && counts(one, last, terms.network)) found.set(one.said, one);
  }
  return [...found.values()];
}

function counts(one: SignedHandover, term: Term, network: Uint8Array): boolean {
  if (!equalBytes(membersHash(one.members), one.statement.members)) return false;
  try {
    verifyCommittee(one.statement.term, Handover.digest(one.statement, network), one.signatures, term.signers);
    return true;
  } catch (error) {
    if (error instanceof CloisterError) return false;
    throw error;
  }
}

function next(last: Term, { statement: said, members }: SignedHandover): Term {
  if (said.next_term !== last.signers.term + 1) {
    throw BAD_HANDOVER(`term ${last.signers.term + 1}`, `term ${said.next_term}`);
  }
  if (said.height <= last.height) throw BAD_HANDOVER(`a block after ${last.height}`, String(said.height));
  const moved = said.master_epoch === last.masterEpoch && !equalBytes(said.mpk, last.mpk);
  if (said.master_epoch < last.masterEpoch || moved) {
    const name = (epoch: number, mpk: Uint8Array) => `epoch ${epoch} with ${toHex(mpk).slice(0, 18)}…`;
    throw MASTER_KEY_MOVED(name(last.masterEpoch, last.mpk), name(said.master_epoch, said.mpk));
  }
  const signers = new SignerSet(said.next_term, said.threshold, members);
  return { signers, masterEpoch: said.master_epoch, mpk: said.mpk, height: said.height, seen: said.timestamp };
}

function hexList(name: string, value: unknown, size: number): Uint8Array[] {
  if (!Array.isArray(value) || value.length < 1 || value.length > MAX_MEMBERS) {
    throw BAD_HANDOVER(`${name} as a list of 1 to ${MAX_MEMBERS}`, typeof value);
  }
  return value.map((item) => fromHex(item, size, name));
}

/**
 * From an agent id to workers that may be sealed to, believing nobody on the way (spec/chainview.md, sealed-http.md 1).
 *
 * Numbered as the code: 1 a checkpoint with t signatures, fresh by this client's own clock, never going back; 2 the
 * committee, along hand-overs from the pinned one, MPK, vendors and epochs by proof at it; 3 the agent's record by proof, not paused there nor in any newer
 * block seen; 4 the seats that the gateway lists: each certificate under its lease, of the agent's present code and
 * epochs; 5 each seat's worker by proof: admitted, live, this boot, not removed in any newer block seen. Seats that
 * fail are left out; if none is left, the first reason is thrown.
 */

import { sha256 } from "@noble/hashes/sha2.js";
import { ChainViewError, CloisterError, define, PolicyError, TransportError } from "../errors.ts";
import { ProvenState } from "../chain/proven.ts";
import type { Rpc } from "../chain/rpc.ts";
import { acceptCheckpoint } from "../chainview/checkpoints.ts";
import {
  type AgentRecord,
  type Canary,
  canaryAt,
  type CommitteeRecord,
  liveAt,
  type WorkerRecord,
} from "../chainview/records.ts";
import type { EpochRecord } from "../chainview/epochs.ts";
import { SECOND_AT_HEIGHT } from "../chainview/refusals.ts";
import { pinned } from "../chainview/terms.ts";
import { bigOf, concat, equalBytes, type Rng, utf8 } from "../encoding/bytes.ts";
import { fromHex, needFields, needList, toHex } from "../encoding/hexes.ts";
import type { AgentVersion } from "../encoding/identity.ts";
import type { Network } from "../encoding/network.ts";
import { MAX_MEMBERS } from "../encoding/signatures.ts";
import { Checkpoint } from "../encoding/statements.ts";
import { type CertificateFields, Seat } from "../envelope/certificate.ts";
import { vendorText } from "../policy/committee.ts";
import { type CommitteeRules, type NetworkParameters, readPolicy } from "../policy/parameters.ts";
import { AGENT_UNKNOWN, PAUSED, WORKER_REMOVED } from "../policy/refusals.ts";
import type { Admission } from "../receipts/verify.ts";
import type { Gateway } from "./gateway.ts";
import type { Proof } from "./reply.ts";
import { TermWalk } from "./terms.ts";

const MAX_SEATS = 64;
const CAREFUL_S = 5;

export const NO_SEAT = define(
  "client.no_seat",
  TransportError,
  "a worker holds a lease of the agent now",
  "a new agent needs a few seconds; see `cloister agent show` and `cloister status`",
  503,
);
export const OTHER_COMMITTEE = define(
  "client.committee",
  ChainViewError,
  "the committee and MPK in office are those that hand-overs from the pinned network file lead to",
  "use another gateway; if it lasts, get the newest network.json and its fingerprint from the operators",
);
export const OLD_SEAT = define(
  "client.old_seat",
  PolicyError,
  "the seat was leased for the agent's present code, manifest, cluster and epochs",
  "wait for the next lease; the agent was changed after this one was granted",
);
export const NOT_ADMITTED = define(
  "client.worker_not_admitted",
  PolicyError,
  "the seat's worker is admitted by proof, live, with the boot that the seat names",
  "take another seat; this worker left, expired, restarted or was never admitted",
  403,
);

/** One verified checkpoint and the state under it. */
export interface View {
  checkpoint: Checkpoint;
  state: ProvenState;
}

/** A verified seat and the proven record of the worker that sits on it. */
export interface Sitting {
  seat: Seat;
  worker: WorkerRecord;
  /** Vendor class of the worker's hardware: "intel", "amd", "aws", … */
  vendor: string;
}

/**
 * An agent, resolved: its proven record at a checkpoint and at least one seat to seal to. `taken`: Unix seconds.
 * `canaries`: seats of the second version that may run at the checkpoint; none without one.
 */
export interface Resolution {
  network: Uint8Array;
  checkpoint: Checkpoint;
  record: AgentRecord;
  sittings: readonly Sitting[];
  parameters: NetworkParameters;
  threshold: number;
  taken: number;
  canaries: readonly Sitting[];
}

/** Seats of the canary at the workers that are left in `sittings`. */
export function beside({ sittings, canaries }: Resolution): Sitting[] {
  const here = new Set(sittings.map((one) => toHex(one.worker.worker)));
  return canaries.filter((one) => here.has(toHex(one.worker.worker)));
}

/**
 * Where a caller's calls go first: to the canary for its share of callers (spec/canary.md 6). Where no canary answers,
 * the version in force does. `caller`: what names it, the same in all its sessions.
 */
export function routed(resolution: Resolution, caller: Uint8Array): Resolution {
  const [{ canary, agent }, found] = [resolution.record, beside(resolution)];
  if (!canary || !found.length || !inShare(agent, canary, caller)) return resolution;
  return { ...resolution, sittings: [...found, ...resolution.sittings], canaries: [] };
}

/** Whether a caller is one of those whose calls go to the canary. Who is stays so while the share grows. */
export function inShare(agent: Uint8Array, canary: Canary, caller: Uint8Array): boolean {
  const drawn = sha256(concat(utf8("cloister/canary"), agent, canary.codeHash, caller)).subarray(0, 8);
  return bigOf(drawn) % 100n < BigInt(canary.share);
}

/** The worker's admission, as receipts are checked against it. */
export function admissionOf({ worker }: Sitting): Admission {
  return { worker: worker.worker, boot: worker.boot, expiry: worker.expiry, removed: worker.removed };
}

/** What was verified for an answer of this seat. */
export function proofOf(resolution: Resolution, sitting: Sitting, receiptId: Uint8Array): Proof {
  const { fields } = sitting.seat.certificate;
  return {
    network: resolution.network,
    agent: fields.agent,
    code_hash: fields.code_hash,
    manifest_hash: fields.manifest_hash,
    worker: sitting.worker.worker,
    boot: sitting.worker.boot,
    vendor: sitting.vendor,
    measurement: sitting.worker.measurement,
    checkpoint: resolution.checkpoint.number,
    lease_expiry: fields.expiry,
    committee: resolution.threshold,
    receipt_id: receiptId,
  };
}

/**
 * Resolves agents of one pinned network over one gateway. `clock`: Unix seconds; `rng` spreads the load. `walk`: the
 * terms that this client knows; by default from the pin, remembered nowhere.
 */
export class Resolver {
  readonly parameters: NetworkParameters;
  readonly #rules: CommitteeRules;
  /** What names an anonymous caller of this program, to itself. 8 bytes. */
  readonly salt: Uint8Array;
  readonly #cache = new Map<string, Resolution>();
  readonly #queues = new Map<string, Promise<unknown>>();
  #view: View | undefined;
  #diverse = 0; // the term whose vendors were looked at
  readonly #mpks: Map<number, Uint8Array>;

  constructor(
    readonly network: Network,
    readonly gateway: Gateway,
    readonly rpc: Rpc,
    readonly clock: () => number,
    rng: Rng,
    readonly walk: TermWalk = new TermWalk(
      network,
      pinned(network, Math.floor(clock())),
      () => gateway.handovers(),
      clock,
    ),
  ) {
    this.#mpks = new Map([[network.masterEpoch, network.mpk]]);
    const policy = readPolicy(network.genesis);
    [this.parameters, this.#rules, this.salt] = [policy.network, policy.committee, rng(8)];
  }

  /** Step 1: the newest verified checkpoint. Throws ChainViewError, EncodingError or TransportError. */
  async view(): Promise<View> {
    const { checkpoint: claimed, signatures } = parseCheckpoint(await this.gateway.checkpoint());
    const [now, limit] = [this.clock(), this.parameters.max_checkpoint_age_s];
    const checkpoint = await this.#accepted(claimed, signatures, Math.floor(now), limit);
    const last = this.#view;
    if (last && checkpoint.number === last.checkpoint.number) return sameHeight(last, checkpoint);
    if (!last || checkpoint.number > last.checkpoint.number) {
      return this.#view = { checkpoint, state: new ProvenState(this.rpc, this.network.genesis.contracts, checkpoint) };
    }
    if (now - last.checkpoint.timestamp > limit) { // the gateway went back, and what we hold is stale itself
      throw NO_SEAT(`a checkpoint above ${last.checkpoint.number}`, String(checkpoint.number));
    }
    return last;
  }

  /**
   * 1. hand-overs, where a later term is named; 2. the term in office was so lately, by our own clock (H3); 3. a term
   * that may speak of this block signed it, and it is fresh.
   */
  async #accepted(claimed: Checkpoint, signatures: Uint8Array[], now: number, limit: number): Promise<Checkpoint> {
    await (this.walk.due ? this.walk.look() : this.walk.knows(claimed.term)); // 1
    const { terms } = this.walk;
    terms.requireFresh(now); // 2
    const signers = terms.signersOf(claimed.term, claimed.number); // 3
    const checkpoint = acceptCheckpoint(claimed, signatures, signers, this.network.id, now, limit);
    if (claimed.term === terms.inOffice.signers.term) await this.walk.spoke();
    return checkpoint;
  }

  /** Step 3 alone: an agent's proven record, paused or not. Throws PolicyError (policy.agent_unknown). */
  async record(agent: Uint8Array): Promise<AgentRecord> {
    const { checkpoint, state } = await this.view();
    const found = await state.agent(agent);
    if (!found) throw AGENT_UNKNOWN(`an agent at block ${checkpoint.number}`, toHex(agent));
    return found;
  }

  /**
   * Steps 1 to 5, or the last result while it is young. `again` never uses it.
   *
   * Without `quick` (the request is not safe to repeat) a result counts as young for five seconds only: an old seat
   * would turn into an unknown outcome.
   */
  resolve(agent: Uint8Array, { quick = true, again = false } = {}): Promise<Resolution> {
    const name = toHex(agent);
    const work = async () => {
      const known = this.#cache.get(name);
      const oldest = this.parameters.max_checkpoint_age_s / 4;
      const age = known ? this.clock() - known.taken : -1;
      if (known && !again && age >= 0 && age <= (quick ? oldest : Math.min(oldest, CAREFUL_S))) return known;
      const fresh = await this.#resolve(agent);
      this.#cache.set(name, fresh);
      return fresh;
    };
    const next = (this.#queues.get(name) ?? Promise.resolve()).then(work, work); // one at a time for one agent
    this.#queues.set(name, next);
    return next;
  }

  /** A worker answered at `height`: if the period moved on since this agent was resolved, forget the result. */
  outdated(agent: Uint8Array, height: number): void {
    const known = this.#cache.get(toHex(agent));
    const blocks = this.parameters.period_blocks;
    if (known && Math.floor(height / blocks) > Math.floor(known.checkpoint.number / blocks)) {
      this.#cache.delete(toHex(agent));
    }
  }

  async #resolve(agent: Uint8Array): Promise<Resolution> {
    const view = await this.view(); // 1
    const record = await view.state.agent(agent); // 3
    if (!record) throw AGENT_UNKNOWN(`an agent at block ${view.checkpoint.number}`, toHex(agent));
    const [version, offered, paused] = await Promise.all([
      this.#version(view, record), // 2
      this.gateway.seats(agent),
      view.state.newestPaused(agent),
    ]);
    if (record.paused || paused) {
      throw PAUSED("a running agent", `paused ${record.paused ? "at the checkpoint" : "at a newer block"}`);
    }
    return {
      network: this.network.id,
      checkpoint: view.checkpoint,
      record,
      ...await this.#sittings(view, record, version, offered), // 4, 5
      parameters: this.parameters,
      threshold: this.walk.terms.inOffice.signers.threshold,
      taken: this.clock(),
    };
  }

  async #version(view: View, record: AgentRecord): Promise<AgentVersion> {
    const { state } = view;
    const [{ committee, master }, cluster] = await Promise.all([this.committee(view), state.cluster(record.cluster)]);
    const { term } = committee.signers;
    if (this.#diverse !== term) await state.requireDiverse(this.#rules);
    this.#diverse = term;
    if (!cluster) throw AGENT_UNKNOWN("the agent's cluster", toHex(record.cluster));
    return {
      network: this.network.id,
      master_epoch: master.epoch,
      cluster: record.cluster,
      cluster_epoch: cluster.epoch,
      agent: record.agent,
      agent_epoch: record.epoch,
    };
  }

  /** The master public key (96 bytes) of an epoch that a seat was judged by. Throws TypeError for others: our mistake. */
  mpk(epoch: number): Uint8Array {
    const found = this.#mpks.get(epoch);
    if (!found) throw new TypeError(`no seat of master epoch ${epoch} was resolved`);
    return found;
  }

  /**
   * The committee in office and the master epoch in use, by proof. Throws client.committee, ChainViewError.
   *
   * 1. of this network, and of the term that signed the checkpoint; in its first block the next term is proven, and the
   * one before has signed; 2. a term that is known has the members that it was handed to; 3. the pinned term has the
   * pinned key; 4. no hand-over named another key of the epoch.
   */
  async committee({ checkpoint: at, state }: View): Promise<{ committee: CommitteeRecord; master: EpochRecord }> {
    const [committee, master] = await Promise.all([state.committee(), state.master()]);
    const { signers } = committee;
    const [own, { terms }] = [this.network, this.walk];
    const first = signers.term === at.term + 1 && await state.termHeight(signers.term) === at.number;
    if (!equalBytes(committee.networkId, own.id) || (signers.term !== at.term && !first)) { // 1
      const name = (network: Uint8Array, term: number) => `network ${toHex(network).slice(0, 18)}…, term ${term}`;
      throw OTHER_COMMITTEE(name(own.id, at.term), name(committee.networkId, signers.term));
    }
    const known = terms.known.find((one) => one.signers.term === signers.term);
    if (known && !known.signers.equals(signers)) { // 2
      throw OTHER_COMMITTEE(`the members that term ${signers.term} was handed to`, "others");
    }
    const pin = own.founding.term === signers.term && own.masterEpoch === committee.masterEpoch;
    if (pin && !this.#pinnedKey(committee, master)) { // 3
      throw OTHER_COMMITTEE(`MPK ${toHex(own.mpk).slice(0, 18)}…`, `${toHex(committee.mpk).slice(0, 18)}…`);
    }
    terms.requireKey(master.epoch, master.mpk); // 4
    this.#mpks.set(master.epoch, master.mpk);
    return { committee, master };
  }

  #pinnedKey(committee: CommitteeRecord, master: EpochRecord): boolean {
    const { mpk, transcript } = this.network;
    return equalBytes(committee.mpk, mpk) && equalBytes(committee.transcript, transcript) &&
      equalBytes(master.mpk, mpk);
  }

  async #sittings(
    view: View,
    record: AgentRecord,
    version: AgentVersion,
    offered: readonly unknown[],
  ): Promise<{ sittings: Sitting[]; canaries: Sitting[] }> {
    const judge = (offer: unknown) => this.#judge(view, record, version, offer);
    const judged = await Promise.allSettled(offered.slice(0, MAX_SEATS).map(judge));
    const [good, second] = [new Map<string, Sitting>(), new Map<string, Sitting>()];
    const refused: unknown[] = [];
    for (const one of judged) {
      if (one.status === "rejected") refused.push(one.reason);
      else keepNewest(inForce(one.value, record) ? good : second, one.value);
    }
    const mistake = refused.find((reason) => !(reason instanceof CloisterError));
    if (mistake !== undefined) throw mistake;
    if (good.size === 0) throw refused[0] ?? NO_SEAT("a seat", "none");
    const rank = (one: Sitting) => toHex(sha256(concat(this.salt, one.worker.worker)));
    const sorted = (group: Map<string, Sitting>) => [...group.values()].sort((a, b) => (rank(a) < rank(b) ? -1 : 1));
    return { sittings: sorted(good), canaries: sorted(second) };
  }

  async #judge(view: View, record: AgentRecord, version: AgentVersion, offer: unknown): Promise<Sitting> {
    const seat = Seat.fromJson(offer);
    const { fields } = seat.certificate;
    const height = view.checkpoint.number;
    await this.walk.knows(seat.lease.term); // 4
    const signers = this.walk.terms.lessors(seat.lease, this.parameters.period_blocks);
    seat.verify(signers, this.network.id, height);
    sameAgent(fields, record, version, height);
    const worker = await view.state.worker(fields.worker); // 5
    if (!worker || !liveAt(worker, height) || !equalBytes(worker.boot, fields.boot)) {
      throw NOT_ADMITTED(`a live worker ${toHex(fields.worker)}`, stateOf(worker, fields));
    }
    if (await view.state.newestRemoved(fields.worker)) {
      throw WORKER_REMOVED("a worker in service", "removed at a newer block");
    }
    return { seat, worker, vendor: vendorText(worker.vendorClass) };
  }
}

function sameHeight(last: View, checkpoint: Checkpoint): View {
  if (!equalBytes(checkpoint.block_hash, last.checkpoint.block_hash)) {
    throw SECOND_AT_HEIGHT(toHex(last.checkpoint.block_hash), toHex(checkpoint.block_hash));
  }
  return last;
}

function keepNewest(good: Map<string, Sitting>, sitting: Sitting): void {
  const name = toHex(sitting.worker.worker);
  const other = good.get(name);
  const newer = !other || sitting.seat.certificate.fields.expiry > other.seat.certificate.fields.expiry;
  if (newer) good.set(name, sitting);
}

/** Whether a seat is of the version in force, not of the canary. */
function inForce({ seat }: Sitting, record: AgentRecord): boolean {
  return equalBytes(seat.certificate.fields.code_hash, record.codeHash);
}

/** Throw OLD_SEAT unless the seat is of the agent's epochs, and of the version in force or the canary that may run. */
function sameAgent(fields: CertificateFields, record: AgentRecord, version: AgentVersion, height: number): void {
  const versions = [record, canaryAt(record, height)];
  const known = versions.some((one) =>
    one && equalBytes(fields.code_hash, one.codeHash) && equalBytes(fields.manifest_hash, one.manifestHash)
  );
  const same = known &&
    equalBytes(fields.network, version.network) && equalBytes(fields.cluster, version.cluster) &&
    equalBytes(fields.agent, version.agent) && fields.master_epoch === version.master_epoch &&
    fields.cluster_epoch === version.cluster_epoch && fields.agent_epoch === version.agent_epoch;
  const name = (code: Uint8Array, epoch: number) => `code ${toHex(code).slice(0, 18)}…, epoch ${epoch}`;
  if (!same) throw OLD_SEAT(name(record.codeHash, record.epoch), name(fields.code_hash, fields.agent_epoch));
}

function stateOf(worker: WorkerRecord | undefined, fields: CertificateFields): string {
  if (!worker) return "never registered";
  if (worker.removed || !worker.listed) return worker.removed ? "removed" : "left";
  return equalBytes(worker.boot, fields.boot) ? `registration until block ${worker.expiry}` : "another boot";
}

function parseCheckpoint(value: unknown): { checkpoint: Checkpoint; signatures: Uint8Array[] } {
  const data = needFields("checkpoint answer", value, ["checkpoint", "signatures"]);
  const tooMany = (found: string) => NO_SEAT(`at most ${MAX_MEMBERS} signatures`, found);
  const signatures = needList(data["signatures"], MAX_MEMBERS, tooMany);
  return {
    checkpoint: Checkpoint.fromJson(data["checkpoint"]),
    signatures: signatures.map((s) => fromHex(s, 65, "checkpoint signature")),
  };
}

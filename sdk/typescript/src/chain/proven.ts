/**
 * Contract state by proof: every answer of the endpoint is checked against a checkpoint before anybody sees it.
 *
 * The endpoint may withhold and may be slow; it cannot make a record say something else (spec/chainview.md 2).
 */

import { ChainViewError, CloisterError, define, isObject } from "../errors.ts";
import { bigOf, equalBytes } from "../encoding/bytes.ts";
import { fromHex, toHex } from "../encoding/hexes.ts";
import type { ContractRef } from "../encoding/network.ts";
import type { Checkpoint } from "../encoding/statements.ts";
import { addressKey } from "../chainview/layout.ts";
import { GETTERS, UNKNOWN_AGENT } from "../chainview/layouts.ts";
import { type EpochRecord, readMaster, readTermHeight } from "../chainview/epochs.ts";
import { type Account, BAD_PROOF, MAX_NODE, MAX_NODES, verifyAccount, verifySlot } from "../chainview/proofs.ts";
import {
  type AgentRecord,
  type ClusterRecord,
  type CommitteeRecord,
  readAgent,
  readCluster,
  readCommittee,
  readVendorClasses,
  readWorker,
  type WorkerRecord,
} from "../chainview/records.ts";
import type { Slots } from "../chainview/words.ts";
import { requireDiverse } from "../policy/committee.ts";
import type { CommitteeRules } from "../policy/parameters.ts";
import { BAD_ANSWER, type Call, quantity, REVERTED, type Rpc, toQuantity } from "./rpc.ts";

const MAX_SLOTS = 256;
const MAX_ROUNDS = 8;

export const WRONG_CONTRACT = define(
  "chainview.wrong_contract",
  ChainViewError,
  "the contract exists at the checkpoint with the code that the network pins",
  "compare network.json with the network that you mean",
);

/** Thrown by `Known`: the reader wants words that are not proven yet. A request, not an error. */
class NeedSlots {
  constructor(readonly slots: readonly bigint[]) {}
}

/** Proven words of one contract; asks for the others. */
class Known implements Slots {
  readonly words = new Map<bigint, bigint>();

  get(slots: readonly bigint[]): readonly bigint[] {
    const missing = slots.filter((slot) => !this.words.has(slot));
    if (missing.length) throw new NeedSlots(missing);
    return slots.map((slot) => this.words.get(slot)!);
  }
}

/** Reads records at one checkpoint. Words once proven are kept. Methods throw ChainError or ChainViewError. */
export class ProvenState {
  readonly #known = new Map<string, Known>();

  constructor(
    readonly rpc: Rpc,
    readonly contracts: ReadonlyMap<string, ContractRef>,
    readonly checkpoint: Checkpoint,
  ) {}

  /** An agent's record; undefined if there is no such agent at the checkpoint. */
  agent(agent: Uint8Array): Promise<AgentRecord | undefined> {
    return this.read("Agents", (slots) => readAgent(slots, agent));
  }

  /** A worker's record, also when it left or was removed; undefined if it never registered. */
  worker(address: Uint8Array): Promise<WorkerRecord | undefined> {
    return this.read("Workers", (slots) => readWorker(slots, address));
  }

  /** A cluster's record; undefined if there is no such cluster. */
  cluster(cluster: Uint8Array): Promise<ClusterRecord | undefined> {
    return this.read("Clusters", (slots) => readCluster(slots, cluster));
  }

  /** The committee in office. Throws chainview.no_committee before the founding is complete. */
  committee(): Promise<CommitteeRecord> {
    return this.read("Gatekeepers", readCommittee);
  }

  /** The master epoch whose keys leases carry now. Throws chainview.master_epoch. */
  master(): Promise<EpochRecord> {
    return this.read("Gatekeepers", readMaster);
  }

  /** The block that put a term in office; 0 for one that never was. */
  termHeight(term: number): Promise<number> {
    return this.read("Gatekeepers", (slots) => readTermHeight(slots, term));
  }

  /** Throw PolicyError (policy.committee_vendors) unless the committee in office rests on enough vendors. */
  async requireDiverse(rules: CommitteeRules): Promise<void> {
    const { signers } = await this.committee();
    const classes = await this.read("Gatekeepers", (slots) => readVendorClasses(slots, signers.members));
    requireDiverse(classes, signers.threshold, rules);
  }

  /** Whether the newest block seen has the agent paused. Unproven: may only forbid, never permit. */
  async newestPaused(agent: Uint8Array): Promise<boolean> {
    try {
      return (await this.#newest("Agents", agent))("paused") !== 0n;
    } catch (error) {
      const unknown = error instanceof CloisterError && error.code === REVERTED.code && error.found === UNKNOWN_AGENT;
      if (unknown) return false;
      throw error;
    }
  }

  /** Whether the newest block seen has the worker removed or gone. Unproven: may only forbid, never permit. */
  async newestRemoved(worker: Uint8Array): Promise<boolean> {
    const field = await this.#newest("Workers", addressKey(worker));
    return field("removed") !== 0n || (field("registeredAt") !== 0n && field("listed") === 0n);
  }

  async #newest(name: keyof typeof GETTERS, key: Uint8Array): Promise<(member: string) => bigint> {
    const shape = GETTERS[name];
    const data = shape.selector + toHex(key).slice(2);
    const answer = fromHex(
      await this.rpc.call("eth_call", { to: toHex(this.#contract(name).address), data }, "latest"),
      undefined,
      "eth_call answer",
    );
    const start = shape.dynamic ? 32 : 0; // a struct with a text is behind an offset
    const size = start + 32 * shape.words;
    if (shape.dynamic ? answer.length < size || bigOf(answer.subarray(0, 32)) !== 32n : answer.length !== size) {
      throw BAD_ANSWER(`a struct of ${shape.words} members`, `${answer.length} bytes`);
    }
    const members: Readonly<Record<string, number>> = shape.members;
    return (member) => bigOf(answer.subarray(start + 32 * members[member]!, start + 32 * members[member]! + 32));
  }

  /** Run a reader of a contract until it has every word it wants; each round proves all that it asked for together. */
  async read<R>(name: string, reader: (slots: Slots) => R): Promise<R> {
    const known = this.#known.get(name) ?? new Known();
    this.#known.set(name, known);
    for (let round = 0; round < MAX_ROUNDS; round++) {
      try {
        return reader(known);
      } catch (need) {
        if (!(need instanceof NeedSlots)) throw need;
        for (const [slot, word] of await this.#prove(name, [...new Set(need.slots)])) known.words.set(slot, word);
      }
    }
    throw new TypeError(`a reader of ${name} does not come to an end`);
  }

  async #prove(name: string, slots: readonly bigint[]): Promise<Map<bigint, bigint>> {
    const address = toHex(this.#contract(name).address);
    const groups: bigint[][] = [];
    for (let at = 0; at < slots.length; at += MAX_SLOTS) groups.push(slots.slice(at, at + MAX_SLOTS));
    const block = toQuantity(this.checkpoint.number);
    const calls = groups.map((group): Call => ["eth_getProof", [address, group.map(slotHex), block]]);
    const answers = await this.rpc.batch(calls);
    return new Map(groups.flatMap((group, i) => this.#verify(name, group, answers[i])));
  }

  /** 1. account proof under the state root; 2. the pinned code; 3. one proof per slot under its storage root. */
  #verify(name: string, slots: readonly bigint[], answer: unknown): [bigint, bigint][] {
    if (!isObject(answer)) throw BAD_ANSWER("a proof", typeof answer);
    const contract = this.#contract(name);
    const account = verifyAccount(this.checkpoint.state_root, contract.address, nodesOf(answer["accountProof"])); // 1
    const { storageRoot } = this.#pinned(name, contract, account); // 2
    const entries = answer["storageProof"];
    if (!Array.isArray(entries) || entries.length !== slots.length) {
      throw BAD_ANSWER(`${slots.length} storage proofs`, "another number");
    }
    return slots.map((slot, i) => [slot, provenWord(storageRoot, slot, entries[i])]); // 3
  }

  #pinned(name: string, contract: ContractRef, account: Account | undefined): Account {
    if (!account) throw WRONG_CONTRACT(`${name} at block ${this.checkpoint.number}`, "no account there");
    if (!equalBytes(account.codeHash, contract.codeHash)) {
      throw WRONG_CONTRACT(`${name} with code ${toHex(contract.codeHash)}`, toHex(account.codeHash));
    }
    return account;
  }

  #contract(name: string): ContractRef {
    const found = this.contracts.get(name);
    if (!found) throw WRONG_CONTRACT(`${name} in network.json`, "none of that name");
    return found;
  }
}

function slotHex(slot: bigint): string {
  return `0x${slot.toString(16).padStart(64, "0")}`;
}

function provenWord(storageRoot: Uint8Array, slot: bigint, entry: unknown): bigint {
  if (!isObject(entry)) throw BAD_ANSWER("a storage proof", typeof entry);
  const word = verifySlot(storageRoot, slot, nodesOf(entry["proof"]));
  if (quantity(entry["value"], "slot value") !== word) {
    throw BAD_PROOF("the value that the proof proves", "another value beside it");
  }
  return word;
}

function nodesOf(value: unknown): Uint8Array[] {
  if (!Array.isArray(value) || value.length > MAX_NODES) {
    throw BAD_ANSWER(`at most ${MAX_NODES} proof nodes`, "another form");
  }
  return value.map((node) => fromHex(node, undefined, "proof node", MAX_NODE));
}

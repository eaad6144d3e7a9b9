/** What the contracts say, as typed records read from proven storage slots (spec/chainview.md 5). */

import { ChainViewError, define } from "../errors.ts";
import { uintBytes } from "../encoding/bytes.ts";
import { needBytes } from "../encoding/hexes.ts";
import { keccak256 } from "../encoding/keccak.ts";
import { MAX_MEMBERS, SignerSet } from "../encoding/signatures.ts";
import { add, addressKey, dataSlot, mappingSlot } from "./layout.ts";
import { LAYOUTS } from "./layouts.ts";
import { addressOfWord, BAD_RECORD, type Slots, Struct, textOf } from "./words.ts";

export const NO_COMMITTEE = define(
  "chainview.no_committee",
  ChainViewError,
  "a committee is in office",
  "the founding ceremony has not finished; look at `cloister status`",
  503,
);

/** How an agent's code may change. Stricter is larger. */
export const UpgradeMode = { INSTANT: 0, DELAYED: 1, FROZEN: 2 } as const;

/**
 * A second version of an agent beside the one in force (spec/canary.md). `share`: percent of the callers, 0 to 100;
 * `readyAt`: the block from which it may run.
 */
export interface Canary {
  codeHash: Uint8Array;
  manifestHash: Uint8Array;
  share: number;
  readyAt: number;
}

/** An agent in the Agents contract. Hashes of 32 bytes are zero when unset; so are 20-byte addresses. */
export interface AgentRecord {
  agent: Uint8Array;
  tokenId: bigint;
  owner: Uint8Array;
  guardian: Uint8Array;
  epoch: number;
  paused: boolean;
  codeHash: Uint8Array;
  manifestHash: Uint8Array;
  cluster: Uint8Array;
  upgradeMode: number;
  upgradeDelay: number;
  secretsHash: Uint8Array;
  secretsVersion: number;
  secretsSetter: Uint8Array;
  secretsEpoch: number;
  account: Uint8Array;
  /** A second version, announced or running. */
  canary?: Canary;
}

/** A worker in the Workers contract. `expiry`, `heartbeat`, `registeredAt` are block numbers. */
export interface WorkerRecord {
  worker: Uint8Array;
  operator: Uint8Array;
  vendorClass: Uint8Array;
  measurement: Uint8Array;
  boot: Uint8Array;
  expiry: number;
  removed: boolean;
  listed: boolean;
  heartbeat: number;
  registeredAt: number;
  endpoint: string;
}

/** A cluster: owner, key epoch, workers per agent. */
export interface ClusterRecord {
  cluster: Uint8Array;
  owner: Uint8Array;
  epoch: number;
  seats: number;
}

/** The committee in office. mpk is 96 bytes, the ids and seeds 32. */
export interface CommitteeRecord {
  signers: SignerSet;
  mpk: Uint8Array;
  masterEpoch: number;
  networkId: Uint8Array;
  transcript: Uint8Array;
  termSeed: Uint8Array;
}

/** Whether a worker's registration holds at block `number`. */
export function liveAt(worker: WorkerRecord, number: number): boolean {
  return worker.listed && !worker.removed && number < worker.expiry;
}

/** keccak256(abi.encode(chain id, Agents address, token id)): spec/encoding.md 6. */
export function agentId(chainId: number, agents: Uint8Array, tokenId: bigint): Uint8Array {
  return keccak256(uintBytes(chainId, 32), addressKey(agents), uintBytes(tokenId, 32));
}

/** The record of a 32-byte agent id; undefined if there is no such agent. */
export function readAgent(slots: Slots, agent: Uint8Array): AgentRecord | undefined {
  const table = LAYOUTS.Agents._agents;
  const at = new Struct(table, slots, mappingSlot(table.slot, needBytes("agent", agent, 32)));
  if (at.number("epoch") === 0) return undefined;
  const mode = at.number("upgradeMode");
  if (mode > UpgradeMode.FROZEN) throw BAD_RECORD("a known upgrade mode", String(mode));
  return {
    agent,
    tokenId: at.big("tokenId"),
    owner: at.address("owner"),
    guardian: at.address("guardian"),
    epoch: at.number("epoch"),
    paused: at.flag("paused"),
    codeHash: at.word("codeHash"),
    manifestHash: at.word("manifestHash"),
    cluster: at.word("cluster"),
    upgradeMode: mode,
    upgradeDelay: at.number("upgradeDelay"),
    secretsHash: at.word("secretsHash"),
    secretsVersion: at.number("secretsVersion"),
    secretsSetter: at.address("secretsSetter"),
    secretsEpoch: at.number("secretsEpoch"),
    account: at.address("account"),
    ...readCanary(slots, agent, at.number("canary")),
  };
}

/** The canary that may run at block `number`. */
export function canaryAt({ canary }: AgentRecord, number: number): Canary | undefined {
  return canary && canary.readyAt <= number ? canary : undefined;
}

/** `mark`: 0 for none, else 1 + percent; the contract writes both together. */
function readCanary(slots: Slots, agent: Uint8Array, mark: number): { canary?: Canary } {
  if (mark === 0) return {};
  const table = LAYOUTS.Agents._canaries;
  const at = new Struct(table, slots, mappingSlot(table.slot, agent));
  const [codeHash, manifestHash, share] = [at.word("codeHash"), at.word("manifestHash"), mark - 1];
  if (share > 100 || [codeHash, manifestHash].some((hash) => hash.every((byte) => byte === 0))) {
    throw BAD_RECORD("a canary with code, manifest and 0 to 100 percent", `${share} percent`);
  }
  return { canary: { codeHash, manifestHash, share, readyAt: at.number("readyAt") } };
}

/** The record of a worker address (20 bytes); undefined if it never registered. */
export function readWorker(slots: Slots, worker: Uint8Array): WorkerRecord | undefined {
  const table = LAYOUTS.Workers._workers;
  const at = new Struct(table, slots, mappingSlot(table.slot, addressKey(worker)));
  const endpoint = textOf(slots, at, "endpoint");
  const record = {
    worker,
    operator: at.address("operator"),
    vendorClass: at.word("vendorClass"),
    measurement: at.word("measurement"),
    boot: at.word("boot"),
    expiry: at.number("expiry"),
    removed: at.flag("removed"),
    listed: at.flag("listed"),
    heartbeat: at.number("heartbeat"),
    registeredAt: at.number("registeredAt"),
    endpoint,
  };
  return record.registeredAt === 0 ? undefined : record;
}

/** The record of a 32-byte cluster id; undefined if there is no such cluster. */
export function readCluster(slots: Slots, cluster: Uint8Array): ClusterRecord | undefined {
  const table = LAYOUTS.Clusters._clusters;
  const at = new Struct(table, slots, mappingSlot(table.slot, needBytes("cluster", cluster, 32)));
  if (at.number("epoch") === 0) return undefined;
  return { cluster, owner: at.address("owner"), epoch: at.number("epoch"), seats: at.number("seats") };
}

/** The committee in office. Throws ChainViewError (chainview.no_committee) before the founding is complete. */
export function readCommittee(slots: Slots): CommitteeRecord {
  const table = LAYOUTS.Gatekeepers._committee;
  const at = new Struct(table, slots, BigInt(table.slot));
  if (at.number("term") === 0) throw NO_COMMITTEE("a term", "term 0");
  const count = at.big("members");
  if (count < 1n || count > BigInt(MAX_MEMBERS)) throw BAD_RECORD(`1 to ${MAX_MEMBERS} members`, String(count));
  const first = dataSlot(at.slotOf("members"));
  const members = slots.get(Array.from({ length: Number(count) }, (_, i) => add(first, i)));
  return {
    signers: new SignerSet(at.number("term"), at.number("threshold"), members.map(addressOfWord)),
    mpk: at.words("mpk"),
    masterEpoch: at.number("masterEpoch"),
    networkId: at.word("networkId"),
    transcript: at.word("transcript"),
    termSeed: at.word("termSeed"),
  };
}

/** The vendor class (32 bytes) that each of these gatekeepers was seated with; zero where one said nothing. */
export function readVendorClasses(slots: Slots, members: readonly Uint8Array[]): Uint8Array[] {
  const table = LAYOUTS.Gatekeepers._candidates;
  const bases = members.map((member) => mappingSlot(table.slot, addressKey(member)));
  slots.get(bases.flatMap((base) => Array.from({ length: table.words }, (_, i) => add(base, i)))); // one round for all
  return bases.map((base) => {
    const at = new Struct(table, slots, base);
    return at.big("operator") === 0n ? new Uint8Array(32) : at.word("vendorClass");
  });
}

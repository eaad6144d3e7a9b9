/**
 * What a caller may demand of an agent and its workers, checked against proven state before anything is sealed.
 *
 * By default an agent whose owner may swap its code at once is refused: such an owner can read what is sent tomorrow.
 */

import { define, PolicyError } from "../errors.ts";
import { type AgentRecord, UpgradeMode } from "../chainview/records.ts";
import { equalBytes } from "../encoding/bytes.ts";
import { fromHex, toHex } from "../encoding/hexes.ts";
import { XWING_SUITE } from "../envelope/certificate.ts";
import { beside, type Resolution, type Sitting } from "./resolve.ts";

export const INSTANT = define(
  "client.demand_upgrade",
  PolicyError,
  "the agent's owner cannot swap its code at once",
  "pin the code with code_hash, or accept it: upgrade_not_instant=False, `cloister call --allow-instant`",
  403,
);
export const OTHER_CODE = define(
  "client.demand_code",
  PolicyError,
  "the agent runs the code that the caller pinned",
  "look at what changed before you pin the new hash",
  403,
);
export const TOO_SOON = define(
  "client.demand_delay",
  PolicyError,
  "a change of the agent's code waits at least as many blocks as the caller asks for",
  "ask its owner for a longer delay, which cannot be shortened again, or pin the code with code_hash",
  403,
);
export const CLASSIC_ONLY = define(
  "client.demand_post_quantum",
  PolicyError,
  "a worker that holds the agent has an X-Wing key",
  "wait until workers are updated, or accept X25519 alone: post_quantum=False",
  403,
);
export const NO_CANARY = define(
  "client.no_canary_seat",
  PolicyError,
  "a worker runs the canary that the caller pinned",
  "wait for the block from which it may run, and for the lease after it, or call the version in force",
  503,
);
export const NO_SUCH_WORKER = define(
  "client.demand_worker",
  PolicyError,
  "a worker that the caller accepts holds the agent",
  "see `cloister agent show` for the workers that hold it, and ask for less or wait",
  403,
);

/** Absent fields demand nothing. Hashes and addresses are 0x hex. */
export interface Demand {
  codeHash?: string;
  manifestHash?: string;
  /** Vendor class of the worker's hardware, such as "intel". */
  vendor?: string;
  worker?: string;
  /** Accept the upgrade rule `instant`. */
  allowInstant?: boolean;
  /** Refuse code that can change on a shorter notice, the owner's own calls too; `frozen` always passes. */
  minUpgradeBlocks?: number;
  /** Seal by X-Wing or not at all. Without it too, sessions use X-Wing with every worker that has a key for it. */
  postQuantum?: boolean;
}

/** Throw TypeError or EncodingError for a demand that means nothing: found before the network is asked. */
export function checkDemand(demand: Demand): void {
  for (const name of ["codeHash", "manifestHash"] as const) {
    if (demand[name] !== undefined) fromHex(demand[name], 32, name);
  }
  if (demand.worker !== undefined) fromHex(demand.worker.toLowerCase(), 20, "worker");
  const blocks = demand.minUpgradeBlocks ?? 0;
  if (!Number.isSafeInteger(blocks) || blocks < 0) throw new TypeError("minUpgradeBlocks is a number of blocks");
}

/** Throw PolicyError unless the agent itself meets the demand. `caller`: 20-byte address or undefined. */
export function checkRecord(demand: Demand, record: AgentRecord, caller: Uint8Array | undefined): void {
  for (const name of meansCanary(demand, record) ? [] : ["codeHash", "manifestHash"] as const) {
    const wanted = demand[name];
    if (wanted !== undefined && !equalBytes(fromHex(wanted, 32, name), record[name])) {
      throw OTHER_CODE(`${name} ${wanted}`, toHex(record[name]));
    }
  }
  const notice = record.upgradeMode === UpgradeMode.DELAYED ? record.upgradeDelay : 0;
  if (record.upgradeMode !== UpgradeMode.FROZEN && notice < (demand.minUpgradeBlocks ?? 0)) {
    throw TOO_SOON(`at least ${demand.minUpgradeBlocks} blocks, or \`frozen\``, `${notice} blocks`);
  }
  const owner = caller !== undefined && equalBytes(caller, record.owner);
  const accepted = demand.allowInstant || demand.codeHash !== undefined || owner;
  if (record.upgradeMode === UpgradeMode.INSTANT && !accepted) {
    throw INSTANT("the upgrade rule `delay` or `frozen`", "`instant`");
  }
}

/** Whether the version that a demand pins is the agent's canary, announced or running. */
export function meansCanary(demand: Demand, record: AgentRecord): boolean {
  const { canary } = record;
  return canary !== undefined && pins(demand) && !fitsVersion(demand, record) && fitsVersion(demand, canary);
}

/** Whether it names one version of the agent. */
function pins({ codeHash, manifestHash }: Demand): boolean {
  return codeHash !== undefined || manifestHash !== undefined;
}

function fitsVersion(demand: Demand, version: { codeHash: Uint8Array; manifestHash: Uint8Array }): boolean {
  return (["codeHash", "manifestHash"] as const).every((name) => {
    const wanted = demand[name];
    return wanted === undefined || equalBytes(fromHex(wanted, 32, name), version[name]);
  });
}

/** The seats of the version that is pinned, and no other. Throws client.no_canary_seat. */
function pinned(demand: Demand, resolution: Resolution): Resolution {
  if (!meansCanary(demand, resolution.record)) return { ...resolution, canaries: [] };
  const sittings = beside(resolution);
  if (sittings.length) return { ...resolution, sittings, canaries: [] };
  const ready = resolution.record.canary!.readyAt;
  throw NO_CANARY(
    "a seat of the canary",
    `none at block ${resolution.checkpoint.number}; it may run from block ${ready}`,
  );
}

/** The resolution with the seats that meet the demand. Throws PolicyError where none does. */
export function applyDemand(demand: Demand, found: Resolution, caller: Uint8Array | undefined): Resolution {
  checkRecord(demand, found.record, caller);
  const resolution = pins(demand) ? pinned(demand, found) : found;
  const worker = demand.worker === undefined ? undefined : fromHex(demand.worker.toLowerCase(), 20, "worker");
  const fits = (one: Sitting) =>
    (!demand.postQuantum || one.seat.certificate.hybrid) &&
    (demand.vendor === undefined || one.vendor === demand.vendor) && (!worker || equalBytes(one.worker.worker, worker));
  const sittings = resolution.sittings.filter(fits);
  if (sittings.length) return { ...resolution, sittings, canaries: resolution.canaries.filter(fits) };
  if (demand.postQuantum && !resolution.sittings.some((one) => one.seat.certificate.hybrid)) {
    throw CLASSIC_ONLY(`a certificate of suite ${XWING_SUITE}`, "suite 1 everywhere");
  }
  const offered = resolution.sittings.map((one) => `${one.vendor} ${toHex(one.worker.worker)}`).join(", ");
  throw NO_SUCH_WORKER([demand.vendor, demand.worker].filter(Boolean).join(" "), offered);
}

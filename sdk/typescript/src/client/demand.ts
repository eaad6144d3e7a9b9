/**
 * What a caller may demand of an agent and its workers, checked against proven state before anything is sealed.
 *
 * By default an agent whose owner may swap its code at once is refused: such an owner can read what is sent tomorrow.
 */

import { define, PolicyError } from "../errors.ts";
import { type AgentRecord, UpgradeMode } from "../chainview/records.ts";
import { equalBytes } from "../encoding/bytes.ts";
import { fromHex, toHex } from "../encoding/hexes.ts";
import type { Resolution, Sitting } from "./resolve.ts";

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
export const NO_SUCH_WORKER = define(
  "client.demand_worker",
  PolicyError,
  "a worker that the caller accepts holds the agent",
  "see `cloister agent show` for the workers that hold it, and ask for less or wait",
  403,
);

/** Absent fields demand nothing; `allowInstant` accepts the upgrade rule `instant`. Hashes and addresses are 0x hex. */
export interface Demand {
  codeHash?: string;
  manifestHash?: string;
  vendor?: string;
  worker?: string;
  allowInstant?: boolean;
}

/** Throw PolicyError unless the agent itself meets the demand. `caller`: 20-byte address or undefined. */
export function checkRecord(demand: Demand, record: AgentRecord, caller: Uint8Array | undefined): void {
  for (const name of ["codeHash", "manifestHash"] as const) {
    const wanted = demand[name];
    if (wanted !== undefined && !equalBytes(fromHex(wanted, 32, name), record[name])) {
      throw OTHER_CODE(`${name} ${wanted}`, toHex(record[name]));
    }
  }
  const owner = caller !== undefined && equalBytes(caller, record.owner);
  const accepted = demand.allowInstant || demand.codeHash !== undefined || owner;
  if (record.upgradeMode === UpgradeMode.INSTANT && !accepted) {
    throw INSTANT("the upgrade rule `delay` or `frozen`", "`instant`");
  }
}

/** The resolution with the seats that meet the demand. Throws PolicyError where none does. */
export function applyDemand(demand: Demand, resolution: Resolution, caller: Uint8Array | undefined): Resolution {
  checkRecord(demand, resolution.record, caller);
  const worker = demand.worker === undefined ? undefined : fromHex(demand.worker.toLowerCase(), 20, "worker");
  const fits = (one: Sitting) =>
    (demand.vendor === undefined || one.vendor === demand.vendor) && (!worker || equalBytes(one.worker.worker, worker));
  const sittings = resolution.sittings.filter(fits);
  if (sittings.length) return { ...resolution, sittings };
  const found = resolution.sittings.map((one) => `${one.vendor} ${toHex(one.worker.worker)}`).join(", ");
  throw NO_SUCH_WORKER([demand.vendor, demand.worker].filter(Boolean).join(" "), found);
}

/** Master epochs and terms as the Gatekeepers contract keeps them (spec/gatekeepers.md M1-M4, H4). */

import { ChainViewError, define } from "../errors.ts";
import { add, mappingSlot, numberKey } from "./layout.ts";
import { LAYOUTS } from "./layouts.ts";
import { BAD_RECORD, type Slots, Struct } from "./words.ts";

export const NOT_IN_USE = define(
  "chainview.master_epoch",
  ChainViewError,
  "a master epoch is used from its resume on, and the one before it until then (M2)",
  "wait until t gatekeepers have resumed the new epoch; `cloister gatekeeper status` shows it",
  503,
);

/** What a master epoch's key may be used for (M2-M4). */
export const EpochState = { NONE: 0, RELEASED: 1, PAUSED: 2, RESUMED: 3, DESTROYED: 4 } as const;
const NAMES = ["none", "released", "paused", "resumed", "destroyed"];

/** A master epoch: its number, its state, its key (96 bytes). */
export interface EpochRecord {
  epoch: number;
  state: number;
  mpk: Uint8Array;
}

/**
 * The master epoch whose keys leases carry now. `before`: the epoch below `newest`; undefined below the first.
 *
 * 1. the newest, once it is released or resumed; 2. until then the one before it, which was paused by the rotation and
 * whose leases run on. Throws ChainViewError (chainview.master_epoch): a key that is not resumed is used by nobody.
 */
export function inUse(newest: EpochRecord, before: EpochRecord | undefined): EpochRecord {
  if (newest.state === EpochState.RELEASED || newest.state === EpochState.RESUMED) return newest; // 1
  const waits = newest.state === EpochState.PAUSED && before?.state === EpochState.PAUSED;
  if (waits && before.epoch + 1 === newest.epoch) return before; // 2
  throw NOT_IN_USE("an epoch that was resumed", `epoch ${newest.epoch} ${NAMES[newest.state]}`);
}

/** The master epoch whose keys leases carry now: `inUse` of the newest two. Throws ChainViewError. */
export function readMaster(slots: Slots): EpochRecord {
  const table = LAYOUTS.Gatekeepers._committee;
  const number = new Struct(table, slots, BigInt(table.slot)).number("masterEpoch");
  const numbers = [number, number - 1].filter((one) => one > 0);
  slots.get(numbers.flatMap(words)); // in one proof
  return inUse(readEpoch(slots, number), number > 1 ? readEpoch(slots, number - 1) : undefined);
}

/** A master epoch; its state is NONE if there is none of that number yet. Throws ChainViewError. */
export function readEpoch(slots: Slots, epoch: number): EpochRecord {
  const at = new Struct(LAYOUTS.Gatekeepers._epochs, slots, words(epoch)[0]!);
  const state = at.number("state");
  if (state > EpochState.DESTROYED) throw BAD_RECORD("a known state of an epoch", String(state));
  return { epoch, state, mpk: at.words("mpk") };
}

/** The block that put a term in office; 0 for one that never was. */
export function readTermHeight(slots: Slots, term: number): number {
  const table = LAYOUTS.Gatekeepers._terms;
  return new Struct(table, slots, mappingSlot(table.slot, numberKey(term))).number("height");
}

function words(epoch: number): bigint[] {
  const table = LAYOUTS.Gatekeepers._epochs;
  const base = mappingSlot(table.slot, numberKey(epoch));
  return Array.from({ length: table.words }, (_, i) => add(base, i));
}

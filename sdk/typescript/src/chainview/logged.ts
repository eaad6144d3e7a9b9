/** Roots of workers' receipt logs, read from proven words of the Receipts contract (spec/receipts.md 13, 17). */

import { bigOf, uintBytes } from "../encoding/bytes.ts";
import { needBytes } from "../encoding/hexes.ts";
import { keccak256 } from "../encoding/keccak.ts";
import { add, addressKey, dataSlot, mappingSlot } from "./layout.ts";
import { LAYOUTS } from "./layouts.ts";
import { BAD_RECORD, type Slots, Struct } from "./words.ts";

const MAX_ROOTS = 1n << 32n;
const ROOTS = LAYOUTS.Receipts._roots;

/** A recorded head: `root` over the first `size` receipts of `boot`, on chain since block `atBlock`. */
export interface RootRecord {
  boot: Uint8Array;
  root: Uint8Array;
  size: number;
  atBlock: number;
}

/** How many roots of a worker (20 bytes) are recorded, of all its boots. Throws ChainViewError. */
export function readRootCount(slots: Slots, worker: Uint8Array): number {
  const count = slots.get([headOf(worker)])[0]!;
  if (count >= MAX_ROOTS) throw BAD_RECORD(`fewer than ${MAX_ROOTS} roots`, "more");
  return Number(count);
}

/** Recorded roots of a worker by number, in the order asked. Throws ChainViewError for one that is not there. */
export function readRoots(slots: Slots, worker: Uint8Array, indexes: readonly number[]): RootRecord[] {
  const start = dataSlot(headOf(worker));
  const bases = indexes.map((index) => add(start, ROOTS.words * index));
  slots.get(bases.flatMap((base) => Array.from({ length: ROOTS.words }, (_, i) => add(base, i)))); // in one proof
  const count = readRootCount(slots, worker);
  return indexes.map((index, i) => {
    if (!Number.isInteger(index) || index < 0 || index >= count) {
      throw BAD_RECORD(`a root below ${count}`, `number ${index}`);
    }
    const at = new Struct(ROOTS, slots, bases[i]!);
    return { boot: at.word("boot"), root: at.word("root"), size: at.number("size"), atBlock: at.number("atBlock") };
  });
}

/** How many receipts of a boot (32 bytes) are below its newest recorded root; 0 for none. */
export function readLoggedSize(slots: Slots, worker: Uint8Array, boot: Uint8Array): number {
  const inner = uintBytes(mappingSlot(LAYOUTS.Receipts._sizes.slot, addressKey(worker)), 32);
  const word = slots.get([bigOf(keccak256(needBytes("boot", boot, 32), inner))])[0]!;
  const size = word & ((1n << 64n) - 1n);
  if (size > BigInt(Number.MAX_SAFE_INTEGER)) throw BAD_RECORD("a size below 2^53", String(size));
  return Number(size);
}

function headOf(worker: Uint8Array): bigint {
  return mappingSlot(ROOTS.slot, addressKey(worker));
}

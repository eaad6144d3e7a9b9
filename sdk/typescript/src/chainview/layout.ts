/** Where the compiler put things: mapping and array slots, and structs as `layouts.ts` lists them. */

import { bigOf, concat, uintBytes } from "../encoding/bytes.ts";
import { needBytes, needUint } from "../encoding/hexes.ts";
import { keccak256 } from "../encoding/keccak.ts";

const WRAP = (1n << 256n) - 1n;

/** A value in a struct: slot from its start, byte offset from the right, size in bytes. */
export type Place = readonly [slot: number, offset: number, size: number];

/** A struct variable or a mapping to structs: its slot, the struct's size in slots, its fields. */
export interface Table {
  readonly slot: number;
  readonly words: number;
  readonly fields: { readonly [label: string]: Place };
}

/** Slot of a mapping's entry. `key` is the 32-byte word of a value-type key. */
export function mappingSlot(slot: number, key: Uint8Array): bigint {
  return bigOf(keccak256(needBytes("mapping key", key, 32), uintBytes(slot, 32)));
}

/** First slot of the data of a dynamic array or long string whose head is at `slot`. */
export function dataSlot(slot: bigint): bigint {
  return bigOf(keccak256(uintBytes(slot, 32)));
}

/** Slot arithmetic wraps at 2^256. */
export function add(slot: bigint, offset: number): bigint {
  return (slot + BigInt(offset)) & WRAP;
}

/** A number as a mapping key. */
export function numberKey(number: number): Uint8Array {
  return uintBytes(needUint("number", number, 64), 32);
}

/** An address as a mapping key. */
export function addressKey(address: Uint8Array): Uint8Array {
  return concat(new Uint8Array(12), needBytes("address", address, 20));
}

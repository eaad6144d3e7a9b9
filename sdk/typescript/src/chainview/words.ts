/** Typed values from proven storage words: structs, texts, addresses. */

import { ChainViewError, define } from "../errors.ts";
import { concat, fromUtf8, uintBytes } from "../encoding/bytes.ts";
import { add, dataSlot, type Place, type Table } from "./layout.ts";

const MAX_TEXT = 256;

export const BAD_RECORD = define(
  "chainview.record",
  ChainViewError,
  "a contract record has the form that the contract writes",
  "the contract at this address is not the one that this build knows; compare network.json",
);

/** Words of one contract's storage, as far as they are proven. */
export interface Slots {
  /** The words of these slots, in order. */
  get(slots: readonly bigint[]): readonly bigint[];
}

/** One struct instance, read as a whole. */
export class Struct {
  readonly #words: readonly bigint[];

  constructor(readonly table: Table, slots: Slots, readonly base: bigint) {
    this.#words = slots.get(Array.from({ length: table.words }, (_, i) => add(base, i)));
  }

  /** The field as an unsigned number; the length of an array or the head word of a text. */
  big(name: string): bigint {
    const [slot, offset, size] = this.#place(name);
    return (this.#words[slot]! >> BigInt(8 * offset)) & ((1n << BigInt(8 * Math.min(size, 32))) - 1n);
  }

  /** A field of at most 53 bits. Throws ChainViewError for a larger number: no contract of ours counts that far. */
  number(name: string): number {
    const value = this.big(name);
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw BAD_RECORD(`${name} below 2^53`, String(value));
    return Number(value);
  }

  /** A boolean field. Throws ChainViewError unless it is 0 or 1. */
  flag(name: string): boolean {
    const value = this.big(name);
    if (value > 1n) throw BAD_RECORD(`${name} as 0 or 1`, String(value));
    return value === 1n;
  }

  /** An address field: 20 bytes, zero if unset. */
  address(name: string): Uint8Array {
    return uintBytes(this.big(name), 20);
  }

  /** A bytes32 field. */
  word(name: string): Uint8Array {
    return uintBytes(this.big(name), 32);
  }

  /** A fixed array of bytes32, joined. */
  words(name: string): Uint8Array {
    const [slot, , size] = this.#place(name);
    return concat(...Array.from({ length: size / 32 }, (_, i) => uintBytes(this.#words[slot + i]!, 32)));
  }

  /** Slot of a field's head, for arrays and texts. */
  slotOf(name: string): bigint {
    return add(this.base, this.#place(name)[0]);
  }

  #place(name: string): Place {
    const place = this.table.fields[name];
    if (!place) throw new TypeError(`the contract has no field ${name}`);
    return place;
  }
}

/** A text field. Throws ChainViewError for a text over 256 bytes or not as the compiler lays it out. */
export function textOf(slots: Slots, at: Struct, name: string): string {
  const head = at.big(name);
  if ((head & 1n) === 0n) {
    const raw = uintBytes(head, 32);
    return text(raw.subarray(0, 31), raw[31]! >> 1);
  }
  const size = head >> 1n;
  if (size < 32n || size > BigInt(MAX_TEXT)) throw BAD_RECORD(`a text of at most ${MAX_TEXT} bytes`, String(size));
  const first = dataSlot(at.slotOf(name));
  const places = Array.from({ length: Math.ceil(Number(size) / 32) }, (_, i) => add(first, i));
  return text(concat(...slots.get(places).map((word) => uintBytes(word, 32))), Number(size));
}

function text(data: Uint8Array, size: number): string {
  if (size > data.length || data.subarray(size).some((byte) => byte !== 0)) {
    throw BAD_RECORD("a text with zero padding", "another form");
  }
  const found = fromUtf8(data.subarray(0, size));
  if (found === undefined) throw BAD_RECORD("text in UTF-8", "other bytes");
  return found;
}

/** The address that a whole word is: 20 bytes, not zero. Throws ChainViewError. */
export function addressOfWord(word: bigint): Uint8Array {
  if (word === 0n || word >> 160n) throw BAD_RECORD("an address", "another word");
  return uintBytes(word, 20);
}

/** Strict RLP: canonical bytes only, capped depth and size (Ethereum yellow paper, appendix B). */

import { ChainViewError, define } from "../errors.ts";
import { bigOf, concat, uintBytes } from "../encoding/bytes.ts";

/** An item is bytes or a list of items. */
export type Item = Uint8Array | Item[];
const MAX_DEPTH = 4;
const MAX_SIZE = 1 << 16;

export const BAD_RLP = define(
  "chainview.rlp",
  ChainViewError,
  "chain data is canonical RLP",
  "the endpoint sends malformed data; use another one",
);

/** Canonical bytes of an item. */
export function encode(item: Item): Uint8Array {
  if (item instanceof Uint8Array) {
    return item.length === 1 && item[0]! < 0x80 ? item : concat(head(0x80, item.length), item);
  }
  const body = concat(...item.map(encode));
  return concat(head(0xc0, body.length), body);
}

/** The item that `data` is, all of it. Throws ChainViewError (chainview.rlp). */
export function decode(data: Uint8Array, maxSize = MAX_SIZE): Item {
  if (data.length > maxSize) throw BAD_RLP(`at most ${maxSize} bytes`, `${data.length} bytes`);
  const [item, end] = itemAt(data, 0, data.length, 0);
  if (end !== data.length) throw BAD_RLP("one item", `${data.length - end} bytes after it`);
  return item;
}

/** A number of at most `size` bytes without leading zeros. Throws ChainViewError. */
export function uint(item: Item | undefined, name: string, size = 32): bigint {
  if (!(item instanceof Uint8Array) || item.length > size || item[0] === 0) {
    throw BAD_RLP(`${name} as a canonical number of at most ${size} bytes`, "another form");
  }
  return bigOf(item);
}

/** A byte string of exactly `size` bytes. Throws ChainViewError. */
export function fixed(item: Item | undefined, name: string, size: number): Uint8Array {
  if (!(item instanceof Uint8Array) || item.length !== size) throw BAD_RLP(`${name} of ${size} bytes`, "another form");
  return item;
}

function head(base: number, length: number): Uint8Array {
  if (length < 56) return Uint8Array.of(base + length);
  const size = length < 256 ? 1 : length < 65536 ? 2 : 4;
  return concat(Uint8Array.of(base + 55 + size), uintBytes(length, size));
}

function itemAt(data: Uint8Array, at: number, end: number, depth: number): [Item, number] {
  if (depth > MAX_DEPTH) throw BAD_RLP(`depth <= ${MAX_DEPTH}`, "deeper");
  const [isList, start, stop] = span(data, at, end);
  if (!isList) return [data.subarray(start, stop), stop];
  const parts: Item[] = [];
  for (let next = start; next < stop;) {
    const [part, after] = itemAt(data, next, stop, depth + 1);
    parts.push(part);
    next = after;
  }
  return [parts, stop];
}

/** Whether the item at `at` is a list, and where its content starts and stops. */
function span(data: Uint8Array, at: number, end: number): [boolean, number, number] {
  if (at >= end) throw BAD_RLP("an item", "the end");
  const first = data[at]!;
  if (first < 0x80) return [false, at, at + 1];
  const isList = first >= 0xc0;
  const short = first - (isList ? 0xc0 : 0x80);
  const [start, length] = short > 55 ? longSpan(data, at, end, short - 55) : [at + 1, short];
  const stop = start + length;
  if (stop > end) throw BAD_RLP(`${length} bytes of content`, `${end - start}`);
  if (!isList && length === 1 && data[start]! < 0x80) throw BAD_RLP("a small byte as itself", "a longer form of it");
  return [isList, start, stop];
}

function longSpan(data: Uint8Array, at: number, end: number, size: number): [number, number] {
  const start = at + 1 + size;
  if (start > end) throw BAD_RLP(`a length of ${size} bytes`, "the end");
  const length = Number(bigOf(data.subarray(at + 1, start)));
  if (length < 56 || data[at + 1] === 0) throw BAD_RLP("the shortest length", "a longer form of it");
  return [start, length];
}

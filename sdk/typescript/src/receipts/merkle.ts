/** RFC 6962 Merkle trees: what a client checks of them (spec/receipts.md 8). */

import { sha256 } from "@noble/hashes/sha2.js";
import { concat, equalBytes } from "../encoding/bytes.ts";
import { needBytes, needUint } from "../encoding/hexes.ts";
import { define, ReceiptError } from "../errors.ts";

/** No tree has longer paths. */
export const MAX_PATH = 64;

export const NOT_INCLUDED = define(
  "receipt.not_included",
  ReceiptError,
  "the path leads from the receipt to the signed root",
  "do not trust the answer; ask for the proof again: it is of another receipt or another tree",
  403,
);

/** SHA-256(0x00 ‖ entry). */
export function leafHash(entry: Uint8Array): Uint8Array {
  return sha256(concat(Uint8Array.of(0), entry));
}

/** SHA-256(0x01 ‖ left ‖ right). */
export function nodeHash(left: Uint8Array, right: Uint8Array): Uint8Array {
  return sha256(concat(Uint8Array.of(1), left, right));
}

/**
 * The root that a path leads to (RFC 9162 2.1.3.2). Throws ReceiptError (receipt.not_included).
 *
 * 1. sizes and hashes in form; 2. index within the tree; 3. exactly as many hashes as this place needs.
 */
export function rootFromPath(
  leaf: Uint8Array,
  index: number,
  size: number,
  path: readonly Uint8Array[],
): Uint8Array {
  inForm(index, size, path); // 1
  if (index >= size) throw NOT_INCLUDED(`an index below ${size}`, String(index)); // 2
  let [at, last, found] = [index, size - 1, leaf];
  for (const sibling of path) {
    if (last === 0) throw NOT_INCLUDED("a shorter path", `${path.length} hashes`); // 3
    if (at % 2 === 1 || at === last) {
      found = nodeHash(sibling, found);
      while (at % 2 === 0 && at !== 0) [at, last] = [half(at), half(last)];
    } else {
      found = nodeHash(found, sibling);
    }
    [at, last] = [half(at), half(last)];
  }
  if (last !== 0) throw NOT_INCLUDED("a longer path", `${path.length} hashes`); // 3
  return found;
}

/** Throw ReceiptError (receipt.not_included) unless `leaf` is leaf `index` of the tree with this root. */
export function verifyInclusion(
  leaf: Uint8Array,
  index: number,
  size: number,
  path: readonly Uint8Array[],
  root: Uint8Array,
): void {
  if (!equalBytes(rootFromPath(leaf, index, size, path), root)) throw NOT_INCLUDED("the signed root", "another");
}

function half(value: number): number {
  return Math.floor(value / 2); // sizes may exceed 32 bits
}

function inForm(index: number, size: number, path: readonly Uint8Array[]): void {
  if (path.length > MAX_PATH + 2) throw NOT_INCLUDED(`at most ${MAX_PATH} hashes`, String(path.length));
  needUint("a size or index", index);
  needUint("a size or index", size);
  for (const one of path) needBytes("a hash of a path", one, 32);
}

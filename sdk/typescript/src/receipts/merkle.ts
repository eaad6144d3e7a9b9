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

export const NOT_CONSISTENT = define(
  "receipt.not_consistent",
  ReceiptError,
  "the newer log begins with the whole older one",
  "keep both signed heads: together they show that the worker forked or shortened its log",
  403,
);
const EMPTY_ROOT = sha256(new Uint8Array(0));

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

/**
 * Throw ReceiptError (receipt.not_consistent) unless the new tree begins with the old (RFC 9162 2.1.4.2).
 *
 * 1. form; 2. it does not shrink; 3. an empty old tree proves nothing and has the empty root; 4. equal sizes have equal
 * roots and no path; 5. the path leads to both roots, with exactly as many hashes as these sizes need.
 */
export function verifyConsistency(
  old: number,
  oldRoot: Uint8Array,
  now: number,
  newRoot: Uint8Array,
  path: readonly Uint8Array[],
): void {
  inForm(old, now, path); // 1
  for (const one of [oldRoot, newRoot]) needBytes("a root", one, 32);
  if (now < old) throw NOT_CONSISTENT(`at least ${old} receipts`, String(now)); // 2
  if (old === 0) needRoot(oldRoot, EMPTY_ROOT); // 3
  else if (old === now) needRoot(oldRoot, newRoot); // 4
  if (old === 0 || old === now) {
    if (path.length) throw NOT_CONSISTENT("no path", `${path.length} hashes`);
    return;
  }
  const [left, right] = bothRoots(old, now, powerOfTwo(old) ? [oldRoot, ...path] : path); // 5
  needRoot(left, oldRoot);
  needRoot(right, newRoot);
}

function bothRoots(old: number, now: number, hashes: readonly Uint8Array[]): [Uint8Array, Uint8Array] {
  let [at, last] = [old - 1, now - 1];
  while (at % 2 === 1) [at, last] = [half(at), half(last)];
  const [first, ...rest] = hashes;
  if (!first) throw NOT_CONSISTENT("a path", "none");
  let [left, right] = [first, first];
  for (const sibling of rest) {
    if (last === 0) throw NOT_CONSISTENT("a shorter path", `${hashes.length} hashes`);
    if (at % 2 === 1 || at === last) {
      [left, right] = [nodeHash(sibling, left), nodeHash(sibling, right)];
      while (at % 2 === 0 && at !== 0) [at, last] = [half(at), half(last)];
    } else {
      right = nodeHash(right, sibling);
    }
    [at, last] = [half(at), half(last)];
  }
  if (last !== 0) throw NOT_CONSISTENT("a longer path", `${hashes.length} hashes`);
  return [left, right];
}

function needRoot(found: Uint8Array, wanted: Uint8Array): void {
  if (!equalBytes(found, wanted)) throw NOT_CONSISTENT("the roots of both heads", "another");
}

function powerOfTwo(value: number): boolean {
  const big = BigInt(value); // sizes may exceed 32 bits
  return (big & (big - 1n)) === 0n;
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

/** Account and storage proofs against a state root (EIP-1186; spec/chainview.md 2). Strict in every byte. */

import { ChainViewError, define } from "../errors.ts";
import { concat, equalBytes, uintBytes } from "../encoding/bytes.ts";
import { needBytes, toHex } from "../encoding/hexes.ts";
import { keccak256 } from "../encoding/keccak.ts";
import { BAD_RLP, decode, fixed, type Item, uint } from "./rlp.ts";

export const MAX_NODES = 65;
export const MAX_NODE = 1024;
const EMPTY_ROOT = keccak256(Uint8Array.of(0x80));

export const BAD_PROOF = define(
  "chainview.proof",
  ChainViewError,
  "a storage or account proof leads from the checkpoint's state root to the value",
  "the endpoint lies, is behind, or has pruned the block; use another one",
);

/** A proven account: both hashes are 32 bytes, balance is in wei. */
export interface Account {
  nonce: bigint;
  balance: bigint;
  storageRoot: Uint8Array;
  codeHash: Uint8Array;
}

/** The account at `address` (20 bytes), or undefined if the proof shows that there is none. Throws ChainViewError. */
export function verifyAccount(
  stateRoot: Uint8Array,
  address: Uint8Array,
  nodes: readonly Uint8Array[],
): Account | undefined {
  const value = verifyTrie(stateRoot, keccak256(needBytes("address", address, 20)), nodes);
  if (value === undefined) return undefined;
  const parts = decode(value, MAX_NODE);
  if (parts instanceof Uint8Array || parts.length !== 4) throw BAD_PROOF("an account of four fields", "another value");
  return {
    nonce: uint(parts[0], "nonce", 8),
    balance: uint(parts[1], "balance"),
    storageRoot: fixed(parts[2], "storage root", 32),
    codeHash: fixed(parts[3], "code hash", 32),
  };
}

/** The word in a storage slot; 0 if the proof shows that it is unset. Throws ChainViewError. */
export function verifySlot(storageRoot: Uint8Array, slot: bigint, nodes: readonly Uint8Array[]): bigint {
  const value = verifyTrie(storageRoot, keccak256(uintBytes(slot, 32)), nodes);
  return value === undefined ? 0n : uint(decode(value, 40), "storage word");
}

/**
 * The value under a 32-byte key of the trie with this root; undefined for proven absence.
 *
 * 1. sizes; 2. an empty trie has no nodes; 3. each node hashes to what its parent says; 4. the path follows the key;
 * 5. every node given was used. Throws ChainViewError.
 */
export function verifyTrie(
  root: Uint8Array,
  key: Uint8Array,
  nodes: readonly Uint8Array[],
): Uint8Array | undefined {
  needBytes("trie root", root, 32);
  needBytes("trie key", key, 32);
  if (nodes.length > MAX_NODES || nodes.some((n) => n.length === 0 || n.length > MAX_NODE)) { // 1
    throw BAD_PROOF(`at most ${MAX_NODES} nodes of at most ${MAX_NODE} bytes`, "more or larger");
  }
  if (equalBytes(root, EMPTY_ROOT)) return emptyTrie(nodes); // 2
  const walk = new Walk(nodes);
  const value = walk.follow(root, nibblesOf(key));
  if (walk.used !== nodes.length) throw BAD_PROOF(`${walk.used} nodes on the path`, `${nodes.length} nodes`); // 5
  return value;
}

function emptyTrie(nodes: readonly Uint8Array[]): undefined {
  const all = concat(...nodes);
  if (nodes.length > 1 || (nodes.length === 1 && !equalBytes(all, Uint8Array.of(0x80)))) {
    throw BAD_PROOF("no nodes for an empty trie", `${nodes.length}`);
  }
  return undefined;
}

/** One descent; `used` counts the nodes it took from the list. */
class Walk {
  used = 0;

  constructor(readonly nodes: readonly Uint8Array[]) {}

  follow(root: Uint8Array, key: Uint8Array): Uint8Array | undefined {
    let [node, path] = [this.#take(root), key];
    for (;;) {
      const step = node.length === 17 ? branch(node, path) : short(node, path); // 4
      if ("value" in step) return step.value;
      if (step.child instanceof Uint8Array && step.child.length === 0) return undefined;
      path = step.path;
      node = this.#node(step.child);
    }
  }

  #node(child: Item): Item[] {
    if (!(child instanceof Uint8Array)) return shaped(child); // a node shorter than 32 bytes stands in its parent
    return this.#take(fixed(child, "child hash", 32));
  }

  #take(expected: Uint8Array): Item[] {
    const raw = this.nodes[this.used];
    const wanted = `a node with hash ${toHex(expected).slice(0, 18)}…`;
    if (raw === undefined) throw BAD_PROOF(wanted, "the end of the proof");
    if (!equalBytes(keccak256(raw), expected)) throw BAD_PROOF(wanted, "another node"); // 3
    this.used += 1;
    const node = decode(raw, MAX_NODE);
    if (node instanceof Uint8Array) throw BAD_PROOF("a list as a node", "a byte string");
    return shaped(node);
  }
}

type Step = { value: Uint8Array | undefined } | { child: Item; path: Uint8Array };

function branch(node: Item[], path: Uint8Array): Step {
  const value = node[16]!; // keys have one length: no value ends inside a branch
  if (path.length === 0 || !(value instanceof Uint8Array) || value.length !== 0) {
    throw BAD_PROOF("a branch without a value", "one with a value or past the key");
  }
  return { child: node[path[0]!]!, path: path.subarray(1) };
}

function short(node: Item[], path: Uint8Array): Step {
  const [isLeaf, prefix] = compact(node[0]!);
  if (isLeaf) return { value: leaf(node, prefix, path) };
  if (!equalBytes(path.subarray(0, prefix.length), prefix)) return { value: undefined };
  return { child: node[1]!, path: path.subarray(prefix.length) };
}

function leaf(node: Item[], prefix: Uint8Array, path: Uint8Array): Uint8Array | undefined {
  if (prefix.length !== path.length) {
    throw BAD_PROOF(`a leaf at depth ${64 - path.length} with the rest of a key`, "another length");
  }
  if (!equalBytes(prefix, path)) return undefined;
  const value = node[1]!;
  if (!(value instanceof Uint8Array) || value.length === 0) throw BAD_PROOF("a value in the leaf", "none");
  return value;
}

function shaped(node: Item[]): Item[] {
  if (node.length !== 2 && node.length !== 17) throw BAD_PROOF("a node of 2 or 17 items", `${node.length} items`);
  return node;
}

/** Hex-prefix decoding: whether it ends in a leaf, and the nibbles. */
function compact(item: Item): [boolean, Uint8Array] {
  if (!(item instanceof Uint8Array) || item.length === 0 || item.length > 33) {
    throw BAD_RLP("a compact path", "another form");
  }
  const nibbles = nibblesOf(item);
  const [flag, odd] = [nibbles[0]!, (nibbles[0]! & 1) === 1];
  if (flag > 3 || (!odd && nibbles[1] !== 0)) {
    throw BAD_RLP("a compact path with a known flag and zero padding", `flag ${flag}`);
  }
  const prefix = nibbles.subarray(odd ? 1 : 2);
  if (flag < 2 && prefix.length === 0) throw BAD_RLP("an extension of at least one nibble", "an empty one");
  return [flag >= 2, prefix];
}

function nibblesOf(data: Uint8Array): Uint8Array {
  return Uint8Array.from({ length: 2 * data.length }, (_, i) => (i % 2 ? data[i >> 1]! & 15 : data[i >> 1]! >> 4));
}

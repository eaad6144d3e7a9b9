/** What tests share: vectors, refusals by code, a deterministic random source. */

import assert from "node:assert/strict";
import { CloisterError } from "../src/errors.ts";
import type { Rng } from "../src/encoding/bytes.ts";
import { sha256 } from "@noble/hashes/sha2.js";
import { utf8 } from "../src/encoding/bytes.ts";

export { assert };

/** A file of spec/vectors. */
// deno-lint-ignore no-explicit-any
export function vectors(name: string): any {
  return JSON.parse(Deno.readTextFileSync(new URL(`../../../spec/vectors/${name}`, import.meta.url)));
}

/** The error that `work` throws must have this code. */
export function refuses(code: string, work: () => unknown): CloisterError {
  try {
    work();
  } catch (error) {
    return isRefusal(code, error);
  }
  throw new assert.AssertionError({ message: `expected ${code}, but nothing was thrown` });
}

/** `refuses` for promises. */
export async function rejects(code: string, work: () => Promise<unknown>): Promise<CloisterError> {
  try {
    await work();
  } catch (error) {
    return isRefusal(code, error);
  }
  throw new assert.AssertionError({ message: `expected ${code}, but nothing was thrown` });
}

function isRefusal(code: string, error: unknown): CloisterError {
  if (!(error instanceof CloisterError)) throw error;
  assert.equal(error.code, code);
  for (const text of [error.check, error.expected, error.found, error.remedy]) assert.ok(text.length > 0);
  return error;
}

/** SHA-256 of seed and counter, again and again: the same bytes in every run. */
export function stream(seed: string): Rng {
  let calls = 0;
  return (size) => {
    const out = new Uint8Array(size);
    for (let at = 0; at < size; at += 32) out.set(sha256(utf8(`${seed}/${calls++}`)).subarray(0, size - at), at);
    return out;
  };
}

/** A copy with one bit of one byte changed. */
export function flipped(data: Uint8Array, at: number, bit = 0): Uint8Array<ArrayBuffer> {
  const copy = new Uint8Array(data);
  copy[at]! ^= 1 << bit;
  return copy;
}

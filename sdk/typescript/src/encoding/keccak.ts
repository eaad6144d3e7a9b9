/** Keccak-256 as the EVM uses it (not SHA3-256: other padding). */

import { keccak_256 } from "@noble/hashes/sha3.js";
import { concat } from "./bytes.ts";

/** Keccak-256 of the joined parts. 32 bytes. */
export function keccak256(...parts: readonly Uint8Array[]): Uint8Array {
  return keccak_256(concat(...parts));
}

/** Salted commitments to what was asked and answered (spec/receipts.md 3). */

import { sha256 } from "@noble/hashes/sha2.js";
import { u64, uintBytes } from "../encoding/bytes.ts";
import { Context, digest, frame } from "../encoding/contexts.ts";
import * as jcs from "../encoding/jcs.ts";
import type { Headers } from "../envelope/model.ts";
import type { Context as SealedContext } from "../keys/hpke.ts";

/** The salt of request `seq` in its sealed context: caller and worker know it, nobody else. 32 bytes. */
export function receiptSalt(context: SealedContext, seq: number): Uint8Array {
  return context.export(frame(Context.RECEIPT, u64(seq)), 32);
}

/** Commitment to the head's exact bytes and the body. 32 bytes. */
export function requestCommitment(salt: Uint8Array, head: Uint8Array, body: Uint8Array): Uint8Array {
  return digest(Context.RECEIPT_REQUEST, salt, head, sha256(body));
}

/** Commitment to status, headers and the SHA-256 of the body. 32 bytes. */
export function responseCommitment(
  salt: Uint8Array,
  status: number,
  headers: Headers,
  bodyHash: Uint8Array,
): Uint8Array {
  return digest(Context.RECEIPT_RESPONSE, salt, uintBytes(status, 2), jcs.encode(headers), bodyHash);
}

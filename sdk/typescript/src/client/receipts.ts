/** A receipt as it is kept: the same object as one line of `cloister receipts`, so either can check the other's. */

import { toHex } from "../encoding/hexes.ts";
import { fromUtf8 } from "../encoding/bytes.ts";
import type { Seat } from "../envelope/certificate.ts";
import type { BatchPath } from "../receipts/batch.ts";
import type { Json } from "../encoding/jcs.ts";

/** JSON-ready {receipt (text), signature, salt, seat, at}, and batch if it was signed in one: `cloister verify receipt FILE` reads it. */
export interface Kept {
  receipt: string;
  signature: string;
  salt: string;
  seat: { [name: string]: Json };
  at: number;
  batch?: { [name: string]: Json };
}

/** Put one together. `at`: Unix seconds. */
export function kept(
  receipt: Uint8Array,
  signature: Uint8Array,
  salt: Uint8Array,
  seat: Seat,
  at: number,
  batch?: BatchPath,
): Kept {
  return {
    receipt: fromUtf8(receipt) ?? "",
    signature: toHex(signature),
    salt: toHex(salt),
    seat: seat.toJson(),
    at: Math.floor(at),
    ...(batch ? { batch: batch.toJson() } : {}),
  };
}

/** A receipt as it is kept: the same object as one line of `cloister receipts`, so either can check the other's. */

import { isObject } from "../errors.ts";
import { fromUtf8, utf8 } from "../encoding/bytes.ts";
import { fromHex, needFields, needUint, toHex } from "../encoding/hexes.ts";
import { type Json, parse } from "../encoding/jcs.ts";
import { Seat } from "../envelope/certificate.ts";
import { BatchPath } from "../receipts/batch.ts";
import { LogProof } from "../receipts/log.ts";
import { MAX_RECEIPT } from "../receipts/receipt.ts";

const MAX_LINE = 1 << 20;

/** A kept receipt, parsed and not verified. `raw`: its canonical bytes; `proof`: its place in a witnessed log. */
export interface KeptReceipt {
  raw: Uint8Array;
  signature: Uint8Array;
  salt: Uint8Array;
  seat: Seat;
  at: number;
  batch?: BatchPath;
  proof?: LogProof;
}

/** JSON-ready {receipt (text), signature, salt, seat, at}, batch if it was signed in one, proof if one was fetched: `cloister verify receipt FILE` reads it. */
export interface Kept {
  receipt: string;
  signature: string;
  salt: string;
  seat: { [name: string]: Json };
  at: number;
  batch?: { [name: string]: Json };
  proof?: { [name: string]: Json };
}

/** Parse a kept receipt: an object, or the text of one line or file. Throws EncodingError, ReceiptError. */
export function parseKept(value: unknown): KeptReceipt {
  const found = typeof value === "string" ? parse(utf8(value.slice(0, MAX_LINE + 1))) : value;
  const more = ["batch", "proof"].filter((name) => isObject(found) && name in found);
  const data = needFields("kept receipt", found, ["receipt", "signature", "salt", "seat", "at", ...more]);
  return {
    raw: utf8(String(data["receipt"]).slice(0, MAX_RECEIPT + 1)),
    signature: fromHex(data["signature"], 65, "signature"),
    salt: fromHex(data["salt"], 32, "salt"),
    seat: Seat.fromJson(data["seat"]),
    at: needUint("at", data["at"]),
    ...(more.includes("batch") && { batch: BatchPath.fromJson(data["batch"]) }),
    ...(more.includes("proof") && { proof: LogProof.fromJson(data["proof"]) }),
  };
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

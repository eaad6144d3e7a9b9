/** A receipt's place in what a worker signed (spec/receipts.md 9). */

import { concat, u64 } from "../encoding/bytes.ts";
import { Context, digest } from "../encoding/contexts.ts";
import { fromHex, needBytes, needFields, needUint, toHex } from "../encoding/hexes.ts";
import type { Json } from "../encoding/jcs.ts";
import { define, ReceiptError } from "../errors.ts";
import { leafHash, rootFromPath } from "./merkle.ts";
import type { Receipt } from "./receipt.ts";

export const MAX_BATCH = 1024;
const MAX_BATCH_PATH = 10;

export const NOT_A_BATCH = define(
  "receipt.batch",
  ReceiptError,
  "a batch has 2 to 1024 consecutive receipts, and this one's number is among them",
  "do not trust the answer: the path is of another receipt",
  403,
);

/** Number of the batch's first receipt, size of the batch, path to its root. */
export class BatchPath {
  constructor(readonly first: number, readonly size: number, readonly path: readonly Uint8Array[]) {
    needUint("first", first);
    needUint("size", size);
    if (size < 2 || size > MAX_BATCH || path.length > MAX_BATCH_PATH) {
      throw NOT_A_BATCH(`2 to ${MAX_BATCH} receipts`, `${size}, path of ${path.length}`);
    }
    for (const one of path) needBytes("a hash of a path", one, 32);
  }

  /** Parse {first, path, size}. Throws EncodingError, ReceiptError (receipt.batch). */
  static fromJson(value: unknown): BatchPath {
    const data = needFields("batch", value, ["first", "path", "size"]);
    return new BatchPath(
      needUint("first", data["first"]),
      needUint("size", data["size"]),
      hashesFrom(data["path"], MAX_BATCH_PATH),
    );
  }

  /** JSON-ready {first, path, size}. */
  toJson(): { [name: string]: Json } {
    return { first: this.first, path: toHex(concat(...this.path)), size: this.size };
  }

  /** What the worker signed if this path is true. Throws ReceiptError: batch, not_included. 32 bytes. */
  digest(receipt: Receipt): Uint8Array {
    const index = receipt.seq - this.first;
    if (index < 0 || index >= this.size) {
      throw NOT_A_BATCH(`a number in ${this.first}..${this.first + this.size - 1}`, String(receipt.seq));
    }
    const root = rootFromPath(leafHash(receipt.id), index, this.size, this.path);
    return batchDigest(receipt.boot, this.first, this.size, root);
  }
}

/** digest(RECEIPT_BATCH, boot 32, u64 first, u64 size, root 32). 32 bytes. */
export function batchDigest(boot: Uint8Array, first: number, size: number, root: Uint8Array): Uint8Array {
  return digest(Context.RECEIPT_BATCH, boot, u64(first), u64(size), root);
}

/** Hashes written one after the other in hex. Throws EncodingError; receipt.batch for a piece of a hash. */
export function hashesFrom(text: unknown, limit: number): Uint8Array[] {
  const data = fromHex(text, undefined, "path", 32 * limit);
  if (data.length % 32) throw NOT_A_BATCH("whole hashes of 32 bytes", `${data.length} bytes`);
  return Array.from({ length: data.length / 32 }, (_, i) => data.slice(32 * i, 32 * i + 32));
}

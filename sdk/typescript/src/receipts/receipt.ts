/** Receipts: what ran, where, on what (spec/receipts.md 1, 2). One proves who signed, not that the answer is true. */

import { CloisterError, define, ReceiptError } from "../errors.ts";
import { Context, digest } from "../encoding/contexts.ts";
import { fromHex, needFields, needUint, needVersion } from "../encoding/hexes.ts";
import * as jcs from "../encoding/jcs.ts";

export const MAX_RECEIPT = 4096;
const VERSION = 2;
const KINDS: readonly string[] = ["local", "endorsed", "none"];
const BYTES = {
  network: 32,
  agent: 32,
  code_hash: 32,
  manifest_hash: 32,
  worker: 20,
  boot: 32,
  prev: 32,
  request_id: 16,
  request: 32,
  response: 32,
} as const;
const NUMBERS = ["seq", "status", "checkpoint", "host_time_ms"] as const;
const EPOCHS = ["master", "cluster", "agent"] as const;
const USED = [
  "cpu_us",
  "duration_us",
  "egress_bytes",
  "ingress_bytes",
  "memory_peak_bytes",
  "request_bytes",
  "response_bytes",
] as const;

export const MALFORMED = define(
  "receipt.malformed",
  ReceiptError,
  "the receipt is canonical JSON with exactly the fields of spec/receipts.md",
  "ask the worker for the receipt again; a damaged one proves nothing",
);

type ByteFields = { readonly [N in keyof typeof BYTES]: Uint8Array };
type NumberFields = { readonly [N in (typeof NUMBERS)[number]]: number };

/** One call's receipt, by its wire names. `host_time_ms` is the host's clock and proves nothing. */
export interface Receipt extends ByteFields, NumberFields {
  readonly epochs: { readonly [N in (typeof EPOCHS)[number]]: number };
  readonly state: { readonly before: Uint8Array; readonly after: Uint8Array; readonly kind: string };
  readonly usage: { readonly [N in (typeof USED)[number]]: number };
  /** The canonical bytes. */
  readonly encoded: Uint8Array;
  /** digest(RECEIPT, bytes): what the worker signs. */
  readonly id: Uint8Array;
}

/** What a caller knows of its own call: request id (16 bytes), status, and its own two commitments. */
export interface Exchange {
  requestId: Uint8Array;
  status: number;
  request: Uint8Array;
  response: Uint8Array;
}

/** Parse canonical bytes. Throws ReceiptError (receipt.malformed). */
export function decodeReceipt(data: Uint8Array): Receipt {
  try {
    return parsed(jcs.decode(data, MAX_RECEIPT), data);
  } catch (error) {
    if (error instanceof ReceiptError || !(error instanceof CloisterError)) throw error;
    throw MALFORMED(error.expected, error.found);
  }
}

function parsed(value: unknown, encoded: Uint8Array): Receipt {
  const data = needFields("receipt", value, ["v", "epochs", "state", "usage", ...Object.keys(BYTES), ...NUMBERS]);
  needVersion("receipt", data["v"], VERSION);
  const epochs = needFields("epochs", data["epochs"], EPOCHS);
  const state = needFields("state", data["state"], ["before", "after", "kind"]);
  const usage = needFields("usage", data["usage"], USED);
  const kind = state["kind"];
  if (typeof kind !== "string" || !KINDS.includes(kind)) {
    throw MALFORMED(`a state kind of ${KINDS.join(", ")}`, String(kind).slice(0, 40));
  }
  const bytes = Object.entries(BYTES).map(([name, size]) => [name, fromHex(data[name], size, name)] as const);
  return {
    ...(Object.fromEntries(bytes) as unknown as ByteFields),
    ...(numbers(data, NUMBERS) as NumberFields),
    epochs: numbers(epochs, EPOCHS) as Receipt["epochs"],
    state: { before: fromHex(state["before"], 32, "before"), after: fromHex(state["after"], 32, "after"), kind },
    usage: numbers(usage, USED) as Receipt["usage"],
    encoded,
    id: digest(Context.RECEIPT, encoded),
  };
}

function numbers(data: Record<string, unknown>, names: readonly string[]): Record<string, number> {
  return Object.fromEntries(names.map((name) => [name, needUint(name, data[name])]));
}

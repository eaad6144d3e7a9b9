/** What comes back from a call: the answer, its receipt, and what was checked on the way. */

import { define, EnvelopeError } from "../errors.ts";
import { fromUtf8 } from "../encoding/bytes.ts";
import { toHex } from "../encoding/hexes.ts";
import { parse } from "../encoding/jcs.ts";
import type { Headers as Pairs } from "../envelope/model.ts";
import type { Receipt } from "../receipts/receipt.ts";

export const NOT_JSON = define(
  "client.not_json",
  EnvelopeError,
  "the agent answered with JSON",
  "look at reply.body and reply.headers; the agent answers in another format",
);

/** What the client verified before it believed the answer: signed by hardware attested as `vendor`, not: true. */
export interface Proof {
  network: Uint8Array;
  agent: Uint8Array;
  code_hash: Uint8Array;
  manifest_hash: Uint8Array;
  worker: Uint8Array;
  boot: Uint8Array;
  vendor: string;
  measurement: Uint8Array;
  checkpoint: number;
  lease_expiry: number;
  committee: number;
  receipt_id: Uint8Array;
}

/** A proof or another flat object JSON-ready, bytes as hex. */
export function proofToJson(proof: Proof): Record<string, string | number> {
  const plain = (value: unknown) => (value instanceof Uint8Array ? toHex(value) : (value as string | number));
  return Object.fromEntries(Object.entries(proof).map(([name, value]) => [name, plain(value)]));
}

/** A verified answer. `receipt` was checked against what was sent and received; `attempts` counts workers. */
export class Reply {
  constructor(
    readonly status: number,
    readonly headers: Pairs,
    readonly body: Uint8Array,
    readonly receipt: Receipt,
    readonly proof: Proof,
    readonly requestId: string,
    readonly attempts: number,
  ) {}

  /** Whether the agent's status is 2xx. */
  get ok(): boolean {
    return this.status >= 200 && this.status < 300;
  }

  /** The last value of a header, or undefined. */
  header(name: string): string | undefined {
    return this.headers.findLast(([found]) => found === name.toLowerCase())?.[1];
  }

  /** The body as text; what is not UTF-8 becomes a replacement character. */
  get text(): string {
    return fromUtf8(this.body) ?? new TextDecoder().decode(this.body);
  }

  /** The body as JSON. Throws EnvelopeError (client.not_json). */
  json(): unknown {
    const value = parse(this.body);
    if (value !== undefined) return value;
    throw NOT_JSON("a JSON body", `${this.body.length} bytes of ${this.header("content-type") ?? "no content type"}`);
  }
}

/**
 * Several workers on hardware of several vendors give the same answer, or the caller gets none.
 *
 * One broken worker then cannot lie, and neither can one vendor's broken hardware. Only for requests that change
 * nothing: each worker runs the agent by itself.
 */

import { sha256 } from "@noble/hashes/sha2.js";
import { CloisterError, define, PolicyError, ReceiptError } from "../errors.ts";
import { equalBytes } from "../encoding/bytes.ts";
import { toHex } from "../encoding/hexes.ts";
import { type Check, SAFE_METHODS } from "./call.ts";
import type { Reply } from "./reply.ts";
import type { Resolution, Sitting } from "./resolve.ts";

const MAX_AGREEING = 16;

export const TOO_FEW = define(
  "client.too_few_to_agree",
  PolicyError,
  "enough workers hold the agent, on hardware of enough vendors, to compare their answers",
  "ask for fewer workers or vendors, or ask the agent's owner for a cluster with more seats",
  503,
);
export const DISAGREE = define(
  "client.disagree",
  ReceiptError,
  "all workers that were asked gave the same status and the same body",
  "trust none of them: the agent is not deterministic, or a worker lies. The receipts name them",
  502,
);

/** Replies of distinct workers: the same status and body in each, every one with its own verified receipt. */
export class Agreement {
  constructor(readonly replies: readonly Reply[]) {}

  /** What they all said. */
  get status(): number {
    return this.replies[0]!.status;
  }

  /** What they all said. */
  get body(): Uint8Array {
    return this.replies[0]!.body;
  }

  /** The vendor classes behind the answer. */
  get vendors(): Set<string> {
    return new Set(this.replies.map((reply) => reply.proof.vendor));
  }
}

/** Throw TypeError for a method that may change something: it would happen once per worker. */
export function requireSafe(method: string): void {
  if (!SAFE_METHODS.includes(method)) {
    throw new TypeError(`agreement is for ${SAFE_METHODS.join(", ")}: anything else would happen several times`);
  }
}

/** The workers to ask, one of each vendor class in turn. Throws PolicyError (client.too_few_to_agree). */
export function choose(sittings: readonly Sitting[], workers: number, vendors: number): Sitting[] {
  const distinct = [...new Map(sittings.map((one) => [toHex(one.worker.worker), one])).values()];
  const rows = new Map<string, Sitting[]>();
  for (const one of distinct) rows.set(one.vendor, [...(rows.get(one.vendor) ?? []), one]);
  if (distinct.length < workers || rows.size < vendors) {
    const found = `${distinct.length} workers of ${rows.size} vendor classes`;
    throw TOO_FEW(`${workers} workers of ${vendors} vendor classes`, found);
  }
  const depth = Math.max(...[...rows.values()].map((row) => row.length));
  return Array.from({ length: depth }, (_, at) => [...rows.values()].flatMap((row) => row.slice(at, at + 1))).flat();
}

/**
 * Equal answers of `workers` workers of at least `vendors` vendor classes. `one`: a call of its own, with its check.
 *
 * 1. enough of them hold the agent; 2. each is asked by itself, with a request id of its own; one that does not answer
 * is replaced while others are left; 3. those that answered still span the vendors; 4. all said the same.
 * Throws PolicyError (client.too_few_to_agree), ReceiptError (client.disagree), and what a call throws if too few
 * answered.
 */
export async function agree(
  resolution: Resolution,
  check: Check,
  one: (check: Check) => Promise<Reply>,
  workers: number,
  vendors: number,
): Promise<Agreement> {
  const whole = Number.isInteger(workers) && Number.isInteger(vendors);
  if (!whole || workers < 2 || workers > MAX_AGREEING || vendors < 1 || vendors > workers) {
    throw new TypeError(`workers is 2 to ${MAX_AGREEING}, vendors 1 to workers`);
  }
  const waiting = choose(resolution.sittings, workers, vendors); // 1
  const [answered, failed]: [Reply[], CloisterError[]] = [[], []];
  while (answered.length < workers && waiting.length) { // 2
    const now = waiting.splice(0, workers - answered.length);
    for (const outcome of await Promise.all(now.map((sitting) => ask(sitting, check, one)))) {
      if (outcome instanceof CloisterError) failed.push(outcome);
      else answered.push(outcome);
    }
  }
  if (answered.length < workers) throw failed[0]!;
  const made = new Agreement(answered);
  if (made.vendors.size < vendors) { // 3
    throw failed[0] ?? TOO_FEW(`${vendors} vendor classes`, String(made.vendors.size));
  }
  const same = answered.every(({ status, body }) => status === made.status && equalBytes(body, made.body));
  if (!same) throw DISAGREE("one answer", answered.map(said).join(", ")); // 4
  return made;
}

/** The seats of one worker among those that the caller accepts now, and its answer or refusal. */
async function ask(
  { worker: { worker } }: Sitting,
  check: Check,
  one: (check: Check) => Promise<Reply>,
): Promise<Reply | CloisterError> {
  const only: Check = (resolution) => {
    const sittings = resolution.sittings.filter((other) => equalBytes(other.worker.worker, worker));
    if (!sittings.length) throw TOO_FEW(`worker ${toHex(worker)} on the agent`, "it left");
    return check({ ...resolution, sittings });
  };
  try {
    return await one(only);
  } catch (error) {
    if (error instanceof CloisterError) return error;
    throw error;
  }
}

/** A worker, its status and a hash of its body: an answer is not repeated in an error text. */
function said({ proof, status, body }: Reply): string {
  return `${toHex(proof.worker).slice(0, 10)} ${status} ${toHex(sha256(body)).slice(2, 10)}`;
}

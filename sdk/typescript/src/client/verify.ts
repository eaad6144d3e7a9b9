/**
 * Receipts that were kept, judged again: by what was saved with them, by the chain, or from one file (spec/receipts.md
 * 4, 14, 17, 18).
 *
 * Each step throws under the code that the Python client's report has at that step.
 */

import { equalBytes, utf8 } from "../encoding/bytes.ts";
import { type Network, parseNetwork } from "../encoding/network.ts";
import type { RootRecord } from "../chainview/logged.ts";
import { follow, pinned, type Terms } from "../chainview/terms.ts";
import { readPolicy } from "../policy/parameters.ts";
import { WORKER_UNKNOWN } from "../policy/refusals.ts";
import { hashesFrom } from "../receipts/batch.ts";
import { LogProof } from "../receipts/log.ts";
import { MAX_PATH } from "../receipts/merkle.ts";
import { decodeReceipt, type Receipt } from "../receipts/receipt.ts";
import { admissionOfLease, verifyReceipt } from "../receipts/verify.ts";
import { findRoot, parseBundle, requireOneLog, rootOf } from "./anchored.ts";
import type { Client } from "./client.ts";
import { fingerprintOf } from "./network.ts";
import { type Kept, type KeptReceipt, parseKept } from "./receipts.ts";
import { NOT_ADMITTED, type View } from "./resolve.ts";

const EVER = Number.MAX_SAFE_INTEGER;

/** What was shown. `root` and its number, if the receipt was held against the chain. */
export interface Shown {
  receipt: Receipt;
  /** How many receipts of its boot the committee witnessed; undefined without a proof. */
  witnessed?: number;
  root?: RootRecord & { index: number };
  /** The block of the checkpoint under which it was shown; undefined offline without a bundle. */
  block?: number;
}

/** Which network a file is of, and what is known of its committee: by default the pinned one alone. */
export interface Offline {
  /** Bytes or text of network.json, pinned by `fingerprint`. */
  network: Uint8Array | string;
  fingerprint: string;
  terms?: Terms;
}

/**
 * A kept receipt by what was saved with it, asking nobody. Throws CloisterError.
 *
 * 1. form; 2. certificate under a lease; 3. fields and signature; 4. its place in a witnessed log, if it has a proof.
 * Whether the worker was removed since, only the chain can say.
 */
export function verifySaved(kept: Kept | string, offline: Offline): Shown {
  const network = offlineNetwork(offline);
  return alone(parseKept(kept), network, offline.terms ?? pinned(network, 0));
}

/**
 * A bundle of `cloister receipts ID --export`, asking nobody. `fingerprint`: of its network, from elsewhere.
 *
 * 1. its hand-overs; 2 to 5 as `verifySaved`, with a proof; 6. a root on chain by the file's proofs; 7. root and
 * witnessed head are of one log. Throws CloisterError.
 */
export async function verifyBundle(file: Uint8Array | string, fingerprint: string, terms?: Terms): Promise<Shown> {
  const { network: raw, handovers, kept, proof, anchor } = parseBundle(file);
  const network = parseNetwork(raw, fingerprintOf(fingerprint));
  const before = terms ?? pinned(network, 0);
  const now = Math.max(before.inOffice.seen, anchor.checkpoint.timestamp); // that it was so, not that it is
  const found = follow(before, handovers, now, EVER); // 1
  const shown = alone(kept, network, found); // 2 to 5
  const root = await rootOf(anchor, network, found, shown.receipt.worker); // 6
  requireOneLog(proof, root, anchor.path); // 7
  return { ...shown, root: { ...root, index: anchor.index }, block: anchor.checkpoint.number };
}

/**
 * A kept receipt against the chain. `onChain`: below a root in the Receipts contract too. Throws CloisterError.
 *
 * 1. form; 2. certificate under a lease; 3. fields and signature; 4. its place in a witnessed log, which the gateway is
 * asked for; 5. a fresh checkpoint; 6. a root that covers it, by proof; 7. root and witnessed head are of one log; 8. the
 * worker by proof: not removed, and without a root of this boot and not expired at the receipt's height.
 */
export async function verifyKept(client: Client, kept: Kept | string, onChain = false): Promise<Shown> {
  const { resolver, gateway, network } = client;
  const saved = parseKept(kept);
  const view = await resolver.view(); // 5, first: the terms are followed then
  const witnessed = onChain ? await withProof(client, saved) : saved;
  const shown = alone(witnessed, network, resolver.walk.terms); // 1 to 4
  const { receipt } = shown;
  const block = view.checkpoint.number;
  const { proof } = witnessed;
  if (!onChain || !proof) {
    await admitted(view, receipt, false);
    return { ...shown, block };
  }
  const { index, root } = await findRoot(view, network, receipt); // 6
  const [old, now] = [root.size, proof.head.size].sort((a, b) => a - b) as [number, number];
  const told = old === now ? "0x" : (await gateway.receiptConsistency(receipt.id, old, now))["path"];
  requireOneLog(proof, root, hashesFrom(told, MAX_PATH)); // 7
  await admitted(view, receipt, true); // 8
  return { ...shown, root: { ...root, index }, block };
}

/** The kept receipt with a proof from the gateway, if it has none; what the gateway says where nobody shows one. */
async function withProof({ gateway }: Client, kept: KeptReceipt): Promise<KeptReceipt> {
  if (kept.proof) return kept;
  return { ...kept, proof: LogProof.fromJson(await gateway.receiptProof(decodeReceipt(kept.raw).id)) };
}

/** Form, lease at the receipt's height, signature, and the log that the committee witnessed. */
function alone(kept: KeptReceipt, network: Network, terms: Terms): Shown {
  const { raw, signature, seat, batch, proof } = kept;
  const receipt = decodeReceipt(raw); // 1
  const signers = terms.lessors(seat.lease, readPolicy(network.genesis).network.period_blocks);
  seat.verify(signers, network.id, receipt.checkpoint); // 2
  verifyReceipt(raw, signature, seat.certificate, admissionOfLease(seat.lease), undefined, batch); // 3
  if (!proof) return { receipt };
  proof.verify(receipt, terms.membersOf(proof.head.term), network.id); // 4
  return { receipt, witnessed: proof.head.size };
}

/** The worker by proof. `logged`: the contract saw the boot when it took a root of it, so an earlier boot may pass. */
async function admitted({ state }: View, receipt: Receipt, logged: boolean): Promise<void> {
  const worker = await state.worker(receipt.worker);
  if (!worker) throw WORKER_UNKNOWN("a registered worker", "never registered");
  if (worker.removed) throw NOT_ADMITTED("a worker that was not removed", "removed");
  if (equalBytes(worker.boot, receipt.boot)) {
    if (receipt.checkpoint < worker.expiry) return;
    throw NOT_ADMITTED(`an admission at block ${receipt.checkpoint}`, `one until block ${worker.expiry}`);
  }
  if (!logged) throw NOT_ADMITTED("the receipt's boot", "another boot");
}

function offlineNetwork({ network, fingerprint }: Offline): Network {
  const raw = typeof network === "string" ? utf8(network) : network;
  return parseNetwork(raw, fingerprintOf(fingerprint));
}

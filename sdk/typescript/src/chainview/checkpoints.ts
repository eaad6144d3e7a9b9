/** When a reader accepts a checkpoint (spec/chainview.md 1, 3). */

import { type SignerSet, verifyCommittee } from "../encoding/signatures.ts";
import { Checkpoint } from "../encoding/statements.ts";
import { STALE, UNKNOWN_TERM } from "./refusals.ts";

export const FUTURE_SKEW_S = 30;

/**
 * The checkpoint, if it counts for a reader whose clock says `now`. Times are in seconds. Throws CloisterError.
 *
 * 1. it is of the term of `signers`; 2. t members of the term signed it under this network; 3. it is at most `maxAge` old;
 * 4. it is not from the future.
 */
export function acceptCheckpoint(
  checkpoint: Checkpoint,
  signatures: readonly Uint8Array[],
  signers: SignerSet,
  network: Uint8Array,
  now: number,
  maxAge: number,
): Checkpoint {
  if (checkpoint.term !== signers.term) throw UNKNOWN_TERM(`term ${signers.term}`, `term ${checkpoint.term}`); // 1
  verifyCommittee(checkpoint.term, Checkpoint.digest(checkpoint, network), signatures, signers); // 2
  const age = now - checkpoint.timestamp;
  if (age > maxAge) throw STALE(`at most ${maxAge} s old`, `${age} s`); // 3
  if (age < -FUTURE_SKEW_S) throw STALE(`at most ${FUTURE_SKEW_S} s ahead of this clock`, `${-age} s ahead`); // 4
  return checkpoint;
}

/** Key identities: which key of which agent, with every version in it (`core/encoding/identity.py`). */

import { u64 } from "./bytes.ts";
import { Context, frame } from "./contexts.ts";

/** What a derived key may be used for. Numbers are on the wire. */
export const Purpose = { CALL: 1, STATE: 2, SECRETS: 3, IDENTITY: 4, LOG: 5 } as const;

/** An agent at exactly one set of epochs. All ids are 32 bytes. */
export interface AgentVersion {
  network: Uint8Array;
  master_epoch: number;
  cluster: Uint8Array;
  cluster_epoch: number;
  agent: Uint8Array;
  agent_epoch: number;
}

/** The identity bytes of an agent's `call` key of one period. */
export function callIdentity(version: AgentVersion, period: number): Uint8Array {
  return frame(
    Context.KEY_POINT,
    version.network,
    u64(version.master_epoch),
    version.cluster,
    u64(version.cluster_epoch),
    version.agent,
    u64(version.agent_epoch),
    Uint8Array.of(Purpose.CALL),
    u64(period),
  );
}

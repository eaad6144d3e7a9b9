// deno-fmt-ignore-file
/** Made by gen_layouts.py from the contract artifacts: do not edit. */

import type { Table } from "./layout.ts";

/** Struct variables, by contract and label. */
export const LAYOUTS = {
  Agents: {
    _agents: { slot: 10, words: 11, fields: { owner: [0, 0, 20], epoch: [0, 20, 8], paused: [0, 28, 1], upgradeMode: [0, 29, 1], canary: [0, 30, 1], guardian: [1, 0, 20], upgradeDelay: [1, 20, 8], account: [2, 0, 20], secretsVersion: [2, 20, 8], secretsSetter: [3, 0, 20], secretsEpoch: [3, 20, 8], tokenId: [4, 0, 32], codeHash: [5, 0, 32], manifestHash: [6, 0, 32], cluster: [7, 0, 32], secretsHash: [8, 0, 32], secretsCluster: [9, 0, 32], secretsClusterEpoch: [10, 0, 8], secretsMasterEpoch: [10, 8, 8], wipedBelow: [10, 16, 8], bumpedAt: [10, 24, 8] } },
    _canaries: { slot: 17, words: 3, fields: { codeHash: [0, 0, 32], manifestHash: [1, 0, 32], readyAt: [2, 0, 8] } },
  },
  Workers: {
    _workers: { slot: 3, words: 6, fields: { operator: [0, 0, 20], expiry: [0, 20, 8], removed: [0, 28, 1], listed: [0, 29, 1], vendorClass: [1, 0, 32], measurement: [2, 0, 32], boot: [3, 0, 32], heartbeat: [4, 0, 8], registeredAt: [4, 8, 8], index: [4, 16, 4], endpoint: [5, 0, 32] } },
  },
  Clusters: {
    _clusters: { slot: 1, words: 2, fields: { owner: [0, 0, 20], epoch: [0, 20, 8], seats: [0, 28, 2], bumpedAt: [1, 0, 8], maxEpochAge: [1, 8, 8] } },
  },
  Gatekeepers: {
    _committee: { slot: 0, words: 8, fields: { term: [0, 0, 8], masterEpoch: [0, 8, 8], threshold: [0, 16, 2], networkId: [1, 0, 32], transcript: [2, 0, 32], termSeed: [3, 0, 32], mpk: [4, 0, 96], members: [7, 0, 32] } },
    _candidates: { slot: 16, words: 6, fields: { operator: [0, 0, 20], since: [0, 20, 8], leaving: [0, 28, 1], revoked: [0, 29, 1], vendorClass: [1, 0, 32], dkgKey: [2, 0, 32], evidenceHash: [3, 0, 32], stake: [4, 0, 16], endedAt: [4, 16, 8], keyCeremony: [4, 24, 8], endpoint: [5, 0, 32] } },
    _epochs: { slot: 27, words: 6, fields: { state: [0, 0, 1], ceremony: [0, 1, 8], term: [0, 9, 8], confirmedAt: [0, 17, 8], resumedAt: [1, 0, 8], destroyedAt: [1, 8, 8], made: [1, 16, 8], transcript: [2, 0, 32], mpk: [3, 0, 96] } },
    _terms: { slot: 8, words: 3, fields: { ceremony: [0, 0, 8], height: [0, 8, 8], timestamp: [0, 16, 8], masterEpoch: [0, 24, 8], mpkHash: [1, 0, 32], revoked: [2, 0, 8], threshold: [2, 8, 2], size: [2, 10, 2] } },
  },
  Receipts: {
    _roots: { slot: 0, words: 3, fields: { boot: [0, 0, 32], root: [1, 0, 32], size: [2, 0, 8], atBlock: [2, 8, 8] } },
    _sizes: { slot: 1, words: 1, fields: {} },
  },
} as const satisfies Record<string, Record<string, Table>>;

/** Getters whose newest, unproven answer may forbid. */
export const GETTERS = {
  Agents: { selector: "0xcea2f613", dynamic: false, words: 21, members: { owner: 0, epoch: 1, paused: 2, upgradeMode: 3, canary: 4, guardian: 5, upgradeDelay: 6, account: 7, secretsVersion: 8, secretsSetter: 9, secretsEpoch: 10, tokenId: 11, codeHash: 12, manifestHash: 13, cluster: 14, secretsHash: 15, secretsCluster: 16, secretsClusterEpoch: 17, secretsMasterEpoch: 18, wipedBelow: 19, bumpedAt: 20 } },
  Workers: { selector: "0xd7653f6f", dynamic: true, words: 11, members: { operator: 0, expiry: 1, removed: 2, listed: 3, vendorClass: 4, measurement: 5, boot: 6, heartbeat: 7, registeredAt: 8, index: 9, endpoint: 10 } },
} as const;

/** Selector of the error that Agents throws for an agent that it does not have. */
export const UNKNOWN_AGENT = "0x0bfd788d";

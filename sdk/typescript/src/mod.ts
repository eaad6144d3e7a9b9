/** The TypeScript SDK: sealed calls to agents, for browsers, Node and Deno. */

export { Agent, type AgentInit, type AgreeInit, json, sealedFetch, SealedResponse } from "./client/agent.ts";
export type { Agreement } from "./client/agree.ts";
export type { Answered } from "./client/call.ts";
export { Client, connect, type ConnectOptions } from "./client/client.ts";
export type { Demand } from "./client/demand.ts";
export type { Kept } from "./client/receipts.ts";
export { browserTerms, fileTerms, memoryTerms, type TermStore } from "./client/terms.ts";
export { type Proof, proofToJson, Reply } from "./client/reply.ts";
export {
  apiKeySigner,
  contractSigner,
  privateKeySigner,
  providerSigner,
  type Signer,
  type TypedData,
} from "./client/wallet.ts";
export { fromHex, toHex } from "./encoding/hexes.ts";
export * from "./errors.ts";
export type { Receipt } from "./receipts/receipt.ts";
export { verifyReceipt } from "./receipts/verify.ts";
export { type Offline, type Shown, verifyBundle, verifySaved } from "./client/verify.ts";

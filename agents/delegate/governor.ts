import { decodeEventLog, encodeEventTopics, parseAbi } from "viem";

/** What OpenZeppelin's Governor says of a new proposal. */
export const ABI = parseAbi([
  "event ProposalCreated(uint256 proposalId, address proposer, address[] targets, uint256[] values, string[] signatures, bytes[] calldatas, uint256 voteStart, uint256 voteEnd, string description)",
]);
const MOST = 20;
const BLOCKS = 50_000n; // about a week

export interface Proposal {
  id: string;
  proposer: string;
  description: string;
  /** How many calls it would make, and to whom. */
  targets: string[];
  voteEnd: string;
}

async function rpc(url: string, method: string, params: unknown[], signal: AbortSignal): Promise<any> {
  const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method, params });
  const answer = await fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body, signal });
  const said = answer.ok ? await answer.json() : { error: { message: `status ${answer.status}` } };
  if (said.error) throw new Error(`the chain endpoint refused ${method}: ${said.error.message}`);
  return said.result;
}

/** The newest proposals of a governor, as one chain endpoint tells them. */
export async function readProposals(url: string, governor: string, signal: AbortSignal): Promise<Proposal[]> {
  const head = BigInt(await rpc(url, "eth_blockNumber", [], signal));
  const from = head > BLOCKS ? head - BLOCKS : 0n;
  const topics = encodeEventTopics({ abi: ABI, eventName: "ProposalCreated" });
  const filter = { address: governor, topics, fromBlock: `0x${from.toString(16)}`, toBlock: "latest" };
  const logs: any[] = await rpc(url, "eth_getLogs", [filter], signal);
  return logs.slice(-MOST).map((log) => {
    const { args } = decodeEventLog({ abi: ABI, data: log.data, topics: log.topics });
    const { proposalId, proposer, description, targets, voteEnd } = args;
    return { id: String(proposalId), proposer, description, targets: [...targets], voteEnd: String(voteEnd) };
  });
}

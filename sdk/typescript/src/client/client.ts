/**
 * The client: one pinned network, one gateway, perhaps a wallet.
 *
 *     const client = await connect("http://127.0.0.1:8080", { fingerprint: "…" });
 *     const agent = await client.agent("1");
 *     const answer = await agent.fetch("/");
 */

import { Rpc } from "../chain/rpc.ts";
import { agentId } from "../chainview/records.ts";
import type { Rng } from "../encoding/bytes.ts";
import { BAD_FIELD, fromHex, toHex } from "../encoding/hexes.ts";
import { contractAddress, type Network } from "../encoding/network.ts";
import { Agent } from "./agent.ts";
import { Caller } from "./call.ts";
import { checkDemand, checkRecord, type Demand } from "./demand.ts";
import { type Fetch, Gateway } from "./gateway.ts";
import { load } from "./network.ts";
import { ObliviousCaller } from "./oblivious.ts";
import type { Kept } from "./receipts.ts";
import { Resolver } from "./resolve.ts";
import { type TermStore, TermWalk, usualStore } from "./terms.ts";
import { type Shown, verifyKept } from "./verify.ts";
import { ownerBytes, type Signer } from "./wallet.ts";

const TIMEOUT_MS = 30_000;
const MAX_DRAW = 65_536;

/** `fingerprint`: SHA-256 of network.json in hex, which pins everything else. The others have defaults. */
export interface ConnectOptions {
  fingerprint: string;
  /** Opens calls as a known caller. */
  signer?: Signer;
  /**
   * Address of a relay; calls are oblivious then (spec/ohttp.md), and everything goes through the relay: the gateway is
   * asked for nothing, and does not learn who calls.
   */
  oblivious?: string;
  /** Gets every verified receipt, in the form that `cloister verify receipt` reads. */
  onReceipt?: (receipt: Kept) => void;
  /** Bounds every single wait for the gateway. */
  timeoutMs?: number;
  /** The platform's `fetch` unless given. */
  fetch?: Fetch;
  /** Unix seconds. */
  clock?: () => number;
  rng?: Rng;
  /** Where the terms of the committee are remembered; the page's storage where there is one. null: nowhere. */
  terms?: TermStore | null;
}

/** Connect and pin. Throws EncodingError (encoding.fingerprint, …), ConfigError (client.terms, …) or TransportError. */
export async function connect(url: string, options: ConnectOptions): Promise<Client> {
  const send = options.fetch ?? ((input, init) => fetch(input, init));
  const gateway = new Gateway(options.oblivious ?? url, options.timeoutMs ?? TIMEOUT_MS, send);
  const network = await load(gateway, options.fingerprint);
  const store = options.terms === undefined ? usualStore() : options.terms ?? undefined;
  const walk = await TermWalk.from(network, () => gateway.handovers(), options.clock ?? seconds, store);
  return new Client(gateway, network, options, walk);
}

/** One network over one gateway. Make it with `connect`. */
export class Client {
  readonly clock: () => number;
  readonly rng: Rng;
  readonly resolver: Resolver;
  readonly calls: Caller;

  constructor(
    readonly gateway: Gateway,
    readonly network: Network,
    readonly options: ConnectOptions,
    walk?: TermWalk,
  ) {
    this.clock = options.clock ?? seconds;
    this.rng = options.rng ?? randomBytes;
    const { clock, rng } = this;
    this.resolver = new Resolver(network, gateway, new Rpc((body) => gateway.rpc(body)), clock, rng, walk);
    const Engine = options.oblivious === undefined ? Caller : ObliviousCaller;
    this.calls = new Engine({ gateway, resolver: this.resolver, rng, clock, onReceipt: options.onReceipt });
  }

  /**
   * An agent by id (0x…) or token id. Its record is read by proof and held against the demand.
   *
   * `anonymous`: do not sign calls, although the client has a signer. Throws PolicyError: policy.agent_unknown,
   * client.demand_upgrade, client.demand_delay, client.demand_code. TypeError for a demand that means nothing.
   */
  async agent(name: string | number | bigint, options: Demand & { anonymous?: boolean } = {}): Promise<Agent> {
    const { anonymous = false, ...demand } = options;
    checkDemand(demand);
    const id = this.agentId(name);
    const record = await this.resolver.record(id);
    const { signer } = this.options;
    checkRecord(demand, record, ownerBytes(signer));
    return new Agent(this, id, record, demand, anonymous ? undefined : signer);
  }

  /**
   * A kept receipt, judged again by the chain: its lease, its signature, its worker. `onChain`: its place in a log that
   * the committee witnessed, and below a root in the Receipts contract too. Throws CloisterError: `verifyKept`.
   */
  verifyReceipt(kept: Kept | string, options: { onChain?: boolean } = {}): Promise<Shown> {
    return verifyKept(this, kept, options.onChain ?? false);
  }

  /** The 32-byte id of an agent named by id or token id. Throws EncodingError for anything else. */
  agentId(name: string | number | bigint): Uint8Array {
    const text = String(name).trim().toLowerCase();
    if (!/^[0-9]{1,39}$/.test(text)) return fromHex(text, 32, "agent id");
    if (BigInt(text) < 1n) throw BAD_FIELD("a token id from 1", text);
    const { genesis } = this.network;
    return agentId(genesis.chainId, contractAddress(genesis, "Agents"), BigInt(text));
  }

  /** What this client is pinned to. */
  toString(): string {
    return `Client(${this.gateway.url}, network ${toHex(this.network.id)})`;
  }
}

function seconds(): number {
  return Date.now() / 1000;
}

function randomBytes(size: number): Uint8Array {
  if (size > MAX_DRAW) throw new RangeError("too many random bytes at once");
  return crypto.getRandomValues(new Uint8Array(size));
}

/** What Cloister hands to an agent beside the request. A context ends with its request. */
export interface Context {
  /** This agent's id, 0x-hex. */
  agent: string;
  /** Who is calling, proved by a wallet's signature; null for an anonymous caller. */
  caller: { kind: string; address: string } | null;
  /** A name for this run of the handler. */
  requestId: string;
  /** What the owner set, of the names that cloister.json declares. */
  secrets: Secrets;
  /** The public settings of cloister.json; they are environment variables too. */
  settings: { readonly [name: string]: string };
  /** When the caller's time is over, in Unix milliseconds. */
  deadline: number;
  /** Fires then. Give it to fetch. */
  signal: AbortSignal;
  /** The agent's own encrypted store. Writes of one request are committed together, before its answer leaves. */
  state: State;
  /** Signatures of the agent's own key, as `keys` of cloister.json allows. */
  keys: Keys;
  /** Calls of other agents, as this agent. */
  agents: Agents;
  /** Verified values of a chain that the manifest names as a tool (`chain:ID`), and the agent's store at its Anchor. */
  chain(id: number): Chain;
  /** The tools and models that manifest and owner leave now; null: nothing binds. */
  lists(): Promise<{ tools: string[] | null; models: string[] | null }>;
  /** Evidence of this worker's hardware over 32 bytes of yours. Only on a network. */
  attest(nonce: Uint8Array): Promise<Record<string, unknown>>;
  log: Log;
}

export interface State {
  get(key: string): Promise<any>;
  getBytes(key: string): Promise<Uint8Array | null>;
  put(key: string, value: unknown): Promise<void>;
  putBytes(key: string, value: Uint8Array): Promise<void>;
  delete(key: string): Promise<void>;
  list(prefix?: string, options?: { after?: string | null; limit?: number }): Promise<string[]>;
}

/** By default signatures count for the agent's contract account (EIP-1271). */
export interface Keys {
  address(): Promise<string>;
  account(): Promise<{ address: string; account: string; signer: string; chainId: number }>;
  signMessage(message: string | Uint8Array): Promise<string>;
  signTypedData(typed: { domain: any; types: any; primaryType: string; message: any }): Promise<string>;
  ed25519Key(): Promise<string>;
  signEd25519(message: string | Uint8Array): Promise<string>;
  /** A call by the agent's contract account; gives its nonce. Made at most once, if this request commits. */
  send(call: AccountCall): Promise<string>;
  sent(nonce: string): Promise<{ state: "waiting" | "made" | "expired" | "unknown"; reason: string | null }>;
}

/** `value`: wei. `key`: calls of one key are one call. `withinS`: seconds until it expires, 30 to 3600. `chain`: a
 * connected chain that the manifest names. */
export type AccountCall = {
  to: string;
  value?: bigint | number;
  data?: string;
  key?: string;
  withinS?: number;
  chain?: number;
};

/** Each answer names the checkpoint that it rests on. */
export interface Chain {
  at(): Promise<Checkpoint>;
  storage(address: string, slot: bigint | number | string): Promise<{ value: string; checkpoint: Checkpoint }>;
  call(to: string, data?: string): Promise<{ data: string; checkpoint: Checkpoint }>;
  get(key: string): Promise<{ version: number; value: string; waiting: string | null; checkpoint: Checkpoint }>;
  /** Queued with the request's own writes; replaces exactly that version. */
  put(key: string, value: string | Uint8Array, options?: { version?: number }): Promise<void>;
}

export type Checkpoint = { chain: number; number: number; hash: string; timestamp: number };

export interface Agents {
  fetch(agent: string, request?: string | Request, options?: AgentCall): Promise<Response>;
}

/** `budget`: calls that it may cause below. `deadline`: Unix milliseconds. */
export type AgentCall = RequestInit & { budget?: number; deadline?: number; idempotencyKey?: string };

export type Secrets = { get(name: string): string | undefined } & { readonly [name: string]: any };

export interface Log {
  (...values: unknown[]): void;
  debug(...values: unknown[]): void;
  info(...values: unknown[]): void;
  warn(...values: unknown[]): void;
  error(...values: unknown[]): void;
}

/** What a test of agent.test.ts gets: asks the agent as a caller would. */
export interface Agent {
  url: string;
  fetch(path: string, options?: AgentRequest): Promise<Response>;
}

/** `caller`: the address that calls, none for anonymous. `json`: sent as the body, by POST unless `method` is given. */
export type AgentRequest = RequestInit & { caller?: string; json?: unknown };

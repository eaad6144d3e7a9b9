/** What Cloister hands to an agent beside the request: the part that this agent uses. */
export interface Context {
  /** Who is calling, proved by a wallet signature; null for an anonymous caller. */
  caller: { kind: string; address: string } | null;
  /** The agent's own encrypted store. Writes of one request are committed together with its answer. */
  state: State;
  log(...values: unknown[]): void;
}

export interface State {
  get(key: string): Promise<unknown>;
  put(key: string, value: unknown): Promise<void>;
  delete(key: string): Promise<void>;
  list(prefix: string, options?: { after?: string | null; limit?: number }): Promise<string[]>;
}

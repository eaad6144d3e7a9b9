/**
 * The gateway as the client sees it (spec/gateway-api.md): a door without authority.
 *
 * Everything read here is untrusted until another module verified it. An error text of the gateway is a hint: it is
 * never proof that a request did not run.
 */

import { CloisterError, ConfigError, define, fromWire, isObject, TransportError } from "../errors.ts";
import { concat } from "../encoding/bytes.ts";
import { offers, type SignedHandover } from "../chainview/terms.ts";
import { toHex } from "../encoding/hexes.ts";
import { parse } from "../encoding/jcs.ts";
import { MAX_ANSWER as MAX_RPC } from "../chain/rpc.ts";
import { MAX_ANSWER as MAX_OBLIVIOUS } from "../envelope/oblivious_answer.ts";

export const SEALED = "application/cloister-sealed";
const MAX_JSON = 4 << 20;
const MAX_NETWORK = 1 << 20;
const MAX_ANSWER = 64 << 20;
const MAX_SEATS = 64;
const MAX_KEYS = 8;
// What runtimes say when no connection came about, so that nothing was sent.
const REFUSED = new Set(["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN"]);

export const UNREACHABLE = define(
  "client.unreachable",
  TransportError,
  "the gateway accepts a connection",
  "check --gateway, or start a network on this machine with `cloister up`",
  503,
);
export const BROKEN_OFF = define(
  "client.broken_off",
  TransportError,
  "the gateway answers to the end within the time limit",
  "try again; if it repeats, the gateway or the path to it is overloaded",
  503,
);
export const BAD_ANSWER = define(
  "client.bad_answer",
  TransportError,
  "the gateway's answer has the form of its API and at most the agreed size",
  "this is no Cloister gateway, or a broken one; use another with --gateway",
  502,
);
export const BAD_URL = define(
  "client.gateway_url",
  ConfigError,
  "the gateway is named by an http or https address",
  "give --gateway http://127.0.0.1:8080",
);

/** A plain, unauthenticated refusal of a call: a hint about what to try next, and nothing more. */
export class NotOpened {
  constructor(readonly error: CloisterError) {}
}

/** The platform's `fetch`, or one that behaves like it. */
export type Fetch = (input: string, init: RequestInit) => Promise<Response>;

/** One gateway. `timeoutMs` bounds every single wait. */
export class Gateway {
  readonly url: string;

  constructor(url: string, readonly timeoutMs: number, readonly fetch: Fetch) {
    const parts = URL.canParse(url) ? new URL(url) : undefined;
    const good = parts && /^https?:$/.test(parts.protocol) && !parts.username && !parts.search;
    if (!good) throw BAD_URL("http(s)://host[:port]", `scheme ${parts?.protocol.slice(0, 16) ?? "none"}`);
    this.url = url.replace(/\/+$/, "");
  }

  /** network.json as served: pin it before you believe it. */
  network(): Promise<Uint8Array> {
    return this.#fetch("GET", "/v1/network", MAX_NETWORK);
  }

  /** {checkpoint, signatures}, unverified. */
  checkpoint(): Promise<Record<string, unknown>> {
    return this.#json("/v1/checkpoint");
  }

  /** Hand-overs from term to term, unverified: give them to `follow`. */
  async handovers(): Promise<SignedHandover[]> {
    return offers(await this.#json("/v1/handovers"));
  }

  /** The seats of an agent, unverified: at most 64 are looked at. */
  async seats(agent: Uint8Array): Promise<unknown[]> {
    const { seats } = await this.#json(`/v1/agents/${toHex(agent)}/seats`);
    if (!Array.isArray(seats)) throw BAD_ANSWER("{seats: […]}", typeof seats);
    return seats.slice(0, MAX_SEATS);
  }

  /** A receipt's place in a log that the committee signed, unverified: give it to `LogProof.fromJson`. */
  receiptProof(id: Uint8Array): Promise<Record<string, unknown>> {
    return this.#json(`/v1/receipts/${toHex(id)}/proof`);
  }

  /** {path}: from the first `old` to the first `now` receipts of a receipt's log, unverified. */
  receiptConsistency(id: Uint8Array, old: number, now: number): Promise<Record<string, unknown>> {
    return this.#json(`/v1/receipts/${toHex(id)}/consistency?from=${old}&to=${now}`);
  }

  /** Post a JSON-RPC body to the relay; the parsed answer, unverified. */
  async rpc(body: unknown): Promise<unknown> {
    const answer = parse(await this.#fetch("POST", "/v1/rpc", MAX_RPC, JSON.stringify(body)));
    if (answer === undefined) throw BAD_ANSWER("JSON", "other bytes");
    return answer;
  }

  /** A worker's keys for oblivious calls of an agent, unverified: give them to `ObliviousKey.fromJson`. */
  async obliviousKeys(agent: Uint8Array, boot: Uint8Array): Promise<unknown[]> {
    const { keys } = await this.#json(`/v1/oblivious/${toHex(agent)}/keys?boot=${toHex(boot)}`);
    if (!Array.isArray(keys)) throw BAD_ANSWER("{keys: […]}", typeof keys);
    return keys.slice(0, MAX_KEYS);
  }

  /**
   * Send an encapsulated request: the encapsulated response's pieces, or a plain refusal, which proves nothing.
   * `chunked`: both are of chunked Oblivious HTTP. Throws as `call` does.
   */
  oblivious(
    agent: Uint8Array,
    boot: Uint8Array,
    data: Uint8Array<ArrayBuffer>,
    chunked: boolean,
    patienceMs: number,
    signal?: AbortSignal,
  ): Promise<AsyncGenerator<Uint8Array> | NotOpened> {
    const path = `/v1/oblivious/${toHex(agent)}?boot=${toHex(boot)}`;
    const form = chunked ? "ohttp-chunked" : "ohttp";
    const [takes, gives] = [`message/${form}-req`, `message/${form}-res`];
    return this.#exchange(
      path,
      data,
      takes,
      gives,
      chunked ? MAX_ANSWER : MAX_OBLIVIOUS,
      new Patience(patienceMs, signal),
    );
  }

  /**
   * Send a sealed request: the sealed answer's pieces, or the plain refusal. `patienceMs`: how long it may be silent.
   *
   * Throws TransportError: client.unreachable if nothing was sent, client.broken_off if we cannot know.
   */
  call(
    agent: Uint8Array,
    boot: Uint8Array,
    sealed: Uint8Array<ArrayBuffer>,
    patienceMs: number,
    signal?: AbortSignal,
  ): Promise<AsyncGenerator<Uint8Array> | NotOpened> {
    const path = `/v1/call/${toHex(agent)}?boot=${toHex(boot)}`;
    return this.#exchange(path, sealed, SEALED, SEALED, MAX_ANSWER, new Patience(patienceMs, signal));
  }

  async #exchange(
    path: string,
    body: Uint8Array<ArrayBuffer>,
    takes: string,
    gives: string,
    most: number,
    wait: Patience,
  ): Promise<AsyncGenerator<Uint8Array> | NotOpened> {
    const init = { method: "POST", body, headers: { "content-type": takes } };
    const answer = await border(() => this.#send(path, init, wait), wait);
    if (answer.status === 200 && contentType(answer) === gives) return pieces(answer, most, wait);
    return new NotOpened(refusal(answer.status, await readAll(pieces(answer, MAX_JSON, wait))));
  }

  async #json(path: string): Promise<Record<string, unknown>> {
    const body = await this.#fetch("GET", path, MAX_JSON);
    const value = parse(body);
    if (!isObject(value)) throw BAD_ANSWER("a JSON object", `${body.length} bytes of something else`);
    return value;
  }

  async #fetch(method: string, path: string, limit: number, body?: string): Promise<Uint8Array> {
    const wait = new Patience(this.timeoutMs);
    const sent = body === undefined ? {} : { body, headers: { "content-type": "application/json" } };
    const answer = await border(() => this.#send(path, { method, ...sent }, wait), wait);
    const data = await readAll(pieces(answer, limit, wait));
    if (answer.status !== 200) throw refusal(answer.status, data);
    return data;
  }

  #send(path: string, init: RequestInit, wait: Patience): Promise<Response> {
    wait.again();
    const { signal } = wait;
    return this.fetch(this.url + path, { ...init, signal, redirect: "manual", credentials: "omit", cache: "no-store" });
  }
}

/** Aborts after a silence, or when the caller's own signal says so. */
class Patience {
  readonly #control = new AbortController();
  #timer: ReturnType<typeof setTimeout> | undefined;
  readonly #onAbort = () => this.stop();

  constructor(readonly silentMs: number, readonly outer?: AbortSignal) {
    if (outer?.aborted) this.stop();
    else outer?.addEventListener("abort", this.#onAbort);
  }

  get signal(): AbortSignal {
    return this.#control.signal;
  }

  /** Something came, or is about to be asked for: the silence begins anew. */
  again(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#control.abort(), this.silentMs);
  }

  /** No more waiting, everything came. */
  done(): void {
    clearTimeout(this.#timer);
    this.outer?.removeEventListener("abort", this.#onAbort);
  }

  /** Cut the connection. */
  stop(): void {
    this.done();
    this.#control.abort();
  }
}

/** Foreign exceptions of `fetch` become TransportError here; an abort by the caller stays what it is. */
async function border<T>(work: () => Promise<T>, wait: Patience): Promise<T> {
  try {
    return await work();
  } catch (error) {
    wait.stop();
    if (error instanceof CloisterError) throw error;
    wait.outer?.throwIfAborted();
    throw (neverConnected(error) ? UNREACHABLE : BROKEN_OFF)(
      "a whole answer",
      error instanceof Error ? error.name : "an error",
    );
  }
}

function neverConnected(error: unknown): boolean {
  const cause = error instanceof Error ? error.cause : undefined;
  const code = isObject(cause) || cause instanceof Error ? (cause as { code?: unknown }).code : undefined;
  const text = `${error instanceof Error ? error.message : ""} ${cause instanceof Error ? cause.message : ""}`;
  return (typeof code === "string" && REFUSED.has(code)) || /connection refused|dns error/i.test(text);
}

async function* pieces(answer: Response, limit: number, wait: Patience): AsyncGenerator<Uint8Array> {
  const reader = answer.body?.getReader();
  try {
    for (let total = 0; reader;) {
      wait.again();
      const { done, value } = await border(() => reader.read(), wait);
      if (done) return;
      total += value.length;
      if (total > limit) throw BAD_ANSWER(`at most ${limit} bytes`, "more");
      yield value;
    }
  } finally {
    wait.stop(); // harmless after the end; before it, the reader has left and the connection is cut
  }
}

async function readAll(source: AsyncGenerator<Uint8Array>): Promise<Uint8Array> {
  const kept: Uint8Array[] = [];
  for await (const piece of source) kept.push(piece);
  return concat(...kept);
}

function contentType(answer: Response): string {
  return (answer.headers.get("content-type") ?? "").split(";")[0]!.trim().toLowerCase();
}

/** The error that an HTTP error body claims; one of ours (client.bad_answer) where it claims none. */
function refusal(status: number, body: Uint8Array): CloisterError {
  const value = parse(body);
  const error = isObject(value) ? value["error"] : undefined;
  if (isObject(error) && typeof error["code"] === "string") return fromWire(error, status);
  return BAD_ANSWER("an answer of this API", `HTTP ${status}`);
}

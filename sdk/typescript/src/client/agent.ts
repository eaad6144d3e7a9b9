/** An agent as its caller holds it: resolved, checked against the caller's demand, called like a web server. */

import type { AgentRecord } from "../chainview/records.ts";
import { utf8 } from "../encoding/bytes.ts";
import { toHex } from "../encoding/hexes.ts";
import { BAD_HEAD, type Headers as Pairs } from "../envelope/model.ts";
import type { Head } from "../envelope/opener.ts";
import { agree, type Agreement, requireSafe } from "./agree.ts";
import { type Answered, type CallEvent, type CallRequest, type Check, requireSize } from "./call.ts";
import type { Client } from "./client.ts";
import { applyDemand, type Demand } from "./demand.ts";
import type { Reply } from "./reply.ts";
import type { Resolution } from "./resolve.ts";
import { ownerBytes, type Signer } from "./wallet.ts";

const MAX_DEADLINE_MS = 600_000;
const STREAM_DEADLINE_MS = 570_000; // half a minute less than a worker takes: clocks differ
const DEADLINE_MS = 30_000;
const NULL_BODY: readonly number[] = [204, 205, 304];
const HERE = "https://agent.invalid"; // a base for paths; nothing is ever sent there

/** `RequestInit` and two fields of ours. An `idempotency-key` header counts as `idempotencyKey`. */
export interface AgentInit extends RequestInit {
  /** Makes a POST safe to repeat: it runs at most once. */
  idempotencyKey?: string;
  /** How long the worker may work, at most ten minutes. */
  deadlineMs?: number;
}

/** How many workers must say the same, on hardware of how many vendor classes. */
export interface AgreeInit extends AgentInit {
  workers?: number;
  vendors?: number;
}

/** A `Response` whose body is authentic chunk by chunk. `verified` settles when the end and the receipt were checked. */
export class SealedResponse extends Response {
  /** The receipt and what stands behind it. Rejects with a CloisterError if the answer broke or its receipt is wrong. */
  readonly verified: Promise<Answered>;

  constructor(body: BodyInit | null, init: ResponseInit, verified: Promise<Answered>) {
    super(body, init);
    this.verified = verified;
    verified.catch(() => undefined); // nobody has to look at it: the body fails in the same way
  }
}

/** Call it like a web server. `id` is 32 bytes; `record` is its proven state when it was resolved. */
export class Agent {
  constructor(
    readonly client: Client,
    readonly id: Uint8Array,
    readonly record: AgentRecord,
    readonly demand: Demand,
    readonly signer: Signer | undefined,
  ) {}

  /**
   * Like the platform's `fetch`, sealed: resolves when the head came, then the body streams.
   *
   * Each chunk is authentic when it is read. That the answer is complete is known at the end of the body: a cut or
   * altered answer fails the body with a CloisterError, and so does a receipt that does not fit. A loss before the head
   * is repeated where that is safe, a loss after it is not. Throws CloisterError; a status such as 404 that the agent
   * chose is an answer. `input` is a path or an address, of which the path and query count.
   */
  async fetch(input: string | URL | Request, init: AgentInit = {}): Promise<SealedResponse> {
    const request = await this.#request(input, init, STREAM_DEADLINE_MS);
    const stop = new AbortController();
    const signal = request.signal ? AbortSignal.any([request.signal, stop.signal]) : stop.signal;
    const events = this.client.calls.events(this.id, { ...request, signal }, this.#check, this.signer);
    const first = await events.next();
    if (first.done || first.value.type !== "head") throw new TypeError("an answer begins with its head");
    return await respond(first.value, events, stop);
  }

  /** One request and its whole answer, which is verified to its end. Losses are repeated where that is safe. */
  async request(input: string | URL | Request, init: AgentInit = {}): Promise<Reply> {
    const request = await this.#request(input, init, DEADLINE_MS);
    return await this.client.calls.call(this.id, request, this.#check, this.signer);
  }

  /**
   * The same answer from several workers, on hardware of several vendors; for GET and HEAD.
   *
   * Throws `client.too_few_to_agree`, `client.disagree`, and what `request` throws if too few answered.
   */
  async agreed(input: string | URL | Request, options: AgreeInit = {}): Promise<Agreement> {
    const { workers = 2, vendors = 2, ...init } = options;
    const one = await this.#request(input, init, DEADLINE_MS);
    requireSafe(one.method);
    const { calls, resolver, rng } = this.client;
    const ask = (id: Uint8Array, check: Check) => calls.call(this.id, { ...one, id }, check, this.signer);
    const found = this.#check(await resolver.resolve(this.id, { again: true }));
    return await agree(found, this.#check, (check) => ask(rng(16), check), workers, vendors);
  }

  /** JSON-ready name. */
  toString(): string {
    return `Agent(${toHex(this.id)})`;
  }

  readonly #check: Check = (resolution: Resolution): Resolution => {
    return applyDemand(this.demand, resolution, ownerBytes(this.client.options.signer));
  };

  async #request(input: string | URL | Request, init: AgentInit, usual: number): Promise<CallRequest> {
    const { idempotencyKey, deadlineMs = usual, ...rest } = init;
    if (!(deadlineMs > 0 && deadlineMs <= MAX_DEADLINE_MS)) {
      throw new TypeError("deadlineMs is above 0, at most 600000");
    }
    const plain = asRequest(input, rest);
    const body = new Uint8Array(await plain.arrayBuffer());
    requireSize(body);
    const { pathname, search } = new URL(plain.url);
    return {
      method: plain.method.toUpperCase(),
      path: pathname + search,
      headers: pairsOf(plain.headers),
      body,
      id: this.client.rng(16),
      deadlineMs: Math.floor(this.client.clock() * 1000 + deadlineMs),
      idempotencyKey: idempotencyKey ?? plain.headers.get("idempotency-key") ?? undefined,
      signal: init.signal ?? (input instanceof Request ? input.signal : undefined),
    };
  }
}

/** A function for every library that takes a `fetch`: `new OpenAI({ fetch: sealedFetch(agent), … })`. */
export function sealedFetch(agent: Agent): (input: string | URL | Request, init?: RequestInit) => Promise<Response> {
  return (input, init) => agent.fetch(input, init);
}

function asRequest(input: string | URL | Request, init: RequestInit): Request {
  const streams = init.body instanceof ReadableStream ? { duplex: "half" } : {};
  const { signal: _, ...rest } = init; // ours to obey: a body that is being read must not fail halfway
  return new Request(input instanceof Request ? input : addressOf(input), { ...rest, ...streams });
}

function addressOf(input: string | URL): URL {
  return typeof input === "string" && input.startsWith("/") ? new URL(HERE + input) : new URL(input, HERE); // "//a" is a path
}

function pairsOf(headers: Headers): Pairs {
  return [...headers].map(([name, value]) => [name.toLowerCase(), value] as const);
}

async function respond(
  head: Head,
  events: AsyncGenerator<CallEvent>,
  stop: AbortController,
): Promise<SealedResponse> {
  if (head.status < 200) throw BAD_HEAD("a status in 200..599", `status ${head.status}`);
  const init = { status: head.status, headers: head.headers.map(([name, value]): [string, string] => [name, value]) };
  const end = new Ending();
  const body = bodyOf(events, stop, end);
  if (!NULL_BODY.includes(head.status)) return new SealedResponse(body, init, end.verified);
  await body.pipeTo(new WritableStream()); // such answers have no body: read to the verified end
  return new SealedResponse(null, init, end.verified);
}

/** The end of an answer, when it comes. */
class Ending {
  good!: (answered: Answered) => void;
  bad!: (reason: unknown) => void;
  readonly verified = new Promise<Answered>((resolve, reject) => [this.good, this.bad] = [resolve, reject]);
}

function bodyOf(
  events: AsyncGenerator<CallEvent>,
  stop: AbortController,
  end: Ending,
): ReadableStream<Uint8Array<ArrayBuffer>> {
  return new ReadableStream({
    async pull(controller) {
      try {
        const { done, value } = await events.next();
        if (done || value.type === "head") throw new TypeError("an answer ends with its receipt");
        if (value.type === "body") return controller.enqueue(new Uint8Array(value.data));
        end.good(value);
        controller.close();
        await events.return(undefined); // what may follow the authenticated end means nothing
      } catch (error) {
        end.bad(error);
        controller.error(error);
      }
    },
    async cancel(reason) {
      end.bad(reason ?? new DOMException("the body was cancelled", "AbortError"));
      stop.abort(); // the worker notices and stops too
      await events.return(undefined).catch(() => undefined);
    },
  });
}

/** A JSON body and its header, for `init`: `agent.fetch("/notes", json({ text }))`. */
export function json(value: unknown, init: AgentInit = {}): AgentInit {
  const headers = new Headers(init.headers);
  if (!headers.has("content-type")) headers.set("content-type", "application/json");
  return { method: "POST", ...init, headers, body: utf8(JSON.stringify(value)) };
}

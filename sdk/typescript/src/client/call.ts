/**
 * The sealed call: sessions, keys and failover (spec/sealed-http.md).
 *
 * What an attempt can end with:
 *
 *     answer       the stream opened to its final chunk and the receipt holds: done
 *     refusal      the worker refused inside the seal, which is authentic: thrown, or another seat if it says "busy"
 *     lost         anything else after bytes left: a plain hint of the gateway, a broken or altered stream. Nobody
 *                  knows whether the agent ran
 *     unreachable  nothing left this machine: thrown
 *
 * A lost request goes to another seat, or again to the same one, under the same request id only if repeating is safe:
 * GET, HEAD, or a request with an idempotency key. Else `client.outcome_unknown`: the gateway is not trusted, so its
 * "not delivered" never counts as proof that nothing happened.
 */

import { CloisterError, define, EncodingError, EnvelopeError, TransportError } from "../errors.ts";
import { concat, type Rng } from "../encoding/bytes.ts";
import { fromHex, toHex } from "../encoding/hexes.ts";
import { ClientSession, encapsulate, type Psk } from "../envelope/client.ts";
import { type Headers as Pairs, type RequestHead, TOO_LARGE } from "../envelope/model.ts";
import type { Body, Event, Failed, Final, Head } from "../envelope/opener.ts";
import type { Receipt } from "../receipts/receipt.ts";
import { verifyReceipt } from "../receipts/verify.ts";
import { type Gateway, NotOpened, UNREACHABLE } from "./gateway.ts";
import { type Kept, kept } from "./receipts.ts";
import { type Proof, Reply } from "./reply.ts";
import { admissionOf, proofOf, type Resolution, type Resolver, routed, type Sitting } from "./resolve.ts";
import { addressBytes, type Signer, signSession } from "./wallet.ts";

const MAX_ATTEMPTS = 4;
const MAX_BODY = 8 << 20;
const MAX_SESSIONS = 256;
const GRACE_MS = 5000;
export const CALLER_LIFE_S = 3600;
const RENEW_S = 30;
export const SAFE_METHODS: readonly string[] = ["GET", "HEAD"];
// Hints after which the seats are fetched again before the next attempt.
const RESOLVE_AGAIN: readonly string[] = [
  "envelope.wrong_boot",
  "envelope.certificate_unknown",
  "envelope.not_leased",
  "envelope.certificate_expired",
];
// Authentic refusals that say "not here, not now": another seat may serve a request that is safe to repeat.
const ELSEWHERE: readonly number[] = [421, 503];

export const OUTCOME_UNKNOWN = define(
  "client.outcome_unknown",
  TransportError,
  "the client learned whether the agent ran the request",
  "ask the agent what happened, or repeat with an idempotency key: then it runs at most once",
  503,
);
export const STALE_ANSWER = define(
  "client.stale_answer",
  EnvelopeError,
  "the worker answered at a recent checkpoint by this client's clock",
  "the worker is cut off from the chain, or somebody holds it back; call again",
  503,
);
export const PAST_DEADLINE = define(
  "client.deadline",
  TransportError,
  "the request was answered before its deadline",
  "allow more time, or try again later",
  504,
);

/** One request to an agent. `path` includes the query; `id` is 16 bytes; `deadlineMs` is Unix time. */
export interface CallRequest {
  method: string;
  path: string;
  headers: Pairs;
  body: Uint8Array;
  id: Uint8Array;
  deadlineMs: number;
  idempotencyKey?: string | undefined;
  signal?: AbortSignal | undefined;
}

/** The last event of a good answer: the verified receipt and what stands behind it. */
export interface Answered {
  type: "answered";
  receipt: Receipt;
  proof: Proof;
  attempts: number;
}

/** What a call yields. */
export type CallEvent = Head | Body | Answered;
/** Narrows a resolution to what a caller demands, or throws. */
export type Check = (resolution: Resolution) => Resolution;

/** An attempt after which nobody knows whether the agent ran. `hint` says what was seen; it proves nothing. */
export class Lost {
  constructor(readonly hint: CloisterError) {}
}

/** Whether running it twice is safe: GET, HEAD, or with an idempotency key. */
export function repeatable(request: CallRequest): boolean {
  return SAFE_METHODS.includes(request.method) || request.idempotencyKey !== undefined;
}

/** Throw EnvelopeError (envelope.too_large) for a body over 8 MiB. */
export function requireSize(body: Uint8Array): void {
  if (body.length > MAX_BODY) throw TOO_LARGE(`a body of at most ${MAX_BODY} bytes`, `${body.length} bytes`);
}

/** Open HPKE sessions and PSKs, by certificate and caller. The least recently used go first. */
class Sessions {
  readonly #psks = new Map<string, Psk>();
  readonly #sessions = new Map<string, { session: Promise<ClientSession>; end: number }>();

  /** `mpk`: the master public key of a master epoch. */
  constructor(readonly mpk: (epoch: number) => Uint8Array, readonly rng: Rng) {}

  /** The session with this seat as this caller; a new one where none is open or the caller's word expires. */
  session(sitting: Sitting, who: Signer | undefined, now: number): Promise<ClientSession> {
    const name = nameOf(sitting, who);
    const open = this.#sessions.get(name);
    const use = open && now + RENEW_S < open.end ? open : this.#open(sitting, who, now);
    touch(this.#sessions, name, use);
    return use.session;
  }

  /** Forget a session that the worker does not have any more. */
  drop(sitting: Sitting, who: Signer | undefined): void {
    this.#sessions.delete(nameOf(sitting, who));
  }

  #open(sitting: Sitting, who: Signer | undefined, now: number) {
    const end = who ? now + CALLER_LIFE_S : Infinity;
    const session = this.#new(sitting, who, Math.floor(now) + CALLER_LIFE_S);
    session.catch(() => this.drop(sitting, who)); // whoever awaits it sees the reason; the next call asks again
    return { session, end };
  }

  async #new(sitting: Sitting, who: Signer | undefined, expiry: number): Promise<ClientSession> {
    const { certificate } = sitting.seat;
    const session = new ClientSession(certificate, this.#psk(sitting), this.rng);
    const { network } = certificate.fields;
    if (who) await session.authenticate(addressBytes(who), expiry, (word) => signSession(who, word, network), who.kind);
    return session;
  }

  #psk(sitting: Sitting): Psk {
    const { certificate } = sitting.seat;
    const name = toHex(certificate.id);
    const psk = this.#psks.get(name) ?? encapsulate(certificate, this.mpk(certificate.fields.master_epoch), this.rng);
    touch(this.#psks, name, psk);
    return psk;
  }
}

function nameOf(sitting: Sitting, who: Signer | undefined): string {
  return `${toHex(sitting.seat.certificate.id)} ${who?.kind ?? ""} ${who?.address.toLowerCase() ?? ""}`;
}

function touch<T>(table: Map<string, T>, name: string, value: T): void {
  table.delete(name);
  table.set(name, value);
  if (table.size > MAX_SESSIONS) table.delete(table.keys().next().value!);
}

/** What the engine is built from. `clock`: Unix seconds. `onReceipt` gets every verified receipt. */
export interface CallerOptions {
  gateway: Gateway;
  resolver: Resolver;
  rng: Rng;
  clock: () => number;
  onReceipt?: ((receipt: Kept) => void) | undefined;
}

/** What an attempt sends, and what opens its answer. */
export interface Sealed {
  readonly data: Uint8Array<ArrayBuffer>;
  readonly opener: { feed(data: Uint8Array): Event[]; close(): Event[]; commitment(salt: Uint8Array): Uint8Array };
  readonly salt: Uint8Array;
  readonly commitment: Uint8Array;
  readonly requestId: string;
}
export type Sending = Promise<AsyncGenerator<Uint8Array> | NotOpened>;

/** Makes sealed calls over one gateway, as one wallet or as nobody. */
export class Caller {
  readonly #sessions: Sessions;

  constructor(readonly options: CallerOptions) {
    this.#sessions = new Sessions((epoch) => options.resolver.mpk(epoch), options.rng);
  }

  /** Send and collect the whole answer. Throws by name: see the module's first lines. */
  async call(agent: Uint8Array, request: CallRequest, check: Check, who?: Signer): Promise<Reply> {
    let head: Head | undefined;
    let body: Uint8Array[] = [];
    for await (const event of this.events(agent, request, check, who, true)) {
      if (event.type === "head") [head, body] = [event, []];
      else if (event.type === "body") body.push(event.data);
      else if (head) {
        const { status, headers } = head;
        return new Reply(
          status,
          headers,
          concat(...body),
          event.receipt,
          event.proof,
          toHex(request.id),
          event.attempts,
        );
      }
    }
    throw new TypeError("an answer ended without its last event");
  }

  /**
   * The answer's events, the last one `answered`. `whole`: the consumer starts over at a second head.
   *
   * Without `whole` an answer that broke after its head is not tried again: its consumer has seen a part of it.
   */
  async *events(
    agent: Uint8Array,
    request: CallRequest,
    check: Check,
    who?: Signer,
    whole = false,
  ): AsyncGenerator<CallEvent> {
    const tries = new Tries(request, whole);
    for (;;) {
      const { resolver } = this.options;
      const options = { quick: repeatable(request), again: tries.resolveAgain };
      const found = check(await resolver.resolve(agent, options));
      const resolution = routed(found, who ? addressBytes(who) : resolver.salt);
      const sitting = tries.choose(resolution);
      let started = false;
      try {
        for await (const event of this.#attempt(sitting, resolution, request, who, tries)) {
          started = true;
          yield event;
        }
        return;
      } catch (lost) {
        if (!(lost instanceof Lost)) throw lost;
        this.afterLoss(sitting, who, lost);
        if (started && !whole) throw lost.hint;
        tries.lost(sitting, lost, this.options.clock());
      }
    }
  }

  /** What one attempt sends. */
  protected async sealed(
    sitting: Sitting,
    request: CallRequest,
    who: Signer | undefined,
    tries: Tries,
  ): Promise<Sealed> {
    const session = await this.#sessions.session(sitting, who, this.options.clock());
    return session.seal(headOf(request), request.body, { withIbe: tries.withIbe ? true : undefined });
  }

  /** Send it: the answer's pieces, or the plain refusal. */
  protected sent(sitting: Sitting, sealed: Sealed, patience: number, request: CallRequest, _tries: Tries): Sending {
    const { agent, boot } = sitting.seat.certificate.fields;
    return this.options.gateway.call(agent, boot, sealed.data, patience, request.signal);
  }

  /** One attempt at one seat. Throws `Lost` where nobody knows whether the agent ran. */
  async *#attempt(
    sitting: Sitting,
    resolution: Resolution,
    request: CallRequest,
    who: Signer | undefined,
    tries: Tries,
  ): AsyncGenerator<CallEvent> {
    const sealed = await this.sealed(sitting, request, who, tries);
    let status = 0;
    for await (const event of this.#answer(sitting, sealed, request, tries)) {
      if (event.type === "head") {
        freshEnough(event, resolution, request);
        this.options.resolver.outdated(resolution.record.agent, event.checkpoint);
        status = event.status;
      }
      if (event.type === "failed") throw refused(event, request, tries);
      yield event.type === "final" ? this.#accept(event, sealed, status, sitting, resolution, tries) : event;
    }
  }

  /** Forget what a lost attempt rested on. */
  protected afterLoss(sitting: Sitting, who: Signer | undefined, lost: Lost): void {
    if (lost.hint.code !== "envelope.psk_unknown") this.#sessions.drop(sitting, who);
  }

  /** The opened events of one attempt; whatever is not an authentic stream to its end becomes `Lost`. */
  async *#answer(
    sitting: Sitting,
    sealed: Sealed,
    request: CallRequest,
    tries: Tries,
  ): AsyncGenerator<Event> {
    const patience = patienceFor(request, this.options.clock());
    try {
      const answer = await this.sent(sitting, sealed, patience, request, tries);
      if (answer instanceof NotOpened) throw new Lost(answer.error);
      for await (const piece of answer) yield* sealed.opener.feed(piece);
      yield* sealed.opener.close();
    } catch (error) {
      const unsent = error instanceof CloisterError && error.code === UNREACHABLE.code;
      const kinds = [EnvelopeError, EncodingError, TransportError];
      if (!unsent && kinds.some((kind) => error instanceof kind)) throw new Lost(error as CloisterError);
      throw error;
    }
  }

  /** Verify the receipt against what was sent and what came, and hand it on. Throws ReceiptError. */
  #accept(
    final: Final,
    sealed: Sealed,
    status: number,
    sitting: Sitting,
    resolution: Resolution,
    tries: Tries,
  ): Answered {
    const exchange = {
      requestId: fromHex(sealed.requestId, 16, "request id"),
      status,
      request: sealed.commitment,
      response: sealed.opener.commitment(sealed.salt),
    };
    const { seat } = sitting;
    const { receipt: raw, signature, batch } = final;
    const receipt = verifyReceipt(raw, signature, seat.certificate, admissionOf(sitting), exchange, batch);
    this.options.onReceipt?.(kept(raw, signature, sealed.salt, seat, this.options.clock(), batch));
    return { type: "answered", receipt, proof: proofOf(resolution, sitting, receipt.id), attempts: tries.count };
  }
}

/** What was tried for one request, and what the next attempt does. */
export class Tries {
  count = 0;
  withIbe = false;
  resolveAgain = false;
  readonly #failed = new Map<string, number>();

  constructor(readonly request: CallRequest, readonly whole: boolean) {}

  /** The seat that failed least, in the resolution's order. */
  choose(resolution: Resolution): Sitting {
    this.count += 1;
    const failures = (one: Sitting) => this.#failed.get(bootOf(one)) ?? 0;
    return resolution.sittings.reduce((best, one) => (failures(one) < failures(best) ? one : best));
  }

  /** Note a loss. Throws OUTCOME_UNKNOWN, PAST_DEADLINE or the hint where there is no next attempt. */
  lost(sitting: Sitting, { hint }: Lost, now: number): void {
    if (!repeatable(this.request)) {
      throw OUTCOME_UNKNOWN("an answer to its end", `${hint.code}: ${hint.check}; found ${hint.found}`);
    }
    if (this.count >= MAX_ATTEMPTS) throw hint;
    if (now * 1000 >= this.request.deadlineMs) {
      throw PAST_DEADLINE("an answer in time", `${this.count} attempts, last ${hint.code}`);
    }
    this.withIbe = hint.code === "envelope.psk_unknown";
    this.resolveAgain = RESOLVE_AGAIN.includes(hint.code) || !this.withIbe;
    if (!this.withIbe) this.#failed.set(bootOf(sitting), (this.#failed.get(bootOf(sitting)) ?? 0) + 1);
  }
}

function bootOf(sitting: Sitting): string {
  return toHex(sitting.seat.certificate.fields.boot);
}

export function headOf(request: CallRequest): RequestHead {
  const { method, path, deadlineMs, headers, idempotencyKey } = request;
  const head = { requestId: toHex(request.id), method, path, deadlineMs, headers };
  return idempotencyKey === undefined ? head : { ...head, idempotencyKey };
}

/** An authentic refusal: thrown, or `Lost` where it says "elsewhere" and repeating is safe. */
export function refused({ error }: Failed, request: CallRequest, tries: Tries): unknown {
  const elsewhere = ELSEWHERE.includes(error.status) && repeatable(request) && tries.count < MAX_ATTEMPTS;
  return elsewhere ? new Lost(error) : error;
}

/** How long an answer may be silent, in milliseconds. */
export function patienceFor(request: CallRequest, now: number): number {
  return Math.max(request.deadlineMs - now * 1000, 1000) + GRACE_MS;
}

/** A worker's height may lag behind the checkpoint that we verified by one period at most. */
export function freshEnough(head: Head, resolution: Resolution, request: CallRequest): void {
  const oldest = resolution.checkpoint.number - resolution.parameters.period_blocks;
  if (head.checkpoint >= oldest) return;
  const error = STALE_ANSWER(`an answer at block ${oldest} or later`, `block ${head.checkpoint}`);
  throw repeatable(request) ? new Lost(error) : error;
}

/**
 * Oblivious calls (spec/ohttp.md): each request in a context of its own, through a relay that cannot read it.
 *
 * Seats, leases, receipts and what an attempt can end with are those of `call.ts`. An answer comes whole. There is no
 * way down from here: a worker that has no oblivious key is not called in another way.
 */

import { CloisterError, define, EnvelopeError, TransportError } from "../errors.ts";
import { fromHex, toHex } from "../encoding/hexes.ts";
import { type Answer, ObliviousKey, type ObliviousRequest, seal, type Speaker } from "../envelope/oblivious.ts";
import type { KeyConfig } from "../envelope/ohttp.ts";
import type { Failed } from "../envelope/opener.ts";
import {
  Caller,
  CALLER_LIFE_S,
  type CallEvent,
  type CallRequest,
  freshEnough,
  headOf,
  Lost,
  patienceFor,
  refused,
  repeatable,
  type Tries,
} from "./call.ts";
import { NotOpened, UNREACHABLE } from "./gateway.ts";
import type { Resolution, Sitting } from "./resolve.ts";
import { addressBytes, type Signer, signSession } from "./wallet.ts";

const MAX_KEYS = 256;

export const NO_KEY = define(
  "client.oblivious_key",
  EnvelopeError,
  "the worker shows an oblivious key for the certificate of its seat",
  "take another worker, or make a sealed call: without --oblivious",
  503,
);

/** Makes oblivious calls over one relay. */
export class ObliviousCaller extends Caller {
  readonly #configs = new Map<string, KeyConfig>();

  /** 1. the worker's key, verified; 2. one encapsulated request; 3. its answer, or `Lost`; 4. the receipt. */
  protected override async *attempt(
    sitting: Sitting,
    resolution: Resolution,
    asked: CallRequest,
    who: Signer | undefined,
    tries: Tries,
  ): AsyncGenerator<CallEvent> {
    const request = this.#named(asked, tries);
    const config = await this.#config(sitting, request); // 1
    const { certificate } = sitting.seat;
    const { clock, rng, resolver } = this.options;
    const now = clock();
    const speaker = speakerOf(who, now, certificate.fields.network);
    const sealed = await seal(config, certificate, headOf(request), request.body, rng, speaker); // 2
    const answer = await this.#exchanged(sitting, sealed, patienceFor(request, now), request.signal); // 3
    if (answer.type === "failed") throw refused(answer, request, tries);
    const { status, headers, checkpoint, body } = answer;
    const head = { type: "head", status, headers, checkpoint } as const;
    freshEnough(head, resolution, request);
    resolver.outdated(certificate.fields.agent, checkpoint);
    const exchange = {
      requestId: fromHex(sealed.requestId, 16, "request id"),
      status,
      request: sealed.commitment,
      response: answer.commitment,
    };
    const answered = this.believed(answer.final, exchange, sealed.salt, sitting, resolution, tries); // 4
    yield head;
    if (body.length) yield { type: "body", data: body };
    yield answered;
  }

  protected override afterLoss(sitting: Sitting): void {
    this.#configs.delete(toHex(sitting.seat.certificate.id));
  }

  /** A worker takes a request id once: what is repeated without a key to it (GET, HEAD) gets a new one. */
  #named(request: CallRequest, tries: Tries): CallRequest {
    if (tries.count === 1 || request.idempotencyKey !== undefined) return request;
    return { ...request, id: this.options.rng(16) };
  }

  async #exchanged(
    sitting: Sitting,
    sealed: ObliviousRequest,
    patience: number,
    signal: AbortSignal | undefined,
  ): Promise<Answer | Failed> {
    const { agent, boot } = sitting.seat.certificate.fields;
    try {
      const said = await this.options.gateway.oblivious(agent, boot, sealed.data, patience, signal);
      if (said instanceof NotOpened) throw new Lost(said.error);
      return sealed.open(said);
    } catch (error) {
      const unsent = error instanceof TransportError && error.code === UNREACHABLE.code;
      if (error instanceof CloisterError && !unsent) throw new Lost(error);
      throw error;
    }
  }

  /** The verified key of a seat. Nothing has left yet: a failure is thrown, or another seat is tried. */
  async #config(sitting: Sitting, request: CallRequest): Promise<KeyConfig> {
    const name = toHex(sitting.seat.certificate.id);
    try {
      const config = this.#configs.get(name) ?? await this.#fetched(sitting);
      this.#configs.delete(name);
      this.#configs.set(name, config);
      if (this.#configs.size > MAX_KEYS) this.#configs.delete(this.#configs.keys().next().value!);
      return config;
    } catch (error) {
      const elsewhere = error instanceof CloisterError && error.code !== UNREACHABLE.code && repeatable(request);
      throw elsewhere ? new Lost(error) : error;
    }
  }

  async #fetched({ seat: { certificate } }: Sitting): Promise<KeyConfig> {
    const { gateway, resolver } = this.options;
    const { agent, boot, master_epoch } = certificate.fields;
    const offered = await gateway.obliviousKeys(agent, boot);
    const key = offered.map((one) => ObliviousKey.fromJson(one)).find((one) => one.isFor(certificate));
    if (key) return key.verify(certificate, resolver.mpk(master_epoch));
    throw NO_KEY("a key of the seat's certificate and suite", `${offered.length} others`);
  }
}

function speakerOf(who: Signer | undefined, now: number, network: Uint8Array): Speaker | undefined {
  if (!who) return undefined;
  return {
    address: addressBytes(who),
    expiry: Math.floor(now) + CALLER_LIFE_S,
    sign: (session) => signSession(who, session, network),
    kind: who.kind,
  };
}

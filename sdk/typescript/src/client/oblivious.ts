/**
 * Oblivious calls (spec/ohttp.md): each request in a context of its own, through a relay that cannot read it.
 *
 * Seats, leases, receipts and what an attempt can end with are those of `call.ts`. A call's answer is one padded
 * message; a stream's comes in chunks. There is no way down from here: a worker that has no oblivious key is not called in
 * another way.
 */

import { CloisterError, define, EnvelopeError } from "../errors.ts";
import { toHex } from "../encoding/hexes.ts";
import { ObliviousKey, seal, type Speaker } from "../envelope/oblivious.ts";
import type { KeyConfig } from "../envelope/ohttp.ts";
import {
  Caller,
  CALLER_LIFE_S,
  type CallRequest,
  headOf,
  Lost,
  repeatable,
  type Sealed,
  type Sending,
  type Tries,
} from "./call.ts";
import { UNREACHABLE } from "./gateway.ts";
import type { Sitting } from "./resolve.ts";
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

  /**
   * 1. the worker's key, verified; 2. one encapsulated request: its answer is one message where all of it is collected,
   * chunks where it is read as it comes.
   */
  protected override async sealed(
    sitting: Sitting,
    asked: CallRequest,
    who: Signer | undefined,
    tries: Tries,
  ): Promise<Sealed> {
    const request = this.#named(asked, tries);
    const config = await this.#config(sitting, request); // 1
    const { certificate } = sitting.seat;
    const { clock, rng } = this.options;
    const speaker = speakerOf(who, clock(), certificate.fields.network);
    return await seal(config, certificate, headOf(request), request.body, rng, speaker, !tries.whole); // 2
  }

  protected override sent(
    sitting: Sitting,
    sealed: Sealed,
    patience: number,
    request: CallRequest,
    tries: Tries,
  ): Sending {
    const { agent, boot } = sitting.seat.certificate.fields;
    return this.options.gateway.oblivious(agent, boot, sealed.data, !tries.whole, patience, request.signal);
  }

  protected override afterLoss(sitting: Sitting): void {
    this.#configs.delete(toHex(sitting.seat.certificate.id));
  }

  /** A worker takes a request id once: what is repeated without a key to it (GET, HEAD) gets a new one. */
  #named(request: CallRequest, tries: Tries): CallRequest {
    if (tries.count === 1 || request.idempotencyKey !== undefined) return request;
    return { ...request, id: this.options.rng(16) };
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

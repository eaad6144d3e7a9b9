/**
 * The client's end of sealed HTTP: PSKs, sessions, one-shot requests (spec/sealed-http.md 2 to 5, 9, 14).
 *
 * A session is one HPKE context towards one worker's certificate. Verify the seat first: this module seals to whatever
 * it is given.
 */

import { sha256 } from "@noble/hashes/sha2.js";
import { concat, equalBytes, type Rng } from "../encoding/bytes.ts";
import { fromHex, needBytes, toHex } from "../encoding/hexes.ts";
import { CallerSession } from "../encoding/statements.ts";
import { type Context, type NamedPsk, setupSender } from "../keys/hpke.ts";
import { receiptSalt, requestCommitment } from "../receipts/commitments.ts";
import * as ibe from "../threshold/ibe.ts";
import type { KeyCertificate } from "./certificate.ts";
import {
  type Caller,
  CALLER_EXPORT,
  type CallerKind,
  encodeHeader,
  encodePlaintext,
  encodeRecord,
  encodeRequestHead,
  FLAG_IBE,
  FLAG_XWING,
  KIND_ONE_SHOT,
  KIND_SESSION,
  PSK_SIZE,
  requestAad,
  type RequestHead,
} from "./model.ts";
import { Opener } from "./opener.ts";

export const MAX_RESPONSE = 64 << 20;
const NONE = new Uint8Array(0);

/** A pre-shared key that only workers leased the agent in that period can open. `id` is SHA-256 of `ciphertext`. */
export interface Psk extends NamedPsk {
  certificateId: Uint8Array;
  ciphertext: Uint8Array;
}

/** Draw a PSK and encrypt it to the agent's `call` key of the certificate's period. `mpk`: 96 bytes. */
export function encapsulate(certificate: KeyCertificate, mpk: Uint8Array, rng: Rng): Psk {
  const secret = needBytes("psk", rng(PSK_SIZE), PSK_SIZE);
  const ciphertext = ibe.encrypt(mpk, certificate.callIdentity, secret, certificate.pskAad, rng);
  return { certificateId: certificate.id, secret, ciphertext, id: sha256(ciphertext) };
}

/** A record ready to send. `opener` opens its answer; `salt` and `commitment` belong to its receipt. */
export interface SealedRequest {
  data: Uint8Array<ArrayBuffer>;
  seq: number;
  opener: Opener;
  salt: Uint8Array;
  headBytes: Uint8Array;
  commitment: Uint8Array;
  requestId: string;
}

/** How a request is sealed. `withIbe` undefined sends the IBE ciphertext until the worker has the PSK. */
export interface SealOptions {
  withIbe?: boolean | undefined;
  maxBody?: number;
}

/** A caller's word over a `CallerSession`: 65 bytes of a wallet. */
export type SignSession = (session: CallerSession) => Promise<Uint8Array> | Uint8Array;

/**
 * Many requests to one worker boot under one HPKE context.
 *
 * `confirmed` turns true when a first answer's head opened: from then on the worker has the PSK and the caller.
 * A refusal confirms nothing: it may come before the worker looks at the caller.
 */
export class ClientSession {
  confirmed = false;
  readonly #enc: Uint8Array;
  readonly #sent: Uint8Array;
  readonly #context: Context;
  #next = 0;
  #caller?: Caller;
  #callerKnown = false;

  /** `xwing`: whether to seal by X-Wing; by default if and only if the certificate has a key for it. */
  constructor(
    readonly certificate: KeyCertificate,
    readonly psk: Psk,
    rng: Rng,
    readonly oneShot = false,
    readonly xwing = certificate.hybrid,
  ) {
    if (!equalBytes(psk.certificateId, certificate.id)) throw new TypeError("this PSK is for another certificate");
    const { hpke_key, xwing_key } = certificate.fields;
    if (xwing && !xwing_key) throw new TypeError("this certificate has no X-Wing key");
    const { enc, context } = setupSender(xwing ? xwing_key! : hpke_key, certificate.info, rng, psk);
    this.#enc = xwing ? sha256(enc) : enc;
    this.#sent = xwing ? concat(enc, psk.ciphertext) : psk.ciphertext;
    this.#context = context;
  }

  /** The 32 bytes that a caller's wallet signs in `CallerSession`. */
  get exporter(): Uint8Array {
    return this.#context.export(CALLER_EXPORT, 32);
  }

  /** Open the session as a caller (20-byte address) until `expiry` (Unix seconds). Without `kind` it is a wallet. */
  async authenticate(address: Uint8Array, expiry: number, sign: SignSession, kind?: CallerKind): Promise<void> {
    const { agent, boot } = this.certificate.fields;
    const signature = await sign({ agent, boot, exporter: this.exporter, expiry });
    this.#caller = { address: toHex(address), expiry, signature: toHex(signature), ...(kind && { kind }) };
    this.#callerKnown = false;
  }

  /**
   * Seal the next request. Every call takes a new sequence number, repeats included.
   *
   * The caller goes with every IBE ciphertext, since a record that has one may open a new session at the worker.
   * Throws EnvelopeError for a head out of form, TypeError for a second request of a one-shot.
   */
  seal(head: RequestHead, body: Uint8Array, options: SealOptions = {}): SealedRequest {
    if (this.oneShot && this.#next) throw new TypeError("a one-shot context seals one request");
    const sendsIbe = this.oneShot || (options.withIbe ?? !this.confirmed);
    const sent = this.#withCaller(head, sendsIbe);
    const headBytes = encodeRequestHead(sent);
    const seq = this.#next++;
    const header = this.#header(seq, sendsIbe);
    const aad = requestAad(header, this.certificate.fields.agent);
    const salt = receiptSalt(this.#context, seq);
    return {
      data: encodeRecord(
        header,
        sendsIbe ? this.#sent : NONE,
        this.#context.sealAt(seq, aad, encodePlaintext(headBytes, body)),
      ),
      seq,
      opener: this.#opener(seq, sent, options.maxBody ?? MAX_RESPONSE),
      salt,
      headBytes,
      commitment: requestCommitment(salt, headBytes, body),
      requestId: head.requestId,
    };
  }

  #withCaller(head: RequestHead, sendsIbe: boolean): RequestHead {
    const needed = this.#caller && !head.caller && (sendsIbe || !this.#callerKnown);
    return needed ? { ...head, caller: this.#caller! } : head;
  }

  #header(seq: number, sendsIbe: boolean): Uint8Array {
    const { certificate } = this;
    return encodeHeader({
      kind: this.oneShot ? KIND_ONE_SHOT : KIND_SESSION,
      flags: (sendsIbe ? FLAG_IBE : 0) | (this.xwing ? FLAG_XWING : 0),
      boot: certificate.fields.boot,
      certificateId: certificate.id,
      enc: this.#enc,
      pskId: this.psk.id,
      seq,
    });
  }

  #opener(seq: number, sent: RequestHead, maxBody: number): Opener {
    const onAuthentic = (answered: boolean) => {
      this.confirmed ||= answered;
      if (answered && sent.caller && sent.caller === this.#caller) this.#callerKnown = true;
    };
    const requestId = fromHex(sent.requestId, 16, "request id");
    return new Opener({ context: this.#context, seq, requestId, maxBody, onAuthentic });
  }
}

/**
 * Oblivious calls, the client's end: verify a worker's key, seal a request (spec/ohttp.md 4 to 6).
 *
 * Verify the seat first: this module rests on its certificate.
 */

import { define, EnvelopeError } from "../errors.ts";
import { equalBytes, type Rng } from "../encoding/bytes.ts";
import { Context, digest } from "../encoding/contexts.ts";
import { fromHex, needFields, toHex } from "../encoding/hexes.ts";
import { verifySigner } from "../encoding/signatures.ts";
import type { CallerSession } from "../encoding/statements.ts";
import * as idsig from "../keys/idsig.ts";
import { receiptSalt, requestCommitment } from "../receipts/commitments.ts";
import { type BinaryRequest, encodeRequest, encodeRequestHead, paddedSize } from "./bhttp.ts";
import type { KeyCertificate } from "./certificate.ts";
import type { SignSession } from "./client.ts";
import {
  type Caller,
  CALLER_EXPORT,
  type CallerKind,
  encodeRequestHead as checkHead,
  type RequestHead,
} from "./model.ts";
import { Encapsulator, type Exchange, KEM_X25519, KEM_XWING, KeyConfig } from "./ohttp.ts";
import { BAD_FIELD, RESERVED, StreamOpener, WholeOpener } from "./oblivious_answer.ts";

export const BAD_KEY = define(
  "oblivious.key",
  EnvelopeError,
  "an oblivious key is a configuration of its own purpose for one key certificate, signed by worker and key",
  "take another seat of the agent; do not seal to this key",
  403,
);

/** A key configuration for one key certificate, as workers show it. Nothing counts before `verify`. */
export class ObliviousKey {
  constructor(
    readonly certificate: Uint8Array,
    readonly config: Uint8Array,
    readonly signature: Uint8Array,
    readonly proof: Uint8Array,
  ) {}

  /** What is signed. 32 bytes. */
  get id(): Uint8Array {
    return digest(Context.OBLIVIOUS_KEY, this.certificate, this.config);
  }

  /** Parse {certificate, config, signature, proof}, all hex. Throws EncodingError. */
  static fromJson(value: unknown): ObliviousKey {
    const data = needFields("oblivious key", value, ["certificate", "config", "signature", "proof"]);
    return new ObliviousKey(
      fromHex(data["certificate"], 32, "certificate id"),
      fromHex(data["config"], undefined, "key configuration"),
      fromHex(data["signature"], 65, "worker signature"),
      fromHex(data["proof"], idsig.SIGNATURE_SIZE, "proof"),
    );
  }

  /** Whether it is the key that calls under this certificate are sealed to, as far as it says itself. */
  isFor(certificate: KeyCertificate): boolean {
    const kem = this.config.length < 3 ? 0 : (this.config[1]! << 8) | this.config[2]!;
    return equalBytes(this.certificate, certificate.id) && kem === kemOf(certificate);
  }

  /**
   * The configuration to encapsulate to, for a certificate that was verified. `mpk`: of its master epoch.
   *
   * 1. it names this certificate; 2. its form, and the KEM of the certificate's suite: X-Wing where it has X-Wing;
   * 3. the period's key number; 4. a key of its own, not one of sealed calls; 5. the worker's signature; 6. the `call`
   * key's. Throws EnvelopeError (oblivious.key, ohttp.malformed, ohttp.suite), EncodingError, ThresholdError.
   */
  verify(certificate: KeyCertificate, mpk: Uint8Array): KeyConfig {
    const { hpke_key, xwing_key, worker } = certificate.fields;
    if (!equalBytes(this.certificate, certificate.id)) { // 1
      throw BAD_KEY(toHex(certificate.id).slice(0, 18), toHex(this.certificate).slice(0, 18));
    }
    const config = KeyConfig.decode(this.config); // 2
    config.choose();
    if (config.kem !== kemOf(certificate)) throw BAD_KEY(`KEM ${kemOf(certificate)}`, `KEM ${config.kem}`);
    if (config.keyId !== keyNumber(certificate)) { // 3
      throw BAD_KEY(`key number ${keyNumber(certificate)}`, String(config.keyId));
    }
    for (const other of [hpke_key, xwing_key]) { // 4
      if (other && equalBytes(config.publicKey, other)) {
        throw BAD_KEY("a key of its own purpose", "one of sealed calls");
      }
    }
    verifySigner(this.id, this.signature, worker); // 5
    idsig.verify(mpk, certificate.callIdentity, this.id, this.proof); // 6
    return config;
  }
}

function kemOf(certificate: KeyCertificate): number {
  return certificate.hybrid ? KEM_XWING : KEM_X25519;
}

/** The key identifier of a certificate's oblivious key: by its period and KEM. */
export function keyNumber(certificate: KeyCertificate): number {
  return (certificate.fields.period + (certificate.hybrid ? 128 : 0)) % 256;
}

/** What a request says of the certificate that it is for. */
function claims({ fields, id }: KeyCertificate): [string, string][] {
  return [
    ["cloister-boot", toHex(fields.boot)],
    ["cloister-epochs", `${fields.master_epoch}/${fields.cluster_epoch}/${fields.agent_epoch}`],
    ["cloister-period", String(fields.period)],
    ["cloister-code", toHex(fields.code_hash)],
    ["cloister-certificate", toHex(id)],
  ];
}

/** The binary HTTP request of a call. Throws EnvelopeError: envelope.head, oblivious.field for a reserved name. */
export function toMessage(certificate: KeyCertificate, head: RequestHead, body: Uint8Array): BinaryRequest {
  checkHead(head);
  const reserved = head.headers.find(([name]) => name.startsWith(RESERVED));
  if (reserved) throw BAD_FIELD(`no header whose name begins with ${RESERVED}`, reserved[0].slice(0, 80));
  const own = claims(certificate);
  own.push(["cloister-request", head.requestId], ["cloister-deadline", String(head.deadlineMs)]);
  if (head.idempotencyKey !== undefined) own.push(["cloister-idempotency-key", head.idempotencyKey]);
  if (head.caller !== undefined) own.push(["cloister-caller", JSON.stringify(head.caller)]);
  const { method, path } = head;
  const authority = toHex(certificate.fields.agent);
  return { method, scheme: "https", authority, path, headers: [...own, ...head.headers], content: body, trailers: [] };
}

/** Who calls: address (20 bytes), the expiry of the word (Unix seconds), its signature over a session. */
export interface Speaker {
  address: Uint8Array;
  expiry: number;
  sign: SignSession;
  kind?: CallerKind | undefined;
}

async function callerOf(speaker: Speaker, { fields }: KeyCertificate, exchange: Exchange): Promise<Caller> {
  const { address, expiry, kind } = speaker;
  const exporter = exchange.context.export(CALLER_EXPORT, 32);
  const session: CallerSession = { agent: fields.agent, boot: fields.boot, exporter, expiry };
  const signature = toHex(await speaker.sign(session));
  return { address: toHex(address), expiry, signature, ...(kind && { kind }) };
}

/** A call ready to send. `opener` opens its answer; `salt` and `commitment` belong to the receipt. */
export interface ObliviousRequest {
  data: Uint8Array<ArrayBuffer>;
  opener: WholeOpener | StreamOpener;
  salt: Uint8Array;
  commitment: Uint8Array;
  requestId: string;
}

/**
 * One request, padded, in a context of its own. `config`: what `ObliviousKey.verify` gave; `chunked`: the answer comes in
 * chunks. Throws EnvelopeError.
 */
export async function seal(
  config: KeyConfig,
  certificate: KeyCertificate,
  head: RequestHead,
  body: Uint8Array,
  rng: Rng,
  speaker?: Speaker,
  chunked = false,
): Promise<ObliviousRequest> {
  const made = new Encapsulator(config, rng, config.choose(), chunked);
  const { exchange } = made;
  const said = speaker ? { ...head, caller: await callerOf(speaker, certificate, exchange) } : head;
  const message = toMessage(certificate, said, body);
  const bare = encodeRequest(message);
  const salt = receiptSalt(exchange.context, 0);
  return {
    data: made.seal(encodeRequest(message, false, paddedSize(bare.length))),
    opener: chunked ? new StreamOpener(exchange) : new WholeOpener(exchange),
    salt,
    commitment: requestCommitment(salt, encodeRequestHead(message), body),
    requestId: head.requestId,
  };
}

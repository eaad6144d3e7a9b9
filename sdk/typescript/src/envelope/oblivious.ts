/**
 * Oblivious calls, the client's end: verify a worker's key, seal a request, open its answer (spec/ohttp.md 4 to 7).
 *
 * Verify the seat first: this module rests on its certificate.
 */

import { sha256 } from "@noble/hashes/sha2.js";
import { define, EnvelopeError } from "../errors.ts";
import { equalBytes, type Rng } from "../encoding/bytes.ts";
import { Context, digest } from "../encoding/contexts.ts";
import { fromHex, needFields, toHex } from "../encoding/hexes.ts";
import { verifySigner } from "../encoding/signatures.ts";
import type { CallerSession } from "../encoding/statements.ts";
import * as idsig from "../keys/idsig.ts";
import { receiptSalt, requestCommitment, responseCommitment } from "../receipts/commitments.ts";
import {
  type BinaryRequest,
  type BinaryResponse,
  decodeResponse,
  encodeRequest,
  encodeRequestHead,
  paddedSize,
} from "./bhttp.ts";
import type { KeyCertificate } from "./certificate.ts";
import type { SignSession } from "./client.ts";
import {
  type Caller,
  CALLER_EXPORT,
  type CallerKind,
  encodeRequestHead as checkHead,
  type Headers,
  type RequestHead,
} from "./model.ts";
import { Encapsulator, type Exchange, KEM_X25519, KEM_XWING, KeyConfig } from "./ohttp.ts";
import { type Failed, failureOf, type Final, receiptOf } from "./opener.ts";

export const MAX_ANSWER = 16 << 20;
const RESERVED = "cloister-";
const CHECKPOINT = "cloister-checkpoint";
const REFUSAL = "cloister-refusal";
const RECEIPT = "cloister-receipt";

export const BAD_FIELD = define(
  "oblivious.field",
  EnvelopeError,
  "a request has every field that spec/ohttp.md 5 demands, once and in its form, and no other of that name",
  "use a client of this version, or compare the request with spec/ohttp.md 5",
);
export const BAD_KEY = define(
  "oblivious.key",
  EnvelopeError,
  "an oblivious key is a configuration of its own purpose for one key certificate, signed by worker and key",
  "take another seat of the agent; do not seal to this key",
  403,
);
export const BAD_ANSWER = define(
  "oblivious.answer",
  EnvelopeError,
  "an answer is a response with checkpoint and receipt, or a refusal with its code",
  "the worker does not speak this version; take another seat",
  502,
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

/** A call ready to send, and what opens its answer. `salt` and `commitment` belong to the receipt. */
export interface ObliviousRequest {
  data: Uint8Array<ArrayBuffer>;
  salt: Uint8Array;
  commitment: Uint8Array;
  requestId: string;
  /** The answer, or the worker's refusal, which is authentic too. Throws EnvelopeError for what is neither. */
  open(data: Uint8Array): Answer | Failed;
}

/** One request, padded, in a context of its own. `config`: what `ObliviousKey.verify` gave. Throws EnvelopeError. */
export async function seal(
  config: KeyConfig,
  certificate: KeyCertificate,
  head: RequestHead,
  body: Uint8Array,
  rng: Rng,
  speaker?: Speaker,
): Promise<ObliviousRequest> {
  const made = new Encapsulator(config, rng);
  const { exchange } = made;
  const said = speaker ? { ...head, caller: await callerOf(speaker, certificate, exchange) } : head;
  const message = toMessage(certificate, said, body);
  const bare = encodeRequest(message);
  const salt = receiptSalt(exchange.context, 0);
  return {
    data: made.seal(encodeRequest(message, false, paddedSize(bare.length))),
    salt,
    commitment: requestCommitment(salt, encodeRequestHead(message), body),
    requestId: head.requestId,
    open: (data) => answerOf(decodeResponse(exchange.openResponse(data, MAX_ANSWER), MAX_ANSWER), salt),
  };
}

/** A good answer. `commitment`: what the receipt must say of this response. */
export interface Answer {
  type: "answer";
  status: number;
  headers: Headers;
  checkpoint: number;
  body: Uint8Array;
  final: Final;
  commitment: Uint8Array;
}

/** Take a response apart. Throws EnvelopeError: oblivious.answer, envelope.head, oblivious.field. */
export function answerOf(response: BinaryResponse, salt: Uint8Array): Answer | Failed {
  const ours = response.headers.filter(([name]) => name.startsWith(RESERVED));
  const refusal = ours.find(([name]) => name === REFUSAL)?.[1];
  if (refusal !== undefined) return refusalOf(response, refusal);
  const [first, final] = [ours[0], response.trailers[0]];
  if (ours.length !== 1 || first?.[0] !== CHECKPOINT || response.trailers.length !== 1 || final?.[0] !== RECEIPT) {
    const found = [...ours, ...response.trailers].map(([name]) => name).join(", ").slice(0, 120);
    throw BAD_ANSWER("one checkpoint and one receipt", found);
  }
  const headers = response.headers.filter(([name]) => !name.startsWith(RESERVED));
  const { status, content: body } = response;
  return {
    type: "answer",
    status,
    headers,
    checkpoint: numberOf(first[1]),
    body,
    final: receiptOf(Uint8Array.from(final[1], (letter) => letter.charCodeAt(0))),
    commitment: responseCommitment(salt, status, headers, sha256(body)),
  };
}

function refusalOf(response: BinaryResponse, code: string): Failed {
  const failed = failureOf(response.content);
  if (failed.error.code === code) return failed;
  throw BAD_ANSWER("a refusal that says what its field says", code.slice(0, 80));
}

function numberOf(text: string): number {
  if (!/^(0|[1-9][0-9]{0,15})$/.test(text)) throw BAD_FIELD(`${CHECKPOINT} as a number`, text.slice(0, 40));
  return Number(text);
}

/** Key certificates and seats: which worker may open calls to an agent (spec/sealed-http.md 1). */

import { define, EnvelopeError, isObject } from "../errors.ts";
import { equalBytes } from "../encoding/bytes.ts";
import { Context, digest, frame } from "../encoding/contexts.ts";
import { fromHex, needFields, needList, needUint, toHex } from "../encoding/hexes.ts";
import { type AgentVersion, callIdentity } from "../encoding/identity.ts";
import * as jcs from "../encoding/jcs.ts";
import { MAX_MEMBERS, type SignerSet, verifyCommittee, verifySigner } from "../encoding/signatures.ts";
import { Lease } from "../encoding/statements.ts";

export const SUITE = 1;
/** The certificate has an X-Wing key besides; the client chooses (spec/sealed-http.md 14). */
export const XWING_SUITE = 2;

export const WRONG_NETWORK = define(
  "envelope.wrong_network",
  EnvelopeError,
  "the certificate is of the network that this client pins",
  "compare the fingerprint of network.json with the one that the operator publishes",
);
export const WRONG_SUITE = define(
  "envelope.suite",
  EnvelopeError,
  "the certificate names a cipher suite that this build speaks",
  "update this software",
);
export const NOT_LEASED = define(
  "envelope.not_leased",
  EnvelopeError,
  "a committee lease covers every field of the certificate",
  "take another seat of the agent; this worker offers a key that nobody leased to it",
  403,
);
export const CERTIFICATE_EXPIRED = define(
  "envelope.certificate_expired",
  EnvelopeError,
  "the certificate's expiry height is ahead of the newest checkpoint",
  "fetch the agent's seats again",
);

/** Sizes of byte fields; the others are integers below 2^53. */
const FIELDS = {
  network: 32,
  agent: 32,
  code_hash: 32,
  manifest_hash: 32,
  cluster: 32,
  master_epoch: 0,
  cluster_epoch: 0,
  agent_epoch: 0,
  period: 0,
  worker: 20,
  boot: 32,
  hpke_key: 32,
  expiry: 0,
  suite: 0,
} as const;
const XWING_KEY = 1216;
const LEASED = [
  "agent",
  "code_hash",
  "manifest_hash",
  "cluster",
  "master_epoch",
  "cluster_epoch",
  "agent_epoch",
  "period",
  "worker",
  "boot",
] as const;

type FieldValue<S extends number> = S extends 0 ? number : Uint8Array;
/** The fields of a certificate, by their wire names. */
export type CertificateFields = { readonly [N in keyof typeof FIELDS]: FieldValue<(typeof FIELDS)[N]> } & {
  /** In suite 2 only. */
  readonly xwing_key?: Uint8Array;
};

/** A worker's HPKE key for one agent, at one code, one set of epochs, one period and one boot. */
export class KeyCertificate {
  /** The canonical bytes that are signed and sealed to. */
  readonly encoded: Uint8Array;
  /** digest(KEY_CERTIFICATE, bytes): what the worker signs and what records name. 32 bytes. */
  readonly id: Uint8Array;

  private constructor(readonly fields: CertificateFields) {
    this.encoded = jcs.encode(this.toJson());
    this.id = digest(Context.KEY_CERTIFICATE, this.encoded);
  }

  /** The HPKE info of every context under this certificate. */
  get info(): Uint8Array {
    return frame(Context.SEALED_INFO, this.encoded);
  }

  /** The associated data of a PSK's IBE ciphertext. 32 bytes. */
  get pskAad(): Uint8Array {
    return digest(Context.SEALED_INFO, this.encoded);
  }

  /** The agent at the epochs of the certificate. */
  get version(): AgentVersion {
    return this.fields;
  }

  /** Identity bytes of the `call` key of the certificate's period, to which PSKs are encrypted. */
  get callIdentity(): Uint8Array {
    return callIdentity(this.fields, this.fields.period);
  }

  /** Whether the certificate has an X-Wing key. */
  get hybrid(): boolean {
    return this.fields.suite === XWING_SUITE;
  }

  /** JSON-ready fields, bytes as hex. */
  toJson(): Record<string, jcs.Json> {
    const plain = (value: number | Uint8Array) => (typeof value === "number" ? value : toHex(value));
    return Object.fromEntries(Object.entries(this.fields).map(([name, value]) => [name, plain(value)]));
  }

  /** Parse `toJson` output. Throws EncodingError; unknown fields are refused. */
  static fromJson(value: unknown): KeyCertificate {
    const hybrid = isObject(value) && value["suite"] === XWING_SUITE;
    const sizes: Record<string, number> = hybrid ? { ...FIELDS, xwing_key: XWING_KEY } : FIELDS;
    const data = needFields("key certificate", value, Object.keys(sizes));
    const read = ([name, size]: [string, number]) =>
      [name, size ? fromHex(data[name], size, name) : needUint(name, data[name])] as const;
    return new KeyCertificate(Object.fromEntries(Object.entries(sizes).map(read)) as unknown as CertificateFields);
  }
}

/** One worker's offer for one agent, as gateways list it. Nothing in it counts before `verify`. */
export class Seat {
  constructor(
    readonly certificate: KeyCertificate,
    readonly signature: Uint8Array,
    readonly lease: Lease,
    readonly leaseSignatures: readonly Uint8Array[],
  ) {}

  /**
   * Throw unless the worker may open calls with this key at height `now` (spec/sealed-http.md 1).
   *
   * 1. the pinned network; 2. a known suite; 3. the lease says the same in every field; 4. neither has expired;
   * 5. the worker signed the certificate; 6. t members signed the lease.
   */
  verify(signers: SignerSet, network: Uint8Array, now: number): void {
    const { fields, id } = this.certificate;
    if (!equalBytes(fields.network, network)) throw WRONG_NETWORK(toHex(network), toHex(fields.network)); // 1
    if (fields.suite !== SUITE && fields.suite !== XWING_SUITE) {
      throw WRONG_SUITE(`suite ${SUITE} or ${XWING_SUITE}`, `suite ${fields.suite}`); // 2
    }
    sameAsLease(fields, this.lease); // 3
    if (now >= fields.expiry) throw CERTIFICATE_EXPIRED(`an expiry above block ${now}`, `block ${fields.expiry}`); // 4
    verifySigner(id, this.signature, fields.worker); // 5
    verifyCommittee(this.lease.term, Lease.digest(this.lease, network), this.leaseSignatures, signers); // 6
  }

  /** JSON-ready: {certificate, certificate_signature, lease: {statement, signatures}}. */
  toJson(): Record<string, jcs.Json> {
    return {
      certificate: this.certificate.toJson(),
      certificate_signature: toHex(this.signature),
      lease: { statement: Lease.toJson(this.lease), signatures: this.leaseSignatures.map(toHex) },
    };
  }

  /** Parse `toJson` output. Throws EncodingError. */
  static fromJson(value: unknown): Seat {
    const data = needFields("seat", value, ["certificate", "certificate_signature", "lease"]);
    const lease = needFields("lease", data["lease"], ["statement", "signatures"]);
    const tooMany = (found: string) => NOT_LEASED(`a list of at most ${MAX_MEMBERS} signatures`, found);
    const signatures = needList(lease["signatures"], MAX_MEMBERS, tooMany);
    return new Seat(
      KeyCertificate.fromJson(data["certificate"]),
      fromHex(data["certificate_signature"], 65, "certificate signature"),
      Lease.fromJson(lease["statement"]),
      signatures.map((s) => fromHex(s, 65, "lease signature")),
    );
  }
}

function sameAsLease(fields: CertificateFields, lease: Lease): void {
  const differing = LEASED.filter((name) => !same(fields[name], lease[name]));
  if (differing.length) throw NOT_LEASED("the lease's fields", `other ${differing.join(", ")}`);
  if (fields.expiry > lease.expiry) {
    throw NOT_LEASED(`an expiry of at most block ${lease.expiry}`, `block ${fields.expiry}`);
  }
}

function same(left: number | Uint8Array, right: number | Uint8Array): boolean {
  if (left instanceof Uint8Array) return right instanceof Uint8Array && equalBytes(left, right);
  return left === right;
}

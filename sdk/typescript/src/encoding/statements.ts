/** Statements: EIP-712 typed data under the network's domain (spec/statements.md). */

import { concat, uintBytes, utf8 } from "./bytes.ts";
import { BAD_SIZE, fromHex, needBytes, needFields, needUint, toHex } from "./hexes.ts";
import type { Json } from "./jcs.ts";
import { keccak256 } from "./keccak.ts";

type Kind = "uint64" | "uint256" | "bytes32" | "address";
type Value<K extends Kind> = K extends "uint64" ? number : K extends "uint256" ? bigint : Uint8Array;
type Fields = Readonly<Record<string, Kind>>;
/** The fields of a statement: numbers, bigints for uint256, bytes. */
export type Values<F extends Fields> = { readonly [N in keyof F]: Value<F[N]> };

const DOMAIN_TYPE = keccak256(utf8("EIP712Domain(string name,string version,bytes32 salt)"));
const MAX_DECIMALS = 78;

/** EIP-712 domain separator of a network id (32 bytes). */
export function domainSeparator(network: Uint8Array): Uint8Array {
  const salt = needBytes("network id", network, 32);
  return keccak256(DOMAIN_TYPE, keccak256(utf8("Cloister")), keccak256(utf8("1")), salt);
}

/** One statement type: how its values are hashed and how they travel. Field names are those on the wire. */
export class StatementType<F extends Fields> {
  constructor(readonly name: string, readonly fields: F) {}

  /** The EIP-712 encodeType text. */
  typeString(): string {
    return `${this.name}(${this.typedFields().map((f) => `${f.type} ${f.name}`).join(",")})`;
  }

  /** Fields as wallets want them for eth_signTypedData_v4. */
  typedFields(): { name: string; type: string }[] {
    return Object.entries(this.fields).map(([name, type]) => ({ name: camel(name), type }));
  }

  /** EIP-712 hashStruct. Throws EncodingError for a value out of its type. */
  structHash(values: Values<F>): Uint8Array {
    const words = Object.entries(this.fields).map(([name, kind]) => word(kind, name, values[name]));
    return keccak256(keccak256(utf8(this.typeString())), ...words);
  }

  /** The 32 bytes to sign, under this network's domain. */
  digest(values: Values<F>, network: Uint8Array): Uint8Array {
    return keccak256(Uint8Array.of(0x19, 0x01), domainSeparator(network), this.structHash(values));
  }

  /** JSON-ready fields: bytes as hex, uint256 as decimal text. */
  toJson(values: Values<F>): { [name: string]: Json } {
    const plain = (value: unknown): Json => {
      if (value instanceof Uint8Array) return toHex(value);
      return typeof value === "bigint" ? value.toString() : (value as number);
    };
    return Object.fromEntries(Object.keys(this.fields).map((name) => [name, plain(values[name])]));
  }

  /** Parse `toJson` output. Throws EncodingError for anything else, unknown fields included. */
  fromJson(value: unknown): Values<F> {
    const data = needFields(this.name, value, Object.keys(this.fields));
    const entries = Object.entries(this.fields).map(([name, kind]) => [name, parsed(kind, name, data[name])]);
    return Object.fromEntries(entries) as Values<F>;
  }
}

/** A finalised block that the committee vouches for. */
export const Checkpoint = new StatementType("Checkpoint", {
  term: "uint64",
  chain_id: "uint256",
  number: "uint64",
  block_hash: "bytes32",
  state_root: "bytes32",
  timestamp: "uint64",
});
export type Checkpoint = Values<typeof Checkpoint.fields>;

/** Worker W (boot b) may run agent A at these versions until block `expiry`. */
export const Lease = new StatementType("Lease", {
  term: "uint64",
  agent: "bytes32",
  code_hash: "bytes32",
  manifest_hash: "bytes32",
  cluster: "bytes32",
  master_epoch: "uint64",
  cluster_epoch: "uint64",
  agent_epoch: "uint64",
  period: "uint64",
  worker: "address",
  boot: "bytes32",
  checkpoint: "uint64",
  expiry: "uint64",
});
export type Lease = Values<typeof Lease.fields>;

/**
 * Term `next_term` = `term` + 1 took office in block `height` at `timestamp` (Unix seconds of that block).
 *
 * members = `membersHash`; mpk = keccak256 of the 96 bytes; master_epoch: the one that the MPK belongs to. Signed by t
 * members of `term` (spec/gatekeepers.md H1).
 */
export const Handover = new StatementType("Handover", {
  term: "uint64",
  next_term: "uint64",
  threshold: "uint64",
  members: "bytes32",
  master_epoch: "uint64",
  mpk: "bytes32",
  height: "uint64",
  timestamp: "uint64",
});
export type Handover = Values<typeof Handover.fields>;

/** keccak256(abi.encode(address[])) of the member addresses in order (20 bytes each). */
export function membersHash(members: readonly Uint8Array[]): Uint8Array {
  const words = members.map((member) => concat(new Uint8Array(12), needBytes("member address", member, 20)));
  return keccak256(uintBytes(32, 32), uintBytes(words.length, 32), ...words);
}

/** A wallet opens one sealed session: bound to the agent, the worker's boot and this very HPKE context. */
export const CallerSession = new StatementType("CallerSession", {
  agent: "bytes32",
  boot: "bytes32",
  exporter: "bytes32",
  expiry: "uint64",
});
export type CallerSession = Values<typeof CallerSession.fields>;

function camel(name: string): string {
  return name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

function word(kind: Kind, name: string, value: unknown): Uint8Array {
  if (kind === "bytes32") return needBytes(name, value, 32);
  if (kind === "address") return concat(new Uint8Array(12), needBytes(name, value, 20));
  if (kind === "uint64") return uintBytes(needUint(name, value, 64), 32);
  if (typeof value !== "bigint" || value < 0n || value >> 256n) throw notUint256(name, typeof value);
  return uintBytes(value, 32);
}

function parsed(kind: Kind, name: string, value: unknown): number | bigint | Uint8Array {
  if (kind === "bytes32" || kind === "address") return fromHex(value, kind === "bytes32" ? 32 : 20, name);
  if (kind === "uint64") return needUint(name, value, 64);
  if (typeof value !== "string" || value.length > MAX_DECIMALS || !/^(0|[1-9][0-9]*)$/.test(value)) {
    throw notUint256(name, typeof value);
  }
  const number = BigInt(value);
  if (number >> 256n) throw notUint256(name, "a larger one");
  return number;
}

function notUint256(name: string, found: string): Error {
  return BAD_SIZE(`${name} as an unsigned 256-bit integer`, found);
}

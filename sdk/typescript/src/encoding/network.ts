/** The network file: what a network is, in bytes that are pinned (spec/encoding.md 7, 8). */

import { sha256 } from "@noble/hashes/sha2.js";
import { define, EncodingError, isObject } from "../errors.ts";
import { equalBytes, utf8 } from "./bytes.ts";
import { Context, digest } from "./contexts.ts";
import { fromHex, needFields, needUint, needVersion, toHex } from "./hexes.ts";
import * as jcs from "./jcs.ts";
import { SignerSet } from "./signatures.ts";

export const MAX_FILE = 1 << 20;
const MODES: readonly string[] = ["devnet", "production"];
const PRINT = /^0x[0-9a-f]{64}$/;
const WORD = /^[a-z0-9-]{1,64}$/;
const GENESIS = [
  "version",
  "mode",
  "chain_id",
  "genesis_hash",
  "contracts",
  "policy",
  "roots",
  "header_verifier",
] as const;
const OWN = ["founding", "transcript", "mpk", "share_keys", "master_epoch", "network_id"] as const;

export const BAD_NETWORK = define(
  "encoding.network",
  EncodingError,
  "the network file is complete and its ids follow from its contents",
  "take the file from the network's operators again and compare its fingerprint",
);
export const WRONG_FINGERPRINT = define(
  "encoding.fingerprint",
  EncodingError,
  "the network file has the fingerprint that you pinned",
  "stop: somebody serves you another network; compare fingerprints over a second channel",
  403,
);

/** A contract of the network: 20-byte address and keccak256 of its code. */
export interface ContractRef {
  address: Uint8Array;
  codeHash: Uint8Array;
}

/** Everything that is fixed before the founding committee deals. `roots`: vendor -> sha256 of accepted roots, in hex. */
export interface Genesis {
  mode: string;
  chainId: number;
  genesisHash: Uint8Array;
  contracts: ReadonlyMap<string, ContractRef>;
  policy: Readonly<Record<string, unknown>>;
  roots: Readonly<Record<string, readonly string[]>>;
  headerVerifier: string;
}

/** The network file. `id` is the network id, `fingerprint` SHA-256 of the bytes in hex: what clients pin. */
export interface Network {
  genesis: Genesis;
  founding: SignerSet;
  transcript: Uint8Array;
  mpk: Uint8Array;
  shareKeys: readonly Uint8Array[];
  masterEpoch: number;
  id: Uint8Array;
  fingerprint: string;
}

/**
 * Parse network.json. Throws EncodingError: malformed, other fingerprint, ids that do not follow.
 *
 * 1. the fingerprint, before anything is parsed; 2. canonical form and fields; 3. the network id; 4. the file is as
 * this build would write it: nothing in another order.
 */
export function parseNetwork(data: Uint8Array, fingerprint?: string): Network {
  const found = toHex(sha256(data)).slice(2);
  if (fingerprint !== undefined && found !== fingerprint) throw WRONG_FINGERPRINT(fingerprint, found); // 1
  const value = jcs.decode(data, MAX_FILE); // 2
  if (!isObject(value)) throw BAD_NETWORK("an object", typeof value);
  const own = (name: string) => Object.hasOwn(value, name) ? value[name] : null;
  const rest = Object.fromEntries(Object.entries(value).filter(([name]) => !OWN.includes(name as typeof OWN[number])));
  const genesis = parseGenesis(rest);
  const founding = parseFounding(own("founding"));
  const transcript = fromHex(own("transcript"), 32, "transcript");
  const shareKeys = parseShareKeys(own("share_keys"), founding);
  const id = networkId(genesisId(genesis), transcript);
  const mpk = fromHex(own("mpk"), 96, "mpk");
  const masterEpoch = needUint("master_epoch", own("master_epoch"), 64);
  if (toHex(id) !== own("network_id")) throw BAD_NETWORK(toHex(id), String(own("network_id")).slice(0, 80)); // 3
  requireSortedRoots(genesis); // 4: with canonical form and exact fields, the one freedom that is left
  return { genesis, founding, transcript, mpk, shareKeys, masterEpoch, id, fingerprint: found };
}

/** A contract's address. Throws EncodingError for a name that the file does not have. */
export function contractAddress(genesis: Genesis, name: string): Uint8Array {
  const found = genesis.contracts.get(name);
  if (!found) throw BAD_NETWORK(`contract ${name}`, "none of that name");
  return found.address;
}

/** digest(POLICY, JCS policy): what the Policies contract holds. */
export function policyHash(genesis: Genesis): Uint8Array {
  return digest(Context.POLICY, jcs.encode(genesis.policy));
}

/** The genesis id (spec/encoding.md 7). 32 bytes. */
export function genesisId(genesis: Genesis): Uint8Array {
  const contracts = [...genesis.contracts].map(([name, ref]) => [
    name,
    { address: toHex(ref.address), code_hash: toHex(ref.codeHash) },
  ]);
  const body = {
    mode: genesis.mode,
    chain_id: genesis.chainId,
    genesis_hash: toHex(genesis.genesisHash),
    contracts: Object.fromEntries(contracts),
    policy_hash: toHex(policyHash(genesis)),
    roots: Object.fromEntries(Object.entries(genesis.roots).map(([v, prints]) => [v, [...prints].sort()])),
    header_verifier: genesis.headerVerifier,
  };
  return digest(Context.NETWORK_ID, utf8("genesis"), jcs.encode(body));
}

/** digest(NETWORK_ID, "network", genesis id, transcript). 32 bytes. */
export function networkId(genesis: Uint8Array, transcript: Uint8Array): Uint8Array {
  return digest(Context.NETWORK_ID, utf8("network"), genesis, transcript);
}

function parseGenesis(value: Record<string, unknown>): Genesis {
  const data = needFields("genesis", value, GENESIS);
  const [contracts, policy, roots] = [table(data, "contracts"), table(data, "policy"), table(data, "roots")];
  needVersion("genesis", data["version"], 1);
  const mode = word("mode", data["mode"]);
  if (!MODES.includes(mode)) throw BAD_NETWORK(`mode in ${MODES.join(", ")}`, mode);
  return {
    mode,
    chainId: needUint("chain_id", data["chain_id"]),
    genesisHash: fromHex(data["genesis_hash"], 32, "genesis_hash"),
    contracts: new Map(Object.entries(contracts).map(([name, ref]) => [name, contractRef(ref)])),
    policy,
    roots: Object.fromEntries(Object.entries(roots).map(([v, prints]) => [word("vendor", v), prints_(v, prints)])),
    headerVerifier: word("header_verifier", data["header_verifier"]),
  };
}

function table(data: Record<string, unknown>, name: string): Record<string, unknown> {
  const value = data[name];
  if (!isObject(value)) throw BAD_NETWORK(`${name} as an object`, typeof value);
  return value;
}

function contractRef(value: unknown): ContractRef {
  const data = needFields("contract", value, ["address", "code_hash"]);
  return { address: fromHex(data["address"], 20, "address"), codeHash: fromHex(data["code_hash"], 32, "code_hash") };
}

function parseFounding(value: unknown): SignerSet {
  const data = needFields("founding", value, ["term", "threshold", "members"]);
  const members = Array.isArray(data["members"]) ? data["members"] : [];
  return new SignerSet(
    needUint("term", data["term"], 64),
    needUint("threshold", data["threshold"], 8),
    members.map((m) => fromHex(m, 20, "member")),
  );
}

function parseShareKeys(value: unknown, founding: SignerSet): Uint8Array[] {
  const keys = (Array.isArray(value) ? value : []).map((key) => fromHex(key, 96, "share key"));
  if (keys.length !== founding.members.length) {
    throw BAD_NETWORK("one share key per member", `${keys.length} share keys`);
  }
  return keys;
}

function word(name: string, value: unknown): string {
  if (typeof value !== "string" || !WORD.test(value)) {
    throw BAD_NETWORK(`${name} as a word`, String(value).slice(0, 40));
  }
  return value;
}

function prints_(vendor: string, value: unknown): string[] {
  if (!Array.isArray(value) || !value.every((p) => typeof p === "string" && PRINT.test(p))) {
    throw BAD_NETWORK(`roots of ${vendor.slice(0, 40)} as a list of SHA-256 in hex`, typeof value);
  }
  return value as string[];
}

function requireSortedRoots(genesis: Genesis): void {
  for (const prints of Object.values(genesis.roots)) {
    if (!equalBytes(jcs.encode(prints), jcs.encode([...prints].sort()))) {
      throw BAD_NETWORK("the file as this build writes it", "another spelling, as of unsorted roots");
    }
  }
}

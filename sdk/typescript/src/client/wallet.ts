/** Who calls: an injected signer of EIP-712 sessions. The key stays with the wallet. */

import { ConfigError, define } from "../errors.ts";
import { concat } from "../encoding/bytes.ts";
import { fromHex, toHex } from "../encoding/hexes.ts";
import type { Json } from "../encoding/jcs.ts";
import { addressOf, signDigest, verifySigner } from "../encoding/signatures.ts";
import { CallerSession } from "../encoding/statements.ts";
import { secp256k1 } from "@noble/curves/secp256k1.js";

export const BAD_KEY = define(
  "client.wallet_key",
  ConfigError,
  "a private key is 32 bytes in hex and a valid secp256k1 scalar",
  "export the key again from the wallet that made it",
);
/** What `eth_signTypedData_v4` takes. */
export interface TypedData {
  domain: { [name: string]: Json };
  types: { [name: string]: { name: string; type: string }[] };
  primaryType: string;
  message: { [name: string]: Json };
}

/** A wallet: its address (0x hex, any case) and one way to sign. `signDigest`: 65 bytes over a 32-byte EIP-712 hash. */
export interface Signer {
  readonly address: string;
  readonly signTypedData?: (data: TypedData) => Promise<string> | string;
  readonly signDigest?: (digest: Uint8Array) => Promise<Uint8Array> | Uint8Array;
}

/** A signer over a private key (0x hex of 32 bytes), for programs. Throws ConfigError (client.wallet_key). */
export function privateKeySigner(key: string): Signer {
  const raw = /^(0x)?[0-9a-f]{64}$/i.test(key) ? fromHex(`0x${key.toLowerCase().replace(/^0x/, "")}`, 32) : undefined;
  if (!raw || !secp256k1.utils.isValidSecretKey(raw)) throw BAD_KEY("32 bytes that are a key", "something else");
  return {
    address: toHex(addressOf(secp256k1.getPublicKey(raw, false))),
    signDigest: (digest) => signDigest(raw, digest),
  };
}

/** A signer over a browser wallet: `request` is the `request` method of an EIP-1193 provider. */
export function providerSigner(
  address: string,
  request: (call: { method: string; params: unknown[] }) => Promise<unknown>,
): Signer {
  const sign = async (data: TypedData) =>
    String(await request({ method: "eth_signTypedData_v4", params: [address, JSON.stringify(data)] }));
  return { address, signTypedData: sign };
}

/** The 20 bytes of a signer's address. Throws EncodingError. */
export function addressBytes(signer: Signer): Uint8Array {
  return fromHex(signer.address.toLowerCase(), 20, "signer address");
}

/** The session as typed data, for wallets that show what they sign. `network`: 32 bytes. */
export function sessionTypedData(session: CallerSession, network: Uint8Array): TypedData {
  const own = CallerSession.typedFields();
  return {
    domain: { name: "Cloister", version: "1", salt: toHex(network) },
    types: {
      EIP712Domain: [
        { name: "name", type: "string" },
        { name: "version", type: "string" },
        { name: "salt", type: "bytes32" },
      ],
      CallerSession: own,
    },
    primaryType: "CallerSession",
    message: CallerSession.toJson(session),
  };
}

/** 65 bytes over the session, checked to be the signer's. Throws EncodingError (encoding.signature). */
export async function signSession(signer: Signer, session: CallerSession, network: Uint8Array): Promise<Uint8Array> {
  const digest = CallerSession.digest(session, network);
  const signature = usual(await rawSignature(signer, session, digest, network));
  verifySigner(digest, signature, addressBytes(signer));
  return signature;
}

async function rawSignature(
  signer: Signer,
  session: CallerSession,
  digest: Uint8Array,
  network: Uint8Array,
): Promise<Uint8Array> {
  if (signer.signDigest) return await signer.signDigest(digest);
  if (!signer.signTypedData) throw new TypeError("a signer has signTypedData or signDigest");
  const text = await signer.signTypedData(sessionTypedData(session, network));
  return fromHex(String(text).toLowerCase(), 65, "wallet signature");
}

/** Some wallets write v as 0 or 1. */
function usual(signature: Uint8Array): Uint8Array {
  const v = signature[64]!;
  return v < 27 ? concat(signature.subarray(0, 64), Uint8Array.of(v + 27)) : signature;
}

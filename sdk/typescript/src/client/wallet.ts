/** Who calls: an injected signer of EIP-712 sessions. The key stays with the wallet. */

import { hmac } from "@noble/hashes/hmac.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { ConfigError, define, EnvelopeError } from "../errors.ts";
import { concat, utf8 } from "../encoding/bytes.ts";
import { Context, digest as contextDigest, frame } from "../encoding/contexts.ts";
import { fromHex, toHex } from "../encoding/hexes.ts";
import type { Json } from "../encoding/jcs.ts";
import { addressOf, signDigest, verifySigner } from "../encoding/signatures.ts";
import { CallerSession } from "../encoding/statements.ts";
import { type CallerKind, MAX_SIGNATURE, TOO_LARGE } from "../envelope/model.ts";
import { secp256k1 } from "@noble/curves/secp256k1.js";

export const BAD_KEY = define(
  "client.wallet_key",
  ConfigError,
  "a private key is 32 bytes in hex and a valid secp256k1 scalar",
  "export the key again from the wallet that made it",
);
export const BAD_API_KEY = define(
  "envelope.api_key_text",
  EnvelopeError,
  "an API key is `clk1_` and 64 hex digits",
  "copy the whole text that `cloister agent keys new` printed",
);
/** What `eth_signTypedData_v4` takes. */
export interface TypedData {
  domain: { [name: string]: Json };
  types: { [name: string]: { name: string; type: string }[] };
  primaryType: string;
  message: { [name: string]: Json };
}

/**
 * A wallet: its address (0x hex, any case) and one way to sign. `signDigest`: 65 bytes over a 32-byte EIP-712 hash.
 *
 * `kind`: the signer is a contract account, whose signatures only the contract can judge, or an API key.
 */
export interface Signer {
  readonly address: string;
  readonly kind?: CallerKind;
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

/** A contract account (EIP-1271): `sign` makes what its `isValidSignature` accepts over the digest, at most 4096 bytes. */
export function contractSigner(
  address: string,
  sign: (digest: Uint8Array) => Promise<Uint8Array> | Uint8Array,
): Signer {
  return { address, kind: "contract", signDigest: sign };
}

/** A signer by an API key: `clk1_` and 64 hex digits. The key stays here. Throws EnvelopeError without showing it. */
export function apiKeySigner(text: string): Signer {
  if (!/^clk1_[0-9a-f]{64}$/.test(text.trim())) {
    throw BAD_API_KEY("clk1_ and 64 hex digits", `${text.length} characters of another form`);
  }
  const mac = contextDigest(Context.API_KEY, utf8("mac"), fromHex(`0x${text.trim().slice(5)}`, 32));
  return {
    address: toHex(contextDigest(Context.API_KEY, utf8("id"), mac).subarray(0, 20)),
    kind: "apikey",
    signDigest: (digest) => hmac(sha256, mac, frame(Context.API_KEY, utf8("session"), digest)),
  };
}

/** The address that may be an agent's owner: the signer's, if it has one; an API key is nobody's address. */
export function ownerBytes(signer: Signer | undefined): Uint8Array | undefined {
  return signer === undefined || signer.kind === "apikey" ? undefined : addressBytes(signer);
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

/** The signer's word over the session; a wallet's 65 bytes are checked to be its own. Throws EncodingError. */
export async function signSession(signer: Signer, session: CallerSession, network: Uint8Array): Promise<Uint8Array> {
  const digest = CallerSession.digest(session, network);
  if (signer.kind) return capped(await rawSignature(signer, session, digest, network));
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
  return fromHex(String(text).toLowerCase(), signer.kind ? undefined : 65, "wallet signature");
}

function capped(signature: Uint8Array): Uint8Array {
  if (signature.length <= MAX_SIGNATURE) return signature;
  throw TOO_LARGE(`a signature of at most ${MAX_SIGNATURE} bytes`, `${signature.length} bytes`);
}

/** Some wallets write v as 0 or 1. */
function usual(signature: Uint8Array): Uint8Array {
  const v = signature[64]!;
  return v < 27 ? concat(signature.subarray(0, 64), Uint8Array.of(v + 27)) : signature;
}

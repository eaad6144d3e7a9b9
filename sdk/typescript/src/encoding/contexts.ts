/** Domain separators and the injective frame under them (spec/encoding.md 3). The values are wire texts. */

import { sha256 } from "@noble/hashes/sha2.js";
import { concat, uintBytes, utf8 } from "./bytes.ts";

/** The contexts that a client uses: the same texts as `core/encoding/contexts.py`. */
export const Context = {
  NETWORK_ID: "cloister/v1/network-id",
  POLICY: "cloister/v1/policy",
  RECEIPT: "cloister/v1/receipt",
  RECEIPT_REQUEST: "cloister/v1/receipt/request",
  RECEIPT_RESPONSE: "cloister/v1/receipt/response",
  RECEIPT_BATCH: "cloister/v1/receipt/batch",
  KEY_CERTIFICATE: "cloister/v1/key-certificate",
  IBE_CIPHERTEXT: "cloister/v1/ibe/ciphertext",
  KEY_POINT: "cloister/v1/key-point",
  IBE_MASK: "cloister/v1/ibe/mask",
  IBE_SCALAR: "cloister/v1/ibe/scalar",
  IBE_BODY: "cloister/v1/ibe/body",
  API_KEY: "cloister/v1/api-key",
  SEALED_REQUEST: "cloister/v1/sealed/request",
  SEALED_RESPONSE: "cloister/v1/sealed/response",
  SEALED_INFO: "cloister/v1/sealed/info",
  OBLIVIOUS_KEY: "cloister/v1/oblivious/key",
  KEY_SIGNATURE: "cloister/v1/key-signature",
} as const;

/** A domain separator. */
export type ContextName = (typeof Context)[keyof typeof Context];

/** context ‖ 00 ‖ (len32be ‖ part)*. */
export function frame(context: ContextName, ...parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  return concat(utf8(`${context}\0`), ...parts.flatMap((part) => [uintBytes(part.length, 4), part]));
}

/** SHA-256 over `frame`. 32 bytes. */
export function digest(context: ContextName, ...parts: readonly Uint8Array[]): Uint8Array {
  return sha256(frame(context, ...parts));
}

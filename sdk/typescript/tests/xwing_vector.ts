/**
 * Makes spec/vectors/xwing.json: an encapsulation and a record under X-Wing from given random bytes.
 *
 * Here, because Python's library draws ML-KEM's randomness by itself. Run it from sdk/typescript:
 * `deno run --config deno.json --allow-read=../.. --allow-write=../../spec/vectors tests/xwing_vector.ts`
 */

import { sha256 } from "@noble/hashes/sha2.js";
import { concat, type Rng, utf8 } from "../src/encoding/bytes.ts";
import { fromHex, toHex } from "../src/encoding/hexes.ts";
import { KeyCertificate } from "../src/envelope/certificate.ts";
import { decapsulate, encapsulate as encapsulateRequest, KeyConfig } from "../src/envelope/ohttp.ts";
import { ClientSession } from "../src/envelope/client.ts";
import { encapsulate, XWingKey } from "../src/keys/xwing.ts";
import { vectors } from "./support.ts";

export const POINT = new Uint8Array(32).fill(0x21);
export const MESSAGE = new Uint8Array(32).fill(0x43);
const IBE = utf8("the place of an IBE ciphertext");

/** The certificate, seed and PSK of callers.json. */
export function given() {
  const { certificate, seed, psk } = vectors("callers.json").xwing;
  const made = KeyCertificate.fromJson(JSON.parse(certificate));
  const named = { certificateId: made.id, secret: fromHex(psk, 32), ciphertext: IBE, id: sha256(IBE) };
  return { certificate: made, key: new XWingKey(fromHex(seed, 32)), psk: named };
}

/** The two draws of an encapsulation, in order. */
export function draws(): Rng {
  const left = [POINT, MESSAGE];
  return () => left.shift()!;
}

/** One request and its answer by oblivious HTTP, to the same key. */
function oblivious() {
  const { key } = given();
  const config = new KeyConfig(7, key.publicKey);
  const [request, response] = ["a question", "an answer"];
  const { data } = encapsulateRequest(config, utf8(request), draws());
  const came = decapsulate(data, key, config, 1 << 16);
  return {
    config: toHex(config.encode()),
    request,
    response,
    encapsulated_request: toHex(data),
    encapsulated_response: toHex(came.exchange.sealResponse(utf8(response), (size) => new Uint8Array(size).fill(0x65))),
  };
}

/** Everything, JSON-ready. */
export function build() {
  const { certificate, key, psk } = given();
  const { enc, shared } = encapsulate(key.publicKey, draws());
  const session = new ClientSession(certificate, psk, draws());
  const head = {
    requestId: "0x" + "08".repeat(16),
    method: "GET",
    path: "/",
    deadlineMs: 1_700_000_030_000,
    headers: [],
  };
  const sealed = session.seal(head, utf8("sealed by the browser's client"));
  return {
    note: "Known answers for spec/sealed-http.md 14 from given random bytes. Seed, certificate and PSK: callers.json.",
    x25519_key: toHex(POINT),
    mlkem_message: toHex(MESSAGE),
    encapsulation: toHex(enc),
    shared: toHex(shared),
    record: toHex(concat(sealed.data)),
    body: "sealed by the browser's client",
    exporter: toHex(session.exporter),
    salt: toHex(sealed.salt),
    request_commitment: toHex(sealed.commitment),
    ohttp: oblivious(),
  };
}

if (import.meta.main) {
  const file = new URL("../../../spec/vectors/xwing.json", import.meta.url);
  Deno.writeTextFileSync(file, JSON.stringify(build(), null, 1) + "\n");
}

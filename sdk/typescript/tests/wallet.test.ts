import { assert, refuses, rejects, vectors } from "./support.ts";
import { fromHex, toHex } from "../src/encoding/hexes.ts";
import { CallerSession } from "../src/encoding/statements.ts";
import {
  addressBytes,
  apiKeySigner,
  contractSigner,
  privateKeySigner,
  providerSigner,
  sessionTypedData,
  signSession,
  type TypedData,
} from "../src/client/wallet.ts";
import { concat } from "../src/encoding/bytes.ts";

const NETWORK = fromHex(vectors("sealed-http.json").seat.certificate.network, 32);
const KEY = "0x" + "11".repeat(32);
const SESSION = { agent: NETWORK, boot: NETWORK, exporter: NETWORK, expiry: 1_700_000_000 };

Deno.test("a private key signs the session's digest, and nothing of it shows", async () => {
  const signer = privateKeySigner(KEY);
  assert.equal(signer.address, "0x19e7e376e7c213b7e7e7e46cc70a5dd086daff2a");
  assert.equal((await signSession(signer, SESSION, NETWORK)).length, 65);
  assert.ok(!JSON.stringify(signer).includes("1111"));
  for (const bad of ["", "0x11", "0x" + "00".repeat(32), "0x" + "ff".repeat(32), "zz".repeat(32)]) {
    refuses("client.wallet_key", () => privateKeySigner(bad));
  }
});

Deno.test("a browser wallet gets typed data whose hash is the session's digest", async () => {
  const own = privateKeySigner(KEY);
  const asked: { method: string; params: unknown[] }[] = [];
  const provider = providerSigner(own.address.toUpperCase().replace("0X", "0x"), async (call) => {
    asked.push(call);
    return toHex(await own.signDigest!(CallerSession.digest(SESSION, NETWORK)));
  });
  assert.deepEqual(await signSession(provider, SESSION, NETWORK), await signSession(own, SESSION, NETWORK));
  assert.equal(asked[0]!.method, "eth_signTypedData_v4");
  const data: TypedData = JSON.parse(String(asked[0]!.params[1]));
  assert.deepEqual(data, sessionTypedData(SESSION, NETWORK));
  assert.deepEqual(data.domain, { name: "Cloister", version: "1", salt: toHex(NETWORK) });
  const types = data.types["CallerSession"]!.map((field) => `${field.type} ${field.name}`).join(",");
  assert.equal(`CallerSession(${types})`, CallerSession.typeString());
});

Deno.test("a signature with v 0 or 1 is put right; another account's is refused", async () => {
  const own = privateKeySigner(KEY);
  const low = {
    address: own.address,
    signDigest: async (digest: Uint8Array) => {
      const signature = await own.signDigest!(digest);
      return concat(signature.subarray(0, 64), Uint8Array.of(signature[64]! - 27));
    },
  };
  assert.deepEqual(await signSession(low, SESSION, NETWORK), await signSession(own, SESSION, NETWORK));
  const other = { ...own, address: "0x" + "22".repeat(20) };
  await rejects("encoding.signature", () => signSession(other, SESSION, NETWORK));
  const short = { address: own.address, signTypedData: () => "0x00" };
  await rejects("encoding.hex", () => signSession(short, SESSION, NETWORK));
  await assert.rejects(() => signSession({ address: own.address }, SESSION, NETWORK), TypeError);
  refuses("encoding.hex", () => addressBytes({ address: "0x00" }));
});

const OTHERS = vectors("callers.json").callers;
const OPEN = {
  agent: fromHex(OTHERS.agent, 32),
  boot: fromHex(OTHERS.boot, 32),
  exporter: fromHex(OTHERS.exporter, 32),
  expiry: OTHERS.expiry,
};

Deno.test("an API key proves a session by the MAC of the specification, and does not show itself", async () => {
  const signer = apiKeySigner(` ${OTHERS.api_key.text}\n`);
  assert.equal(signer.kind, "apikey");
  assert.equal(signer.address, OTHERS.api_key.id);
  assert.equal(toHex(CallerSession.digest(OPEN, fromHex(OTHERS.network, 32))), OTHERS.digest);
  assert.equal(toHex(await signSession(signer, OPEN, fromHex(OTHERS.network, 32))), OTHERS.mac);
  const shown = JSON.stringify(signer);
  assert.ok(!shown.includes(OTHERS.api_key.text.slice(5)) && !shown.includes(OTHERS.api_key.mac_key.slice(2)));
  for (
    const bad of ["", "clk1_", OTHERS.api_key.text.toUpperCase(), OTHERS.api_key.text + "0", "0x" + "00".repeat(32)]
  ) {
    refuses("envelope.api_key_text", () => apiKeySigner(bad));
  }
});

Deno.test("what a contract account signs with is its own business", async () => {
  const asked: string[] = [];
  const signer = contractSigner("0x" + "ac".repeat(20), (digest) => {
    asked.push(toHex(digest));
    return new Uint8Array(97).fill(0x5a);
  });
  assert.deepEqual(await signSession(signer, OPEN, fromHex(OTHERS.network, 32)), new Uint8Array(97).fill(0x5a));
  assert.deepEqual(asked, [OTHERS.digest]);
  const provider = { ...providerSigner(signer.address, () => Promise.resolve("0x5a")), kind: "contract" as const };
  assert.deepEqual(await signSession(provider, OPEN, fromHex(OTHERS.network, 32)), Uint8Array.of(0x5a));
});

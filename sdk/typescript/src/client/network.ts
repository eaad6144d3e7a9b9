/** Which network this client talks to: network.json pinned by its fingerprint (spec/encoding.md 8). */

import { ConfigError, define } from "../errors.ts";
import { type Network, parseNetwork } from "../encoding/network.ts";
import type { Gateway } from "./gateway.ts";

export const NOT_PINNED = define(
  "client.not_pinned",
  ConfigError,
  "the network is pinned by a fingerprint",
  "give --fingerprint, or accept this one with --trust-on-first-use after comparing it with its source",
  403,
);
export const BAD_FINGERPRINT = define(
  "client.fingerprint",
  ConfigError,
  "a fingerprint is 64 hexadecimal digits",
  "copy the whole fingerprint that the network's operators publish",
);

/** A fingerprint as people write it (spaces, colons, 0x, capitals) as 64 hex digits. Throws client.fingerprint. */
export function fingerprintOf(text: string): string {
  const clean = text.trim().toLowerCase().replace(/^0x/, "").replace(/[: ]/g, "");
  if (!/^[0-9a-f]{64}$/.test(clean)) throw BAD_FINGERPRINT("64 hex digits", `${clean.length} characters`);
  return clean;
}

/** The pinned network. There is no trust on first use here. Throws EncodingError, ConfigError or TransportError. */
export async function load(gateway: Gateway, fingerprint: string | undefined): Promise<Network> {
  if (!fingerprint) throw NOT_PINNED(`a fingerprint for ${gateway.url}`, "none");
  const wanted = fingerprintOf(fingerprint);
  return parseNetwork(await gateway.network(), wanted);
}

/** What a client reads of the policy: network parameters, committee rules, mode and roots (spec/policy.md). */

import { define, isObject, PolicyError } from "../errors.ts";
import { hasExactly } from "../encoding/hexes.ts";
import type { Genesis } from "../encoding/network.ts";
import { requireProduction, VENDORS } from "./roots.ts";

export const BAD_POLICY = define(
  "policy.document",
  PolicyError,
  "a policy has exactly the fields of its schema, each within its range",
  "compare the policy with core/attestation/policies/schema.json",
);

/** Blocks unless the name says seconds (_s). */
export interface NetworkParameters {
  period_blocks: number;
  lease_blocks: number;
  max_agents_per_worker: number;
  measurement_delay: number;
  max_checkpoint_age_s: number;
  seats: number;
}

/** How many vendors a committee must rest on (spec/policy.md 9). */
export interface CommitteeRules {
  min_vendors: number;
  vendor_may_read: boolean;
  vendor_may_stop: boolean;
}

const RANGES: Readonly<Record<keyof NetworkParameters, readonly [number, number]>> = {
  period_blocks: [1, 2 ** 32],
  lease_blocks: [1, 2 ** 32],
  max_agents_per_worker: [1, 2 ** 32],
  measurement_delay: [0, 2 ** 32],
  max_checkpoint_age_s: [1, 86400],
  seats: [1, 64],
};

/** The parts of the pinned policy that a client obeys. Throws PolicyError or AttestationError. */
export function readPolicy(genesis: Genesis): { network: NetworkParameters; committee: CommitteeRules } {
  const { policy } = genesis;
  if (policy["mode"] !== genesis.mode) throw BAD_POLICY(`mode: ${genesis.mode}`, String(policy["mode"]).slice(0, 40));
  if (genesis.mode === "production") requireProduction(policyRoots(policy["roots"]));
  return { network: networkParameters(policy["network"]), committee: committeeRules(policy["committee"]) };
}

function policyRoots(value: unknown): Record<string, string[]> {
  if (!isObject(value) || !Object.values(value).every((prints) => Array.isArray(prints) && prints.every(isText))) {
    throw BAD_POLICY("roots: {vendor: [sha256 hex]}", typeof value);
  }
  return value as Record<string, string[]>;
}

function isText(value: unknown): value is string {
  return typeof value === "string";
}

function networkParameters(value: unknown): NetworkParameters {
  const data = exactly("network", value, Object.keys(RANGES));
  for (const [name, [low, high]] of Object.entries(RANGES)) need(`network.${name}`, data[name], low, high);
  const found = data as unknown as NetworkParameters;
  if (found.lease_blocks !== 2 * found.period_blocks) {
    throw BAD_POLICY("network.lease_blocks: two periods", String(found.lease_blocks));
  }
  return found;
}

function committeeRules(value: unknown): CommitteeRules {
  const data = exactly("committee", value, ["min_vendors", "vendor_may_read", "vendor_may_stop"]);
  need("committee.min_vendors", data["min_vendors"], 1, VENDORS.length);
  for (const name of ["vendor_may_read", "vendor_may_stop"]) {
    if (typeof data[name] !== "boolean") throw BAD_POLICY(`committee.${name}: true or false`, typeof data[name]);
  }
  return data as unknown as CommitteeRules;
}

function exactly(name: string, value: unknown, fields: readonly string[]): Record<string, unknown> {
  if (!isObject(value) || !hasExactly(value, fields)) {
    throw BAD_POLICY(
      `${name}: fields ${fields.join(", ")}`,
      isObject(value) ? Object.keys(value).join() : typeof value,
    );
  }
  return value;
}

function need(name: string, value: unknown, low: number, high: number): void {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < low || value > high) {
    throw BAD_POLICY(`${name}: a number from ${low} to ${high}`, String(value).slice(0, 40));
  }
}

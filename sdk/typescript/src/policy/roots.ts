/** Trust roots of vendors: production pins these and no others (spec/attestation.md 2). */

import { AttestationError, define } from "../errors.ts";

export const VENDORS: readonly string[] = ["amd", "aws", "intel", "microsoft", "nvidia", "nvidia-rim", "tpm"];

export const SIMULATED_ROOT = define(
  "attestation.simulated_root",
  AttestationError,
  "a production policy pins vendor roots only",
  "remove the root, or run the network in devnet mode",
  403,
);

/** SHA-256 of each root that a vendor publishes: the same list as `core/attestation/roots.py`. */
export const VENDOR_ROOTS: Readonly<Record<string, readonly string[]>> = {
  intel: ["44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"],
  amd: [
    "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
    "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
    "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
  ],
  aws: ["641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"],
  nvidia: ["102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48"],
  "nvidia-rim": ["12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1"],
};

/** Throw AttestationError (attestation.simulated_root) if any root is not a vendor's own. Prints are 0x hex. */
export function requireProduction(roots: Readonly<Record<string, readonly string[]>>): void {
  for (const [vendor, prints] of Object.entries(roots)) {
    const own = Object.hasOwn(VENDOR_ROOTS, vendor) ? VENDOR_ROOTS[vendor]! : [];
    const extra = prints.find((one) => !own.includes(one.slice(2)));
    if (extra !== undefined) throw SIMULATED_ROOT(`a root that ${vendor} publishes`, extra.slice(2, 18));
  }
}

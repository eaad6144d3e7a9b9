/** Does a committee rest on enough vendors? (spec/policy.md 9) */

import { define, PolicyError } from "../errors.ts";
import { fromUtf8 } from "../encoding/bytes.ts";
import { needBytes } from "../encoding/hexes.ts";
import { MAX_MEMBERS } from "../encoding/signatures.ts";
import type { CommitteeRules } from "./parameters.ts";
import { VENDORS } from "./roots.ts";

const MAX_NAMES = 4;

export const NOT_DIVERSE = define(
  "policy.committee_vendors",
  PolicyError,
  "no vendor is behind more seats of the committee than policy allows, and enough vendors are behind them",
  "seat gatekeepers on hardware of other vendors; a cloud's paravisor counts as a vendor of its own",
  403,
);

/** The text of a vendor class: 32 bytes, ASCII, zero-padded. */
export function vendorText(vendorClass: Uint8Array): string {
  const size = vendorClass.findLastIndex((byte) => byte !== 0) + 1;
  return (fromUtf8(vendorClass.subarray(0, size)) ?? "?").replace(/[^\x20-\x7e]/g, "?");
}

/** The vendors behind a seat. Throws PolicyError for a name that no trust root has. */
export function vendorsOf(vendorClass: Uint8Array): Set<string> {
  const text = vendorText(needBytes("vendor class", vendorClass, 32));
  const names = new Set(text.split("+"));
  if (
    ![...names].every((n) => VENDORS.includes(n)) || names.size !== text.split("+").length || names.size > MAX_NAMES
  ) {
    throw NOT_DIVERSE(`vendors of ${VENDORS.join(", ")}`, text.slice(0, 48));
  }
  return names;
}

/**
 * Throw PolicyError (policy.committee_vendors) unless these seats (vendor classes, 32 bytes) rest on enough vendors.
 *
 * 1. there are seats, and t of them; 2. no vendor holds t seats: it could read; 3. no vendor holds more than n - t:
 * it could stop; 4. no few vendors are behind every seat.
 */
export function requireDiverse(classes: readonly Uint8Array[], threshold: number, rules: CommitteeRules): void {
  const total = classes.length;
  if (threshold < 1 || threshold > total || total > MAX_MEMBERS) { // 1
    throw NOT_DIVERSE(`1 to ${MAX_MEMBERS} seats, and a threshold among them`, `${threshold} of ${total}`);
  }
  const seats = classes.map(vendorsOf);
  const vendors = [...new Set(seats.flatMap((seat) => [...seat]))].sort();
  for (const vendor of vendors) requireShare(vendor, seats, threshold, rules); // 2, 3
  for (let few = 1; few < rules.min_vendors; few++) { // 4
    for (const group of combinations(vendors, Math.min(few, vendors.length))) {
      if (seats.every((seat) => group.some((vendor) => seat.has(vendor)))) {
        throw NOT_DIVERSE(`at least ${rules.min_vendors} vendors`, `${group.join(" and ")} behind every seat`);
      }
    }
  }
}

function requireShare(vendor: string, seats: readonly Set<string>[], threshold: number, rules: CommitteeRules): void {
  const count = seats.filter((seat) => seat.has(vendor)).length;
  const spare = seats.length - threshold;
  if (count >= threshold && !rules.vendor_may_read) {
    throw NOT_DIVERSE(`at most ${threshold - 1} seats of one vendor`, `${count} of ${vendor}`);
  }
  if (count > spare && !rules.vendor_may_stop) {
    throw NOT_DIVERSE(`at most ${spare} seats of one vendor`, `${count} of ${vendor}`);
  }
}

function* combinations(items: readonly string[], size: number): Generator<string[]> {
  if (size === 0) yield [];
  for (let i = 0; size > 0 && i <= items.length - size; i++) {
    for (const rest of combinations(items.slice(i + 1), size - 1)) yield [items[i]!, ...rest];
  }
}

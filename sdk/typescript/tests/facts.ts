/** Prints what this client defines, for the test that compares it with Python. */

import "../src/mod.ts";
import { Context } from "../src/encoding/contexts.ts";
import { REGISTRY } from "../src/errors.ts";
import { VENDOR_ROOTS, VENDORS } from "../src/policy/roots.ts";

const codes = [...REGISTRY].map(([code, r]) => [code, [r.family.name, r.check, r.remedy, r.status]]);
console.log(
  JSON.stringify({ codes: Object.fromEntries(codes), contexts: Context, roots: VENDOR_ROOTS, vendors: VENDORS }),
);

/**
 * The one error family: the same classes, codes and fields as `cloister.core.errors` in Python.
 *
 * Every refusal is defined once, beside the check that throws it:
 *
 *     const REPLAY = define("envelope.replay", EnvelopeError, "a sequence number is new", "open a new session");
 *     throw REPLAY("a number not seen before", "17, seen");
 *
 * Hostile input throws a `CloisterError`; a programmer's mistake throws a `TypeError`: never the same class.
 * Texts never contain a secret.
 */

const MAX_TEXT = 512;
const CODE = /^[a-z]+(\.[a-z0-9_]+)+$/;

/** An error as it travels. */
export interface WireError {
  code: string;
  check: string;
  expected: string;
  found: string;
  remedy: string;
}

/** A refusal: which check, what it expected, what it found, what to do. `code` is for machines. */
export class CloisterError extends Error {
  readonly code: string;
  readonly check: string;
  readonly expected: string;
  readonly found: string;
  readonly remedy: string;
  readonly status: number;

  constructor(fields: WireError, status = 400) {
    const [expected, found] = [clip(fields.expected), clip(fields.found)];
    super(`${fields.code}: ${fields.check}: expected ${expected}, found ${found}`);
    this.name = new.target.name;
    this.code = fields.code;
    this.check = fields.check;
    this.expected = expected;
    this.found = found;
    this.remedy = fields.remedy;
    this.status = status;
  }

  /** JSON-ready fields; `fromWire` rebuilds the same class and code. */
  toWire(): WireError {
    return { code: this.code, check: this.check, expected: this.expected, found: this.found, remedy: this.remedy };
  }

  /** What `JSON.stringify` shows. */
  toJSON(): WireError {
    return this.toWire();
  }
}

/** Bytes that are not what the format says. */
export class EncodingError extends CloisterError {}
/** Evidence and roots that do not prove what they must. */
export class AttestationError extends CloisterError {}
/** Points, scalars and identity-based ciphertexts. */
export class ThresholdError extends CloisterError {}
/** HPKE. */
export class SealError extends CloisterError {}
/** Proofs, checkpoints, staleness. */
export class ChainViewError extends CloisterError {}
/** A finalised rule says no. */
export class PolicyError extends CloisterError {}
/** Sealed HTTP. */
export class EnvelopeError extends CloisterError {}
/** Receipts. */
export class ReceiptError extends CloisterError {}
/** A chain endpoint failed or lied. */
export class ChainError extends CloisterError {}
/** A peer could not be reached or broke the protocol. */
export class TransportError extends CloisterError {}
/** Settings. */
export class ConfigError extends CloisterError {}
/** A peer's refusal with a code that this build does not define. */
export class RemoteError extends CloisterError {}

type Family = new (fields: WireError, status?: number) => CloisterError;

/** One named refusal: call it with what was expected and found to get the error to throw. */
export interface Refusal {
  (expected: string, found: string, remedy?: string): CloisterError;
  readonly code: string;
  readonly family: Family;
  readonly check: string;
  readonly remedy: string;
  readonly status: number;
}

/** Every refusal of this build, by code. */
export const REGISTRY: Map<string, Refusal> = new Map();

/** Register a refusal. Throws a TypeError for a malformed or repeated code: our mistake, at import. */
export function define(code: string, family: Family, check: string, remedy: string, status = 400): Refusal {
  if (!CODE.test(code) || REGISTRY.has(code)) throw new TypeError(`error code ${code} is malformed or defined twice`);
  const make = (expected: string, found: string, other?: string) =>
    new family({ code, check, expected, found, remedy: other ?? remedy }, status);
  const refusal = Object.assign(make, { code, family, check, remedy, status });
  REGISTRY.set(code, refusal);
  return refusal;
}

/** Rebuild a peer's error. Unknown codes become RemoteError; malformed input too: it never throws. */
export function fromWire(fields: unknown, status = 400): CloisterError {
  const data = isObject(fields) ? fields : {};
  const text = (name: string) => clip(data[name] === undefined ? "not said" : String(data[name]));
  const known = REGISTRY.get(text("code"));
  const wire = {
    code: text("code"),
    check: text("check"),
    expected: text("expected"),
    found: text("found"),
    remedy: text("remedy"),
  };
  return known ? new known.family(wire, known.status) : new RemoteError(wire, status);
}

/** Whether a value is a plain JSON object. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function clip(text: string): string {
  const clean = Array.from(text.slice(0, 4 * MAX_TEXT), (c) => (c !== " " && /[\p{C}\p{Z}]/u.test(c) ? "?" : c));
  return clean.length <= MAX_TEXT ? clean.join("") : clean.slice(0, MAX_TEXT - 1).join("") + "…";
}

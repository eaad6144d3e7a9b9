/**
 * The terms that a client knows of its pinned network, remembered from one run to the next (spec/gatekeepers.md H3).
 *
 *     pinned ─▶ what is remembered ─▶ hand-overs that the gateway serves ─▶ the term in office
 *
 * Nobody who serves hand-overs is believed: each counts by t signatures of the term before. What is remembered binds:
 * once a term was seen in office, no older one speaks for the network any more, and a memory that was away for longer
 * than a term may last must pin anew. The first use counts the pin as known in office now.
 */

import { CloisterError, ConfigError, define } from "../errors.ts";
import { fromUtf8, utf8 } from "../encoding/bytes.ts";
import { needFields, needUint } from "../encoding/hexes.ts";
import * as jcs from "../encoding/jcs.ts";
import type { Network } from "../encoding/network.ts";
import { follow, pinned, SignedHandover, type Terms } from "../chainview/terms.ts";

/** How often hand-overs are asked for at most, and how often even if nothing is missing. Seconds. */
export const LOOK_S = 0.5;
export const LOOK_AGAIN_S = 600;
const DAY_S = 24 * 3600;
const MAX_FILE = 8 << 20;
const EVER = Number.MAX_SAFE_INTEGER;

export const BAD_MEMORY = define(
  "client.terms",
  ConfigError,
  "the hand-overs that this client remembers lead on from its pinned network",
  "remove the file that is named, and pin the network anew from its operators",
);

/**
 * Where a client remembers terms: texts by name. `read` gives undefined for a name that was never written.
 *
 * What throws in `write` is borne: such a store remembers nothing. Whoever can write here can take the memory away, and
 * with it the protection from a committee that left office; it can put nothing in that t members did not sign.
 */
export interface TermStore {
  read(name: string): string | undefined | Promise<string | undefined>;
  write(name: string, text: string): void | Promise<void>;
}

/** A store in this process, for tests and for programs that keep their state themselves. */
export function memoryTerms(texts: Map<string, string> = new Map()): TermStore {
  return { read: (name) => texts.get(name), write: (name, text) => void texts.set(name, text) };
}

/** A store in a page's own storage. */
export function browserTerms(storage: Pick<Storage, "getItem" | "setItem"> = localStorage): TermStore {
  const key = (name: string) => `cloister/terms/${name}`;
  return {
    read: (name) => storage.getItem(key(name)) ?? undefined,
    write: (name, text) => storage.setItem(key(name), text),
  };
}

interface Files {
  mkdir(path: string, options: { recursive: boolean; mode: number }): Promise<unknown>;
  readFile(path: string, encoding: "utf8"): Promise<string>;
  rename(from: string, to: string): Promise<void>;
  writeFile(path: string, text: string, options: { mode: number }): Promise<void>;
}

/** A store in a folder, for Node and Deno: one file per network, 0600, replaced as a whole. */
export function fileTerms(folder: string): TermStore {
  const module = "node:fs/promises"; // a name in a variable, so that bundlers for browsers leave it alone
  const files = async () => await import(module) as Files;
  return {
    async read(name) {
      try {
        return await (await files()).readFile(`${folder}/${name}`, "utf8");
      } catch (error) {
        if ((error as { code?: string }).code === "ENOENT") return undefined;
        throw BAD_MEMORY(`to read ${folder}/${name}`, (error as { code?: string }).code ?? "an error");
      }
    },
    async write(name, text) {
      const { mkdir, rename, writeFile } = await files();
      await mkdir(folder, { recursive: true, mode: 0o700 });
      const draft = `${folder}/.${name}.${crypto.randomUUID()}`;
      await writeFile(draft, text, { mode: 0o600 });
      await rename(draft, `${folder}/${name}`);
    },
  };
}

/** The page's own storage in a page that has one, else none. */
export function usualStore(): TermStore | undefined {
  try {
    return "document" in globalThis && localStorage ? browserTerms() : undefined;
  } catch {
    return undefined; // a page that may not keep anything
  }
}

/** The name under which a network's terms are kept. */
export function nameOf(network: Network): string {
  return `${network.fingerprint.slice(0, 32)}.json`;
}

/**
 * The terms of a text that `write` got; the pinned one alone, as known in office `now`, where there is none.
 *
 * Each hand-over is verified again. Throws ConfigError (client.terms).
 */
export function remembered(network: Network, text: string | undefined, now: number): Terms {
  if (text === undefined) return pinned(network, now);
  let found: { terms: Terms; seen: number; count: number; version: unknown };
  try {
    found = parsed(network, text);
  } catch (error) {
    if (!(error instanceof CloisterError)) throw error;
    throw BAD_MEMORY(`hand-overs in ${nameOf(network)}`, `${error.code}: ${error.found}`);
  }
  const { terms, seen, count, version } = found;
  if (terms.told.length !== count || version !== 1) {
    throw BAD_MEMORY(`${count} hand-overs in a row in ${nameOf(network)}`, `${terms.told.length} that lead on`);
  }
  return terms.seenAt(seen);
}

function parsed(network: Network, text: string) {
  const value = needFields("terms", jcs.decode(utf8(text), MAX_FILE), ["version", "seen", "handovers"]);
  const [seen, items] = [needUint("seen", value["seen"]), value["handovers"]];
  const told = (Array.isArray(items) ? items : []).map((item) => SignedHandover.fromJson(item));
  return {
    terms: follow(pinned(network, seen), told, seen, EVER),
    seen,
    count: told.length,
    version: value["version"],
  };
}

/** The text that `remembered` reads. */
export function textOf(terms: Terms): string {
  const handovers = terms.told.map((one) => one.toJson());
  return fromUtf8(jcs.encode({ version: 1, seen: terms.inOffice.seen, handovers }))!;
}

/** The terms that one client knows. `fetch`: hand-overs that somebody offers, whose refusals are borne. */
export class TermWalk {
  #looked = -Infinity;
  #again: number;
  #refused: CloisterError | undefined;
  #turn: Promise<unknown> = Promise.resolve();
  #written = { count: -1, seen: 0 };

  constructor(
    readonly network: Network,
    public terms: Terms,
    readonly fetch: () => Promise<SignedHandover[]>,
    readonly clock: () => number,
    readonly store?: TermStore,
  ) {
    this.#again = clock() + LOOK_AGAIN_S;
  }

  /** A walk from what is remembered, else from the pin. Throws ConfigError (client.terms). */
  static async from(
    network: Network,
    fetch: () => Promise<SignedHandover[]>,
    clock: () => number,
    store: TermStore | undefined,
  ): Promise<TermWalk> {
    const terms = remembered(network, await store?.read(nameOf(network)), Math.floor(clock()));
    return new TermWalk(network, terms, fetch, clock, store);
  }

  /** Whether ten minutes went by since the last look, or it found something wrong. */
  get due(): boolean {
    return this.clock() >= this.#again;
  }

  /** Look, if a term above the one in office is named. */
  async knows(term: number): Promise<void> {
    if (term > this.terms.inOffice.signers.term) await this.look();
  }

  /**
   * Follow what is offered now; true: another term is in office than before. At most twice a second.
   *
   * Throws ChainViewError: two successors of one term, a key that moved, a term that is too old (H3).
   */
  look(): Promise<boolean> {
    const next = this.#turn.then(() => this.#look());
    this.#turn = next.catch(() => undefined);
    return next;
  }

  /** The term in office gave a checkpoint that counts now (H3). */
  async spoke(): Promise<void> {
    this.terms = this.terms.seenAt(Math.floor(this.clock()));
    await this.#keep();
  }

  async #look(): Promise<boolean> {
    const now = this.clock();
    if (now - this.#looked >= 0 && now - this.#looked < LOOK_S) {
      if (this.#refused) throw this.#refused;
      return false;
    }
    [this.#looked, this.#again, this.#refused] = [now, now + LOOK_AGAIN_S, undefined];
    const offered = await borne(this.fetch);
    if (!offered) return false;
    const found = this.#follow(offered, now);
    const moved = found !== this.terms;
    this.terms = found;
    if (moved) await this.#keep();
    return moved;
  }

  /** A refusal stays, and whoever asks is told again, until a later look finds nothing wrong. */
  #follow(offered: readonly SignedHandover[], now: number): Terms {
    try {
      return follow(this.terms, offered, Math.floor(now));
    } catch (error) {
      if (error instanceof CloisterError) [this.#refused, this.#again] = [error, now];
      throw error;
    }
  }

  /** Writes when a term was added, and once a day; never over a memory that knows more, such as another page's. */
  async #keep(): Promise<void> {
    const { told, inOffice } = this.terms;
    const { count, seen } = this.#written;
    if (!this.store || (told.length === count && inOffice.seen < seen + DAY_S)) return;
    this.#written = { count: told.length, seen: inOffice.seen };
    try {
      if (told.length >= await this.#there()) await this.store.write(nameOf(this.network), textOf(this.terms));
    } catch {
      // a store that cannot be written remembers nothing
    }
  }

  async #there(): Promise<number> {
    const text = await this.store!.read(nameOf(this.network));
    return text === undefined ? 0 : remembered(this.network, text, 0).told.length;
  }
}

async function borne(fetch: () => Promise<SignedHandover[]>): Promise<SignedHandover[] | undefined> {
  try {
    return await fetch();
  } catch (error) {
    if (error instanceof CloisterError) return undefined;
    throw error;
  }
}

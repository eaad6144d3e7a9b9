import type { State } from "./context.ts";
import { cosine, split } from "./text.ts";

export interface Draft {
  title: string;
  text: string;
}

interface Note extends Draft {
  id: string;
  created: string;
  pieces: { text: string; vector: number[] }[];
}

export type Embed = (texts: string[]) => Promise<number[][]>;

/** The notes of one person. The state is encrypted outside the agent; the prefix keeps people apart inside it. */
export class Notebook {
  readonly #prefix: string;

  constructor(owner: string, private readonly state: State, private readonly embed: Embed) {
    this.#prefix = `notes/${owner}/`;
  }

  async add(drafts: Draft[]): Promise<{ id: string; title: string }[]> {
    const pieces = drafts.map((draft) => split(draft.text));
    const vectors = await this.embed(drafts.flatMap((draft, i) => pieces[i].map((text) => `${draft.title}\n${text}`)));
    const created = new Date().toISOString();
    const notes = drafts.map((draft, i): Note => ({
      ...draft,
      id: crypto.randomUUID(),
      created,
      pieces: pieces[i].map((text) => ({ text, vector: rounded(vectors.shift()!) })),
    }));
    await Promise.all(notes.map((note) => this.state.put(this.#prefix + note.id, note)));
    return notes.map(({ id, title }) => ({ id, title }));
  }

  async list(): Promise<{ id: string; title: string; created: string }[]> {
    const notes = (await this.#all()).map(({ id, title, created }) => ({ id, title, created }));
    return notes.sort((a, b) => a.created.localeCompare(b.created) || a.title.localeCompare(b.title));
  }

  async get(id: string): Promise<(Draft & { id: string; created: string }) | null> {
    const note = await this.state.get(this.#prefix + id) as Note | null;
    return note && { id, title: note.title, text: note.text, created: note.created };
  }

  async delete(id: string): Promise<boolean> {
    if (await this.state.get(this.#prefix + id) === null) return false;
    await this.state.delete(this.#prefix + id);
    return true;
  }

  /** The k notes whose best piece lies closest to the question. */
  async search(question: string, k: number): Promise<{ id: string; title: string; score: number; excerpt: string }[]> {
    const [[wanted], notes] = await Promise.all([this.embed([question]), this.#all()]);
    const hits = notes.map(({ id, title, pieces }) => {
      const scored = pieces.map(({ text, vector }) => ({ score: cosine(wanted, vector), excerpt: text }));
      return { id, title, ...scored.reduce((best, piece) => (piece.score > best.score ? piece : best)) };
    });
    return hits.sort((a, b) => b.score - a.score).slice(0, k);
  }

  async #all(): Promise<Note[]> {
    const keys: string[] = [];
    for (let page: string[] = []; keys.length === 0 || page.length === 1000;) {
      page = await this.state.list(this.#prefix, { after: keys.at(-1) ?? null, limit: 1000 });
      if (page.length === 0) break;
      keys.push(...page);
    }
    return await Promise.all(keys.map((key) => this.state.get(key))) as Note[];
  }
}

const rounded = (vector: number[]) => vector.map((value) => Number(value.toFixed(5)));

// Private notes with semantic search. Everybody who calls has a notebook of their own, which nobody else can read:
// not the machine's owner, not the gateway, not the owner of this agent.
import OpenAI from "openai";
import type { Context } from "./context.ts";
import { type Draft, Notebook } from "./notes.ts";

const MODEL = "all-MiniLM-L6-v2";
const MOST = { notes: 50, title: 200, text: 10_000, question: 1_000, results: 50 };

// Made at the first request: reads OPENAI_API_KEY (and OPENAI_BASE_URL, if you set it) from the environment.
let openai: OpenAI | undefined;

async function embed(texts: string[]): Promise<number[][]> {
  openai ??= new OpenAI();
  const answer = await openai.embeddings.create({ model: MODEL, input: texts, encoding_format: "float" });
  return answer.data.map((item) => item.embedding);
}

export default {
  async fetch(request: Request, ctx: Context): Promise<Response> {
    if (!ctx.caller) return refuse(401, "sign in with a wallet: notes belong to an address");
    const notebook = new Notebook(ctx.caller.address, ctx.state, embed);
    const url = new URL(request.url);
    const id = url.pathname.match(/^\/notes\/([0-9a-f-]{36})$/)?.[1];

    switch (`${request.method} ${id ? "/notes/:id" : url.pathname}`) {
      case "POST /notes": {
        const drafts = await readDrafts(request);
        if (!drafts) return refuse(400, `send {title, text}, or up to ${MOST.notes} of them in a list`);
        return Response.json({ notes: await notebook.add(drafts) }, { status: 201 });
      }
      case "GET /notes":
        return Response.json({ notes: await notebook.list() });
      case "GET /notes/:id":
        return await notebook.get(id!).then((note) => note ? Response.json(note) : refuse(404, "no such note"));
      case "DELETE /notes/:id":
        return await notebook.delete(id!) ? new Response(null, { status: 204 }) : refuse(404, "no such note");
      case "GET /search": {
        const question = url.searchParams.get("q") ?? "", k = Number(url.searchParams.get("k") ?? 5);
        if (!question || question.length > MOST.question) return refuse(400, "ask with ?q=…");
        if (!Number.isInteger(k) || k < 1 || k > MOST.results) return refuse(400, `k is 1 to ${MOST.results}`);
        return Response.json({ results: await notebook.search(question, k) });
      }
      default:
        return refuse(404, "routes: POST /notes, GET /notes, GET and DELETE /notes/:id, GET /search?q=…&k=…");
    }
  },
};

async function readDrafts(request: Request): Promise<Draft[] | null> {
  const value = await request.json().catch(() => null);
  const list: unknown[] = Array.isArray(value) ? value : [value];
  if (list.length === 0 || list.length > MOST.notes || !list.every(isDraft)) return null;
  return list.map(({ title, text }) => ({ title, text }));
}

function isDraft(value: unknown): value is Draft {
  const { title, text } = (value ?? {}) as Partial<Draft>;
  const within = (part: unknown, most: number) => typeof part === "string" && part.trim() !== "" && part.length <= most;
  return within(title, MOST.title) && within(text, MOST.text);
}

const refuse = (status: number, error: string) => Response.json({ error }, { status });

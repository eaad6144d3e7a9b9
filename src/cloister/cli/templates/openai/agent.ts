// AGENT_NAME: finds the label that fits a text best, with the official openai package.
// The model sees the texts; the host of this machine, the network and the owner of the agent do not.
import OpenAI from "openai";
import type { Context } from "./context.ts";

const MODEL = "all-MiniLM-L6-v2"; // what a devnet serves; with a key of OpenAI: text-embedding-3-small
const MOST = { labels: 20, text: 5000 };

let client: OpenAI | undefined;

async function embed(texts: string[], ctx: Context): Promise<number[][]> {
  client ??= new OpenAI(); // reads OPENAI_API_KEY, which cloister.json marks as environment
  const answer = await client.embeddings.create(
    { model: MODEL, input: texts, encoding_format: "float" },
    { signal: ctx.signal },
  );
  return answer.data.map((item) => item.embedding);
}

function cosine(a: number[], b: number[]): number {
  const dot = (x: number[], y: number[]) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b) || 1);
}

export default {
  async fetch(request: Request, ctx: Context): Promise<Response> {
    if (request.method !== "POST" || new URL(request.url).pathname !== "/classify") {
      return Response.json({ error: "POST /classify {text, labels}" }, { status: 404 });
    }
    const { text, labels } = await request.json().catch(() => ({}));
    const fits = (value: unknown): value is string => typeof value === "string" && !!value && value.length <= MOST.text;
    if (!fits(text) || !Array.isArray(labels) || labels.length < 2 || labels.length > MOST.labels || !labels.every(fits)) {
      return Response.json({ error: `a text, and 2 to ${MOST.labels} labels` }, { status: 400 });
    }
    const [wanted, ...found] = await embed([text, ...labels], ctx);
    const ranked = labels.map((label, i) => ({ label, score: cosine(wanted, found[i]) }));
    ranked.sort((a, b) => b.score - a.score);
    return Response.json({ best: ranked[0].label, ranked });
  },
};

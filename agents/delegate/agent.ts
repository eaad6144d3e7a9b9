// A DAO delegate. Reads a governor's proposals from the chain and says how its delegator would vote, by positions that stay
// private. The embedding model sees the texts; nobody else sees the positions.
import OpenAI from "openai";
import type { Context } from "./context.ts";
import { type Proposal, readProposals } from "./governor.ts";
import { advise, type Held, isPositions, type Position } from "./positions.ts";

const MODEL = "all-MiniLM-L6-v2";
const TEXT = 2000; // of a proposal, for the model

let client: OpenAI | undefined;

async function embed(texts: string[], ctx: Context): Promise<number[][]> {
  client ??= new OpenAI();
  const wanted = { model: MODEL, input: texts, encoding_format: "float" as const };
  const answer = await client.embeddings.create(wanted, { signal: ctx.signal });
  return answer.data.map((item) => item.embedding);
}

async function hold(request: Request, ctx: Context): Promise<Response> {
  const positions: unknown = await request.json().catch(() => null);
  if (!isPositions(positions)) return Response.json({ error: "1 to 50 of {about, vote: For | Against | Abstain}" }, { status: 400 });
  const vectors = await embed(positions.map((position) => position.about), ctx);
  const held: Held[] = positions.map((position, i) => ({ ...position, vector: vectors[i] }));
  await ctx.state.put("positions", held);
  return Response.json({ positions: held.length });
}

async function votes(ctx: Context): Promise<Response> {
  const held: Held[] = (await ctx.state.get("positions")) ?? [];
  if (!held.length) return Response.json({ error: "PUT /positions first" }, { status: 409 });
  const proposals = await readProposals(process.env.RPC!, process.env.GOVERNOR!, ctx.signal);
  const said = [];
  for (const proposal of proposals) said.push({ ...proposal, ...await decided(proposal, held, ctx) });
  return Response.json(said);
}

/** Once said, it stays said: a delegate does not change its mind when the positions change later. */
async function decided(proposal: Proposal, held: Held[], ctx: Context) {
  const key = `vote/${proposal.id}`, known = await ctx.state.get(key);
  if (known) return known;
  const [vector] = await embed([proposal.description.slice(0, TEXT) || "no description"], ctx);
  const advice = advise(vector, held);
  await ctx.state.put(key, advice);
  return advice;
}

export default {
  async fetch(request: Request, ctx: Context): Promise<Response> {
    if (ctx.caller?.address !== process.env.DELEGATOR?.toLowerCase()) {
      return Response.json({ error: "only the delegator may ask" }, { status: 403 });
    }
    const route = `${request.method} ${new URL(request.url).pathname}`;
    if (route === "PUT /positions") return await hold(request, ctx);
    if (route === "GET /votes") return await votes(ctx);
    if (route === "GET /positions") {
      const held: Held[] = (await ctx.state.get("positions")) ?? [];
      return Response.json(held.map(({ about, vote }): Position => ({ about, vote })));
    }
    return Response.json({ error: "PUT and GET /positions, GET /votes" }, { status: 404 });
  },
};

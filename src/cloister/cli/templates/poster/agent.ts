// AGENT_NAME: holds drafts until their time, then posts them to Mastodon. Nobody sees a draft before it is posted.
import type { Context } from "./context.ts";

const MOST = { text: 500, drafts: 200 };

interface Draft {
  id: string;
  text: string;
  at: number; // Unix milliseconds
}

async function post(draft: Draft, ctx: Context): Promise<string> {
  const answer = await fetch(`https://${process.env.INSTANCE}/api/v1/statuses`, {
    method: "POST",
    headers: {
      authorization: `Bearer ${ctx.secrets.MASTODON_TOKEN}`,
      "content-type": "application/json",
      // A handler may run twice. The same key makes it the same post.
      "idempotency-key": draft.id,
    },
    body: JSON.stringify({ status: draft.text }),
    signal: ctx.signal,
  });
  if (!answer.ok) throw new Error(`the instance answered ${answer.status}`);
  return (await answer.json()).url;
}

async function drafts(ctx: Context): Promise<Draft[]> {
  const keys = await ctx.state.list("draft/");
  const found: Draft[] = await Promise.all(keys.map((key) => ctx.state.get(key)));
  return found.sort((a, b) => a.at - b.at);
}

async function add(request: Request, ctx: Context): Promise<Response> {
  const { text, at } = await request.json().catch(() => ({}));
  const time = at === undefined ? Date.now() : Date.parse(at);
  if (typeof text !== "string" || !text.trim() || text.length > MOST.text || Number.isNaN(time)) {
    return Response.json({ error: `{text of at most ${MOST.text}, at: a date or nothing}` }, { status: 400 });
  }
  if ((await drafts(ctx)).length >= MOST.drafts) return Response.json({ error: "too many drafts" }, { status: 409 });
  const draft: Draft = { id: crypto.randomUUID(), text, at: time };
  await ctx.state.put(`draft/${draft.id}`, draft);
  return Response.json(draft, { status: 201 });
}

/** Posts what is due. Anybody may ring: it says no more than what is public then. */
async function publish(ctx: Context): Promise<Response> {
  const due = (await drafts(ctx)).filter((draft) => draft.at <= Date.now()).slice(0, 5);
  const posted: string[] = [];
  for (const draft of due) {
    posted.push(await post(draft, ctx));
    await ctx.state.delete(`draft/${draft.id}`);
    await ctx.state.put(`posted/${draft.id}`, { url: posted.at(-1), at: Date.now() });
  }
  return Response.json({ posted });
}

export default {
  async fetch(request: Request, ctx: Context): Promise<Response> {
    const route = `${request.method} ${new URL(request.url).pathname}`;
    if (route === "POST /publish") return await publish(ctx);
    if (ctx.caller?.address !== process.env.OWNER?.toLowerCase()) {
      return Response.json({ error: "only the owner may see drafts" }, { status: 403 });
    }
    if (route === "POST /drafts") return await add(request, ctx);
    if (route === "GET /drafts") return Response.json(await drafts(ctx));
    return Response.json({ error: "POST /drafts, GET /drafts, POST /publish" }, { status: 404 });
  },
};

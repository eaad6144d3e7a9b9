// AGENT_NAME: keeps notes. Only this code, inside attested hardware, can read them.
import type { Context } from "./context.ts";

async function fetch(request: Request, ctx: Context): Promise<Response> {
  const path = new URL(request.url).pathname;
  if (path === "/") return Response.json({ agent: "AGENT_NAME", hello: "world" });
  if (path !== "/notes") return Response.json({ error: "try / or /notes" }, { status: 404 });
  if (request.method === "POST") {
    const note = await request.json();
    // A name of its own for every note. What a request writes is written once, even if its caller repeats it.
    await ctx.state.put(`note/${ctx.requestId}`, note);
    ctx.log("saved a note");
    return Response.json({ saved: note }, { status: 201 });
  }
  const keys = await ctx.state.list("note/");
  return Response.json(await Promise.all(keys.map((key) => ctx.state.get(key))));
}

export default { fetch };

// AGENT_NAME: keeps notes. Only this code, inside attested hardware, can read them.

interface State {
  get(key: string): Promise<unknown>;
  put(key: string, value: unknown): Promise<void>;
  list(prefix: string): Promise<string[]>;
}

interface Context {
  state: State;
  requestId: string;
}

function json(value: unknown, status = 200): Response {
  return new Response(JSON.stringify(value), { status, headers: { "content-type": "application/json" } });
}

async function fetch(request: Request, ctx: Context): Promise<Response> {
  const path = new URL(request.url).pathname;
  if (path === "/") return json({ agent: "AGENT_NAME", hello: "world" });
  if (path !== "/notes") return json({ error: "try / or /notes" }, 404);
  if (request.method === "POST") {
    const note = await request.json();
    // A name of its own for every note. What a request writes is written once, even if its caller repeats it.
    await ctx.state.put(`note/${ctx.requestId}`, note);
    return json({ saved: note }, 201);
  }
  const keys = await ctx.state.list("note/");
  return json(await Promise.all(keys.map((key) => ctx.state.get(key))));
}

export default { fetch };

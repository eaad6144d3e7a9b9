// AGENT_NAME: a JSON API with Hono and zod. Every caller has tasks of their own.
import { Hono } from "hono";
import { cors } from "hono/cors";
import { z } from "zod";
import type { Context } from "./context.ts";

const Task = z.object({ title: z.string().min(1).max(200), done: z.boolean().default(false) });
const Change = Task.partial().refine((change) => Object.keys(change).length > 0, "nothing to change");

const app = new Hono<{ Bindings: Context; Variables: { mine: string } }>();

app.use(cors());
app.get("/", (c) => c.json({ agent: "AGENT_NAME", routes: ["/tasks", "/tasks/:id"] }));

// c.env is the agent's context: its state, its caller.
app.use("/tasks/*", async (c, next) => {
  const { caller } = c.env;
  if (!caller) return c.json({ error: "sign in with a wallet" }, 401);
  c.set("mine", `task/${caller.address}/`);
  await next();
});

app.get("/tasks", async (c) => {
  const keys = await c.env.state.list(c.var.mine);
  return c.json(await Promise.all(keys.map((key) => c.env.state.get(key))));
});

app.post("/tasks", async (c) => {
  const task = Task.safeParse(await c.req.json().catch(() => null));
  if (!task.success) return c.json({ error: z.prettifyError(task.error) }, 400);
  const saved = { id: crypto.randomUUID(), ...task.data };
  await c.env.state.put(c.var.mine + saved.id, saved);
  return c.json(saved, 201);
});

app.patch("/tasks/:id", async (c) => {
  const key = c.var.mine + c.req.param("id"), task = await c.env.state.get(key);
  const change = Change.safeParse(await c.req.json().catch(() => null));
  if (!task) return c.json({ error: "no such task" }, 404);
  if (!change.success) return c.json({ error: z.prettifyError(change.error) }, 400);
  await c.env.state.put(key, { ...task, ...change.data });
  return c.json({ ...task, ...change.data });
});

app.delete("/tasks/:id", async (c) => {
  await c.env.state.delete(c.var.mine + c.req.param("id"));
  return c.body(null, 204);
});

export default app;

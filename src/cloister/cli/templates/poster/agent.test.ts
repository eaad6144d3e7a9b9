// Run with: cloister agent test
import assert from "node:assert/strict";
import type { Agent } from "./context.ts";

const OWNER = "0x" + "0".repeat(40);
export const secrets = { MASTODON_TOKEN: "token-1" };

const posts = new Map<string, string>();
export const hosts = {
  async "mastodon.example"(request: Request): Promise<Response> {
    if (request.headers.get("authorization") !== "Bearer token-1") return new Response(null, { status: 401 });
    const { status } = await request.json();
    posts.set(request.headers.get("idempotency-key")!, status);
    return Response.json({ url: `https://mastodon.example/@me/${posts.size}` });
  },
};

export default {
  async "what is due is posted once"(agent: Agent) {
    posts.clear();
    await agent.fetch("/drafts", { caller: OWNER, json: { text: "hello" } });
    await agent.fetch("/drafts", { caller: OWNER, json: { text: "later", at: "2999-01-01" } });
    const first = await (await agent.fetch("/publish", { method: "POST" })).json();
    const second = await (await agent.fetch("/publish", { method: "POST" })).json();
    assert.deepEqual([first.posted.length, second.posted.length], [1, 0]);
    assert.deepEqual([...posts.values()], ["hello"]);
    const left = await (await agent.fetch("/drafts", { caller: OWNER })).json();
    assert.deepEqual(left.map((draft: { text: string }) => draft.text), ["later"]);
  },

  async "nobody else sees drafts"(agent: Agent) {
    assert.equal((await agent.fetch("/drafts")).status, 403);
    assert.equal((await agent.fetch("/drafts", { caller: "0x" + "b".repeat(40), json: { text: "x" } })).status, 403);
  },

  async "what is no draft is refused"(agent: Agent) {
    for (const json of [{}, { text: " " }, { text: "x".repeat(501) }, { text: "x", at: "someday" }]) {
      assert.equal((await agent.fetch("/drafts", { caller: OWNER, json })).status, 400);
    }
  },
};

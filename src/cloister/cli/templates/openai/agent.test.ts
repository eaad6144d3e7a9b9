// Run with: cloister agent test
import assert from "node:assert/strict";
import type { Agent } from "./context.ts";

export const secrets = { OPENAI_API_KEY: "sk-test" };

/** Stands in for the model: two words decide the direction of a vector. */
export const hosts = {
  async "api.openai.com"(request: Request): Promise<Response> {
    if (request.headers.get("authorization") !== "Bearer sk-test") return new Response(null, { status: 401 });
    const { input } = await request.json();
    const data = input.map((text: string, index: number) => ({
      object: "embedding",
      index,
      embedding: [/money|invoice|bill/.test(text) ? 1 : 0, /broken|crash|bug/.test(text) ? 1 : 0, 0.1],
    }));
    return Response.json({ object: "list", data, model: "test", usage: { prompt_tokens: 1, total_tokens: 1 } });
  },
};

export default {
  async "the closest label wins"(agent: Agent) {
    const json = { text: "the app has a bug and crashes", labels: ["billing", "broken"] };
    const answer = await agent.fetch("/classify", { json });
    assert.equal(answer.status, 200);
    assert.equal((await answer.json()).best, "broken");
  },

  async "a request that makes no sense is refused"(agent: Agent) {
    for (const json of [{}, { text: "a", labels: ["one"] }, { text: "", labels: ["a", "b"] }, { text: 1, labels: "ab" }]) {
      assert.equal((await agent.fetch("/classify", { json })).status, 400);
    }
    assert.equal((await agent.fetch("/")).status, 404);
  },
};

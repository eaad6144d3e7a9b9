// Run with: cloister agent test
import assert from "node:assert/strict";
import type { Agent } from "./context.ts";

export const secrets = { OPENAI_API_KEY: "sk-test" };

/** Stands in for the model: a vector says which of a few words a text has. */
const WORDS = ["bread", "tax", "key"];
const vector = (text: string) => WORDS.map((word) => (text.toLowerCase().includes(word) ? 1 : 0));

export const hosts = {
  async "api.openai.com"(request: Request): Promise<Response> {
    const body = await request.json();
    const inputs: string[] = [body.input].flat();
    const data = inputs.map((text, index) => ({ object: "embedding", index, embedding: vector(text) }));
    return Response.json({ object: "list", data, model: body.model, usage: { prompt_tokens: 1, total_tokens: 1 } });
  },
};

export default {
  async "a question finds the document that answers it"(agent: Agent) {
    for (const body of ["Bread needs a starter.", "The tax return is due in April.", "The key is under the pot."]) {
      assert.equal((await agent.fetch("/documents", { method: "POST", body })).status, 201);
    }
    const answer = await agent.fetch("/ask?q=" + encodeURIComponent("When is the tax due?"));
    assert.equal((await answer.json()).passages[0], "The tax return is due in April.");
  },

  async "without documents there is nothing to find"(agent: Agent) {
    assert.deepEqual(await (await agent.fetch("/ask?q=key")).json(), { passages: [] });
  },

  async "an empty document is refused"(agent: Agent) {
    assert.equal((await agent.fetch("/documents", { method: "POST", body: " " })).status, 400);
  },
};

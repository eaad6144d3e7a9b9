// Run with: cloister agent test
import assert from "node:assert/strict";
import type { Agent } from "./context.ts";

export default {
  async "it says hello"(agent: Agent) {
    const answer = await agent.fetch("/");
    assert.equal((await answer.json()).hello, "world");
  },

  async "a note that was saved is listed"(agent: Agent) {
    const saved = await agent.fetch("/notes", { json: { text: "remember this" } });
    assert.equal(saved.status, 201);
    assert.deepEqual(await (await agent.fetch("/notes")).json(), [{ text: "remember this" }]);
  },

  async "every test begins with an empty state"(agent: Agent) {
    assert.deepEqual(await (await agent.fetch("/notes")).json(), []);
  },
};

// Run with: cloister agent test
import assert from "node:assert/strict";
import type { Agent } from "./context.ts";

export default {
  async "it says hello"(agent: Agent) {
    const answer = await agent.fetch("/");
    assert.equal((await answer.json()).hello, "world");
  },

  async "a note that was saved is listed, and its words are counted"(agent: Agent) {
    const saved = await agent.fetch("/notes", { json: { text: "red fish blue fish" } });
    assert.equal(saved.status, 201);
    assert.deepEqual(await (await agent.fetch("/notes")).json(), [{ text: "red fish blue fish" }]);
    assert.deepEqual(await (await agent.fetch("/words")).json(), { fish: 2, red: 1, blue: 1 });
  },

  async "what is no note is refused"(agent: Agent) {
    for (const json of [{}, [], "text"]) assert.equal((await agent.fetch("/notes", { json })).status, 400);
  },
};

// Run with: cloister agent test
import assert from "node:assert/strict";
import type { Agent } from "./context.ts";

const ALICE = "0x" + "a".repeat(40), BOB = "0x" + "b".repeat(40);

export default {
  async "tasks belong to their caller"(agent: Agent) {
    const made = await agent.fetch("/tasks", { caller: ALICE, json: { title: "water the plants" } });
    assert.equal(made.status, 201);
    const [task] = await (await agent.fetch("/tasks", { caller: ALICE })).json();
    assert.deepEqual([task.title, task.done], ["water the plants", false]);
    assert.deepEqual(await (await agent.fetch("/tasks", { caller: BOB })).json(), []);
    assert.equal((await agent.fetch("/tasks")).status, 401);
  },

  async "a task is changed and removed"(agent: Agent) {
    const { id } = await (await agent.fetch("/tasks", { caller: ALICE, json: { title: "one" } })).json();
    const changed = await agent.fetch(`/tasks/${id}`, { caller: ALICE, method: "PATCH", json: { done: true } });
    assert.equal((await changed.json()).done, true);
    assert.equal((await agent.fetch(`/tasks/${id}`, { caller: BOB, method: "PATCH", json: { done: false } })).status, 404);
    assert.equal((await agent.fetch(`/tasks/${id}`, { caller: ALICE, method: "DELETE" })).status, 204);
    assert.deepEqual(await (await agent.fetch("/tasks", { caller: ALICE })).json(), []);
  },

  async "what is no task is refused with a reason"(agent: Agent) {
    const answer = await agent.fetch("/tasks", { caller: ALICE, json: { title: "" } });
    assert.equal(answer.status, 400);
    assert.match((await answer.json()).error, /title/);
  },
};

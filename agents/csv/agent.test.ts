// Run with: cloister agent test
import assert from "node:assert/strict";
import type { Agent } from "./context.ts";

const ALICE = { caller: "0x" + "a".repeat(40) };
const BOB = { caller: "0x" + "b".repeat(40) };
const SALES = 'region,amount,note\nnorth,10,"a, b"\nsouth,5,\nnorth,20,c\n';
const put = (agent: Agent, body = SALES, who = ALICE) => agent.fetch("/tables/sales", { ...who, method: "PUT", body });

export default {
  async "a table is described when it is kept"(agent: Agent) {
    const kept = await put(agent);
    assert.equal(kept.status, 201);
    const { rows, columns } = await kept.json();
    assert.equal(rows, 3);
    assert.deepEqual(columns.amount, { kind: "number", missing: 0, least: 5, most: 20, mean: 35 / 3, median: 10 });
    assert.deepEqual(columns.note, { kind: "text", missing: 1, different: 3 });
  },

  async "values are grouped by another column"(agent: Agent) {
    await put(agent);
    const groups = await (await agent.fetch("/tables/sales/group?by=region&of=amount", ALICE)).json();
    assert.deepEqual(groups, { north: { count: 2, sum: 30, mean: 15 }, south: { count: 1, sum: 5, mean: 5 } });
    assert.equal((await agent.fetch("/tables/sales/group?by=region&of=note", ALICE)).status, 400);
    assert.equal((await agent.fetch("/tables/sales/group?by=none&of=amount", ALICE)).status, 400);
  },

  async "a table belongs to the caller who kept it"(agent: Agent) {
    await put(agent);
    assert.deepEqual(await (await agent.fetch("/tables", ALICE)).json(), ["sales"]);
    assert.deepEqual(await (await agent.fetch("/tables", BOB)).json(), []);
    assert.equal((await agent.fetch("/tables/sales", BOB)).status, 404);
    assert.equal((await agent.fetch("/tables")).status, 401);
    assert.equal((await agent.fetch("/tables/sales", { ...ALICE, method: "DELETE" })).status, 204);
    assert.equal((await agent.fetch("/tables/sales", ALICE)).status, 404);
  },

  async "what is no table is refused"(agent: Agent) {
    for (const text of ["", "a,b\n", "a,a\n1,2\n", "a,b\n1\n", 'a\n"unfinished']) {
      assert.equal((await put(agent, text)).status, 400, JSON.stringify(text));
    }
  },
};

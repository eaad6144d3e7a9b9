// Run with: cloister agent test
import assert from "node:assert/strict";
import type { Agent } from "./context.ts";

const OWNER = "0x" + "0".repeat(40), STRANGER = "0x" + "b".repeat(40);
const CHOICES = ["For", "Against", "Abstain"];
const OPEN = [
  { id: "1", title: "Raise the treasury fee", body: "From 1 % to 2 %", choices: CHOICES, end: 1 },
  { id: "2", title: "Fund the audit", body: "A security review", choices: CHOICES, end: 2 },
  { id: "3", title: "Change the logo", body: "Blue", choices: CHOICES, end: 3 },
];
const RULES = [{ when: ["audit", "security"], vote: "for" }, { when: ["fee"], vote: "Against" }];

export const hosts = {
  async "hub.snapshot.org"(request: Request): Promise<Response> {
    const { variables } = await request.json();
    return Response.json({ data: { proposals: variables.space === "example.eth" ? OPEN : [] } });
  },
};

export default {
  async "the first rule that fits decides"(agent: Agent) {
    await agent.fetch("/rules", { caller: OWNER, method: "PUT", json: RULES });
    const votes = await (await agent.fetch("/votes", { caller: OWNER })).json();
    assert.deepEqual(votes.map((one: { vote: string }) => one.vote), ["Against", "For", "Abstain"]);
    assert.match(votes[1].because, /audit/);
  },

  async "nobody else reads the rules or the votes"(agent: Agent) {
    await agent.fetch("/rules", { caller: OWNER, method: "PUT", json: RULES });
    for (const caller of [STRANGER, undefined]) {
      assert.equal((await agent.fetch("/rules", { caller })).status, 403);
      assert.equal((await agent.fetch("/votes", { caller })).status, 403);
    }
  },

  async "rules that are no rules are refused"(agent: Agent) {
    for (const json of [null, {}, [{ when: [], vote: "For" }], [{ when: ["a"] }]]) {
      assert.equal((await agent.fetch("/rules", { caller: OWNER, method: "PUT", json })).status, 400);
    }
  },
};

import assert from "node:assert/strict";
import { encodeAbiParameters, encodeEventTopics } from "viem";
import type { Agent } from "./context.ts";
import { ABI } from "./governor.ts";
import { advise } from "./positions.ts";

const ME = "0x" + "0".repeat(40), STRANGER = "0x" + "5".repeat(40);
export const secrets = { OPENAI_API_KEY: "sk-test" };

const TEXTS = ["# Raise the protocol fee\nFrom 1 to 2 %", "# Fund a security audit", "# A new logo"];
const POSITIONS = [{ about: "raising the fee", vote: "Against" }, { about: "security audits", vote: "For" }];

function log(id: number, description: string) {
  const proposer = "0x1111111111111111111111111111111111111111" as const;
  const values = [BigInt(id), proposer, [proposer], [0n], [""], ["0x"], 1n, 99n, description] as const;
  const data = encodeAbiParameters(ABI[0].inputs, values as any);
  return { data, topics: encodeEventTopics({ abi: ABI, eventName: "ProposalCreated" }) };
}

let down = false;
export const hosts = {
  async "rpc.example"(request: Request): Promise<Response> {
    const { method, params } = await request.json();
    if (down) return Response.json({ error: { message: "busy" } });
    if (method === "eth_blockNumber") return Response.json({ result: "0x100" });
    assert.equal(params[0].address, "0x" + "2".repeat(40));
    return Response.json({ result: TEXTS.map((text, i) => log(i + 1, text)) });
  },
  async "api.openai.com"(request: Request): Promise<Response> {
    const { input, model } = await request.json();
    const data = input.map((text: string, index: number) => ({
      object: "embedding",
      index,
      embedding: ["fee", "audit", "logo"].map((word) => (text.includes(word) ? 1 : 0)),
    }));
    return Response.json({ object: "list", data, model, usage: { prompt_tokens: 1, total_tokens: 1 } });
  },
};

const put = (agent: Agent, json: unknown) => agent.fetch("/positions", { caller: ME, method: "PUT", json });
const votes = async (agent: Agent) => await (await agent.fetch("/votes", { caller: ME })).json();

export default {
  async "the closest position decides"(agent: Agent) {
    assert.equal((await put(agent, POSITIONS)).status, 200);
    const said = await votes(agent);
    assert.deepEqual(said.map((one: any) => one.vote), ["Against", "For", "Abstain"]);
    assert.deepEqual(said.map((one: any) => one.because), ["raising the fee", "security audits", "no position is about this"]);
    assert.equal(said[0].description, TEXTS[0]);
  },

  async "what was said once stays"(agent: Agent) {
    await put(agent, POSITIONS);
    const before = await votes(agent);
    await put(agent, [{ about: "raising the fee", vote: "For" }]);
    assert.deepEqual(await votes(agent), before);
  },

  async "nobody else sees positions or votes"(agent: Agent) {
    await put(agent, POSITIONS);
    for (const caller of [STRANGER, undefined]) {
      for (const path of ["/positions", "/votes"]) assert.equal((await agent.fetch(path, { caller })).status, 403);
    }
    assert.deepEqual(await (await agent.fetch("/positions", { caller: ME })).json(), POSITIONS);
  },

  async "what is no position is refused"(agent: Agent) {
    for (const json of [null, [], [{ about: "", vote: "For" }], [{ about: "x", vote: "Maybe" }], [{ vote: "For" }]]) {
      assert.equal((await put(agent, json)).status, 400);
    }
    assert.equal((await agent.fetch("/votes", { caller: ME })).status, 409);
  },

  async "an endpoint that refuses gives no vote"(agent: Agent) {
    await put(agent, POSITIONS);
    down = true;
    const answer = await agent.fetch("/votes", { caller: ME });
    down = false;
    assert.equal(answer.status >= 500, true);
  },

  async "advice"() {
    const held = [{ about: "a", vote: "For" as const, vector: [1, 0] }];
    assert.equal(advise([1, 0.1], held).vote, "For");
    assert.equal(advise([0, 1], held).vote, "Abstain");
    assert.equal(advise([0, 0], held).vote, "Abstain");
    assert.equal(advise([1, 0], []).vote, "Abstain");
  },
};

import assert from "node:assert/strict";
import type { Agent } from "./context.ts";
import { type Bid, outcome } from "./rules.ts";

const [SELLER, ANN, BEN, CAT] = ["1", "a", "b", "c"].map((digit) => "0x" + digit.repeat(40));
const soon = (ms: number) => new Date(Date.now() + ms).toISOString();
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

async function opened(agent: Agent, ms: number, reserve = "10"): Promise<string> {
  const answer = await agent.fetch("/auctions", { caller: SELLER, json: { item: "a painting", reserve, end: soon(ms) } });
  assert.equal(answer.status, 201);
  return `/auctions/${(await answer.json()).id}`;
}

const bids = (...amounts: [string, string, number][]): Bid[] => amounts.map(([bidder, amount, at]) => ({ bidder, amount, at }));

export default {
  async "the best bid wins and pays the second best"(agent: Agent) {
    const path = await opened(agent, 1500);
    for (const [caller, amount] of [[ANN, "120"], [BEN, "90"], [CAT, "9"], [ANN, "100"]]) {
      assert.equal((await agent.fetch(`${path}/bid`, { caller, json: { amount } })).status, 200);
    }
    assert.equal((await agent.fetch(`${path}/close`, { method: "POST" })).status, 409);
    await sleep(1600);
    assert.equal((await agent.fetch(`${path}/bid`, { caller: CAT, json: { amount: "999" } })).status, 409);
    const { result } = await (await agent.fetch(`${path}/close`, { method: "POST" })).json();
    assert.deepEqual(result, { winner: ANN, price: "90" });
    const again = await (await agent.fetch(`${path}/close`, { method: "POST" })).json();
    assert.deepEqual(again.result, result);
  },

  async "nothing about bids is shown before the end"(agent: Agent) {
    const path = await opened(agent, 60_000);
    const before = await (await agent.fetch(path)).text();
    await agent.fetch(`${path}/bid`, { caller: ANN, json: { amount: "77777" } });
    assert.equal(await (await agent.fetch(path, { caller: SELLER })).text(), before);
    assert.ok(!(await (await agent.fetch("/auctions")).text()).includes("77777"));
  },

  async "who may do what"(agent: Agent) {
    const path = await opened(agent, 60_000);
    const json = { amount: "50" };
    assert.equal((await agent.fetch(`${path}/bid`, { json })).status, 401);
    assert.equal((await agent.fetch(`${path}/bid`, { caller: SELLER, json })).status, 403);
    assert.equal((await agent.fetch("/auctions", { json: { item: "x", end: soon(1000) } })).status, 401);
    assert.equal((await agent.fetch("/auctions/00000000-0000-0000-0000-000000000000")).status, 404);
  },

  async "amounts and dates that are none are refused"(agent: Agent) {
    const path = await opened(agent, 60_000);
    for (const amount of ["", "-1", "1.5", "1e9", "0x10", 50, null, "9".repeat(79)]) {
      assert.equal((await agent.fetch(`${path}/bid`, { caller: ANN, json: { amount } })).status, 400, String(amount));
    }
    for (const json of [{}, { item: "" }, { item: "x", end: "soon" }, { item: "x", end: soon(-1) }, { item: "x", end: soon(1e11) }]) {
      assert.equal((await agent.fetch("/auctions", { caller: SELLER, json })).status, 400);
    }
  },

  async "the rules"() {
    assert.deepEqual(outcome([], 0n), { winner: null });
    assert.deepEqual(outcome(bids([ANN, "5", 1]), 6n), { winner: null });
    assert.deepEqual(outcome(bids([ANN, "7", 1]), 6n), { winner: ANN, price: "6" });
    assert.deepEqual(outcome(bids([ANN, "7", 2], [BEN, "7", 1]), 6n), { winner: BEN, price: "7" });
    const huge = (2n ** 200n).toString();
    assert.deepEqual(outcome(bids([ANN, "9", 1], [BEN, huge, 2]), 0n), { winner: BEN, price: "9" });
  },
};

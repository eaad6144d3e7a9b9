// Run with: cloister agent test
import assert from "node:assert/strict";
import { recoverAddress } from "viem";
import { privateKeyToAddress } from "viem/accounts";
import type { Agent } from "./context.ts";

const KEY = ("0x" + "11".repeat(32)) as `0x${string}`;
export const secrets = { ORACLE_KEY: KEY };

const prices = { coinbase: "3000.10", kraken: "3000.30" };
export const hosts = {
  "api.exchange.coinbase.com": () => Response.json({ price: prices.coinbase }),
  "api.kraken.com": () => Response.json({ error: [], result: { XETHZUSD: { c: [prices.kraken, "1"] } } }),
};

export default {
  async "the middle of both sources is signed"(agent: Agent) {
    const said = await (await agent.fetch("/ETH-USD")).json();
    assert.equal(said.price, "300020000000");
    assert.equal(await recoverAddress({ hash: said.digest, signature: said.signature }), privateKeyToAddress(KEY));
    assert.ok(Math.abs(said.time - Date.now() / 1000) < 60);
  },

  async "sources that disagree give no price"(agent: Agent) {
    prices.kraken = "3100";
    const answer = await agent.fetch("/ETH-USD");
    prices.kraken = "3000.30";
    assert.equal(answer.status, 503);
    assert.equal((await answer.json()).signature, undefined);
  },

  async "other pairs are refused"(agent: Agent) {
    assert.equal((await agent.fetch("/DOGE-USD")).status, 404);
    assert.deepEqual((await (await agent.fetch("/")).json()).pairs, ["ETH-USD", "BTC-USD"]);
  },
};

import assert from "node:assert/strict";
import { recoverAddress } from "viem";
import { privateKeyToAddress } from "viem/accounts";
import type { Agent } from "./context.ts";
import { agree } from "./sources.ts";

const KEY = ("0x" + "22".repeat(32)) as `0x${string}`;
export const secrets = { ORACLE_KEY: KEY };

const said: Record<string, string | null> = {};
const answer = (name: string, shape: (price: string) => unknown) => () =>
  said[name] ? Response.json(shape(said[name])) : new Response(null, { status: 500 });

export const hosts = {
  "api.exchange.coinbase.com": answer("coinbase", (price) => ({ price })),
  "api.kraken.com": answer("kraken", (price) => ({ result: { X: { c: [price, "1"] } } })),
  "api.binance.com": answer("binance", (price) => ({ price })),
};

async function ask(agent: Agent, prices: Record<string, string | null>, path = "/ETH-USD"): Promise<any> {
  Object.assign(said, prices);
  return await (await agent.fetch(path)).json();
}

const quotes = (...prices: number[]) => prices.map((price, i) => ({ source: `s${i}`, price: BigInt(price) }));

export default {
  async "the median is signed by the agent's key"(agent: Agent) {
    const found = await ask(agent, { coinbase: "3000.00", kraken: "3001", binance: "3002.5" });
    assert.equal(found.price, "300100000000");
    assert.deepEqual(found.sources, ["binance", "coinbase", "kraken"]);
    assert.equal(await recoverAddress({ hash: found.digest, signature: found.signature }), privateKeyToAddress(KEY));
  },

  async "one source that lies is left out"(agent: Agent) {
    const found = await ask(agent, { coinbase: "3000", kraken: "3010", binance: "1" });
    assert.deepEqual(found.sources, ["coinbase", "kraken"]);
    assert.equal(found.price, "300500000000");
  },

  async "one source that is down does not stop the others"(agent: Agent) {
    const found = await ask(agent, { coinbase: null, kraken: "3000", binance: "3000" });
    assert.deepEqual(found.sources, ["binance", "kraken"]);
  },

  async "without two that agree there is no price"(agent: Agent) {
    for (const prices of [{ coinbase: "3000", kraken: "2000", binance: "1" }, { coinbase: "3000", kraken: null, binance: null }]) {
      const found = await ask(agent, prices);
      assert.equal(found.signature, undefined);
      assert.match(found.error, /do not agree/);
    }
  },

  async "a fresh price is given again, and kept"(agent: Agent) {
    const prices = { coinbase: "3000", kraken: "3000", binance: "3000" };
    const first = await ask(agent, prices);
    assert.deepEqual(await ask(agent, { coinbase: "4000", kraken: "4000", binance: "4000" }), first);
    assert.deepEqual(await ask(agent, prices, "/ETH-USD/history"), [first]);
    assert.deepEqual(await ask(agent, prices, "/BTC-USD/history"), []);
    assert.equal((await agent.fetch("/DOGE-USD")).status, 404);
  },

  async "how sources agree"() {
    assert.equal(agree([]), null);
    assert.equal(agree(quotes(1000)), null);
    assert.equal(agree(quotes(0, 0, 0)), null);
    assert.deepEqual(agree(quotes(1000, 1020))?.sources, ["s0", "s1"]);
    assert.deepEqual(agree(quotes(1000, 1010, 5000))?.sources, ["s0", "s1"]);
    assert.equal(agree(quotes(1000, 1001, 1002))?.price, 1001n);
    assert.equal(agree(quotes(1000, 3000)), null);
  },
};

// A price oracle for contracts. Asks several exchanges, drops what lies apart, signs the median with EIP-712, remembers.
import { hashTypedData, parseUnits } from "viem";
import { privateKeyToAccount } from "viem/accounts";
import type { Context } from "./context.ts";
import { agree, DECIMALS, PAIRS, type Quote, SOURCES } from "./sources.ts";

const FRESH_MS = 10_000; // within this time everybody gets the same price
const KEPT = 500;

interface Signed {
  pair: string;
  price: string;
  decimals: number;
  time: number;
  sources: string[];
  digest: string;
  signer: string;
  signature: string;
}

const types = {
  Price: [
    { name: "pair", type: "string" },
    { name: "price", type: "uint256" },
    { name: "decimals", type: "uint8" },
    { name: "time", type: "uint64" },
  ],
} as const;

/** What a contract's ecrecover must use as well: the chain and the contract that the price is for. */
function domain() {
  const verifyingContract = process.env.CONTRACT as `0x${string}`;
  return { name: "Cloister price oracle", version: "1", chainId: Number(process.env.CHAIN_ID), verifyingContract } as const;
}

async function ask(pair: string, ctx: Context): Promise<Quote[]> {
  const asked = Object.entries(SOURCES).map(async ([source, { url, read }]) => {
    const answer = await fetch(url(PAIRS[pair]), { signal: AbortSignal.any([ctx.signal, AbortSignal.timeout(5000)]) });
    if (!answer.ok) throw new Error(`${source} answered ${answer.status}`);
    return { source, price: parseUnits(String(read(await answer.json())), DECIMALS) };
  });
  const done = await Promise.allSettled(asked);
  for (const one of done) if (one.status === "rejected") ctx.log.warn(one.reason);
  return done.flatMap((one) => (one.status === "fulfilled" ? [one.value] : []));
}

async function sign(pair: string, price: bigint, sources: string[], ctx: Context): Promise<Signed> {
  const account = privateKeyToAccount(ctx.secrets.ORACLE_KEY);
  const time = Math.floor(Date.now() / 1000);
  const message = { pair, price, decimals: DECIMALS, time: BigInt(time) };
  const typed = { domain: domain(), types, primaryType: "Price", message } as const;
  const signature = await account.signTypedData(typed);
  return {
    pair, price: price.toString(), decimals: DECIMALS, time, sources,
    digest: hashTypedData(typed), signer: account.address, signature,
  };
}

async function latest(pair: string, ctx: Context): Promise<Response> {
  const known: Signed[] = (await ctx.state.get(`prices/${pair}`)) ?? [];
  const last = known.at(-1);
  if (last && Date.now() - last.time * 1000 < FRESH_MS) return Response.json(last);
  const quotes = await ask(pair, ctx), agreed = agree(quotes);
  if (!agreed) {
    const found = quotes.map(({ source, price }) => ({ source, price: price.toString() }));
    return Response.json({ error: "the sources do not agree", quotes: found }, { status: 503 });
  }
  const signed = await sign(pair, agreed.price, agreed.sources, ctx);
  await ctx.state.put(`prices/${pair}`, [...known, signed].slice(-KEPT));
  return Response.json(signed);
}

export default {
  async fetch(request: Request, ctx: Context): Promise<Response> {
    const [, pair, what] = new URL(request.url).pathname.split("/");
    if (!pair) return Response.json({ pairs: Object.keys(PAIRS), sources: Object.keys(SOURCES) });
    if (!Object.hasOwn(PAIRS, pair)) return Response.json({ error: "no such pair" }, { status: 404 });
    if (what === "history") return Response.json((await ctx.state.get(`prices/${pair}`)) ?? []);
    return what ? Response.json({ error: "/PAIR or /PAIR/history" }, { status: 404 }) : await latest(pair, ctx);
  },
};

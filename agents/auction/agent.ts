// A sealed-bid auction. Bids stay secret until the end, and most of them for ever: only the winner and the price come out.
// The winner pays the second highest bid (Vickrey), so that the best bid is what the thing is worth to you.
import { type Auction, type Bid, outcome, readAuction, readBid } from "./rules.ts";
import type { Context } from "./context.ts";

const MOST_BIDS = 500;

function refuse(status: number, error: string): Response {
  return Response.json({ error }, { status });
}

/** What everybody may know: never a bid, and before the end not even how many there are. */
function shown(id: string, auction: Auction) {
  const { seller, item, reserve, end, result } = auction;
  return { id, seller, item, reserve, end, closed: result !== undefined, result };
}

async function open(request: Request, ctx: Context, caller: string): Promise<Response> {
  const draft = readAuction(await request.json().catch(() => null), Date.now());
  if (typeof draft === "string") return refuse(400, draft);
  const id = crypto.randomUUID();
  const auction: Auction = { ...draft, seller: caller };
  await ctx.state.put(`auction/${id}`, auction);
  return Response.json(shown(id, auction), { status: 201 });
}

async function bid(id: string, auction: Auction, request: Request, ctx: Context, caller: string): Promise<Response> {
  if (Date.now() >= auction.end || auction.result) return refuse(409, "the auction is over");
  if (caller === auction.seller) return refuse(403, "the seller does not bid");
  const amount = readBid(await request.json().catch(() => null));
  if (!/^\d+$/.test(amount)) return refuse(400, amount);
  const key = `bid/${id}/${caller}`, known = await ctx.state.list(`bid/${id}/`, { limit: MOST_BIDS });
  if (!known.includes(key) && known.length >= MOST_BIDS) return refuse(409, "too many bidders");
  // One bid per address, the last one counts. The time decides between equal bids.
  await ctx.state.put(key, { bidder: caller, amount, at: Date.now() } satisfies Bid);
  return Response.json({ accepted: amount });
}

/** Anybody may close an auction whose time is over. The bids are deleted, the lost ones unseen by anybody. */
async function close(id: string, auction: Auction, ctx: Context): Promise<Response> {
  if (Date.now() < auction.end) return refuse(409, "the auction still runs");
  const keys = await ctx.state.list(`bid/${id}/`, { limit: MOST_BIDS });
  let closed = auction;
  if (!auction.result) {
    const bids: Bid[] = await Promise.all(keys.map((key) => ctx.state.get(key)));
    closed = { ...auction, result: outcome(bids, BigInt(auction.reserve)) };
    await ctx.state.put(`auction/${id}`, closed);
  }
  // A request writes at most 128 keys: after a large auction the next ones to ring delete the rest.
  for (const key of keys.slice(0, 100)) await ctx.state.delete(key);
  return Response.json(shown(id, closed));
}

export default {
  async fetch(request: Request, ctx: Context): Promise<Response> {
    const { pathname } = new URL(request.url), caller = ctx.caller?.address;
    if (request.method === "POST" && pathname === "/auctions") {
      return caller ? await open(request, ctx, caller) : refuse(401, "sign in with a wallet");
    }
    if (pathname === "/auctions") {
      const keys = await ctx.state.list("auction/", { limit: 100 });
      const all = await Promise.all(keys.map(async (key) => shown(key.slice(8), await ctx.state.get(key))));
      return Response.json(all);
    }
    const [, id, action] = pathname.match(/^\/auctions\/([0-9a-f-]{36})(?:\/(bid|close))?$/) ?? [];
    const auction: Auction | null = id ? await ctx.state.get(`auction/${id}`) : null;
    if (!auction) return refuse(404, "POST and GET /auctions, GET /auctions/:id, POST /auctions/:id/bid, /close");
    if (!action) return Response.json(shown(id, auction));
    if (request.method !== "POST") return refuse(405, "POST");
    if (action === "close") return await close(id, auction, ctx);
    return caller ? await bid(id, auction, request, ctx, caller) : refuse(401, "sign in with a wallet");
  },
};

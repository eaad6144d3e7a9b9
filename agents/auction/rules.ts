/** An auction as it is stored. Amounts are whole numbers as texts: JSON has no big ones. `end`: Unix milliseconds. */
export interface Auction {
  seller: string;
  item: string;
  reserve: string;
  end: number;
  result?: Result;
}

export interface Bid {
  bidder: string;
  amount: string;
  at: number;
}

/** Who won and what it costs; no winner where no bid met the reserve. */
export type Result = { winner: string; price: string } | { winner: null };

const AMOUNT = /^(0|[1-9][0-9]{0,77})$/;
const LONGEST_MS = 90 * 24 * 3600 * 1000;

/** The second highest bid is the price, the reserve where there is one bid. Of equal bids the earlier one wins. */
export function outcome(bids: Bid[], reserve: bigint): Result {
  const valid = bids.filter((bid) => BigInt(bid.amount) >= reserve);
  valid.sort((a, b) => {
    const [x, y] = [BigInt(a.amount), BigInt(b.amount)];
    return x > y ? -1 : x < y ? 1 : a.at - b.at || (a.bidder < b.bidder ? -1 : 1);
  });
  if (!valid.length) return { winner: null };
  return { winner: valid[0].bidder, price: valid.length > 1 ? BigInt(valid[1].amount).toString() : reserve.toString() };
}

/** A new auction, or what is wrong with it. */
export function readAuction(value: any, now: number): Omit<Auction, "seller"> | string {
  const end = Date.parse(value?.end);
  if (typeof value?.item !== "string" || !value.item.trim() || value.item.length > 500) return "item: a text of at most 500";
  if (!AMOUNT.test(String(value.reserve ?? "0"))) return "reserve: a whole number as text";
  if (Number.isNaN(end) || end <= now || end > now + LONGEST_MS) return "end: a date within the next 90 days";
  return { item: value.item, reserve: String(value.reserve ?? "0"), end };
}

/** The amount of a bid, or what is wrong with it. */
export function readBid(value: any): string {
  return typeof value?.amount === "string" && AMOUNT.test(value.amount) ? value.amount : "amount: a whole number as text";
}

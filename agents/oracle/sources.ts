export const DECIMALS = 8;
export const NEEDED = 2; // sources that must agree
const APART_PER_MILLE = 10n; // more than 1 % from the median is out

/** What each exchange calls a pair. */
export interface Names {
  coinbase: string;
  kraken: string;
  binance: string;
}

export const PAIRS: Record<string, Names> = {
  "ETH-USD": { coinbase: "ETH-USD", kraken: "ETHUSD", binance: "ETHUSDC" },
  "BTC-USD": { coinbase: "BTC-USD", kraken: "XBTUSD", binance: "BTCUSDC" },
};

interface Source {
  url(names: Names): string;
  read(answer: any): string;
}

export const SOURCES: Record<string, Source> = {
  coinbase: {
    url: (names) => `https://api.exchange.coinbase.com/products/${names.coinbase}/ticker`,
    read: (answer) => answer.price,
  },
  kraken: {
    url: (names) => `https://api.kraken.com/0/public/Ticker?pair=${names.kraken}`,
    read: (answer) => (Object.values(answer.result)[0] as any).c[0],
  },
  binance: {
    url: (names) => `https://api.binance.com/api/v3/ticker/price?symbol=${names.binance}`,
    read: (answer) => answer.price,
  },
};

export interface Quote {
  source: string;
  price: bigint;
}

/** The median of those quotes that lie close to the median of all, and who gave them; null where too few agree. */
export function agree(quotes: Quote[]): { price: bigint; sources: string[] } | null {
  const valid = quotes.filter((quote) => quote.price > 0n);
  if (!valid.length) return null;
  const middle = median(valid);
  const near = valid.filter(({ price }) => distance(price, middle) * 1000n <= middle * APART_PER_MILLE);
  if (near.length < NEEDED) return null;
  return { price: median(near), sources: near.map((quote) => quote.source).sort() };
}

function median(quotes: Quote[]): bigint {
  const sorted = quotes.map((quote) => quote.price).sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2n;
}

const distance = (a: bigint, b: bigint) => (a > b ? a - b : b - a);

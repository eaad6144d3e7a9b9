export const VOTES = ["For", "Against", "Abstain"] as const;
export type Vote = (typeof VOTES)[number];

/** What the delegator thinks about a topic: how a proposal about it is to be voted on. */
export interface Position {
  about: string;
  vote: Vote;
}

export type Held = Position & { vector: number[] };

export interface Advice {
  vote: Vote;
  because: string;
  score: number;
}

/** Below this no position is about the proposal. */
const CLOSE = 0.35;

export function isPositions(value: unknown): value is Position[] {
  return Array.isArray(value) && value.length > 0 && value.length <= 50 && value.every((one) =>
    typeof one?.about === "string" && one.about.trim() !== "" && one.about.length <= 500 && VOTES.includes(one.vote)
  );
}

/** The position that is closest to the proposal decides; where none is close, nobody does. */
export function advise(proposal: number[], held: Held[]): Advice {
  const ranked = held.map((one) => ({ ...one, score: cosine(proposal, one.vector) })).sort((a, b) => b.score - a.score);
  const best = ranked[0], score = Math.round((best?.score ?? 0) * 1000) / 1000;
  if (!best || best.score < CLOSE) return { vote: "Abstain", because: "no position is about this", score };
  return { vote: best.vote, because: best.about, score };
}

function cosine(a: number[], b: number[]): number {
  let dot = 0, aa = 0, bb = 0;
  for (let i = 0; i < a.length; i++) dot += a[i] * b[i], aa += a[i] * a[i], bb += b[i] * b[i];
  return dot / (Math.sqrt(aa * bb) || 1);
}

const WORDS = 120;

/** Pieces of about 120 words, cut between paragraphs where possible: an embedding blurs longer texts. A heading begins a piece. */
export function split(text: string): string[] {
  const pieces: string[] = [];
  let current: string[] = [];
  for (const paragraph of text.split(/\n\s*\n/)) {
    const words = paragraph.split(/\s+/).filter(Boolean);
    const full = current.length + words.length > WORDS || /^#+ /.test(paragraph);
    if (full && current.length) pieces.push(current.join(" ")), current = [];
    while (words.length > WORDS) pieces.push(words.splice(0, WORDS).join(" "));
    current.push(...words);
  }
  if (current.length) pieces.push(current.join(" "));
  return pieces;
}

/** Cosine of the angle between two vectors: 1 for the same direction, 0 for unrelated ones. */
export function cosine(a: number[], b: number[]): number {
  let dot = 0, aa = 0, bb = 0;
  for (let i = 0; i < a.length; i++) dot += a[i] * b[i], aa += a[i] * a[i], bb += b[i] * b[i];
  return dot / (Math.sqrt(aa * bb) || 1);
}

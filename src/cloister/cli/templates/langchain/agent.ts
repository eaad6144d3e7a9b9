// AGENT_NAME: answers questions from documents that callers hand in, with LangChain.
import { StringOutputParser } from "@langchain/core/output_parsers";
import { ChatPromptTemplate } from "@langchain/core/prompts";
import { ChatOpenAI, OpenAIEmbeddings } from "@langchain/openai";
import type { Context } from "./context.ts";

// A devnet serves embeddings only: without CHAT_MODEL the passages themselves are the answer.
const EMBEDDING_MODEL = "all-MiniLM-L6-v2";
const MOST = { text: 20_000, piece: 800, found: 3 };

interface Piece {
  text: string;
  vector: number[];
}

const embeddings = () => new OpenAIEmbeddings({ model: EMBEDDING_MODEL, encodingFormat: "float", maxRetries: 1 });

const prompt = ChatPromptTemplate.fromMessages([
  ["system", "Answer from these passages only. Say so if they do not answer.\n\n{passages}"],
  ["human", "{question}"],
]);

async function add(text: string, ctx: Context): Promise<number> {
  const pieces = text.match(new RegExp(`[^]{1,${MOST.piece}}(?:\\s|$)|[^]{1,${MOST.piece}}`, "g")) ?? [];
  const vectors = await embeddings().embedDocuments(pieces);
  const stored: Piece[] = pieces.map((piece, i) => ({ text: piece.trim(), vector: vectors[i] }));
  await ctx.state.put(`document/${ctx.requestId}`, stored);
  return stored.length;
}

async function passages(question: string, ctx: Context): Promise<string[]> {
  const keys = await ctx.state.list("document/");
  const pieces: Piece[] = (await Promise.all(keys.map((key) => ctx.state.get(key)))).flat();
  if (!pieces.length) return [];
  const wanted = await embeddings().embedQuery(question);
  const score = (piece: Piece) => piece.vector.reduce((sum, value, i) => sum + value * wanted[i], 0);
  return pieces.sort((a, b) => score(b) - score(a)).slice(0, MOST.found).map((piece) => piece.text);
}

async function ask(question: string, ctx: Context): Promise<unknown> {
  const found = await passages(question, ctx);
  const model = process.env.CHAT_MODEL;
  if (!model) return { passages: found };
  const chain = prompt.pipe(new ChatOpenAI({ model, maxRetries: 1 })).pipe(new StringOutputParser());
  const answer = await chain.invoke({ question, passages: found.join("\n---\n") }, { signal: ctx.signal });
  return { answer, passages: found };
}

export default {
  async fetch(request: Request, ctx: Context): Promise<Response> {
    const url = new URL(request.url), question = url.searchParams.get("q");
    if (request.method === "POST" && url.pathname === "/documents") {
      const text = await request.text();
      if (!text.trim() || text.length > MOST.text) return Response.json({ error: "a text of at most 20000" }, { status: 400 });
      return Response.json({ pieces: await add(text, ctx) }, { status: 201 });
    }
    if (url.pathname === "/ask" && question) return Response.json(await ask(question.slice(0, 1000), ctx));
    return Response.json({ error: "POST /documents, GET /ask?q=…" }, { status: 404 });
  },
};

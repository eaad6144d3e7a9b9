/** The official `openai` package talks to an agent through `sealedFetch`: an answer, and a streamed one. */

import OpenAI from "openai";
import { connect, sealedFetch } from "@cloister/sdk";

const [url, fingerprint, now] = Deno.args as [string, string, string];
const client = await connect(url, { fingerprint, clock: () => Number(now) });
const agent = await client.agent(1);
const openai = new OpenAI({ baseURL: "https://agent.invalid/v1", apiKey: "unused", fetch: sealedFetch(agent) });
const messages = [{ role: "user" as const, content: "hi" }];

const answer = await openai.chat.completions.create({ model: "m", messages });
console.log(answer.choices[0]!.message.content);

let text = "";
for await (const part of await openai.chat.completions.create({ model: "m", messages, stream: true })) {
  text += part.choices[0]?.delta?.content ?? "";
}
console.log(text);

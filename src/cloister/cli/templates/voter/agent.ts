// AGENT_NAME: reads the open proposals of a DAO on Snapshot and says how its owner would vote, by rules that stay private.
import type { Context } from "./context.ts";

const HUB = "https://hub.snapshot.org/graphql";
const QUERY = `query ($space: String!) {
  proposals(first: 20, where: { space: $space, state: "active" }) { id title body choices end }
}`;

interface Proposal {
  id: string;
  title: string;
  body: string;
  choices: string[];
  end: number;
}

/** `when`: words, one of which must occur in title or text. `vote`: the choice to take. The first rule that fits decides. */
interface Rule {
  when: string[];
  vote: string;
}

async function proposals(space: string, ctx: Context): Promise<Proposal[]> {
  const answer = await fetch(HUB, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ query: QUERY, variables: { space } }),
    signal: ctx.signal,
  });
  if (!answer.ok) throw new Error(`the hub answered ${answer.status}`);
  return (await answer.json()).data.proposals;
}

function decide(proposal: Proposal, rules: Rule[]): { vote: string; because: string } {
  const text = `${proposal.title}\n${proposal.body}`.toLowerCase();
  for (const { when, vote } of rules) {
    const word = when.find((candidate) => text.includes(candidate.toLowerCase()));
    const choice = proposal.choices.find((name) => name.toLowerCase() === vote.toLowerCase());
    if (word && choice) return { vote: choice, because: `the text says "${word}"` };
  }
  return { vote: "Abstain", because: "no rule fits" };
}

const isRules = (value: unknown): value is Rule[] =>
  Array.isArray(value) && value.length <= 100 && value.every((rule) =>
    typeof rule?.vote === "string" && Array.isArray(rule.when) && rule.when.length > 0 &&
    rule.when.every((word: unknown) => typeof word === "string" && word.length > 0)
  );

export default {
  async fetch(request: Request, ctx: Context): Promise<Response> {
    const path = new URL(request.url).pathname;
    if (ctx.caller?.address !== process.env.OWNER?.toLowerCase()) {
      return Response.json({ error: "only the delegator may ask" }, { status: 403 });
    }
    if (request.method === "PUT" && path === "/rules") {
      const rules = await request.json().catch(() => null);
      if (!isRules(rules)) return Response.json({ error: "a list of {when: [words], vote}" }, { status: 400 });
      await ctx.state.put("rules", rules);
      return Response.json({ rules: rules.length });
    }
    if (path === "/rules") return Response.json((await ctx.state.get("rules")) ?? []);
    if (path !== "/votes") return Response.json({ error: "PUT /rules, GET /rules, GET /votes" }, { status: 404 });
    const rules: Rule[] = (await ctx.state.get("rules")) ?? [];
    const open = await proposals(process.env.SPACE!, ctx);
    return Response.json(open.map((one) => ({ id: one.id, title: one.title, end: one.end, ...decide(one, rules) })));
  },
};

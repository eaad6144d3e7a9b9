"""Posts for its owner to a Mastodon instance at the times that the owner chose. Nobody sees a draft before that."""

import asyncio
import json
import time
import urllib.request
from datetime import datetime

from cloister_agent import Request, Response

MOST_TEXT, MOST_DRAFTS, AT_ONCE = 500, 200, 5


async def fetch(request: Request, ctx) -> Response:
    """The schedule posts what is due; anybody may read what was posted."""
    if request.path == "/publish" and (ctx.caller or {}).get("kind") == "schedule":
        return await publish(ctx)
    if request.path == "/":
        return Response.json([await ctx.state.get(key) for key in (await ctx.state.list("posted/"))[-20:]])
    return Response.json({"error": "GET /"}, 404)


async def command(request: Request, ctx) -> Response:
    """The owner's: {"add": text, "at": ISO time or nothing}, {"remove": id}, {"list": true}. In order, exactly once."""
    asked = request.json()
    if "add" in asked:
        return await add(asked["add"], asked.get("at"), ctx)
    if "remove" in asked:
        await ctx.state.delete(f"draft/{asked['remove']}")
    return Response.json(await drafts(ctx))


async def add(text, at, ctx) -> Response:
    try:
        due = time.time() if at is None else datetime.fromisoformat(at).timestamp()
    except (TypeError, ValueError):
        return Response.json({"error": "at is a time such as 2026-01-31T12:00:00+00:00"}, 400)
    if not isinstance(text, str) or not 0 < len(text.strip()) <= MOST_TEXT:
        return Response.json({"error": f"a text of at most {MOST_TEXT} characters"}, 400)
    if len(await ctx.state.list("draft/", limit=MOST_DRAFTS)) == MOST_DRAFTS:
        return Response.json({"error": "too many drafts"}, 409)
    draft = {"id": ctx.request_id, "text": text, "at": int(due)}
    await ctx.state.put(f"draft/{ctx.request_id}", draft)
    ctx.log("a draft for", draft["at"])
    return Response.json(draft, 201)


async def drafts(ctx) -> list:
    found = [await ctx.state.get(key) for key in await ctx.state.list("draft/")]
    return sorted(found, key=lambda draft: draft["at"])


async def publish(ctx) -> Response:
    """Post what is due. A post that fails stays a draft: the schedule tries again, and then sets the run aside."""
    due = [draft for draft in await drafts(ctx) if draft["at"] <= time.time()][:AT_ONCE]
    for draft in due:
        url = await asyncio.to_thread(post, ctx.settings["INSTANCE"], ctx.secrets["MASTODON_TOKEN"], draft)
        await ctx.state.delete(f"draft/{draft['id']}")
        await ctx.state.put(f"posted/{draft['at']:012}-{draft['id']}", {"text": draft["text"], "url": url})
        ctx.log("posted", url)
    return Response.json({"posted": len(due)})


def post(instance: str, token: str, draft: dict) -> str:
    """One post; its address. A run may happen twice: the same key makes it the same post."""
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json", "idempotency-key": draft["id"]}
    body = json.dumps({"status": draft["text"]}).encode()
    asked = urllib.request.Request(f"https://{instance}/api/v1/statuses", body, headers, method="POST")
    with urllib.request.urlopen(asked, timeout=20) as answer:  # noqa: S310 - https above
        return json.load(answer)["url"]

"""AGENT_NAME: keeps notes and counts their words. Only this code, inside attested hardware, can read them."""

from collections import Counter

from cloister_agent import Request, Response


async def fetch(request: Request, ctx) -> Response:
    if request.path == "/":
        return Response.json({"agent": "AGENT_NAME", "hello": "world"})
    if request.path == "/notes" and request.method == "POST":
        return await save(request, ctx)
    if request.path == "/notes":
        return Response.json(await notes(ctx))
    if request.path == "/words":
        words = Counter(word for note in await notes(ctx) for word in note["text"].lower().split())
        return Response.json(dict(words.most_common(10)))
    return Response.json({"error": "try /, /notes or /words"}, 404)


async def save(request: Request, ctx) -> Response:
    try:
        note = {"text": str(request.json()["text"])}
    except (ValueError, KeyError, TypeError):
        return Response.json({"error": 'send {"text": "..."}'}, 400)
    # A name of its own for every note. What a request writes is written once, even if its caller repeats it.
    await ctx.state.put(f"note/{ctx.request_id}", note)
    ctx.log("saved a note")
    return Response.json({"saved": note}, 201)


async def notes(ctx) -> list[dict]:
    return [await ctx.state.get(key) for key in await ctx.state.list("note/")]

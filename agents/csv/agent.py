"""An analyst of tables that nobody else may see: callers keep CSV here and ask about it. Only they read it again."""

from cloister_agent import Request, Response

import table


async def fetch(request: Request, ctx) -> Response:
    if ctx.caller is None:
        return Response.json({"error": "sign in with a wallet: tables belong to their owners"}, 401)
    base, _, rest = request.path.removeprefix("/tables").strip("/").partition("/")
    mine = f"table/{ctx.caller['address']}/"
    try:
        if not request.path.startswith("/tables"):
            return Response.json({"error": "try /tables, /tables/NAME, /tables/NAME/group?by=A&of=B"}, 404)
        if not base:
            return Response.json([key.removeprefix(mine) for key in await ctx.state.list(mine)])
        if request.method == "PUT":
            return await keep(request, ctx, mine + base)
        return await answer(request, ctx, mine + base, rest)
    except (table.BadTable, UnicodeDecodeError) as error:
        return Response.json({"error": str(error)}, 400)


async def keep(request: Request, ctx, key: str) -> Response:
    text = request.text()
    facts = table.describe(*table.read(text))
    await ctx.state.put_bytes(key, text.encode())
    ctx.log("kept a table of", facts["rows"], "rows")
    return Response.json(facts, 201)


async def answer(request: Request, ctx, key: str, what: str) -> Response:
    data = await ctx.state.get_bytes(key)
    if data is None:
        return Response.json({"error": "no table of that name"}, 404)
    if request.method == "DELETE":
        await ctx.state.delete(key)
        return Response(None, 204)
    names, rows = table.read(data.decode())
    if what == "group":
        by, of = (request.query.get(name, [""])[0] for name in ("by", "of"))
        return Response.json(table.group(names, rows, by, of))
    return Response.json(table.describe(names, rows))

"""The HTTP face of a gatekeeper (spec/gatekeeper-api.md): routes, sizes, and errors by name. It decides nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from cloister.core.encoding.hexes import from_hex, need_uint, to_hex
from cloister.core.errors import CloisterError, TransportError, define
from cloister.gatekeeper.candidates import ROUTE as CANDIDACY_ROUTE
from cloister.gatekeeper.rest import ROUTE as DISK_ROUTE
from cloister.gatekeeper.service import Gatekeeper
from cloister.node import logs
from cloister.wire.account import ROUTE as ACCOUNT_ROUTE
from cloister.wire.anchor import ROUTE as ANCHOR_ROUTE
from cloister.wire.conflicts import WITNESSED_ROUTE
from cloister.wire.messages import BAD_MESSAGE, MAX_BODY, TOO_LARGE, dump_json
from cloister.wire.remote import ROUTE as REMOTE_ROUTE

INTERNAL = define(
    "gatekeeper.internal",
    TransportError,
    check="the gatekeeper could carry out the request",
    remedy="ask another member; the operator finds the reason in the log",
    status=500,
)
NO_ROUTE = define(
    "gatekeeper.no_route",
    TransportError,
    check="the path and method are of this API version",
    remedy="see spec/gatekeeper-api.md",
    status=404,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_log = logs.get("api")


def build(gatekeeper: Gatekeeper) -> web.Application:
    """The application. Nothing in it keeps state."""
    api = _Api(gatekeeper)
    app = web.Application(client_max_size=MAX_BODY, middlewares=[_errors])
    app.add_routes(
        [
            web.get("/v1/info", api.info),
            web.get("/v1/evidence", api.evidence),
            web.get("/v1/status", api.status),
            web.get("/v1/dkg/{ceremony}/dealing", api.dealing),
            web.get("/v1/dkg/{ceremony}/dealing/{dealer}", api.dealing),
            web.get("/v1/transcript/{transcript}", api.transcript),
            web.get("/v1/handovers", api.handovers),
            web.get("/v1/statements", api.statements),
            web.get("/v1/leases/{worker}", api.leases),
            web.get(WITNESSED_ROUTE, api.witnessed),
            web.get("/v1/shares/{epoch}", api.shares),
            web.get("/v1/checkpoint", api.checkpoint),
            web.get("/v1/checkpoint/{number}", api.checkpoint_at),
            web.get("/v1/chains/{chain}/checkpoint", api.chain_checkpoint),
            web.get("/v1/chains/{chain}/checkpoint/{number}", api.chain_checkpoint),
            web.get("/v1/chains/{chain}/signers/{term}", api.signer_set),
            web.post("/v1/admission", api.admission),
            web.post(CANDIDACY_ROUTE, api.candidacy),
            web.post(DISK_ROUTE, api.disk),
            web.post("/v1/keys", api.keys),
            web.post(ANCHOR_ROUTE, api.anchor_lease),
            web.post(ACCOUNT_ROUTE, api.account_signer),
            web.post(REMOTE_ROUTE, api.remote_agent),
            web.post("/v1/heads", api.endorse),
            web.get("/v1/heads/{agent}", api.head),
            web.get("/v1/headtable", api.head_table),
            web.post("/v1/heartbeat", api.heartbeat),
            web.post("/v1/logs", api.logs),
        ]
    )
    return app


class _Api:
    """One method per route."""

    def __init__(self, gatekeeper: Gatekeeper) -> None:
        self._gatekeeper = gatekeeper

    async def info(self, request: web.Request) -> web.Response:
        self._gatekeeper.small(_remote(request))
        return _answer(self._gatekeeper.info().to_json())

    async def evidence(self, request: web.Request) -> web.Response:
        nonce = from_hex(_query(request, "nonce"), 32, name="nonce")
        return _answer((await self._gatekeeper.evidence(nonce, _remote(request))).to_json())

    async def dealing(self, request: web.Request) -> web.Response:
        self._gatekeeper.small(_remote(request))
        ceremony = from_hex(request.match_info["ceremony"], 32, name="ceremony")
        text = request.match_info.get("dealer")
        dealer = None if text is None else _number("dealer", text)
        dealing, signature = self._gatekeeper.ceremonies.dealing(ceremony, dealer)
        return _answer({"dealing": dealing.to_json(), "signature": to_hex(signature)})

    async def status(self, request: web.Request) -> web.Response:
        self._gatekeeper.small(_remote(request))
        return _answer(self._gatekeeper.status())

    async def transcript(self, request: web.Request) -> web.Response:
        self._gatekeeper.small(_remote(request))
        name = from_hex(request.match_info["transcript"], 32, name="transcript")
        return _answer(self._gatekeeper.transcripts.head(name))

    async def handovers(self, request: web.Request) -> web.Response:
        self._gatekeeper.small(_remote(request))
        return _answer(self._gatekeeper.handovers.served())

    async def statements(self, request: web.Request) -> web.Response:
        self._gatekeeper.small(_remote(request))
        return _answer(self._gatekeeper.statements.served())

    async def witnessed(self, request: web.Request) -> web.Response:
        self._gatekeeper.small(_remote(request))
        return _answer(self._gatekeeper.witnessed(_number("height", request.match_info["height"])))

    async def leases(self, request: web.Request) -> web.Response:
        self._gatekeeper.small(_remote(request))
        worker = from_hex(request.match_info["worker"], 20, name="worker")
        return _answer(self._gatekeeper.statements.served_leases(worker))

    async def shares(self, request: web.Request) -> web.Response:
        self._gatekeeper.small(_remote(request))
        epoch = _number("epoch", request.match_info["epoch"])
        return _answer(self._gatekeeper.require_desks().office.share_for(epoch).public.to_json())

    async def checkpoint(self, request: web.Request) -> web.Response:
        self._gatekeeper.small(_remote(request))
        return _answer(self._gatekeeper.require_desks().checkpoints.newest().to_json())

    async def checkpoint_at(self, request: web.Request) -> web.Response:
        self._gatekeeper.small(_remote(request))
        number = _number("number", request.match_info["number"])
        return _answer(self._gatekeeper.require_desks().checkpoints.at(number).to_json())

    async def chain_checkpoint(self, request: web.Request) -> web.Response:
        self._gatekeeper.small(_remote(request))
        self._gatekeeper.require_desks()
        book = self._gatekeeper.chains.at(_number("chain", request.match_info["chain"])).checkpoints
        text = request.match_info.get("number")
        return _answer((book.newest() if text is None else book.at(_number("number", text))).to_json())

    async def signer_set(self, request: web.Request) -> web.Response:
        self._gatekeeper.small(_remote(request))
        chain, term = (_number(name, request.match_info[name]) for name in ("chain", "term"))
        return _answer(await self._gatekeeper.signer_set(chain, term))

    async def admission(self, request: web.Request) -> web.Response:
        desk = self._gatekeeper.require_desks().admissions
        return _answer((await desk.answer(await _body(request), _remote(request))).to_json())

    async def candidacy(self, request: web.Request) -> web.Response:
        gatekeeper = self._gatekeeper
        gatekeeper.small(_remote(request))
        desks = gatekeeper.require_desks()
        signature = await gatekeeper.candidates.answer(await _body(request), desks.office, desks.checkpoints)
        return _answer({"signature": to_hex(signature)})

    async def disk(self, request: web.Request) -> web.Response:
        gatekeeper = self._gatekeeper
        gatekeeper.small(_remote(request))
        desks = gatekeeper.require_desks()
        partial = await gatekeeper.disks.answer(
            await _body(request), desks.office, desks.checkpoints, desks.lookout.require
        )
        return _answer({"partial": partial.to_json()})

    async def keys(self, request: web.Request) -> web.Response:
        desk = self._gatekeeper.require_desks().keys
        return _answer((await desk.answer(await _body(request), _remote(request))).to_json())

    async def anchor_lease(self, request: web.Request) -> web.Response:
        desk = self._gatekeeper.require_desks().anchor_leases
        if desk is None:
            raise NO_ROUTE(expected="a network with an Anchor", found="one without")
        return _answer({"signature": to_hex(await desk.answer(await _body(request), _remote(request)))})

    async def account_signer(self, request: web.Request) -> web.Response:
        desk = self._gatekeeper.require_desks().account_signers
        return _answer({"signature": to_hex(await desk.answer(await _body(request), _remote(request)))})

    async def remote_agent(self, request: web.Request) -> web.Response:
        desk = self._gatekeeper.require_desks().remote_agents
        if desk is None:
            raise NO_ROUTE(expected="a network with an Anchor", found="one without")
        return _answer({"signature": to_hex(await desk.answer(await _body(request), _remote(request)))})

    async def endorse(self, request: web.Request) -> web.Response:
        desk = self._gatekeeper.require_desks().heads
        outcomes = await desk.endorse(await _body(request), _remote(request))
        return _answer({"signatures": [o if isinstance(o, str) else {"error": o.to_wire()} for o in outcomes]})

    async def head(self, request: web.Request) -> web.Response:
        self._gatekeeper.small(_remote(request))
        agent = from_hex(request.match_info["agent"], 32, name="agent")
        nonce = from_hex(_query(request, "nonce"), 32, name="nonce")
        return _answer(self._gatekeeper.require_desks().heads.newest(agent, nonce).to_json())

    async def head_table(self, request: web.Request) -> web.Response:
        self._gatekeeper.small(_remote(request))
        nonce = from_hex(_query(request, "nonce"), 32, name="nonce")
        after = from_hex(_query(request, "after"), name="after", max_size=32)
        if len(after) not in (0, 32):
            raise BAD_MESSAGE(expected="a cursor of 0 or 32 bytes", found=f"{len(after)} bytes")
        return _answer(self._gatekeeper.table_desk().page(nonce, after).to_json())

    async def logs(self, request: web.Request) -> web.Response:
        desk = self._gatekeeper.require_desks().logs
        return _answer((await desk.witness(await _body(request), _remote(request))).to_json())

    async def heartbeat(self, request: web.Request) -> web.Response:
        return _answer(self._gatekeeper.heartbeat(await _body(request), _remote(request)).to_json())


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every failure becomes an error object; texts of foreign exceptions never leave."""
    try:
        return await handler(request)
    except CloisterError as error:
        return _answer({"error": error.to_wire()}, error.status)
    except web.HTTPRequestEntityTooLarge:
        refusal = TOO_LARGE(expected=f"at most {MAX_BODY} bytes", found="more")
        return _answer({"error": refusal.to_wire()}, refusal.status)
    except web.HTTPException as error:
        refusal = NO_ROUTE(expected="a route of this API", found=f"{request.method} {request.path}"[:120])
        return _answer({"error": refusal.to_wire()}, error.status)
    except Exception as error:
        _log.error("request failed", exc_info=error, path=request.path)
        refusal = INTERNAL(expected="an answer", found="an internal failure")
        return _answer({"error": refusal.to_wire()}, refusal.status)


def _answer(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=dump_json(value), status=status, content_type="application/json")


async def _body(request: web.Request) -> bytes:
    return await request.read()


def _remote(request: web.Request) -> str:
    return request.remote or "unknown"


def _query(request: web.Request, name: str) -> str:
    values = request.query.getall(name, [])
    if len(values) != 1:
        raise BAD_MESSAGE(expected=f"one {name}", found=f"{len(values)}")
    return str(values[0])


def _number(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        raise BAD_MESSAGE(expected=f"{name} as a decimal number", found=text[:24])
    return need_uint(name, int(text), 63)

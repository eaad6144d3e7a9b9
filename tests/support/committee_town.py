"""A committee on a real chain whose shares are pretended: members that answer over HTTP, ceremonies that are played.

What the contract decides, what members sign and what readers prove is real; there is no key behind the numbers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from aiohttp import web
from coincurve import PrivateKey

from cloister.chain.contracts import call, encode
from cloister.chain.deploy import FREE_SEATS
from cloister.chain.headers import fetch_header
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.core.chainview.terms import SignedHandover
from cloister.core.encoding.handover import Handover, MasterResume
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import CloisterError
from cloister.core.state.rows import Head
from cloister.core.threshold.groups import G2, to_bytes
from cloister.wire.heads import EndorsedHead, HeadAnswer, HeadMove, fresh_digest
from cloister.wire.messages import SignedBy
from support.anvil import THRESHOLD, TestChain
from support.fake_gateway import FakeGateway, serving
from support.fake_world import MPK, ROOT
from support.live_gateway import LiveGateway, live_gateway

WINDOW = 80
NEVER = 50_000_000
RULES = replace(FREE_SEATS, ceremony_blocks=WINDOW, term_blocks=NEVER, refresh_blocks=1, rotation_blocks=NEVER)
NEXT_MPK = to_bytes(G2 * (ROOT + ROOT))


@dataclass
class Town:
    """Five members behind one server, at /0 to /4. ``away``: who does not answer. ``says``: other words of a status.

    ``heads``: which head of every agent a member holds."""

    chain: TestChain
    url: str = ""
    gateway: LiveGateway | None = None
    away: set[int] = field(default_factory=set)
    says: dict[int, dict[str, Any]] = field(default_factory=dict)
    liars: set[int] = field(default_factory=set)
    heads: dict[int, Head] = field(default_factory=dict)

    @property
    def net(self) -> LiveGateway:
        """The gateway, once the committee is founded."""
        assert self.gateway is not None
        return self.gateway

    @property
    def keys(self) -> Sequence[PrivateKey]:
        """The members' keys."""
        return self.net.members

    @property
    def contract(self) -> bytes:
        """Address of Gatekeepers."""
        return self.net.chain.contracts["Gatekeepers"]

    @property
    def urls(self) -> list[str]:
        """One for each member."""
        return [f"{self.url}/{i}" for i in range(5)]

    # --- members over HTTP ---

    def app(self) -> web.Application:
        """What the members answer."""
        made = web.Application()
        made.router.add_get("/{i}/v1/checkpoint", self._checkpoint)
        made.router.add_get("/{i}/v1/checkpoint/{n}", self._checkpoint)
        made.router.add_get("/{i}/v1/handovers", self._handovers)
        made.router.add_get("/{i}/v1/status", self._status)
        made.router.add_get("/{i}/v1/heads/{agent}", self._head)
        return made

    def _who(self, request: web.Request) -> int:
        i = int(request.match_info["i"])
        if i in self.away:
            raise web.HTTPServiceUnavailable
        return i

    async def _checkpoint(self, request: web.Request) -> web.Response:
        i, at = self._who(request), request.match_info.get("n")
        async with Rpc(self.chain.url) as rpc:
            head = await fetch_header(rpc, "finalized" if at is None else int(at))
            term = await call(rpc, self.contract, "Gatekeepers", "term", block=head.number)
        made = Checkpoint(term, self.chain.chain_id, head.number, head.hash, head.state_root, head.timestamp)
        signed = SignedBy(made, sign_digest(self.keys[i], made.digest(self.net.parsed.id)))
        return web.json_response(signed.to_json())

    async def _handovers(self, request: web.Request) -> web.Response:
        i = self._who(request)
        async with Rpc(self.chain.url) as rpc:
            made = [await self._handover(rpc, term) for term in range(1, await self.ask(rpc, "term"))]
        shown = [one.to_json() for one in made]
        if i in self.liars:
            shown = [{**one, "members": one["members"][::-1]} for one in shown] + [{"no": "hand-over"}]
        return web.json_response({"handovers": shown, "signing": []})

    async def _handover(self, rpc: Rpc, term: int) -> SignedHandover:
        statement = Handover(*(await self.ask(rpc, "handover", term)).values())
        digest = statement.digest(self.net.parsed.id)
        signatures = tuple(sign_digest(key, digest) for key in self.keys[:THRESHOLD])
        return SignedHandover(statement, tuple(address_of(key) for key in self.keys), signatures)

    async def _head(self, request: web.Request) -> web.Response:
        """What ``heads`` says that this member holds, of whatever agent is asked for."""
        i = self._who(request)
        agent, nonce = (from_hex(text, 32) for text in (request.match_info["agent"], request.query["nonce"]))
        network, held = self.net.parsed.id, None
        async with Rpc(self.chain.url) as rpc:
            term = await self.ask(rpc, "term")
        if i in self.heads:
            move = HeadMove.of(agent, self.heads[i])
            held = EndorsedHead(move, sign_digest(self.keys[i], move.statement(term).digest(network)))
        fresh = sign_digest(self.keys[i], fresh_digest(network, term, nonce, agent, held))
        return web.json_response(HeadAnswer(held, fresh).to_json())

    async def _status(self, request: web.Request) -> web.Response:
        i = self._who(request)
        said = {
            "member": to_hex(address_of(self.keys[i])),
            "term": 1,
            "index": i + 1,
            "doing": f"in office in term 1, seat {i + 1}",
            "block": 100,
            "shares": [{"master_epoch": 1, "term": 1}],
            "ceremony": None,
            "statements": {"signed": [], "not_resealed": 0},
        }
        return web.json_response({**said, **self.says.get(i, {})})

    # --- ceremonies ---

    async def ask(self, rpc: Rpc, function: str, *args: object) -> Any:
        """The contract's own answer."""
        return await call(rpc, self.contract, "Gatekeepers", function, *args)

    async def send(self, rpc: Rpc, key: PrivateKey, function: str, *args: object) -> None:
        """A transaction that must succeed."""
        await Sender(rpc, key, self.chain.chain_id).send(self.contract, encode("Gatekeepers", function, *args))

    async def everybody(self, rpc: Rpc, function: str, *args: object, who: Sequence[int] = range(5)) -> None:
        """The same transaction by some members."""
        await asyncio.gather(*(self.send(rpc, self.keys[i], function, *args) for i in who))

    async def ready(self, rpc: Rpc) -> None:
        """Keys for the next ceremony, and the pause after the last."""
        fresh = [(os.urandom(32), os.urandom(32)) for _ in self.keys]
        pairs = zip(self.keys, fresh, strict=True)
        await asyncio.gather(*(self.send(rpc, key, "setKey", *values) for key, values in pairs))
        last = await self.ask(rpc, "ceremony")
        await self.block(rpc, last["endedAt"] + last["window"])

    async def block(self, rpc: Rpc, number: int) -> None:
        """Mine until a block is final."""
        missing = number + 2 - (await fetch_header(rpc, "finalized")).number
        if missing > 0:
            await rpc.call("anvil_mine", hex(missing))

    async def play(self, rpc: Rpc, *, who: Sequence[int] = range(5)) -> None:
        """The open ceremony, to its end. A rotation is resumed too."""
        opened = await self.ask(rpc, "ceremony")
        name, rotation = opened["id"], opened["kind"] == 3
        await self.everybody(rpc, "commitDealing", name, os.urandom(32), who=who)
        await self.everybody(rpc, "content", name, 1, who=who)
        mpk = NEXT_MPK if rotation else MPK
        await self.everybody(rpc, "confirm", name, mpk, os.urandom(32) if len(who) < 3 else b"\7" * 32, 31, who=who)
        if rotation:
            resume = MasterResume(await self.ask(rpc, "term"), name, opened["masterEpoch"])
            digest = resume.digest(self.net.parsed.id)
            votes = [sign_digest(key, digest) for key in self.keys[:THRESHOLD]]
            fields = (resume.term, resume.ceremony, resume.master_epoch)
            await self.send(rpc, self.keys[0], "resume", fields, votes)

    @contextlib.contextmanager
    def playing(self) -> Iterator[None]:
        """Whatever ceremony opens meanwhile is played, by a thread."""
        over = threading.Event()
        failed: list[BaseException] = []

        async def loop() -> None:
            async with Rpc(self.chain.url) as rpc:
                while not over.is_set():
                    if (await self.ask(rpc, "ceremony"))["end"] == 0:
                        await self.play(rpc)
                    await asyncio.sleep(0.1)

        def run() -> None:
            try:
                asyncio.run(loop())
            except (CloisterError, OSError) as error:
                failed.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(30)
        assert not failed, failed


@contextlib.contextmanager
def committee_town(chain: TestChain) -> Iterator[Town]:
    """A founded committee, its members and a gateway, served."""
    town = Town(chain)
    with serving(cast(FakeGateway, town)):
        town.gateway = asyncio.run(live_gateway(chain, rules=RULES, endpoints=town.urls))
        chain.anvil.rpc("anvil_mine", hex(4))  # the founding is final
        with serving(town.gateway):
            yield town

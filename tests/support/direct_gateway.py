"""A fake gateway asked in this process: for tests that lie hundreds of times, or that need no socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cloister.client.resolve import Resolution, Resolver
from cloister.core.chainview.terms import SignedHandover, offers
from cloister.core.encoding.hexes import to_hex
from support.fake_gateway import FakeGateway, FakeWorker
from support.fake_world import World

Spoil = Callable[[str, Any], Any]


def honest(kind: str, answer: Any) -> Any:
    """No lie."""
    return answer


@dataclass
class Direct:
    """A gateway and a relay as the resolver uses them, over a ``FakeGateway`` without HTTP. ``spoil(kind, answer)``
    sees every answer as JSON values, and what it returns is served."""

    gateway: FakeGateway
    spoil: Spoil = honest
    asked: list[str] = field(default_factory=list)
    known: dict[str, str] = field(default_factory=dict)

    def _served(self, kind: str, answer: Any) -> Any:
        self.asked.append(kind)
        return self.spoil(kind, answer)

    async def checkpoint(self) -> Any:
        """{checkpoint, signatures}."""
        signed = self.gateway.checkpoint()
        shown = {"checkpoint": signed.statement.to_json(), "signatures": [to_hex(s) for s in signed.signatures]}
        return self._served("checkpoint", shown)

    async def handovers(self) -> list[SignedHandover]:
        """What the world's committees signed."""
        return offers(self._served("handovers", self.gateway.handovers()))

    async def seats(self, agent: bytes) -> Any:
        """The seats."""
        return self._served("seats", self.gateway.seats.get(agent, []))

    async def call(self, method: str, *params: Any) -> Any:
        """One JSON-RPC call."""
        return (await self.batch([(method, params)]))[0]

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """Several."""
        answers = []
        for method, params in calls:
            asked = {"method": method, "params": list(params), "id": 1}
            answers.append(self._served(method, self._result(asked)))
        return answers

    def _result(self, asked: dict[str, Any]) -> Any:
        """Proofs are slow to make, and the same for every lie about one block."""
        if asked["method"] != "eth_getProof":
            return self.gateway._rpc_answer(asked)["result"]
        name = json.dumps(asked["params"])
        if name not in self.known:
            self.known[name] = json.dumps(self.gateway._rpc_answer(asked)["result"])
        return json.loads(self.known[name])


@dataclass
class Stage:
    """A world with an agent on two workers; ``resolve`` starts from nothing each time."""

    world: World
    gateway: FakeGateway
    agent: bytes
    known: dict[str, str] = field(default_factory=dict)

    def resolver(self, door: Direct) -> Resolver:
        """A client's resolver that has seen nothing."""
        door_: Any = door
        return Resolver(self.world.network, door_, door_, clock=lambda: self.world.now, rng=lambda n: bytes(n))

    def resolve(self, spoil: Spoil | None = None) -> Resolution:
        """One resolution from scratch under a liar."""
        door = Direct(self.gateway, spoil or honest, known=self.known)
        return asyncio.run(self.resolver(door).resolve(self.agent))


def make_stage() -> Stage:
    """A world with one agent, leased to two workers of two vendors."""
    world = World()
    agent = world.set_agent()
    gateway = FakeGateway(world, [FakeWorker(world, "one", "intel"), FakeWorker(world, "two", "amd")])
    world.mine()
    gateway.offer(agent)
    return Stage(world, gateway, agent)

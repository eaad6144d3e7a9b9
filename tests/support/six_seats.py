"""A live devnet with a sixth gatekeeper that can stand, and callers that never stop: for scenarios of terms."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable

from cloister.client.agent import Agent
from cloister.client.client import Client
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.errors import CloisterError
from cloister.devnet.demo.steps import owner_wallet
from cloister.devnet.layout import free_ports
from cloister.devnet.network import Devnet
from cloister.devnet.tee.client import TeeControl

LEAVER, JOINER = "gk-2", "gk-6"  # on hardware of one vendor
NOTES = b"""export default { async fetch(request, ctx) {
  const keep = new URL(request.url).searchParams.get("keep");
  if (keep) await ctx.state.put("note:" + keep, keep);
  const notes = await ctx.state.list("note:");
  return Response.json({ notes, key: (ctx.secrets.API_KEY ?? "").length });
} };"""


class SixSeats(Devnet):
    """A devnet whose list of measurements has that of a sixth gatekeeper."""

    async def _start_tee(self) -> None:
        await super()._start_tee()
        self._launched(JOINER, await TeeControl(self.layout.tee).create_machine(JOINER, "tdx", "gatekeeper"))


def client_of(devnet: Devnet, name: str) -> Client:
    """The owner's client, with a home of this name."""
    assert devnet.network is not None
    return Client(
        devnet.gateway_url,
        fingerprint=devnet.network.fingerprint(),
        wallet=owner_wallet(devnet),
        home=devnet.options.home / name,
    )


async def sixth(devnet: Devnet) -> None:
    """One more gatekeeper, on hardware like that of the one which leaves."""
    (port,) = free_ports(1)
    config = {
        "data": str(devnet.layout.node(JOINER)),
        "listen": f"127.0.0.1:{port}",
        "rpc": [devnet._chain_url()],
        "genesis": str(devnet.layout.genesis),
        "operator": to_hex(b"\x66" * 20),
        "endpoint": f"http://127.0.0.1:{port}",
        "machine": devnet.machines[JOINER]["machine"],
    }
    child = await devnet._node(JOINER, "cloister.gatekeeper", config)
    await devnet.fund(from_hex(child.ready["address"], 20))


async def until(fact: Callable[[], Awaitable[bool]], what: str, seconds: float = 150.0) -> None:
    """Wait until it is so; AssertionError after ``seconds``."""
    end = asyncio.get_running_loop().time() + seconds
    while not await fact():
        assert asyncio.get_running_loop().time() < end, f"it never came: {what}"
        await asyncio.sleep(0.25)


class Calling:
    """A caller that never stops: what it was told, and how often it was answered."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.answered = 0
        self.refused: list[str] = []
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        while True:
            try:
                reply = await self._agent.get("/", deadline_s=20)
                assert reply.status == 200, reply.text
                self.answered += 1
            except CloisterError as error:
                self.refused.append(error.code)
            await asyncio.sleep(0.2)

    async def stop(self) -> None:
        """No more calls."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def ask(agent: Agent, keep: str = "") -> dict[str, object]:
    """A call that may be repeated: while placement moves, a worker may have let go of the agent already."""
    reply = await agent.post(f"/?keep={keep}", deadline_s=20, idempotency_key=secrets.token_hex(16))
    assert reply.status == 200, reply.text
    found: dict[str, object] = reply.json()
    return found


async def in_term(client: Client, agent: bytes, term: int) -> None:
    """Wait until this client follows to a term, and workers hold leases of it."""

    async def there() -> bool:
        try:
            seats = (await client.resolver.resolve(agent, again=True)).sittings
        except CloisterError:
            return False
        leased = [getattr(s.seat.lease.statement, "term", 0) for s in seats]
        return client.resolver.walk.terms.in_office.signers.term == term and set(leased) == {term}

    await until(there, f"leases of term {term}")


async def more(calling: Calling, count: int) -> bool:
    """Whether it was answered so often."""
    return calling.answered >= count

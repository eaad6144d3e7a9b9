"""A second version beside the first on a real network: shared, promoted, taken back, while calls go on.

1. two versions are leased; a pin reaches either, and both work on one state
2. each of several callers stays with the version that its share says
3. promote: callers notice nothing, no count is lost or made twice; the old version is gone
4. rollback: a canary that is taken back is answered by nobody; an earlier version comes again
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
import pytest_asyncio
from coincurve import PrivateKey

from cloister.client import Client, Demand, Wallet
from cloister.client.agent import Agent
from cloister.client.deploy import await_seats, deploy_agent
from cloister.client.resolve import in_share
from cloister.client.versions import drop_canary, promote, roll_back, set_canary
from cloister.core.errors import CloisterError
from cloister.core.policy.manifest import normalize
from cloister.devnet.network import Devnet

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800), pytest.mark.asyncio(loop_scope="session")]
MANIFEST = normalize({})
PATIENCE_S = 400.0


def code(version: str) -> bytes:
    """Each version says its name and counts on in the state that all share."""
    return f"""export default {{ async fetch(request, ctx) {{
      const count = 1 + ((await ctx.state.get("count")) ?? 0);
      await ctx.state.put("count", count);
      return Response.json({{ version: "{version}", count }});
    }} }};""".encode()


ONE, TWO, THREE = (code(name) for name in ("one", "two", "three"))
Said = tuple[str, int]


def hash_of(bundle: bytes) -> bytes:
    return hashlib.sha256(bundle).digest()


@dataclass
class Stage:
    """The counter agent. Who is no owner accepts that its code may change at once."""

    devnet: Devnet
    client: Client
    agent: bytes
    expected: int = 0
    extra: list[Client] = field(default_factory=list)

    async def of(self, client: Client, bundle: bytes | None = None) -> Agent:
        pinned = None if bundle is None else hash_of(bundle)
        return await client.agent(self.agent, demand=Demand(code_hash=pinned, upgrade_not_instant=False))

    async def ask(self, client: Client | None = None, bundle: bytes | None = None) -> Said:
        """One call: which version answered, as code and as receipt say, and the count."""
        agent, once = await self.of(client or self.client, bundle), secrets.token_hex(8)
        reply = await agent.post("/add", json={}, deadline_s=60, idempotency_key=once)  # seats move meanwhile
        assert reply.status == 200, reply.text
        said = json.loads(reply.body)
        names = {"one": ONE, "two": TWO, "three": THREE}
        assert reply.proof.code_hash == hash_of(names[said["version"]]), "the receipt names the version that ran"
        return said["version"], said["count"]

    async def counted(self, *arguments: bytes, client: Client | None = None) -> str:
        """``ask``; the count is the next one."""
        version, count = await self.ask(client, *arguments)
        self.expected += 1
        assert count == self.expected
        return version

    async def stranger(self) -> Client:
        assert self.devnet.network is not None
        fingerprint = self.devnet.network.fingerprint()
        home = self.devnet.options.home / f"stranger-{len(self.extra)}"
        wallet = Wallet(PrivateKey())
        self.extra.append(Client(self.devnet.gateway_url, fingerprint=fingerprint, wallet=wallet, home=home))
        return await self.extra[-1].__aenter__()

    async def until_version(self, version: str, bundle: bytes | None = None) -> None:
        """Calls until this version answers. Every call on the way counts once."""

        async def there() -> bool:
            try:
                return await self.counted(*([] if bundle is None else [bundle])) == version
            except CloisterError as error:
                if error.code not in (
                    "client.no_canary_seat",
                    "client.demand_code",
                    "client.old_seat",
                    "client.no_seat",
                ):
                    raise
                return False

        await eventually(there, f"{version} answers")


async def eventually(done: Callable[[], Awaitable[bool]], what: str) -> None:
    end = asyncio.get_running_loop().time() + PATIENCE_S
    while not await done():
        assert asyncio.get_running_loop().time() < end, what
        await asyncio.sleep(0.5)


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def stage(devnet: Devnet, fresh_client: Client) -> AsyncIterator[Stage]:
    deployed = await deploy_agent(fresh_client, ONE, MANIFEST)
    await await_seats(fresh_client, deployed.agent, within_s=PATIENCE_S)
    stage = Stage(devnet, fresh_client, deployed.agent)
    yield stage
    for client in stage.extra:
        await client.close()


async def test_1_two_versions_are_leased_and_count_on_in_one_state(stage: Stage) -> None:
    assert await stage.counted() == "one"
    await set_canary(stage.client, stage.agent, TWO, MANIFEST, 0)
    await stage.until_version("two", TWO)
    assert await stage.counted() == "one", "a share of 0 is nobody who does not ask for it"
    assert await stage.counted(ONE) == "one"
    assert await stage.counted(TWO) == "two"
    resolution = await stage.client.resolver.resolve(stage.agent)
    assert {s.seat.certificate.code_hash for s in resolution.sittings} == {hash_of(ONE)}
    assert {s.seat.certificate.code_hash for s in resolution.canaries} == {hash_of(TWO)}


async def test_2_each_caller_stays_with_the_version_of_its_share(stage: Stage) -> None:
    await set_canary(stage.client, stage.agent, TWO, MANIFEST, 50)
    callers = [await stage.stranger() for _ in range(4)]

    async def final() -> bool:
        beside = (await callers[0].resolver.record(stage.agent)).canary
        return beside is not None and beside.share == 50

    await eventually(final, "the chain's word is final")
    record = await callers[0].resolver.record(stage.agent)
    assert record.canary is not None
    for client in callers:
        assert client.wallet is not None
        inside = in_share(stage.agent, record.canary, client.wallet.address)
        for _ in range(3):
            assert await stage.counted(client=client) == ("two" if inside else "one")


async def test_3_promoting_loses_no_call_and_counts_none_twice(stage: Stage) -> None:
    await set_canary(stage.client, stage.agent, TWO, MANIFEST, 100)
    await stage.until_version("two")
    caller = await stage.stranger()
    said: list[Said] = []
    over = asyncio.Event()

    async def traffic() -> None:
        while not over.is_set():
            said.append(await stage.ask(caller))

    calls = asyncio.ensure_future(traffic())
    try:
        await promote(stage.client, stage.agent)

        async def old_is_gone() -> bool:
            try:
                await stage.ask(bundle=ONE)
            except CloisterError as error:
                return error.code == "client.demand_code"
            return False

        await eventually(old_is_gone, "the first version is pinned by nobody any more")
        await asyncio.sleep(3)
    finally:
        over.set()
        await calls
    counts = [count for _, count in said]
    assert len(said) > 3
    assert counts == sorted(set(counts)), "each call counted once, one after the other"
    assert {version for version, _ in said[-3:]} == {"two"}
    _, stage.expected = await stage.ask()
    record = await stage.client.resolver.record(stage.agent)
    assert (record.code_hash, record.canary) == (hash_of(TWO), None)


async def test_4_a_canary_that_is_taken_back_answers_nobody_and_an_old_version_comes_again(stage: Stage) -> None:
    await set_canary(stage.client, stage.agent, THREE, MANIFEST, 100)
    await stage.until_version("three")
    await drop_canary(stage.client, stage.agent)
    await stage.until_version("two")
    for _ in range(3):
        assert await stage.counted() == "two"
    with pytest.raises(CloisterError, match=r"client\.demand_code"):
        await stage.ask(bundle=THREE)
    await roll_back(stage.client, stage.agent, hash_of(ONE), hashlib.sha256(bytes(MANIFEST)).digest())
    await stage.until_version("one")
    assert await stage.counted() == "one", "it goes on from what the later ones wrote"
    with pytest.raises(CloisterError, match=r"client\.demand_code"):
        await stage.ask(bundle=TWO)

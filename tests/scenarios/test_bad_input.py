"""Bad input at every door: a named error with a remedy; nothing is lost, nothing tells whether a secret exists.

Each case sends something wrong through the real gateway and names the code that must come back.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Awaitable, Callable

import aiohttp
import pytest

from cloister.client.client import Client
from cloister.client.deploy import deploy_agent
from cloister.core.encoding.hexes import to_hex
from cloister.core.envelope.client import ClientSession, Psk
from cloister.core.envelope.model import RequestHead
from cloister.core.errors import CloisterError, from_wire
from cloister.core.policy.manifest import normalize
from cloister.devnet.demo.attacks import SealedAttacker, refusal
from cloister.devnet.demo.steps import Demo

pytestmark = pytest.mark.asyncio(loop_scope="session")

Case = Callable[[Demo], Awaitable[object]]


async def unknown_agent(demo: Demo) -> object:
    return await demo.client.agent(b"\x42" * 32)


async def garbage_record(demo: Demo) -> object:
    wire = SealedAttacker(demo.client, demo.agent_id)
    return await wire.send(b"not a sealed request at all" * 10, (await wire.seat()).worker.boot)


async def unknown_boot(demo: Demo) -> object:
    wire = SealedAttacker(demo.client, demo.agent_id)
    sealed = wire.session(await wire.seat()).seal(wire.request(), b"")
    return await wire.send(bytes(sealed), b"\x42" * 32)


async def oversized_body(demo: Demo) -> object:
    wire = SealedAttacker(demo.client, demo.agent_id)
    return await wire.send(os.urandom(12 << 20), (await wire.seat()).worker.boot)


async def past_deadline(demo: Demo) -> object:
    wire = SealedAttacker(demo.client, demo.agent_id)
    sitting = await wire.seat()
    late = RequestHead(
        request_id="0x" + secrets.token_hex(16), method="GET", path="/notes", deadline_ms=int(time.time() * 1000) - 1000
    )
    sealed = wire.session(sitting).seal(late, b"")
    events = sealed.opener.feed(await wire.send(bytes(sealed), sitting.worker.boot))
    raise events[-1].error  # type: ignore[union-attr]


async def psk_that_was_never_sent(demo: Demo) -> object:
    wire = SealedAttacker(demo.client, demo.agent_id)
    sitting = await wire.seat()
    certificate = sitting.seat.certificate
    session = ClientSession(certificate, Psk.encapsulate(certificate, demo.client.network.mpk, os.urandom), os.urandom)
    sealed = session.seal(wire.request(), b"", with_ibe=False)
    return await wire.send(bytes(sealed), sitting.worker.boot)


async def bundle_over_the_limit(demo: Demo) -> object:
    return await deploy_agent(demo.client, b"x" * (17 << 20), normalize({}))


async def checkpoint_too_old(demo: Demo) -> object:
    late = Client(
        demo.devnet.gateway_url,
        fingerprint=demo.client.network.fingerprint(),
        home=demo.client.home.path / "late",
        clock=lambda: time.time() + 3600,
    )
    async with late:
        return await late.agent(demo.agent_id)


CASES: dict[str, tuple[Case, str]] = {
    "an agent that does not exist": (unknown_agent, "policy.agent_unknown"),
    "bytes that are no sealed request": (garbage_record, "envelope.malformed"),
    "a boot that no worker has": (unknown_boot, "gateway.no_worker"),
    "a body over every cap": (oversized_body, "http.too_large"),
    "a request past its deadline": (past_deadline, "envelope.deadline"),
    "a pre-shared key that was never sent": (psk_that_was_never_sent, "envelope.psk_unknown"),
    "a bundle over 16 MiB": (bundle_over_the_limit, "manifest.bundle"),
    "a checkpoint that is an hour old by the caller's clock": (checkpoint_too_old, "chainview.stale"),
}


@pytest.mark.parametrize("case", CASES)
async def test_refused_by_name(demo: Demo, case: str) -> None:
    attempt, code = CASES[case]
    error = await refusal(attempt(demo))
    assert error.code == code
    assert error.remedy
    assert error.expected
    reply = await (await demo.agent()).get("/notes")
    assert reply.status == 200


async def test_the_gateway_tells_nothing_about_secrets(demo: Demo) -> None:
    """An agent with secrets and one that does not exist get the same answer from the door."""
    answers = []
    for agent in (demo.agent_id, b"\x42" * 32):
        url = f"{demo.devnet.gateway_url}/v1/agents/{to_hex(agent)}/secrets"
        async with aiohttp.ClientSession() as http, http.get(url) as answer:
            answers.append((answer.status, from_wire((await answer.json())["error"]).code))
    assert answers[0] == answers[1]
    assert isinstance(from_wire(answers[0]), CloisterError)

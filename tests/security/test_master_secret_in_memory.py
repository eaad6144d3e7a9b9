"""No machine ever holds the master secret: the memory of five gatekeepers is searched for it, in every phase.

Real processes, pretend hardware, a real chain. The gatekeepers deal polynomials that the test knows, so the test can
compute the secret behind the master key and look for it. All members stand still until each is searched: the next
phase needs all of them. Each search must find what the member does hold; else it would have proven nothing.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey
from py_arkworks_bls12381 import Scalar

from cloister.core.encoding.hexes import from_hex
from cloister.core.encoding.identity import Purpose
from cloister.core.threshold.groups import G2, ORDER, to_bytes
from cloister.devnet import ledger
from cloister.devnet.layout import GATEKEEPERS, THRESHOLD
from cloister.devnet.process import Child, spawn
from cloister.wire.committee import Committee
from support import gatekeeper_stage
from support.anvil import TestChain
from support.gatekeeper_stage import Stage, Worker, deploy_agent, info, staged, until
from support.memory_scan import search, stopped
from support.seeded_gatekeeper import SEED, polynomial

pytestmark = [pytest.mark.long, pytest.mark.network, pytest.mark.timeout(600)]

NAMES = tuple(name for name, _ in GATEKEEPERS)
TESTS = Path(__file__).resolve().parents[1]
MASTER = "the master secret"
PATIENT = replace(ledger.ONE_TERM, ceremony_blocks=5000)
"""Windows so wide that no deadline passes while members stand still."""


class Known:
    """What the test knows and no machine may: every polynomial, and what follows from all of them together."""

    def __init__(self) -> None:
        self.seeds = {name: secrets.token_hex(16) for name in NAMES}
        self.polynomials = {name: polynomial(seed, THRESHOLD) for name, seed in self.seeds.items()}

    def constant(self, name: str) -> int:
        """What a member put into the key."""
        return self.polynomials[name][0]

    @property
    def master(self) -> int:
        """The secret of the network: the sum of all constants."""
        return sum(self.constant(name) for name in NAMES) % ORDER

    def share(self, index: int) -> int:
        """The share of the member with this seat."""
        total: int = sum(a * index**k for f in self.polynomials.values() for k, a in enumerate(f))
        return total % ORDER


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Known:
    """Gatekeepers are started with the seeds of what is known; all else of them stays the product's."""
    made = Known()

    async def seeded(name: str, module: str, args: Sequence[str], **options: Any) -> Child:
        if module == "cloister.gatekeeper":
            module = "support.seeded_gatekeeper"
            path = os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])
            options["env"] = {SEED: made.seeds[name], "PYTHONPATH": path}
        return await spawn(name, module, args, **options)

    monkeypatch.setattr(gatekeeper_stage, "spawn", seeded)
    return made


@pytest.fixture
async def stage(chain: TestChain, known: Known) -> AsyncIterator[Stage]:
    async with staged(chain) as made:
        yield made


async def searched(stage: Stage, known: Known, phase: str, own: Mapping[str, Mapping[str, int]]) -> None:
    """Every member holds what is its own in this phase; nobody holds the master secret, or what its neighbour holds."""
    frozen, found = ExitStack(), {}
    with frozen:
        for name in NAMES:
            frozen.enter_context(stopped(stage.children[name].process.pid))
        for name, neighbour in zip(("tee", *NAMES), (NAMES[0], *NAMES[1:], NAMES[0]), strict=True):
            theirs = {f"{what} of a neighbour": value for what, value in own[neighbour].items()}
            wanted = {**own.get(name, {}), **theirs, MASTER: known.master}
            found[name] = await asyncio.to_thread(search, stage.children[name].process.pid, wanted)
    for name in NAMES:
        for what in own[name]:
            assert found[name].pop(what), f"{phase}: {what} of {name} was not found, so the search proves nothing"
    held = [(name, what, sorted(forms)) for name, one in found.items() for what, forms in one.items() if forms]
    assert held == [], f"{phase}: memory holds what nobody may have"


async def opened(stage: Stage) -> None:
    """All stand as candidates, and the ceremony is open."""
    assert stage.genesis is not None
    await asyncio.gather(*(stage.start(name) for name in NAMES))
    members = [from_hex(stage.children[name].ready["address"], 20) for name in NAMES]
    await ledger.found(stage.rpc, stage.key("deployer"), stage.genesis, members, THRESHOLD)


async def phase_reached(stage: Stage, phase: str) -> None:
    """Every member has said that it is in this phase."""

    async def said() -> bool:
        logs = [(stage.layout.logs / f"{name}.log").read_text() for name in NAMES]
        return all(f'"phase": "{phase}"' in text or f'"phase":"{phase}"' in text for text in logs)

    await until(said, 60)


def public_key(secret: int) -> bytes:
    """g2 to a secret."""
    return to_bytes(G2 * Scalar.from_be_bytes(secret.to_bytes(32, "big")))


async def test_no_gatekeeper_holds_the_master_secret_in_any_phase(stage: Stage, known: Known) -> None:
    worker_key, owner = stage.chain.fund(PrivateKey()), stage.chain.fund(stage.key("owner"))
    await stage.hardware()
    await stage.contracts(PATIENT)
    constants = {name: {"its constant": known.constant(name)} for name in NAMES}

    # 1. After commit: every member made its dealing, and shows it to nobody yet.
    await opened(stage)
    await phase_reached(stage, "show")
    await searched(stage, known, "after commit", constants)

    # 2. After show: every member has made its share and confirmed; its polynomial is erased, and nobody is in office.
    assert stage.genesis is not None
    await ledger.in_office(stage.rpc, stage.genesis)
    committee = await stage.read("Gatekeepers", "committee")
    addresses = {name: from_hex(stage.children[name].ready["address"], 20) for name in NAMES}
    seats = {name: committee["members"].index(addresses[name]) + 1 for name in NAMES}
    shares = {name: {"its share": known.share(seats[name])} for name in NAMES}
    await searched(stage, known, "after show", shares)

    # 3. After confirm: in office. What is searched for are the secrets behind the key and the share keys on chain.
    network = await ledger.network_file(stage.layout, stage.rpc, stage.genesis, stage.urls())

    async def all_ready() -> bool:
        return all([(await info(url)).ready for url in stage.urls()])

    await until(all_ready, 60)
    assert public_key(known.master) == network.mpk
    assert [public_key(known.share(i)) for i in range(1, 6)] == list(network.share_keys)
    await searched(stage, known, "after confirm", shares)

    # 4. After serving keys: partials were made with each share, and put together by the worker alone.
    asked = Committee(stage.urls(), network.founding, network.id)
    worker = Worker(stage, network, worker_key)
    _, agent = await asyncio.gather(worker.register(asked), deploy_agent(stage, owner))

    async def final() -> bool:
        return worker.address in await stage.read("Workers", "list", 0, 16, block="finalized")

    await until(final)
    await asyncio.sleep(0.5)
    _, keys = await worker.released(asked, agent)
    await asked.close()
    assert {purpose for purpose, _ in keys} == set(Purpose)
    await searched(stage, known, "after serving keys", shares)

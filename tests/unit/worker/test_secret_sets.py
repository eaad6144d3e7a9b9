"""Secrets that were sealed one by one, as a worker loads them: whose count, and what a host can do to them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cloister.core.encoding.identity import Purpose
from cloister.core.encoding.signatures import address_of
from cloister.core.keys.secretset import SecretSet, seal_one
from cloister.core.policy.identities import identities_of
from support.fake_sandbox import hello
from support.fake_world import MPK, OWNER, manifest
from support.worker_kit import Rig

Make = Callable[..., Awaitable[Rig]]
SETTER = address_of(OWNER)


async def deployed(make: Make) -> tuple[Rig, bytes]:
    rig = await make(hello)
    encoded = bytes(manifest(secrets=["A", "B"]))
    await rig.fabric.blobs.put(encoded)
    return rig, await rig.deploy(manifest_hash=hashlib.sha256(encoded).digest())


def one(rig: Rig, agent: bytes, name: str, value: str, setter: bytes = SETTER) -> bytes:
    at = identities_of(rig.world.lease(agent, bytes(20), bytes(32)), rig.world.network.id)[Purpose.SECRETS, 0].version
    return seal_one(MPK, at, setter, name, value, os.urandom)


async def commit(rig: Rig, agent: bytes, sealed: dict[str, bytes], **spoilt: Any) -> bytes:
    """Store a set and say so on chain."""
    record = rig.world.agents[agent]
    digest = await rig.fabric.blobs.put(SecretSet(sealed).encode())
    fields = {"secrets_hash": digest, "secrets_version": record.secrets_version + 1, "secrets_setter": SETTER}
    rig.world.set_agent(record.token_id, **(fields | {"secrets_epoch": record.epoch} | spoilt))
    await rig.follow(1)
    return digest


def seen(rig: Rig) -> dict[str, str]:
    return dict(rig.sandbox.processes[-1].spec.secrets)


async def test_a_set_is_loaded_and_a_change_of_one_leaves_the_others(make: Make) -> None:
    rig, agent = await deployed(make)
    first = {name: one(rig, agent, name, f"value of {name}") for name in ("A", "B")}
    await commit(rig, agent, first)
    assert (await rig.call(agent)).whole
    assert seen(rig) == {"A": "value of A", "B": "value of B"}
    await commit(rig, agent, {**first, "B": one(rig, agent, "B", "newer")})
    assert (await rig.call(agent)).whole
    assert seen(rig) == {"A": "value of A", "B": "newer"}
    await commit(rig, agent, {"B": first["B"]})
    assert (await rig.call(agent)).whole
    assert seen(rig) == {"B": "value of B"}


async def test_secrets_of_a_setter_that_is_not_on_chain_are_refused(make: Make) -> None:
    rig, agent = await deployed(make)
    await commit(rig, agent, {"A": one(rig, agent, "A", "x")}, secrets_setter=b"\x09" * 20)
    assert (await rig.call(agent)).code == "worker.wrong_secrets"


async def test_values_that_changed_places_are_refused(make: Make) -> None:
    rig, agent = await deployed(make)
    a, b = one(rig, agent, "A", "x"), one(rig, agent, "B", "y")
    await commit(rig, agent, {"A": b, "B": a})
    assert (await rig.call(agent)).code == "worker.wrong_secrets"


async def test_a_store_that_gives_an_older_set_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rig, agent = await deployed(make)
    older = await commit(rig, agent, {"A": one(rig, agent, "A", "old")})
    newer = await commit(rig, agent, {"A": one(rig, agent, "A", "new")})
    get = rig.fabric.blobs.get

    async def swapped(digest: bytes) -> bytes:
        return await get(older if digest == newer else digest)

    monkeypatch.setattr(rig.fabric.blobs, "get", swapped)
    assert (await rig.call(agent)).code == "worker.wrong_secrets"


async def test_another_agents_secrets_are_refused(make: Make) -> None:
    rig, agent = await deployed(make)
    other = await rig.deploy(2)
    await commit(rig, agent, {"A": one(rig, other, "A", "theirs")})
    assert (await rig.call(agent)).code == "worker.wrong_secrets"

"""A committee is read by proof, from term to term, whoever of its members lies or is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from coincurve import PrivateKey

from cloister.chain.contracts import encode
from cloister.chain.rpc import Rpc
from cloister.client import Client, Wallet, moves
from cloister.client.committee import CommitteeReader, Reading, ask_status
from cloister.core.chainview.ceremonies import Ending, EpochState
from cloister.core.encoding.handover import MasterRotation
from cloister.core.encoding.signatures import Signed, sign_digest
from cloister.core.errors import CloisterError
from cloister.core.threshold.phases import Phase
from cloister.wire.ask import new_session
from support.anvil import TestChain
from support.committee_town import NEVER, Town, committee_town


@pytest.fixture(scope="module")
def town(chain: TestChain) -> Iterator[Town]:
    with committee_town(chain) as made:
        yield made


def client_of(town: Town, home: Path, key: PrivateKey | None = None) -> Client:
    wallet = None if key is None else Wallet(key)
    return Client(town.net.url, fingerprint=town.net.parsed.fingerprint(), home=home, wallet=wallet)


def reader_of(town: Town, rpc: Rpc, *, urls: list[str] | None = None) -> CommitteeReader:
    return CommitteeReader(town.net.parsed, rpc, clock=time.time, urls=urls or ())


async def test_term_members_and_epochs_are_those_of_the_contract(town: Town) -> None:
    async with Rpc(town.chain.url) as rpc, reader_of(town, rpc) as reader:
        reading = await reader.read()
        assert await reader.endpoints() == tuple(town.urls)
        assert reading.term.term == await town.ask(rpc, "term")
    said = reading.to_json()
    assert [m["endpoint"] for m in said["members"]] == town.urls
    assert [m["vendor"] for m in said["members"]] == ["intel", "intel", "amd", "amd", "aws"]
    assert said["rotation_from_block"] >= NEVER
    assert said["threshold"] == 3
    assert (reading.phase, reading.running) == (Phase.DONE, False)


async def test_members_that_are_away_or_lie_stop_no_reader(town: Town) -> None:
    try:
        town.away, town.liars = {0, 4}, {1}
        async with Rpc(town.chain.url) as rpc, reader_of(town, rpc) as reader:
            assert (await reader.read()).term.threshold == 3
            town.away = {0, 1, 4}
            with pytest.raises(CloisterError) as caught:
                await reader.read()
        assert caught.value.code in ("gatekeeper.too_few", "wire.bad_answer")
    finally:
        town.away, town.liars = set(), set()


async def test_the_committee_moves_on_and_the_reader_with_it(town: Town, tmp_path: Path) -> None:
    """A refresh, a failed one, a rotation: each told step by step; who pinned term 1 follows."""
    deployer = town.chain.deployer
    async with (
        Rpc(town.chain.url) as rpc,
        client_of(town, tmp_path, deployer) as client,
        reader_of(town, rpc) as reader,
    ):
        first = await reader.read()
        refused = await refusal(moves.refresh(client, replace_block(first, first.rested - 1)))
        assert refused == "client.committee_busy"

        await town.ready(rpc)
        reading = await reader.read()
        await moves.refresh(client, reading)
        steps = await told(town, rpc, reader, 2)
        assert steps[-1].ceremony is not None
        assert steps[-1].ceremony.ending is Ending.DONE
        assert {s.phase for s in steps} >= {Phase.DONE}
        assert (await reader.read()).term.term == 2
        assert reader.terms is not None
        assert [one.signers.term for one in reader.terms.known] == [1, 2]

        await town.ready(rpc)
        await moves.refresh(client, await reader.read())
        opened = (await town.ask(rpc, "ceremony"))["id"]
        await client.send("Gatekeepers", encode("Gatekeepers", "cancel", opened))
        with pytest.raises(CloisterError) as caught:
            _ = [one async for one in moves.watch(reader, 3, poll_s=0.1)]
        assert caught.value.code == "client.ceremony_failed"
        assert (await reader.read()).term.term == 2, "nothing changed"

        await town.ready(rpc)
        reading = await reader.read()
        dao, client.wallet = client.wallet, Wallet(PrivateKey())
        assert await refusal(moves.rotate(client, reading)) == "client.not_due"
        client.wallet = dao
        await moves.rotate(client, reading)
        await told(town, rpc, reader, 4)
        done = [one async for one in moves.await_resumed(reader, 2, poll_s=0.1)]
        assert done[0].newest.state is EpochState.RESUMED
        assert [e.epoch for e in done[0].epochs] == [1, 2]
        assert await moves.not_resealed(client, 1) == 0

        await town.ready(rpc)
        assert await refusal(moves.rotate(client, await reader.read())) == "client.committee_busy"


async def told(town: Town, rpc: Rpc, reader: CommitteeReader, number: int) -> list[Reading]:
    """What a watcher sees while the ceremony is played."""
    playing = asyncio.create_task(town.play(rpc))
    seen = [one async for one in moves.watch(reader, number, poll_s=0.1)]
    await playing
    return seen


async def refusal(coming: object) -> str:
    try:
        await coming  # type: ignore[misc]
    except CloisterError as error:
        return error.code
    return ""


def replace_block(reading: Reading, number: int) -> Reading:
    """The same at an earlier block."""
    return replace(reading, checkpoint=replace(reading.checkpoint, number=number))


async def test_a_rotation_that_members_signed_needs_t_of_them_and_the_right_numbers(town: Town, tmp_path: Path) -> None:
    async with (
        client_of(town, tmp_path, town.chain.keys[0]) as client,
        Rpc(town.chain.url) as rpc,
        reader_of(town, rpc) as reader,
    ):
        reading = await reader.read()
        free = replace_block(replace(reading, epochs=reading.epochs[-1:]), reading.rested + reading.checkpoint.number)
        term, epoch = reading.term.term, reading.newest.epoch
        table = {
            "two are too few": (MasterRotation(term, epoch), 2, "encoding.too_few_signers"),
            "another epoch": (MasterRotation(term, epoch + 1), 3, "client.rotation_votes"),
            "another term": (MasterRotation(term + 1, epoch), 3, "client.rotation_votes"),
        }
        for sentence, (statement, count, code) in table.items():
            digest = statement.digest(town.net.parsed.id)
            votes = Signed(statement, tuple(sign_digest(k, digest) for k in town.keys[:count]))
            assert await refusal(moves.rotate_signed(client, reader, free, votes)) == code, sentence


@pytest.mark.parametrize(
    "value",
    [None, [], {}, {"statement": {}, "signatures": []}, {"statement": 1, "signatures": ["0x00"]}],
    ids=["null", "a list", "an empty object", "no signature", "no statement"],
)
def test_votes_of_another_form_are_refused(value: object) -> None:
    with pytest.raises(CloisterError):
        moves.votes_from_json(value)


async def test_a_status_of_another_form_is_refused(town: Town) -> None:
    session = new_session()
    try:
        assert (await ask_status(session, town.urls[0]))["index"] == 1
        wrong: list[dict[str, object]] = [{"more": 1}, {"ceremony": {}}, {"ceremony": []}]
        for words in wrong:
            town.says[0] = words
            with pytest.raises(CloisterError):
                await ask_status(session, town.urls[0])
    finally:
        town.says.clear()
        await session.close()

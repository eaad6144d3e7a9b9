"""A halted member goes on by its operator's word, and signs no height twice (spec/gatekeepers.md K4)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import CloisterError
from cloister.wire.believed import BELIEVED_FILE, Believed
from support.gatekeepers import Seat, World, turn_all
from support.statement_cast import blocks, committee

HASH = b"\xaa" * 32


def fork_of(world: World, depth: int) -> World:
    """The same chain with other blocks at its end."""
    other = World(world.rules)
    other.now, other.states = world.now, world.states
    other.headers = list(world.headers[:-depth])
    other.mine(depth + 3, salt=b"fork")
    return other


@dataclass
class Halted:
    """A member that signed one history and was shown another one; ``history``: all that it ever signed, by height."""

    seat: Seat
    history: dict[int, bytes]

    def note(self) -> None:
        """Remember what it shows. No height may change."""
        for row in self.seat.gatekeeper.require_desks().checkpoints.since(0):
            said = row.statement
            assert isinstance(said, Checkpoint)
            assert self.history.setdefault(said.number, said.block_hash) == said.block_hash, "signed twice"

    async def restart(self) -> None:
        await self.seat.close()
        await self.seat.open()
        await turn_all([self.seat])

    @property
    def halted(self) -> bool:
        return self.seat.gatekeeper.require_desks().checkpoints.halted

    @property
    def newest(self) -> int:
        return max(self.history)


async def halt(world: World, seat: Seat, *, liar: bool) -> Halted:
    """``liar``: the member signed blocks that are not the chain's; else an endpoint lies to it afterwards."""
    made = Halted(seat, {})
    made.note()
    if liar:
        other = fork_of(world, 3)
        other.mine(4)
        seat.chain.forked = other
        await turn_all([seat])
        made.note()
        seat.chain.forked = None
        world.mine(12)
    else:
        other = fork_of(world, 6)
        other.mine(6)
        seat.chain.forked = other
    await turn_all([seat])
    assert made.halted
    seat.chain.forked = None
    return made


def believe(seat: Seat, number: int, block_hash: bytes) -> None:
    (seat.folder / BELIEVED_FILE).write_text(json.dumps(Believed(number, block_hash).to_json()))


@pytest.mark.parametrize(
    "liar",
    [
        pytest.param(False, id="its endpoint lied later", marks=pytest.mark.long),
        pytest.param(True, id="it signed a lie"),
    ],
)
async def test_it_goes_on_from_the_block_that_is_believed(tmp_path: Path, liar: bool) -> None:
    async with committee(tmp_path) as (world, seats, _):
        await blocks(world, seats, 2)
        one = await halt(world, seats[0], liar=liar)
        await one.restart()
        assert one.halted, "nobody said a word"
        world.mine(8)
        number = max(world.final.number - 1, one.newest)
        believe(seats[0], number, world.headers[number].hash)
        await one.restart()
        assert not one.halted
        assert not (seats[0].folder / BELIEVED_FILE).exists()
        world.mine(3)
        await turn_all([seats[0]])
        one.note()
        assert one.newest == world.final.number
        assert one.history[one.newest] == world.final.hash
        await one.restart()
        world.mine(2)
        await turn_all([seats[0]])
        one.note()
        assert one.newest == world.final.number, "a later start needs no word"
        seats[0].gatekeeper.audit.sync()
        lines = [json.loads(line) for line in (seats[0].folder / "audit.log").read_text().splitlines()]
        assert [line["number"] for line in lines if line["what"] == "believed"] == [number]


async def test_a_lie_that_it_signed_is_shown_to_nobody_any_more(tmp_path: Path) -> None:
    async with committee(tmp_path) as (world, seats, _):
        await blocks(world, seats, 2)
        one = await halt(world, seats[0], liar=True)
        number = one.newest
        believe(seats[0], number, world.headers[number].hash)
        await one.restart()
        world.mine(3)
        await turn_all([seats[0]])
        book = seats[0].gatekeeper.require_desks().checkpoints
        for row in book.since(0):
            said = row.statement
            assert isinstance(said, Checkpoint)
            assert said.number > number, "no height that it signed on the other branch"
            assert said.block_hash == world.headers[said.number].hash
        with pytest.raises(CloisterError) as caught:
            book.at(number)
        assert caught.value.code == "chainview.no_checkpoint"


WORDS: dict[str, Any] = {
    "a block below the last one that it signed": lambda world, one: Believed(
        one.newest - 1, world.headers[one.newest - 1].hash
    ),
    "another block than its endpoints have": lambda world, one: Believed(one.newest, HASH),
    "a block that is not final": lambda world, one: Believed(len(world.headers) - 1, world.headers[-1].hash),
}


@pytest.mark.parametrize(
    "sentence", [next(iter(WORDS)), *(pytest.param(s, marks=pytest.mark.long) for s in [*WORDS][1:])]
)
async def test_a_word_that_does_not_fit_leaves_it_halted(tmp_path: Path, sentence: str) -> None:
    async with committee(tmp_path, 3 + 2) as (world, seats, _):
        await blocks(world, seats, 1)
        one = await halt(world, seats[0], liar=True)
        word = WORDS[sentence](world, one)
        believe(seats[0], word.number, word.block_hash)
        await one.restart()
        assert one.halted
        assert (seats[0].folder / BELIEVED_FILE).exists(), "it may fit at the next start"


@pytest.mark.parametrize("text", ["", "{}", "no JSON", '{"number": -1, "block_hash": "0x00"}', "[" * 2000, "\x00"])
async def test_a_file_that_cannot_be_read_is_no_word(tmp_path: Path, text: str) -> None:
    from cloister.gatekeeper.audit import AuditLog
    from cloister.gatekeeper.believing import Believing

    (tmp_path / BELIEVED_FILE).write_text(text)
    audit = AuditLog(tmp_path / "audit.log")
    await Believing(tmp_path, audit).resume(None, None, 9)  # type: ignore[arg-type] - neither is looked at
    audit.close()
    assert "believed" not in (tmp_path / "audit.log").read_text()


@pytest.mark.long
async def test_a_member_that_is_not_halted_looks_at_no_word(tmp_path: Path) -> None:
    async with committee(tmp_path) as (world, seats, _):
        await blocks(world, seats, 1)
        before = seats[0].gatekeeper.require_desks().checkpoints.newest()
        believe(seats[0], world.final.number, HASH)
        await seats[0].close()
        await seats[0].open()
        await turn_all([seats[0]])
        assert seats[0].gatekeeper.require_desks().checkpoints.newest() == before

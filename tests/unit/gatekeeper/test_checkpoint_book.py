"""The book of signed checkpoints: one per height, descendants only, remembered before anybody sees them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.core.encoding.signatures import Signed, verify_signer
from cloister.core.encoding.statements import HeartBeat
from cloister.core.errors import CloisterError
from cloister.gatekeeper.checkpoints import Checkpoints
from cloister.gatekeeper.office import Office, Shares
from cloister.gatekeeper.store import KEEP_CHECKPOINTS, Store
from support.gatekeepers import CHAIN_ID, Seat, World, policy, secrets_of, sign_checkpoint, sit


class Desk:
    """One member's book over a world."""

    def __init__(self, folder: Path) -> None:
        self.world = World(policy())
        self.seats = [Seat(self.world, folder / f"gk-{i}", i, 1) for i in range(3)]
        self.sitting = sit(self.world, self.seats, 2)
        self.chain = self.seats[0].chain
        self.reopen()

    def reopen(self) -> None:
        self.store = Store(self.seats[0].folder / "state.db")
        shares = Shares(self.store, self.seats[0].keys, secrets_of("book"))
        office = shares.office(self.world.now.seats, {1: 1})
        assert isinstance(office, Office)
        self.office = office
        self.book = Checkpoints(self.store, office, CHAIN_ID)
        if self.book.head is not None:
            self.chain.resume(self.book.head)

    async def follow(self, blocks: int = 0) -> None:
        self.world.mine(blocks)
        await self.book.follow(self.chain)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def test_every_final_block_is_signed_once(desk: Desk) -> None:
    await desk.follow()
    first = desk.book.head
    assert first is not None
    await desk.follow(5)
    for number in range(first.number, first.number + 6):
        signed = desk.book.at(number)
        assert signed.statement == desk.world.checkpoint(number)
        verify_signer(signed.statement.digest(desk.office.network), signed.signature, desk.office.address)
    assert desk.book.newest() == desk.book.at(first.number + 5)


async def test_blocks_that_are_not_final_are_not_signed(desk: Desk) -> None:
    await desk.follow()
    with pytest.raises(CloisterError) as caught:
        desk.book.at(desk.world.headers[-1].number)
    assert caught.value.code == "chainview.no_checkpoint"


async def test_a_restarted_member_goes_on_where_it_ended(desk: Desk) -> None:
    await desk.follow()
    before = desk.book.newest()
    desk.store.close()
    desk.world.mine(3)
    desk.reopen()
    assert desk.book.newest() == before, "signed before the crash, served after it, byte for byte"
    await desk.follow()
    assert desk.book.head == desk.world.checkpoint()


async def test_only_the_last_128_are_kept(desk: Desk) -> None:
    await desk.follow()
    await desk.follow(KEEP_CHECKPOINTS + 20)
    newest = desk.book.head
    assert newest is not None
    assert len(desk.store.checkpoints()) == KEEP_CHECKPOINTS == len(desk.book.recent())
    with pytest.raises(CloisterError):
        desk.book.at(newest.number - KEEP_CHECKPOINTS)
    desk.book.at(newest.number - KEEP_CHECKPOINTS + 1)


def fork(desk: Desk, depth: int) -> World:
    other = World(desk.world.rules)
    other.headers, other.states = list(desk.world.headers), desk.world.states
    del other.headers[-depth:]
    other.mine(depth + 3, salt=b"fork")
    return other


@pytest.mark.parametrize("depth", [3, 6])
async def test_a_chain_that_replaced_a_signed_block_halts_the_member_for_good(desk: Desk, depth: int) -> None:
    await desk.follow()
    await desk.follow(5)
    desk.chain.forked = fork(desk, depth)
    with pytest.raises(CloisterError) as caught:
        await desk.follow()
    assert caught.value.code == "gatekeeper.halted"
    desk.chain.forked = None
    desk.store.close()
    desk.reopen()
    for refused in (desk.book.newest, desk.book.require_running, lambda: desk.book.at(7)):
        with pytest.raises(CloisterError) as caught:
            refused()
        assert caught.value.code == "gatekeeper.halted"


async def test_two_blocks_of_one_height_are_never_both_signed(desk: Desk) -> None:
    await desk.follow()
    last = desk.book.head
    assert last is not None
    rival = fork(desk, 4).headers[last.number]
    with pytest.raises(CloisterError) as caught:
        desk.book.sign([rival])
    assert caught.value.code == "gatekeeper.halted"
    assert [c for c, _ in desk.store.checkpoints() if c.number == last.number] == [last]


async def test_two_children_of_one_parent_are_never_both_signed(desk: Desk) -> None:
    await desk.follow()
    await desk.follow(1)
    last = desk.book.head
    assert last is not None
    other = fork(desk, 3)
    children = other.headers[last.number : last.number + 2]
    with pytest.raises(CloisterError) as caught:
        desk.book.sign(children)
    assert caught.value.code == "gatekeeper.halted"


async def test_an_older_block_is_not_signed_again(desk: Desk) -> None:
    await desk.follow(4)
    before = desk.store.checkpoints()
    with pytest.raises(CloisterError):
        desk.book.sign([desk.world.headers[3]])
    assert desk.store.checkpoints() == before


async def test_a_checkpoint_ahead_of_this_member_is_taken_from_t_others(desk: Desk) -> None:
    await desk.follow()
    desk.world.mine(2)
    ahead = sign_checkpoint(desk.seats[1:], desk.world.checkpoint(), desk.office.network)
    assert desk.book.accept(ahead) == desk.world.checkpoint()


async def test_a_statement_of_another_kind_is_no_checkpoint(desk: Desk) -> None:
    await desk.follow()
    beat = HeartBeat(1, b"\1" * 32, 5, b"\2" * 32)
    with pytest.raises(CloisterError) as caught:
        desk.book.accept(Signed(beat, ()))
    assert caught.value.code == "gatekeeper.foreign_checkpoint"


async def test_a_block_at_most_sixteen_behind_is_accepted(desk: Desk) -> None:
    await desk.follow(20)
    head = desk.book.head
    assert head is not None
    at_edge = sign_checkpoint(desk.seats[:2], desk.world.checkpoint(head.number - 16), desk.office.network)
    desk.book.accept(at_edge)
    below = sign_checkpoint(desk.seats[:2], desk.world.checkpoint(head.number - 17), desk.office.network)
    with pytest.raises(CloisterError) as caught:
        desk.book.accept(below)
    assert caught.value.code == "gatekeeper.stale_checkpoint"

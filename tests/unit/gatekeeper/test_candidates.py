"""Candidates are admitted by the committee before an election counts them (spec/gatekeepers.md E9)."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cloister.core.chainview.ceremonies import Ending
from cloister.core.chainview.founding import CandidateRecord
from cloister.core.encoding.handover import CandidateAdmission
from cloister.core.encoding.hexes import from_hex
from cloister.core.encoding.signatures import recover, sign_digest
from cloister.core.errors import CloisterError
from cloister.core.policy.candidates import ADMISSION_BLOCKS, admission_of
from cloister.devnet.layout import free_ports
from cloister.gatekeeper.candidates import ROUTE
from cloister.gatekeeper.membership import UNVERIFIED
from cloister.wire.ask import ask
from support.gatekeeper_cast import turns
from support.gatekeepers import Seat, World, policy, sit


@asynccontextmanager
async def seated(folder: Path, **rules: int) -> AsyncIterator[tuple[World, list[Seat], Seat]]:
    """Three in office, 2 of 3, and a fourth machine that may stand."""
    world = World(policy())
    base = {"refresh_blocks": 10**6, "rotation_blocks": 10**6, "term_blocks": 10**6}
    world.now.contract.rules = replace(world.now.contract.rules, **(base | rules))
    seats = [Seat(world, folder / f"gk-{i}", i, port) for i, port in enumerate(free_ports(4))]
    sit(world, seats[:3], 2)
    try:
        for seat in seats:
            await seat.open()
        yield world, seats[:3], seats[3]
    finally:
        for seat in seats:
            await seat.close()


def shows_another_image(seat: Seat) -> None:
    """From now on the machine's evidence is of software that nobody listed."""
    showing = seat.gatekeeper.showing
    showing._tee = replace(seat.tee, image=hashlib.sha384(b"the attacker's image").digest())


def endings(world: World) -> list[Ending]:
    """How the ceremonies ended, in order."""
    return [one.view.ending for one in world.now.contract.ceremonies]


async def asks(seat: Seat, asked: CandidateAdmission) -> bytes:
    """One member's signature over an admission. Raises its refusal."""
    async with aiohttp.ClientSession() as session:
        answer = await ask(session, "POST", seat.url + ROUTE, {"asked": asked.to_json()}, timeout_s=10)
    return from_hex(answer["signature"], 65)


def admission(world: World, seat: Seat, **changes: Any) -> CandidateAdmission:
    """What members would sign of a candidate."""
    record = world.now.candidates[seat.keys.address]
    return replace(admission_of(record, world.now.seats.term, world.final.number + 1000), **changes)


@pytest.mark.long
async def test_a_candidate_with_good_evidence_is_admitted_nominated_and_seated(tmp_path: Path) -> None:
    async with seated(tmp_path, term_blocks=20) as (world, members, new):
        world.now.contract.nominated = (new.keys.address, *(m.keys.address for m in members[1:]))
        everybody = [*members, new]
        await turns(world, everybody, 8)
        until = world.now.contract.admitted[new.keys.address]
        assert world.final.number + ADMISSION_BLOCKS // 2 < until <= world.final.number + ADMISSION_BLOCKS
        for _ in range(60):
            await turns(world, everybody, 1)
            if new.keys.address in world.now.seats.members:
                return
        raise AssertionError("it never sat")


async def test_a_candidate_without_good_evidence_is_never_nominated_and_the_election_goes_on(tmp_path: Path) -> None:
    """The attack: stake for a machine that nobody can verify, and every ceremony would stop at its deadline."""
    async with seated(tmp_path, term_blocks=20) as (world, members, bad):
        await turns(world, [bad], 1)
        shows_another_image(bad)
        world.now.contract.nominated = (bad.keys.address, *(m.keys.address for m in members[1:]))
        everybody = [*members, bad]
        for _ in range(60):
            await turns(world, everybody, 1)
            if world.now.seats.term == 2:
                break
        assert world.now.candidates[bad.keys.address].dkg_key, "it stands"
        assert world.now.contract.admitted == {}
        assert world.now.seats.members == tuple(m.keys.address for m in members)
        assert endings(world) == [Ending.DONE], "nothing stopped"
        trouble = bad.gatekeeper.candidacy.trouble
        assert trouble is not None
        assert trouble.code == "attestation.measurement"


async def nominated(world: World, members: list[Seat], one: Seat) -> None:
    """An election is open in which ``one`` takes the first seat; nobody has dealt."""
    world.now.contract.nominated = (one.keys.address, *(m.keys.address for m in members[1:]))
    for _ in range(40):
        if world.now.contract.ceremonies:
            break
        await turns(world, [*members, one], 1)
    assert one.keys.address in world.now.contract.ceremonies[0].view.receivers


def forgets(member: Seat, one: Seat) -> None:
    """As 64 blocks later."""
    member.gatekeeper.store.erase("peer/0x" + one.keys.address.hex())


@pytest.mark.parametrize(
    "window", [pytest.param(12, id="in time"), pytest.param(5, id="after the deadline", marks=pytest.mark.long)]
)
async def test_evidence_lost_after_the_nomination_ends_that_ceremony_at_no_dealer_s_cost(
    tmp_path: Path, window: int
) -> None:
    """Nobody deals to it; t members say why (G15). Its key is spent: it needs good evidence for another one."""
    async with seated(tmp_path, term_blocks=20, ceremony_blocks=window) as (world, members, bad):
        await nominated(world, members, bad)
        opened = world.now.contract.ceremonies[0]
        shows_another_image(bad)
        for member in members:
            forgets(member, bad)
        for _ in range(30):
            await turns(world, [*members, bad], 1)
            if world.now.contract.ceremonies[0].view.ending is not Ending.OPEN:
                break
        opened = world.now.contract.ceremonies[0]
        assert opened.view.ending is Ending.CANCELLED, "by their word, not by its deadline"
        assert opened.facts.committed == {}, "no dealing that it could open was ever made"
        assert world.now.contract.absent == [(opened.view.id, bad.keys.address)], "it alone pays"
        assert bad.keys.address not in world.now.contract.admitted
        assert world.now.contract.used[world.now.candidates[bad.keys.address].dkg_key], "the admitted key is spent"
        assert (opened.view.ended_at < opened.view.deadlines.commit_by) == (window == 12)
        logged = (members[0].folder / "audit.log").read_text()
        assert '"kind":"ReceiverRefusal"' in logged


@pytest.mark.long
async def test_after_a_refusal_the_election_goes_on_without_the_nominee(tmp_path: Path) -> None:
    async with seated(tmp_path, term_blocks=20, ceremony_blocks=5) as (world, members, bad):
        await nominated(world, members, bad)
        shows_another_image(bad)
        for member in members:
            forgets(member, bad)
        for _ in range(90):
            await turns(world, [*members, bad], 1)
            if world.now.seats.term == 2:
                break
        assert endings(world) == [Ending.CANCELLED, Ending.DONE]
        assert world.now.seats.members == tuple(m.keys.address for m in members)


async def test_a_member_that_alone_refuses_a_nominee_stops_nobody(tmp_path: Path) -> None:
    """Its host may keep it from the nominee. The others deal, and it says nothing more once enough did."""
    async with seated(tmp_path, term_blocks=20) as (world, members, new):
        await nominated(world, members, new)
        alone = members[0]
        forgets(alone, new)

        async def refuses(*_: object) -> None:
            raise UNVERIFIED(expected="good evidence", found="none")

        alone.gatekeeper.membership._verify_one = refuses  # type: ignore[method-assign, assignment]
        said = set()
        for _ in range(60):
            await turns(world, [*members, new], 1)
            said |= {row["kind"] for row in alone.gatekeeper.statements.served()["statements"]}
            if world.now.seats.term == 2:
                break
        assert endings(world) == [Ending.DONE]
        assert said == {"ReceiverRefusal"}, "it did say so, and one of t is not enough"
        assert world.now.contract.absent == []
        assert new.keys.address in world.now.seats.members


async def test_good_evidence_in_the_first_half_of_the_window_is_in_time(tmp_path: Path) -> None:
    """A nominee that was away for some blocks costs nothing: members look again at each block."""
    async with seated(tmp_path, term_blocks=20) as (world, members, new):
        await nominated(world, members, new)
        showing, good = new.gatekeeper.showing, new.gatekeeper.showing._tee
        shows_another_image(new)
        for member in members:
            forgets(member, new)
        await turns(world, [*members, new], 4)
        assert not any(member.gatekeeper.statements.served()["statements"] for member in members)
        showing._tee = good
        for _ in range(60):
            await turns(world, [*members, new], 1)
            if world.now.seats.term == 2:
                break
        assert endings(world) == [Ending.DONE]
        assert new.keys.address in world.now.seats.members


def other(good: CandidateAdmission) -> bytes:
    """A vendor class that is not the candidate's."""
    return min({b"intel".ljust(32, b"\0"), b"amd".ljust(32, b"\0")} - {good.vendor_class})


WRONG: dict[str, tuple[Callable[[CandidateAdmission], dict[str, Any]], str]] = {
    "of another term": (lambda _: {"term": 2}, "policy.candidate"),
    "of a stranger": (lambda _: {"member": b"\x77" * 20}, "policy.candidate"),
    "with another operator": (lambda _: {"operator": b"\x77" * 20}, "policy.candidate_described"),
    "with another vendor": (lambda good: {"vendor_class": other(good)}, "policy.candidate_described"),
    "with another key": (lambda _: {"dkg_key": b"\x07" * 32}, "policy.candidate_described"),
    "with another endpoint": (lambda _: {"endpoint": b"\x07" * 32}, "policy.candidate_described"),
    "that is over": (lambda _: {"expiry": 1}, "policy.candidate_expiry"),
    "that lasts too long": (lambda _: {"expiry": 10**6}, "policy.candidate_expiry"),
}
GARBAGE = (b"", b"{}", b"[]", b'{"asked":{}}', b'{"asked":1}', b"\xff" * 40, b'{"asked":null,"x":1}')


async def test_members_sign_what_stands_on_chain_alone_few_times_and_audit_it(tmp_path: Path) -> None:
    async with seated(tmp_path) as (world, members, new):
        everybody = [*members, new]
        await turns(world, everybody, 6)
        good, member = admission(world, new), members[0]
        assert recover(good.digest(world.now.seats.network_id), await asks(member, good)) == member.keys.address
        candidates, desks = member.gatekeeper.candidates, member.gatekeeper.require_desks()
        for sentence, (change, code) in WRONG.items():
            candidates._limit._buckets.clear()
            with pytest.raises(CloisterError) as refused:
                await asks(member, replace(good, **change(good)))
            assert refused.value.code == code, sentence
        with pytest.raises(CloisterError) as refused:
            await asks(member, admission(world, members[1]))
        assert refused.value.code == "policy.candidate", "who sits is not admitted"
        for body in GARBAGE:
            with pytest.raises(CloisterError):
                await candidates.answer(body, desks.office, desks.checkpoints)
        codes = set()
        for _ in range(10):
            with contextlib.suppress(CloisterError):
                try:
                    await asks(member, good)
                except CloisterError as error:
                    codes.add(error.code)
        assert codes == {"gatekeeper.rate"}
        log = (member.folder / "audit.log").read_text()
        assert log.count('"outcome":"admitted"') >= 1
        assert new.keys.address.hex() in log
        assert "policy.candidate_described" in log


async def test_an_admission_is_used_up_by_a_new_description_and_renewed_when_it_is_half_over(tmp_path: Path) -> None:
    async with seated(tmp_path) as (world, members, new):
        everybody = [*members, new]
        await turns(world, everybody, 8)
        contract, address = world.now.contract, new.keys.address
        record = world.now.candidates[address]
        assert contract.admitted[address]
        world.call(address, "setCandidate", b"\x55" * 20, record.vendor_class, record.dkg_key, b"\1" * 32, new.url)
        assert address not in contract.admitted
        with pytest.raises(CloisterError):
            world.call(address, "admit", *stale(world, members, record))
        world.mine(3)
        await turns(world, everybody, 20)
        assert contract.admitted[address], "the member describes itself anew, and asks again"
        contract.admitted[address] = world.final.number + ADMISSION_BLOCKS // 2 - 30
        before = contract.admitted[address]
        await turns(world, everybody, 10)
        assert contract.admitted[address] > before


def stale(world: World, members: list[Seat], record: CandidateRecord) -> tuple[Any, ...]:
    """A good admission of what the candidate said before."""
    said = admission_of(record, 1, world.final.number + 900)
    signatures = [sign_digest(m.keys.chain_key(), said.digest(world.now.seats.network_id)) for m in members]
    return tuple(getattr(said, name) for name in said.TYPES), signatures

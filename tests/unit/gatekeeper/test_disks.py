"""The others hold the key of a member's disk: who gets it, who does not, and what a crash leaves (D1-D6)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.attestation.model import Claims
from cloister.core.chainview.ceremonies import Ending
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.identity import AgentVersion, Purpose
from cloister.core.errors import CloisterError
from cloister.core.keys.seal import MAGIC
from cloister.core.policy.rest import NEVER, DiskFacts, Round, disk_identity, machine_of, may_open
from cloister.core.threshold.partial import TransportKey
from cloister.core.threshold.phases import Kind
from cloister.devnet.layout import free_ports
from cloister.gatekeeper.rest import OWN, WRAP, Disk, Locked, sealing_key
from cloister.gatekeeper.showing import Showing
from cloister.gatekeeper.store import Store
from cloister.node.identity import NodeKeys
from cloister.wire.messages import dump_json
from support.gatekeeper_cast import all_in_office, turns
from support.gatekeepers import PretendWorker, Seat, World, policy, secrets_of, sit, turn_all
from support.resting import BareTee, Resting, kept

NO = bytes(32)


@asynccontextmanager
async def resting(folder: Path, count: int = 3, **rules: int) -> AsyncIterator[tuple[World, list[Resting]]]:
    """``count`` members in office, 2 of them enough, each folder sealed by the others."""
    world = World(policy())
    base = {"refresh_blocks": 10**6, "rotation_blocks": 10**6, "term_blocks": 10**6}
    world.now.contract.rules = replace(world.now.contract.rules, **(base | rules))
    seats = [Resting(world, folder / f"gk-{i}", i, port) for i, port in enumerate(free_ports(count))]
    sit(world, seats, 2)
    try:
        for seat in seats:
            await seat.open()
        await turns(world, seats, 6)
        yield world, seats
    finally:
        for seat in seats:
            await seat.close()


async def refused(seat: Resting, **how: object) -> str:
    """The codes with which members refuse the key of a folder."""
    with pytest.raises(CloisterError) as error:
        await seat.unlock(**how)  # type: ignore[arg-type]
    assert error.value.code == "gatekeeper.disk_locked"
    return str(error.value.found)


async def ready(seats: list[Resting]) -> None:
    """These members have signed the newest final block, and count no questions."""
    await turn_all(seats)
    for seat in seats:
        if seat.member is not None:
            seat.member.disks._limit._buckets.clear()


async def test_a_member_without_a_sealing_key_restarts_by_the_others_and_by_nothing_else(tmp_path: Path) -> None:
    """Clones on other machines, strangers, another seat's key, too few members, wrong evidence: no key."""
    async with resting(tmp_path) as (world, seats):
        one = seats[0]
        assert not (one.folder / "node.key").exists()
        blobs = kept(one.folder)
        assert {WRAP, OWN, "share/1/1"} <= set(blobs)
        assert one.gatekeeper.disk is not None
        assert one.gatekeeper.disk.round == Round(1, 1)
        await one.close()
        await ready(seats[1:])
        await attacks(one, seats, tmp_path)
        await ready(seats[1:])
        await one.open()
        await turns(world, seats, 3)
        assert all_in_office(seats), "the same member, the same share"
        assert one.gatekeeper.keys.address == one.keys.address
        log = (seats[1].folder / "audit.log").read_text()
        assert '"what":"disk"' in log
        assert "policy.disk_machine" in log


async def attacks(one: Resting, seats: list[Resting], tmp_path: Path) -> None:
    """What does not open the folder of a member that is down. Two others of three are up: both are needed."""
    elsewhere = one.copy(tmp_path / "clone")
    other_machine = BareTee(one.tee.kind, one.tee.image, "other machine")
    assert "policy.disk_machine" in await refused(one, folder=elsewhere, tee=other_machine)
    other_image = BareTee(one.tee.kind, b"an image that nobody listed".ljust(48, b"!"), one.tee.machine)
    assert "attestation.measurement" in await refused(one, tee=other_image)
    vendor = BareTee(seats[1].tee.kind, one.tee.image, one.tee.machine)
    assert "gatekeeper.peer" in await refused(one, tee=vendor)
    assert "gatekeeper.peer" in await refused(one, node=seats[1].keys.address), "another seat's key"
    alike = BareTee(seats[1].tee.kind, one.tee.image, "other machine")
    assert "policy.disk_machine" in await refused(one, tee=alike, node=seats[1].keys.address), (
        "by its vendor's hardware"
    )
    await ready(seats[1:])
    assert "gatekeeper.peer" in await refused(one, node=b"\x77" * 20), "a stranger's"
    disks, desks = seats[1].gatekeeper.disks, seats[1].gatekeeper.require_desks()
    worker = PretendWorker(one.world, desks.office.network)
    at = desks.checkpoints.head
    assert at is not None
    shown = worker.show(at, keys={"disk": TransportKey.generate(secrets_of("w")).public})
    body = dump_json({**shown.to_json(), "epoch": 1, "term": 1})
    with pytest.raises(CloisterError) as error:
        await disks.answer(body, desks.office, desks.checkpoints, desks.lookout.require)
    assert error.value.code == "attestation.role", "a worker gets no member's disk"
    await ready(seats[1:])
    await seats[2].close()
    assert "0; refused: gatekeeper.alone, wire.unreachable" in await refused(one), "t - 1 members are not enough"
    seats[2].lives = 0
    await seats[2].open()


async def test_the_answer_to_one_start_opens_nothing_for_another(tmp_path: Path) -> None:
    """A replayed request brings an answer that only its first asker reads; a changed one is refused."""
    async with resting(tmp_path) as (_, seats):
        one, member = seats[0], seats[1]
        disks, desks = member.gatekeeper.disks, member.gatekeeper.require_desks()
        transport = TransportKey.generate(secrets_of("asker"))
        showing = Showing(one.tee, one.keys.address, b"\xb1" * 32, b"\xc1" * 32)
        head = desks.checkpoints.head
        assert head is not None
        network = desks.office.network
        shown = await showing.show_keys(network, head.block_hash, bytes(32), {"disk": transport.public})
        body = {**shown.to_json(), "epoch": 1, "term": 1}
        first = await disks.answer(dump_json(body), desks.office, desks.checkpoints, desks.lookout.require)
        again = await disks.answer(dump_json(body), desks.office, desks.checkpoints, desks.lookout.require)
        assert first.e3 != again.e3, "each under its own randomness, to the same transport key"
        mine = TransportKey.generate(secrets_of("thief"))
        swapped = json.loads(dump_json(body))
        swapped["binding"]["keys"]["disk"] = to_hex(mine.public)
        for wrong, code in (
            (swapped, "attestation.report_data"),
            ({**body, "term": 3}, "policy.disk_round"),
            ({**body, "epoch": 2}, "gatekeeper.no_share"),
        ):
            disks._limit._buckets.clear()
            with pytest.raises(CloisterError) as error:
                await disks.answer(dump_json(wrong), desks.office, desks.checkpoints, desks.lookout.require)
            assert error.value.code == code
        disks._limit._buckets.clear()
        stale = await showing.show_keys(network, b"\x01" * 32, bytes(32), {"disk": transport.public})
        with pytest.raises(CloisterError) as error:
            await disks.answer(
                dump_json({**stale.to_json(), "epoch": 1, "term": 1}),
                desks.office,
                desks.checkpoints,
                desks.lookout.require,
            )
        assert error.value.code == "attestation.stale" or error.value.code.startswith("attestation."), "not fresh"
        for garbage in (b"", b"{}", b"[1]", b"\xff" * 9, dump_json({**body, "term": -1}), dump_json({"term": 1})):
            with pytest.raises(CloisterError):
                await disks.answer(garbage, desks.office, desks.checkpoints, desks.lookout.require)


@pytest.mark.long
async def test_after_a_refresh_an_old_disk_opens_no_more_and_the_new_one_does(tmp_path: Path) -> None:
    async with resting(tmp_path) as (world, seats):
        one = seats[0]
        old = one.copy(tmp_path / "old")
        before = kept(old)[WRAP]
        world.open(Kind.RESHARE, [s.keys.address for s in seats], 2)
        for _ in range(12):
            await turns(world, seats, 1)
            if kept(one.folder)[WRAP] != before:
                break
        between = one.copy(tmp_path / "between")
        for _ in range(40):
            await turns(world, seats, 1)
            if all_in_office(seats, 2):
                break
        await turns(world, seats, 14)
        assert world.now.contract.ceremonies[-1].view.ending is Ending.DONE
        await one.close()
        await ready(seats[1:])
        assert "policy.disk_round" in await refused(one, folder=old), "an old identity is never answered again"
        keys = await one.unlock(folder=between)
        assert keys.address == one.keys.address, "sealed for the new term before its share was made"
        await ready(seats[1:])
        await one.open()
        await turns(world, seats, 3)
        assert all_in_office(seats, 2)
        for name, blob in kept(one.folder).items():
            if name != OWN and blob.startswith(MAGIC):
                one.gatekeeper.keys.open(name, blob)  # whatever is sealed moved with the rest
        assert one.gatekeeper.shares.held() == [(1, 2)]


def test_a_crash_while_a_folder_moves_leaves_the_old_seal_or_the_new_one(tmp_path: Path) -> None:
    """The write is one transaction: stopped before any statement of it, everything is as before."""
    rng = secrets_of("crash")
    world = World(policy())
    seats = [Resting(world, tmp_path / f"gk-{i}", i, 1) for i in range(3)]
    public = sit(world, seats, 2).public
    seat = seats[0]
    store = Store(seat.folder / "state.db")
    disk = Disk(seat.folder, store, seat.keys, None, rng)
    disk.move(b"\1" * 32, Round(1, 1), public.mpk)
    before = {name: store.get(name) for name in store.names("")}

    class Crash(BaseException):
        pass

    for name in ("put_all", "scrub"):
        real = getattr(store, name)

        def stops(*_: object) -> None:
            raise Crash

        setattr(store, name, stops)
        with pytest.raises(Crash):
            disk.move(b"\1" * 32, Round(2, 1), public.mpk)
        setattr(store, name, real)
        now = {n: store.get(n) for n in store.names("")}
        assert (now == before) is (name == "put_all")
        if name == "put_all":
            assert seat.keys.open("share/1/1", now["share/1/1"] or b""), "old: it opens as it did"
        else:
            changed = {n for n in now if now[n] != before[n]}
            assert changed == {WRAP, OWN, "share/1/1"}, "new: every secret moved together with its key"
    store.close()


def test_a_folder_of_hardware_moves_over_whole_and_is_never_erased_for_want_of_its_key(tmp_path: Path) -> None:
    """``node.key`` goes into the store. Afterwards hardware *and* members are needed."""
    world = World(policy())
    seats = [Seat(world, tmp_path / f"gk-{i}", i, 1) for i in range(3)]
    public = sit(world, seats, 2).public
    seat, local = seats[0], hashlib.sha256(b"local").digest()
    store = Store(seat.folder / "state.db")

    def locked(sealing: bytes | None) -> Locked:
        return Locked(seat.folder, store, sealing, seat.chain, 1, lambda member: Showing(seat.tee, member, NO, NO))

    with pytest.raises(CloisterError) as error:
        locked(None).first()
    assert error.value.code == "evidence.no_sealing"
    assert store.get("share/1/1"), "nothing was erased"
    disk = Disk(seat.folder, store, seat.keys, local, secrets_of("move"))
    assert disk.round is None
    disk.move(b"\1" * 32, Round(1, 1), public.mpk)
    assert not (seat.folder / "node.key").exists()
    assert locked(local).first() is None, "now the members are asked"
    fresh = b"\7" * 32
    with pytest.raises(CloisterError) as error:
        NodeKeys.unsealed("gatekeeper", sealing_key(fresh, local), store.get(OWN) or b"")
    assert error.value.code == "node.foreign_folder"
    assert sealing_key(fresh, local) != sealing_key(fresh, None), "the disk key alone opens nothing"
    store.close()


async def test_a_folder_that_no_member_knows_yet_is_forgotten_at_the_next_start(tmp_path: Path) -> None:
    """Before the first term nobody can hold the key: without hardware the machine is a new node."""
    world = World(policy())
    seat = Resting(world, tmp_path / "gk", 0, free_ports(1)[0])
    await seat.open()
    key = seat.gatekeeper.membership.next_key()
    first = seat.gatekeeper.keys.address
    await seat.close()
    keys = await seat.unlock()
    assert keys.address != first
    assert not [name for name in kept(seat.folder) if name.startswith(("transport", "share/", "ceremony/"))]
    assert key


FACTS = DiskFacts(
    member=b"\1" * 20,
    asked=Round(5, 2),
    term=5,
    seats=frozenset({b"\1" * 20}),
    confirmed=5,
    answered=Round(5, 2),
    known=b"chip",
    shown=b"chip",
)
REFUSED = {
    "a stranger": ({"seats": frozenset({b"\2" * 20})}, "policy.disk_seat"),
    "a revoked member": ({"seats": frozenset()}, "policy.disk_seat"),
    "a disk from before a term that the member confirmed": ({"asked": Round(4, 2)}, "policy.disk_round"),
    "a disk older than one that was answered": (
        {"asked": Round(5, 1), "confirmed": 4, "answered": Round(5, 2)},
        "policy.disk_round",
    ),
    "a round of the far future": ({"asked": Round(7, 2)}, "policy.disk_round"),
    "another machine": ({"shown": b"other"}, "policy.disk_machine"),
    "a machine never verified": ({"known": None}, "policy.disk_machine"),
    "evidence that names no machine": ({"shown": b"", "known": b""}, "policy.disk_machine"),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_no_disk_key_for(sentence: str) -> None:
    change, code = REFUSED[sentence]
    may_open(FACTS)
    with pytest.raises(CloisterError) as error:
        may_open(replace(FACTS, **change))  # type: ignore[arg-type]
    assert error.value.code == code


def test_the_disk_of_the_term_that_comes_and_of_a_member_that_slept_are_answered() -> None:
    may_open(replace(FACTS, asked=Round(6, 2)))
    may_open(replace(FACTS, asked=Round(3, 1), confirmed=3, answered=NEVER))


@given(
    st.binary(min_size=32, max_size=32),
    st.integers(0, 2**63),
    st.integers(0, 2**63),
    st.binary(min_size=20, max_size=20),
)
def test_no_identity_of_a_disk_is_one_of_an_agent(network: bytes, term: int, epoch: int, member: bytes) -> None:
    mine = disk_identity(network, Round(term, epoch), member)
    agent = AgentVersion(network, epoch, b"\0" * 32, term, member.ljust(32, b"\0"), 0)
    assert all(bytes(agent.key(purpose)) != mine for purpose in Purpose)
    assert mine != disk_identity(network, Round(term + 1, epoch), member)
    assert mine != disk_identity(network, Round(term, epoch + 1), member)


@pytest.mark.parametrize(
    ("kind", "name", "machine"),
    [
        ("nitro", b"i-0a1b-enc0123", b"i-0a1b"),
        ("nitro", b"i-0a1b", b"i-0a1b"),
        ("snp", b"\x05" * 64, b"\x05" * 64),
        ("snp", bytes(64), b""),
        ("tdx", b"", b""),
    ],
)
def test_what_evidence_says_of_the_machine(kind: str, name: bytes, machine: bytes) -> None:
    claims = Claims(kind, "x", "", name, {}, False, "", (), bytes(64), 0)
    assert machine_of(claims) == machine

"""Founding among liars: who is not what the chain says gets no share, and nobody shows a dealing early."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.core.attestation.model import measurement_id
from cloister.core.attestation.policy import Policy
from cloister.core.errors import CloisterError
from cloister.core.policy.release import vendor_class_id
from cloister.core.threshold.dkg import Dealing
from cloister.devnet.layout import free_ports
from cloister.gatekeeper.ceremonies import dealing_digest
from cloister.gatekeeper.peers import verify_peer
from cloister.wire.ask import ask, new_session
from cloister.wire.messages import Shown
from support.gatekeepers import GATEKEEPER_IMAGE, WORKER_IMAGE, Seat, World, node_keys, policy, turn_all


class Cast:
    """Three gatekeepers; the last one is the liar."""

    def __init__(self, folder: Path, rules: Policy | None = None) -> None:
        self.world = World(rules or policy(measurement_delay=50))
        self.seats = [Seat(self.world, folder / f"gk-{i}", i, port) for i, port in enumerate(free_ports(3))]

    @property
    def liar(self) -> Seat:
        return self.seats[-1]

    async def stand(self) -> None:
        for seat in self.seats:
            await seat.open()
        await turn_all(self.seats)
        self.world.mine(3)

    def name(self) -> None:
        self.world.open_founding([s.keys.address for s in self.seats], 2)
        self.world.mine(3)

    def dealt(self) -> set[int]:
        """Who put a digest on chain."""
        newest = self.world.now.contract.newest
        return set() if newest is None else set(newest.facts.committed)

    def lie(self, **changes: Any) -> None:
        record = self.world.now.candidates[self.liar.keys.address]
        self.world.now.candidates[self.liar.keys.address] = dataclasses.replace(record, **changes)


@pytest.fixture
async def cast(tmp_path: Path) -> AsyncIterator[Cast]:
    made = Cast(tmp_path)
    try:
        yield made
    finally:
        for seat in made.seats:
            await seat.close()


def other_key(cast: Cast) -> None:
    """Somebody with the member's account key, but without its machine, names a key of its own."""
    cast.lie(dkg_key=b"\x09" * 32)


def other_vendor(cast: Cast) -> None:
    cast.lie(vendor_class=vendor_class_id("intel"))


def other_endpoint(cast: Cast) -> None:
    cast.lie(endpoint=cast.seats[1].url)


def nobody_there(cast: Cast) -> None:
    cast.lie(endpoint="http://127.0.0.1:1")


def unlisted(cast: Cast) -> None:
    image = b"\x77" * 48
    cast.liar.tee = dataclasses.replace(cast.liar.tee, image=image)
    _swap_tee(cast, image)


def worker_image(cast: Cast) -> None:
    _swap_tee(cast, WORKER_IMAGE)


def listed_later(cast: Cast) -> None:
    image = b"\x78" * 48
    cast.world.now.listed[measurement_id("gatekeeper", image)] = cast.world.headers[-1].number
    _swap_tee(cast, image)


def _swap_tee(cast: Cast, image: bytes) -> None:
    member = cast.liar.member
    assert member is not None
    member.showing._tee = dataclasses.replace(cast.liar.tee, image=image)


LIES: dict[str, tuple[Callable[[Cast], None], str]] = {
    "its ceremony key is not the attested one": (other_key, "gatekeeper.peer"),
    "its vendor class is not the attested one": (other_vendor, "gatekeeper.peer"),
    "its endpoint belongs to another member": (other_endpoint, "gatekeeper.peer"),
    "its endpoint is dead": (nobody_there, "wire.unreachable"),
    "it runs an image that nobody listed": (unlisted, "attestation.measurement"),
    "it runs a worker's image": (worker_image, "attestation.measurement"),
    "it runs an image that was listed too lately": (listed_later, "attestation.measurement"),
}


@pytest.mark.parametrize("case", LIES)
async def test_nobody_deals_with_a_member_when(cast: Cast, case: str) -> None:
    lie, code = LIES[case]
    await cast.stand()
    lie(cast)
    cast.name()
    for _ in range(4):
        refused = await turn_all(cast.seats[:2])
        cast.world.mine(1)
    assert {e.code for e in refused} == {code}
    assert not cast.dealt() & {1, 2}


async def test_nobody_deals_in_a_committee_of_too_few_vendors(tmp_path: Path) -> None:
    """The policy demands four vendors; the contract counts no vendors, only seats of each class."""
    rules = policy(measurement_delay=50)
    cast = Cast(tmp_path, dataclasses.replace(rules, committee=dataclasses.replace(rules.committee, min_vendors=4)))
    try:
        await cast.stand()
        cast.name()
        for _ in range(4):
            refused = await turn_all(cast.seats)
            cast.world.mine(1)
        assert {e.code for e in refused} == {"policy.committee_vendors"}
        assert not cast.dealt()
    finally:
        for seat in cast.seats:
            await seat.close()


async def test_evidence_of_a_worker_is_no_gatekeepers(cast: Cast) -> None:
    await cast.stand()
    member = cast.seats[0].member
    assert member is not None
    show = member.showing.show

    async def as_worker(*args: Any) -> Any:
        honest = await show(*args)
        binding = dataclasses.replace(honest.binding, role="worker")
        return Shown(await member.tee.quote(binding.report_data()), binding)

    member.showing.show = as_worker  # type: ignore[method-assign, assignment]
    with pytest.raises(CloisterError) as caught:
        await _verify(cast, cast.seats[0])
    assert caught.value.code == "attestation.role"


async def test_evidence_under_another_genesis_is_refused(cast: Cast) -> None:
    await cast.stand()
    with pytest.raises(CloisterError) as caught:
        await _verify(cast, cast.seats[0], network=b"\x0f" * 32)
    assert caught.value.code == "attestation.network"


async def test_a_recorded_answer_to_another_nonce_is_refused(cast: Cast) -> None:
    await cast.stand()
    member = cast.seats[0].member
    assert member is not None
    recorded = await member.evidence(b"\x01" * 32, "test")

    async def replay(*_: Any) -> Any:
        return recorded

    member.showing.show = replay  # type: ignore[method-assign, assignment]
    with pytest.raises(CloisterError) as caught:
        await _verify(cast, cast.seats[0])
    assert caught.value.code == "attestation.nonce"


async def _verify(cast: Cast, seat: Seat, network: bytes | None = None) -> None:
    session = new_session()
    head = cast.world.final
    try:
        await verify_peer(
            session,
            cast.world.now.candidates[seat.keys.address],
            seat.chain.at(cast.world.checkpoint()),
            policy=cast.world.rules,
            networks=(cast.world.genesis.genesis_id() if network is None else network,),
            head=head,
            nonce=b"\x42" * 32,
        )
    finally:
        await session.close()


async def test_an_honest_peer_passes(cast: Cast) -> None:
    await cast.stand()
    for seat in cast.seats:
        await _verify(cast, seat)


async def test_a_ceremony_for_another_genesis_file_is_refused(cast: Cast) -> None:
    await cast.stand()
    cast.name()
    newest = cast.world.now.contract.ceremonies[0]
    newest.view = dataclasses.replace(newest.view, base=b"\x09" * 32)
    cast.world.mine(3)
    assert {e.code for e in await turn_all(cast.seats)} == {"gatekeeper.other_genesis"}
    assert not cast.dealt()


async def test_dealings_travel_only_signed_and_only_when_all_digests_are_final(cast: Cast) -> None:
    await cast.stand()
    cast.name()
    await turn_all(cast.seats)
    url = f"{cast.seats[0].url}/v1/dkg/0x{cast.world.now.contract.ceremonies[0].view.id.hex()}/dealing"
    session = new_session()
    try:
        with pytest.raises(CloisterError) as caught:
            await ask(session, "GET", url)
        assert caught.value.code == "threshold.too_early"
        cast.world.mine(3)
        await turn_all(cast.seats[:1])
        shown = await ask(session, "GET", url)
    finally:
        await session.close()
    dealing = Dealing.from_json(shown["dealing"])
    assert dealing.dealer == 1
    assert shown["signature"].startswith("0x")


def test_the_signature_over_a_dealing_is_no_committed_digest() -> None:
    dealing = Dealing(1, (b"\1" * 192, b"\2" * 192), b"\3" * 48, (b"\4" * 80,))
    one, two = dealing_digest(b"\1" * 32, dealing), dealing_digest(b"\2" * 32, dealing)
    assert one != two


@pytest.mark.parametrize("moved", ["to another machine", "to another build"])
async def test_a_folder_that_was_copied_is_refused_by_name(cast: Cast, tmp_path: Path, moved: str) -> None:
    await cast.stand()
    cast.name()
    for _ in range(12):
        await turn_all(cast.seats)
        cast.world.mine(1)
    assert cast.world.now.seats.term == 1
    await cast.seats[0].close()
    copy = tmp_path / "copy"
    shutil.copytree(cast.seats[0].folder, copy)
    changed = {"machine": "machine 99"} if moved == "to another machine" else {"image": b"\x01" * 48}
    thief = dataclasses.replace(cast.seats[0].tee, **changed)
    with pytest.raises(CloisterError) as caught:
        node_keys(copy, thief)
    assert caught.value.code == "node.foreign_folder"
    assert node_keys(copy, cast.seats[0].tee).address == cast.seats[0].keys.address, "its own machine opens it"


async def test_a_share_moved_into_another_members_folder_does_not_open(cast: Cast) -> None:
    await cast.stand()
    cast.name()
    for _ in range(12):
        await turn_all(cast.seats)
        cast.world.mine(1)
    for seat in cast.seats:
        await seat.close()
    for name in ("state.db", "state.db-wal", "state.db-shm"):
        source, target = cast.seats[0].folder / name, cast.seats[1].folder / name
        target.unlink(missing_ok=True)
        if source.exists():
            shutil.copy(source, target)
    with pytest.raises(CloisterError) as caught:
        await cast.seats[1].open()
    assert caught.value.code == "node.foreign_folder"


async def test_a_folder_of_an_older_committee_serves_nobody(cast: Cast) -> None:
    await cast.stand()
    cast.name()
    for _ in range(12):
        await turn_all(cast.seats)
        cast.world.mine(1)
    contract = cast.world.now.contract
    cast.world.now.seats = dataclasses.replace(cast.world.now.seats, term=2)
    contract.terms[2] = dataclasses.replace(contract.terms[1], term=2, height=len(cast.world.headers))
    contract.epochs[1] = dataclasses.replace(contract.epochs[1], term=2)
    cast.world.mine(3)
    await cast.seats[0].close()
    member = await cast.seats[0].open()
    with pytest.raises(CloisterError) as caught:
        await member.turn()
    assert caught.value.code == "gatekeeper.out_of_office"
    assert member.desks is None
    assert GATEKEEPER_IMAGE != WORKER_IMAGE

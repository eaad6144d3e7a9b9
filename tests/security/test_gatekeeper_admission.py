"""Admissions: who may register as a worker, and what a stolen or replayed admission is worth."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloister.core.attestation.model import measurement_id
from cloister.core.encoding.signatures import Signed, recover
from cloister.core.encoding.statements import WorkerAdmission
from cloister.core.errors import CloisterError
from cloister.core.policy.release import vendor_class_id
from cloister.devnet.layout import free_ports
from cloister.gatekeeper.admissions import REGISTRATION_PERIODS
from cloister.wire.committee import Committee
from cloister.wire.messages import AdmissionRequest, KeysRequest, SignedBy, dump_json
from support.gatekeepers import (
    GATEKEEPER_IMAGE,
    PretendWorker,
    Seat,
    World,
    an_agent,
    policy,
    sign_checkpoint,
    sit,
    turn_all,
)

OPERATOR = b"\x50" * 20


class Stage:
    """A 2-of-3 committee, all running, and a worker that nobody knows yet."""

    def __init__(self, folder: Path, *, listen: bool = True) -> None:
        self.world = World(policy(period_blocks=10, measurement_delay=20))
        ports = free_ports(3) if listen else [1, 1, 1]
        self.seats = [Seat(self.world, folder / f"gk-{i}", i, port) for i, port in enumerate(ports)]
        self.sitting = sit(self.world, self.seats, 2)
        self.worker = PretendWorker(self.world, self.sitting.network)

    async def open(self) -> None:
        for seat in self.seats:
            await seat.open()
        self.world.mine(4)
        await self.settle()

    async def settle(self) -> None:
        await turn_all(self.seats)
        await turn_all(self.seats)

    def request(
        self, worker: PretendWorker | None = None, operator: bytes = OPERATOR, **binding: Any
    ) -> AdmissionRequest:
        at = self.world.checkpoint()
        signed = sign_checkpoint(self.seats[:2], at, self.sitting.network)
        shown = (worker or self.worker).show(at, **{"keys": {"operator": operator}, **binding})
        return AdmissionRequest(shown, operator, signed)

    async def ask(self, request: AdmissionRequest, seat: int = 0) -> SignedBy:
        return await self.raw(dump_json(request.to_json()), seat)

    async def raw(self, body: bytes, seat: int = 0) -> SignedBy:
        member = self.seats[seat].member
        assert member is not None
        return await member.require_desks().admissions.answer(body, "test")

    async def close(self) -> None:
        for seat in self.seats:
            await seat.close()


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    made = Stage(tmp_path)
    try:
        await made.open()
        yield made
    finally:
        await made.close()


@pytest.mark.parametrize(("kind", "vendor"), [("tdx", "intel"), ("snp", "amd"), ("nitro", "aws")])
async def test_t_members_admit_what_the_evidence_says(stage: Stage, kind: str, vendor: str) -> None:
    worker = dataclasses.replace(stage.worker, kind=kind)
    committee = Committee([s.url for s in stage.seats], stage.sitting.signers, stage.sitting.network, timeout_s=10)
    signed = await committee.admission(stage.request(worker))
    await committee.close()
    said = signed.statement
    assert isinstance(said, WorkerAdmission)
    assert (said.worker, said.operator, said.boot) == (worker.address, OPERATOR, worker.boot)
    assert said.vendor_class == vendor_class_id(vendor)
    assert said.measurement == measurement_id("worker", worker.image)
    assert said.expiry == stage.world.checkpoint().number + REGISTRATION_PERIODS * 10


async def test_an_admission_of_one_network_is_worth_nothing_on_another(stage: Stage) -> None:
    answer = await stage.ask(stage.request())
    here = recover(answer.statement.digest(stage.sitting.network), answer.signature)
    elsewhere = recover(answer.statement.digest(b"\x0f" * 32), answer.signature)
    assert here in stage.sitting.signers.members
    assert elsewhere not in stage.sitting.signers.members


async def test_members_of_another_network_do_not_count(stage: Stage) -> None:
    other = Committee([s.url for s in stage.seats], stage.sitting.signers, b"\x0f" * 32, timeout_s=10)
    with pytest.raises(CloisterError) as caught:
        await other.admission(stage.request())
    await other.close()
    assert caught.value.code == "encoding.signature"


def banned_then(stage: Stage) -> AdmissionRequest:
    stage.worker.register(removed=True)
    stage.world.mine(3)
    return stage.request()


def banned_since(stage: Stage) -> AdmissionRequest:
    stage.worker.register(removed=True)
    return stage.request()


def unlisted(stage: Stage) -> AdmissionRequest:
    stage.world.now.listed.clear()
    stage.world.mine(3)
    return stage.request()


def listed_lately(stage: Stage) -> AdmissionRequest:
    image = b"\x77" * 48
    stage.world.now.listed[measurement_id("worker", image)] = stage.world.headers[-1].number
    stage.world.mine(3)
    return stage.request(dataclasses.replace(stage.worker, image=image))


def of_strangers(stage: Stage) -> AdmissionRequest:
    request = stage.request()
    return dataclasses.replace(
        request, checkpoint=Signed(request.checkpoint.statement, request.checkpoint.signatures[:1])
    )


def stale(stage: Stage) -> AdmissionRequest:
    request = stage.request()
    stage.world.mine(30)
    return request


def with_other_binding(stage: Stage) -> AdmissionRequest:
    honest, thief = stage.request(), PretendWorker(stage.world, stage.sitting.network, name="thief")
    shown = dataclasses.replace(honest.shown, binding=dataclasses.replace(honest.shown.binding, node=thief.address))
    return dataclasses.replace(honest, shown=shown)


def shown_to_a_caller(stage: Stage) -> AdmissionRequest:
    return stage.request(keys={}, nonce=b"\x01" * 32)


def under_another_operator(stage: Stage) -> AdmissionRequest:
    return dataclasses.replace(stage.request(), operator=b"\x66" * 20)


def as_gatekeeper(stage: Stage) -> AdmissionRequest:
    return stage.request(dataclasses.replace(stage.worker, image=GATEKEEPER_IMAGE, role="gatekeeper"))


REFUSED: dict[str, tuple[Callable[[Stage], AdmissionRequest], str]] = {
    "a worker that was removed for cause": (banned_then, "policy.worker_removed"),
    "a worker that was removed since the checkpoint": (banned_since, "policy.worker_removed"),
    "an image that is not listed": (unlisted, "attestation.measurement"),
    "an image that was listed too lately": (listed_lately, "attestation.measurement"),
    "a gatekeeper": (as_gatekeeper, "attestation.role"),
    "evidence for another network": (lambda s: s.request(network=b"\x0f" * 32), "attestation.network"),
    "evidence of somebody else": (with_other_binding, "attestation.report_data"),
    "evidence that the worker showed to a caller": (shown_to_a_caller, "attestation.report_data"),
    "an operator that the evidence does not name": (under_another_operator, "attestation.report_data"),
    "a binding to a block that nobody saw": (lambda s: s.request(checkpoint=b"\x0c" * 32), "attestation.checkpoint"),
    "a checkpoint that too few signed": (of_strangers, "encoding.too_few_signers"),
    "a stale checkpoint": (stale, "gatekeeper.stale_checkpoint"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_not_admitted(stage: Stage, case: str) -> None:
    make, code = REFUSED[case]
    request = make(stage)
    await stage.settle()
    with pytest.raises(CloisterError) as caught:
        await stage.ask(request)
    assert caught.value.code == code
    lines = (stage.seats[0].folder / "audit.log").read_text().splitlines()
    assert json.loads(lines[-1])["outcome"] == code


async def test_a_worker_that_left_may_come_back(stage: Stage) -> None:
    stage.world.now.left.add(stage.worker.address)
    stage.world.mine(3)
    await stage.settle()
    await stage.ask(stage.request())


async def test_an_admission_alone_gives_no_keys(stage: Stage) -> None:
    an_agent(stage.world)
    stage.world.mine(3)
    await stage.settle()
    await stage.ask(stage.request())
    at = stage.world.checkpoint()
    signed = sign_checkpoint(stage.seats[:2], at, stage.sitting.network)
    request = KeysRequest(stage.worker.show(at), b"\xaa" * 32, signed)
    member = stage.seats[0].member
    assert member is not None
    with pytest.raises(CloisterError) as caught:
        await member.require_desks().keys.answer(dump_json(request.to_json()), "test")
    assert caught.value.code == "policy.worker_unknown"


@given(st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_flipped_byte_anywhere_is_refused_by_name(stage: Stage, data: st.DataObject) -> None:
    body = bytearray(dump_json(stage.request().to_json()))
    position = data.draw(st.integers(0, len(body) - 1))
    body[position] ^= data.draw(st.sampled_from([1, 2, 4, 8, 16]))
    try:
        answer = await stage.raw(bytes(body))
    except CloisterError:
        return
    # Parts of collateral that no signature covers may change; what is signed follows from what was verified.
    assert isinstance(answer.statement, WorkerAdmission)
    assert answer.statement.worker == stage.worker.address
    assert answer.statement.boot == stage.worker.boot

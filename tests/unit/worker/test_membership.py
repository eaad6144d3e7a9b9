"""Becoming a worker and staying one: when to register, with what evidence, what is sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from cloister.chain.contracts import encode
from cloister.chain.rpc import REVERTED
from cloister.chain.tx import Receipt
from cloister.core.attestation.model import Evidence
from cloister.core.chainview.records import WorkerRecord
from cloister.core.encoding.signatures import Signed
from cloister.core.encoding.statements import WorkerAdmission
from cloister.core.errors import CloisterError
from cloister.wire.messages import AdmissionRequest
from cloister.worker.leases import NodeIdentity
from cloister.worker.membership import MAX_AHEAD, SETTLES, Membership
from support.fake_world import MEMBERS, STRANGERS, World, test_key
from support.worker_kit import refused, world_of

BOOT, OPERATOR, CONTRACT = b"\xb0" * 32, b"\x0a" * 20, b"\xc0" * 20
_WORLD = world_of()


class Machine:
    """A TEE that echoes."""

    kind = "snp"

    async def quote(self, report_data: bytes) -> Evidence:
        return Evidence("snp", report_data)

    async def sealing_key(self, context: bytes) -> bytes:
        return bytes(32)


class Scene:
    """A member-to-be; admissions and transactions are remembered."""

    def __init__(self) -> None:
        self.world: World = _WORLD
        self.node = NodeIdentity(test_key("joining worker"), BOOT, b"\x0c" * 32, self.world.network.id)
        self.asked: list[AdmissionRequest] = []
        self.sent: list[tuple[bytes | None, bytes]] = []
        self.change: Callable[[WorkerAdmission], WorkerAdmission] = lambda a: a
        self.signers = MEMBERS[:3]
        self.error: CloisterError | None = None
        self.included = self.number + 1
        self.member = Membership(
            self.node,
            Machine(),
            self,
            lambda: self.world.network.founding,
            self,
            workers=CONTRACT,
            operator=OPERATOR,
            endpoint="unix:one",
        )

    @property
    def number(self) -> int:
        return self.world.number

    async def admission(self, request: AdmissionRequest) -> Signed:
        self.asked.append(request)
        binding = request.shown.binding
        said = WorkerAdmission(
            term=1,
            worker=binding.node,
            operator=request.operator,
            vendor_class=b"amd".ljust(32, b"\0"),
            measurement=b"\x01" * 32,
            boot=binding.boot,
            expiry=self.number + 240,
        )
        return self.world.sign(self.change(said), self.signers)

    async def send(self, to: bytes | None, data: bytes = b"", value: int = 0, gas: int | None = None) -> Receipt:
        if self.error is not None:
            raise self.error
        self.sent.append((to, data))
        return Receipt(b"\x01" * 32, self.included, b"\x02" * 32, 1, None, ())

    async def register(self) -> WorkerAdmission:
        return await self.member.register(self.world.sign(self.world.checkpoint()))

    def record(self, **changes: object) -> WorkerRecord:
        fields: dict[str, object] = {
            "worker": self.node.address,
            "operator": OPERATOR,
            "vendor_class": b"\x01" * 32,
            "measurement": b"\x01" * 32,
            "boot": BOOT,
            "expiry": self.number + 240,
            "removed": False,
            "listed": True,
            "heartbeat": 0,
            "registered_at": 5,
            "endpoint": "unix:one",
        }
        return WorkerRecord(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_a_registration_is_attested_admitted_and_sent(scene: Scene) -> None:
    admission = await scene.register()
    binding = scene.asked[0].shown.binding
    assert scene.asked[0].shown.evidence.blob == binding.report_data()
    assert (binding.role, binding.node, binding.boot) == ("worker", scene.node.address, BOOT)
    assert binding.checkpoint == scene.world.checkpoint().block_hash
    fields = [getattr(admission, name) for name in admission.TYPES]
    signatures = scene.world.sign(admission).signatures
    assert scene.sent == [(CONTRACT, encode("Workers", "register", fields, list(signatures), "unix:one"))]


async def test_the_evidence_names_the_operator_so_that_nobody_registers_the_worker_under_another(scene: Scene) -> None:
    await scene.register()
    assert scene.asked[0].shown.binding.keys == {"operator": OPERATOR}
    assert scene.asked[0].operator == OPERATOR


ADMISSIONS: dict[str, tuple[Callable[[WorkerAdmission], WorkerAdmission], str]] = {
    "another worker": (lambda a: replace(a, worker=b"\x01" * 20), "worker.wrong_admission"),
    "another boot": (lambda a: replace(a, boot=b"\x01" * 32), "worker.wrong_admission"),
    "another operator": (lambda a: replace(a, operator=b"\x01" * 20), "worker.wrong_admission"),
    "an end that has passed": (lambda a: replace(a, expiry=_WORLD.number), "worker.wrong_admission"),
    "another term": (lambda a: replace(a, term=2), "encoding.wrong_term"),
}


@pytest.mark.parametrize("case", ADMISSIONS, ids=str)
async def test_an_admission_that_is_not_ours_is_not_sent(scene: Scene, case: str) -> None:
    scene.change, code = ADMISSIONS[case]
    await refused(scene.register(), code)
    assert not scene.sent


@pytest.mark.parametrize("signers", [MEMBERS[:2], STRANGERS[:3]])
async def test_an_admission_without_t_signatures_is_not_sent(scene: Scene, signers: tuple[object, ...]) -> None:
    scene.signers = signers  # type: ignore[assignment]
    with pytest.raises(CloisterError, match=r"encoding\."):
        await scene.register()
    assert not scene.sent


async def test_after_a_registration_it_waits_until_the_record_can_be_final(scene: Scene) -> None:
    scene.included = scene.number + 20
    await scene.register()
    settled = scene.included + SETTLES
    for height in (scene.number, settled - 1):
        assert not scene.member.needed(None, height), "on its way"
    assert scene.member.needed(None, settled), "lost: again"
    assert not scene.member.needed(scene.record(), settled)


async def test_an_endpoint_that_names_a_far_block_delays_a_retry_by_so_much_only(scene: Scene) -> None:
    scene.included = 1 << 60
    await scene.register()
    assert scene.member.needed(None, scene.number + MAX_AHEAD + SETTLES)


async def test_a_registration_is_renewed_at_half_its_life(scene: Scene) -> None:
    assert scene.member.needed(scene.record(), scene.number), "a new process shows its evidence first"
    await scene.register()
    start = scene.number
    assert not scene.member.needed(scene.record(), start + 119)
    assert scene.member.needed(scene.record(), start + 120)


async def test_what_does_not_stand_is_registered_again(scene: Scene) -> None:
    await scene.register()
    later = scene.number + 50
    for record in (None, scene.record(boot=b"\x01" * 32), scene.record(expiry=later)):
        assert scene.member.needed(record, later)


async def test_a_worker_that_was_taken_out_does_not_come_back_by_itself(scene: Scene) -> None:
    for record in (
        scene.record(removed=True),
        scene.record(removed=True, boot=b"\x01" * 32),
        scene.record(listed=False),
    ):
        with pytest.raises(CloisterError, match=r"worker\.removed"):
            scene.member.needed(record, scene.number)
    assert scene.member.needed(scene.record(listed=False, boot=b"\x01" * 32), scene.number), "a new start may"


async def test_a_transaction_that_fails_is_tried_again(scene: Scene) -> None:
    scene.error = REVERTED(expected="register to succeed", found="AdmissionNotNewer")
    await refused(scene.register(), "chain.reverted")
    assert scene.member.needed(None, scene.number)

"""Acquiring: real sharing among five members, real partials; members that lie, leases that are not ours."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import pytest

from cloister.core.attestation.model import Evidence
from cloister.core.encoding.identity import Purpose
from cloister.core.encoding.signatures import Signed, SignerSet, address_of, sign_digest
from cloister.core.encoding.statements import Checkpoint, Lease
from cloister.core.envelope.client import Psk
from cloister.core.errors import CloisterError, EvidenceError
from cloister.core.policy.identities import identities_of
from cloister.core.threshold.partial import evaluate
from cloister.core.threshold.shares import PublicShares
from cloister.evidence.tee import BAD_QUOTE
from cloister.wire.committee import TOO_FEW, Granted
from cloister.wire.messages import KeyPartial, KeysAnswer, KeysRequest
from cloister.worker.leases import AgentKeys, NodeIdentity, acquire
from support.fake_world import test_key
from support.sharing import network
from support.worker_kit import refused

NET, AGENT, BOOT = b"\x0e" * 32, b"\xaa" * 32, b"\xb0" * 32
KEYS = [test_key(f"lease member {i}") for i in range(5)]
SIGNERS = SignerSet(1, 3, tuple(address_of(k) for k in KEYS))
SHARED = network(5, 3)
CHECKPOINT = Checkpoint(1, 31337, 1234, b"\x01" * 32, b"\x02" * 32, 1_700_000_000)


class Machine:
    """A TEE that echoes what it was asked to sign."""

    kind = "tdx"

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.error: EvidenceError | None = None

    async def quote(self, report_data: bytes) -> Evidence:
        if self.error is not None:
            raise self.error
        self.data.append(report_data)
        return Evidence("tdx", report_data)

    async def sealing_key(self, context: bytes) -> bytes:
        return bytes(32)


class Members:
    """Five members that answer key requests. ``liars``: indexes whose partials are of another key."""

    def __init__(self, node: NodeIdentity) -> None:
        self.node = node
        self.liars: set[int] = set()
        self.change: Callable[[Lease], Lease] = lambda lease: lease
        self.network = NET
        self.requests: list[KeysRequest] = []

    def lease(self, request: KeysRequest) -> Lease:
        number = CHECKPOINT.number
        period = number // 100
        return self.change(
            Lease(
                term=1,
                agent=request.agent,
                code_hash=b"\x44" * 32,
                manifest_hash=b"\x55" * 32,
                cluster=b"\x66" * 32,
                master_epoch=1,
                cluster_epoch=2,
                agent_epoch=3,
                period=period,
                worker=self.node.address,
                boot=self.node.boot,
                checkpoint=number,
                expiry=(period + 2) * 100,
            )
        )

    def answer(self, index: int, request: KeysRequest) -> KeysAnswer:
        lease = self.lease(request)
        transport, partials = request.shown.binding.keys["transport"], []
        for (purpose, period), identity in identities_of(lease, NET).items():
            name = b"another identity" if index in self.liars else bytes(identity)
            p = evaluate(SHARED.shares[index - 1], name, transport, os.urandom)
            partials.append(KeyPartial(purpose, period, p.index, p.e1, p.e2, p.e3))
        signature = sign_digest(KEYS[index - 1], lease.digest(self.network))
        return KeysAnswer(lease, signature, tuple(partials))

    async def keys(self, request: KeysRequest, *, verify: Callable[[KeysAnswer], None] | None = None) -> Granted:
        """The first three that ``verify`` takes, liars first: the worst order there is."""
        self.requests.append(request)
        taken = []
        for index in sorted(range(1, 6), key=lambda i: (i not in self.liars, i)):
            answer = self.answer(index, request)
            try:
                if verify is not None:
                    verify(answer)
            except CloisterError:
                continue
            taken.append(answer)
            if len(taken) == 3:
                return granted(taken)
        raise TOO_FEW(expected="3 agreeing of 5", found=str(len(taken)))


def granted(answers: list[KeysAnswer]) -> Granted:
    partials: dict[tuple[Purpose, int], tuple[KeyPartial, ...]] = {}
    for answer in answers:
        for p in answer.partials:
            partials[p.purpose, p.period] = (*partials.get((p.purpose, p.period), ()), p)
    lease = Signed(answers[0].lease, tuple(a.lease_signature for a in answers))
    return Granted(lease, partials, identities_of(answers[0].lease, NET))


class Scene:
    """A node that asks the members."""

    def __init__(self) -> None:
        self.node = NodeIdentity(test_key("leasing worker"), BOOT, b"\x0c" * 32, NET)
        self.tee, self.members = Machine(), Members(self.node)
        self.epochs: list[int] = []

    async def ask(self, agent: bytes = AGENT) -> AgentKeys:
        checkpoint = Signed(CHECKPOINT, ())

        async def masters(epoch: int) -> PublicShares:
            self.epochs.append(epoch)
            return SHARED.public

        return await acquire(self.node, self.tee, self.members, SIGNERS, masters, checkpoint, agent, os.urandom)


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_a_lease_gives_exactly_the_keys_of_its_identities_and_a_seat_that_verifies(scene: Scene) -> None:
    keys = await scene.ask()
    seat, terms = keys.seat, keys.terms
    seat.verify(SIGNERS, NET, CHECKPOINT.number)
    assert set(keys.derived) == set(identities_of(terms, NET))
    for name, identity in identities_of(terms, NET).items():
        keys.derived[name].verify(SHARED.public.mpk, bytes(identity))
    calls = sorted(period for purpose, period in keys.derived if purpose is Purpose.CALL)
    assert calls == [terms.period, terms.period + 1], "this period and the next, no older one"
    assert (seat.certificate.boot, seat.certificate.worker) == (BOOT, scene.node.address)


async def test_the_evidence_binds_a_fresh_transport_key_the_checkpoint_and_the_boot(scene: Scene) -> None:
    await scene.ask()
    await scene.ask()
    bindings = [r.shown.binding for r in scene.members.requests]
    assert [b.report_data() for b in bindings] == scene.tee.data
    assert bindings[0].keys["transport"] != bindings[1].keys["transport"]
    for b in bindings:
        assert (b.role, b.node, b.boot, b.network) == ("worker", scene.node.address, BOOT, NET)
        assert (b.checkpoint, b.config) == (CHECKPOINT.block_hash, b"\x0c" * 32)


async def test_every_lease_has_an_hpke_key_of_its_own_that_is_in_no_text(scene: Scene) -> None:
    one, two = await scene.ask(), await scene.ask()
    assert one.seat.certificate.hpke_key != two.seat.certificate.hpke_key
    secret = one.derived[Purpose.STATE, 0].point.hex()
    for text in (repr(one), str(one), repr(scene.node)):
        assert secret not in text
        assert "PrivateKey" not in text


async def test_a_psk_opens_by_the_call_key_of_its_certificates_period_alone(scene: Scene) -> None:
    keys = await scene.ask()
    psk = Psk.encapsulate(keys.seat.certificate, SHARED.public.mpk, os.urandom)
    assert keys.open_psk(keys.seat.certificate, psk.ciphertext) == psk.secret
    for wrong in (
        replace(keys.seat.certificate, period=keys.terms.period + 1),
        replace(keys.seat.certificate, agent_epoch=9),
    ):
        with pytest.raises(CloisterError, match=r"threshold\.ibe_not_opened"):
            keys.open_psk(wrong, psk.ciphertext)
    with pytest.raises(KeyError):
        keys.open_psk(replace(keys.seat.certificate, period=1), psk.ciphertext)


@pytest.mark.parametrize("liars", [{1}, {2, 4}], ids=str)
async def test_members_that_lie_are_left_out_as_long_as_t_are_honest(scene: Scene, liars: set[int]) -> None:
    scene.members.liars = liars
    keys = await scene.ask()
    keys.derived[Purpose.STATE, 0].verify(SHARED.public.mpk, bytes(identities_of(keys.terms, NET)[Purpose.STATE, 0]))
    assert len(scene.members.requests) == 2, "asked again, and each partial checked"
    assert scene.members.requests[0] == scene.members.requests[1], "under the same evidence"


async def test_with_fewer_than_t_honest_members_there_are_no_keys(scene: Scene) -> None:
    scene.members.liars = {1, 2, 3}
    await refused(scene.ask(), "gatekeeper.too_few")


async def test_a_lease_counts_only_with_t_signatures_for_this_network(scene: Scene) -> None:
    scene.members.network = b"\x0f" * 32
    await refused(scene.ask(), "encoding.signature")


async def test_a_machine_without_evidence_gets_nothing_and_asks_nobody(scene: Scene) -> None:
    error = BAD_QUOTE(expected="a quote", found="none")
    assert isinstance(error, EvidenceError)
    scene.tee.error = error
    await refused(scene.ask(), "evidence.quote")
    assert not scene.members.requests

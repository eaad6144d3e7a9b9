"""Leases: attest, ask the committee, recover an agent's keys, certify a fresh HPKE key (DESIGN section 5).

A lease covers one period. The worker renews it when the checkpoint enters the next period, with fresh evidence, and
forgets the older period's keys. Keys live here and nowhere else in the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from coincurve import PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cloister.core.attestation.model import Binding
from cloister.core.encoding.identity import AgentVersion, KeyIdentity, Purpose
from cloister.core.encoding.signatures import Signed, SignerSet, address_of, sign_digest
from cloister.core.encoding.statements import Checkpoint, Lease
from cloister.core.envelope.certificate import KeyCertificate, Seat
from cloister.core.envelope.oblivious import Issued
from cloister.core.errors import ThresholdError, define
from cloister.core.keys.hpke import private_key
from cloister.core.keys.xwing import XWingKey
from cloister.core.policy.identities import identities_of
from cloister.core.threshold.ibe import DerivedKey, decrypt
from cloister.core.threshold.partial import Partial, TransportKey, Wanted, recover_all, verify_partial
from cloister.core.threshold.shares import PublicShares
from cloister.evidence.tee import Tee
from cloister.wire.committee import Granted
from cloister.wire.messages import KeyPartial, KeysAnswer, KeysRequest, Shown

Rng = Callable[[int], bytes]
# Public shares of a master epoch (``masters.MasterKeys.of``).
Masters = Callable[[int], Awaitable[PublicShares]]


OTHER_EPOCH = define(
    "worker.other_epoch",
    ThresholdError,
    check="members that are asked twice release keys of the same master epochs",
    remedy="none needed: the worker asks again at the next checkpoint",
    status=503,
)


class GrantPort(Protocol):
    """What acquiring asks of the committee (``wire.committee.Committee``)."""

    async def keys(self, request: KeysRequest, *, verify: Callable[[KeysAnswer], None] | None = None) -> Granted:
        """A lease and t partials per key; members whose answer ``verify`` refuses do not count."""


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """This worker: its node key, boot id (32 random bytes per start), configuration hash and network id."""

    key: PrivateKey = field(repr=False)
    boot: bytes
    config: bytes
    network: bytes

    @property
    def address(self) -> bytes:
        """The worker's 20-byte address."""
        return address_of(self.key)

    def sign(self, digest: bytes) -> bytes:
        """65-byte signature of the node key over 32 bytes."""
        return sign_digest(self.key, digest)

    def binding(self, role: str, checkpoint: bytes, nonce: bytes, keys: Mapping[str, bytes]) -> Binding:
        """What this node's report data commits to."""
        return Binding(
            network=self.network,
            role=role,
            node=self.address,
            boot=self.boot,
            config=self.config,
            checkpoint=checkpoint,
            nonce=nonce,
            keys=keys,
        )


async def show(tee: Tee, binding: Binding) -> Shown:
    """Fresh evidence over a binding. Raises EvidenceError."""
    return Shown(await tee.quote(binding.report_data()), binding)


@dataclass(frozen=True, slots=True)
class OldKey:
    """A `state` or `secrets` key of earlier epochs: to re-seal what is under it, and for nothing else.

    ``mpk``: the master public key of its master epoch."""

    version: AgentVersion
    key: DerivedKey = field(repr=False)
    mpk: bytes


@dataclass(frozen=True, slots=True)
class AgentKeys:
    """What one lease gives: derived keys by (purpose, period), and the certified HPKE keys of the lease's period.

    ``xwing_key``: None where the certificate is of suite 1. ``old``: by purpose, what the agent must be re-sealed from
    before it is served. Empty once it is. ``oblivious``: the keys for oblivious calls, once somebody asked for them."""

    mpk: bytes
    seat: Seat
    derived: Mapping[tuple[Purpose, int], DerivedKey] = field(repr=False)
    hpke_key: X25519PrivateKey = field(repr=False)
    old: Mapping[Purpose, OldKey] = field(default_factory=dict, repr=False)
    xwing_key: XWingKey | None = field(default=None, repr=False)
    oblivious: list[Issued] = field(default_factory=list, repr=False)

    @property
    def terms(self) -> Lease:
        """The lease statement."""
        assert isinstance(self.seat.lease.statement, Lease)  # noqa: S101 - built so in acquire
        return self.seat.lease.statement

    @property
    def version(self) -> AgentVersion:
        """The agent at the lease's epochs."""
        return self.seat.certificate.version

    def key(self, purpose: Purpose, period: int = 0) -> DerivedKey:
        """One derived key; KeyError (our mistake) if the lease does not carry it."""
        return self.derived[purpose, period]

    def open_psk(self, certificate: KeyCertificate, ibe: bytes) -> bytes:
        """Decrypt a caller's pre-shared key with the `call` key of the certificate's period. Raises ThresholdError."""
        key = self.key(Purpose.CALL, certificate.period)
        return decrypt(key, self.mpk, bytes(certificate.call_identity), ibe, certificate.psk_aad)


async def acquire(
    node: NodeIdentity,
    tee: Tee,
    committee: GrantPort,
    signers: SignerSet,
    masters: Masters,
    checkpoint: Signed,
    agent: bytes,
    rng: Rng,
    code: bytes | None = None,
) -> AgentKeys:
    """Get the agent's keys for the checkpoint's period; ``code``: under a lease of the canary with this hash.

    Raises the committee's refusal, EvidenceError, ThresholdError.

    1. a transport key for this request alone; 2. evidence that binds it; 3. t agreeing members; 4. each key recovered
    and checked against the MPK of its epoch; if that fails a member lied: ask again and take only partials that verify
    alone; and so each key of earlier epochs; 5. their lease, signed for this network; 6. HPKE keys of both suites
    for this agent, period and boot, certified.
    """
    at = checkpoint.statement
    assert isinstance(at, Checkpoint)  # noqa: S101 - the chain watch holds checkpoints only
    transport = TransportKey.generate(rng)  # 1
    shown = await show(tee, node.binding("worker", at.block_hash, bytes(32), {"transport": transport.public}))  # 2
    request = KeysRequest(shown, agent, checkpoint, code)
    granted = await committee.keys(request)  # 3
    epochs = {granted.terms.master_epoch, *(i.version.master_epoch for i in granted.old)}
    shares = {epoch: await masters(epoch) for epoch in epochs}
    try:
        derived, old = await _recovered(granted, signers.threshold, shares, transport, rng)  # 4
    except ThresholdError:
        granted = await committee.keys(request, verify=lambda a: _honest(a, node.network, shares, transport))
        derived, old = await _recovered(granted, signers.threshold, shares, transport, rng)
    granted.lease.verify(signers, node.network)  # 5
    hpke_key = private_key(rng(32))  # 6
    public = hpke_key.public_key().public_bytes_raw()
    xwing_key = XWingKey(rng(32))
    certificate = KeyCertificate.under(granted.terms, network=node.network, hpke_key=public, xwing_key=xwing_key.public)
    seat = Seat(certificate, certificate.sign(node.sign), granted.lease)
    return AgentKeys(shares[granted.terms.master_epoch].mpk, seat, derived, hpke_key, old, xwing_key)


async def _recovered(
    granted: Granted, threshold: int, shares: Mapping[int, PublicShares], transport: TransportKey, rng: Rng
) -> tuple[dict[tuple[Purpose, int], DerivedKey], dict[Purpose, OldKey]]:
    """Every key of the grant, and those of earlier epochs. About ten milliseconds: requests are served in between."""

    def all_of(parts: Mapping[KeyIdentity, Sequence[KeyPartial]]) -> list[DerivedKey]:
        wanted = [
            Wanted(bytes(i), _shares(shares, i), [Partial(p.index, p.e1, p.e2, p.e3, p.term) for p in of])
            for i, of in parts.items()
        ]
        return recover_all(wanted, threshold, transport, rng)

    now = all_of({granted.identities[name]: parts for name, parts in granted.partials.items()})
    await asyncio.sleep(0)
    old = zip(granted.old, all_of(granted.old), strict=True)
    derived = dict(zip(granted.partials, now, strict=True))
    return derived, {i.purpose: OldKey(i.version, key, _shares(shares, i).mpk) for i, key in old}


def _shares(shares: Mapping[int, PublicShares], identity: KeyIdentity) -> PublicShares:
    """Those of the identity's master epoch. Raises worker.other_epoch for one that was not looked up."""
    epoch = identity.version.master_epoch
    if epoch not in shares:
        raise OTHER_EPOCH(expected=f"keys of master epochs {sorted(shares)}", found=str(epoch))
    return shares[epoch]


def _honest(answer: KeysAnswer, network: bytes, shares: Mapping[int, PublicShares], transport: TransportKey) -> None:
    """Raise ThresholdError unless every partial of this member's answer verifies alone."""
    identities = identities_of(answer.lease, network)
    for p in answer.partials:
        one = identities[p.purpose, p.period]
        verify_partial(Partial(p.index, p.e1, p.e2, p.e3, p.term), bytes(one), _shares(shares, one), transport.public)
    for o in answer.old:
        p, one = o.partial, o.epochs.version(network, answer.lease.agent).key(o.partial.purpose)
        verify_partial(Partial(p.index, p.e1, p.e2, p.e3, p.term), bytes(one), _shares(shares, one), transport.public)

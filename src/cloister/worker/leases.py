"""Leases: attest, ask the committee, recover an agent's keys, certify a fresh HPKE key (DESIGN section 5).

A lease covers one period. The worker renews it when the checkpoint enters the next period, with fresh evidence, and
forgets the older period's keys. Keys live here and nowhere else in the process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from coincurve import PrivateKey

from cloister.core.attestation.model import Binding
from cloister.core.encoding.identity import AgentVersion, Purpose
from cloister.core.encoding.signatures import Signed, address_of
from cloister.core.encoding.statements import Lease
from cloister.core.envelope.certificate import KeyCertificate
from cloister.core.keys.hpke import generate_keypair
from cloister.core.threshold.ibe import DerivedKey
from cloister.core.threshold.partial import Partial, TransportKey, recover
from cloister.evidence.tee import Tee
from cloister.wire.committee import Granted
from cloister.wire.messages import KeysRequest, Shown


class GrantPort(Protocol):
    """What the keeper asks of the committee (``wire.committee.Committee``)."""

    async def keys(self, request: KeysRequest) -> Granted:
        """A lease and t partials per key."""


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
class AgentKeys:
    """What one lease gives: derived keys by (purpose, period), and the certified HPKE key of the lease's period."""

    lease: Signed
    derived: Mapping[tuple[Purpose, int], DerivedKey] = field(repr=False)
    hpke_private: bytes = field(repr=False)
    certificate: KeyCertificate
    certificate_signature: bytes

    @property
    def terms(self) -> Lease:
        """The lease statement."""
        assert isinstance(self.lease.statement, Lease)  # noqa: S101 - built so in acquire
        return self.lease.statement

    @property
    def version(self) -> AgentVersion:
        """The agent at the lease's epochs."""
        t = self.certificate
        return AgentVersion(t.network, t.master_epoch, t.cluster, t.cluster_epoch, t.agent, t.agent_epoch)

    def key(self, purpose: Purpose, period: int = 0) -> DerivedKey:
        """One derived key; KeyError (our mistake) if the lease does not carry it."""
        return self.derived[purpose, period]


async def acquire(
    node: NodeIdentity,
    tee: Tee,
    committee: GrantPort,
    checkpoint: Signed,
    agent: bytes,
    public: PublicPoints,
    rng: Callable[[int], bytes],
) -> AgentKeys:
    """Get the agent's keys for the checkpoint's period. Raises the committee's refusal, EvidenceError, ThresholdError.

    1. a transport key for this request alone; 2. evidence that binds it; 3. t agreeing members; 4. the lease is ours
    and signed; 5. each key recovered and checked against MPK; 6. an HPKE key for (agent, period, boot), certified.
    """
    transport = TransportKey.generate(rng)  # 1
    block = checkpoint.statement.block_hash  # type: ignore[attr-defined]
    shown = await show(tee, node.binding("worker", block, bytes(32), {"transport": transport.public}))  # 2
    granted = await committee.keys(KeysRequest(shown, agent, checkpoint))  # 3
    granted.lease.verify(public.signers, node.network)  # 4
    derived = {}
    for name, parts in granted.partials.items():  # 5
        partials = [Partial(p.index, p.e1, p.e2, p.e3) for p in parts]
        identity = bytes(granted.identities[name])
        derived[name] = recover(partials, public.signers.threshold, public.shares, identity, transport)
    private, hpke_public = generate_keypair(rng)  # 6
    certificate = _certificate(node, granted.terms, hpke_public)
    return AgentKeys(granted.lease, derived, private, certificate, certificate.sign(node.key))


def _certificate(node: NodeIdentity, lease: Lease, hpke_public: bytes) -> KeyCertificate:
    return KeyCertificate(
        network=node.network,
        agent=lease.agent,
        code_hash=lease.code_hash,
        manifest_hash=lease.manifest_hash,
        cluster=lease.cluster,
        master_epoch=lease.master_epoch,
        cluster_epoch=lease.cluster_epoch,
        agent_epoch=lease.agent_epoch,
        period=lease.period,
        worker=lease.worker,
        boot=lease.boot,
        hpke_key=hpke_public,
        expiry=lease.expiry,
    )

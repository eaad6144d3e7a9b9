"""Which key identities a grant releases and a lease stands for (spec/gatekeeper-api.md 6)."""

from __future__ import annotations

from collections.abc import Mapping

from cloister.core.encoding.identity import AgentVersion, KeyIdentity, Purpose
from cloister.core.encoding.statements import Lease


def granted_identities(version: AgentVersion, period: int) -> tuple[KeyIdentity, ...]:
    """What one grant releases, in wire order: call keys of this and the next period, then the lasting ones."""
    lasting = (Purpose.STATE, Purpose.SECRETS, Purpose.IDENTITY, Purpose.LOG)
    calls = tuple(version.key(Purpose.CALL, p) for p in (period, period + 1))
    return calls + tuple(version.key(purpose) for purpose in lasting)


def identities_of(lease: Lease, network: bytes) -> Mapping[tuple[Purpose, int], KeyIdentity]:
    """The identities that go with a lease, by (purpose, period): for whoever recovers the keys."""
    version = AgentVersion(
        network=network,
        master_epoch=lease.master_epoch,
        cluster=lease.cluster,
        cluster_epoch=lease.cluster_epoch,
        agent=lease.agent,
        agent_epoch=lease.agent_epoch,
    )
    return {(i.purpose, i.period): i for i in granted_identities(version, lease.period)}

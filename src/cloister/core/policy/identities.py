"""Which key identities a grant releases and a lease stands for (spec/gatekeeper-api.md 6)."""

from __future__ import annotations

from collections.abc import Mapping

from cloister.core.encoding.identity import AgentVersion, Epochs, KeyIdentity, Purpose
from cloister.core.encoding.statements import Lease


def granted_identities(version: AgentVersion, period: int) -> tuple[KeyIdentity, ...]:
    """What one grant releases, in wire order: call keys of this and the next period, then the lasting ones."""
    lasting = (Purpose.STATE, Purpose.SECRETS, Purpose.IDENTITY, Purpose.LOG)
    calls = tuple(version.key(Purpose.CALL, p) for p in (period, period + 1))
    return calls + tuple(version.key(purpose) for purpose in lasting)


def resealing_identities(
    network: bytes, agent: bytes, now: Epochs, state: Epochs | None, secrets: Epochs | None
) -> tuple[KeyIdentity, ...]:
    """Keys of earlier epochs that go with a lease of the epochs ``now``, for re-sealing alone (spec/epochs.md 5).

    ``state``, ``secrets``: the epochs that the agent's state and its secrets are sealed under; None if there are none.
    Never `call`, `identity` or `log`, and nothing of epochs that are not earlier."""
    found = []
    for purpose, epochs in ((Purpose.STATE, state), (Purpose.SECRETS, secrets)):
        if epochs is not None and epochs < now:
            found.append(epochs.version(network, agent).key(purpose))
    return tuple(found)


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

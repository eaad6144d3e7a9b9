"""Is this requester what it says? Evidence against the policy in force, and the measurement's age (spec/policy.md 3).

Time is the member's finalised block, never the host's clock.
"""

from __future__ import annotations

from cloister.core.attestation.appraise import MEASUREMENT, NETWORK, ROLE, appraise, require
from cloister.core.attestation.model import Claims
from cloister.core.attestation.policy import Policy
from cloister.core.errors import PolicyError, define
from cloister.core.policy.release import Requester, vendor_class_id
from cloister.gatekeeper.ports import Snapshot
from cloister.wire.messages import Shown

OTHER_POLICY = define(
    "gatekeeper.other_policy",
    PolicyError,
    check="the policy in force is the one that this gatekeeper holds",
    remedy="give the gatekeeper the policy whose hash is on chain",
    status=503,
)


async def require_policy(snapshot: Snapshot, policy: Policy) -> None:
    """Raise PolicyError unless the policy at this block is ours."""
    found = (await snapshot.policy()).policy_hash
    if found != policy.hash():
        raise OTHER_POLICY(expected=f"0x{found.hex()[:16]}…", found=f"0x{policy.hash().hex()[:16]}…")


async def require_listed(snapshot: Snapshot, name: bytes, number: int, delay: int) -> None:
    """Raise AttestationError unless a measurement id is listed and old enough at block ``number``.

    Founding measurements count at once; added ones after ``delay`` blocks, whatever the owner of the list says.
    """
    listed = await snapshot.listed_at(name)
    if not (await snapshot.policy()).counts(listed, delay, number):
        since = f"listed at block {listed}" if listed else "not listed"
        raise MEASUREMENT(
            expected=f"listed {delay} blocks before block {number}", found=f"0x{name.hex()[:16]}…, {since}"
        )


async def attest(
    shown: Shown,
    snapshot: Snapshot,
    *,
    policy: Policy,
    role: str,
    network: bytes,
    number: int,
    now: int,
    checkpoints: frozenset[bytes] | None,
    nonce: bytes | None = None,
) -> tuple[Claims, Requester]:
    """What verified evidence says of the requester. Raises AttestationError, PolicyError, ChainError.

    1. the binding names this network and role (cheap); 2. the policy is the one in force; 3. the evidence under it;
    4. the measurement is listed, and long enough. ``number``, ``now``: height and timestamp of a finalised block.
    """
    binding = shown.binding
    if binding.network != network:  # 1
        raise NETWORK(expected=f"0x{network.hex()[:16]}…", found=f"0x{binding.network.hex()[:16]}…")
    if binding.role != role:
        raise ROLE(expected=role, found=binding.role)
    await require_policy(snapshot, policy)  # 2
    seen: list[bytes] = []
    verdict = appraise(
        shown.evidence,
        binding,
        policy=policy,
        now=now,
        network=network,
        role=role,
        measurements=seen.append,
        checkpoints=checkpoints,
        nonce=nonce,
    )
    claims = require(verdict)  # 3
    await require_listed(snapshot, seen[0], number, policy.network.measurement_delay)  # 4
    return claims, Requester(binding.node, binding.boot, seen[0], vendor_class_id(claims.vendor_class))

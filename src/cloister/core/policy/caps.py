"""How many agents a worker and an operator may hold in a term: by the policy, and by what stands behind them.

Pure (spec/policy.md 5). Caps bind what is granted anew: what a worker held already in a term goes on to the term's end.
Placement weighs workers by the same caps (spec/policy.md 4), so that agents come where there is room for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cloister.core.policy.refusals import CAP

# A weight is a cap times 2^32: an operator's share of it is a whole number too.
WEIGHT_BITS: Final = 32


@dataclass(frozen=True, slots=True)
class Backing:
    """What stands behind a worker at the checkpoint. stake: wei of its present operator that back agents; for placement
    without what was raised since the term began.

    stake_per_agent 0: stake bounds nothing. agents_per_operator 0: operators are not bounded. operator: 20 bytes, or
    empty where it does not matter.
    """

    stake: int = 0
    stake_per_agent: int = 0
    agents_per_operator: int = 0
    operator: bytes = b""


@dataclass(frozen=True, slots=True)
class Held:
    """Agents that were granted in this term: to the worker, and to any worker under its operator."""

    worker: frozenset[bytes] = frozenset()
    operator: frozenset[bytes] = frozenset()


def worker_cap(most: int, backing: Backing) -> int:
    """How many agents a worker may hold: ``most`` of the policy, fewer if less stake stands behind it."""
    if not backing.stake_per_agent:
        return most
    return min(most, backing.stake // backing.stake_per_agent)


def weights(most: int, backing: Mapping[bytes, Backing]) -> dict[bytes, int]:
    """What placement weighs each worker by: 2^32 times its cap; 0: it may hold nothing.

    Where the caps of one operator's workers are more together than its own, each counts for its part of that:
    floor(2^32 * cap * operator's cap / sum of its workers' caps)."""
    caps = {worker: worker_cap(most, one) for worker, one in backing.items()}
    together: Counter[bytes] = Counter()
    for worker, one in backing.items():
        together[one.operator] += caps[worker]
    found = {}
    for worker, one in backing.items():
        whole, bound, claimed = caps[worker] << WEIGHT_BITS, one.agents_per_operator, together[one.operator]
        found[worker] = whole * bound // claimed if 0 < bound < claimed else whole
    return found


def within_caps(agent: bytes, most: int, backing: Backing, held: Held) -> None:
    """Raise PolicyError (policy.cap) if one more agent is too many. Agents that are held already are none more.

    1. the worker's cap: the policy's, scaled by stake; 2. the operator's, over all its workers."""
    cap = worker_cap(most, backing)
    if agent not in held.worker and len(held.worker) >= cap:  # 1
        why = "" if cap == most else f" by its stake of {backing.stake}"
        raise CAP(expected=f"at most {cap} agents in this term{why}", found=f"{len(held.worker)} held, one more asked")
    together = held.operator | held.worker
    if backing.agents_per_operator and agent not in together and len(together) >= backing.agents_per_operator:  # 2
        expected = f"at most {backing.agents_per_operator} agents with all workers of one operator"
        raise CAP(expected=expected, found=f"{len(together)} held, one more asked")

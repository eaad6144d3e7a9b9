"""May a committee member sign a worker's lease at the Anchor? (spec/anchor.md 4, 5, 34)

Pure. The worker shows the ordinary lease that it holds; everything else comes from finalised state and newer blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cloister.core.encoding.contract_statements import AnchorLease
from cloister.core.encoding.statements import Checkpoint, Lease
from cloister.core.errors import PolicyError, define
from cloister.core.policy.release import AgentFacts, Newest, WorkerFacts
from cloister.core.policy.serving import require_in_epoch, require_serving

MAX_SECONDS: Final = 12 * 3600

WRONG_LEASE = define(
    "policy.anchor_lease",
    PolicyError,
    check="a lease at the Anchor says what the worker's own lease, its admission and the network say",
    remedy="ask again with a lease of the agent's present version",
    status=403,
)


@dataclass(frozen=True, slots=True)
class AnchorFacts:
    """What the decision rests on. ``held``: the worker's lease, t signatures already checked; ``asked``: what it wants
    signed, its own signature checked. ``anchor``: 20 bytes; ``now``: Unix seconds of the newest final block."""

    head: Checkpoint
    term: int
    chain_id: int
    anchor: bytes
    held: Lease
    asked: AnchorLease
    worker: WorkerFacts | None
    agent: AgentFacts | None
    newest: Newest


def may_sign_anchor_lease(facts: AnchorFacts) -> None:
    """Raise PolicyError unless the member may sign ``facts.asked``.

    1. it is for this place and term; 2. the held lease is of the same agent, worker and code, and lasts; 3. the worker
    is in service, this very boot, with the vendor class of its admission; 4. the agent runs, at this epoch, with this
    code, and no newer block paused it or closed the epoch; 5. the end is ahead, at most twelve hours.
    """
    _require_place(facts)  # 1
    _require_held(facts)  # 2
    worker = require_serving(facts.worker, facts.newest, facts.held, facts.head.number)  # 3
    if worker.vendor_class != facts.asked.vendor_class:
        raise WRONG_LEASE(expected="the vendor class of the admission", found="another")
    require_in_epoch(facts.agent, facts.newest, facts.asked.agent_epoch, facts.asked.code_hash)  # 4
    ahead = facts.asked.expiry - facts.head.timestamp
    if not 0 < ahead <= MAX_SECONDS:  # 5
        raise WRONG_LEASE(expected=f"an end 1 to {MAX_SECONDS} s ahead", found=f"{ahead} s")


def _require_place(facts: AnchorFacts) -> None:
    asked = facts.asked
    if (asked.term, asked.chain_id, asked.anchor) != (facts.term, facts.chain_id, facts.anchor):
        raise WRONG_LEASE(expected=f"term {facts.term}, this network's chain and Anchor", found="another place or term")
    if not any(asked.payee):
        raise WRONG_LEASE(expected="a payee", found="none")


def _require_held(facts: AnchorFacts) -> None:
    held, asked = facts.held, facts.asked
    same = (held.agent, held.worker, held.code_hash, held.agent_epoch)
    if same != (asked.agent, asked.worker, asked.code_hash, asked.agent_epoch):
        raise WRONG_LEASE(expected="the agent, worker, code and epoch of the lease held", found="others")
    if held.expiry <= facts.head.number:
        raise WRONG_LEASE(expected=f"a lease beyond block {facts.head.number}", found=f"block {held.expiry}")

"""What every signature of the committee for a worker's sake asks again: the worker serves, the agent runs.

Shared by leases at the Anchor (``anchor_lease.py``) and signers of accounts (``account_signer.py``). Pure.
"""

from __future__ import annotations

from cloister.core.encoding.statements import Lease
from cloister.core.policy.refusals import (
    AGENT_UNKNOWN,
    BOOT_MISMATCH,
    EPOCH_CLOSED,
    PAUSED,
    WORKER_EXPIRED,
    WORKER_REMOVED,
    WORKER_UNKNOWN,
)
from cloister.core.policy.release import AgentFacts, Newest, WorkerFacts


def require_serving(worker: WorkerFacts | None, newest: Newest, held: Lease, number: int) -> WorkerFacts:
    """The worker's facts, if it serves at block ``number`` in the boot that its lease names. Raises PolicyError."""
    if worker is None:
        raise WORKER_UNKNOWN(expected="a registered worker", found="none")
    if worker.removed or newest.removed or newest.left:
        raise WORKER_REMOVED(expected="a worker in service", found="removed or gone")
    if worker.expiry <= number:
        raise WORKER_EXPIRED(expected=f"a registration beyond block {number}", found=str(worker.expiry))
    if worker.boot != held.boot:
        raise BOOT_MISMATCH(expected="the registered boot", found="another")
    return worker


def require_in_epoch(agent: AgentFacts | None, newest: Newest, epoch: int, code_hash: bytes) -> None:
    """Raise PolicyError unless the agent runs, in this agent epoch and with this code, as far as anybody knows."""
    if agent is None:
        raise AGENT_UNKNOWN(expected="an agent at the newest final block", found="none")
    if agent.paused or newest.paused:
        raise PAUSED(expected="a running agent", found="paused")
    current = max(agent.agent_epoch, newest.agent_epoch)
    if (epoch, code_hash) != (current, agent.code_hash):
        raise EPOCH_CLOSED(expected=f"epoch {current} with its code", found=f"epoch {epoch}")

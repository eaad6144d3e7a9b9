"""Which workers an agent is placed on: rendezvous hashing over proven state (spec/policy.md 4).

score(worker) = keccak256(term seed || agent || worker address), highest ``r`` win. Adding or removing one worker
moves only the agents that it wins or held. Gatekeepers compute this themselves from finalised state.
"""

from __future__ import annotations

from collections.abc import Iterable

from cloister.core.encoding.hexes import need_bytes
from cloister.core.encoding.keccak import keccak256
from cloister.core.errors import PolicyError, define

NOT_PLACED = define(
    "policy.not_placed",
    PolicyError,
    check="finalised state places the agent on this worker",
    remedy="send the request to a worker of `cloister agent show`; placement moves at terms, death and removal",
    status=403,
)


def score(seed: bytes, agent: bytes, worker: bytes) -> bytes:
    """Rendezvous weight of one worker for one agent: 32 bytes, compared as a big-endian number."""
    return keccak256(need_bytes("seed", seed, 32), need_bytes("agent", agent, 32), need_bytes("worker", worker, 20))


def place(seed: bytes, agent: bytes, workers: Iterable[bytes], seats: int) -> tuple[bytes, ...]:
    """The ``seats`` workers with the highest scores, best first. Fewer workers give fewer seats."""
    ranked = sorted(set(workers), key=lambda w: score(seed, agent, w), reverse=True)
    return tuple(ranked[:seats])


def may_hold(seed: bytes, agent: bytes, workers: Iterable[bytes], seats: int, worker: bytes) -> None:
    """Raise PolicyError (policy.not_placed) unless ``worker`` is one of the agent's seats."""
    placed = place(seed, agent, workers, seats)
    if worker not in placed:
        seen = ", ".join("0x" + w.hex()[:8] for w in placed) or "no live worker"
        raise NOT_PLACED(expected=f"one of {seen}", found="0x" + worker.hex()[:8])

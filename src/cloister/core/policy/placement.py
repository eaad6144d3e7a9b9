"""Which workers an agent is placed on: weighted rendezvous hashing over proven state (spec/policy.md 4).

score(worker) = keccak256(term seed || agent || worker address), as a number below 2^256. Its worker's cost is
-log2 of it, as a fraction, divided by the worker's weight; the ``r`` lowest costs win, and a worker wins an agent's
first seat as often as its weight says. Where all weigh the same the highest scores win. Adding or removing one worker,
or changing its weight, moves only the agents that it wins or held. Gatekeepers compute this themselves from finalised
state, in whole numbers: every machine gets the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Final

from cloister.core.encoding.hexes import need_bytes
from cloister.core.encoding.keccak import keccak256
from cloister.core.errors import PolicyError, define

NOT_PLACED = define(
    "policy.not_placed",
    PolicyError,
    check="finalised state places the agent on this worker",
    remedy="send the request to a worker of `cloister agent show`; placement moves at terms, death and removal, and "
    "away from a worker whose stake leaves",
    status=403,
)
# A logarithm has LOG_BITS after the point; its table one entry for each of STEPS, with REST bits between two of them.
LOG_BITS: Final = 40
STEP_BITS: Final = 8
REST_BITS: Final = 32
# What a cost is multiplied by before it is divided by a weight.
COST_BITS: Final = 64


def score(seed: bytes, agent: bytes, worker: bytes) -> bytes:
    """Rendezvous score of one worker for one agent: 32 bytes, compared as a big-endian number."""
    return keccak256(need_bytes("seed", seed, 32), need_bytes("agent", agent, 32), need_bytes("worker", worker, 20))


def cost(score: bytes, weight: int) -> int:
    """What a score costs a worker of a weight of 1 or more: the lower the better. Equal weights keep scores' order.

    floor(2^64 * (256 - log2(score + 1)) * 2^40 / weight), the logarithm rounded as ``log2`` does."""
    return (((256 << LOG_BITS) - log2(int.from_bytes(score, "big") + 1)) << COST_BITS) // weight


def log2(number: int) -> int:
    """2^40 * log2 of a number of 1 to 2^256, never falling as the number grows; off by less than 2^-17 of one.

    Between two powers of two it is read from a table of 256 steps, and follows a straight line from step to step."""
    exponent = number.bit_length() - 1
    below = number - (1 << exponent)
    digits = STEP_BITS + REST_BITS
    fraction = below >> exponent - digits if exponent >= digits else below << digits - exponent
    step, rest = fraction >> REST_BITS, fraction & (1 << REST_BITS) - 1
    start, rise = _STEPS[step]
    return (exponent << LOG_BITS) + start + (rise * rest >> REST_BITS)


def place(seed: bytes, agent: bytes, workers: Iterable[bytes], seats: int) -> tuple[bytes, ...]:
    """The ``seats`` workers with the lowest costs, best first. Fewer workers give fewer seats.

    ``workers``: a mapping gives each its weight, and who weighs 0 gets no seat; of any other collection all weigh the
    same."""
    scores = {w: score(seed, agent, w) for w in workers}
    weights = workers if isinstance(workers, Mapping) else dict.fromkeys(scores, 1)
    able = sorted((w for w in scores if weights[w] > 0), key=lambda w: scores[w], reverse=True)
    if len({weights[w] for w in able}) > 1:  # else costs keep this order
        able.sort(key=lambda w: cost(scores[w], weights[w]))
    return tuple(able[:seats])


def may_hold(seed: bytes, agent: bytes, workers: Iterable[bytes], seats: int, worker: bytes) -> None:
    """Raise PolicyError (policy.not_placed) unless ``worker`` is one of the agent's seats."""
    placed = place(seed, agent, workers, seats)
    if worker not in placed:
        seen = ", ".join("0x" + w.hex()[:8] for w in placed) or "no live worker"
        raise NOT_PLACED(expected=f"one of {seen}", found="0x" + worker.hex()[:8])


def _log_of_step(step: int) -> int:
    """floor(2^40 * log2(1 + step / 256)), by squaring a fraction of 256 bits."""
    found, one = 0, 1 << 256
    number = one + (step << 256 - STEP_BITS)
    for _ in range(LOG_BITS):
        number = number * number >> 256
        found <<= 1
        if number >= one << 1:
            number >>= 1
            found |= 1
    return found


def _steps() -> tuple[tuple[int, int], ...]:
    """For each step of the table: its logarithm, and how far it is to the next one."""
    logs = [_log_of_step(step) for step in range(1 << STEP_BITS)] + [1 << LOG_BITS]
    return tuple((start, end - start) for start, end in pairwise(logs))


_STEPS: Final = _steps()

"""Several workers on hardware of several vendors give the same answer, or the caller gets none (DESIGN section 7).

One broken worker then cannot lie, and neither can one vendor's broken hardware. Only for requests that change nothing:
each worker runs the agent by itself.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cloister.client.call import SAFE_METHODS, Check, Request
from cloister.client.reply import Reply
from cloister.client.resolve import Resolution, Sitting
from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import CloisterError, PolicyError, ReceiptError, define

MAX_AGREEING: Final = 16

TOO_FEW = define(
    "client.too_few_to_agree",
    PolicyError,
    check="enough workers hold the agent, on hardware of enough vendors, to compare their answers",
    remedy="ask for fewer workers or vendors, or ask the agent's owner for a cluster with more seats",
    status=503,
)
DISAGREE = define(
    "client.disagree",
    ReceiptError,
    check="all workers that were asked gave the same status and the same body",
    remedy="trust none of them: the agent is not deterministic, or a worker lies. The receipts name them",
    status=502,
)

One = Callable[[Request, Check], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Agreement:
    """``replies`` of distinct workers: the same status and body in each, every one with its own verified receipt."""

    replies: tuple[Reply, ...]

    @property
    def status(self) -> int:
        """What they all said."""
        return self.replies[0].status

    @property
    def body(self) -> bytes:
        """What they all said."""
        return self.replies[0].body

    @property
    def vendors(self) -> frozenset[str]:
        """The vendor classes behind the answer."""
        return frozenset(reply.proof.vendor for reply in self.replies)


def choose(sittings: Sequence[Sitting], workers: int, vendors: int) -> list[Sitting]:
    """The workers to ask first: one of each vendor class in turn. Raises PolicyError (client.too_few_to_agree)."""
    by_worker = {sitting.worker.worker: sitting for sitting in sittings}
    rows: dict[str, list[Sitting]] = {}
    for sitting in by_worker.values():
        rows.setdefault(sitting.vendor, []).append(sitting)
    if len(by_worker) < workers or len(rows) < vendors:
        found = f"{len(by_worker)} workers of {len(rows)} vendor classes"
        raise TOO_FEW(expected=f"{workers} workers of {vendors} vendor classes", found=found)
    depth = max(len(row) for row in rows.values())
    return [row[at] for at in range(depth) for row in rows.values() if at < len(row)]


async def agree(
    resolution: Resolution, requests: Callable[[], Request], one: One, check: Check, *, workers: int, vendors: int
) -> Agreement:
    """Equal answers of ``workers`` workers of at least ``vendors`` vendor classes.

    1. enough of them hold the agent; 2. each is asked by itself, with a request id of its own; one that does not answer
    is replaced while others are left; 3. those that answered still span the vendors; 4. all said the same.
    Raises PolicyError (client.too_few_to_agree), ReceiptError (client.disagree), and what a call raises if too few
    answered."""
    if not 2 <= workers <= MAX_AGREEING or not 1 <= vendors <= workers:
        raise ValueError(f"workers is 2 to {MAX_AGREEING}, vendors 1 to workers")
    waiting = choose(resolution.sittings, workers, vendors)  # 1
    answered: list[Reply] = []
    failed: list[CloisterError] = []
    while len(answered) < workers and waiting:  # 2
        asked, waiting = waiting[: workers - len(answered)], waiting[workers - len(answered) :]
        for outcome in await asyncio.gather(*(_ask(sitting, requests(), one, check) for sitting in asked)):
            (failed if isinstance(outcome, CloisterError) else answered).append(outcome)  # type: ignore[arg-type]
    if len(answered) < workers:
        raise failed[0]
    made = Agreement(tuple(answered))
    if len(made.vendors) < vendors:  # 3
        raise failed[0] if failed else TOO_FEW(expected=f"{vendors} vendor classes", found=f"{len(made.vendors)}")
    if len({(reply.status, reply.body) for reply in answered}) > 1:  # 4
        said = ", ".join(f"{to_hex(r.proof.worker)[:10]} {r.status} {_short(r.body)}" for r in answered)
        raise DISAGREE(expected="one answer", found=said)
    return made


def require_safe(method: str) -> str:
    """The method in capitals. ValueError for one that may change something: it would happen once per worker."""
    if method.upper() not in SAFE_METHODS:
        raise ValueError(
            f"agreement is for {', '.join(sorted(SAFE_METHODS))}: anything else would happen several times"
        )
    return method.upper()


async def _ask(sitting: Sitting, request: Request, one: One, check: Check) -> Reply | CloisterError:
    async def only(resolution: Resolution) -> Resolution:
        """The seats of this worker among those that the caller accepts now."""
        kept = resolution.narrowed(lambda s: s.worker.worker == sitting.worker.worker)
        if not kept:
            raise TOO_FEW(expected=f"worker {to_hex(sitting.worker.worker)} on the agent", found="it left")
        return await check(replace(resolution, sittings=kept))

    try:
        return await one(request, only)
    except CloisterError as error:
        return error


def _short(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:8]

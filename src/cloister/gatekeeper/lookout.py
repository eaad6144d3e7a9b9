"""Does this member see what the others see? Asked anew for each release of keys (spec/gatekeepers.md K1-K3).

A host can freeze its member, or cut it off, and let it release keys under state that is long over. So a release waits
for the heads of t members, this one among them, in answers to a nonce that was drawn after the request came. As many
others as are needed are asked first, by lot among those that were not slow lately, and the rest as soon as one of them
takes twice its time or does not count.

::

    idle       a request starts a round: a nonce to every other member
    running    requests that come now wait for the next round, all for the same one
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from cloister.core.encoding.signatures import recover
from cloister.core.encoding.statements import Checkpoint, HeartBeat
from cloister.core.errors import ChainViewError, CloisterError, define
from cloister.gatekeeper.checkpoints import HALTED, MAX_LAG, Checkpoints
from cloister.gatekeeper.office import Office
from cloister.node import logs
from cloister.wire.committee import Committee
from cloister.wire.messages import HeartbeatRequest, SignedBy
from cloister.wire.pace import Pace

PAUSE_S = 0.02  # between rounds: fifty a second at most, however many ask

ALONE = define(
    "gatekeeper.alone",
    ChainViewError,
    check=f"t members, this one among them, answered just now with heads within {MAX_LAG} blocks of this member's",
    remedy="see whether this member, or its chain endpoints, are cut off or behind: `cloister gatekeeper status`",
    status=503,
)
_log = logs.get("lookout")


class Lookout:
    """Rounds of questions to the other members of an office. ``committee``: where they answer. ``rng``: nonces."""

    def __init__(
        self, office: Office, checkpoints: Checkpoints, committee: Committee, rng: Callable[[int], bytes]
    ) -> None:
        self._office, self._checkpoints, self._committee, self._rng = office, checkpoints, committee, rng
        self._lock = asyncio.Lock()
        self._waiting: asyncio.Task[int] | None = None
        self._last, self._own, self._pace = 0.0, "", Pace()
        self._said = False

    async def require(self) -> None:
        """Return when t members, we among them, are seen near our head; each by an answer younger than this call.

        Raises ChainViewError (gatekeeper.alone, gatekeeper.halted)."""
        self._checkpoints.require_running()
        round_ = self._waiting
        if round_ is None:
            round_ = self._waiting = asyncio.create_task(self._turn())
        seen, needed = await asyncio.shield(round_), self._office.signers.threshold
        if (seen < needed) is not self._said:
            self._said = seen < needed
            _log.warning("alone" if self._said else "among others", seen=seen, needed=needed)
        if seen < needed:
            raise ALONE(expected=f"{needed} members near this one's head", found=f"{seen}")

    async def _turn(self) -> int:
        async with self._lock:
            await asyncio.sleep(max(0.0, self._last + PAUSE_S - time.monotonic()))
            self._waiting = None  # whoever comes from now on waits for the next round
            self._last = time.monotonic()
            return await self._round()

    async def _round(self) -> int:
        """How many members, we among them, answered a fresh nonce with a head near ours; it ends as soon as t did."""
        nonce, seen, needed = self._rng(32), {self._office.address}, self._office.signers.threshold
        body = HeartbeatRequest(nonce).to_json()
        waiting, asked, first = self._by_lot(), set[asyncio.Task[tuple[str, Any]]](), needed - 1
        limit = self._pace.patience(waiting[:first])
        try:
            while len(seen) < needed and (asked or waiting):
                asked |= {asyncio.create_task(self._ask(url, body)) for url in waiting[:first]}
                del waiting[:first]
                patience = limit if waiting else None
                done, asked = await asyncio.wait(asked, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                before = len(seen)
                seen |= {member for task in done if (member := self._counted(nonce, *task.result())) is not None}
                first = 0 if asked and len(seen) == before + len(done) > before else len(waiting)
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        return len(seen)

    def _by_lot(self) -> list[str]:
        """Where members answer, in a new order; our own door last, once it is known."""
        return sorted(self._pace.order(self._committee.endpoints), key=lambda url: url == self._own)

    def _counted(self, nonce: bytes, url: str, answer: Any) -> bytes | None:
        member = self._member(nonce, answer)
        if member == self._office.address:
            self._own = url
        return member

    async def _ask(self, url: str, body: Any) -> tuple[str, Any]:
        return url, await self._pace.timed(url, self._committee.caught(url, "POST", "/v1/heartbeat", body))

    def _member(self, nonce: bytes, answer: Any) -> bytes | None:
        """Whose good answer it is; None for any other. Raises gatekeeper.halted.

        1. a member's signature over our nonce, in our term; 2. within D blocks of our head; 3. where we signed that
        height, the same block: who is on a fork does not count."""
        if isinstance(answer, CloisterError):
            return None
        try:
            signed = SignedBy.from_json(HeartBeat, answer)
            member = recover(signed.statement.digest(self._office.network), signed.signature)
        except CloisterError:
            return None
        beat, head = signed.statement, self._checkpoints.head
        if head is None:
            raise HALTED(expected="a signed checkpoint", found="none")
        if not isinstance(beat, HeartBeat) or (beat.nonce, beat.term) != (nonce, self._office.term):  # 1
            return None
        if member not in self._office.signers.members or abs(beat.number - head.number) > MAX_LAG:  # 2
            return None
        return member if self._same(beat) else None  # 3

    def _same(self, beat: HeartBeat) -> bool:
        try:
            mine = self._checkpoints.at(beat.number).statement
        except CloisterError as error:
            return error.code == "chainview.no_checkpoint"
        return isinstance(mine, Checkpoint) and mine.block_hash == beat.block_hash

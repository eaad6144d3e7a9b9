"""The committee in office, followed along hand-overs that anybody serves (spec/gatekeepers.md H1-H3).

::

    pinned ─▶ what this party remembers ─▶ hand-overs of gatekeepers or gateways ─▶ the term in office

Nobody who serves hand-overs is believed: each counts by t signatures of the term before (``core.chainview.terms``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import aiohttp

from cloister.core.chainview.terms import SignedHandover, Terms, follow, offers
from cloister.core.encoding.signatures import Signed
from cloister.core.encoding.statements import HeartBeat
from cloister.core.errors import CloisterError
from cloister.wire.ask import ask
from cloister.wire.committee import Committee
from cloister.wire.heads import HeadsRequest
from cloister.wire.messages import AdmissionRequest

HANDOVERS: Final = "/v1/handovers"
# How often hand-overs are asked for at most, and how often even if nothing is missing.
LOOK_S, LOOK_AGAIN_S = 0.5, 600.0
MAX_ASKED: Final = 64

T = TypeVar("T")
Fetch = Callable[[], Awaitable[Sequence[SignedHandover]]]


class TermWalk:
    """The terms that one party knows. ``fetch``: hand-overs that somebody offers; its refusals are borne.

    ``clock``: this party's own, Unix seconds. ``keep`` is called with new terms, to remember them."""

    def __init__(
        self, terms: Terms, fetch: Fetch, clock: Callable[[], float], *, keep: Callable[[Terms], None] | None = None
    ) -> None:
        self.terms = terms
        self._fetch, self._clock, self._keep = fetch, clock, keep
        self._looked = float("-inf")
        self._again = clock() + LOOK_AGAIN_S
        self._turn = asyncio.Lock()
        self._refused: CloisterError | None = None

    async def look(self) -> bool:
        """Follow what is offered now; True: another term is in office than before. At most twice a second.

        Raises ChainViewError: two successors of one term, a key that moved, a term that is too old (H3)."""
        async with self._turn:
            now = self._clock()
            if 0 <= now - self._looked < LOOK_S:
                if self._refused is not None:
                    raise self._refused
                return False
            self._looked, self._again, self._refused = now, now + LOOK_AGAIN_S, None
            try:
                offered = await self._fetch()
            except CloisterError:
                return False
            found = self._follow(offered, now)
            moved, self.terms = found is not self.terms, found
            if moved and self._keep is not None:
                self._keep(found)
            return moved

    def _follow(self, offered: Sequence[SignedHandover], now: float) -> Terms:
        """A refusal stays, and whoever asks is told again, until a later look finds nothing wrong."""
        try:
            return follow(self.terms, offered, int(now))
        except CloisterError as error:
            self._refused, self._again = error.with_traceback(None), now
            raise

    @property
    def due(self) -> bool:
        """Whether ten minutes went by since the last look, or it found something wrong."""
        return self._clock() >= self._again

    async def knows(self, term: int) -> None:
        """Look, if a term above the one in office is named."""
        if term > self.terms.in_office.signers.term:
            await self.look()

    def spoke(self) -> None:
        """The term in office gave a checkpoint that counts now (H3)."""
        self.terms = self.terms.seen(int(self._clock()))
        if self._keep is not None:
            self._keep(self.terms)


async def offered_by(session: aiohttp.ClientSession, urls: Sequence[str]) -> list[SignedHandover]:
    """The hand-overs that these endpoints serve; none from one that is away or talks nonsense."""

    async def one(url: str) -> list[SignedHandover]:
        try:
            return offers(await ask(session, "GET", url.rstrip("/") + HANDOVERS))
        except CloisterError:
            return []

    answers = await asyncio.gather(*(one(url) for url in list(dict.fromkeys(urls))[:MAX_ASKED]))
    return [handover for answer in answers for handover in answer]


class LiveCommittee:
    """The members in office, whichever term that is. A question in progress ends with those whom it began with.

    ``endpoints``: base URLs to begin with. ``places(members)``: where members say that they answer; what it says is not
    believed, for members sign. ``clock``: Unix seconds. Use inside a running event loop; ``close`` it."""

    def __init__(
        self,
        terms: Terms,
        endpoints: Sequence[str],
        places: Callable[[Sequence[bytes]], Awaitable[Sequence[str]]],
        clock: Callable[[], float],
    ) -> None:
        self._first, self._places = tuple(endpoints), places
        self._past: list[Committee] = []
        self.now = Committee(endpoints, terms.in_office.signers, terms.network)
        self.walk = TermWalk(terms, self.offered, clock)

    @property
    def terms(self) -> Terms:
        """The terms that are known."""
        return self.walk.terms

    @property
    def everybody(self) -> tuple[str, ...]:
        """Base URLs of members in office, of those before, and of those named at the start."""
        past = [url for committee in self._past for url in committee.endpoints]
        return tuple(dict.fromkeys((*self.now.endpoints, *past, *self._first)))[:MAX_ASKED]

    async def offered(self) -> list[SignedHandover]:
        """What members serve: those in office, and those whom this party knew at its start."""
        return await offered_by(self.now.session(), (*self.now.endpoints, *self._first))

    async def look(self) -> bool:
        """Follow hand-overs; True if another committee is in office now. Raises as ``TermWalk.look``, ChainError.

        Members whom the chain names no place for are asked where the others were."""
        await self.walk.look()
        signers = self.terms.in_office.signers
        if signers == self.now.signers:
            return False
        found = tuple(await self._places(signers.members))
        if signers == self.now.signers:  # another task was faster
            return True
        self._past.append(self.now)
        self.now = Committee(tuple(dict.fromkeys((*found, *self._first)))[:MAX_ASKED], signers, self.terms.network)
        while len(self._past) > 2:
            await self._past.pop(0).close()
        return True

    async def sure(self, work: Callable[[Committee], Awaitable[T]]) -> T:
        """Ask the members in office; if they refuse, and others are in office meanwhile, ask those.

        Raises the refusal."""
        try:
            return await work(self.now)
        except CloisterError:
            if not await self.look():
                raise
        return await work(self.now)

    async def checkpoint(self) -> Signed:
        """``Committee.checkpoint`` of those in office; now and then hand-overs are looked for all the same."""
        if self.walk.due:
            await self.look()
        signed = await self.sure(lambda c: c.checkpoint())
        if getattr(signed.statement, "term", 0) == self.terms.in_office.signers.term:
            self.walk.spoke()
        return signed

    async def heartbeat(self, nonce: bytes) -> tuple[HeartBeat, ...]:
        """``Committee.heartbeat`` of those in office."""
        return await self.sure(lambda c: c.heartbeat(nonce))

    async def admission(self, request: AdmissionRequest) -> Signed:
        """``Committee.admission`` of those in office."""
        return await self.now.admission(request)

    async def endorse_heads(self, request: HeadsRequest) -> tuple[Signed | CloisterError, ...]:
        """``Committee.endorse_heads`` of those in office."""
        return await self.now.endorse_heads(request)

    async def close(self) -> None:
        """Close all connections."""
        for committee in (*self._past, self.now):
            await committee.close()

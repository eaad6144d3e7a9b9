"""What a ceremony wants done outside: transactions to the contract, dealings from peers.

Everything here may be asked for again and again. A transaction that landed is not repeated while it becomes final. One
that the contract refuses is tried again at the next block: the contract may be ahead of what is final.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import aiohttp

from cloister.core.chainview.ceremonies import CeremonyView
from cloister.core.chainview.header import Header
from cloister.core.errors import CloisterError
from cloister.core.threshold import actions as do
from cloister.core.threshold.dealing import Dealing
from cloister.core.threshold.protocol import Member
from cloister.gatekeeper.ports import Chain, Snapshot
from cloister.node import logs
from cloister.wire.transcripts import ask_dealing

RESEND_BLOCKS = 16
Call = tuple[str, tuple[Any, ...]]
_log = logs.get("ceremony")


class Deeds:
    """Carries actions out."""

    def __init__(self, chain: Chain, session: aiohttp.ClientSession) -> None:
        self._chain, self._session = chain, session
        self._sent: dict[Call, int] = {}

    async def send(self, view: CeremonyView, member: Member, actions: Sequence[do.Action], head: Header) -> None:
        """Send the transactions among the actions, all at once. A refusal is logged, and tried again later."""
        calls = [call for action in actions if (call := call_of(view, member, action)) is not None]
        await asyncio.gather(*(self.once(call, head) for call in calls))

    async def once(self, call: Call, head: Header, contract: str = "Gatekeepers") -> bool:
        """One transaction, unless it landed lately. Returns whether it landed now."""
        if head.number < self._sent.get(call, -RESEND_BLOCKS) + RESEND_BLOCKS:
            return False
        function, arguments = call
        try:
            await self._chain.send(function, *arguments, contract=contract)
        except CloisterError as error:
            _log.info("not taken", function=function, code=error.code, found=error.found)
            return False
        self._sent = {c: n for c, n in self._sent.items() if n + RESEND_BLOCKS > head.number}
        self._sent[call] = head.number
        _log.info("sent", function=function, block=head.number)
        return True

    async def fetch(self, view: CeremonyView, member: Member, wanted: Sequence[do.FetchDealing], at: Snapshot) -> int:
        """Get dealings and hand them to the member. Returns how many it took."""
        addresses = tuple(dict.fromkeys((*view.dealers, *view.receivers)))
        records = await at.candidates(addresses)
        urls = {a: c.endpoint.rstrip("/") for a, c in zip(addresses, records, strict=True) if c is not None}
        taken = await asyncio.gather(*(self._one(view, member, want, urls) for want in wanted))
        return sum(taken)

    async def _one(self, view: CeremonyView, member: Member, want: do.FetchDealing, urls: dict[bytes, str]) -> bool:
        """1. from the dealer; 2. if it is published, from the call data; 3. from any peer."""
        dealer = view.dealers[want.dealer - 1]
        others = [url for address, url in urls.items() if address != dealer]
        if dealer in urls and await self._take(member, self._ask(urls[dealer], view, want.dealer)):  # 1
            return True
        if want.published and await self._take(member, self._published(view, want.dealer)):  # 2
            return True
        for url in others:  # 3
            if await self._take(member, self._ask(url, view, want.dealer)):
                return True
        return False

    async def _take(self, member: Member, coming: Any) -> bool:
        try:
            dealing = await coming
            if dealing is not None:
                member.on_dealing(dealing)
        except CloisterError as error:
            _log.debug("no dealing", code=error.code)
            return False
        return dealing is not None

    async def _ask(self, url: str, view: CeremonyView, dealer: int) -> Dealing:
        return await ask_dealing(self._session, url, view.id, dealer)

    async def _published(self, view: CeremonyView, dealer: int) -> Dealing | None:
        data = await self._chain.published(view, dealer)
        return None if data is None else Dealing.from_frame(data)


def call_of(view: CeremonyView, member: Member, action: do.Action) -> Call | None:
    """The transaction of an action; None if it needs none."""
    ceremony = member.setting.ceremony
    match action:
        case do.CommitDealing(digest):
            return "commitDealing", (view.id, digest)
        case do.Complain(complaint):
            return "complain", (view.id, complaint.dealer, int(complaint.fault))
        case do.Content(number):
            return "content", (view.id, number)
        case do.Publish(dealing):
            return "publish", (view.id, dealing.framed(ceremony))
        case do.OpenShare(opened):
            return "openShare", (view.id, opened.receiver, opened.value)
        case do.Confirm(value):
            return "confirm", (view.id, value.mpk, value.transcript, value.qualified)
        case _:
            return None

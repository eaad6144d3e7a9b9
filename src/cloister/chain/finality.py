"""Which block is final: a port per kind of chain, and the quorum of endpoints for chains without a light client.

``RpcQuorum`` trusts that not all of its endpoints collude: an assumption of the threat model. Reorganisations show as
headers that do not follow their parents; endpoints that contradict each other at a final height stop the reader.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from cloister.chain.headers import fetch_header, header_of
from cloister.chain.rpc import Rpc
from cloister.core.chainview.header import Header, require_child
from cloister.core.errors import ChainError, CloisterError, define

MAX_CHUNK = 256

NO_QUORUM = define(
    "chain.no_quorum",
    ChainError,
    check="m chain endpoints of different operators answer and agree",
    remedy="start or replace endpoints; the policy names how many must agree",
    status=503,
)
CONFLICT = define(
    "chain.conflict",
    ChainError,
    check="no two endpoints name different blocks at one final height",
    remedy="an endpoint lies or the chain broke finality: stop, compare the endpoints by hand, remove the liar",
    status=409,
)


class HeaderVerifier(Protocol):
    """Says which blocks are final. One per kind of chain."""

    async def finalized(self) -> Header:
        """The newest final header. Raises ChainError."""

    async def header(self, number: int) -> Header:
        """The final header at a height. Raises ChainError."""


@dataclass(frozen=True, slots=True)
class Finality:
    """What an endpoint's word for "final" is worth. tag: its `finalized` block counts; False where a chain has no such
    tag or means less by it. depth: at least so many blocks stand above a final one."""

    tag: bool = True
    depth: int = 0


BY_TAG = Finality()


class RpcQuorum:
    """``HeaderVerifier`` over m of the given endpoints: at least ``m`` must answer, and all that answer must agree."""

    def __init__(self, endpoints: Sequence[Rpc], m: int, finality: Finality = BY_TAG) -> None:
        if not 1 <= m <= len(endpoints):
            raise RuntimeError("a quorum needs 1 <= m <= endpoints")
        if not finality.tag and finality.depth < 1:
            raise RuntimeError("without the tag, depth decides")
        self._endpoints, self._m, self._finality = tuple(endpoints), m, finality

    async def finalized(self) -> Header:
        """The newest header that m endpoints call final and no endpoint contradicts."""
        numbers = [sorted(said, reverse=True)[self._m - 1] for said in await self._final_numbers()]
        return await self.header(max(0, min(numbers)))

    async def _final_numbers(self) -> list[list[int]]:
        """For each rule that counts, the height that each endpoint calls final by it."""
        rule, found = self._finality, []
        if rule.tag:
            found.append([h.number for h in await self._ask("finalized")])
        if rule.depth:
            found.append([h.number - rule.depth for h in await self._ask("latest")])
        return found

    async def header(self, number: int) -> Header:
        """The header at ``number`` as m endpoints give it. Raises chain.conflict if any other says otherwise."""
        found = await self._ask(number)
        if len({h.hash for h in found}) != 1:
            raise CONFLICT(expected=f"one block at {number}", found=f"{len({h.hash for h in found})} different ones")
        return found[0]

    async def _ask(self, block: int | str) -> list[Header]:
        answers = await asyncio.gather(*(fetch_header(e, block) for e in self._endpoints), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, CloisterError):
                raise answer
        headers = [a for a in answers if isinstance(a, Header)]
        if len(headers) < self._m:
            raise NO_QUORUM(expected=f"{self._m} endpoints", found=f"{len(headers)} of {len(self._endpoints)} answered")
        return headers


class Follower:
    """Follows the final head, parent by parent. Remembers the last header that it returned."""

    def __init__(self, verifier: HeaderVerifier, source: Rpc, last: Header | None = None) -> None:
        self._verifier, self._source, self.last = verifier, source, last

    async def advance(self) -> tuple[Header, ...]:
        """New final headers since the last call, oldest first, each the child of the one before; often empty.

        The first call, without a ``last``, gives just the newest. ``source`` fills the gap; the quorum vouches for the
        end, the parent hashes for the rest. A long gap comes in pieces of MAX_CHUNK. Raises ChainError;
        ChainViewError for a head that is no descendant.
        """
        head = await self._verifier.finalized()
        if self.last is None:
            self.last = head
            return (head,)
        if head.number <= self.last.number:
            self._require_same(self.last, head)
            return ()
        if head.number - self.last.number > MAX_CHUNK:
            head = await self._verifier.header(self.last.number + MAX_CHUNK)
        line = (self.last, *await self._gap(self.last.number + 1, head.number), head)
        for parent, child in pairwise(line):
            require_child(parent, child)
        self.last = head
        return line[1:]

    async def header(self, number: int) -> Header:
        """The final header at a height, as the verifier has it. Raises ChainError."""
        return await self._verifier.header(number)

    @staticmethod
    def _require_same(last: Header, head: Header) -> None:
        if head.number == last.number and head.hash != last.hash:
            raise CONFLICT(expected=f"0x{last.hash.hex()[:16]}… at {head.number}", found="another final block")

    async def _gap(self, start: int, stop: int) -> list[Header]:
        """Headers start..stop-1 of the one source; what makes them true is that they lead to a vouched header."""
        calls = [("eth_getBlockByNumber", [hex(n), False]) for n in range(start, stop)]
        return [header_of(block) for block in await self._source.batch(calls)]

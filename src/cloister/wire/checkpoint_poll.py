"""Finding the newest checkpoint that t members signed, while members are blocks apart and some of them lie.

Everybody is asked for the newest. A *level* is a height that t endpoints claim to have reached: there t signatures may
be found, by asking whoever is further ahead for that height. The highest level comes first; once all who were asked
about it have answered without agreement, the next does. So liars who claim great heights cost questions, no more.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from cloister.core.encoding.signatures import Signed
from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import CloisterError
from cloister.wire.messages import SignedBy

if TYPE_CHECKING:
    from cloister.wire.committee import Committee

_Answer = tuple[str, int | None, Any]


class CheckpointPoll:
    """One search. ``run`` once."""

    def __init__(self, committee: Committee, chain: int | None = None) -> None:
        self._committee, self._need = committee, committee.signers.threshold
        self._path = "/v1/checkpoint" if chain is None else f"/v1/chains/{chain}/checkpoint"
        self._votes: dict[Checkpoint, dict[bytes, bytes]] = {}
        self._heights: dict[str, int] = {}
        self._asked: set[tuple[str, int]] = set()
        self._waiting: set[tuple[str, int]] = set()
        self._refused: dict[str, CloisterError] = {}
        self._tasks: set[asyncio.Task[_Answer]] = set()

    async def run(self) -> Signed:
        """Ask until t agree or nobody is left to ask. Raises gatekeeper.too_few or the members' refusal."""
        for url in self._committee.endpoints:
            self._start(url, None)
        try:
            while self._tasks:
                done, self._tasks = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    self._take(*task.result())
                found = self._best()
                if found is not None:
                    return found
                self._ask_about_levels()
        finally:
            for task in self._tasks:
                task.cancel()
        raise self._committee.too_few(self._need, list(self._refused.values()))

    def _start(self, url: str, level: int | None) -> None:
        self._tasks.add(asyncio.create_task(self._one(url, level)))

    async def _one(self, url: str, level: int | None) -> _Answer:
        path = self._path if level is None else f"{self._path}/{level}"
        return url, level, await self._committee.caught(url, "GET", path)

    def _take(self, url: str, level: int | None, value: Any) -> None:
        if level is not None:
            self._waiting.discard((url, level))
        try:
            if isinstance(value, CloisterError):
                raise value
            signed = SignedBy.from_json(Checkpoint, value)
            member = self._committee.member(signed.statement, signed.signature)
        except CloisterError as error:
            self._refused[url] = error
            return
        checkpoint = signed.statement
        assert isinstance(checkpoint, Checkpoint)  # noqa: S101 - from_json(Checkpoint) made it
        self._votes.setdefault(checkpoint, {})[member] = signed.signature
        if level is None:
            self._heights[url] = checkpoint.number

    def _best(self) -> Signed | None:
        full = [c for c, votes in self._votes.items() if len(votes) >= self._need]
        if not full:
            return None
        newest = max(full, key=lambda c: c.number)
        return Signed(newest, tuple(self._votes[newest].values())[: self._need])

    def _ask_about_levels(self) -> None:
        """Ask about the highest level that is not exhausted."""
        for level in sorted(set(self._heights.values()), reverse=True):
            reached = [url for url, height in self._heights.items() if height >= level]
            if len(reached) < self._need:
                continue
            for url in reached:
                if self._heights[url] > level and (url, level) not in self._asked:
                    self._asked.add((url, level))
                    self._waiting.add((url, level))
                    self._start(url, level)
            if any(at == level for _, at in self._waiting):
                return

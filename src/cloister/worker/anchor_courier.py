"""Bringing answers to the chain, many in one transaction (spec/anchor.md 18, 28).

What becomes ready while transactions are on their way goes together into the next one. A batch that the chain refuses
is brought one by one, so that one bad answer holds up no other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final

from cloister.chain.anchor import AnchorChain
from cloister.chain.rpc import REVERTED
from cloister.chain.tx import Receipt
from cloister.core.chainview.anchor import Asked
from cloister.core.errors import ChainError

MAX_BATCH: Final = 32
# What a batch may need at most: it must fit a block beside others. What one answer costs besides its callback.
BATCH_GAS: Final = 8_000_000
ANSWER_GAS: Final = 60_000
BYTE_GAS: Final = 40
# Transactions on their way at once.
FLIGHTS: Final = 4


@dataclass(frozen=True, slots=True)
class Ready:
    """An answer that is complete. ``by``: (worker, signature) of each copy."""

    request: Asked
    reply: bytes
    by: tuple[tuple[bytes, bytes], ...]

    @property
    def gas(self) -> int:
        """More than it will take."""
        return self.request.gas_limit * 64 // 63 + ANSWER_GAS * len(self.by) + BYTE_GAS * len(self.reply)


class Courier:
    """Brings the answers of one agent to one Anchor. Each is in one transaction at a time."""

    def __init__(self, chain: AnchorChain) -> None:
        self._chain = chain
        self._line: deque[tuple[Ready, asyncio.Future[Receipt]]] = deque()
        self._flights: set[asyncio.Task[None]] = set()

    async def bring(self, ready: Ready) -> Receipt:
        """The transaction that brought it, or passed over it because somebody else had. Raises ChainError."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Receipt] = loop.create_future()
        self._line.append((ready, done))
        loop.call_soon(self._launch)  # after others that are ready at this moment
        return await done

    def _launch(self) -> None:
        while self._line and len(self._flights) < FLIGHTS:
            flight = asyncio.ensure_future(self._fly(self._load()))
            self._flights.add(flight)
            flight.add_done_callback(self._landed)

    def _landed(self, flight: asyncio.Task[None]) -> None:
        self._flights.discard(flight)
        self._launch()

    def _load(self) -> list[tuple[Ready, asyncio.Future[Receipt]]]:
        """The first in line, and those behind that fit beside it."""
        load, gas = [self._line.popleft()], 0
        gas = load[0][0].gas
        while self._line and len(load) < MAX_BATCH and gas + self._line[0][0].gas <= BATCH_GAS:
            gas += self._line[0][0].gas
            load.append(self._line.popleft())
        return load

    async def _fly(self, load: list[tuple[Ready, asyncio.Future[Receipt]]]) -> None:
        """Whatever happens, each that waits learns of it."""
        try:
            await self._bring(load)
        except BaseException as error:
            for _, done in load:
                if not done.done():
                    done.set_exception(error) if isinstance(error, Exception) else done.cancel()
            if not isinstance(error, Exception):
                raise

    async def _bring(self, load: list[tuple[Ready, asyncio.Future[Receipt]]]) -> None:
        if len(load) == 1:
            ready, done = load[0]
            _tell(done, await self._chain.respond(ready.request, ready.reply, ready.by))
            return
        try:
            receipt = await self._chain.respond_batch([(r.request, r.reply, r.by) for r, _ in load])
        except ChainError as error:
            if error.code != REVERTED.code:
                raise
        else:
            for _, done in load:
                _tell(done, receipt)
            return
        for one in load:
            await self._fly([one])


def _tell(done: asyncio.Future[Receipt], receipt: Receipt) -> None:
    if not done.done():
        done.set_result(receipt)

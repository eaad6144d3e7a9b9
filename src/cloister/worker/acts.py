"""What agents write on chains by themselves: queued, then brought until a checkpoint shows it (spec/chains.md 12-17).

An act names a key of the agent's store at an Anchor, the version that it replaces, and the new value. It is queued in
the transaction of the request that wants it, so it exists exactly if that request committed; the version makes a second
bringing fail. So an act that was lost to a crash or a reorganisation is brought again, and counts once.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from cloister.chain.anchor import AnchorChain, commit_hash
from cloister.chain.rpc import REVERTED
from cloister.core.chainview.anchor import AnchorSeat
from cloister.core.encoding import jcs
from cloister.core.encoding.contract_statements import AnchorCommit
from cloister.core.errors import ChainError, StateError
from cloister.fabric.ports import CONFLICT
from cloister.node import logs
from cloister.worker.anchor import PATIENCE_S, Place, Turn
from cloister.worker.anchor_outbox import request_id
from cloister.worker.state import ALREADY_DONE, AgentState

MAX_WAITING: Final = 256
# How long a signature over an act counts.
SIGNED_S: Final = 3600
Sign = Callable[[bytes], bytes]
_log = logs.get("acts")


@dataclass(frozen=True, slots=True)
class Act:
    """``key``: 32 bytes. ``version``: the one that it replaces. ``seen``: Unix seconds of the checkpoint of then."""

    key: bytes
    version: int
    value: bytes
    seen: int

    def name(self, chain: int) -> str:
        """Where it waits in the agent's state."""
        return f"{waiting(chain)}{self.key.hex()}"

    def encode(self) -> bytes:
        """JCS."""
        value = base64.b64encode(self.value).decode()
        return jcs.encode({"version": self.version, "value": value, "seen": self.seen})

    @classmethod
    def decode(cls, key: bytes, data: bytes) -> Act:
        """What ``encode`` wrote, under a key."""
        said = jcs.decode(data)
        return cls(key, said["version"], base64.b64decode(said["value"]), said["seen"])


def waiting(chain: int) -> str:
    """Prefix of the acts that wait for a chain."""
    return f"\0chain/{chain}/"


class Seats(Protocol):
    """Gives this worker's lease at an Anchor (``anchor.AnchorDesk``)."""

    async def seat(self, at: Turn) -> AnchorSeat:
        """Raises anchor.no_seat, ChainError."""


class ActDesk:
    """Brings one agent's acts to one chain."""

    def __init__(self, chain: AnchorChain, place: Place, state: AgentState, seats: Seats, sign: Sign) -> None:
        self._chain, self._place, self._state, self._seats, self._sign = chain, place, state, seats, sign

    async def turn(self, at: Turn) -> bool:
        """One turn; True while an act waits. Raises CloisterError."""
        tx = await self._state.begin(request_id("read acts"))
        prefix, found = waiting(self._place.chain_id), []
        for name in await tx.list(prefix, limit=MAX_WAITING):
            data = await tx.get(name)
            if data is not None:
                found.append(Act.decode(bytes.fromhex(name.removeprefix(prefix)), data))
        for act in found:
            await self._one(at, act)
        return bool(found)

    async def _one(self, at: Turn, act: Act) -> None:
        """1. what a checkpoint shows is over; 2. the seats before us have their time; 3. the newest block does not have
        it yet; 4. bring it."""
        version, value = await self._chain.entry(at.state, at.agent, act.key)
        if version > act.version:  # 1
            if value != act.value:
                _log.warning("an act was overtaken", chain=self._place.chain_id, key=act.key.hex(), version=version)
            await self._forget(act)
            return
        if not self._due(at, act):  # 2
            return
        await self._seats.seat(at)
        if await self._chain.newest_version(at.agent, act.key) != act.version:  # 3
            return
        until = at.checkpoint.timestamp + SIGNED_S
        update = (act.key, act.version, act.value)
        place = self._place
        said = AnchorCommit(place.chain_id, place.anchor, at.agent, commit_hash(update), until)
        try:
            by = (place.worker, self._sign(said.digest(place.network)))
            receipt = await self._chain.commit(at.agent, update, until, by)  # 4
        except ChainError as error:
            if error.code == REVERTED.code and "WrongVersion" in error.found:
                return  # another seat was faster; a checkpoint will say so
            raise
        _log.info("acted", chain=place.chain_id, block=receipt.block_number, gas=receipt.gas_used)

    def _due(self, at: Turn, act: Act) -> bool:
        if self._place.worker not in at.seats:
            return False
        first = int.from_bytes(hashlib.sha256(act.key).digest()[:8], "big")
        behind = (at.seats.index(self._place.worker) - first) % len(at.seats)
        return at.checkpoint.timestamp >= act.seen + behind * PATIENCE_S

    async def _forget(self, act: Act) -> None:
        """A race with another seat is no error: the next turn repeats."""
        name = request_id(f"acted {self._place.chain_id} {act.key.hex()} {act.version}")
        try:
            tx = await self._state.begin(name)
            await tx.delete(act.name(self._place.chain_id))
            await tx.commit(name)
        except StateError as error:
            if error.code not in (CONFLICT.code, ALREADY_DONE.code):
                raise

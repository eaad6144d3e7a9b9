"""How long bodies of receipts are kept: days and bytes of the gateway's settings (spec/receipts.md 19).

Never pruned: what no head covers that q members of the committee signed, and what does not hash to that head. So a
store that lost or changed something is never pruned further, and no receipt goes whose place cannot be proven.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hmac import compare_digest
from pathlib import Path
from typing import Any, Final

from cloister.core.encoding import jcs
from cloister.core.encoding.log_statements import LogHead
from cloister.core.encoding.signatures import Signed, SignerSet
from cloister.core.encoding.statements import Statement
from cloister.core.errors import CloisterError
from cloister.core.receipts.log import Log, log_head_from, witness_quorum
from cloister.fabric.embedded.pruning import NOT_ALONE, LogFile, begins, logs_of, number_after, prune, pruning_alone
from cloister.fabric.ports import MAX_RECEIPTS, ReceiptLogs
from cloister.node import logs

DAY_S: Final = 24 * 3600
TURN_S: Final = 600.0
# Marks of one log's growth: how finely days are counted.
MARKS: Final = 32
MAX_MARKS_FILE: Final = 8 << 20
_MAX_HEAD: Final = 1 << 16

_log = logs.get("gateway.pruning")
Marks = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Retention:
    """Bodies older than ``days`` go; above ``size`` bytes in all, the oldest go. 0: no such limit."""

    days: int = 0
    size: int = 0

    @property
    def any(self) -> bool:
        """Whether anything is ever pruned."""
        return self.days > 0 or self.size > 0


@dataclass(slots=True)
class Pruned:
    """What happened so far, for operators."""

    receipts: int = 0
    held_back: int = 0
    used: int = 0


@dataclass(slots=True)
class _Known:
    log: Log = field(default_factory=Log)
    covered: int = 0


class Pruner:
    """Prunes the store of this gateway. ``members(statement)``: who may sign it; ``clock``: Unix seconds."""

    def __init__(
        self,
        folder: Path,
        store: ReceiptLogs,
        retention: Retention,
        members: Callable[[Statement], SignerSet],
        network: bytes,
        clock: Callable[[], float],
    ) -> None:
        self._folder, self._store, self._retention = folder, store, retention
        self._members, self._network, self._clock = members, network, clock
        self._known: dict[str, _Known] = {}
        self.counts = Pruned()

    @property
    def on(self) -> bool:
        """Whether anything is ever pruned."""
        return self._retention.any

    async def run(self) -> None:
        """Turn after turn, for ever. A refusal is logged by its code and tried again."""
        while True:
            try:
                await self.turn()
            except CloisterError as error:
                if error.code != NOT_ALONE.code:
                    _log.warning("receipts not pruned", **error.to_wire())
            except OSError as error:
                _log.warning("receipts not pruned", exc_info=error)
            await asyncio.sleep(TURN_S)

    async def turn(self) -> int:
        """One look at all logs; how many receipts were pruned. Raises FabricError.

        1. what every log had when; 2. what days say; 3. what bytes say; 4. only what a signed head covers goes."""
        if not self.on:
            return 0
        with pruning_alone(self._folder):
            found = await asyncio.to_thread(logs_of, self._folder)
            aged = await self._aged(found)  # 1, 2
            over = sum(one.used for one in found) - self._retention.size if self._retention.size else 0
            done = 0
            self.counts.held_back = 0
            for one in found:
                wanted, freed = await self._wanted(one, aged.get(one.name, 0), over)  # 3
                over -= freed
                done += await self._prune(one.name, wanted)  # 4
            self.counts.used = sum(one.used for one in await asyncio.to_thread(logs_of, self._folder))
        self.counts.receipts += done
        if done:
            _log.info("receipts pruned", receipts=done, used=self.counts.used)
        return done

    async def _aged(self, found: list[LogFile]) -> dict[str, int]:
        """How many receipts of each log are older than the days allow."""
        now, span = int(self._clock()), self._retention.days * DAY_S
        if not span:
            return {}
        known = await asyncio.to_thread(_load, self._folder / "retention.json")
        aged: dict[str, int] = {}
        marks: dict[str, Marks] = {}
        for one in found:
            held = known.get(one.name, [])
            size = await self._store.size(one.name)
            if not held or (size > held[-1][1] and now - held[-1][0] >= span // MARKS):
                held = [*held, (now, size)]
            past = [at for at in held if at[0] <= now - span]
            aged[one.name] = past[-1][1] if past else 0
            marks[one.name] = [*past[-1:], *(at for at in held if at[0] > now - span)][-2 * MARKS :]
        await asyncio.to_thread(_save, self._folder / "retention.json", marks)
        return aged

    async def _wanted(self, one: LogFile, aged: int, over: int) -> tuple[int, int]:
        """Below which number a log should go, and about how many bytes that frees."""
        if over <= 0:
            return aged, 0
        size = await self._store.size(one.name)
        enough = await asyncio.to_thread(number_after, self._folder, one.name, over, size)
        return max(aged, enough), min(over, one.used)

    async def _prune(self, name: str, wanted: int) -> int:
        first = await asyncio.to_thread(begins, self._folder, name)
        if wanted <= first:
            return 0
        covered = await self._covered(name)
        if covered < wanted:
            self.counts.held_back += wanted - max(covered, first)
        return await asyncio.to_thread(prune, self._folder, name, min(wanted, covered)) if covered > first else 0

    async def _covered(self, name: str) -> int:
        """Receipts of a log that stand under a head that q members signed, and that hash to its root; else 0.

        1. form; 2. q members of its term; 3. of this log; 4. the ids that the store has make this root."""
        data = await self._store.head(name)
        if data is None:
            return 0
        try:
            head = log_head_from(jcs.decode(data, max_size=_MAX_HEAD))  # 1
            self._verify(head)  # 2
            said = head.statement
            if not isinstance(said, LogHead) or f"{said.worker.hex()}.{said.boot.hex()}" != name:  # 3
                return 0
            return said.size if await self._same_root(name, said) else 0  # 4
        except CloisterError as error:
            _log.warning("log not pruned", log=name[:20], **error.to_wire())
            return 0

    def _verify(self, head: Signed) -> None:
        signers = self._members(head.statement)
        quorum = max(signers.threshold, witness_quorum(len(signers.members)))
        head.verify(replace(signers, threshold=quorum), self._network)

    async def _same_root(self, name: str, said: LogHead) -> bool:
        """Hashed on from where the last turn came to."""
        known = self._known.setdefault(name, _Known())
        if known.log.size > said.size:
            known = self._known[name] = _Known()
        while known.log.size < said.size:
            count = min(MAX_RECEIPTS, said.size - known.log.size)
            ids = await self._store.ids(name, known.log.size, count)
            for one in ids:
                known.log.append(one)
            if len(ids) < count:
                break
        same = known.log.size == said.size and compare_digest(known.log.root(said.size, {}), said.root)
        if not same:
            del self._known[name]
            _log.warning("log not pruned: it does not hash to its signed head", log=name[:20])
        return same


def _load(path: Path) -> dict[str, Marks]:
    """Marks of an earlier turn; what is no such file says nothing: bodies are then kept for longer."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MARKS_FILE + 1)
        value: Any = json.loads(data) if len(data) <= MAX_MARKS_FILE else None
    except (OSError, ValueError, RecursionError):
        return {}
    held = value.get("marks") if isinstance(value, dict) else None
    found = held.items() if isinstance(held, dict) else ()
    return {str(name): [(a, b) for a, b in marks] for name, marks in found if _are_marks(marks)}


def _are_marks(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, list) and len(one) == 2 and all(type(n) is int and 0 <= n < 1 << 53 for n in one)
        for one in value
    )


def _save(path: Path, marks: dict[str, Marks]) -> None:
    aside = path.with_suffix(".new")
    file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "w") as out:
        json.dump({"marks": marks}, out)
    aside.rename(path)

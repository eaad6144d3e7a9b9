"""What workers and the committee sign about receipt logs: EIP-712 typed data (spec/receipts.md 12)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cloister.core.encoding.statements import ADDRESS, B32, U64, Statement


@dataclass(frozen=True, slots=True)
class WorkerLog(Statement):
    """A worker's own word: the log of this boot has ``size`` receipts and this root. Signed by the worker."""

    NAME: ClassVar[str] = "WorkerLog"
    TYPES: ClassVar[dict[str, str]] = {"worker": ADDRESS, "boot": B32, "size": U64, "root": B32}
    worker: bytes
    boot: bytes
    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class LogHead(Statement):
    """The committee saw this head, and that it continues every earlier one that it saw. Signed by t members."""

    NAME: ClassVar[str] = "LogHead"
    TYPES: ClassVar[dict[str, str]] = {"term": U64, "worker": ADDRESS, "boot": B32, "size": U64, "root": B32}
    term: int
    worker: bytes
    boot: bytes
    size: int
    root: bytes

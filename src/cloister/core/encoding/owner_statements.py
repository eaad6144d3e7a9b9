"""What an agent's owner signs beside transactions: EIP-712 typed data (spec/owner.md 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cloister.core.encoding.statements import ADDRESS, B32, U64, Statement


@dataclass(frozen=True, slots=True)
class LogKey(Statement):
    """The owner reads this agent's log with this X25519 key; a higher serial replaces a lower one."""

    NAME: ClassVar[str] = "LogKey"
    TYPES: ClassVar[dict[str, str]] = {"agent": B32, "owner": ADDRESS, "key": B32, "serial": U64}
    agent: bytes
    owner: bytes
    key: bytes
    serial: int

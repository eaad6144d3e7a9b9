"""An agent's newest head as members keep it and tell each other (spec/state.md 10)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cloister.core.encoding.hexes import from_hex, need_bytes, need_fields, need_uint, to_hex
from cloister.core.encoding.identity import EPOCH_FIELDS, Epochs


@dataclass(frozen=True, slots=True)
class Head:
    """An agent's newest head: the epochs that it is sealed under, and ``parent``, the head before it (32 bytes)."""

    epochs: Epochs
    height: int
    parent: bytes
    head: bytes

    def __post_init__(self) -> None:
        self.epochs.check()
        need_uint("height", self.height, 64)
        need_bytes("parent", self.parent, 32)
        need_bytes("head", self.head, 32)


def head_row(agent: bytes, head: Head) -> dict[str, Any]:
    """A row of a table, JSON-ready."""
    hashes = {"agent": to_hex(agent), "parent": to_hex(head.parent), "head": to_hex(head.head)}
    return {**hashes, "height": head.height, **head.epochs.to_json()}


def parse_row(value: object) -> tuple[bytes, Head]:
    """A row of ``head_row``. Raises EncodingError."""
    fields = need_fields("head", value, {"agent", "height", "parent", "head", *EPOCH_FIELDS})
    head = Head(
        Epochs.from_json(fields), fields["height"], from_hex(fields["parent"], 32), from_hex(fields["head"], 32)
    )
    return from_hex(fields["agent"], 32, name="agent"), head

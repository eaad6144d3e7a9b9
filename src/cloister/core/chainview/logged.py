"""Roots of workers' receipt logs, read from proven words of the Receipts contract (spec/receipts.md 13, 17)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloister.core.chainview.layout import Layout, add, address_key, data_slot, mapping_slot
from cloister.core.chainview.words import BAD_RECORD, Slots, Struct
from cloister.core.encoding.hexes import need_bytes

MAX_ROOTS = 1 << 32
_STRUCT = "t_struct(Root)_storage"


@dataclass(frozen=True, slots=True)
class RootRecord:
    """A recorded head: ``root`` over the first ``size`` receipts of ``boot``, on chain since block ``at_block``."""

    boot: bytes
    root: bytes
    size: int
    at_block: int


def read_root_count(slots: Slots, layout: Layout, worker: bytes) -> int:
    """How many roots of a worker (20 bytes) are recorded, of all its boots. Raises ChainViewError."""
    count = slots.get([_head(layout, worker)])[0]
    if count >= MAX_ROOTS:
        raise BAD_RECORD(expected=f"fewer than {MAX_ROOTS} roots", found="more")
    return count


def read_roots(slots: Slots, layout: Layout, worker: bytes, indexes: Sequence[int]) -> list[RootRecord]:
    """Recorded roots of a worker by number, in the order asked. Raises ChainViewError for one that is not there."""
    start, words = data_slot(_head(layout, worker)), layout.words(_STRUCT)
    at = Struct(layout, _STRUCT, slots, [add(start, words * index) for index in indexes])
    count = read_root_count(slots, layout, worker)
    found = []
    for at.index, index in enumerate(indexes):
        if not 0 <= index < count:
            raise BAD_RECORD(expected=f"a root below {count}", found=f"number {index}")
        found.append(RootRecord(at.word("boot"), at.word("root"), at.number("size"), at.number("atBlock")))
    return found


def read_logged_size(slots: Slots, layout: Layout, worker: bytes, boot: bytes) -> int:
    """How many receipts of a boot (32 bytes) are below its newest recorded root; 0 for none."""
    table = layout.variable("_sizes")
    inner = mapping_slot(table.slot, address_key(worker))
    return slots.get([mapping_slot(inner, need_bytes("boot", boot, 32))])[0] & (1 << 64) - 1


def _head(layout: Layout, worker: bytes) -> int:
    return mapping_slot(layout.variable("_roots").slot, address_key(worker))

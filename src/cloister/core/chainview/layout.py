"""Where the compiler put things: storage slots of variables, struct fields, mappings and arrays.

Input is the ``layout`` of a contract artifact as plain data: {"storage": [{label, slot, offset, type}], "types": {…}}.
Rules: Solidity documentation, "Layout of State Variables in Storage".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cloister.core.encoding.hexes import need_bytes
from cloister.core.encoding.keccak import keccak256

_WRAP = (1 << 256) - 1


@dataclass(frozen=True, slots=True)
class Place:
    """A value inside storage: slot number (absolute, or relative to its struct), byte offset from the right, size."""

    slot: int
    offset: int
    size: int
    type: str

    def of(self, word: int) -> int:
        """This value's bits of its slot's word, as an unsigned number."""
        return word >> (8 * self.offset) & ((1 << (8 * self.size)) - 1)


class Layout:
    """A contract's storage layout. Raises RuntimeError for names that it does not have: our mistake, found by tests."""

    def __init__(self, plain: Mapping[str, Any]) -> None:
        self._types: Mapping[str, Any] = plain["types"]
        self._variables = self._places(plain["storage"])

    def variable(self, label: str) -> Place:
        """A state variable."""
        if label not in self._variables:
            raise RuntimeError(f"the contract has no variable {label!r}")
        return self._variables[label]

    def fields(self, type_name: str) -> dict[str, Place]:
        """Fields of a struct type, slots relative to its start."""
        entry = self._types.get(type_name)
        if entry is None or "members" not in entry:
            raise RuntimeError(f"{type_name!r} is no struct of the contract")
        return self._places(entry["members"])

    def value_type(self, place: Place) -> str:
        """Type name of a mapping's values."""
        return str(self._types[place.type]["value"])

    def words(self, type_name: str) -> int:
        """How many slots a type takes."""
        return -(-int(self._types[type_name]["bytes"]) // 32)

    def _places(self, entries: Any) -> dict[str, Place]:
        return {
            e["label"]: Place(e["slot"], e["offset"], int(self._types[e["type"]]["bytes"]), e["type"]) for e in entries
        }


def mapping_slot(slot: int, key: bytes) -> int:
    """Slot of a mapping's entry. ``key`` is the 32-byte word of a value-type key."""
    return int.from_bytes(keccak256(need_bytes("mapping key", key, 32), slot.to_bytes(32, "big")), "big")


def data_slot(slot: int) -> int:
    """First slot of the data of a dynamic array or long string whose head is at ``slot``."""
    return int.from_bytes(keccak256(slot.to_bytes(32, "big")), "big")


def add(slot: int, offset: int) -> int:
    """Slot arithmetic wraps at 2**256."""
    return (slot + offset) & _WRAP


def address_key(address: bytes) -> bytes:
    """An address as a mapping key."""
    return need_bytes("address", address, 20).rjust(32, b"\0")

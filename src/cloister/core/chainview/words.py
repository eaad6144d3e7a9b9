"""Typed values from proven storage words: structs, texts, addresses. The base of ``records.py`` and ``founding.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cloister.core.chainview.layout import Layout, Place, add, data_slot
from cloister.core.errors import ChainViewError, define

MAX_TEXT = 256

BAD_RECORD = define(
    "chainview.record",
    ChainViewError,
    check="a contract record has the form that the contract writes",
    remedy="the contract at this address is not the one that this build knows; compare network.json",
)


class Slots(Protocol):
    """Words of one contract's storage, as far as they are proven."""

    def get(self, slots: Sequence[int]) -> Sequence[int]:
        """The words of these slots, in order."""


class Struct:
    """One struct instance among several read together: ``bases`` are their first slots, ``index`` chooses."""

    def __init__(self, layout: Layout, type_name: str, slots: Slots, bases: Sequence[int], index: int = 0) -> None:
        self._fields = layout.fields(type_name)
        self._size = layout.words(type_name)
        self._words = slots.get([add(base, i) for base in bases for i in range(self._size)])
        self.index = index

    def _at(self, place: Place, extra: int = 0) -> int:
        return self._words[self.index * self._size + place.slot + extra]

    def number(self, name: str) -> int:
        """The field as an unsigned number; the length of an array or the head word of a text."""
        place = self._fields[name]
        return place.of(self._at(place))

    def flag(self, name: str) -> bool:
        """A boolean field. Raises ChainViewError unless it is 0 or 1."""
        value = self.number(name)
        if value > 1:
            raise BAD_RECORD(expected=f"{name} as 0 or 1", found=str(value))
        return value == 1

    def address(self, name: str) -> bytes:
        """An address field: 20 bytes, zero if unset."""
        return self.number(name).to_bytes(20, "big")

    def word(self, name: str) -> bytes:
        """A bytes32 field."""
        return self.number(name).to_bytes(32, "big")

    def words(self, name: str) -> bytes:
        """A fixed array of bytes32, joined."""
        place = self._fields[name]
        return b"".join(self._at(place, i).to_bytes(32, "big") for i in range(place.size // 32))


def texts_of(slots: Slots, places: Sequence[int], heads: Sequence[int]) -> list[str]:
    """Texts from the slots and values of their head words; the data of all long ones is read together.

    Raises ChainViewError for a text over MAX_TEXT bytes or not as the compiler lays it out.
    """
    long = {i: _long_size(head) for i, head in enumerate(heads) if head & 1}
    wanted = [add(data_slot(places[i]), n) for i, size in long.items() for n in range(-(-size // 32))]
    words = iter(slots.get(wanted))
    texts = []
    for i, head in enumerate(heads):
        size = long.get(i)
        raw = head.to_bytes(32, "big")
        if size is None:
            texts.append(_text(raw[:31], raw[31] >> 1))
        else:
            texts.append(_text(b"".join(next(words).to_bytes(32, "big") for _ in range(-(-size // 32))), size))
    return texts


def _long_size(head: int) -> int:
    size = head >> 1
    if not 32 <= size <= MAX_TEXT:
        raise BAD_RECORD(expected=f"a text of at most {MAX_TEXT} bytes", found=str(size))
    return size


def _text(data: bytes, size: int) -> str:
    if size > len(data) or any(data[size:]):
        raise BAD_RECORD(expected="a text with zero padding", found="another form")
    try:
        return data[:size].decode("utf-8")
    except UnicodeDecodeError:
        raise BAD_RECORD(expected="text in UTF-8", found="other bytes") from None


def address_of_word(word: int) -> bytes:
    """The address that a whole word is: 20 bytes, not zero. Raises ChainViewError."""
    if word == 0 or word >> 160:
        raise BAD_RECORD(expected="an address", found="another word")
    return word.to_bytes(20, "big")

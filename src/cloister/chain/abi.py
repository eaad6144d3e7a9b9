"""The contract ABI: strict, canonical, capped (Solidity documentation, "Contract ABI Specification").

Types: ``uintN``, ``intN``, ``address``, ``bool``, ``bytesN``, ``bytes``, ``string``, ``T[k]``, ``T[]``, tuples.
Values: numbers are ``int``, addresses are 20 ``bytes``, tuples are dicts by field name (encode also takes sequences and
dataclasses, fields in order). ``decode`` takes only what ``encode`` would produce: every offset points right behind
what came before, padding is zero, nothing follows. So its work is linear in the number of bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any

from cloister.core.errors import ChainError, define

MAX_DATA = 1 << 20
_WORD = 32
_ELEMENTARY = re.compile(r"(uint|int|bytes)([0-9]{1,3})|address|bool|bytes|string")
_ARRAY = re.compile(r"(.+)\[([0-9]{0,4})\]")

BAD_ANSWER = define(
    "chain.bad_answer",
    ChainError,
    check="a chain endpoint's answer has the form that the contract's interface gives it",
    remedy="check the contract address and the endpoint; an older contract version answers differently",
    status=502,
)


class Form(Enum):
    """What a type is. Those after BYTES_N have no word of their own: as an indexed field they are hashes."""

    UINT = "uint"
    INT = "int"
    ADDRESS = "address"
    BOOL = "bool"
    BYTES_N = "bytesN"
    BYTES = "bytes"
    STRING = "string"
    ARRAY = "T[k]"
    LIST = "T[]"
    TUPLE = "tuple"


_VALUES = frozenset((Form.UINT, Form.INT, Form.ADDRESS, Form.BOOL, Form.BYTES_N))


@dataclass(frozen=True, slots=True)
class Type:
    """One type. ``text``: as in signatures. ``size``: bits of a number, bytes of ``bytesN``, elements of ``T[k]``.

    ``parts``: members of a tuple with their ``names``, or the one element type. ``head``: bytes before the tails.
    """

    text: str
    form: Form
    size: int = 0
    parts: tuple[Type, ...] = ()
    names: tuple[str, ...] = ()
    dynamic: bool = False
    head: int = _WORD

    @property
    def is_value(self) -> bool:
        """Whether an indexed event field of this type is the value itself, not a hash."""
        return self.form in _VALUES


def parse(item: Mapping[str, Any]) -> Type:
    """The type of an ABI JSON item (``type``, for tuples ``components``). Raises TypeError for any other type."""
    text = str(item["type"])
    array = _ARRAY.fullmatch(text)
    if array:
        return _array(parse({**item, "type": array[1]}), array[2])
    if text == "tuple":
        return _tuple(item["components"])
    found = _ELEMENTARY.fullmatch(text)
    if not found:
        raise TypeError(f"no ABI type {text!r}")
    if found[1] is None:
        form = Form(text)
        return Type(text, form, size=160 if form is Form.ADDRESS else 0, dynamic=form in (Form.BYTES, Form.STRING))
    size = int(found[2])
    if found[1] == "bytes":
        fits, form = 1 <= size <= _WORD, Form.BYTES_N
    else:
        fits, form = 8 <= size <= 256 and size % 8 == 0, Form(found[1])
    if not fits or found[2][0] == "0":
        raise TypeError(f"no ABI type {text!r}")
    return Type(text, form, size)


def _array(element: Type, count: str) -> Type:
    text = f"{element.text}[{count}]"
    if not count:
        return Type(text, Form.LIST, parts=(element,), dynamic=True)
    if int(count) == 0:
        raise TypeError(f"an array of no elements: {text!r}")
    head = _WORD if element.dynamic else element.head * int(count)
    return Type(text, Form.ARRAY, int(count), (element,), dynamic=element.dynamic, head=head)


def _tuple(components: Sequence[Mapping[str, Any]]) -> Type:
    parts = tuple(parse(c) for c in components)
    if not parts:
        raise TypeError("a tuple of nothing")
    dynamic = any(p.dynamic for p in parts)
    head = _WORD if dynamic else sum(p.head for p in parts)
    names = tuple(str(c["name"]) for c in components)
    return Type(f"({','.join(p.text for p in parts)})", Form.TUPLE, 0, parts, names, dynamic, head)


# --- encode ---


def encode(types: Sequence[Type], values: Sequence[Any]) -> bytes:
    """Canonical bytes of the values. Raises TypeError for a value that its type does not have: that is our mistake."""
    if len(types) != len(values):
        raise TypeError(f"{len(types)} ABI values wanted, got {len(values)}")
    heads, tails, offset = [], [], sum(t.head for t in types)
    for kind, value in zip(types, values, strict=True):
        made = _encode(kind, value)
        if kind.dynamic:
            heads.append(offset.to_bytes(_WORD, "big"))
            tails.append(made)
            offset += len(made)
        else:
            heads.append(made)
    return b"".join(heads + tails)


def _encode(kind: Type, value: Any) -> bytes:
    match kind.form:
        case Form.UINT | Form.INT:
            return _number(kind, value)
        case Form.BOOL if isinstance(value, bool):
            return int(value).to_bytes(_WORD, "big")
        case Form.ADDRESS if isinstance(value, bytes) and len(value) == 20:
            return value.rjust(_WORD, b"\0")
        case Form.BYTES_N if isinstance(value, bytes) and len(value) == kind.size:
            return value.ljust(_WORD, b"\0")
        case Form.BYTES if isinstance(value, bytes):
            return len(value).to_bytes(_WORD, "big") + value + bytes(-len(value) % _WORD)
        case Form.STRING if isinstance(value, str):
            return _encode(Type("bytes", Form.BYTES), value.encode())
        case Form.TUPLE:
            return encode(kind.parts, _members(kind, value))
        case Form.LIST if isinstance(value, (list, tuple)):
            return len(value).to_bytes(_WORD, "big") + encode(kind.parts * len(value), value)
        case Form.ARRAY if isinstance(value, (list, tuple)):
            return encode(kind.parts * kind.size, value)
    raise _mistake(kind, value)


def _number(kind: Type, value: Any) -> bytes:
    signed = kind.form is Form.INT
    low, bits = (-(1 << kind.size - 1), kind.size - 1) if signed else (0, kind.size)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value < 1 << bits:
        raise _mistake(kind, value)
    return int(value).to_bytes(_WORD, "big", signed=signed)


def _members(kind: Type, value: Any) -> Sequence[Any]:
    if isinstance(value, Mapping):
        return [value[name] for name in kind.names]
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, f.name) for f in fields(value)]
    if isinstance(value, (list, tuple)):
        return value
    raise _mistake(kind, value)


def _mistake(kind: Type, value: Any) -> TypeError:
    return TypeError(f"a value of ABI type {kind.text} wanted, got {type(value).__name__}")


# --- decode ---


def decode(types: Sequence[Type], data: bytes) -> list[Any]:
    """The values of ``data``, all of it. Raises ChainError (chain.bad_answer) for what ``encode`` would not produce."""
    if len(data) > MAX_DATA:
        raise BAD_ANSWER(expected=f"at most {MAX_DATA} bytes", found=f"{len(data)} bytes")
    values, end = _sequence(types, data, 0)
    if end != len(data):
        raise BAD_ANSWER(expected=f"{end} bytes", found=f"{len(data)} bytes")
    return values


def _sequence(types: Sequence[Type], data: bytes, start: int) -> tuple[list[Any], int]:
    """Values whose heads begin at ``start``, and where their tails end."""
    at, end = start, start + sum(t.head for t in types)
    values = []
    for kind in types:
        if kind.dynamic:
            if _uint(data, at, 256) != end - start:
                raise BAD_ANSWER(expected=f"{kind.text} right behind what came before", found="another offset")
            value, end = _decode(kind, data, end)
            at += _WORD
        else:
            value, at = _decode(kind, data, at)
        values.append(value)
    return values, end


def _decode(kind: Type, data: bytes, at: int) -> tuple[Any, int]:
    """The value that begins at ``at``, and where it ends."""
    match kind.form:
        case Form.TUPLE:
            parts, end = _sequence(kind.parts, data, at)
            return dict(zip(kind.names, parts, strict=True)), end
        case Form.ARRAY:
            return _sequence(kind.parts * kind.size, data, at)
        case Form.LIST:
            count = _count(data, at, kind.parts[0].head, kind.text)
            return _sequence(kind.parts * count, data, at + _WORD)
        case Form.BYTES | Form.STRING:
            size = _count(data, at, 1, kind.text)
            start = at + _WORD
            raw, end = _padded(data, start, size, -(-size // _WORD) * _WORD)
            return (raw if kind.form is Form.BYTES else _text(raw)), end
        case Form.BYTES_N:
            return _padded(data, at, kind.size, _WORD)
        case Form.INT:
            return _int(data, at, kind.size), at + _WORD
        case Form.BOOL:
            return _uint(data, at, 1) == 1, at + _WORD
        case Form.ADDRESS:
            return _uint(data, at, kind.size).to_bytes(20, "big"), at + _WORD
        case Form.UINT:
            return _uint(data, at, kind.size), at + _WORD


def _uint(data: bytes, at: int, bits: int) -> int:
    """The word at ``at`` as a number of at most ``bits`` bits."""
    if at + _WORD > len(data):
        raise BAD_ANSWER(expected="a word", found=f"the end, {len(data)} bytes")
    value = int.from_bytes(data[at : at + _WORD], "big")
    if value >> bits:
        raise BAD_ANSWER(expected=f"a number of at most {bits} bits", found=f"{value.bit_length()} bits")
    return value


def _int(data: bytes, at: int, bits: int) -> int:
    value = _uint(data, at, 256)
    value -= (value >> 255) << 256
    if not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise BAD_ANSWER(expected=f"a signed number of {bits} bits", found="a longer one")
    return value


def _count(data: bytes, at: int, each: int, text: str) -> int:
    """The length word at ``at``; refused before anything is allocated if so many elements cannot follow."""
    count = _uint(data, at, 256)
    if count * each > len(data) - at - _WORD:
        raise BAD_ANSWER(expected=f"{text} within {len(data)} bytes", found="a greater length")
    return count


def _padded(data: bytes, start: int, size: int, room: int) -> tuple[bytes, int]:
    end = start + room
    if end > len(data) or any(data[start + size : end]):
        raise BAD_ANSWER(expected="bytes with zero padding", found="another form")
    return data[start : start + size], end


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise BAD_ANSWER(expected="text in UTF-8", found="other bytes") from None

"""Hex and integer fields at the border: one spelling, exact sizes, named refusals."""

from __future__ import annotations

from typing import Any

from cloister.core.errors import EncodingError, define

BAD_HEX = define(
    "encoding.hex",
    EncodingError,
    check="a byte field is lower-case hex with 0x and of the right size",
    remedy="send bytes as 0x followed by lower-case hex pairs",
)
BAD_SIZE = define(
    "encoding.size",
    EncodingError,
    check="a field has the size that the format gives it",
    remedy="build the value with the functions of cloister.core.encoding",
)
BAD_FIELD = define(
    "encoding.field",
    EncodingError,
    check="an object has exactly the fields of its format, each of its type",
    remedy="compare the object with the format in spec/",
)


def to_hex(data: bytes) -> str:
    """``0x`` + lower-case hex."""
    return "0x" + data.hex()


def from_hex(text: object, size: int | None = None, *, name: str = "field", max_size: int = 1 << 22) -> bytes:
    """Bytes of a hex field. Raises EncodingError unless spelled exactly as ``to_hex`` does and sized right."""
    data = _bytes_of(text) if isinstance(text, str) and len(text) <= 2 + 2 * max_size else None
    if data is None:
        raise BAD_HEX(expected=f"{name} as 0x… lower-case hex", found=f"{type(text).__name__} of another form")
    if size is not None and len(data) != size:
        raise BAD_HEX(expected=f"{name} of {size} bytes", found=f"{len(data)} bytes")
    return data


def _bytes_of(text: str) -> bytes | None:
    """What spells exactly this text; None if nothing does. A third of the time of a regular expression."""
    try:
        data = bytes.fromhex(text[2:])
    except ValueError:
        return None
    return data if to_hex(data) == text else None


def need_bytes(name: str, value: object, size: int) -> bytes:
    """The value, if it is exactly ``size`` bytes. Raises EncodingError."""
    if not isinstance(value, bytes) or len(value) != size:
        found = f"{len(value)} bytes" if isinstance(value, bytes) else type(value).__name__
        raise BAD_SIZE(expected=f"{name} of {size} bytes", found=found)
    return value


def need_uint(name: str, value: object, bits: int) -> int:
    """The value, if it is an integer in [0, 2**bits). Raises EncodingError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0 or value >> bits:
        raise BAD_SIZE(expected=f"{name} as an unsigned {bits}-bit integer", found=repr(value)[:80])
    return value


def need_version(name: str, value: object, version: int) -> None:
    """Raise EncodingError unless the value is this integer: no boolean, no fraction that compares equal."""
    if type(value) is not int or value != version:
        raise BAD_FIELD(expected=f"{name} of version {version}", found=repr(value)[:40])


def need_fields(name: str, value: object, fields: frozenset[str] | set[str]) -> dict[str, Any]:
    """The object, if it is a dict with exactly these keys: unknown fields are refused, not ignored."""
    if not isinstance(value, dict) or set(value) != set(fields):
        found = "no object" if not isinstance(value, dict) else f"fields {sorted(map(str, value))}"
        raise BAD_FIELD(expected=f"{name} with fields {sorted(fields)}", found=found)
    return value

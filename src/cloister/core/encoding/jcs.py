"""Canonical JSON: RFC 8785 (JCS), restricted to what we sign.

Restriction (spec/encoding.md 2): no floating point, integers within ±(2**53 - 1), no duplicate keys, depth <= 32.
Byte strings travel as lower-case hex with 0x. Within that subset JCS is: keys sorted by UTF-16 code units, no
white space, minimal escapes.
"""

from __future__ import annotations

import json
from typing import Any

from cloister.core.errors import EncodingError, define

MAX_SAFE = 2**53 - 1
MAX_DEPTH = 32

NOT_CANONICAL = define(
    "encoding.not_canonical",
    EncodingError,
    check="the text is canonical JSON of the signed subset",
    remedy="encode with cloister.core.encoding.jcs.encode",
)


def encode(value: Any) -> bytes:
    """Canonical UTF-8 bytes of a JSON value. Raises EncodingError for floats, big integers, other types."""
    _check(value, 0)
    ordered = _ordered(value)
    return json.dumps(ordered, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def decode(data: bytes, *, max_size: int = 1 << 20) -> Any:
    """Parse canonical bytes; refuse whatever would not encode to the same bytes again."""
    if len(data) > max_size:
        raise NOT_CANONICAL(expected=f"at most {max_size} bytes", found=f"{len(data)} bytes")
    try:
        value = json.loads(data.decode("utf-8"), parse_float=_refuse_float)
        again = encode(value)
    except (ValueError, RecursionError) as error:
        raise NOT_CANONICAL(expected="JSON", found=type(error).__name__) from None
    if again != data:
        raise NOT_CANONICAL(expected="the canonical form", found="another form of the same value")
    return value


def _refuse_float(text: str) -> Any:
    raise NOT_CANONICAL(expected="an integer or a string", found="a number with a fraction or exponent")


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _ordered(value[k]) for k in sorted(value, key=lambda k: k.encode("utf-16-be"))}
    if isinstance(value, (list, tuple)):
        return [_ordered(item) for item in value]
    return value


def _check(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise NOT_CANONICAL(expected=f"depth <= {MAX_DEPTH}", found="deeper")
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, int):
        if abs(value) > MAX_SAFE:
            raise NOT_CANONICAL(expected="an integer within 2**53 - 1", found="a larger one")
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise NOT_CANONICAL(expected="string keys", found=type(key).__name__)
            _check_text(key)
            _check(item, depth + 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check(item, depth + 1)
    else:
        raise NOT_CANONICAL(expected="a JSON value without floats", found=type(value).__name__)


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise NOT_CANONICAL(expected="valid Unicode", found="a lone surrogate") from None

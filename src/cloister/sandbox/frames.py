"""Frames between worker and harness (spec/sandbox.md 3): ``u32 length | u32 id | u8 type``, little-endian, then
``length`` payload bytes.

The other side is hostile. Every type has its own cap, looked up and compared before a payload byte is kept.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, Final

import msgspec

from cloister.sandbox.errors import PROTOCOL

HEADER: Final = struct.Struct("<IIB")
WINDOW: Final = 256 << 10
CHUNK: Final = 64 << 10
_KIB, _MIB = 1 << 10, 1 << 20


class Kind(IntEnum):
    """Frame types. Below 16: worker to harness."""

    INIT = 1
    REQUEST = 2
    HOST_RESULT = 3
    CANCEL = 4
    CREDIT = 5
    READY = 16
    FAILED = 17
    HEAD = 18
    CHUNK = 19
    END = 20
    ERROR = 21
    HOST_CALL = 22
    LOG = 23
    PONG = 24
    RESPONSE = 25


CAPS: Final[dict[int, int]] = {
    Kind.READY: 1 * _KIB,
    Kind.FAILED: 8 * _KIB,
    Kind.HEAD: 64 * _KIB,
    Kind.CHUNK: CHUNK,
    Kind.END: 0,
    Kind.ERROR: 8 * _KIB,
    Kind.HOST_CALL: 4 * _MIB,
    Kind.LOG: 16 * _KIB,
    Kind.PONG: 0,
    Kind.RESPONSE: 4 + 2 * CHUNK,
}


def pack(kind: Kind, call: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return HEADER.pack(len(payload), call, kind) + payload


def dump(value: Any) -> bytes:
    """JSON bytes of what the worker sends. Raises ValueError or TypeError for what JSON cannot say."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def load_object(payload: bytes) -> dict[str, Any]:
    """The JSON object in a payload. Raises SandboxError (sandbox.protocol)."""
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise PROTOCOL(expected="a JSON object", found=type(error).__name__) from None
    if not isinstance(value, dict):
        raise PROTOCOL(expected="a JSON object", found=type(value).__name__)
    return value


def load_head(payload: bytes) -> dict[str, Any]:
    """A response head, as ``load_object`` gives it: texts with lone surrogates are refused, headers have none."""
    try:
        value = msgspec.json.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise PROTOCOL(expected="a JSON object", found=type(error).__name__) from None
    if not isinstance(value, dict):
        raise PROTOCOL(expected="a JSON object", found=type(value).__name__)
    return value


class Decoder:
    """Splits the harness's byte stream into (type, id, payload). Keeps at most one unfinished frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Frames completed by ``data``. Raises SandboxError (sandbox.protocol) for unknown types and sizes."""
        buffer = self._buffer
        buffer += data
        at = 0
        try:
            while len(buffer) - at >= HEADER.size:
                length, call, kind = HEADER.unpack_from(buffer, at)
                cap = CAPS.get(kind)
                if cap is None:
                    raise PROTOCOL(expected="a frame type of the harness", found=f"type {kind}")
                if length > cap:
                    raise PROTOCOL(expected=f"{Kind(kind).name} of at most {cap} bytes", found=f"{length} bytes")
                end = at + HEADER.size + length
                if end > len(buffer):
                    break
                payload = bytes(buffer[at + HEADER.size : end])
                at = end
                yield kind, call, payload
        finally:
            del buffer[:at]

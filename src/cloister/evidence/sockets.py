"""Unix-socket requests of this machine's own services: one frame out, one frame in, then close.

A frame is len32be || bytes. Used by machines that offer their TEE through a socket: enclaves behind a broker, and the
devnet's pretend hardware.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from pathlib import Path
from typing import Any

from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import CloisterError, EvidenceError, define, from_wire
from cloister.evidence.tee import MAX_CONTEXT

MAX_FRAME = 65536
TIMEOUT_S = 10.0

SOCKET_FAILED = define(
    "evidence.socket",
    EvidenceError,
    check="the machine's TEE service answers on its socket",
    remedy="start the service, and give this user access to the socket",
    status=503,
)


def exchange(path: Path, request: bytes) -> bytes:
    """Send one frame, return the answer's. Blocking; raises EvidenceError (evidence.socket)."""
    if len(request) > MAX_FRAME:
        raise TypeError(f"a frame holds at most {MAX_FRAME} bytes")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(TIMEOUT_S)
            link.connect(str(path))
            link.sendall(struct.pack(">I", len(request)) + request)
            (size,) = struct.unpack(">I", _exactly(link, 4))
            if size > MAX_FRAME:
                raise SOCKET_FAILED(expected=f"an answer of at most {MAX_FRAME} bytes", found=f"{size}")
            return _exactly(link, size)
    except OSError as error:
        raise SOCKET_FAILED(expected=f"an answer from {path.name}", found=error.strerror or "a timeout") from None


def call(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    """One JSON request and answer. Raises EvidenceError: the service's own refusal, or evidence.socket quoting it."""
    raw = exchange(path, json.dumps(request).encode())
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError):
        raise SOCKET_FAILED(expected="a JSON answer", found=f"{len(raw)} bytes of something else") from None
    if not isinstance(answer, dict):
        raise SOCKET_FAILED(expected="a JSON object", found=type(answer).__name__)
    if "error" in answer:
        raise _refusal(answer["error"])
    return answer


class SealingSocket:
    """Sealing keys from a service of this machine, at a Unix socket."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def key(self, context: bytes) -> bytes:
        """32 bytes for a context of at most 1 KiB. Raises EvidenceError."""
        if len(context) > MAX_CONTEXT:
            raise TypeError(f"a sealing context holds at most {MAX_CONTEXT} bytes")
        answer = await asyncio.to_thread(call, self._path, {"op": "sealing_key", "context": to_hex(context)})
        text = answer.get("key")
        if not isinstance(text, str) or len(text) != 66 or not text.startswith("0x"):
            raise SOCKET_FAILED(expected="a key of 32 bytes", found="another answer")
        try:
            return bytes.fromhex(text[2:])
        except ValueError:
            raise SOCKET_FAILED(expected="a key in hex", found="another text") from None


def _refusal(fields: object) -> CloisterError:
    error = from_wire(fields, status=503)
    if isinstance(error, EvidenceError):
        return error
    return SOCKET_FAILED(expected="the request to be answered", found=f"{error.code}: {error.found}")


def _exactly(link: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = link.recv(size - len(data))
        if not piece:
            raise SOCKET_FAILED(expected=f"{size} bytes", found=f"{len(data)}, then the end")
        data += piece
    return bytes(data)

"""Responses of Oblivious HTTP in chunks, the client's end. See ``ohttp_chunks.py``."""

from __future__ import annotations

from cloister.core.envelope.ohttp import MALFORMED, TOO_LARGE, Exchange, read_length
from cloister.core.envelope.ohttp_chunks import MAX_CHUNK, ChunkCipher
from cloister.core.errors import CloisterError, EnvelopeError, define
from cloister.core.keys import hpke

TRUNCATED = define(
    "ohttp.truncated",
    EnvelopeError,
    check="an answer in chunks ends with its final chunk",
    remedy="the connection broke or somebody cut the answer; repeat if the request is safe to repeat",
    status=502,
)
_MOST = MAX_CHUNK + hpke.TAG_SIZE


class ChunkOpener:
    """Feed it what arrives, in pieces of any size. The final chunk ends where the stream does: ``close`` opens it."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._buffer = bytearray()
        self._cipher: ChunkCipher | None = None
        self._last = self._refused = False

    def feed(self, data: bytes) -> list[bytes]:
        """The data of each chunk that these bytes complete; never the final one's.

        Raises EnvelopeError: ohttp.malformed, ohttp.too_large, ohttp.not_authentic. After a raise nothing opens."""
        if self._refused:
            raise TRUNCATED(expected="an intact answer", found="bytes after a failed check")
        try:
            self._buffer += data
            return self._drained()
        except CloisterError:
            self._refused = True
            raise

    def drop(self) -> None:
        """What opened was no answer: nothing opens any more."""
        self._refused = True

    def close(self) -> bytes:
        """Say that the stream ended: the data of the final chunk. Raises EnvelopeError: ohttp.truncated where there
        is none, ohttp.not_authentic where it is another."""
        if self._refused or self._cipher is None or not self._last or len(self._buffer) < hpke.TAG_SIZE:
            raise TRUNCATED(expected="a final chunk", found=f"the end, {len(self._buffer)} bytes into another")
        self._refused = True  # there is one end
        return self._cipher.open(bytes(self._buffer), last=True)

    def _drained(self) -> list[bytes]:
        size = self._exchange.nonce_size
        if self._cipher is None and len(self._buffer) >= size:
            self._cipher = ChunkCipher(self._exchange, bytes(self._buffer[:size]))
            del self._buffer[:size]
        opened: list[bytes] = []
        at = 0
        while self._cipher is not None and not self._last and (length := read_length(self._buffer, at)):
            size, start = length
            if size and not hpke.TAG_SIZE <= size <= _MOST:
                raise MALFORMED(expected=f"a chunk of {hpke.TAG_SIZE} to {_MOST} bytes", found=f"{size} bytes"[:40])
            if size and len(self._buffer) < start + size:
                break
            self._last, at = not size, start + size
            if size:
                opened.append(self._cipher.open(bytes(self._buffer[start:at]), last=False))
        del self._buffer[:at]
        if len(self._buffer) > _MOST + 8:
            raise TOO_LARGE(expected=f"a final chunk of at most {_MOST} bytes", found="more")
        return opened

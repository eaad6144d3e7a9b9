"""Responses of Oblivious HTTP in chunks (draft-ietf-ohai-chunked-ohttp-08, section 6.2): cipher and worker's end. The
client's is ``ohttp_chunks_client.py``.

nonce ‖ chunks; a chunk is its length (RFC 9000 section 16) and its ciphertext, the final one a length of zero and what
is left. Its number is in its nonce, and whether it is the final one in its associated data: so no chunk opens in
another place, and no other chunk ends an answer.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag

from cloister.core.encoding.hexes import need_bytes
from cloister.core.envelope.bhttp import varint
from cloister.core.envelope.ohttp import FINAL, NOT_AUTHENTIC, Exchange
from cloister.core.keys import hpke

# Data of a chunk: what is sent, as every receiver of the draft takes it (section 3), and what is taken here.
CHUNK: Final = 1 << 14
MAX_CHUNK: Final = 256 << 10
MAX_NUMBER: Final = 1 << 32


class ChunkCipher:
    """Key and counter of one response. Either end holds one, and passes every chunk through it in order."""

    __slots__ = ("_base", "_cipher", "_number")

    def __init__(self, exchange: Exchange, nonce: bytes) -> None:
        self._cipher, iv = exchange.keys(need_bytes("response nonce", nonce, exchange.nonce_size))
        self._base, self._number = int.from_bytes(iv, "big"), 0

    def seal(self, data: bytes, *, last: bool) -> bytes:
        """The next chunk, as it travels."""
        text = self._cipher.encrypt(self._next(), data, FINAL if last else b"")
        return (b"\0" if last else varint(len(text))) + text

    def open(self, text: bytes, *, last: bool) -> bytes:
        """The data of the next chunk, by its ciphertext. Raises EnvelopeError (ohttp.not_authentic)."""
        number = self._number
        try:
            return self._cipher.decrypt(self._next(), text, FINAL if last else b"")
        except (InvalidTag, ValueError):
            raise NOT_AUTHENTIC(expected=f"chunk {number} of this answer", found="another chunk") from None

    def _next(self) -> bytes:
        if self._number >= MAX_NUMBER:
            raise NOT_AUTHENTIC(expected=f"at most {MAX_NUMBER} chunks", found="more")
        number, self._number = self._number, self._number + 1
        return (self._base ^ number).to_bytes(hpke.NONCE_SIZE, "big")


class ChunkSealer:
    """The worker's end: what to write next. One per request: each draws a new nonce."""

    __slots__ = ("_cipher", "_lead")

    def __init__(self, exchange: Exchange, rng: hpke.Rng) -> None:
        self._lead = rng(exchange.nonce_size)
        self._cipher = ChunkCipher(exchange, self._lead)

    def seal(self, data: bytes, *, last: bool = False) -> bytes:
        """One more chunk; before the first one the response's nonce. Nothing may follow the last one."""
        lead, self._lead = self._lead, b""
        return lead + self._cipher.seal(data, last=last)

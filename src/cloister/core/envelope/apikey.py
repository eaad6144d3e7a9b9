"""API keys of agents: a secret that never travels, proved by a MAC over one session (spec/sealed-http.md 12).

``secret`` 32 random bytes, made and kept by whoever calls. From it the MAC key, which the agent's workers keep sealed;
from that the id, 20 bytes, which is public. An id is a hash: nobody can choose one that is somebody's address.
"""

from __future__ import annotations

import hmac
import re
from typing import Final

from cloister.core.encoding.contexts import Context, digest, frame
from cloister.core.encoding.hexes import need_bytes
from cloister.core.envelope.model import CallerKind
from cloister.core.errors import EnvelopeError, define

SECRET_SIZE: Final = 32
_TEXT: Final = re.compile(r"clk1_[0-9a-f]{64}")

BAD_TEXT = define(
    "envelope.api_key_text",
    EnvelopeError,
    check="an API key is `clk1_` and 64 hex digits",
    remedy="copy the whole text that `cloister agent keys new` printed",
)


def mac_key(secret: bytes) -> bytes:
    """What workers know of a key: 32 bytes."""
    return digest(Context.API_KEY, b"mac", need_bytes("API key", secret, SECRET_SIZE))


def key_id(mac: bytes) -> bytes:
    """The public name of a key, from its MAC key: 20 bytes."""
    return digest(Context.API_KEY, b"id", need_bytes("MAC key", mac, 32))[:20]


def session_mac(mac: bytes, session: bytes) -> bytes:
    """HMAC-SHA256 over frame(API_KEY, "session", session), 32 bytes. ``session``: the CallerSession's digest, which
    names network, agent, boot, exporter and expiry: so a MAC opens one session and no other."""
    return hmac.digest(mac, frame(Context.API_KEY, b"session", need_bytes("digest", session, 32)), "sha256")


class ApiKey:
    """A key in the hands of a caller. ``address``: its id. Signs sessions as a wallet does (``client.call.Who``)."""

    __slots__ = ("_mac", "_secret", "address")

    kind: CallerKind = "apikey"
    agent: None = None

    def __init__(self, secret: bytes) -> None:
        self._secret, self._mac = secret, mac_key(secret)
        self.address = key_id(self._mac)

    def __repr__(self) -> str:
        return f"ApiKey(0x{self.address.hex()})"

    def __reduce__(self) -> str:
        raise TypeError("an API key is not pickled: its secret stays in this process")

    @classmethod
    def parse(cls, text: str) -> ApiKey:
        """The key of a text. Raises EnvelopeError (envelope.api_key_text), which does not show it."""
        if not _TEXT.fullmatch(text.strip()):
            raise BAD_TEXT(expected="clk1_ and 64 hex digits", found=f"{len(text)} characters of another form")
        return cls(bytes.fromhex(text.strip()[5:]))

    @property
    def text(self) -> str:
        """The secret as people keep it. Show it once, to whoever made it."""
        return f"clk1_{self._secret.hex()}"

    @property
    def mac(self) -> bytes:
        """The MAC key, for the owner's order that makes the key known."""
        return self._mac

    def sign(self, digest: bytes) -> bytes:
        """32 bytes over a CallerSession's digest."""
        return session_mac(self._mac, digest)

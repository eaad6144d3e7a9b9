"""Sealed requests and replies of the Anchor (spec/anchor.md 23-26).

payload = period (8 bytes) || IBE ciphertext to the agent's ``call`` key of that period, or the plain message.
message = reply key (32 bytes, only with flag 2) || body.
reply = enc (32 bytes) || HPKE base ciphertext to the reply key, or the plain reply.
The associated data names network, agent, requester and flags: a payload copied by another requester does not open. At
a connected chain it names that chain too, for there the same address may be somebody else's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cloister.core.chainview.anchor import SEALED_PAYLOAD, SEALED_REPLY
from cloister.core.encoding.contexts import Context, frame
from cloister.core.encoding.hexes import need_bytes
from cloister.core.encoding.identity import AgentVersion, Purpose
from cloister.core.errors import SealError, define
from cloister.core.keys import hpke
from cloister.core.threshold import ibe
from cloister.core.threshold.ibe import DerivedKey

_KEY: Final = 32
_PERIOD: Final = 8

BAD_PAYLOAD = define(
    "anchor.payload",
    SealError,
    check="a sealed payload names a period, opens with that period's key, and has the reply key that its flags promise",
    remedy="seal the payload again, to the agent's present epochs and period, for this requester",
)


@dataclass(frozen=True, slots=True)
class Message:
    """An opened payload. ``reply_key``: X25519 public key (32 bytes), None for a public reply."""

    body: bytes
    reply_key: bytes | None = None


def payload_period(payload: bytes) -> int:
    """The period whose key opens a sealed payload. Raises SealError."""
    if len(payload) <= _PERIOD:
        raise BAD_PAYLOAD(expected="a period and a ciphertext", found=f"{len(payload)} bytes")
    return int.from_bytes(payload[:_PERIOD], "big")


def seal_payload(
    mpk: bytes,
    version: AgentVersion,
    period: int,
    requester: bytes,
    flags: int,
    message: Message,
    rng: hpke.Rng,
    chain: int | None = None,
) -> bytes:
    """The payload of a request, sealed as its flags say. ``chain``: the connected chain that it is for, None for the
    network's own. Raises SealError where message and flags differ."""
    plain = _joined(flags, message)
    if not flags & SEALED_PAYLOAD:
        return plain
    identity = bytes(version.key(Purpose.CALL, period))
    sealed = ibe.encrypt(mpk, identity, plain, _aad(version, requester, flags, chain), rng)
    return period.to_bytes(_PERIOD, "big") + sealed


def open_payload(
    key_of: Callable[[int], DerivedKey | None],
    mpk: bytes,
    version: AgentVersion,
    requester: bytes,
    flags: int,
    payload: bytes,
    chain: int | None = None,
) -> Message:
    """The message in a payload. ``key_of(period)`` gives the agent's call key, if it is held; ``chain`` as in
    ``seal_payload``. Raises SealError, ThresholdError."""
    if not flags & SEALED_PAYLOAD:
        return _split(flags, payload)
    period = payload_period(payload)
    key = key_of(period)
    if key is None:
        raise BAD_PAYLOAD(expected="a period of a lease held now", found=f"period {period}")
    aad = _aad(version, requester, flags, chain)
    identity = bytes(version.key(Purpose.CALL, period))
    return _split(flags, ibe.decrypt(key, mpk, identity, payload[_PERIOD:], aad))


def seal_reply(message: Message, commitment: bytes, reply: bytes, rng: hpke.Rng) -> bytes:
    """The reply as its request wants it. ``commitment``: the request's, 32 bytes; it binds the reply to it."""
    if message.reply_key is None:
        return reply
    enc, context = hpke.setup_sender(message.reply_key, _info(commitment), rng=rng)
    return enc + context.seal_at(0, b"", reply)


def open_reply(key: X25519PrivateKey, commitment: bytes, reply: bytes) -> bytes:
    """The requester's end of ``seal_reply``. Raises SealError."""
    if len(reply) < _KEY:
        raise BAD_PAYLOAD(expected="an encapsulated key and a ciphertext", found=f"{len(reply)} bytes")
    return hpke.setup_recipient(reply[:_KEY], key, _info(commitment)).open_at(0, b"", reply[_KEY:])


def _joined(flags: int, message: Message) -> bytes:
    if bool(flags & SEALED_REPLY) != (message.reply_key is not None):
        raise BAD_PAYLOAD(expected="a reply key exactly with flag 2", found=f"flags {flags}")
    return (b"" if message.reply_key is None else need_bytes("reply key", message.reply_key, _KEY)) + message.body


def _split(flags: int, plain: bytes) -> Message:
    if not flags & SEALED_REPLY:
        return Message(plain)
    if len(plain) < _KEY:
        raise BAD_PAYLOAD(expected="a reply key of 32 bytes", found=f"{len(plain)} bytes")
    return Message(plain[_KEY:], plain[:_KEY])


def _aad(version: AgentVersion, requester: bytes, flags: int, chain: int | None) -> bytes:
    where = [] if chain is None else [chain.to_bytes(8, "big")]
    asked = (version.network, version.agent, need_bytes("requester", requester, 20), bytes([flags]))
    return frame(Context.ANCHOR_PAYLOAD, *asked, *where)


def _info(commitment: bytes) -> bytes:
    return frame(Context.ANCHOR_REPLY, need_bytes("commitment", commitment, 32))

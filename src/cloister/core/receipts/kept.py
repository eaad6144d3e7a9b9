"""Receipts as the store keeps them: its operator reads nothing (spec/receipts.md 11).

Kept form: ``u8 1 | wrapped key 48 | AES-256-GCM(receipt bytes)``. The content key is
digest(RECEIPT_KEPT, "caller", salt): the caller of that request derives it from the salt that its session gives it.
It is wrapped for the agent's owner under the agent's ``log`` key. AAD of both is the receipt's id.
"""

from __future__ import annotations

from hashlib import sha256
from hmac import compare_digest
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cloister.core.encoding.contexts import Context, digest, frame
from cloister.core.encoding.hexes import need_bytes
from cloister.core.errors import ReceiptError, define
from cloister.core.receipts.receipt import MAX_RECEIPT, Receipt

_VERSION: Final = 1
_NONCE: Final = bytes(12)
_WRAPPED: Final = 48
MAX_KEPT: Final = 1 + _WRAPPED + MAX_RECEIPT + 16
_CALLER: Final = b"caller"
_CALLER_LEAD: Final = frame(Context.RECEIPT_KEPT, _CALLER) + b"\0\0\0\x20"

NOT_OPENED = define(
    "receipt.kept",
    ReceiptError,
    check="the kept receipt opens for this caller or owner, and is the one of that id",
    remedy="ask with the salt of that very call, or as the owner of the agent at those epochs",
    status=403,
)


class OwnerKey:
    """What an agent version's ``log`` key does with the receipts of one boot. Never shows the key."""

    __slots__ = ("_aead",)

    def __init__(self, log_key: bytes, boot: bytes) -> None:
        """``log_key``: 32 bytes derived for purpose LOG. The key used is that of one boot: see ``wrap``."""
        self._aead = AESGCM(digest(Context.RECEIPT_KEPT, b"owner", need_bytes("log key", log_key, 32), boot))

    def __repr__(self) -> str:
        return "OwnerKey(<secret>)"

    def wrap(self, key: bytes, receipt: Receipt) -> bytes:
        """``key`` for the owner. The nonce is the receipt's number: a boot gives each number once. 48 bytes."""
        return self._aead.encrypt(_nonce(receipt.seq), key, receipt.id)

    def unwrap(self, wrapped: bytes, seq: int, receipt_id: bytes) -> bytes:
        """The content key of receipt ``seq``. Raises InvalidTag."""
        return self._aead.decrypt(_nonce(seq), wrapped, receipt_id)


def seal_kept(receipt: Receipt, salt: bytes, owner: OwnerKey) -> bytes:
    """The kept form. ``salt``: the 32 bytes of ``commitments.receipt_salt``, which no other receipt has."""
    key = sha256(_CALLER_LEAD + salt).digest()  # digest(RECEIPT_KEPT, "caller", salt): made for every call
    sealed = AESGCM(key).encrypt(_NONCE, receipt.encoded, receipt.id)
    return b"\1%b%b" % (owner.wrap(key, receipt), sealed)


def open_as_caller(kept: bytes, receipt_id: bytes, salt: bytes) -> Receipt:
    """The receipt of that id. Raises ReceiptError: receipt.kept, receipt.malformed. It is not verified further."""
    _in_form(kept)
    return _opened(kept, receipt_id, digest(Context.RECEIPT_KEPT, _CALLER, salt))


def open_as_owner(kept: bytes, receipt_id: bytes, seq: int, owner: OwnerKey) -> Receipt:
    """The receipt of that id and number. Raises ReceiptError: receipt.kept, receipt.malformed."""
    _in_form(kept)
    try:
        key = owner.unwrap(kept[1 : 1 + _WRAPPED], seq, receipt_id)
    except InvalidTag:
        raise NOT_OPENED(expected="a receipt of this agent and boot", found="one that does not open") from None
    return _opened(kept, receipt_id, key)


def _opened(kept: bytes, receipt_id: bytes, key: bytes) -> Receipt:
    try:
        data = AESGCM(key).decrypt(_NONCE, kept[1 + _WRAPPED :], receipt_id)
    except InvalidTag:
        raise NOT_OPENED(expected="a receipt sealed to this caller", found="one that does not open") from None
    receipt = Receipt.decode(data)
    if not compare_digest(receipt.id, receipt_id):
        raise NOT_OPENED(expected="the receipt of this id", found="another")
    return receipt


def _in_form(kept: bytes) -> None:
    if not 1 + _WRAPPED + 16 < len(kept) <= MAX_KEPT or kept[0] != _VERSION:
        raise NOT_OPENED(expected="a kept receipt, version 1", found=f"{len(kept)} bytes of another form")


def _nonce(seq: int) -> bytes:
    return seq.to_bytes(12, "big")

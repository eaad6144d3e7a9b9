"""Every domain separator of the project, in one place, none used twice (spec/encoding.md 3).

A context is the ASCII name ``cloister/v1/<what>``. Hashing, key derivation and plain signatures take the context
first, then a zero byte, then length-prefixed parts; so no two uses can collide. Committee and wallet statements are
EIP-712 typed data instead (``statements.py``), because contracts must check them.
"""

from __future__ import annotations

import hashlib
from enum import Enum
from typing import Final


class Context(Enum):
    """A domain separator. The value is the wire text."""

    # hashes
    NETWORK_ID = "cloister/v1/network-id"
    REPORT_DATA = "cloister/v1/report-data"
    CONFIG = "cloister/v1/config"
    MEASUREMENT = "cloister/v1/measurement"
    POLICY = "cloister/v1/policy"
    DKG_CEREMONY = "cloister/v1/dkg/ceremony"
    DKG_RESHARING = "cloister/v1/dkg/resharing"
    DKG_DEALING = "cloister/v1/dkg/dealing"
    DKG_TRANSCRIPT = "cloister/v1/dkg/transcript"
    DKG_PROOF = "cloister/v1/dkg/proof-of-possession"
    STATE_HEAD = "cloister/v1/state/head"
    STATE_KEY_NAME = "cloister/v1/state/key-name"
    RECEIPT = "cloister/v1/receipt"
    RECEIPT_REQUEST = "cloister/v1/receipt/request"
    RECEIPT_RESPONSE = "cloister/v1/receipt/response"
    RECEIPT_BATCH = "cloister/v1/receipt/batch"
    RECEIPT_KEPT = "cloister/v1/receipt/kept"
    TRACE = "cloister/v1/trace"
    KEY_CERTIFICATE = "cloister/v1/key-certificate"
    FRESHNESS = "cloister/v1/freshness"
    EVIDENCE = "cloister/v1/evidence"
    DEVICE_NONCE = "cloister/v1/device-nonce"
    DEVICE_EVIDENCE = "cloister/v1/device-evidence"
    AUDIT_LOG = "cloister/v1/audit-log"
    IBE_CIPHERTEXT = "cloister/v1/ibe/ciphertext"
    # hash-to-curve and key derivation
    KEY_POINT = "cloister/v1/key-point"
    IBE_MASK = "cloister/v1/ibe/mask"
    IBE_SCALAR = "cloister/v1/ibe/scalar"
    IBE_BODY = "cloister/v1/ibe/body"
    DERIVED_KEY = "cloister/v1/derived-key"
    DKG_SHARE_TRANSPORT = "cloister/v1/dkg/share-transport"
    SHARE_AT_REST = "cloister/v1/share-at-rest"
    NODE_AT_REST = "cloister/v1/node-at-rest"
    DISK_KEY = "cloister/v1/disk-key"
    DISK_SEAL = "cloister/v1/disk-seal"
    STATE_DATA_KEY = "cloister/v1/state/data-key"
    SEALED_REQUEST = "cloister/v1/sealed/request"
    SEALED_RESPONSE = "cloister/v1/sealed/response"
    SEALED_INFO = "cloister/v1/sealed/info"
    SEALED_ONESHOT = "cloister/v1/sealed/one-shot"
    OBLIVIOUS_KEY = "cloister/v1/oblivious/key"
    KEY_SIGNATURE = "cloister/v1/key-signature"
    KEYSTORE = "cloister/v1/keystore"
    SECRETS = "cloister/v1/secrets"
    AGENT_SIGNING = "cloister/v1/agent/signing"
    AGENT_ED25519 = "cloister/v1/agent/ed25519"
    ACCOUNT_NONCE = "cloister/v1/account/nonce"
    AGENT_CALLER = "cloister/v1/agent/caller"
    API_KEY = "cloister/v1/api-key"
    AGENT_LOG = "cloister/v1/agent/log"
    OWNER_LOG_KEY = "cloister/v1/owner/log-key"
    ANCHOR_PAYLOAD = "cloister/v1/anchor/payload"
    ANCHOR_REPLY = "cloister/v1/anchor/reply"

    def __init__(self, text: str) -> None:
        self.dst: Final = text.encode()
        """The context as bytes, for hash-to-curve DSTs, HKDF info prefixes and HPKE info."""
        self.lead: Final = self.dst + b"\0"
        """What every frame of it begins with."""


def frame(context: Context, *parts: bytes) -> bytes:
    """``context || 0x00 || (len32be || part)*``: an injective encoding of the parts under the context."""
    return context.lead + b"".join([len(p).to_bytes(4, "big") + p for p in parts])


def digest(context: Context, *parts: bytes) -> bytes:
    """SHA-256 over ``frame``. 32 bytes."""
    return hashlib.sha256(frame(context, *parts)).digest()

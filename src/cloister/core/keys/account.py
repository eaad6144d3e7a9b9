"""An agent's own signing key: one per agent epoch, from its `identity` key (spec/sandbox.md 8).

Whoever holds a lease of the agent derives it; the agent's code never does. On chain it counts as the signer of the
agent's contract account once the committee has registered it there for this epoch.
"""

from __future__ import annotations

from coincurve import PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister.core.encoding.contexts import Context
from cloister.core.threshold.ibe import DerivedKey


def signing_key(identity_key: DerivedKey, identity: bytes) -> PrivateKey:
    """The secp256k1 key of one agent epoch. ``identity``: the bytes of the `identity` key's identity.

    HKDF to 32 bytes, with a counter byte until the number is a scalar of the curve (SEC 2; the first nearly always)."""
    for counter in range(256):
        try:
            return PrivateKey(identity_key.symmetric(Context.AGENT_SIGNING, identity + bytes([counter])))
        except ValueError:
            continue
    raise RuntimeError("256 hashes in a row that are no scalars")


def ed25519_key(identity_key: DerivedKey, identity: bytes) -> Ed25519PrivateKey:
    """The Ed25519 key (RFC 8032) of one agent epoch, of another context than the one above; no contract limits it."""
    return Ed25519PrivateKey.from_private_bytes(identity_key.symmetric(Context.AGENT_ED25519, identity))

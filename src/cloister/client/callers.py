"""Callers that are no wallets: contract accounts and API keys. Each implements ``client.call.Who``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cloister.core.encoding.hexes import need_bytes
from cloister.core.envelope.apikey import ApiKey
from cloister.core.envelope.model import MAX_SIGNATURE, TOO_LARGE, CallerKind

__all__ = ["ApiKey", "ContractWallet"]


@dataclass(frozen=True, slots=True)
class ContractWallet:
    """A contract account, such as a multi-signature wallet, as a caller (EIP-1271; spec/sealed-http.md 11).

    ``address``: 20 bytes. ``signer``: makes what the contract's ``isValidSignature`` accepts over a 32-byte digest, at
    most 4096 bytes; it is the digest itself that the contract is asked about. Sends no transactions."""

    address: bytes
    signer: Callable[[bytes], bytes] = field(repr=False)

    def __post_init__(self) -> None:
        need_bytes("contract account", self.address, 20)

    @property
    def kind(self) -> CallerKind:
        """A contract answers for itself."""
        return "contract"

    @property
    def agent(self) -> None:
        """A contract account is no agent's key."""

    def sign(self, digest: bytes) -> bytes:
        """The signature. Raises EnvelopeError (envelope.too_large)."""
        made = self.signer(digest)
        if len(made) > MAX_SIGNATURE:
            raise TOO_LARGE(expected=f"a signature of at most {MAX_SIGNATURE} bytes", found=f"{len(made)} bytes")
        return made

"""Signers of agents' accounts on the wire (spec/accounts.md 2): a worker names one, members sign."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from cloister.core.encoding.hexes import from_hex, need_fields, to_hex
from cloister.core.encoding.signatures import Signed
from cloister.core.encoding.statements import Lease, SetSigner
from cloister.wire.committee import Committee
from cloister.wire.messages import SIGNATURE, signed_from_json, signed_to_json
from cloister.wire.signatures import ask_signatures

ROUTE: Final = "/v1/account-signer"


@dataclass(frozen=True, slots=True)
class AccountSignerRequest:
    """``asked``: what is to be signed, with the worker's signature over it; ``held``: its lease of the agent."""

    asked: SetSigner
    signature: bytes
    held: Signed

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "asked": self.asked.to_json(),
            "signature": to_hex(self.signature),
            "held": signed_to_json(self.held),
        }

    @classmethod
    def from_json(cls, value: object) -> AccountSignerRequest:
        """Parse ``to_json``. Raises EncodingError. Signatures are not verified here."""
        data = need_fields("account signer request", value, {"asked", "signature", "held"})
        return cls(
            SetSigner.from_json(data["asked"]),
            from_hex(data["signature"], SIGNATURE, name="signature"),
            signed_from_json(Lease, data["held"]),
        )


async def ask_account_signer(committee: Committee, request: AccountSignerRequest) -> Signed:
    """The SetSigner with t signatures. Raises gatekeeper.too_few, or the refusal that t members share."""
    return await ask_signatures(committee, ROUTE, request.to_json(), request.asked)

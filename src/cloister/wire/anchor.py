"""POST /v1/anchor-lease: asking members to sign a worker's lease at the Anchor (spec/anchor.md 34)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from cloister.core.encoding.contract_statements import AnchorLease
from cloister.core.encoding.hexes import from_hex, need_fields, to_hex
from cloister.core.encoding.signatures import Signed
from cloister.core.encoding.statements import Lease
from cloister.core.errors import CloisterError
from cloister.wire.committee import Committee
from cloister.wire.messages import SIGNATURE, signed_from_json, signed_to_json

ROUTE: Final = "/v1/anchor-lease"


@dataclass(frozen=True, slots=True)
class AnchorLeaseRequest:
    """``lease``: what is to be signed, with the worker's signature over it; ``held``: its ordinary lease."""

    lease: AnchorLease
    signature: bytes
    held: Signed

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "lease": self.lease.to_json(),
            "signature": to_hex(self.signature),
            "held": signed_to_json(self.held),
        }

    @classmethod
    def from_json(cls, value: object) -> AnchorLeaseRequest:
        """Parse ``to_json``. Raises EncodingError. Signatures are not verified here."""
        data = need_fields("anchor lease request", value, {"lease", "signature", "held"})
        return cls(
            AnchorLease.from_json(data["lease"]),
            from_hex(data["signature"], SIGNATURE, name="signature"),
            signed_from_json(Lease, data["held"]),
        )


async def ask_anchor_lease(committee: Committee, request: AnchorLeaseRequest) -> Signed:
    """The lease with t signatures. Raises gatekeeper.too_few, or the refusal that t members share."""
    body = request.to_json()
    answers = await asyncio.gather(*(committee.caught(url, "POST", ROUTE, body) for url in committee.endpoints))
    good: dict[bytes, bytes] = {}
    refused: list[CloisterError] = []
    for answer in answers:
        try:
            if isinstance(answer, CloisterError):
                raise answer
            data = need_fields("anchor lease answer", answer, {"signature"})
            signature = from_hex(data["signature"], SIGNATURE, name="signature")
            good[committee.member(request.lease, signature)] = signature
        except CloisterError as error:
            refused.append(error)
    threshold = committee.signers.threshold
    if len(good) < threshold:
        raise committee.too_few(threshold, refused)
    return Signed(request.lease, tuple(good.values()))

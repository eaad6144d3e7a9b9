"""Anchors on the wire: leases that members sign (spec/anchor.md 34), and answers that anybody may bring."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Final

from cloister.core.chainview.anchor import MAX_COPIES, MAX_PAYLOAD, Asked
from cloister.core.encoding.contract_statements import AnchorLease, RemoteAgent
from cloister.core.encoding.hexes import from_hex, need_fields, need_uint, to_hex
from cloister.core.encoding.signatures import Signed
from cloister.core.encoding.statements import Lease
from cloister.wire.committee import Committee
from cloister.wire.messages import BAD_MESSAGE, SIGNATURE, signed_from_json, signed_to_json
from cloister.wire.signatures import ask_signatures

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
    return await ask_signatures(committee, ROUTE, request.to_json(), request.lease)


@dataclass(frozen=True, slots=True)
class Ready:
    """A signed answer to a contract's request: whoever pays the gas may bring it. ``by``: (worker, signature) in rising
    order of address; ``told`` and ``lease``: to be brought before it, None where the chain has them."""

    chain_id: int
    request: Asked
    reply: bytes
    by: tuple[tuple[bytes, bytes], ...]
    lease: Signed | None
    told: Signed | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "chain_id": self.chain_id,
            "request": self.request.to_json(),
            "reply": base64.b64encode(self.reply).decode(),
            "by": [[to_hex(worker), to_hex(signature)] for worker, signature in self.by],
            "lease": None if self.lease is None else signed_to_json(self.lease),
            "told": None if self.told is None else signed_to_json(self.told),
        }

    @classmethod
    def from_json(cls, value: object) -> Ready:
        """Parse ``to_json``. Raises EncodingError, TransportError. No signature is verified: the contract does that."""
        data = need_fields("ready answer", value, {"chain_id", "request", "reply", "by", "lease", "told"})
        try:
            reply = base64.b64decode(data["reply"], validate=True) if isinstance(data["reply"], str) else None
        except (binascii.Error, ValueError):
            reply = None
        by = data["by"] if isinstance(data["by"], list) else []
        pairs = [pair for pair in by if isinstance(pair, list) and len(pair) == 2]
        if reply is None or len(reply) > MAX_PAYLOAD + 64 or not 1 <= len(pairs) == len(by) <= MAX_COPIES:
            raise BAD_MESSAGE(expected="a reply and 1 to 8 signatures", found="another form")
        return cls(
            chain_id=need_uint("chain_id", data["chain_id"], 53),
            request=Asked.from_json(data["request"]),
            reply=reply,
            by=tuple((from_hex(w, 20, name="worker"), from_hex(s, SIGNATURE, name="signature")) for w, s in pairs),
            lease=None if data["lease"] is None else signed_from_json(AnchorLease, data["lease"]),
            told=None if data["told"] is None else signed_from_json(RemoteAgent, data["told"]),
        )

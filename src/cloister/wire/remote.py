"""Agents told to connected chains, on the wire (spec/chains.md 28): a worker asks, members sign."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from cloister.core.encoding.contract_statements import RemoteAgent
from cloister.core.encoding.hexes import from_hex, need_fields, to_hex
from cloister.core.encoding.signatures import Signed
from cloister.core.encoding.statements import Lease
from cloister.wire.committee import Committee
from cloister.wire.messages import SIGNATURE, signed_from_json, signed_to_json
from cloister.wire.signatures import ask_signatures

ROUTE: Final = "/v1/remote-agent"


@dataclass(frozen=True, slots=True)
class RemoteAgentRequest:
    """``asked``: what is to be signed, with the worker's signature over it; ``held``: its lease of the agent."""

    asked: RemoteAgent
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
    def from_json(cls, value: object) -> RemoteAgentRequest:
        """Parse ``to_json``. Raises EncodingError. Signatures are not verified here."""
        data = need_fields("remote agent request", value, {"asked", "signature", "held"})
        return cls(
            RemoteAgent.from_json(data["asked"]),
            from_hex(data["signature"], SIGNATURE, name="signature"),
            signed_from_json(Lease, data["held"]),
        )


async def ask_remote_agent(committee: Committee, request: RemoteAgentRequest) -> Signed:
    """The statement with t signatures. Raises gatekeeper.too_few, or the refusal that t members share."""
    return await ask_signatures(committee, ROUTE, request.to_json(), request.asked)

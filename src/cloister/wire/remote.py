"""Agents told to connected chains, on the wire (spec/chains.md 28): a worker asks, members sign."""

from __future__ import annotations

from typing import Final

from cloister.core.encoding.contract_statements import RemoteAgent
from cloister.core.encoding.signatures import Signed
from cloister.wire.committee import Committee
from cloister.wire.signatures import LeasedRequest, ask_signatures

ROUTE: Final = "/v1/remote-agent"


class RemoteAgentRequest(LeasedRequest[RemoteAgent]):
    """For a ``RemoteAgent``."""

    __slots__ = ()
    STATEMENT = RemoteAgent
    TITLE = "remote agent request"


async def ask_remote_agent(committee: Committee, request: RemoteAgentRequest) -> Signed:
    """The statement with t signatures. Raises gatekeeper.too_few, or the refusal that t members share."""
    return await ask_signatures(committee, ROUTE, request.to_json(), request.asked)

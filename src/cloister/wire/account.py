"""Signers of agents' accounts on the wire (spec/accounts.md 2): a worker names one, members sign."""

from __future__ import annotations

from typing import Final

from cloister.core.encoding.signatures import Signed
from cloister.core.encoding.statements import SetSigner
from cloister.wire.committee import Committee
from cloister.wire.signatures import LeasedRequest, ask_signatures

ROUTE: Final = "/v1/account-signer"


class AccountSignerRequest(LeasedRequest[SetSigner]):
    """For a ``SetSigner``."""

    __slots__ = ()
    STATEMENT = SetSigner
    TITLE = "account signer request"


async def ask_account_signer(committee: Committee, request: AccountSignerRequest) -> Signed:
    """The SetSigner with t signatures. Raises gatekeeper.too_few, or the refusal that t members share."""
    return await ask_signatures(committee, ROUTE, request.to_json(), request.asked)

"""Carrying the committee to a connected chain's Anchor, term after term: anybody may (spec/chains.md 21-24).

The contract there believes t signatures of the set that it holds, and nobody else. So endpoints may lie: a signature
counts here only if it is one of the set's own over the statement that most of them name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import aiohttp

from cloister.chain.anchor import NAME, AnchorChain
from cloister.chain.contracts import call
from cloister.chain.rpc import quantity
from cloister.chain.tx import Receipt, Sender
from cloister.core.encoding.contract_statements import SignerHandover
from cloister.core.encoding.handover import members_hash
from cloister.core.encoding.hexes import from_hex, need_fields
from cloister.core.encoding.signatures import MAX_MEMBERS, Signed, recover
from cloister.core.errors import ChainError, CloisterError, define
from cloister.wire.ask import ask
from cloister.wire.messages import SIGNATURE

MAX_TERMS = 64

EXPIRED = define(
    "client.set_expired",
    ChainError,
    check="the signer set that a connected Anchor holds counts still",
    remedy="an expired set hands over no more: publish a new Anchor there, and its record in the Directory",
    status=409,
)
NOT_CARRIED = define(
    "client.set_not_carried",
    ChainError,
    check="t signers of the set that the Anchor holds sign its successor",
    remedy="ask more members of that term: those who resigned still sign while they run",
    status=503,
)


async def carry_signers(
    session: aiohttp.ClientSession, endpoints: Sequence[str], network: bytes, payer: Sender, anchor: bytes, term: int
) -> list[Receipt]:
    """Hand the Anchor of the payer's chain over, set by set, until it holds ``term``. What is done already is left.

    ``endpoints``: of gatekeepers, of all terms since; ``network``: the network id. Raises client.set_not_carried,
    client.set_expired, ChainError."""
    chain, done = AnchorChain(payer.rpc, anchor, payer, payer.kind), list[Receipt]()
    held = await call(payer.rpc, anchor, NAME, "signerSet")
    if int(held["term"]) >= term:
        return done
    newest = await payer.rpc.call("eth_getBlockByNumber", "latest", False)
    now = quantity(newest.get("timestamp") if isinstance(newest, dict) else None, "timestamp")
    if int(held["expiry"]) <= now:
        raise EXPIRED(expected=f"a set that counts at {now}", found=f"term {held['term']}, until {held['expiry']}")
    for old in range(int(held["term"]), min(term, int(held["term"]) + MAX_TERMS)):
        signed, members = await _gathered(session, endpoints, network, payer, anchor, old)
        done.append(await chain.hand_over(signed, members))
    return done


async def _gathered(
    session: aiohttp.ClientSession, endpoints: Sequence[str], network: bytes, payer: Sender, anchor: bytes, term: int
) -> tuple[Signed, tuple[bytes, ...]]:
    """The hand-over of one term with t signatures. 1. everybody is asked; 2. only for this place and term, with the
    members that it names; 3. only signers of the set that the Anchor holds count, each once."""
    path = f"/v1/chains/{payer.chain_id}/signers/{term}"
    asked = (ask(session, "GET", url.rstrip("/") + path) for url in endpoints)
    answers = await asyncio.gather(*asked, return_exceptions=True)  # 1
    found: dict[tuple[SignerHandover, tuple[bytes, ...]], dict[bytes, bytes]] = {}
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, CloisterError):
            raise answer
        try:
            statement, members, signature = _parsed(answer)
            signer = recover(statement.digest(network), signature)
        except CloisterError:
            continue
        fits = (statement.term, statement.chain_id, statement.anchor) == (term, payer.chain_id, anchor)  # 2
        if fits and statement.members == members_hash(members) and await _holds(payer, anchor, signer):  # 3
            found.setdefault((statement, members), {})[signer] = signature
    needed = int((await call(payer.rpc, anchor, NAME, "signerSet"))["threshold"])
    for (statement, members), signatures in found.items():
        if len(signatures) >= needed:
            return Signed(statement, tuple(signatures.values())[:needed]), members
    most = max((len(s) for s in found.values()), default=0)
    raise NOT_CARRIED(expected=f"{needed} signers of term {term}", found=f"{most} of {len(endpoints)} members asked")


async def _holds(payer: Sender, anchor: bytes, signer: bytes) -> bool:
    return bool(await call(payer.rpc, anchor, NAME, "isSigner", signer))


def _parsed(answer: Any) -> tuple[SignerHandover, tuple[bytes, ...], bytes]:
    if isinstance(answer, CloisterError):
        raise answer
    data = need_fields("signer set", answer, {"statement", "members", "signature"})
    said = data["members"] if isinstance(data["members"], list) else []
    members = tuple(from_hex(member, 20, name="member") for member in said[: MAX_MEMBERS + 1])
    return (
        SignerHandover.from_json(data["statement"]),
        members,
        from_hex(data["signature"], SIGNATURE, name="signature"),
    )

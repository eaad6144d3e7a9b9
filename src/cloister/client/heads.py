"""An agent whose store was forked: what heads the members hold, and which one its owner accepts (spec/state.md 13).

A host that shows two workers two stores splits the members: no head gets a quorum, and endorsement stops. Which branch
goes on is the owner's choice, among heads that t members hold; the contract keeps it, and every member follows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

from cloister.chain.contracts import encode
from cloister.chain.tx import Receipt
from cloister.client.committee import Reading, Sitting
from cloister.client.deploy import bump_epoch, set_paused
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.signatures import verify_signer
from cloister.core.encoding.statements import StateHead
from cloister.core.errors import CloisterError, StateError, TransportError, define
from cloister.core.state.rows import Head
from cloister.wire.ask import ask, new_session
from cloister.wire.heads import HeadAnswer, HeadMove, fresh_digest

if TYPE_CHECKING:
    from cloister.client.client import Client

NOT_ACCEPTABLE = define(
    "client.not_acceptable",
    StateError,
    check="a head that is accepted is held by t members, in doubt, and no member holds a higher one",
    remedy="`cloister agent heads AGENT` shows what each holds; where no head has t members, call the agent on the "
    "longer branch until it has, or leave the state with `cloister keys rotate agent AGENT --wipe`",
    status=409,
)
TOO_FEW = define(
    "client.heads_unknown",
    TransportError,
    check="t members say which head they hold, each over a fresh nonce",
    remedy="see with `cloister gatekeeper status` who is away, and try again",
    status=503,
)


@dataclass(frozen=True, slots=True)
class Holding:
    """What one member holds of an agent: ``seat`` from 1, its newest head (None: it knows none), and its signature over
    the ``StateHead`` of it (65 bytes; empty without a head)."""

    seat: int
    head: Head | None
    signature: bytes


@dataclass(frozen=True, slots=True)
class Candidate:
    """One head, and who holds it. ``signatures``: by seat. ``endorsed``: q members hold it, so nothing is in doubt.

    ``acceptable``: the owner may accept it now."""

    head: Head
    signatures: dict[int, bytes]
    endorsed: bool
    acceptable: bool

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "height": self.head.height,
            "head": to_hex(self.head.head),
            "parent": to_hex(self.head.parent),
            "agent_epoch": self.head.epochs.agent,
            "seats": sorted(self.signatures),
            "endorsed": self.endorsed,
            "acceptable": self.acceptable,
        }


def candidates(holdings: Sequence[Holding], threshold: int, quorum: int) -> list[Candidate]:
    """The heads that members hold, the highest first.

    Acceptable: t members hold it, nobody holds one of higher (epochs, height), and q do not: then it needs no word."""
    found: dict[Head, dict[int, bytes]] = {}
    for one in holdings:
        if one.head is not None:
            found.setdefault(one.head, {})[one.seat] = one.signature
    order = sorted(found, key=lambda h: (h.epochs, h.height, len(found[h]), h.head), reverse=True)
    top = (order[0].epochs, order[0].height) if order else None
    return [
        Candidate(
            head,
            found[head],
            len(found[head]) >= quorum,
            (head.epochs, head.height) == top and threshold <= len(found[head]) < quorum,
        )
        for head in order
    ]


async def holdings_of(reading: Reading, network: bytes, agent: bytes, rng: Callable[[int], bytes]) -> list[Holding]:
    """What each member in office that answers holds of an agent (32-byte id), proven by its signatures.

    ``network``: 32-byte id. ``rng`` gives the nonces. Raises TransportError below t answers."""
    session = new_session()
    try:
        asked = [one for one in reading.sittings if one.endpoint is not None and not one.revoked]
        answers = (_holding(session, one, network, reading.term.term, agent, rng(32)) for one in asked)
        found = [one for one in await asyncio.gather(*answers) if one is not None]
    finally:
        await session.close()
    if len(found) < reading.term.threshold:
        raise TOO_FEW(expected=f"{reading.term.threshold} members", found=str(len(found)))
    return found


def forked(reading: Reading, holdings: Sequence[Holding]) -> list[Candidate]:
    """``candidates`` of the committee that was read; q as members count it (state.md 10)."""
    return candidates(holdings, reading.term.threshold, (len(reading.sittings) + 1) // 2 + 1)


async def accept_head(
    client: Client, reading: Reading, agent: bytes, head: bytes, rng: Callable[[int], bytes], say: Callable[[str], None]
) -> Receipt:
    """Accept a head (32 bytes) as the agent's owner. Raises StateError (client.not_acceptable), ChainError.

    1. it may be accepted, as members hold it now; 2. the agent is paused, so that no branch grows meanwhile; 3. it may
    still be; 4. new keys for the agent, so that every worker loads anew; 5. t members' signatures to the contract."""
    _pick(forked(reading, await holdings_of(reading, client.network.id, agent, rng)), head)  # 1
    record = await client.resolver.record(agent)
    if not record.paused:  # 2
        say("pausing the agent")
        await set_paused(client, agent, True)
    chosen = _pick(forked(reading, await holdings_of(reading, client.network.id, agent, rng)), head)  # 3
    if record.epoch <= chosen.head.epochs.agent:  # 4
        say("making new keys for the agent")
        await bump_epoch(client, agent)
    said = HeadMove.of(agent, chosen.head).statement(reading.term.term)
    signatures = [chosen.signatures[seat] for seat in sorted(chosen.signatures)][: reading.term.threshold]
    fields = tuple(getattr(said, name) for name in StateHead.TYPES)
    return await client.send("Reseals", encode("Reseals", "acceptHead", record.token_id, fields, signatures))  # 5


def _pick(found: Sequence[Candidate], head: bytes) -> Candidate:
    for one in found:
        if one.head.head == head:
            if one.acceptable:
                return one
            held = (
                "q members hold it: nothing is in doubt" if one.endorsed else f"seats {sorted(one.signatures)} hold it"
            )
            raise NOT_ACCEPTABLE(expected="the highest head, of t members and fewer than q", found=held)
    raise NOT_ACCEPTABLE(expected="a head that members hold", found=to_hex(head)[:18])


async def _holding(
    session: aiohttp.ClientSession, sitting: Sitting, network: bytes, term: int, agent: bytes, nonce: bytes
) -> Holding | None:
    """1. the answer is over our nonce, and this member's; 2. so is the head; 3. it is of this agent."""
    url = f"{str(sitting.endpoint).rstrip('/')}/v1/heads/{to_hex(agent)}?nonce={to_hex(nonce)}"
    try:
        answer = HeadAnswer.from_json(await ask(session, "GET", url))
        verify_signer(fresh_digest(network, term, nonce, agent, answer.head), answer.fresh, sitting.address)  # 1
        if answer.head is None:
            return Holding(sitting.seat, None, b"")
        move = answer.head.move
        verify_signer(move.statement(term).digest(network), answer.head.signature, sitting.address)  # 2
    except CloisterError:
        return None
    return Holding(sitting.seat, move.as_head(), answer.head.signature) if move.agent == agent else None  # 3

"""Moves of a committee that a person starts: a refresh of its shares, a new master key; and waiting for their end.

Who may start them is the contract's decision (spec/gatekeepers.md R6, M1): anybody when it is due, the DAO a rotation
at any time, or t members by a signed ``MasterRotation``. What the chain proves is looked at first, so that a
refusal says what is in the way, and from which block on it is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

from cloister.chain.contracts import call, encode
from cloister.chain.tx import Receipt
from cloister.client.committee import CommitteeReader, Reading
from cloister.core.chainview.ceremonies import Ending, EpochState
from cloister.core.encoding.handover import MasterRotation
from cloister.core.encoding.hexes import from_hex, need_fields, to_hex
from cloister.core.encoding.signatures import MAX_MEMBERS, Signed
from cloister.core.errors import CloisterError, PolicyError, ThresholdError, define

if TYPE_CHECKING:
    from cloister.client.client import Client

POLL_S: Final = 0.5
PATIENCE_S: Final = 120.0

IN_THE_WAY = define(
    "client.committee_busy",
    PolicyError,
    check="no other ceremony, pause, revoked seat or second master epoch stands in the way of a new ceremony",
    remedy="look with `cloister gatekeeper status`; what is in the way ends by itself, at the block that is named",
    status=409,
)
NOT_DUE = define(
    "client.not_due",
    PolicyError,
    check="a ceremony is due, or the DAO starts it",
    remedy="wait for the block, or let the DAO send it; --call-data prints its transaction",
    status=409,
)
FAILED = define(
    "client.ceremony_failed",
    ThresholdError,
    check="the ceremony ended with enough equal confirmations",
    remedy="nothing changed; see with `cloister gatekeeper status` who was missing, then start it again",
    status=409,
)
BAD_VOTES = define(
    "client.rotation_votes",
    PolicyError,
    check="t members of the term in office signed that this master epoch is to end",
    remedy="gather the signatures again for the present term and master epoch",
)


def require_free(reading: Reading, *, rotation: bool) -> None:
    """Raise PolicyError (client.committee_busy) unless a ceremony could open now, as far as the chain proves it.

    1. none is open; 2. the pause after the last is over; 3. no seat is revoked; 4. for a rotation, one epoch lives."""
    at, view = reading.checkpoint.number, reading.ceremony
    if view is not None and view.ending is Ending.OPEN:  # 1
        raise IN_THE_WAY(expected="no open ceremony", found=f"{view.kind.value} ceremony {view.number}")
    if at < reading.rested:  # 2
        raise IN_THE_WAY(expected=f"block {reading.rested}: a pause follows each ceremony", found=f"block {at}")
    if reading.term.revoked:  # 3
        raise IN_THE_WAY(expected="no revoked seat", found=f"seats {sorted(reading.term.revoked)}: an election is next")
    if rotation and len(reading.epochs) > 1:  # 4
        older = [epoch.epoch for epoch in reading.epochs[:-1]]
        raise IN_THE_WAY(expected="one master epoch that lives", found=f"epoch {older[0]} is not destroyed yet")


async def refresh(client: Client, reading: Reading) -> Receipt:
    """New shares of the same key for the same members: anybody may, when it is due. Raises PolicyError, ChainError."""
    require_free(reading, rotation=False)
    due = reading.term.height + reading.rules.refresh_blocks
    if reading.checkpoint.number < due:
        raise NOT_DUE(expected=f"block {due}", found=f"block {reading.checkpoint.number}")
    return await client.send("Gatekeepers", encode("Gatekeepers", "refresh"))


async def rotate(client: Client, reading: Reading) -> Receipt:
    """A new master key: the DAO at any time, anybody when it is due. Raises PolicyError, ChainError."""
    require_free(reading, rotation=True)
    due = reading.newest.confirmed_at + reading.rules.rotation_blocks
    owner, wallet = await dao_of(client), client.need_wallet().address
    if reading.checkpoint.number < due and wallet != owner:
        raise NOT_DUE(expected=f"block {due}, or the DAO {to_hex(owner)}", found=f"{to_hex(wallet)} at block "
                      f"{reading.checkpoint.number}")  # fmt: skip
    return await client.send("Gatekeepers", encode("Gatekeepers", "rotate"))


async def rotate_signed(client: Client, reader: CommitteeReader, reading: Reading, votes: Signed) -> Receipt:
    """A new master key by t members' statement, which anybody may bring. Raises PolicyError, ChainError."""
    require_free(reading, rotation=True)
    statement, terms = votes.statement, reader.terms
    wanted = MasterRotation(reading.term.term, reading.newest.epoch)
    if statement != wanted or terms is None:
        raise BAD_VOTES(expected=str(wanted.to_json()), found=str(statement.to_json()))
    terms.verify(votes, reading.checkpoint.number)
    fields = (wanted.term, wanted.master_epoch)
    return await client.send("Gatekeepers", encode("Gatekeepers", "rotateByCommittee", fields, votes.signatures))


async def rotation_call(client: Client) -> dict[str, Any]:
    """The transaction for a DAO that is a contract: {dao, to, data}, as hex."""
    to, data = client.address("Gatekeepers"), encode("Gatekeepers", "rotate")
    return {"dao": to_hex(await dao_of(client)), "to": to_hex(to), "data": to_hex(data)}


async def dao_of(client: Client) -> bytes:
    """The contract's owner: 20 bytes. For messages only: unproven."""
    owner: bytes = await call(client.rpc, client.address("Gatekeepers"), "Gatekeepers", "owner")
    return owner


async def not_resealed(client: Client, epoch: int) -> int:
    """How many agents are still counted under a master epoch (epochs.md 13). For people: unproven."""
    found: int = await call(client.rpc, client.address("Reseals"), "Reseals", "remaining", epoch)
    return found


def votes_from_json(value: object) -> Signed:
    """{statement: {term, master_epoch}, signatures: [hex]}. Raises EncodingError, PolicyError."""
    data = need_fields("rotation", value, {"statement", "signatures"})
    signatures = data["signatures"]
    if not isinstance(signatures, list) or not 1 <= len(signatures) <= MAX_MEMBERS:
        raise BAD_VOTES(expected=f"1 to {MAX_MEMBERS} signatures", found=type(signatures).__name__)
    parsed = tuple(from_hex(one, 65, name="signature") for one in signatures)
    return Signed(MasterRotation.from_json(data["statement"]), parsed)


async def watch(reader: CommitteeReader, number: int, *, poll_s: float = POLL_S) -> AsyncIterator[Reading]:
    """Readings of a ceremony (``number``, from 1) each time that something changed, until its end is recorded.

    Between two terms no checkpoint counts for a while: failures are borne for two minutes, then raised. Raises
    ThresholdError (client.ceremony_failed) if it failed or was cancelled."""
    last: object = None
    async for reading in _readings(reader, poll_s):
        view = reading.ceremony
        if view is None or view.number < number:
            continue
        said = reading.to_json()["ceremony"]
        if (key := (said["number"], said["phase"], said["missing"], said["recorded"])) != last:
            last = key
            yield reading
        if view.number > number or not reading.running:
            _require_done(reading, number)
            return


async def await_resumed(reader: CommitteeReader, epoch: int, *, poll_s: float = POLL_S) -> AsyncIterator[Reading]:
    """One reading when t members have said that a master epoch's keys may be used (M2). Raises CloisterError."""
    async for reading in _readings(reader, poll_s):
        newest = reading.newest
        if newest.epoch > epoch or (newest.epoch == epoch and newest.state is EpochState.RESUMED):
            yield reading
            return


async def _readings(reader: CommitteeReader, poll_s: float) -> AsyncIterator[Reading]:
    loop = asyncio.get_running_loop()
    since = loop.time()
    while True:
        try:
            reading = await reader.read()
        except CloisterError:
            if loop.time() > since + PATIENCE_S:
                raise
        else:
            since = loop.time()
            yield reading
        await asyncio.sleep(poll_s)


def _require_done(reading: Reading, number: int) -> None:
    view = reading.ceremony
    if view is not None and view.number == number and view.ending is not Ending.DONE:
        raise FAILED(expected="an end with a result", found=f"ceremony {number}: {view.ending.name.lower()}")

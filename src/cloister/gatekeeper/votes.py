"""``MasterResume``: t members say that a rotation is final, so that its keys may be used (spec/gatekeepers.md M2).

Each member decides alone, from proven records, signs, and shows its signature; one of them sends t of them.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp

from cloister.core.chainview.ceremonies import CeremonyView, EpochRecord, EpochState
from cloister.core.chainview.founding import SeatsRecord
from cloister.core.encoding import jcs
from cloister.core.encoding.handover import MasterResume
from cloister.core.encoding.hexes import from_hex, need_fields, to_hex
from cloister.core.encoding.signatures import verify_signer
from cloister.core.errors import CloisterError, PolicyError, define
from cloister.core.threshold.phases import Kind
from cloister.gatekeeper.ports import Snapshot
from cloister.gatekeeper.store import Store
from cloister.node.identity import NodeKeys
from cloister.wire.ask import ask

BLOB = "resume/"

NO_VOTE = define(
    "gatekeeper.no_resume",
    PolicyError,
    check="this member signed that the rotation of that master epoch is final",
    remedy="wait until the rotation's confirmation is final",
    status=404,
)


def resume_of(seats: SeatsRecord, epoch: EpochRecord, made_by: CeremonyView) -> MasterResume | None:
    """The statement that is due: the newest epoch waits for it, and this ceremony made it. Else None."""
    waits = epoch.state is EpochState.PAUSED and epoch.epoch == seats.master_epoch > 1
    if not waits or made_by.kind is not Kind.ROTATE or made_by.master_epoch != epoch.epoch:
        return None
    return MasterResume(seats.term, made_by.id, epoch.epoch)


class Votes:
    """Our signatures under ``MasterResume``, and those of others."""

    def __init__(self, store: Store, keys: NodeKeys, session: aiohttp.ClientSession) -> None:
        self._store, self._keys, self._session = store, keys, session

    def sign(self, statement: MasterResume, network: bytes) -> bytes:
        """Sign, and show it from now on."""
        signature = self._keys.sign(statement.digest(network))
        body = {"statement": statement.to_json(), "signature": to_hex(signature)}
        self._store.put(f"{BLOB}{statement.master_epoch}", jcs.encode(body))
        return signature

    def served(self, epoch: int) -> Any:
        """GET /v1/resume/{epoch}: our vote. Raises PolicyError (gatekeeper.no_resume)."""
        blob = self._store.get(f"{BLOB}{epoch}")
        if blob is None:
            raise NO_VOTE(expected=f"a vote on epoch {epoch}", found="none")
        return jcs.decode(blob)

    async def gather(
        self, statement: MasterResume, network: bytes, members: tuple[bytes, ...], at: Snapshot
    ) -> list[bytes]:
        """Our signature, and those of members that answer with the same statement; one each, in order of seats."""
        own = self.sign(statement, network)
        candidates = await at.candidates(members)
        answers = await asyncio.gather(
            *(
                self._ask(c.endpoint, statement, network, member)
                for member, c in zip(members, candidates, strict=True)
                if c is not None and member != self._keys.address
            )
        )
        return [own, *(signature for signature in answers if signature is not None)]

    async def _ask(self, endpoint: str, statement: MasterResume, network: bytes, member: bytes) -> bytes | None:
        try:
            value = await ask(self._session, "GET", f"{endpoint.rstrip('/')}/v1/resume/{statement.master_epoch}")
            data = need_fields("vote", value, {"statement", "signature"})
            signature = from_hex(data["signature"], 65, name="signature")
            if MasterResume.from_json(data["statement"]) != statement:
                return None
            verify_signer(statement.digest(network), signature, member)
        except CloisterError:
            return None
        return signature

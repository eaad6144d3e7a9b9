"""Hand-overs between terms: signed by the old members, gathered from them, served to all (spec/gatekeepers.md H1).

A member signs one hand-over per term that it sat in, from proven records alone, and stores it before it shows it. Each
member gathers the others' signatures until t are there; then it puts them into the contract, if nobody did before.
"""

from __future__ import annotations

import asyncio

import aiohttp

from cloister.core.chainview.ceremonies import TermRecord
from cloister.core.chainview.terms import SignedHandover
from cloister.core.encoding import jcs
from cloister.core.encoding.handover import Handover, members_hash
from cloister.core.encoding.hexes import need_fields
from cloister.core.encoding.signatures import recover
from cloister.core.errors import ChainViewError, CloisterError, define
from cloister.gatekeeper.ports import Snapshot
from cloister.gatekeeper.store import Store
from cloister.node import logs
from cloister.node.identity import NodeKeys
from cloister.wire.ask import ask

BLOB = "handover/"
MAX_SERVED = 256
LOOK_BACK = 8

TWO_SUCCESSORS = define(
    "gatekeeper.two_successors",
    ChainViewError,
    check="a term hands over once",
    remedy="this member signed another successor of the term: finality broke, or an endpoint lies; compare endpoints",
    status=503,
)
_log = logs.get("handover")


def handover_of(old: TermRecord, new: TermRecord) -> Handover:
    """The statement that follows from the records of two terms."""
    return Handover(
        term=old.term,
        next_term=new.term,
        threshold=new.threshold,
        members=members_hash(new.members),
        master_epoch=new.master_epoch,
        mpk=new.mpk_hash,
        height=new.height,
        timestamp=new.timestamp,
    )


class Handovers:
    """Hand-overs that this member knows, with as many signatures as it has."""

    def __init__(self, store: Store, keys: NodeKeys, session: aiohttp.ClientSession) -> None:
        self._store, self._keys, self._session = store, keys, session
        self._done: set[int] = set()

    def get(self, term: int) -> SignedHandover | None:
        """The hand-over of a term, complete or not."""
        blob = self._store.get(f"{BLOB}{term}")
        return None if blob is None else SignedHandover.from_json(jcs.decode(blob))

    def served(self) -> dict[str, object]:
        """GET /v1/handovers: those with t signatures, and those that wait for some; the newest 256, oldest first."""
        terms = sorted(int(name.removeprefix(BLOB)) for name in self._store.names(BLOB))[-MAX_SERVED:]
        known = [one for term in terms if (one := self.get(term)) is not None]
        return {
            "handovers": [one.to_json() for one in known if one.statement.term in self._done],
            "signing": [one.to_json() for one in known if one.statement.term not in self._done],
        }

    async def step(self, at: Snapshot, term: int, network: bytes) -> None:
        """Sign and gather what is missing of the hand-overs that led to ``term``. Raises CloisterError."""
        for old in range(max(1, term - LOOK_BACK), term):
            if old not in self._done:
                await self._complete(at, await at.term_record(old), await at.term_record(old + 1), network)

    async def _complete(self, at: Snapshot, old: TermRecord, new: TermRecord, network: bytes) -> None:
        statement = handover_of(old, new)
        signatures = self._own(old, new, statement, network)
        needed, voters = old.threshold, _voters(old)
        if len(signatures) < needed:
            theirs = await self._gather(at, old, statement)
            for signature in theirs:
                signer = _signer(statement.digest(network), signature)
                if signer in voters:
                    signatures[signer] = signature
            self._put(SignedHandover(statement, new.members, tuple(signatures[v] for v in voters if v in signatures)))
        if len(signatures) >= needed:
            self._done.add(old.term)
            _log.info("hand-over complete", term=old.term, next=new.term)

    def _own(self, old: TermRecord, new: TermRecord, statement: Handover, network: bytes) -> dict[bytes, bytes]:
        """Signatures by signer that we have; ours among them, if we may sign. Raises ChainViewError."""
        known, digest, voters = self.get(old.term), statement.digest(network), _voters(old)
        if known is not None and known.statement != statement:
            raise TWO_SUCCESSORS(expected=f"the successor of term {old.term} as before", found="another")
        signatures = {_signer(digest, s): s for s in (() if known is None else known.signatures)}
        if self._keys.address in voters and self._keys.address not in signatures:
            signatures[self._keys.address] = self._keys.sign(digest)
            self._put(SignedHandover(statement, new.members, tuple(signatures[v] for v in voters if v in signatures)))
        return {signer: s for signer, s in signatures.items() if signer is not None}

    async def _gather(self, at: Snapshot, old: TermRecord, statement: Handover) -> list[bytes]:
        found = list(await at.handover_signatures(old.term))
        candidates = await at.candidates(tuple(m for m in old.members if m != self._keys.address))
        answers = await asyncio.gather(*(self._ask(c.endpoint, statement) for c in candidates if c is not None))
        return found + [signature for answer in answers for signature in answer]

    async def _ask(self, endpoint: str, statement: Handover) -> list[bytes]:
        try:
            value = await ask(self._session, "GET", f"{endpoint.rstrip('/')}/v1/handovers")
            data = need_fields("hand-overs", value, {"handovers", "signing"})
            items = [item for part in (data["handovers"], data["signing"]) for item in _list(part)]
            same = [one for item in items if (one := SignedHandover.from_json(item)).statement == statement]
        except CloisterError as error:
            _log.debug("no hand-overs", endpoint=endpoint, code=error.code)
            return []
        return [signature for one in same for signature in one.signatures]

    def _put(self, handover: SignedHandover) -> None:
        if handover.signatures:
            self._store.put(f"{BLOB}{handover.statement.term}", jcs.encode(handover.to_json()))


def _voters(old: TermRecord) -> tuple[bytes, ...]:
    """Members whose signature counts: no revoked seat signs anything (E7)."""
    return tuple(member for seat, member in enumerate(old.members, 1) if seat not in old.revoked)


def _signer(digest: bytes, signature: bytes) -> bytes | None:
    try:
        return recover(digest, signature)
    except CloisterError:
        return None


def _list(value: object) -> list[object]:
    return value[: 2 * MAX_SERVED] if isinstance(value, list) else []

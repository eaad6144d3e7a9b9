"""What answers workers, made anew for every office: a term, a seat, shares that live (spec/gatekeeper-api.md 4-11)."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

from cloister.core.attestation.policy import Policy
from cloister.core.chainview.header import Header
from cloister.core.encoding.network import Genesis
from cloister.core.encoding.signatures import SignerSet
from cloister.gatekeeper.account import AccountSignerDesk
from cloister.gatekeeper.admissions import AdmissionDesk
from cloister.gatekeeper.anchor import AnchorLeaseDesk
from cloister.gatekeeper.audit import AuditLog
from cloister.gatekeeper.believing import Believing
from cloister.gatekeeper.chains import ConnectedChains
from cloister.gatekeeper.checkpoints import Checkpoints
from cloister.gatekeeper.grants import KeyDesk
from cloister.gatekeeper.limits import RateLimit
from cloister.gatekeeper.logs import LogDesk
from cloister.gatekeeper.lookout import Lookout
from cloister.gatekeeper.memory import HeadDesk
from cloister.gatekeeper.office import Office
from cloister.gatekeeper.ports import Chain, Snapshot
from cloister.gatekeeper.remote import RemoteAgentDesk
from cloister.gatekeeper.store import Store
from cloister.gatekeeper.watch import Watch
from cloister.wire.committee import Committee

KEYS_PER_S, KEYS_BURST = 50.0, 600
# How long after a hand-over a new member asks the members of the term before for their tables.
ELDER_BLOCKS = 64


@dataclass(frozen=True, slots=True)
class Desks:
    """What answers workers, once in office."""

    office: Office
    checkpoints: Checkpoints
    keys: KeyDesk
    admissions: AdmissionDesk
    heads: HeadDesk
    logs: LogDesk
    committee: Committee
    account_signers: AccountSignerDesk
    lookout: Lookout
    anchor_leases: AnchorLeaseDesk | None = None
    remote_agents: RemoteAgentDesk | None = None


class DeskMaker:
    """Makes the desks of an office."""

    def __init__(
        self,
        chain: Chain,
        store: Store,
        audit: AuditLog,
        policy: Policy,
        genesis: Genesis,
        chains: ConnectedChains,
        watch: Watch,
        believing: Believing,
    ) -> None:
        self._chain, self._store, self._audit, self._watch = chain, store, audit, watch
        self._believing = believing
        self._policy, self._genesis, self._chains = policy, genesis, chains

    async def make(
        self,
        office: Office,
        headers: list[Header],
        at: Snapshot,
        since: int,
        before: Desks | None,
        *,
        founded: bool,
    ) -> Desks:
        """Desks for an office, proven at the last of ``headers``. Blocks up to ``since`` were for the term before.

        ``before``: the desks until now. ``founded``: this process saw the founding. Raises CloisterError."""
        stayed = before if before is not None and before.office.term in (office.term, office.term - 1) else None
        self._watch.serve(office, self._genesis.chain_id, headers[-1].number)
        checkpoints = await self._book(office, headers, since, stayed)
        self._watch.placements.serve(office, checkpoints)
        committee = Committee(await endpoints(at, office.signers.members), office.signers, office.network)
        limit = RateLimit(per_s=KEYS_PER_S, burst=KEYS_BURST, clock=time.monotonic)
        elders = None if stayed is not None else await self._elders(office, headers, at, since)
        lookout = Lookout(office, checkpoints, committee, secrets.token_bytes)
        heads = self._heads(office, checkpoints, committee, limit, stayed, elders, first=office.term == 1 and founded)
        keys = KeyDesk(
            office,
            checkpoints,
            self._chain,
            self._store,
            self._audit,
            policy=self._policy,
            limit=limit,
            rng=secrets.token_bytes,
            sealed=heads.sealed,
            look=lookout.require,
        )
        return Desks(
            office,
            checkpoints,
            keys,
            AdmissionDesk(office, checkpoints, self._chain, self._audit, policy=self._policy, limit=limit),
            heads,
            LogDesk(office, checkpoints, self._chain, self._store, limit=limit, note=self._watch.note),
            committee,
            AccountSignerDesk(office, checkpoints, self._chain, self._store, self._audit, limit=limit),
            lookout,
            *self._abroad(office, checkpoints, limit),
        )

    def _heads(
        self,
        office: Office,
        checkpoints: Checkpoints,
        committee: Committee,
        limit: RateLimit,
        stayed: Desks | None,
        elders: Committee | None,
        *,
        first: bool,
    ) -> HeadDesk:
        table = None if stayed is None else stayed.heads.table
        return HeadDesk(
            office,
            checkpoints,
            self._chain,
            self._store,
            committee,
            limit=limit,
            first=first,
            table=table,
            elders=elders,
        )

    @staticmethod
    async def _elders(office: Office, headers: list[Header], at: Snapshot, since: int) -> Committee | None:
        """The committee of the term before, while a new member may ask it for its tables (R5)."""
        if office.term == 1 or headers[-1].number > since + ELDER_BLOCKS:
            return None
        old = await at.term_record(office.term - 1)
        signers = SignerSet(old.term, old.threshold, old.members)
        return Committee(await endpoints(at, old.members), signers, office.network)

    async def _book(self, office: Office, headers: list[Header], since: int, before: Desks | None) -> Checkpoints:
        """The book of checkpoints for an office; blocks up to ``since`` were for the term before."""
        mine = [h for h in headers if h.number >= since + (office.term > 1)]
        if before is not None:
            after = before.checkpoints.head
            book = Checkpoints(self._store, office, self._genesis.chain_id, after=after, saw=self._watch.saw)
            if mine:
                book.sign(mine)
            return book
        book = Checkpoints(self._store, office, self._genesis.chain_id, saw=self._watch.saw)
        if book.halted:
            await self._believing.resume(book, self._chain, headers[-1].number)
        kept = self._store.checkpoints()
        if book.halted or not kept:
            if mine and not book.halted:
                book.sign(mine[-1:])
        elif book.head is not None:
            self._chain.resume(book.head)
        elif book.after is not None:
            self._chain.resume(book.after)
        else:
            last = kept[-1][0]
            book.require_still_there(last, await self._chain.header(last.number))
            if mine and mine[-1].number > last.number:
                book.sign(mine[-1:])
        return book

    def _abroad(
        self, office: Office, checkpoints: Checkpoints, limit: RateLimit
    ) -> tuple[AnchorLeaseDesk, RemoteAgentDesk] | tuple[()]:
        """None on a network without an Anchor."""
        anchor = self._genesis.contracts.get("Anchor")
        if anchor is None:
            return ()
        own, common = {self._genesis.chain_id: anchor.address}, (office, checkpoints, self._chain, self._audit)
        return (
            AnchorLeaseDesk(*common, places=lambda: own | self._chains.anchors(), limit=limit),
            RemoteAgentDesk(*common, places=self._chains.anchors, limit=limit),
        )


async def endpoints(at: Snapshot, members: tuple[bytes, ...]) -> list[str]:
    """Where these members say that they answer; those that said nothing are left out."""
    return [c.endpoint for c in await at.candidates(members) if c is not None]

"""The founding ceremony, as one member lives it with a real chain and real peers (spec/sharing.md 2).

::

    stand      announce ourselves: operator, vendor class, a key for this ceremony, evidence, endpoint
    deal       the committee was named: verify every peer's evidence and the mix of vendors, deal, digest on chain
    reveal     every digest is on chain: fetch the peers' dealings, check them
    confirm    the share fits: seal it, confirm (MPK, transcript) on chain
    office     all n confirmed the same: the share may be used

``step`` does what is next and nothing twice. Everything that it needs after a crash is stored before it shows outside:
the ceremony key before it is announced, the dealing before its digest is committed, the share before we confirm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cloister.core.attestation.policy import Policy
from cloister.core.chainview.founding import CandidateRecord, CeremonyRecord, SeatsRecord
from cloister.core.chainview.header import Header
from cloister.core.encoding import jcs
from cloister.core.encoding.contexts import Context, digest
from cloister.core.encoding.hexes import from_hex, need_fields, to_hex
from cloister.core.encoding.network import Genesis, network_id
from cloister.core.encoding.signatures import SignerSet, verify_signer
from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import CloisterError, ThresholdError, define
from cloister.core.policy.committee import require_diverse
from cloister.core.threshold.ceremony import Phase, Run
from cloister.core.threshold.dkg import Ceremony, Dealing, Member, deal
from cloister.core.threshold.shares import KeyShare
from cloister.gatekeeper.attest import attest
from cloister.gatekeeper.office import Office
from cloister.gatekeeper.peers import verify_peer
from cloister.gatekeeper.ports import Chain, Snapshot
from cloister.gatekeeper.showing import Showing
from cloister.gatekeeper.store import Store
from cloister.node import logs
from cloister.node.identity import NodeKeys
from cloister.wire.ask import ask

PRIVATE, DEALING, SHARE, OFFICE, ERASE_AT = "dkg/private", "dkg/dealing", "share", "office", "dkg/erase-at"
ERASE_DELAY = 8
RESEND_BLOCKS = 16
ZERO = bytes(32)

OTHER_GENESIS = define(
    "gatekeeper.other_genesis",
    ThresholdError,
    check="the ceremony was opened for the genesis file that this gatekeeper holds",
    remedy="compare the genesis files of founder and gatekeepers",
)
NO_CANDIDATE = define(
    "gatekeeper.no_candidate",
    ThresholdError,
    check="every member of the ceremony stands on chain as a candidate",
    remedy="wait until the candidate's registration is final",
    status=409,
)
NO_DEALING = define(
    "gatekeeper.no_dealing",
    ThresholdError,
    check="this member dealt in that ceremony",
    remedy="ask for the ceremony that stands in the Gatekeepers contract",
    status=404,
)
_log = logs.get("founding")


@dataclass(frozen=True, slots=True)
class Announcement:
    """What this gatekeeper says of itself: operator (20-byte address) and endpoint (URL)."""

    operator: bytes
    endpoint: str


class Founding:
    """Takes one gatekeeper from its first start into office."""

    def __init__(
        self,
        chain: Chain,
        store: Store,
        keys: NodeKeys,
        genesis: Genesis,
        policy: Policy,
        showing: Showing,
        me: Announcement,
        session: aiohttp.ClientSession,
        rng: Callable[[int], bytes],
    ) -> None:
        self._chain, self._store, self._keys, self._genesis, self._policy = chain, store, keys, genesis, policy
        self._showing, self._me, self._session, self._rng = showing, me, session, rng
        self._run: Run | None = None
        self._sent: dict[str, int] = {}

    async def step(self, head: Header) -> Office | None:
        """Do what is next, on state proven at a finalised header. Returns the office once it is confirmed.

        Raises CloisterError: the same step is tried again later.
        """
        at = self._chain.at(unsigned(self._genesis.chain_id, head))
        seats, opened = await at.committee(), await at.ceremony()
        if opened.id == ZERO or self._keys.address not in seats.members:
            await self._stand(at, head)
            return None
        if opened.genesis_id != self._genesis.genesis_id():
            raise OTHER_GENESIS(expected=to_hex(self._genesis.genesis_id()), found=to_hex(opened.genesis_id))
        if self._run is None:
            self._run = await self._deal(at, head, seats, opened)
        run = self._run
        await self._commit(at, head, run)
        if run.phase is Phase.REVEAL:
            await self._collect(at, run)
        if run.phase is Phase.CONFIRM:
            await self._confirm(at, head, run)
        if seats.term and run.phase is Phase.CONFIRM:
            for member in run.ceremony.members:
                run.on_confirmation(member.index, seats.mpk, seats.transcript)
        return self._take_office(seats, run.share(), head) if run.phase is Phase.DONE and seats.term else None

    def dealing(self, ceremony: bytes) -> tuple[Dealing, bytes]:
        """Our dealing and our signature over it, for whoever asks. Raises ThresholdError before all digests are in."""
        if self._run is not None:
            found, for_ceremony = self._run.my_dealing(), self._run.ceremony.id
        else:
            stored = self._stored_dealing()
            if stored is None or self._store.get(OFFICE) is None:
                raise NO_DEALING(expected="a dealing of ours", found="none to show")
            for_ceremony, found = stored
        if for_ceremony != ceremony:
            raise NO_DEALING(expected=to_hex(for_ceremony), found=to_hex(ceremony))
        return found, self._keys.sign(dealing_digest(ceremony, found))

    # --- stand ---

    async def _stand(self, at: Snapshot, head: Header) -> None:
        public = self.ceremony_key().public_key().public_bytes_raw()
        known = (await at.candidates((self._keys.address,)))[0]
        same = known is not None and (known.dkg_key, known.operator, known.endpoint) == (
            public,
            self._me.operator,
            self._me.endpoint,
        )
        if same or not self._due("stand", head) or not await self._chain.balance(self._keys.address):
            return
        shown = await self._showing.show(self._genesis.genesis_id(), head.hash, ZERO, public)
        _, self_seen = await attest(  # an image or machine that peers would refuse says so here
            shown,
            at,
            policy=self._policy,
            role="gatekeeper",
            network=self._genesis.genesis_id(),
            number=head.number,
            now=head.timestamp,
            checkpoints=None,
            nonce=ZERO,
        )
        self._store.put("evidence", jcs.encode(shown.to_json()))
        await self._chain.send(
            "setCandidate", self._me.operator, self_seen.vendor_class, public, shown.digest(), self._me.endpoint
        )
        self._mark("stand", head)
        _log.info("standing as a candidate", member=to_hex(self._keys.address))

    def ceremony_key(self) -> X25519PrivateKey:
        """This ceremony's transport key; made and sealed at the first call."""
        blob = self._store.get(PRIVATE)
        if blob is None:
            blob = self._keys.seal(PRIVATE, self._rng(32), self._rng)
            self._store.put(PRIVATE, blob)
        return X25519PrivateKey.from_private_bytes(self._keys.open(PRIVATE, blob))

    # --- deal ---

    async def _deal(self, at: Snapshot, head: Header, seats: SeatsRecord, opened: CeremonyRecord) -> Run:
        candidates = await self._candidates(at, seats)
        members = tuple(Member(i, c.member, c.dkg_key) for i, c in enumerate(candidates, 1))
        ceremony = Ceremony(opened.id, seats.threshold, members)
        index = seats.members.index(self._keys.address) + 1
        stored = self._stored_dealing()
        if stored is None or stored[0] != opened.id:
            await self._verify_peers(at, head, candidates)
            require_diverse([c.vendor_class for c in candidates], seats.threshold, self._policy.committee)
            dealing = deal(ceremony, index, self._rng)
            body = {"ceremony": to_hex(opened.id), "dealing": dealing.to_json()}
            self._store.put(DEALING, jcs.encode(body))
        else:
            dealing = stored[1]
        return Run(ceremony, index, dealing, self.ceremony_key().private_bytes_raw())

    async def _candidates(self, at: Snapshot, seats: SeatsRecord) -> list[CandidateRecord]:
        found = [c for c in await at.candidates(seats.members) if c is not None]
        if len(found) != len(seats.members):
            raise NO_CANDIDATE(expected=f"{len(seats.members)} candidates", found=str(len(found)))
        return found

    async def _verify_peers(self, at: Snapshot, head: Header, candidates: list[CandidateRecord]) -> None:
        others = [c for c in candidates if c.member != self._keys.address]
        checks = (
            verify_peer(
                self._session,
                candidate,
                at,
                policy=self._policy,
                network=self._genesis.genesis_id(),
                head=head,
                nonce=self._rng(32),
            )
            for candidate in others
        )
        await asyncio.gather(*checks)
        _log.info("peers verified", members=[to_hex(c.member) for c in others])

    def _stored_dealing(self) -> tuple[bytes, Dealing] | None:
        blob = self._store.get(DEALING)
        if blob is None:
            return None
        data = need_fields("stored dealing", jcs.decode(blob), {"ceremony", "dealing"})
        return from_hex(data["ceremony"], 32), Dealing.from_json(data["dealing"])

    # --- commit, reveal, confirm ---

    async def _commit(self, at: Snapshot, head: Header, run: Run) -> None:
        members = tuple(m.address for m in run.ceremony.members)
        digests = await at.dealings(run.ceremony.id, members)
        if run.phase is Phase.COMMIT and digests[run.my_index - 1] == ZERO and self._due("commit", head):
            await self._chain.send("commitDealing", run.ceremony.id, run.digest)
            self._mark("commit", head)
        for index, found in enumerate(digests, 1):
            if found != ZERO:
                run.on_commitment(index, found)

    async def _collect(self, at: Snapshot, run: Run) -> None:
        candidates = await at.candidates(tuple(m.address for m in run.ceremony.members))
        for index in run.missing():
            candidate = candidates[index - 1]
            if candidate is None:
                raise NO_CANDIDATE(expected=f"member {index} as a candidate", found="none")
            try:
                run.on_dealing(await self._fetch(run.ceremony.id, candidate))
            except CloisterError as error:
                if run.phase is Phase.ABORTED:
                    raise
                _log.info("dealing not in yet", member=index, code=error.code)

    async def _fetch(self, ceremony: bytes, candidate: CandidateRecord) -> Dealing:
        url = f"{candidate.endpoint.rstrip('/')}/v1/dkg/{to_hex(ceremony)}/dealing"
        data = need_fields("dealing", await ask(self._session, "GET", url), {"dealing", "signature"})
        dealing = Dealing.from_json(data["dealing"])
        signature = from_hex(data["signature"], 65, name="signature")
        verify_signer(dealing_digest(ceremony, dealing), signature, candidate.member)
        return dealing

    async def _confirm(self, at: Snapshot, head: Header, run: Run) -> None:
        if self._store.get(SHARE) is None:
            self._store.put(SHARE, self._keys.seal(SHARE, run.share_to_store().to_bytes(), self._rng))
        content, by_all = await at.content(self._keys.address)
        if not content and self._due("content", head):
            await self._chain.send("content", run.ceremony.id, 1)
            self._mark("content", head)
        if not by_all or not self._due("confirm", head) or await at.confirmed(run.ceremony.id, self._keys.address):
            return
        everybody = (1 << len(run.ceremony.members)) - 1
        await self._chain.send("confirm", run.ceremony.id, *run.confirmation(), everybody)
        self._mark("confirm", head)

    def _take_office(self, seats: SeatsRecord, share: KeyShare, head: Header) -> Office:
        signers = SignerSet(seats.term, seats.threshold, seats.members)
        network = network_id(self._genesis.genesis_id(), seats.transcript)
        office = Office(network, seats.term, seats.master_epoch, signers, seats.term_seed, share, self._keys)
        self._store.put(ERASE_AT, (head.number + ERASE_DELAY).to_bytes(8, "big"))
        self._store.put(OFFICE, jcs.encode(office.to_json()))
        _log.info("in office", network=to_hex(network), index=office.index)
        return office

    def _due(self, what: str, head: Header) -> bool:
        """False while a transaction of ours may still become final."""
        return head.number >= self._sent.get(what, -RESEND_BLOCKS) + RESEND_BLOCKS

    def _mark(self, what: str, head: Header) -> None:
        self._sent[what] = head.number


def restore(store: Store, keys: NodeKeys) -> Office | None:
    """The office of an earlier run of this process, or None. Raises ConfigError for a share sealed elsewhere."""
    body, blob = store.get(OFFICE), store.get(SHARE)
    if body is None or blob is None:
        return None
    return Office.from_json(jcs.decode(body), KeyShare.from_bytes(keys.open(SHARE, blob)), keys)


def erase_when_final(store: Store, number: int) -> bool:
    """Erase the ceremony's private key once the confirmation is 8 blocks below a finalised one; True if done now."""
    at = store.get(ERASE_AT)
    if at is None or number < int.from_bytes(at, "big") or store.get(PRIVATE) is None:
        return False
    store.erase(PRIVATE)
    return True


def unsigned(chain_id: int, head: Header) -> Checkpoint:
    """A finalised header in the form that proofs are checked against, before any committee signs."""
    return Checkpoint(0, chain_id, head.number, head.hash, head.state_root, head.timestamp)


def dealing_digest(ceremony: bytes, dealing: Dealing) -> bytes:
    """What a member signs when it shows its dealing: digest(DKG_DEALING, "shown", ceremony, JCS dealing)."""
    return digest(Context.DKG_DEALING, b"shown", ceremony, jcs.encode(dealing.to_json()))

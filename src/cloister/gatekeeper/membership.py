"""Who we are to the others, and who they are to us: candidacy, transport keys, evidence (spec/gatekeepers.md E1, G2).

Each ceremony has its own transport key. It is sealed on disk before it is announced on chain, and a new one is
announced when the ceremony that used it has ended. Before we deal to anybody we verify what it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import aiohttp
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cloister.core.attestation.policy import Policy
from cloister.core.chainview.ceremonies import CeremonyView
from cloister.core.chainview.founding import CandidateRecord
from cloister.core.chainview.header import Header
from cloister.core.encoding import jcs
from cloister.core.encoding.hexes import from_hex, need_fields, need_uint, to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.network import Genesis
from cloister.core.errors import CloisterError, ThresholdError, define
from cloister.core.policy.committee import require_diverse
from cloister.core.policy.release import Requester
from cloister.gatekeeper.attest import attest
from cloister.gatekeeper.peers import verify_peer
from cloister.gatekeeper.ports import Chain, Snapshot
from cloister.gatekeeper.showing import Showing
from cloister.gatekeeper.store import Store
from cloister.node import logs
from cloister.node.identity import NodeKeys
from cloister.wire.ask import UNREACHABLE
from cloister.wire.messages import Shown

TRANSPORT, NEXT, PEER, EVIDENCE = "transport/", "transport-next", "peer/", "evidence"
MACHINE = "machine/"
# Blobs of these names are sealed under the folder's key.
KEPT_SECRETS = ("share/", "ceremony/", TRANSPORT)
RESEND_BLOCKS = 16
REMEMBER_BLOCKS, FRESH_BLOCKS = 4096, 64
MEET_BLOCKS = 2
ZERO = bytes(32)

NO_CANDIDATE = define(
    "gatekeeper.no_candidate",
    ThresholdError,
    check="every member of the ceremony stands on chain as a candidate",
    remedy="wait until the candidate's registration is final",
    status=409,
)
UNVERIFIED = define(
    "gatekeeper.unverified",
    ThresholdError,
    check="every receiver's evidence was verified, now or lately, before we deal to it",
    remedy="the receivers named must show evidence, or the ceremony ends at its deadline and the next one goes without",
    status=409,
)
_log = logs.get("membership")


@dataclass(frozen=True, slots=True)
class Announcement:
    """What this gatekeeper says of itself: operator (20-byte address) and endpoint (URL)."""

    operator: bytes
    endpoint: str


class Membership:
    """Candidacy, transport keys and the evidence of others. ``networks``: ids that peers may attest under."""

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
        self.networks: tuple[bytes, ...] = (genesis.genesis_id(),)
        self._sent_at: int | None = None
        self._met: int | None = None
        self._refused: tuple[bytes, frozenset[bytes]] = (b"", frozenset())

    # --- transport keys ---

    def next_key(self) -> bytes:
        """Public half of the key for the next ceremony; made and sealed at the first call."""
        blob = self._store.get(NEXT)
        if blob is not None:
            return blob
        private = X25519PrivateKey.from_private_bytes(self._rng(32))
        public = private.public_key().public_bytes_raw()
        name = TRANSPORT + to_hex(public)
        self._store.put_all({name: self._keys.seal(name, private.private_bytes_raw(), self._rng), NEXT: public})
        return public

    def private_half(self, public: bytes) -> bytes | None:
        """The private half of a key that we made, or None."""
        name = TRANSPORT + to_hex(public)
        blob = self._store.get(name)
        return None if blob is None else self._keys.open(name, blob)

    def used(self, public: bytes) -> None:
        """The key went into a ceremony that has ended: the next one gets another."""
        if self._store.get(NEXT) == public:
            self._store.erase(NEXT)

    def erase(self, public: bytes) -> None:
        """Erase the private half, wherever it is (G2)."""
        self.used(public)
        self._store.erase(TRANSPORT + to_hex(public))

    # --- candidacy ---

    async def stand(self, at: Snapshot, head: Header) -> None:
        """Announce ourselves and our next key with evidence, once each. Does nothing without gas. Raises CloisterError.

        Who stands already announces the key alone: one that sits could not change the rest, which the others verified.
        """
        public = self.next_key()
        known = (await at.candidates((self._keys.address,)))[0]
        described = known is not None and (known.operator, known.endpoint) == (self._me.operator, self._me.endpoint)
        seated = self._keys.address in (await at.committee()).members
        fixed = known is not None and (described or seated)
        if (fixed and known is not None and known.dkg_key == public) or not self._due(head):
            return
        if not await self._chain.balance(self._keys.address):
            return
        shown, seen = await self._own_evidence(at, head, public)
        if fixed:
            await self._chain.send("setKey", public, shown.digest())
        else:
            operator, endpoint = self._me.operator, self._me.endpoint
            await self._chain.send("setCandidate", operator, seen.vendor_class, public, shown.digest(), endpoint)
        self._sent_at = head.number
        _log.info("standing as a candidate", member=to_hex(self._keys.address))

    async def _own_evidence(self, at: Snapshot, head: Header, public: bytes) -> tuple[Shown, Requester]:
        """Evidence over the zero nonce. An image or machine that peers would refuse says so here."""
        shown = await self._showing.show(self._genesis.genesis_id(), head.hash, ZERO, public)
        _, seen = await attest(
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
        self._store.put(EVIDENCE, jcs.encode(shown.to_json()))
        return shown, seen

    def _due(self, head: Header) -> bool:
        """False while a transaction of ours may still become final."""
        return self._sent_at is None or head.number >= self._sent_at + RESEND_BLOCKS

    # --- the others ---

    async def verify_all(self, at: Snapshot, head: Header, view: CeremonyView) -> None:
        """Verify every receiver of a ceremony but ourselves, before we deal. Raises CloisterError.

        One that was verified within the last 64 blocks is not asked again.

        1. each stands on chain with its key, or got a key that nobody has (G2): that one sits out; 2. each shows good
        evidence now; one that does not answer counts if it did lately, for the same key, vendor class and endpoint;
        3. enough vendors are behind the seats.
        """
        records = await at.candidates(view.receivers)
        candidates: list[CandidateRecord] = []
        for address, key, record in zip(view.receivers, view.keys, records, strict=True):
            if record is None or (record.dkg_key != key and key != keyless(view.id, address)):
                raise NO_CANDIDATE(
                    expected=f"{to_hex(address)} with its key on chain", found="none, or another key"
                )  # 1
            if key == record.dkg_key:
                candidates.append(record)
        refused = await self._verify(at, head, candidates)  # 2
        self._refused = view.id, frozenset(refused)
        if len(refused) == 1:
            raise next(iter(refused.values()))
        if refused:
            found = ", ".join(sorted({error.code for error in refused.values()}))
            raise UNVERIFIED(expected=f"{len(candidates)} verified receivers", found=f"{len(refused)} not: {found}")
        classes = [record.vendor_class for record in records if record is not None]
        require_diverse(classes, view.threshold, self._policy.committee)  # 3

    def refused_in(self, ceremony: bytes) -> frozenset[bytes]:
        """Receivers of a ceremony (its id) whose evidence we refused when we last looked at all of them."""
        return self._refused[1] if self._refused[0] == ceremony else frozenset()

    async def meet(self, at: Snapshot, head: Header) -> None:
        """Verify candidates before anything depends on it, so that one that is away later stops nobody."""
        if self._met is not None and head.number < self._met + MEET_BLOCKS:
            return
        self._met = head.number
        found = await at.candidates(await at.standing())
        new = [c for c in found if c is not None and not self._remembered(c, head)]
        answers = await asyncio.gather(*(self._verify_one(at, head, c) for c in new), return_exceptions=True)
        for error in answers:
            if isinstance(error, BaseException) and not isinstance(error, CloisterError):
                raise error

    async def verify(self, at: Snapshot, head: Header, candidate: CandidateRecord) -> None:
        """Verify one candidate now, or lately: within the last 64 blocks. Raises CloisterError."""
        await self._verify_one(at, head, candidate)

    async def _verify(
        self, at: Snapshot, head: Header, candidates: Sequence[CandidateRecord]
    ) -> dict[bytes, CloisterError]:
        """Who is not verified, and why."""
        answers = await asyncio.gather(*(self._verify_one(at, head, c) for c in candidates), return_exceptions=True)
        refused: dict[bytes, CloisterError] = {}
        for candidate, answer in zip(candidates, answers, strict=True):
            if answer is None or (_silent(answer) and self._remembered(candidate, head)):
                continue
            if not isinstance(answer, CloisterError):
                raise answer
            refused[candidate.member] = answer
            _log.info("not verified", member=to_hex(candidate.member), code=answer.code, found=answer.found)
        return refused

    async def _verify_one(self, at: Snapshot, head: Header, candidate: CandidateRecord) -> None:
        if candidate.member == self._keys.address or self._remembered(candidate, head, FRESH_BLOCKS):
            return
        try:
            machine = await verify_peer(
                self._session,
                candidate,
                at,
                policy=self._policy,
                networks=self.networks,
                head=head,
                nonce=self._rng(32),
            )
        except CloisterError as error:
            if not _silent(error):
                self._store.erase(PEER + to_hex(candidate.member))
            raise
        member = to_hex(candidate.member)
        self._store.put_all({PEER + member: _memory(candidate, head.number), MACHINE + member: machine})

    def _remembered(self, candidate: CandidateRecord, head: Header, blocks: int = REMEMBER_BLOCKS) -> bool:
        if candidate.member == self._keys.address:
            return True
        blob = self._store.get(PEER + to_hex(candidate.member))
        if blob is None:
            return False
        data = need_fields("peer", jcs.decode(blob), {"key", "vendor", "endpoint", "number"})
        said = (from_hex(data["key"], 32), from_hex(data["vendor"], 32), data["endpoint"])
        same = said == (candidate.dkg_key, candidate.vendor_class, candidate.endpoint)
        return same and need_uint("number", data["number"], 64) + blocks >= head.number


def keyless(ceremony: bytes, member: bytes) -> bytes:
    """The key of a receiver that registered none: keccak256(abi.encode(id, member)). Nobody has its private half."""
    return keccak256(ceremony, member.rjust(32, b"\0"))


def _silent(error: BaseException) -> bool:
    return isinstance(error, CloisterError) and error.code == UNREACHABLE.code


def _memory(candidate: CandidateRecord, number: int) -> bytes:
    said = {"key": to_hex(candidate.dkg_key), "vendor": to_hex(candidate.vendor_class), "endpoint": candidate.endpoint}
    return jcs.encode({**said, "number": number})

"""Who may be nominated: members verify a candidate before an election counts it (spec/gatekeepers.md E9).

::

    candidate   asks every member for its word, with nothing but what stands on chain; brings t of them to the contract
    member      verifies the candidate's evidence over its own nonce, as it would before it deals; then signs
"""

from __future__ import annotations

import time

import aiohttp

from cloister.core.chainview.founding import SeatsRecord
from cloister.core.chainview.header import Header
from cloister.core.encoding.handover import CandidateAdmission
from cloister.core.encoding.hexes import need_fields, to_hex
from cloister.core.encoding.signatures import SignerSet
from cloister.core.errors import CloisterError
from cloister.core.policy.candidates import ADMISSION_BLOCKS, NOT_STANDING, admission_of, may_admit
from cloister.gatekeeper.audit import AuditLog
from cloister.gatekeeper.checkpoints import HALTED, Checkpoints
from cloister.gatekeeper.deeds import RESEND_BLOCKS, Deeds
from cloister.gatekeeper.limits import RateLimit
from cloister.gatekeeper.membership import Membership
from cloister.gatekeeper.office import Office
from cloister.gatekeeper.ports import Chain, Snapshot
from cloister.node import logs
from cloister.wire.ask import new_session
from cloister.wire.committee import Committee
from cloister.wire.messages import parse
from cloister.wire.signatures import ask_signatures

ROUTE = "/v1/candidacy"
# What we ask for ends a little earlier than it could: members' newest blocks are not all ours.
SLACK_BLOCKS = 64
RETRY_BLOCKS = 4
ASK_TIMEOUT_S = 15.0
# For each candidate, whoever asks: each question may cost a quote and its verification.
ASKS_PER_S, ASKS_BURST = 0.5, 8
_log = logs.get("candidacy")


def parse_request(value: object) -> CandidateAdmission:
    """The body of a question: {"asked": statement}. Raises EncodingError."""
    return CandidateAdmission.from_json(need_fields("candidacy", value, {"asked"})["asked"])


class CandidateDesk:
    """A member's side: POST /v1/candidacy."""

    def __init__(self, chain: Chain, membership: Membership, audit: AuditLog) -> None:
        self._chain, self._membership, self._audit = chain, membership, audit
        self._limit = RateLimit(per_s=ASKS_PER_S, burst=ASKS_BURST, clock=time.monotonic)

    async def answer(self, body: bytes, office: Office, checkpoints: Checkpoints) -> bytes:
        """This member's signature over an admission, or the refusal. Raises CloisterError; outcomes past 2 are audited.

        1. size and shape; 2. rate, for each candidate; 3. what stands on chain; 4. fresh evidence; 5. signed."""
        asked = parse(parse_request, body)  # 1
        self._limit.take(("candidate", asked.member))  # 2
        facts = {"member": to_hex(asked.member), "expiry": str(asked.expiry)}
        try:
            await self._verify(asked, office, checkpoints)
        except CloisterError as error:
            self._audit.append("candidacy", outcome=error.code, **facts)
            raise
        self._audit.append("candidacy", outcome="admitted", **facts)
        return office.sign(asked)  # 5

    async def _verify(self, asked: CandidateAdmission, office: Office, checkpoints: Checkpoints) -> None:
        checkpoints.require_running()
        head = checkpoints.head
        if head is None:
            raise HALTED(expected="a signed checkpoint", found="none")
        at = self._chain.at(head)
        seats, (record,) = await at.committee(), await at.candidates((asked.member,))
        may_admit(asked, record, seats.members, office.term, head.number)  # 3
        if record is None:
            raise NOT_STANDING(expected="a candidate", found="nobody")
        seen = Header(head.number, head.block_hash, bytes(32), head.state_root, head.timestamp)
        await self._membership.verify(at, seen, record)  # 4
        checkpoints.require_running()


class Candidacy:
    """A candidate's side: keeps its admission from running out."""

    def __init__(self, address: bytes, deeds: Deeds) -> None:
        self._address, self._deeds = address, deeds
        self._asked: int | None = None
        self.trouble: CloisterError | None = None

    async def step(self, at: Snapshot, head: Header, seats: SeatsRecord) -> None:
        """Ask for an admission if we stand and ours is half over or gone. Raises nothing: it is tried again later."""
        if not seats.term or self._address in seats.members:
            return
        if self._asked is not None and head.number < self._asked + RETRY_BLOCKS:
            return
        (record,) = await at.candidates((self._address,))
        if record is None or await at.admitted_until(self._address) > head.number + ADMISSION_BLOCKS // 2:
            return
        self._asked = head.number
        asked = admission_of(record, seats.term, head.number + ADMISSION_BLOCKS - SLACK_BLOCKS)
        try:
            signatures = await self._gather(at, seats, asked)
        except CloisterError as error:
            if self.trouble is None or self.trouble.code != error.code:
                _log.info("not admitted", code=error.code, found=error.found)
            self.trouble = error
            return
        self.trouble = None
        fields = tuple(getattr(asked, name) for name in asked.TYPES)
        if await self._deeds.once(("admit", (fields, signatures)), head):
            self._asked = head.number + RESEND_BLOCKS - RETRY_BLOCKS  # it becomes final meanwhile

    async def _gather(self, at: Snapshot, seats: SeatsRecord, asked: CandidateAdmission) -> tuple[bytes, ...]:
        """t members' signatures. Raises gatekeeper.too_few, or the refusal that they share."""
        records = await at.candidates(seats.members)
        endpoints = [c.endpoint for c in records if c is not None]
        signers = SignerSet(seats.term, seats.threshold, seats.members)
        session: aiohttp.ClientSession = new_session()
        try:
            committee = Committee(endpoints, signers, seats.network_id, timeout_s=ASK_TIMEOUT_S, session=session)
            signed = await ask_signatures(committee, ROUTE, {"asked": asked.to_json()}, asked)
        finally:
            await session.close()
        return signed.signatures[: seats.threshold]

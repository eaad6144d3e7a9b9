"""Asking the gatekeepers: all in parallel, done as soon as enough members say the same (spec/gatekeeper-api.md).

Keys cost a member milliseconds: t members, chosen by lot among those that were not slow lately, are asked for them
first, the others as soon as one of the t refuses or takes twice its time.
Who answered is known by the signature in the answer, never by the endpoint. Dead and lying members cost nothing as
long as t others agree; when too few do, the error names the commonest refusal.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import aiohttp

from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.identity import KeyIdentity, Purpose
from cloister.core.encoding.signatures import BAD_SIGNATURE, Signed, SignerSet, recover
from cloister.core.encoding.statements import HeartBeat, Lease, Statement, WorkerAdmission
from cloister.core.errors import CloisterError, TransportError, define, from_wire
from cloister.core.policy.identities import identities_of
from cloister.core.state.endorse import MAX_HEADS as MAX_TABLE
from cloister.core.state.endorse import Answer
from cloister.core.threshold.shares import PublicShares
from cloister.wire.ask import ask, new_session
from cloister.wire.checkpoint_poll import CheckpointPoll
from cloister.wire.heads import (
    HeadAnswer,
    HeadMove,
    HeadsRequest,
    TablePage,
    after_row,
    fresh_digest,
    page_digest,
)
from cloister.wire.messages import (
    SIGNATURE,
    AdmissionRequest,
    HeartbeatRequest,
    KeyPartial,
    KeysAnswer,
    KeysRequest,
    SignedBy,
)
from cloister.wire.pace import Pace

T = TypeVar("T")

TOO_FEW = define(
    "gatekeeper.too_few",
    TransportError,
    check="enough gatekeepers answered, and with the same statement",
    remedy="see which gatekeepers run with `cloister status`; fewer than t alive stop the network on purpose",
    status=503,
)
WRONG_ANSWER = define(
    "gatekeeper.wrong_answer",
    TransportError,
    check="a gatekeeper answers the question that was asked",
    remedy="the member or the path to it is broken; the others are enough if t of them agree",
    status=502,
)


@dataclass(frozen=True, slots=True)
class Granted:
    """t members' agreement: the lease, and their partials by (purpose, period), in no particular order.

    ``old``: partials of keys of earlier epochs, which t members release for re-sealing."""

    lease: Signed
    partials: Mapping[tuple[Purpose, int], tuple[KeyPartial, ...]]
    identities: Mapping[tuple[Purpose, int], KeyIdentity]
    old: Mapping[KeyIdentity, tuple[KeyPartial, ...]] = field(default_factory=dict)

    @property
    def terms(self) -> Lease:
        """The lease statement."""
        assert isinstance(self.lease.statement, Lease)  # noqa: S101 - built so below
        return self.lease.statement


class Committee:
    """The gatekeepers of one term.

    ``endpoints``: base URLs. ``signers``: who they must be. ``network``: 32-byte id under which they sign.
    ``timeout_s`` bounds each question. ``faults``: members f that may lie about heads at once.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        signers: SignerSet,
        network: bytes,
        *,
        timeout_s: float = 2.0,
        faults: int = 1,
        session: aiohttp.ClientSession | None = None,
    ) -> None:
        self.signers, self.network = signers, network
        self.endpoints = tuple(url.rstrip("/") for url in endpoints)
        self._timeout, self._session, self._owned = timeout_s, session, session is None
        self._pace = Pace()
        n = len(signers.members)
        self.endorse_quorum = min(n, (n + faults) // 2 + 1)
        self.beat_quorum = min(n, faults + 1)
        self.load_quorum = min(n, n + faults + 1 - self.endorse_quorum)

    @property
    def now(self) -> Committee:
        """This committee: whoever takes one that follows terms takes a fixed one too (``wire.terms``)."""
        return self

    def session(self) -> aiohttp.ClientSession:
        """The connections, opened at the first use."""
        if self._session is None:
            self._session = new_session()
        return self._session

    async def close(self) -> None:
        """Close the connections that this object opened."""
        if self._owned and self._session is not None:
            await self._session.close()
            self._session = None

    async def checkpoint(self, chain: int | None = None) -> Signed:
        """The newest checkpoint that t members signed, of a connected ``chain`` if it is named.

        Raises gatekeeper.too_few or the members' refusal.
        Members may be blocks apart, and some may lie about their height: see ``checkpoint_poll.py``.
        """
        return await CheckpointPoll(self, chain).run()

    async def keys(self, request: KeysRequest, *, verify: Callable[[KeysAnswer], None] | None = None) -> Granted:
        """A lease and t partials per key, and those of earlier epochs that the same t members release.

        Members that missed the agent's newest head name other earlier epochs: they are counted apart, and only when all
        have answered without t alike do fewer, or no, earlier keys have to do.
        ``verify`` may raise a CloisterError to drop one member's answer, for example after a pairing check
        following a failed recovery. Raises gatekeeper.too_few, or the refusal that t members share.
        """
        agreed: dict[tuple[Lease, frozenset[KeyIdentity]], dict[bytes, KeysAnswer]] = {}

        def take(value: Any) -> Granted | None:
            answer = KeysAnswer.from_json(value)
            member = self.member(answer.lease, answer.lease_signature)
            self._fits(request, answer, member)
            if verify is not None:
                verify(answer)
            group = agreed.setdefault((answer.lease, frozenset(self._old(answer))), {})
            group[member] = answer
            return self._granted(answer.lease, list(group.values())) if self._enough(group) else None

        def last() -> Granted | None:
            for lease in {lease for lease, _ in agreed}:
                answers = {m: a for (of, _), group in agreed.items() if of == lease for m, a in group.items()}
                if self._enough(answers):
                    return self._granted(lease, list(answers.values()))
            return None

        return await self._need("POST", "/v1/keys", request.to_json(), take, last=last, sparing=True)

    async def admission(self, request: AdmissionRequest) -> Signed:
        """A WorkerAdmission with t signatures. Raises as ``keys``."""
        binding = request.shown.binding
        votes: dict[Statement, dict[bytes, bytes]] = {}

        def take(value: Any) -> Signed | None:
            answer = SignedBy.from_json(WorkerAdmission, value)
            said, member = answer.statement, self.member(answer.statement, answer.signature)
            asked = {"worker": binding.node, "operator": request.operator, "boot": binding.boot}
            if any(getattr(said, name) != value for name, value in asked.items()):
                raise WRONG_ANSWER(expected="an admission of this worker, operator and boot", found="another")
            group = votes.setdefault(said, {})
            group[member] = answer.signature
            return Signed(said, tuple(group.values())) if self._enough(group) else None

        return await self._need("POST", "/v1/admission", request.to_json(), take)

    async def heartbeat(self, nonce: bytes) -> tuple[HeartBeat, ...]:
        """Answers of f + 1 distinct members to a 32-byte nonce, highest block first: one of them is honest.

        Fewer than t, on purpose: leases that run go on while the committee is too small to grant new ones.
        Raises as ``keys``."""
        beats: dict[bytes, HeartBeat] = {}

        def take(value: Any) -> tuple[HeartBeat, ...] | None:
            answer = SignedBy.from_json(HeartBeat, value)
            member, beat = self.member(answer.statement, answer.signature), answer.statement
            if not isinstance(beat, HeartBeat) or beat.nonce != nonce:
                raise WRONG_ANSWER(expected="our nonce", found="another")
            beats[member] = beat
            return tuple(sorted(beats.values(), key=lambda b: -b.number)) if len(beats) >= self.beat_quorum else None

        body = HeartbeatRequest(nonce).to_json()
        return await self._need("POST", "/v1/heartbeat", body, take, need=self.beat_quorum)

    async def endorse_heads(self, request: HeadsRequest) -> tuple[Signed | CloisterError, ...]:
        """For each head: the StateHead with signatures of q members (2q - n > f), or why it was refused.

        Waits until every head has its quorum, or everyone has answered.
        """
        quorum, count = self.endorse_quorum, len(request.heads)
        got: list[dict[bytes, bytes]] = [{} for _ in range(count)]
        why: list[list[CloisterError]] = [[] for _ in range(count)]
        refused: list[CloisterError] = []

        def take(value: Any) -> bool | None:
            items = value.get("signatures") if isinstance(value, dict) else None
            if not isinstance(items, list) or len(items) != count:
                raise WRONG_ANSWER(expected=f"{count} signatures", found="another shape")
            for move, item, mine, errors in zip(request.heads, items, got, why, strict=True):
                self._endorsement(move, item, mine, errors)
            return True if all(len(mine) >= quorum for mine in got) else None

        question = partial(self.caught, method="POST", path="/v1/heads", body=request.to_json())
        await self._collect(question, take, refused, quorum, len(self.endpoints))
        return tuple(
            Signed(move.statement(self.signers.term), tuple(mine.values()))
            if len(mine) >= quorum
            else self.too_few(quorum, errors + refused)
            for move, mine, errors in zip(request.heads, got, why, strict=True)
        )

    async def heads(self, agent: bytes, nonce: bytes) -> tuple[Answer, ...]:
        """What r distinct members (r + q - n > f) remember of an agent: give it to ``core.state.require_fresh``.

        ``nonce``: 32 fresh random bytes, so that nobody can replay an older answer. Height 0: the member knows none.
        Raises gatekeeper.too_few below r answers.
        """
        path = f"/v1/heads/{to_hex(agent)}?nonce={to_hex(nonce)}"
        answers: dict[bytes, Answer] = {}

        def take(value: Any) -> tuple[Answer, ...] | None:
            answer = self._known_head(agent, nonce, HeadAnswer.from_json(value))
            answers[answer.member] = answer
            return tuple(answers.values()) if len(answers) >= self.load_quorum else None

        return await self._need("GET", path, None, take, need=self.load_quorum)

    async def head_tables(self, own: bytes, rng: Callable[[int], bytes]) -> list[list[dict[str, Any]]]:
        """The whole head tables of r members other than ``own`` (20-byte address): for a restarted member.

        Raises gatekeeper.too_few when fewer answer. ``rng`` gives the nonces.
        """
        results = await asyncio.gather(*(self._table(url, rng) for url in self.endpoints), return_exceptions=True)
        tables: dict[bytes, list[dict[str, Any]]] = {}
        refused: list[CloisterError] = []
        for result in results:
            if isinstance(result, CloisterError):
                refused.append(result)
            elif isinstance(result, BaseException):
                raise result
            elif result[0] != own:
                tables[result[0]] = result[1]
        if len(tables) < self.load_quorum:
            raise self.too_few(self.load_quorum, refused)
        return list(tables.values())

    async def _table(self, url: str, rng: Callable[[int], bytes]) -> tuple[bytes, list[dict[str, Any]]]:
        rows: list[dict[str, Any]] = []
        after, member, more = b"", b"", True
        while more:
            nonce = rng(32)
            answer = await self.ask(url, "GET", f"/v1/headtable?nonce={to_hex(nonce)}&after={to_hex(after)}")
            page = TablePage.from_json(answer)
            signer = self._ours(recover(page_digest(self.network, nonce, after, page.rows, page.more), page.fresh))
            rows += [dict(row) for row in page.rows]
            further = after_row(rows[-1]) if page.rows else b""
            if (member and signer != member) or len(rows) > MAX_TABLE or (page.more and further <= after):
                raise WRONG_ANSWER(expected="one member's table, page by page", found="another answer")
            member, more, after = signer, page.more, further
        return member, rows

    async def share_keys(self, epoch: int, fits: Callable[[PublicShares], bool]) -> PublicShares:
        """The public shares of a master epoch that t endpoints serve alike, among those that ``fits`` lets pass.

        Unsigned: share keys name a member that answers wrong, and no key is believed by them. Raises as ``keys``."""
        said: Counter[PublicShares] = Counter()

        def take(value: Any) -> PublicShares | None:
            found = PublicShares.from_json(value)
            if not fits(found):
                raise WRONG_ANSWER(expected=f"the public shares of epoch {epoch}", found="others")
            said[found] += 1
            return found if said[found] >= self.signers.threshold else None

        return await self._need("GET", f"/v1/shares/{epoch}", None, take)

    # Below: one question to everyone.

    async def _need(
        self,
        method: str,
        path: str,
        body: Any,
        take: Callable[[Any], T | None],
        *,
        need: int | None = None,
        last: Callable[[], T | None] = lambda: None,
        sparing: bool = False,
    ) -> T:
        """``last``: what to make of the answers when all have come and ``take`` found nothing. ``sparing``: ask only as
        many as are needed at first."""
        refused: list[CloisterError] = []
        quorum = self.signers.threshold if need is None else need
        question = partial(self._timed if sparing else self.caught, method=method, path=path, body=body)
        first = quorum if sparing else len(self.endpoints)
        found = await self._collect(question, take, refused, quorum, first) or last()
        if found is None:
            raise self.too_few(quorum, refused)
        return found

    async def _collect(
        self,
        question: Callable[[str], Awaitable[Any]],
        take: Callable[[Any], T | None],
        refused: list[CloisterError],
        need: int,
        first: int,
    ) -> T | None:
        """Give answers to ``take`` as they come until it returns something, or success became impossible.

        ``first``: how many are asked at once; the others once one refused, all answered, or the time is up."""
        waiting = list(self.endpoints) if first >= len(self.endpoints) else self._pace.order(self.endpoints)
        patience = self._pace.patience(waiting[:first])
        tasks: set[asyncio.Future[Any]] = set()
        try:
            while tasks or waiting:
                tasks |= {asyncio.ensure_future(question(url)) for url in waiting[:first]}
                del waiting[:first]
                limit = patience if waiting else None
                done, tasks = await asyncio.wait(tasks, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    found = _taken(take, task.result(), refused)
                    if found is not None:
                        return found
                if len(self.endpoints) - len(refused) < need and _commonest(refused)[1] >= need:
                    return None
                first = 0 if done and tasks and not refused else len(waiting)
            return None
        finally:
            for task in tasks:
                task.cancel()

    async def caught(self, url: str, method: str, path: str, body: Any = None) -> Any:
        """One question to one endpoint; a refusal is the answer."""
        try:
            return await self.ask(url, method, path, body)
        except CloisterError as error:
            return error

    async def _timed(self, url: str, method: str, path: str, body: Any = None) -> Any:
        """``caught``, and how long it took is kept, also when nobody waits for it any more."""
        return await self._pace.timed(url, self.caught(url, method, path, body))

    def _enough(self, group: Mapping[bytes, Any]) -> bool:
        return len(group) >= self.signers.threshold

    async def ask(self, url: str, method: str, path: str, body: Any = None) -> Any:
        """One question to one endpoint, within the timeout. Raises CloisterError."""
        return await ask(self.session(), method, url + path, body, timeout_s=self._timeout)

    def member(self, statement: Statement, signature: bytes) -> bytes:
        """Which member of this term signed. Raises CloisterError for strangers and other terms."""
        if getattr(statement, "term", None) != self.signers.term:
            raise WRONG_ANSWER(expected=f"term {self.signers.term}", found="another term")
        return self._ours(recover(statement.digest(self.network), signature))

    def _ours(self, signer: bytes) -> bytes:
        if signer not in self.signers.members:
            raise BAD_SIGNATURE(expected="a member", found=f"0x{signer.hex()}")
        return signer

    def _fits(self, request: KeysRequest, answer: KeysAnswer, member: bytes) -> None:
        lease, binding = answer.lease, request.shown.binding
        number = getattr(request.checkpoint.statement, "number", None)
        if (lease.agent, lease.worker, lease.boot, lease.checkpoint) != (
            request.agent,
            binding.node,
            binding.boot,
            number,
        ):
            raise WRONG_ANSWER(expected="a lease for this agent, worker, boot and checkpoint", found="another lease")
        index = self.signers.members.index(member) + 1
        keys = [(p.purpose, p.period) for p in answer.partials]
        if set(keys) != set(identities_of(lease, self.network)) or len(set(keys)) != len(keys):
            raise WRONG_ANSWER(expected="one partial per key of the lease", found=f"{len(keys)} others")
        old = self._old(answer)
        if len(set(old)) != len(old) or any(i.version.epochs >= lease.epochs for i in old):
            raise WRONG_ANSWER(expected="one partial per key of earlier epochs", found=f"{len(old)} others")
        if any(p.index != index for p in (*answer.partials, *(o.partial for o in answer.old))):
            raise WRONG_ANSWER(expected=f"partials of share {index}", found="of another share")

    def _granted(self, lease: Lease, chosen: Sequence[KeysAnswer]) -> Granted:
        partials: dict[tuple[Purpose, int], tuple[KeyPartial, ...]] = {}
        for answer in chosen:
            for p in answer.partials:
                partials[p.purpose, p.period] = (*partials.get((p.purpose, p.period), ()), p)
        old: dict[KeyIdentity, tuple[KeyPartial, ...]] = {}
        for answer in chosen:
            for identity, o in zip(self._old(answer), answer.old, strict=True):
                old[identity] = (*old.get(identity, ()), o.partial)
        old = {identity: parts for identity, parts in old.items() if len(parts) >= self.signers.threshold}
        signed = Signed(lease, tuple(a.lease_signature for a in chosen))
        return Granted(signed, partials, identities_of(lease, self.network), old)

    def _old(self, answer: KeysAnswer) -> list[KeyIdentity]:
        return [o.epochs.version(self.network, answer.lease.agent).key(o.partial.purpose) for o in answer.old]

    def _endorsement(self, move: HeadMove, item: object, mine: dict[bytes, bytes], errors: list[CloisterError]) -> None:
        if isinstance(item, dict):
            errors.append(from_wire(item.get("error", item)))
            return
        try:
            signature = from_hex(item, SIGNATURE, name="signature")
            mine[self.member(move.statement(self.signers.term), signature)] = signature
        except CloisterError as error:
            errors.append(error)

    def _known_head(self, agent: bytes, nonce: bytes, answer: HeadAnswer) -> Answer:
        what = fresh_digest(self.network, self.signers.term, nonce, agent, answer.head)
        member = self._ours(recover(what, answer.fresh))
        if answer.head is None:
            return Answer(member, 0, bytes(32))
        move = answer.head.move
        if move.agent != agent:
            raise WRONG_ANSWER(expected="a head of this agent", found="of another")
        if self.member(move.statement(self.signers.term), answer.head.signature) != member:
            raise WRONG_ANSWER(expected="one member's head and freshness", found="two signers")
        return Answer(member, move.height, move.head, move.epochs)

    def too_few(self, need: int, refused: Sequence[CloisterError]) -> CloisterError:
        """Why ``need`` members did not agree: the refusal that t of them share, or gatekeeper.too_few."""
        code, count = _commonest(refused)
        if count >= self.signers.threshold and not code.startswith("wire."):
            return next(e for e in refused if e.code == code)
        why = f"; {count} said {code}" if count else ""
        return TOO_FEW(
            expected=f"{need} agreeing of {len(self.signers.members)}",
            found=f"{len(self.endpoints) - len(refused)} usable answers{why}",
        )


def _taken(take: Callable[[Any], T | None], value: Any, refused: list[CloisterError]) -> T | None:
    try:
        if isinstance(value, CloisterError):
            raise value
        return take(value)
    except CloisterError as error:
        refused.append(error)
    return None


def _commonest(refused: Sequence[CloisterError]) -> tuple[str, int]:
    common = Counter(e.code for e in refused).most_common(1)
    return common[0] if common else ("", 0)

"""Serving contracts: requests of the Anchor, each answered once (spec/anchor.md 9-17, 27-33).

A turn per agent: 1. what the proven queue has gained is fetched, checked against its hash chain and taken in; 2. what
is closed or late is forgotten; 3. what this worker is to answer is run, signed and kept, in one commit with the agent's
own writes; 4. answers that are complete are brought to the chain, again and again until a checkpoint shows the request
closed. So a crash between any two steps repeats a step, and a reorganisation that swallows an answer gets it once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from cloister.chain.anchor import AnchorChain, already
from cloister.chain.proven import ProvenState
from cloister.chain.tx import NO_FUNDS
from cloister.core.chainview.anchor import MAX_PAYLOAD, WITHHELD, AnchorSeat, Asked
from cloister.core.encoding.contract_statements import AnchorAnswer, AnchorLease
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.signatures import Signed
from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import ChainError, CloisterError, PolicyError, define
from cloister.node import logs
from cloister.worker.anchor_courier import Courier, Ready
from cloister.worker.anchor_outbox import BATCH, MAX_OPEN, Answered, Cursor, Entry, Outbox

# Requests of one agent that its code works on at once.
AT_ONCE: Final = 16
# A seat that is not first in line waits so long for those before it, each.
PATIENCE_S: Final = 30
# A lease at the Anchor: how long, and how long before its end a new one is asked for.
LEASE_S: Final = 6 * 3600
RENEW_S: Final = 3600
# Turns between two attempts to tell the Anchor of a new committee.
ADOPT_TURNS: Final = 16
# Turns that a failing agent is left alone after its n-th failure: 2**n, at most 2**6.
MAX_BACKOFF: Final = 6

NO_SEAT = define(
    "anchor.no_seat",
    PolicyError,
    check="the committee signs this worker's lease at the Anchor, and the chain takes it",
    remedy="none needed: the worker asks again; the request goes back to its requester after the deadline",
    status=503,
)
BAD_REPLY = define(
    "anchor.bad_reply",
    PolicyError,
    check=f"the agent answers a contract's request with status 200 and at most {MAX_PAYLOAD} bytes",
    remedy="see docs/use/contracts.md for what an agent answers",
    status=502,
)
_log = logs.get("anchor")


@dataclass(frozen=True, slots=True)
class Place:
    """Where answers count. ``network``: the network id; ``anchor``, ``worker`` and ``payee``: 20-byte addresses.
    ``home``: the network's own chain, where the Anchor reads the committee by itself."""

    network: bytes
    chain_id: int
    anchor: bytes
    worker: bytes
    payee: bytes
    home: bool = True


@dataclass(frozen=True, slots=True)
class Turn:
    """What one agent's turn is based on. ``checkpoint`` and ``state``: of the Anchor's chain; all else of the network's
    own one. ``seats``: workers that hold the agent, best first. ``founded``: nobody could ask before that block."""

    agent: bytes
    epoch: int
    code_hash: bytes
    term: int
    vendor_class: bytes
    checkpoint: Checkpoint
    state: ProvenState
    seats: tuple[bytes, ...]
    founded: int = 0


@dataclass(frozen=True, slots=True)
class Waiting:
    """An answer that this worker's account cannot pay for: anybody may bring it. ``lease`` and ``told``: not on chain
    yet either."""

    request: Asked
    reply: bytes
    by: tuple[tuple[bytes, bytes], ...]
    lease: Signed | None
    told: Signed | None = None


class Runner(Protocol):
    """Runs the agent on a request and commits its writes together with ``keep(reply)``, once."""

    async def run(self, request: Asked, payload: bytes, keep: Callable[[bytes], tuple[str, bytes]]) -> None:
        """``keep`` gives name and value of the signed answer. Raises CloisterError; already_done is no error."""


class TellerPort(Protocol):
    """Sees that a connected chain knows the agent (``remote.Teller``)."""

    waiting: Signed | None

    async def told(self, epoch: int, term: int) -> None:
        """Raises CloisterError while the agent may not answer there."""


class LeasePort(Protocol):
    """Asks the committee for t signatures on a lease at the Anchor."""

    async def anchor_lease(self, lease: AnchorLease, signature: bytes) -> Signed:
        """``signature``: the worker's own over the statement. Raises the committee's refusal."""


class AnchorDesk:
    """Serves one agent's requests at one Anchor. ``sign(digest)`` is the node key's; ``ask`` gets leases."""

    def __init__(
        self,
        chain: AnchorChain,
        place: Place,
        outbox: Outbox,
        runner: Runner,
        leases: LeasePort,
        sign: Callable[[bytes], bytes],
        teller: TellerPort | None = None,
    ) -> None:
        self._teller = teller
        self._chain, self._place, self._outbox, self._runner = chain, place, outbox, runner
        self._leases, self._sign, self._courier = leases, sign, Courier(chain)
        self._failures: dict[int, tuple[int, int]] = {}
        self._turns = 0
        self._adopt_after = 0
        self._seating = asyncio.Lock()
        self._registered: tuple[tuple[int, int], AnchorSeat] | None = None
        self._unregistered: Signed | None = None
        self.waiting: dict[int, Waiting] = {}

    async def turn(self, at: Turn) -> bool:
        """One turn; True while a request is open. One that fails does not hold up the others; the first refusal is
        raised at the end."""
        self._turns += 1
        all_in = await self._take_in(at)  # 1
        unfinished = await self._unfinished(at)  # 2
        free = asyncio.Semaphore(AT_ONCE)

        async def one(entry: Entry) -> CloisterError | None:
            try:
                async with free:
                    ready = await self._serve(at, entry)  # 3
                if ready is not None:
                    await self._bring(at, ready)  # 4
            except CloisterError as error:
                return error
            return None

        refused = [error for error in await asyncio.gather(*(one(e) for e in unfinished)) if error is not None]
        if refused:
            raise refused[0]
        return bool(unfinished) or not all_in

    # --- 1: what is new ---

    async def _take_in(self, at: Turn) -> bool:
        """Requests up to the proven queue, as many as there is room for; True if that is all.

        1. what logs claim leads from the cursor to the proven head, one after the other; 2. of what is in time, what
        fits is kept; 3. with the cursor, in commits of a few. Raises chainview.requests_withheld where logs do not fit
        the queue. No more than what is kept is held in memory, however many ask."""
        queue = await self._chain.queue(at.state, at.agent)
        cursor = await self._outbox.cursor()
        room = MAX_OPEN - await self._outbox.count()
        if queue.count <= cursor.queue.count or room <= 0:
            return queue.count <= cursor.queue.count
        reached, end, kept, full = cursor.queue, cursor, list[tuple[Entry, Cursor]](), False
        since = max(cursor.block, at.founded)
        async for asked, payload, block in self._chain.claims(at.agent, since, at.checkpoint.number):
            if asked.index <= cursor.queue.count:
                continue
            if asked.index != reached.count + 1:  # 1
                raise WITHHELD(expected=f"request {reached.count + 1}", found=f"request {asked.index}")
            reached = reached.after(asked.commitment())
            in_time = at.checkpoint.timestamp <= asked.deadline
            full = full or (in_time and len(kept) >= room)
            if not full:
                end = Cursor(reached, block)
                if in_time:  # 2
                    kept.append((Entry(asked, payload, at.checkpoint.timestamp), end))
        if reached != queue:
            raise WITHHELD(expected=f"{queue.count} requests with the proven head", found=f"{reached.count} or others")
        for start in range(0, max(1, len(kept)), BATCH):  # 3
            line = kept[start : start + BATCH]
            till = end if start + BATCH >= len(kept) else line[-1][1]
            if not await self._outbox.take([entry for entry, _ in line], till):
                return False
        return not full

    # --- 2: what ended ---

    async def _unfinished(self, at: Turn) -> list[Entry]:
        """Requests that are open by proof and in time; the others are forgotten."""
        entries = await self._outbox.entries()
        still, ended = list[Entry](), list[int]()
        for entry, is_open in zip(entries, await self._chain.open(at.state, [e.request for e in entries]), strict=True):
            if is_open and at.checkpoint.timestamp <= entry.request.deadline:
                still.append(entry)
            else:
                self._failures.pop(entry.request.index, None)
                self.waiting.pop(entry.request.index, None)
                ended.append(entry.request.index)
        for start in range(0, len(ended), BATCH):
            await self._outbox.finish(*ended[start : start + BATCH])
        return still

    # --- 3: the answer ---

    async def _serve(self, at: Turn, entry: Entry) -> Ready | None:
        """The answer, if it is complete and this worker is to bring it."""
        request = entry.request
        position = self._position(at, request)
        if position is None or not self._due(at, entry, position):
            return None
        answers = await self._outbox.answers(request.index)
        mine = any(a.worker == self._place.worker for a in answers)
        if not mine and not complete(answers, request.copies):
            await self._answer(at, entry)
        elif not mine and self._abandoned(at, entry, position):
            await self._sign_too(at, request, answers[0])
        answers = await self._outbox.answers(request.index)
        answers.sort(key=lambda a: a.worker != self._place.worker)
        chosen = complete(answers, request.copies)
        if chosen is None:
            return None
        return Ready(request, chosen[0].reply, tuple((a.worker, a.signature) for a in chosen))

    def _abandoned(self, at: Turn, entry: Entry, position: int) -> bool:
        """Whether a single answer waits for a seat that had more time than all before us: it may be gone for good."""
        late = at.checkpoint.timestamp >= entry.seen + (position + 2) * PATIENCE_S
        return late and entry.request.copies == 1

    async def _sign_too(self, at: Turn, request: Asked, answered: Answered) -> None:
        """Sign what another seat of this agent ran: the agent's sealed state vouches for it."""
        seat = await self._seat(at)
        signature = self._signature(request, answered.reply)
        mine = Answered(self._place.worker, answered.reply, signature, seat.vendor_class)
        await self._outbox.sign_too(request.index, mine)

    def _position(self, at: Turn, request: Asked) -> int | None:
        """This worker's place in line: seats take turns by the request's index."""
        if self._place.worker not in at.seats:
            return None
        n = len(at.seats)
        return (at.seats.index(self._place.worker) - request.index) % n

    def _due(self, at: Turn, entry: Entry, position: int) -> bool:
        """1. the code pinned is the one that runs; 2. it is our turn; 3. the agent did not just fail on it."""
        pinned = entry.request.code_hash
        if any(pinned) and pinned != at.code_hash:  # 1
            return False
        behind = max(0, position - entry.request.copies + 1)
        if at.checkpoint.timestamp < entry.seen + behind * PATIENCE_S:  # 2
            return False
        return self._failures.get(entry.request.index, (0, 0))[1] <= self._turns  # 3

    async def _answer(self, at: Turn, entry: Entry) -> None:
        """A lease first, for an answer without one is worth nothing. Then run, sign and keep, in one commit."""
        request = entry.request
        seat = await self._seat(at)

        def keep(reply: bytes) -> tuple[str, bytes]:
            signature = self._signature(request, reply)
            return self._outbox.put_answer(
                request.index, Answered(self._place.worker, reply, signature, seat.vendor_class)
            )

        try:
            await self._runner.run(request, entry.payload, keep)
        except CloisterError:
            failed = self._failures.get(request.index, (0, 0))[0] + 1
            self._failures[request.index] = (failed, self._turns + (1 << min(failed, MAX_BACKOFF)))
            raise

    def _signature(self, request: Asked, reply: bytes) -> bytes:
        place, commitment = self._place, request.commitment()
        said = AnchorAnswer(place.chain_id, place.anchor, commitment, keccak256(reply), bytes(32))
        return self._sign(said.digest(place.network))

    # --- 4: to the chain ---

    async def _bring(self, at: Turn, ready: Ready) -> None:
        request = ready.request
        await self._seat(at)
        if not await self._chain.is_open(request):
            self.waiting.pop(request.index, None)
            return  # somebody was faster; a checkpoint will say so
        told = None if self._teller is None else self._teller.waiting
        waits = Waiting(request, ready.reply, ready.by, self._unregistered, told)
        if self._unregistered is not None or told is not None:
            self.waiting[request.index] = waits
            raise NO_FUNDS(expected="an account that can register its lease", found="one that cannot pay")
        try:
            receipt = await self._courier.bring(ready)
            self.waiting.pop(request.index, None)
        except ChainError as error:
            if already(error):
                return
            if error.code == NO_FUNDS.code:
                self.waiting[request.index] = waits
            else:
                self._registered = None  # perhaps the chain forgot it
            raise
        _log.info("answered", index=request.index, block=receipt.block_number, gas=receipt.gas_used)

    async def seat(self, at: Turn) -> AnchorSeat:
        """This worker's live lease at the Anchor, got and registered if need be. Raises anchor.no_seat, ChainError."""
        return await self._seat(at)

    async def _seat(self, at: Turn) -> AnchorSeat:
        """One at a time: requests that are served side by side need one lease."""
        async with self._seating:
            return await self._seated(at)

    async def _seated(self, at: Turn) -> AnchorSeat:
        """This worker's live lease at the Anchor, got and registered if need be. Raises anchor.no_seat, ChainError.

        1. the Anchor knows the committee in office, and elsewhere the agent as it is now; 2. a lease that lasts, by
        proof or just registered; 3. a new one, with t signatures, on chain."""
        term, expiry = await self._chain.term(at.state)
        now = at.checkpoint.timestamp
        if term != at.term or expiry <= now + RENEW_S:  # 1
            if self._place.home and self._turns >= self._adopt_after:
                self._adopt_after = self._turns + ADOPT_TURNS
                await self._chain.adopt()
            raise NO_SEAT(expected=f"term {at.term} at the Anchor", found=f"term {term}")
        await self._tell(at)
        held = await self._chain.seat(at.state, term, at.agent, at.epoch, self._place.worker)
        if self._registered is not None and self._registered[0] == (term, at.epoch):
            held = self._registered[1]
        if held is not None and held.expiry > now + RENEW_S and held.code_hash == at.code_hash:  # 2
            if self._unregistered is not None:
                await self._register(self._unregistered)
            return held
        lease = self._lease(at)
        signed = await self._leases.anchor_lease(lease, self._sign(lease.digest(self._place.network)))  # 3
        await self._register(signed)
        held = AnchorSeat(lease.payee, lease.expiry, lease.vendor_class, lease.code_hash)
        self._registered = (term, at.epoch), held
        return held

    async def _tell(self, at: Turn) -> None:
        """One that the account cannot pay for is kept: whoever brings the answer brings it."""
        try:
            if self._teller is not None:
                await self._teller.told(at.epoch, at.term)
        except ChainError as error:
            if error.code != NO_FUNDS.code:
                raise

    async def _register(self, signed: Signed) -> None:
        """Put a lease on chain. One that the account cannot pay for is kept: whoever brings the answer brings it."""
        self._unregistered = None
        if self._teller is not None and self._teller.waiting is not None:
            self._unregistered = signed  # the chain takes it after that only
            return
        try:
            await self._chain.register(signed)
        except ChainError as error:
            if error.code != NO_FUNDS.code:
                self._registered = None
                raise
            self._unregistered = signed

    def _lease(self, at: Turn) -> AnchorLease:
        return AnchorLease(
            term=at.term,
            chain_id=self._place.chain_id,
            anchor=self._place.anchor,
            agent=at.agent,
            agent_epoch=at.epoch,
            code_hash=at.code_hash,
            worker=self._place.worker,
            vendor_class=at.vendor_class,
            payee=self._place.payee,
            expiry=at.checkpoint.timestamp + LEASE_S,
        )


def complete(answers: list[Answered], copies: int) -> list[Answered] | None:
    """``copies`` equal answers, for two or more of them by at least two vendor classes; None if there are none."""
    groups: dict[bytes, list[Answered]] = {}
    for answer in answers:
        groups.setdefault(answer.reply, []).append(answer)
    for group in groups.values():
        chosen = _mixed(group, copies)
        if chosen is not None:
            return chosen
    return None


def _mixed(group: list[Answered], copies: int) -> list[Answered] | None:
    """The first ``copies`` of a group, with one of another vendor class in the last place if need be."""
    chosen = group[:copies]
    if len(chosen) < copies:
        return None
    if copies == 1 or len({a.vendor_class for a in chosen}) > 1:
        return chosen
    other = next((a for a in group if a.vendor_class != chosen[0].vendor_class), None)
    return None if other is None else [*chosen[:-1], other]

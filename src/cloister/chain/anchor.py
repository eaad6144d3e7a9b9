"""The Anchor over an endpoint: what is proven, what logs claim, and the transactions (spec/anchor.md).

Logs are claims: ``core.chainview.anchor.require_line`` compares them with the proven queue before anybody works on
them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from cloister.chain import abi
from cloister.chain.abi import BAD_ANSWER
from cloister.chain.contracts import artifact, call, encode
from cloister.chain.events import decode_event, topic
from cloister.chain.kinds import ETHEREUM, ChainKind
from cloister.chain.logs import get_logs
from cloister.chain.proven import ProvenState
from cloister.chain.rpc import REVERTED, Rpc
from cloister.chain.tx import Receipt, Sender
from cloister.core.chainview.anchor import (
    MAX_PAYLOAD,
    AnchorSeat,
    Asked,
    Queue,
    read_anchor_term,
    read_entry,
    read_open,
    read_queue,
    read_queues,
    read_seat,
)
from cloister.core.encoding.contract_statements import AnchorLease
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.signatures import Signed
from cloister.core.errors import ChainError

MAX_LOGS: Final = 4096
# Logs read at once: those of one block at least.
PIECE: Final = 1024
NAME: Final = "Anchor"
# Key (32 bytes), the version that it replaces, the new value.
Update = tuple[bytes, int, bytes]


class AnchorChain:
    """One Anchor, on the network's own chain or a connected one. ``address``: 20 bytes."""

    def __init__(self, rpc: Rpc, address: bytes, sender: Sender | None = None, kind: ChainKind = ETHEREUM) -> None:
        self.rpc, self.address, self._sender, self._span = rpc, address, sender, kind.log_span

    # --- proven ---

    async def queue(self, state: ProvenState, agent: bytes) -> Queue:
        """The agent's queue at the checkpoint."""
        return await state.read(NAME, lambda s, at: read_queue(s, at, agent))

    async def queues(self, state: ProvenState, agents: Sequence[bytes]) -> dict[bytes, Queue]:
        """The queues of many agents, proven together."""
        found = await state.read(NAME, lambda s, at: read_queues(s, at, agents))
        return dict(zip(agents, found, strict=True))

    async def open(self, state: ProvenState, requests: Sequence[Asked]) -> tuple[bool, ...]:
        """Which requests are open at the checkpoint."""
        return await state.read(NAME, lambda s, at: read_open(s, at, requests))

    async def term(self, state: ProvenState) -> tuple[int, int]:
        """(term, expiry) of the signer set at the checkpoint."""
        return await state.read(NAME, read_anchor_term)

    async def seat(self, state: ProvenState, term: int, agent: bytes, epoch: int, worker: bytes) -> AnchorSeat | None:
        """A worker's lease at the checkpoint."""
        return await state.read(NAME, lambda s, at: read_seat(s, at, term, agent, epoch, worker))

    async def entry(self, state: ProvenState, agent: bytes, key: bytes) -> tuple[int, bytes]:
        """(version, value) of an agent's store at the checkpoint."""
        return await state.read(NAME, lambda s, at: read_entry(s, at, agent, key))

    # --- claims ---

    async def requests(
        self, agent: bytes, since: int, until: int, *, most: int = MAX_LOGS
    ) -> list[tuple[Asked, bytes, int]]:
        """(request, payload, block) of an agent's Requested logs in blocks ``since`` to ``until``, by index.

        Claims, of the right form only. Raises ChainError; chain.bad_answer for more than ``most``."""
        topics = [to_hex(topic(NAME, "Requested")), to_hex(agent)]
        logs = await get_logs(self.rpc, self.address, topics, since, until, span=self._span, most=most)
        found = [_asked(log, agent) for log in logs]
        return sorted(found, key=lambda one: one[0].index)

    async def claims(self, agent: bytes, since: int, until: int) -> AsyncIterator[tuple[Asked, bytes, int]]:
        """``requests``, a piece of the chain at a time, however many there are. Raises ChainError.

        A piece of too many logs is asked for in halves, down to one block."""
        start, span = since, until - since + 1
        while start <= until:
            end = min(start + span - 1, until)
            try:
                piece = await self.requests(agent, start, end, most=PIECE)
            except ChainError as error:
                if error.code != BAD_ANSWER.code or span == 1:
                    raise
                span = max(1, span // 2)
                continue
            for claim in piece:
                yield claim
            start = end + 1

    async def is_open(self, request: Asked) -> bool:
        """Whether the newest block has the request open. Unproven."""
        return bool(await call(self.rpc, self.address, NAME, "isOpen", request))

    async def newest_version(self, agent: bytes, key: bytes) -> int:
        """The version of an entry at the newest block. Unproven."""
        return int((await call(self.rpc, self.address, NAME, "read", agent, key))[0])

    # --- transactions ---

    async def adopt(self) -> Receipt:
        """Copy the committee in office. Raises ChainError."""
        return await self._send("adopt")

    async def register(self, lease: Signed) -> Receipt:
        """Bring a lease that the committee signed. Raises ChainError."""
        assert isinstance(lease.statement, AnchorLease)  # noqa: S101 - the caller asked for one
        return await self._send("registerLease", lease.statement, list(lease.signatures))

    async def respond(self, request: Asked, reply: bytes, by: Sequence[tuple[bytes, bytes]]) -> Receipt:
        """Bring an answer; ``by``: (worker, signature). Gas is estimated: what would revert is not sent."""
        return await self._send("respond", request, reply, sorted(by))

    async def respond_batch(self, answers: Sequence[tuple[Asked, bytes, Sequence[tuple[bytes, bytes]]]]) -> Receipt:
        """Bring many answers: (request, reply, by). What is closed or late is passed over; else all or nothing."""
        return await self._send("respondBatch", [(request, reply, sorted(by)) for request, reply, by in answers])

    async def commit(self, agent: bytes, update: Update, deadline: int, by: tuple[bytes, bytes]) -> Receipt:
        """Bring an update of an agent's store, ``by`` (worker, signature). It counts once: its version is over then."""
        return await self._send("commit", agent, _commit(update), deadline, by)

    async def hand_over(self, signed: Signed, members: Sequence[bytes]) -> Receipt:
        """Name the next signer set, with t signatures of the current one. Raises ChainError."""
        return await self._send("handOver", signed.statement, list(members), list(signed.signatures))

    async def refund(self, request: Asked) -> Receipt:
        """Give an unanswered request's fee back, after its deadline. Raises ChainError."""
        return await self._send("refund", request)

    async def _send(self, fn: str, *args: Any) -> Receipt:
        if self._sender is None:
            raise RuntimeError("this reader sends nothing")
        return await self._sender.send(self.address, encode(NAME, fn, *args))


def commit_hash(update: Update) -> bytes:
    """keccak256(abi.encode(Commit)) of one update: what a worker signs. 32 bytes."""
    entry = next(e for e in artifact(NAME).abi if e.get("name") == "commit")
    return keccak256(abi.encode([abi.parse(entry["inputs"][1])], [_commit(update)]))


def _commit(update: Update) -> dict[str, Any]:
    return {"conditions": [], "updates": [update]}


def already(error: ChainError) -> bool:
    """Whether a refused answer or refund was no longer needed: the request is closed."""
    return error.code == REVERTED.code and "NotOpen" in error.found


def _asked(log: Any, agent: bytes) -> tuple[Asked, bytes, int]:
    if not isinstance(log, dict):
        raise BAD_ANSWER(expected="a log", found=type(log).__name__)
    name, said = decode_event(NAME, log)
    block = log.get("blockNumber")
    if (
        name != "Requested"
        or said["agent"] != agent
        or len(said["payload"]) > MAX_PAYLOAD
        or not isinstance(block, str)
    ):
        raise BAD_ANSWER(expected="a request of the agent", found="another log")
    asked = Asked(
        agent=agent,
        index=said["index"],
        requester=said["requester"],
        fee=said["fee"],
        code_hash=said["codeHash"],
        gas_limit=said["gasLimit"],
        deadline=said["deadline"],
        copies=said["copies"],
        flags=said["flags"],
        payload_hash=keccak256(said["payload"]),
    )
    return asked, said["payload"], int(block, 16)

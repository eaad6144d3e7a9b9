"""What agents do by their contract accounts: their signer there, and calls, each at most once (spec/accounts.md).

::

    keys.send -> queued with the request's own writes -> signed, brought -> a checkpoint shows its nonce as used: made
                                                                        -> or its deadline as past: expired

A call exists exactly if the request that wanted it committed. Its nonce counts once on chain, and its deadline never
moves: so it is made at most once, whatever crashes or is reorganised, and its end is proven before it is told.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from coincurve import PrivateKey

from cloister.chain.contracts import decode, encode
from cloister.chain.proven_calls import ProvenCalls
from cloister.chain.rpc import REVERTED
from cloister.chain.tx import Receipt
from cloister.core.chainview.records import AgentRecord
from cloister.core.encoding import jcs
from cloister.core.encoding.signatures import Signed, address_of, sign_digest
from cloister.core.encoding.statements import SetSigner, Statement
from cloister.core.encoding.typed_data import account_call_digest
from cloister.core.errors import ChainError, ChainViewError, CloisterError, StateError, define
from cloister.fabric.ports import CONFLICT
from cloister.node import logs
from cloister.worker.anchor_outbox import request_id
from cloister.worker.state import ALREADY_DONE, AgentState

ENDED: Final = "\0account-ended"
MAX_WAITING: Final = 64
KEPT_ENDS: Final = 64
MAX_DATA: Final = 16 << 10
# The seats of an agent take turns in bringing: each next one waits so much longer.
PATIENCE_S: Final = 20
# A call that the chain refuses is tried again so often, until its deadline.
RETRY_S: Final = 15

NO_ACCOUNT = define(
    "worker.account_view",
    ChainViewError,
    check="the agent's contract account answers by proof",
    remedy="wait for the next checkpoint; if it lasts, ask the operator which chain endpoint is used",
    status=503,
)
_log = logs.get("account")


def waiting(chain: int | None) -> str:
    """Prefix of the calls that wait for a connected chain; None: for the network's own."""
    return "\0account/" if chain is None else f"\0account@{chain}/"


@dataclass(frozen=True, slots=True)
class AccountCall:
    """A call to be made. ``nonce``: 32 bytes; ``until``, ``seen``: Unix seconds of the chain's clock. ``chain``: of a
    connected chain."""

    nonce: bytes
    to: bytes
    value: int
    data: bytes
    until: int
    seen: int
    chain: int | None = None

    @property
    def name(self) -> str:
        """Where it waits in the agent's state."""
        return f"{waiting(self.chain)}{self.nonce.hex()}"

    def encode(self) -> bytes:
        """JCS."""
        shown = {"to": self.to.hex(), "value": str(self.value), "data": base64.b64encode(self.data).decode()}
        return jcs.encode({**shown, "until": self.until, "seen": self.seen})

    @classmethod
    def decode(cls, nonce: bytes, data: bytes, chain: int | None = None) -> AccountCall:
        """What ``encode`` wrote, for this chain."""
        said = jcs.decode(data)
        to, call = bytes.fromhex(said["to"]), base64.b64decode(said["data"])
        return cls(nonce, to, int(said["value"]), call, said["until"], said["seen"], chain)


@dataclass(frozen=True, slots=True)
class AccountTurn:
    """What a turn is based on: by proof at the newest checkpoint. ``seats``: workers of the agent, best first."""

    record: AgentRecord
    term: int
    seats: tuple[bytes, ...]
    calls: ProvenCalls


class Sends(Protocol):
    """Sends with this worker's own coin (``chain.tx.Sender``)."""

    async def send(self, to: bytes | None, data: bytes = b"") -> Receipt:
        """Until included. Raises ChainError."""


class Signers(Protocol):
    """Asks the committee who may act (``wire.account``)."""

    async def account_signer(self, asked: SetSigner) -> Signed:
        """t signatures. Raises the committee's refusal."""


class AccountDesk:
    """Serves one agent's account. ``registry``: the Agents contract; ``refusals``: why calls that wait were refused.
    ``remote``: the account is on a connected chain, whose registry is RemoteAgents; there nothing is done unasked, and
    ``told`` sees that the registry knows the agent."""

    def __init__(
        self,
        worker: bytes,
        chain_id: int,
        registry: bytes,
        state: AgentState,
        sender: Sends,
        signers: Signers,
        *,
        told: Callable[[int, int], Awaitable[None]] | None = None,
    ) -> None:
        self._worker, self._chain_id, self._registry = worker, chain_id, registry
        self._told, self._remote = told, None if told is None else chain_id
        self._state, self._sender, self._signers = state, sender, signers
        self._since: dict[tuple[int, bool], int] = {}
        self._tried: dict[bytes, int] = {}
        self.refusals: dict[bytes, str] = {}

    async def turn(self, at: AccountTurn, key: PrivateKey) -> bool:
        """One turn; True while something waits. Raises CloisterError.

        1. elsewhere only for a call that it is our turn to bring: the chain knows the agent; 2. the account exists, and
        its signer is that of the agent's epoch; 3. each waiting call: one that is over ends whatever was refused."""
        calls, untold, wanted = await self._waiting(), None, True
        if self._told is not None:
            wanted = any(self._due(at, call.seen, call.nonce) for call in calls)
            try:
                if wanted:
                    await self._told(at.record.epoch, at.term)  # 1
            except CloisterError as error:
                untold = error
        ready = wanted and untold is None and await self._ready(at, key)  # 2
        for call in calls:  # 3
            await self._one(at, call, key if ready else None)
        if untold is not None:
            raise untold
        return bool(calls) or (wanted and not ready)

    # --- the signer ---

    async def _ready(self, at: AccountTurn, key: PrivateKey) -> bool:
        """Whether a checkpoint shows the account with its signer; if not, and it is our turn, see to it."""
        record = at.record
        found = await at.calls.view(record.account, encode("AgentAccount", "signerEpoch"))
        exists = found.ok and len(found.output) == 32
        if exists and decode("AgentAccount", "signerEpoch", found.output) == record.epoch:
            self._since.clear()
            return True
        step = (record.epoch, exists)
        since = self._since.setdefault(step, at.calls.checkpoint.timestamp)
        if not self._due(at, since, record.agent):
            return False
        if exists:
            await self._register(at, key)
        else:
            await self._create(at)
        self._since[step] = at.calls.checkpoint.timestamp + PATIENCE_S  # a checkpoint will show it
        return False

    async def _create(self, at: AccountTurn) -> None:
        """Anybody may; the code and the address are the registry's."""
        answer = await at.calls.view(self._registry, encode("Agents", "accounts"))
        if not answer.ok:
            raise NO_ACCOUNT(expected="the maker of accounts", found="a revert")
        maker = decode("Agents", "accounts", answer.output)
        await self._sender.send(maker, encode("AgentAccounts", "create", at.record.token_id))
        _log.info("account created", agent=at.record.agent.hex()[:16])

    async def _register(self, at: AccountTurn, key: PrivateKey) -> None:
        asked = SetSigner(at.term, at.record.agent, at.record.epoch, address_of(key))
        signed = await self._signers.account_signer(asked)
        fields = _fields(signed.statement)
        await self._sender.send(at.record.account, encode("AgentAccount", "setSigner", fields, list(signed.signatures)))
        _log.info("signer set", agent=at.record.agent.hex()[:16], epoch=at.record.epoch)

    # --- calls ---

    async def _waiting(self) -> list[AccountCall]:
        tx = await self._state.begin(request_id("read account"))
        found = []
        prefix = waiting(self._remote)
        for name in await tx.list(prefix, limit=MAX_WAITING):
            data = await tx.get(name)
            if data is not None:
                found.append(AccountCall.decode(bytes.fromhex(name.removeprefix(prefix)), data, self._remote))
        return found

    async def _one(self, at: AccountTurn, call: AccountCall, key: PrivateKey | None) -> None:
        """1. a checkpoint shows it as made; 2. or its time as over; 3. the seats before us had theirs; 4. bring it.

        Past its deadline the chain refuses it, and a checkpoint after the deadline that does not show it never will."""
        now = at.calls.checkpoint.timestamp
        nonce = int.from_bytes(call.nonce, "big")
        used = await at.calls.view(at.record.account, encode("AgentAccount", "used", nonce))
        if used.ok and len(used.output) == 32 and decode("AgentAccount", "used", used.output):  # 1
            await self._end(call, "made")
            return
        if now > call.until:  # 2
            await self._end(call, "expired")
            return
        if key is None or not self._due(at, call.seen, call.nonce):  # 3
            return
        if now < self._tried.get(call.nonce, 0) + RETRY_S:
            return
        self._tried[call.nonce] = now
        await self._bring(at, call, key)  # 4

    async def _bring(self, at: AccountTurn, call: AccountCall, key: PrivateKey) -> None:
        nonce = int.from_bytes(call.nonce, "big")
        said = (call.to, call.value, call.data, nonce, call.until)
        signature = sign_digest(key, account_call_digest(self._chain_id, at.record.account, *said))
        try:
            await self._sender.send(at.record.account, encode("AgentAccount", "executeSigned", *said, signature))
        except ChainError as error:
            if error.code != REVERTED.code:
                raise
            self.refusals[call.nonce] = error.found[:200]  # it may pass later: caps and lists change
            return
        _log.info("acted", agent=at.record.agent.hex()[:16])

    def _due(self, at: AccountTurn, since: int, name: bytes) -> bool:
        """Whether it is this worker's turn: seats begin at a place that follows from the name, one after the other."""
        if self._worker not in at.seats:
            return False
        first = int.from_bytes(hashlib.sha256(name).digest()[:8], "big")
        behind = (at.seats.index(self._worker) - first) % len(at.seats)
        return at.calls.checkpoint.timestamp >= since + behind * PATIENCE_S

    async def _end(self, call: AccountCall, state: str) -> None:
        """Tell the end, once. A race with another seat is no error: the next turn repeats."""
        name = request_id(f"account {call.nonce.hex()} {state}")
        why = self.refusals.pop(call.nonce, None)
        self._tried.pop(call.nonce, None)
        try:
            tx = await self._state.begin(name)
            ends = jcs.decode(await tx.get(ENDED) or b"[]")
            entry = {"nonce": call.nonce.hex(), "state": state, "reason": why if state == "expired" else None}
            await tx.put(ENDED, jcs.encode([*ends, entry][-KEPT_ENDS:]))
            await tx.delete(call.name)
            await tx.commit(name)
        except StateError as error:
            if error.code not in (CONFLICT.code, ALREADY_DONE.code):
                raise


def _fields(statement: Statement) -> tuple[Any, ...]:
    assert isinstance(statement, SetSigner)  # noqa: S101 - asked for as one
    return (statement.term, statement.agent, statement.agent_epoch, statement.signer)


def ended(data: bytes | None, nonce: bytes) -> Mapping[str, Any] | None:
    """How a call ended, if that is still remembered: {nonce, state, reason}."""
    for one in jcs.decode(data or b"[]"):
        if one["nonce"] == nonce.hex():
            return dict(one)
    return None

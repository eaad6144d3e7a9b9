"""API keys of an agent: the owner's orders, and whether a caller's key holds now (spec/sealed-http.md 12, 13).

The ring of keys is one value of the agent's sealed state, under a name that agent code cannot reach. A key counts while
its maker owns the agent. Every request reads the ring anew, so a revocation binds as soon as it is committed.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import msgspec

from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.envelope.apikey import key_id, session_mac
from cloister.core.envelope.server import VerifiedCaller
from cloister.core.errors import PolicyError, StateError, define
from cloister.core.receipts.receipt import StateChange
from cloister.fabric.ports import CONFLICT
from cloister.worker.placed import Placed
from cloister.worker.scope import RequestScope
from cloister.worker.state import ALREADY_DONE

RING_NAME: Final = "\0apikeys"
MAX_KEYS: Final = 256
MAX_COUNTED: Final = 4096
_ATTEMPTS: Final = 3
_NOBODYS: Final = bytes(32)

UNKNOWN = define(
    "worker.api_key",
    PolicyError,
    check="the agent knows the API key, and the MAC over this session is made with it",
    remedy="check the key and the agent; a new owner's agent knows none of the old owner's keys",
    status=403,
)
REVOKED = define(
    "worker.api_key_revoked",
    PolicyError,
    check="the API key has not been revoked",
    remedy="ask the agent's owner for a new key",
    status=403,
)
EXPIRED = define(
    "worker.api_key_expired",
    PolicyError,
    check="the API key's expiry is ahead",
    remedy="ask the agent's owner for a new key",
    status=403,
)
TOO_OFTEN = define(
    "worker.api_key_rate",
    PolicyError,
    check="the API key stays within its requests per minute at this worker",
    remedy="slow down; the count begins anew every minute",
    status=429,
)
BAD_ORDER = define(
    "worker.api_key_order",
    PolicyError,
    check="an order about API keys has exactly its fields, each within its form",
    remedy="compare with spec/sealed-http.md 13; `cloister agent keys` writes good ones",
)
RING_FULL = define(
    "worker.api_keys_full",
    PolicyError,
    check=f"an agent has at most {MAX_KEYS} API keys that are not revoked",
    remedy="revoke keys that nobody uses",
    status=409,
)
NO_SUCH_KEY = define(
    "worker.api_key_unknown",
    PolicyError,
    check="the agent has an API key of this id",
    remedy="see `cloister agent keys list`",
    status=404,
)

_Hex20 = Annotated[str, msgspec.Meta(pattern=r"\A0x[0-9a-f]{40}\Z")]
_Hex32 = Annotated[str, msgspec.Meta(pattern=r"\A0x[0-9a-f]{64}\Z")]
_Name = Annotated[str, msgspec.Meta(pattern=r"\A[\x20-\x7e]{1,64}\Z")]
_Second = Annotated[int, msgspec.Meta(ge=1, lt=1 << 53)]
_Rate = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


class _New(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The order that makes a key known. ``expiry``: Unix seconds; ``per_minute``: requests, at each worker."""

    name: _Name
    mac_key: _Hex32
    expiry: _Second
    per_minute: _Rate


class _Revoke(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: _Hex20


class Entry(_New, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A key as the state keeps it. ``owner``: who made it; ``block``: of the lease under which it was made."""

    id: _Hex20
    owner: _Hex20
    block: int
    revoked: bool = False

    def __repr__(self) -> str:
        return f"Entry({self.id})"

    def shown(self) -> dict[str, Any]:
        """What the owner sees: everything but the MAC key."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return {name: value for name, value in fields.items() if name not in ("mac_key", "owner")}


class _Ring(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: tuple[Entry, ...] = ()


_RING = msgspec.json.Decoder(_Ring)


class ApiKeys:
    """Says whether a key holds. ``placed``: the agents here; ``now_s``: Unix seconds, no earlier than the checkpoint's.

    Requests are counted by each worker for itself, per minute."""

    def __init__(self, placed: Callable[[], Mapping[bytes, Placed]], now_s: Callable[[], int]) -> None:
        self._placed, self._now_s = placed, now_s
        self._minute = -1
        self._used: dict[tuple[bytes, str], int] = {}

    async def require(self, agent: bytes, caller: VerifiedCaller) -> None:
        """Raise PolicyError unless the caller's key holds for this session, and count the request.

        1. the ring of now; 2. the MAC, with a key of nobody's where the id is unknown: which of both is wrong cannot be
        told; 3. not revoked; 4. not expired, by the chain's clock or the host's; 5. within its rate."""
        placed = self._placed().get(agent)
        if placed is None or caller.claim is None:
            raise UNKNOWN(expected="a key of this agent", found="another")
        owner, name = to_hex(placed.record.owner), to_hex(caller.address)
        ring = await _read(placed)  # 1
        entry = next((e for e in ring if e.id == name and e.owner == owner), None)
        key = _NOBODYS if entry is None else from_hex(entry.mac_key, 32, name="MAC key")
        good = hmac.compare_digest(session_mac(key, caller.claim.digest), caller.claim.word)  # 2
        if entry is None or not good:
            raise UNKNOWN(expected="a key of this agent", found="another")
        if entry.revoked:  # 3
            raise REVOKED(expected="a key in use", found="one that its owner revoked")
        now = self._now_s()
        if entry.expiry <= now:  # 4
            raise EXPIRED(expected=f"an expiry after {now}", found=f"{entry.expiry} (Unix seconds)")
        self._count(agent, entry, now // 60)  # 5

    def _count(self, agent: bytes, entry: Entry, minute: int) -> None:
        if minute > self._minute:
            self._minute = minute
            self._used.clear()
        used = self._used.get((agent, entry.id), 0)
        if used >= entry.per_minute or (not used and len(self._used) >= MAX_COUNTED):
            raise TOO_OFTEN(expected=f"at most {entry.per_minute} requests in a minute", found="one more")
        self._used[agent, entry.id] = used + 1


async def order(placed: Placed, what: str, request_id: str, body: bytes) -> tuple[dict[str, Any], StateChange]:
    """Carry out an order of the agent's owner, who was verified: JSON-ready answer, and what it committed.

    ``keys``: list; ``keys/new``: make a key known (again changes nothing); ``keys/revoke``.
    Raises worker.api_key_order, worker.api_keys_full, worker.api_key_unknown, StateError."""
    if what == "keys":
        owner = to_hex(placed.record.owner)
        return {"keys": [e.shown() for e in await _read(placed) if e.owner == owner]}, StateChange()
    change = {"keys/new": _made, "keys/revoke": _revoked}.get(what)
    if change is None:
        raise BAD_ORDER(expected="keys, keys/new or keys/revoke", found=what[:40])
    for left in reversed(range(_ATTEMPTS)):
        try:
            return await _changed(placed, request_id, lambda ring: change(placed, ring, body))
        except StateError as error:
            if error.code == ALREADY_DONE.code:
                ring = await _read(placed)
                return change(placed, ring, body)[0].shown(), StateChange()
            if error.code != CONFLICT.code or not left:
                raise
    raise RuntimeError("the loop returns or raises")


async def _changed(
    placed: Placed, request_id: str, change: Callable[[tuple[Entry, ...]], tuple[Entry, tuple[Entry, ...]]]
) -> tuple[dict[str, Any], StateChange]:
    """One transaction: read, change, commit. Two owners' orders at once: one of them meets a conflict."""
    scope = RequestScope(placed.state, await placed.state.begin(request_id), request_id)
    try:
        before = _parsed(await scope.get(RING_NAME))
        entry, after = change(before)
        if after != before:
            await scope.put(RING_NAME, msgspec.json.encode(_Ring(after)))
        await scope.commit_head()
        return entry.shown(), scope.change()
    finally:
        scope.close()


def _made(placed: Placed, ring: tuple[Entry, ...], body: bytes) -> tuple[Entry, tuple[Entry, ...]]:
    asked = _decoded(body, _New)
    owner = to_hex(placed.record.owner)
    entry = Entry(
        id=to_hex(key_id(from_hex(asked.mac_key, 32, name="MAC key"))),
        owner=owner,
        block=placed.keys.terms.checkpoint,
        **msgspec.structs.asdict(asked),
    )
    known = next((e for e in ring if e.id == entry.id and e.owner == owner), None)
    if known is not None:
        return known, ring
    kept = tuple(e for e in ring if e.owner == owner)  # those of earlier owners count no more
    if len(kept) >= MAX_KEYS:
        oldest = next((e for e in kept if e.revoked), None)
        if oldest is None:
            raise RING_FULL(expected=f"fewer than {MAX_KEYS} keys", found=str(len(kept)))
        kept = tuple(e for e in kept if e is not oldest)
    return entry, (*kept, entry)


def _revoked(placed: Placed, ring: tuple[Entry, ...], body: bytes) -> tuple[Entry, tuple[Entry, ...]]:
    name, owner = _decoded(body, _Revoke).id, to_hex(placed.record.owner)
    found = next((e for e in ring if e.id == name and e.owner == owner), None)
    if found is None:
        raise NO_SUCH_KEY(expected="a key of this agent", found=name)
    gone = msgspec.structs.replace(found, revoked=True)
    return gone, tuple(gone if e is found else e for e in ring)


async def _read(placed: Placed) -> tuple[Entry, ...]:
    return _parsed(await placed.state.peek(RING_NAME))


def _parsed(data: bytes | None) -> tuple[Entry, ...]:
    return () if data is None else _RING.decode(data).keys


def _decoded(body: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BAD_ORDER(expected="the fields of the order", found=type(error).__name__) from None

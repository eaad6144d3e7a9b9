"""Agents' logs on their way to their owners: sealed here, kept as ciphertext, capped per agent (spec/owner.md 1-5).

Lines wait in memory for at most a turn (a second). A turn makes one page of each agent's lines, sealed to the key that
its owner published, signed and chained per boot of this worker. Without a key of the present owner lines are counted
and dropped: nothing that was said under one owner is ever sealed to the next.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cloister.core.encoding import jcs
from cloister.core.encoding.hexes import from_hex, need_fields, to_hex
from cloister.core.encoding.owner_statements import LogKey
from cloister.core.encoding.signatures import verify_signer
from cloister.core.errors import CloisterError, PolicyError, define
from cloister.core.keys import ownerlog
from cloister.core.keys.hpke import Rng
from cloister.core.keys.ownerlog import Page
from cloister.core.policy.access import BAD_CONTRACT_SIGNATURE
from cloister.fabric.ports import Entry, Expect, Put, State, Tx
from cloister.worker.agentlog import AgentLog
from cloister.worker.leases import NodeIdentity
from cloister.worker.placed import Placed

KEY_NAME: Final = "\0owner/log-key"
# Of a contract account's word (EIP-1271); a wallet's has 65 bytes.
MAX_SIGNATURE: Final = 4096
MAX_PENDING: Final = 128 << 10
MAX_KEPT: Final = 8 << 20
MAX_PAGES: Final = 512
MAX_ANSWER: Final = 1 << 20
PRUNE_EVERY: Final = 32

BAD_LOG_KEY = define(
    "worker.log_key",
    PolicyError,
    check="a log key is a statement that the agent's present owner signed, newer than the one before",
    remedy="publish it again with the owner's wallet: `cloister agent logs AGENT`",
    status=403,
)


@dataclass(slots=True)
class _Stream:
    """One agent's log of this boot. ``lines``: all that came, kept or not; ``first``: number of the first that waits;
    ``number``: pages made; ``kept``: how many up to the newest that is stored, and its name."""

    pending: deque[bytes] = field(default_factory=deque)
    size: int = 0
    lines: int = 0
    first: int = 0
    number: int = 0
    previous: bytes = bytes(32)
    kept: tuple[int, bytes] = (0, bytes(32))
    dropped: int = 0
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def add(self, line: bytes) -> None:
        self.lines += 1
        if self.size + len(line) > MAX_PENDING or len(self.pending) >= ownerlog.MAX_LINES:
            self.dropped += 1
            return
        if not self.pending:
            self.first = self.lines - 1
        self.pending.append(line)
        self.size += len(line)

    def drop(self) -> None:
        self.dropped += len(self.pending)
        self.pending.clear()
        self.size = 0


# ``signed(account, digest, signature)`` raises unless a contract account takes the word (``Access.require_signature``).
Signed = Callable[[bytes, bytes, bytes], Awaitable[None]]


class LogBook:
    """All agents' logs of this worker. ``now_ms``: the host's clock, a label only. ``signed``: asks an owner that is a
    contract; ``height``: the newest checkpoint, at which its answer counts."""

    def __init__(
        self,
        node: NodeIdentity,
        store: State,
        rng: Rng,
        *,
        now_ms: Callable[[], int],
        signed: Signed,
        height: Callable[[], int],
    ) -> None:
        self._node, self._store, self._rng, self._now_ms = node, store, rng, now_ms
        self._signed, self._height = signed, height
        self._streams: dict[bytes, _Stream] = {}
        self._taken: dict[bytes, tuple[int, bytes]] = {}

    def of(self, agent: bytes) -> AgentLog:
        """The log of an agent that is placed here anew: what its last placement left unsaid is dropped."""
        stream = self._streams.setdefault(agent, _Stream())
        stream.drop()

        def sink(level: str, text: str) -> None:
            line = json.dumps([self._now_ms(), level, text], ensure_ascii=False, separators=(",", ":"))
            stream.add(line.encode("utf-8", "replace"))

        return AgentLog(sink, time.monotonic)

    async def turn(self, placed: Iterable[Placed], *, last: bool = False) -> None:
        """Seal and keep what waits. ``last``: this boot ends. One agent's trouble holds up no other's lines.

        Raises the first FabricError, StateError, or what a contract account could not be asked for."""
        troubles: list[CloisterError] = []
        for one in list(placed):
            stream = self._streams.get(one.record.agent)
            if stream is not None and (stream.pending or (last and stream.number)):
                try:
                    await self._write(one, stream, last)
                except CloisterError as error:
                    troubles.append(error)
        if troubles:
            raise troubles[0]

    async def publish(self, placed: Placed, body: Mapping[str, Any]) -> tuple[str, bytes]:
        """Name and value of the owner's key as it is kept. Raises worker.log_key, EncodingError."""
        fields = need_fields("a log key", body, {"statement", "signature"})
        new = await self._valid(placed, fields)
        if new is None:
            raise BAD_LOG_KEY(expected="a statement of this agent's owner about it", found="another")
        known = await self.key(placed)
        if known is not None and new.serial <= known.serial:
            raise BAD_LOG_KEY(expected=f"a serial above {known.serial}", found=str(new.serial))
        return KEY_NAME, jcs.encode(dict(fields))

    async def key(self, placed: Placed) -> LogKey | None:
        """What the present owner signed, or None. Another owner's key is as good as none.

        Raises what asking a contract account raises, but for its no."""
        kept = await placed.state.peek(KEY_NAME)
        return None if kept is None else await self._valid(placed, jcs.decode(kept))

    async def pages(self, placed: Placed, have: Mapping[str, Any]) -> dict[str, Any]:
        """Pages that the reader lacks, oldest first, at most a MiB. ``have``: boot in 0x-hex -> pages that it knows.

        ``next`` and ``head`` are this boot's own word: what the store left out is missed by them."""
        stream = self._streams.setdefault(placed.record.agent, _Stream())
        (count, head), key = stream.kept, await self.key(placed)
        wanted: list[str] = []
        size, more = 0, False
        for name, entry in sorted(await self._kept(placed), key=lambda one: ownerlog.host_time(one[1].value)):
            boot, _, number = name.partition(".")
            known = have.get("0x" + boot, 0)
            if isinstance(known, int) and int(number, 16) < known:
                continue
            size += len(entry.value)
            more = size > MAX_ANSWER and bool(wanted)
            if more:
                break
            wanted.append(base64.b64encode(entry.value).decode())
        return {
            "key": None if key is None else to_hex(key.key),
            "serial": 0 if key is None else key.serial,
            "next": count,
            "head": to_hex(head),
            "lines": stream.lines,
            "dropped": stream.dropped,
            "pages": wanted,
            "more": more,
        }

    # --- inside ---

    async def _valid(self, placed: Placed, fields: Any) -> LogKey | None:
        """1. a statement of the proven owner about this agent; 2. signed by its wallet; 3. or taken by the contract
        that the owner is, asked once per checkpoint."""
        try:
            key = LogKey.from_json(fields["statement"])
            if (key.agent, key.owner) != (placed.record.agent, placed.record.owner):  # 1
                return None
            signature = from_hex(fields["signature"], name="signature", max_size=MAX_SIGNATURE)
        except (CloisterError, KeyError, TypeError):
            return None
        digest = key.digest(self._node.network)
        if _by_wallet(digest, signature, key.owner):  # 2
            return key
        return key if await self._by_contract(key, digest, signature) else None  # 3

    async def _by_contract(self, key: LogKey, digest: bytes, signature: bytes) -> bool:
        now = self._height(), hashlib.sha256(digest + signature).digest()
        if self._taken.get(key.agent) == now:
            return True
        self._taken.pop(key.agent, None)
        try:
            await self._signed(key.owner, digest, signature)
        except CloisterError as error:
            if error.code != BAD_CONTRACT_SIGNATURE.code:
                raise
            return False
        self._taken[key.agent] = now
        return True

    async def _write(self, placed: Placed, stream: _Stream, last: bool) -> None:
        """1. a key of the present owner, or nothing is kept; 2. a page; 3. it is durable before the next one is made.

        A page that could not be stored is lost, and keeps its place: no two pages have one number."""
        async with stream.writing:
            key = await self.key(placed)
            if key is None:  # 1
                stream.drop()
                return
            taken = list(stream.pending)
            page = ownerlog.seal_page(  # 2
                Page(
                    ownerlog.LAST if last else 0,
                    self._node.address,
                    self._node.boot,
                    stream.number,
                    stream.first if taken else stream.lines,
                    len(taken),
                    self._now_ms(),
                    stream.previous,
                    key.key,
                    bytes(32),
                    b"",
                ),
                taken,
                self._node.network,
                placed.record.agent,
                self._rng,
            )
            for _ in taken:
                stream.size -= len(stream.pending.popleft())
            name = page.name(self._node.network, placed.record.agent)
            stream.number, stream.previous = stream.number + 1, name
            await self._keep(placed, page, self._node.sign(name))  # 3
            stream.kept = stream.number, name

    async def _keep(self, placed: Placed, page: Page, signature: bytes) -> None:
        """A page that the store refuses is lost; the next one names it, so its reader learns that it is missing."""
        boot = page.boot.hex()
        puts = {f"{boot}.{page.number:016x}": Put(ownerlog.encode_page(page, signature), Expect.ANY)}
        if page.number % PRUNE_EVERY == 0:
            puts |= {name: Put(None, Expect.ANY) for name in _oldest(await self._kept(placed))}
        await self._store.commit(_place(placed), Tx(f"{boot[:32]}.{page.number}", puts))

    async def _kept(self, placed: Placed) -> list[tuple[str, Entry]]:
        return await self._store.scan(_place(placed), "", 4 * MAX_PAGES)


def _by_wallet(digest: bytes, signature: bytes, owner: bytes) -> bool:
    try:
        verify_signer(digest, signature, owner)
    except CloisterError:
        return False
    return True


def _place(placed: Placed) -> str:
    return f"{placed.record.agent.hex()}.log"


def _oldest(kept: list[tuple[str, Entry]]) -> list[str]:
    """What is over the caps, the oldest first, at most what one transaction takes."""
    kept = sorted(kept, key=lambda one: ownerlog.host_time(one[1].value))
    size, over = sum(len(entry.value) for _, entry in kept), []
    for count, (name, entry) in zip(range(len(kept), 0, -1), kept, strict=True):
        if count < MAX_PAGES and size < MAX_KEPT:
            break
        size -= len(entry.value)
        over.append(name)
    return over[:400]

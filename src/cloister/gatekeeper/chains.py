"""Connected chains: each has a line of checkpoints of its own, signed by the same rules (spec/chains.md 4-7).

A conflict on one chain halts this member on that chain; the network's own chain and the others go on. It goes on there
by its operator's word, at the next start (spec/gatekeepers.md K4).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence

from cloister.chain.connected import ChainSetting
from cloister.chain.finality import Finality, Follower, RpcQuorum
from cloister.chain.rpc import Rpc
from cloister.core.chainview.directory import NOT_CONNECTED, require_connected
from cloister.core.chainview.header import Header
from cloister.core.encoding.chain_record import ChainRecord
from cloister.core.errors import ChainViewError, CloisterError, define
from cloister.gatekeeper.believing import Believing
from cloister.gatekeeper.checkpoints import Checkpoints
from cloister.gatekeeper.office import Office
from cloister.gatekeeper.ports import Snapshot
from cloister.gatekeeper.store import Store
from cloister.node import logs

WRONG_CHAIN = define(
    "gatekeeper.wrong_chain",
    ChainViewError,
    check="the endpoints of a connected chain serve the chain that its record names: chain id and first block",
    remedy="correct `rpc` of that chain in the settings",
    status=503,
)
UNKNOWN_CHAIN = define(
    "gatekeeper.unknown_chain",
    ChainViewError,
    check="this member follows the chain that it is asked about",
    remedy="ask another member; operators list connected chains in their settings",
    status=404,
)
_log = logs.get("chains")


class ConnectedChain:
    """One chain: its endpoints, and this member's book of checkpoints of it."""

    def __init__(self, setting: ChainSetting, record: ChainRecord, store: Store, believing: Believing) -> None:
        self.record, self._believing = record, believing.of_chain(record.chain_id)
        self._rpcs = [Rpc(url) for url in setting.rpc]
        self._quorum = setting.quorum()
        self._verifier = RpcQuorum(self._rpcs, self._quorum, Finality(record.tag, record.depth))
        self._store = store.of_chain(record.chain_id)
        self._book: Checkpoints | None = None
        self._term = 0
        self._follower: Follower | None = None
        self._known = self.connected = False

    @property
    def checkpoints(self) -> Checkpoints:
        """The book. Raises ChainViewError while the chain is not connected, or before the first turn in office."""
        if self._book is None or not self.connected:
            raise NOT_CONNECTED(expected=f"chain {self.record.chain_id} connected", found="not yet, or no longer")
        return self._book

    async def turn(self, at: Snapshot, office: Office, anchor: bytes) -> None:
        """Sign what became final. ``at``: proven state of the network's own chain. Raises CloisterError.

        1. the Directory names the record; 2. the endpoints serve that chain; 3. one book per term, each after what was
        signed before; 4. its rules."""
        newest = await at.listed(self.record.key())
        self.connected = newest == anchor
        require_connected(newest, anchor)  # 1
        await self._require_chain()  # 2
        if self._book is None or self._term != office.term:  # 3
            await self._open(office)
        if self._book is None or self._follower is None:
            raise RuntimeError("opened above")
        await self._book.follow(self._follower)  # 4

    async def close(self) -> None:
        """Close connections."""
        for rpc in self._rpcs:
            await rpc.close()

    async def _require_chain(self) -> None:
        if self._known:
            return
        first = await self._verifier.header(0)
        said = await asyncio.gather(*(rpc.call("eth_chainId") for rpc in self._rpcs), return_exceptions=True)
        ids = [one for one in said if not isinstance(one, CloisterError)]
        wrong = any(one != hex(self.record.chain_id) for one in ids)
        if first.hash != self.record.genesis_hash or wrong or len(ids) < self._quorum:
            raise WRONG_CHAIN(expected=f"chain {self.record.chain_id} with its first block", found="another chain")
        self._known = True

    async def _open(self, office: Office) -> None:
        kept = self._store.checkpoints()
        book = Checkpoints(self._store, office, self.record.chain_id, after=kept[-1][0] if kept else None)
        if book.halted:
            await self._resume(book)
        last, start = book.head or book.after, None
        if last is not None:
            start = Header(last.number, last.block_hash, bytes(32), last.state_root, last.timestamp)
        self._book = book
        self._follower, self._term = Follower(self._verifier, self._rpcs[0], start), office.term

    async def _resume(self, book: Checkpoints) -> None:
        """Take the operator's word, if there is one (K4). Endpoints that agree on no final block: still halted."""
        try:
            final = (await self._verifier.finalized()).number
        except CloisterError as error:
            _log.warning("still halted", chain=self.record.chain_id, code=error.code, found=error.found)
            return
        await self._believing.resume(book, self._verifier, final)


class ConnectedChains:
    """All connected chains of one member."""

    def __init__(self, loaded: Sequence[tuple[ChainSetting, ChainRecord]], store: Store, believing: Believing) -> None:
        self._chains = {
            record.chain_id: ConnectedChain(setting, record, store, believing) for setting, record in loaded
        }
        self._said: dict[int, str] = {}

    def at(self, chain_id: int) -> ConnectedChain:
        """One chain. Raises ChainViewError (gatekeeper.unknown_chain)."""
        if chain_id not in self._chains:
            raise UNKNOWN_CHAIN(expected="a chain of this member's settings", found=f"chain {chain_id}")
        return self._chains[chain_id]

    def anchors(self) -> dict[int, bytes]:
        """Chain id -> address of the Anchor, of the chains that are connected."""
        return {n: c.record.anchor.address for n, c in self._chains.items() if c.connected}

    async def turn(self, at: Snapshot, office: Office, anchor: bytes) -> None:
        """A turn of each chain, side by side; a refusal of one is logged once and holds up no other."""
        await asyncio.gather(*(self._one(n, chain.turn(at, office, anchor)) for n, chain in self._chains.items()))

    async def _one(self, chain_id: int, turn: Awaitable[None]) -> None:
        try:
            await turn
            self._said.pop(chain_id, None)
        except CloisterError as error:
            if self._said.get(chain_id) != error.code:
                _log.warning("waits", chain=chain_id, code=error.code, expected=error.expected, found=error.found)
            self._said[chain_id] = error.code

    async def close(self) -> None:
        """Close connections."""
        for chain in self._chains.values():
            await chain.close()

"""Chains as a worker sees them: the network's own, and connected ones by their own checkpoints (spec/chains.md 8-11).

A connected chain counts while the Directory names its record at the newest checkpoint of the network's own chain, and
while its checkpoints do not fall behind: so a host that holds them back stops what rests on them, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from cloister.chain.anchor import NAME, AnchorChain
from cloister.chain.connected import ChainSetting
from cloister.chain.kinds import kind_of
from cloister.chain.proven import ProvenState
from cloister.chain.proven_calls import ProvenCalls
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.core.chainview.directory import read_newest, require_connected
from cloister.core.chainview.refusals import NOT_A_CHECKPOINT
from cloister.core.encoding.chain_record import ChainRecord
from cloister.core.encoding.network import Network
from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import ChainViewError, CloisterError, define
from cloister.wire.committee import Committee
from cloister.worker.chainwatch import KEPT_HEIGHTS, WENT_BACK, ChainWatch
from cloister.worker.leases import NodeIdentity

BEHIND = define(
    "worker.chain_behind",
    ChainViewError,
    check="a connected chain's newest checkpoint lies at most its record's max_age_s behind the network's own one",
    remedy="wait: that chain stands still, or this worker is not told of its checkpoints; call another worker",
    status=503,
)


class ChainView(Protocol):
    """One chain, verified."""

    @property
    def chain_id(self) -> int:
        """Its id."""

    @property
    def remote(self) -> int | None:
        """Its id where it is not the network's own chain."""

    @property
    def anchor(self) -> AnchorChain | None:
        """The network's Anchor there."""

    def require_fresh(self) -> Checkpoint:
        """The newest checkpoint, if it may be used now. Raises ChainViewError, PolicyError."""

    def state(self) -> ProvenState:
        """The Anchor's records by proof at the newest checkpoint."""

    def calls(self) -> ProvenCalls:
        """Views and words of any contract at the newest checkpoint: an object of its own for each who asks."""

    async def founded(self) -> int:
        """The block before which nobody could ask its Anchor."""


class OwnChain:
    """The network's own chain. Implements ``ChainView`` over the chain watch."""

    remote = None

    def __init__(self, network: Network, watch: ChainWatch, rpc: Rpc, sender: Sender) -> None:
        self.chain_id, self._watch, self._rpc = network.genesis.chain_id, watch, rpc
        contracts = network.genesis.contracts
        self.anchor = AnchorChain(rpc, contracts[NAME].address, sender) if NAME in contracts else None

    def require_fresh(self) -> Checkpoint:
        """Raises as ``ChainWatch.require_fresh``."""
        return self._watch.require_fresh()

    def state(self) -> ProvenState:
        """All contracts of the network."""
        return self._watch.state()

    def calls(self) -> ProvenCalls:
        """At the newest checkpoint. Not those of access hooks: what agents read must not push out what hooks need."""
        return ProvenCalls(self._rpc, self._watch.require_fresh())

    async def founded(self) -> int:
        """The network's founding."""
        return (await self._watch.state().policy()).founded_at


class OtherChain:
    """A connected chain. Implements ``ChainView``. ``committee()``: the members in office."""

    def __init__(
        self,
        setting: ChainSetting,
        record: ChainRecord,
        node: NodeIdentity,
        network: Network,
        watch: ChainWatch,
        committee: Callable[[], Committee],
    ) -> None:
        kind = kind_of(setting.kind)
        self.record, self.rpc = record, Rpc(setting.rpc[0])
        self.chain_id = self.remote = record.chain_id
        self.sender = Sender(self.rpc, node.key, record.chain_id, kind=kind)
        self.anchor = AnchorChain(self.rpc, record.anchor.address, self.sender, kind)
        self._network, self._watch, self._committee = network, watch, committee
        self._newest: Checkpoint | None = None
        self._blocks: dict[int, tuple[bytes, bytes]] = {}
        self._refused: CloisterError | None = None
        self._conflict: CloisterError | None = None
        self._state: ProvenState | None = None

    async def refresh(self) -> None:
        """Take the newest checkpoint in. Raises CloisterError; a conflict stops the use of this chain for good.

        1. the Directory names the record; 2. t signatures under this network; 3. of this chain; 4. never two blocks at
        one height; 5. never backwards."""
        try:
            key, own = self.record.key(), self._network.genesis.address(NAME)
            require_connected(
                await self._watch.state().read("Directory", lambda s, at: read_newest(s, at, key)), own
            )  # 1
        except CloisterError as error:
            self._refused = error
            raise
        self._refused = None
        members = self._committee()
        signed = await members.checkpoint(self.chain_id)
        signed.verify(members.signers, self._network.id)  # 2
        new = signed.statement
        if not isinstance(new, Checkpoint) or new.chain_id != self.chain_id:  # 3
            raise NOT_A_CHECKPOINT(expected=f"a checkpoint of chain {self.chain_id}", found="another statement")
        block = (new.block_hash, new.state_root)
        if self._blocks.setdefault(new.number, block) != block:  # 4
            self._conflict = WENT_BACK(expected=f"one block at {new.number}", found="two signed blocks at one height")
            raise self._conflict
        if self._newest is None or new.number > self._newest.number:  # 5
            self._newest = new
            for old in [n for n in self._blocks if n < new.number - KEPT_HEIGHTS]:
                del self._blocks[old]

    def require_fresh(self) -> Checkpoint:
        """1. the network's own view is fresh; 2. no conflict, and connected; 3. not too far behind it.

        Raises as ``ChainWatch.require_fresh``, worker.checkpoint_conflict, chainview.chain_not_connected,
        worker.chain_behind."""
        own = self._watch.require_fresh()  # 1
        for refusal in (self._conflict, self._refused):  # 2
            if refusal is not None:
                raise refusal.with_traceback(None)
        if self._newest is None:
            raise BEHIND(expected=f"a checkpoint of chain {self.chain_id}", found="none yet")
        age = own.timestamp - self._newest.timestamp
        if age > self.record.max_age_s:  # 3
            raise BEHIND(expected=f"at most {self.record.max_age_s} s", found=f"{age} s")
        return self._newest

    def state(self) -> ProvenState:
        """The Anchor there; no other contract of the network is on this chain."""
        at, anchor = self.require_fresh(), self.record.anchor
        if self._state is None or self._state.checkpoint != at:
            where, codes = {NAME: anchor.address}, {NAME: anchor.code_hash}
            self._state = ProvenState(self.rpc, where, at, code_hashes=codes)
        return self._state

    def calls(self) -> ProvenCalls:
        """At the newest checkpoint."""
        return ProvenCalls(self.rpc, self.require_fresh())

    async def founded(self) -> int:
        """The block that made the Anchor."""
        return self.record.since

    async def close(self) -> None:
        """Close connections."""
        await self.rpc.close()

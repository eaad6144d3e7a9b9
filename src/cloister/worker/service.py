"""The worker's wiring: who holds what, and the loops that keep it true.

Loops: the chain watch (checkpoints, freshness, pauses); membership; the agent table; endorsement; the gateway link.
Each failure is logged by its code and tried again at the next turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.network import Network
from cloister.core.envelope.server import ServerSessions
from cloister.core.errors import CloisterError
from cloister.core.receipts.receipt import ReceiptChain
from cloister.core.threshold.shares import PublicShares
from cloister.evidence.detect import MachineConfig, open_tee
from cloister.evidence.tee import Tee
from cloister.fabric.embedded import open_fabric
from cloister.fabric.ports import Fabric
from cloister.node import logs
from cloister.node.config import config_hash
from cloister.node.identity import NodeKeys
from cloister.sandbox.deno import DenoSandbox
from cloister.wire.committee import Committee
from cloister.worker.agents import AgentTable, Devices
from cloister.worker.chainwatch import ChainWatch
from cloister.worker.config import WorkerConfig, mapped_hosts
from cloister.worker.endorse import Endorser
from cloister.worker.leases import AgentKeys, NodeIdentity, acquire, show
from cloister.worker.link import GatewayLink
from cloister.worker.membership import Membership
from cloister.worker.serve import Server, host_now_ms

SEALING_CONTEXT = b"cloister/v1/worker"
_log = logs.get("worker")


class Worker:
    """One worker process. ``open`` prepares it, ``run`` serves until ``stop`` is set, ``close`` ends everything."""

    def __init__(self, config: WorkerConfig, network: Network, tee: Tee, node: NodeIdentity, fabric: Fabric) -> None:
        self.config, self.network, self.tee, self.node, self.fabric = config, network, tee, node, fabric
        self.signers = network.founding
        self.shares = PublicShares(network.mpk, network.share_keys, network.transcript)
        self.committee = Committee(config.gatekeepers, self.signers, network.id)
        self.rpc = Rpc(config.rpc)
        self.watch = ChainWatch(
            network,
            self.committee,
            self.rpc,
            monotonic=time.monotonic,
            rng=secrets.token_bytes,
            max_age_s=float(config.fresh_s),
        )
        self.sessions = ServerSessions(node.boot, secrets.token_bytes)
        self.sandbox = DenoSandbox(config.data / "sandbox")
        self.table = AgentTable(node.address, self.watch, fabric, self.sandbox, self.sessions, self._devices())
        self.endorser = Endorser(node, self.committee, self.table.placed)
        receipts = ReceiptChain(node.address, node.boot, node.sign)
        self.server = Server(self.watch, self.table, self.sessions, receipts, now_ms=host_now_ms)
        self.link = GatewayLink(config.gateway, node, self.server, self.table, self.evidence, self.status)

    @classmethod
    async def open(cls, config: WorkerConfig) -> Worker:
        """Read the network file, find the TEE, unseal or make the node key. Raises ConfigError, EvidenceError."""
        network = Network.parse(config.network.read_bytes())
        mapped_hosts(config, network.genesis.mode)
        tee = open_tee(MachineConfig.from_json(config.machine))
        sealing = await tee.sealing_key(SEALING_CONTEXT)
        keys = NodeKeys.load_or_create(config.data, "worker", sealing, secrets.token_bytes)
        node = NodeIdentity(keys.chain_key(), secrets.token_bytes(32), config_hash(config), network.id)
        return cls(config, network, tee, node, await open_fabric(config.fabric))

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop``."""
        loops = [
            self.watch.run(self.table.placed),
            self._loop("membership", self._membership(), every_s=0.5),
            self._loop("agents", self._agents, on_move=True),
            self._loop("endorse", self._endorse, every_s=0.5),
            self._announce(),
        ]
        self.link.start()
        tasks = [asyncio.ensure_future(one) for one in loops]
        stopping = asyncio.ensure_future(stop.wait())
        try:
            done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()
        finally:
            for task in [*tasks, stopping]:
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)

    async def close(self) -> None:
        """Stop agents, connections, the store."""
        await self.link.close()
        await self.table.close()
        await self.sandbox.close()
        await self.committee.close()
        await self.rpc.close()
        await self.fabric.close()

    async def evidence(self, nonce: bytes) -> dict[str, Any]:
        """Fresh evidence over a caller's 32-byte nonce, JSON-ready. Raises EvidenceError."""
        block = self.watch.checkpoint.block_hash
        return (await show(self.tee, self.node.binding("worker", block, nonce, {}))).to_json()

    def status(self) -> dict[str, Any]:
        """Counts for operators; nothing secret."""
        return {
            "worker": to_hex(self.node.address),
            "vendor": self.tee.kind,
            "agents": len(self.table.placed()),
            "served": self.server.served,
            "refused": self.server.refused,
            "problems": {to_hex(a)[:18]: e.code for a, e in self.table.problems.items()},
        }

    # --- inside ---

    def _devices(self) -> Devices:
        return Devices(
            acquire=self._acquire,
            heads=self._heads,
            attest=self.evidence,
            log=lambda agent, level, text: _log.info("agent", agent=to_hex(agent)[:18], level=level, text=text),
            rng=secrets.token_bytes,
            map_host=mapped_hosts(self.config, self.network.genesis.mode),
            extra_ca=self.config.extra_ca.read_bytes() if self.config.extra_ca else None,
        )

    async def _acquire(self, agent: bytes) -> AgentKeys:
        signed = self.watch.signed
        return await acquire(
            self.node, self.tee, self.committee, self.signers, self.shares, signed, agent, secrets.token_bytes
        )

    async def _heads(self, agent: bytes, epoch: int) -> tuple[Any, int]:
        answers = await self.committee.heads(agent, epoch, secrets.token_bytes(32))
        return answers, self.committee.load_quorum

    def _membership(self) -> Callable[[], Awaitable[None]]:
        genesis = self.network.genesis
        sender = Sender(self.rpc, self.node.key, genesis.chain_id)
        member = Membership(
            self.node,
            self.tee,
            self.committee,
            self.signers,
            sender,
            workers=genesis.address("Workers"),
            operator=from_hex(self.config.operator, 20, name="operator"),
            endpoint=self.config.endpoint,
        )

        async def turn() -> None:
            signed = self.watch.signed
            record = await self.watch.state().worker(self.node.address)
            if member.needed(record, self.watch.checkpoint.number):
                await member.register(signed, secrets.token_bytes)
                _log.info("registered", worker=to_hex(self.node.address))

        return turn

    async def _agents(self) -> None:
        await self.table.reconcile()
        for agent, error in self.table.problems.items():
            _log.warning("agent not served", agent=to_hex(agent)[:18], **_plain(error))

    async def _endorse(self) -> None:
        await self.endorser.turn()

    async def _announce(self) -> None:
        while True:
            await self.table.changed.wait()
            self.table.changed.clear()
            self.link.announce()

    async def _loop(
        self, name: str, turn: Callable[[], Awaitable[None]], *, every_s: float = 0.5, on_move: bool = False
    ) -> None:
        said = ""
        while True:
            try:
                await turn()
                said = ""
            except CloisterError as error:
                if error.code != said:
                    _log.warning(f"{name} waits", **_plain(error))
                said = error.code
            if on_move and not said:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.watch.moved(), 2.0)
            else:
                await asyncio.sleep(every_s)


def _plain(error: CloisterError) -> Mapping[str, str]:
    return {"code": error.code, "expected": error.expected, "found": error.found}

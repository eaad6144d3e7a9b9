"""The gateway's wiring. It holds no key, sees ciphertext only, and vouches for nothing that it serves."""

from __future__ import annotations

import asyncio
import time

from cloister.chain.places import endpoints_of
from cloister.chain.rpc import Rpc
from cloister.core.chainview.terms import pinned
from cloister.core.encoding.network import Network
from cloister.fabric.embedded import open_fabric
from cloister.fabric.ports import Fabric
from cloister.gateway.calls import Calls
from cloister.gateway.config import BAD_SETTING, GatewayConfig
from cloister.gateway.handovers import Handovers
from cloister.gateway.operate import Operate
from cloister.gateway.pruning import Pruner, Retention
from cloister.gateway.relay import CheckpointCache, RpcRelay
from cloister.gateway.routes import EXTRA, Routes
from cloister.gateway.workers import Workers
from cloister.node import lifecycle, logs
from cloister.node.trace import tracer_of
from cloister.wire.frames import Caps, FrameServer
from cloister.wire.http import HttpLimits, HttpServer
from cloister.wire.terms import LiveCommittee

_log = logs.get("gateway")


class Gateway:
    """One gateway process: callers on TCP, workers on a unix socket."""

    def __init__(self, config: GatewayConfig, network: bytes, fabric: Fabric) -> None:
        """``network``: the bytes of network.json; raises EncodingError if they are not one."""
        parsed = Network.parse(network)
        self.config = config
        self._chain = Rpc(config.rpc)
        self.committee = LiveCommittee(
            pinned(parsed, int(time.time())),
            config.gatekeepers,
            lambda members: endpoints_of(self._chain, parsed.genesis.address("Gatekeepers"), members),
            time.time,
        )
        self.workers = Workers()
        self.tracer = tracer_of("cloister-gateway", config.trace, config.trace_share)
        self.calls = Calls(self.workers, config.max_calls, self.tracer)
        self.rpc = RpcRelay(config.rpc)
        self.checkpoint = CheckpointCache(self.committee.checkpoint, time.monotonic)
        handovers = Handovers(self.committee)
        self.routes = Routes(config, network, fabric, self.workers, self.calls, self.rpc, self.checkpoint, handovers)
        self._fabric = fabric
        self.pruner = Pruner(
            config.fabric / "receipts",
            fabric.receipts,
            Retention(config.receipts_days, config.receipts_bytes),
            lambda statement: self.committee.terms.members_of(statement),
            parsed.id,
            time.time,
        )
        self._pruning: asyncio.Task[None] | None = None
        self.operate = Operate(
            self.workers, self.calls, self.checkpoint, self.routes.connected, self.pruner.counts, self.tracer
        )
        self.http = HttpServer(
            self.routes.handle,
            self.routes.max_body,
            limits=HttpLimits(connections=config.connections, answer_s=float(config.answer_s)),
            extra=EXTRA,
            report=_report,
        )
        self.frames = FrameServer(
            config.workers,
            on_announce=self.workers.announced,
            on_close=self.workers.lost,
            caps=Caps(request=config.max_call + 64, streams=config.max_calls),
            report=_report,
        )

    @classmethod
    async def open(cls, config: GatewayConfig) -> Gateway:
        """Read the network file and open the store. Raises ConfigError, EncodingError, FabricError."""
        return cls(config, config.load_network(), await open_fabric(config.fabric))

    async def start(self) -> int:
        """Listen; returns the TCP port. Raises ConfigError."""
        await self.frames.start()
        if self.pruner.on:
            self._pruning = asyncio.ensure_future(self.pruner.run())
        try:
            door = self.config.operator_address()
            if door is not None:
                await self.operate.start(*door)
            return await self.http.start(self.config.host, self.config.port, reuse_port=self.config.reuse_port)
        except OSError as error:
            raise BAD_SETTING(expected="host and port: free", found=error.strerror or "an error") from None

    async def close(self) -> None:
        """Finish what is in progress within ``drain_s``, then end everything."""
        self.operate.leaving = True
        if self._pruning is not None:
            self._pruning.cancel()
            await asyncio.gather(self._pruning, return_exceptions=True)
        await self.http.drain(float(self.config.drain_s))
        await self.operate.close()
        await self.frames.close()
        if self.tracer is not None:
            await self.tracer.close()
        await self.checkpoint.close()
        await self.rpc.close()
        await self.committee.close()
        await self._chain.close()
        await self._fabric.close()


async def serve(config: GatewayConfig, stop: asyncio.Event) -> None:
    """Run one gateway until ``stop``; prints the READY line with its port."""
    if config.parent:
        lifecycle.die_with_parent(config.parent)
    gateway = await Gateway.open(config)
    try:
        port = await gateway.start()
        lifecycle.ready("gateway", port=port, operate=gateway.operate.port)
        await stop.wait()
    finally:
        await gateway.close()


def _report(where: str, error: BaseException) -> None:
    _log.warning("contained", where=where, exc_info=error)

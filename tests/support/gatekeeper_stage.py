"""Gatekeepers as real processes with pretend hardware on a real chain, and a worker played by the test."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coincurve import PrivateKey

from cloister.chain.contracts import call, encode
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.core.attestation.model import Binding, measurement_id
from cloister.core.chainview.records import agent_id
from cloister.core.chainview.seats import RulesRecord
from cloister.core.encoding.contexts import Context
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.network import Genesis, Network
from cloister.core.encoding.signatures import Signed, address_of
from cloister.core.encoding.statements import Checkpoint, WorkerAdmission
from cloister.core.errors import CloisterError
from cloister.core.threshold.partial import Partial, TransportKey, recover
from cloister.core.threshold.shares import PublicShares
from cloister.devnet import ledger
from cloister.devnet.layout import GATEKEEPERS, THRESHOLD, Layout, free_ports, write_json
from cloister.devnet.process import Child, spawn
from cloister.devnet.tee.client import TeeControl, cleanup, devnet_roots
from cloister.evidence.detect import MachineConfig, open_tee
from cloister.wire.ask import ask, new_session
from cloister.wire.committee import Committee, Granted
from cloister.wire.messages import AdmissionRequest, Info, KeysRequest, Shown
from support.anvil import TestChain


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 30.0) -> None:
    """Wait for a fact; the test fails if it never comes."""
    end = asyncio.get_running_loop().time() + seconds
    while not await condition():
        assert asyncio.get_running_loop().time() < end, "it never came"
        await asyncio.sleep(0.1)


@dataclass
class Stage:
    """Processes and facts of one run. ``extra``: gatekeepers beyond the devnet's five, and their hardware."""

    chain: TestChain
    layout: Layout
    rpc: Rpc
    machines: dict[str, dict[str, Any]] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    children: dict[str, Child] = field(default_factory=dict)
    genesis: Genesis | None = None
    extra: dict[str, str] = field(default_factory=dict)
    operators: dict[str, bytes] = field(default_factory=dict)
    resting: frozenset[str] = frozenset()  # whose machines have no sealing key: the others hold it

    def urls(self, *names: str) -> list[str]:
        return [f"http://127.0.0.1:{self.ports[n]}" for n in names or tuple(n for n, _ in GATEKEEPERS)]

    async def hardware(self) -> None:
        arguments = ["--work", str(self.layout.tee)]
        self.children["tee"] = await spawn_tee(arguments, self.layout)
        control = TeeControl(self.layout.tee)
        await control.ready()
        for name, kind in (*GATEKEEPERS, *self.extra.items()):
            self.machines[name] = await control.create_machine(name, kind, "gatekeeper")
        self.machines["worker-1"] = await control.create_machine("worker-1", "snp", "worker")

    async def contracts(self, rules: RulesRecord = ledger.ONE_TERM) -> None:
        images = self.machines.values()
        listed = sorted({measurement_id(m["role"], from_hex(m["measurement"], 48)) for m in images})
        deployer, roots = self.chain.fund(self.key("deployer")), devnet_roots(self.layout.tee)
        self.genesis = await ledger.deploy(
            self.layout, self.rpc, deployer, self.chain.chain_id, listed, roots, {}, rules
        )

    def key(self, name: str) -> PrivateKey:
        return PrivateKey(self.layout.secret_key(name))

    async def start(self, name: str) -> Child:
        config = {
            "data": str(self.layout.node(name)),
            "listen": f"127.0.0.1:{self.ports[name]}",
            "rpc": [self.chain.url],
            "genesis": str(self.layout.genesis),
            "operator": to_hex(self.operators.get(name, keccak256(name.encode())[-20:])),
            "endpoint": self.urls(name)[0],
            "machine": self.machines[name]["machine"],
            "poll_ms": 50,
        }
        if name in self.resting:
            bare = {k: v for k, v in self.machines[name]["machine"].items() if k != "sealing_socket"}
            config |= {"at_rest": "members", "machine": bare}
        file = self.layout.home / f"{name}.json"
        write_json(file, config)
        child = await spawn(name, "cloister.gatekeeper", ["--config", str(file)], log_dir=self.layout.logs)
        if name not in self.children:
            self.chain.give(from_hex(child.ready["address"], 20))
        self.children[name] = child
        return child

    async def send(self, key: PrivateKey, contract: str, function: str, *args: object) -> None:
        assert self.genesis is not None
        sender = Sender(self.rpc, key, self.chain.chain_id)
        await sender.send(self.genesis.address(contract), encode(contract, function, *args))

    async def read(self, contract: str, function: str, *args: object, block: int | str = "latest") -> Any:
        assert self.genesis is not None
        return await call(self.rpc, self.genesis.address(contract), contract, function, *args, block=block)

    async def close(self) -> None:
        for name in sorted(self.children, key=lambda n: n == "tee"):
            await self.children[name].stop()
        await self.rpc.close()
        cleanup(self.layout.tee)


async def spawn_tee(arguments: list[str], layout: Layout) -> Child:
    return await spawn("tee", "cloister.devnet.tee", [*arguments, "--tsm", "socket"], log_dir=layout.logs, timeout=60)


@asynccontextmanager
async def staged(chain: TestChain, **extra: str) -> AsyncIterator[Stage]:
    """A stage in a fresh folder, and nothing left of it afterwards."""
    home = Path(tempfile.mkdtemp(prefix="dkg-"))  # unix socket paths must stay short
    layout = Layout(home / "n")
    layout.prepare()
    more = {name.replace("_", "-"): kind for name, kind in extra.items()}
    names = [*(n for n, _ in GATEKEEPERS), *more]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    made = Stage(chain, layout, Rpc(chain.url), ports=ports, extra=more)
    try:
        yield made
    finally:
        await made.close()
        shutil.rmtree(home, ignore_errors=True)


@dataclass
class Worker:
    """A worker as the network sees it: key, boot, machine."""

    stage: Stage
    network: Network
    key: PrivateKey
    boot: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    @property
    def address(self) -> bytes:
        return address_of(self.key)

    async def show(self, at: Signed, **keys: bytes) -> Shown:
        tee = open_tee(MachineConfig.from_json(self.stage.machines["worker-1"]["machine"]))
        assert isinstance(at.statement, Checkpoint)
        block = at.statement.block_hash
        binding = Binding(self.network.id, "worker", self.address, self.boot, bytes(32), block, bytes(32), keys)
        return Shown(await tee.quote(binding.report_data()), binding)

    async def register(self, committee: Committee) -> None:
        at = await committee.checkpoint()
        signed = await committee.admission(
            AdmissionRequest(await self.show(at, operator=self.address), self.address, at)
        )
        signed.verify(self.network.founding, self.network.id)
        said = signed.statement
        assert isinstance(said, WorkerAdmission)
        fields = [getattr(said, name) for name in said.TYPES]
        await self.stage.send(self.key, "Workers", "register", fields, list(signed.signatures), "unix:test")

    async def keys(self, committee: Committee, agent: bytes) -> tuple[Granted, dict[Any, bytes]]:
        transport = TransportKey.generate(secrets.token_bytes)
        at = await committee.checkpoint()
        granted = await committee.keys(KeysRequest(await self.show(at, transport=transport.public), agent, at))
        granted.lease.verify(committee.signers, self.network.id)
        network, term = self.network, committee.signers.term
        public = PublicShares(network.mpk, network.share_keys, network.transcript, term)  # share keys only name liars
        found = {}
        for name, parts in granted.partials.items():
            partials = [Partial(p.index, p.e1, p.e2, p.e3, p.term) for p in parts]
            key = recover(partials, THRESHOLD, public, bytes(granted.identities[name]), transport)
            found[name] = key.symmetric(Context.RECEIPT, b"a test")
        return granted, found

    async def released(self, committee: Committee, agent: bytes) -> tuple[Granted, dict[Any, bytes]]:
        """``keys``, once the members' newest checkpoint is young enough to know worker and agent."""
        got: list[tuple[Granted, dict[Any, bytes]]] = []

        async def there() -> bool:
            try:
                got.append(await self.keys(committee, agent))
            except CloisterError as error:
                if error.code not in ("policy.worker_unknown", "policy.agent_unknown"):
                    raise
            return bool(got)

        await until(there)
        return got[0]


async def found(stage: Stage, others: Sequence[str] = ()) -> Network:
    """Five register, one dies in the middle and comes back, all confirm. ``others`` stand too, and get no seat."""
    assert stage.genesis is not None
    names = [n for n, _ in GATEKEEPERS]
    await asyncio.gather(*(stage.start(n) for n in (*names, *others)))
    members = [from_hex(stage.children[n].ready["address"], 20) for n in names]
    await ledger.found(stage.rpc, stage.key("deployer"), stage.genesis, members, THRESHOLD)
    await stage.children["gk-3"].kill()
    await stage.start("gk-3")
    return await ledger.network_file(stage.layout, stage.rpc, stage.genesis, stage.urls())


async def deploy_agent(stage: Stage, owner: PrivateKey) -> bytes:
    cluster = await stage.read("Clusters", "defaultCluster")
    await stage.send(owner, "Agents", "deploy", (b"\xc0" * 32, b"\xc1" * 32, cluster, 0, 0, ""))
    assert stage.genesis is not None
    return agent_id(stage.chain.chain_id, stage.genesis.address("Agents"), 1)


async def info(url: str) -> Info:
    session = new_session()
    try:
        return Info.from_json(await ask(session, "GET", f"{url}/v1/info", timeout_s=5))
    finally:
        await session.close()

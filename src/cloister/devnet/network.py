"""A whole network on one machine: chain, pretend hardware, five gatekeepers, gateway, four workers, model server.

``Devnet.start`` brings it up, in order, and says each step; ``stop`` leaves nothing behind. Folders survive: a second
start finds the same chain, the same network id and the same master key.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coincurve import PrivateKey

from cloister.chain.anvil import Anvil
from cloister.chain.contracts import call
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.core.attestation.model import measurement_id
from cloister.core.chainview.seats import RulesRecord
from cloister.core.encoding.chain_record import ChainRecord
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.network import Genesis, Network
from cloister.core.encoding.signatures import address_of
from cloister.core.errors import CloisterError, ConfigError, define
from cloister.devnet import ledger, second, tools
from cloister.devnet.layout import GATEKEEPERS, THRESHOLD, WORKERS, Layout, write_json, write_private
from cloister.devnet.process import Child, spawn
from cloister.devnet.tee.client import NO_SWTPM, TeeControl, cleanup, devnet_roots
from cloister.devnet.told import API_KEY_FILE, keep_owner, operator_address

READY_TIMEOUT_S = 60.0
GAS_WEI = 1000 * 10**18

NOT_UP = define(
    "devnet.not_up",
    ConfigError,
    check="every worker is registered, final and announced",
    remedy="read the worker's log with `cloister logs worker-1`",
    status=500,
)

Say = Callable[[str], None]


@dataclass(slots=True)
class Options:
    """What a person may choose. ``map_host``: host -> (ip, port) that sandboxes reach instead of the real host.

    ``parameters``: network parameters of the first policy (``period_blocks`` and so on); they count at founding only,
    as do ``rules``, those of candidates, ceremonies and terms.
    ``second_chain``: another chain beside the network's own, connected to it; ``second_gas``: workers can pay there.
    ``root_s``: how often a worker puts the root of its receipts on chain.
    """

    home: Path
    workers: int = len(WORKERS)
    with_model: bool = True
    block_time: float = 1.0
    parameters: Mapping[str, int] = field(default_factory=dict)
    map_host: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    rules: RulesRecord = ledger.ELECTING
    second_chain: bool = False
    second_gas: bool = True
    root_s: int = 600


class Devnet:
    """One devnet in ``options.home``/devnet; ``options.home``/devnet.json tells the CLI while it runs."""

    def __init__(self, options: Options, say: Say = lambda _: None) -> None:
        self.options, self._say = options, say
        self.layout = Layout(options.home / "devnet")
        self.children: dict[str, Child] = {}
        self.machines: dict[str, Mapping[str, Any]] = {}
        self._listed: set[bytes] = set()
        self.anvil: Anvil | None = None
        self.rpc: Rpc | None = None
        self.genesis: Genesis | None = None
        self.network: Network | None = None
        self._faucet: Sender | None = None
        self.second: Anvil | None = None
        self.second_rpc: Rpc | None = None
        self.second_record: ChainRecord | None = None
        self._second_faucet: Sender | None = None

    async def __aenter__(self) -> Devnet:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # --- up ---

    async def start(self) -> None:
        """Everything, in order. Raises ConfigError or ChainError with the log's last lines."""
        self.layout.prepare()
        self.ports = self.layout.ports()
        model = asyncio.create_task(self._start_model()) if self.options.with_model else None
        try:
            await _together(self._start_chain(), self._start_tee())
            await self._prepare_chain()
            await self._start_gatekeepers()
            if model is not None:
                await model
            await self._start_gateway()
            await self._start_workers()
        finally:
            if model is not None and not model.done():
                model.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await model
        await self._write_devnet_file()

    async def _start_chain(self) -> None:
        self._say("chain: anvil, interval mining")
        anvil = Anvil(
            tools.anvil(),
            self.layout.chain_state,
            chain_id=self._chain_id(),
            port=self.ports["chain"],
            block_time=self.options.block_time,
        )
        self.anvil = anvil
        await asyncio.to_thread(anvil.start)
        self.rpc = Rpc(anvil.url)
        if self.options.second_chain:
            await self._start_second()

    async def _start_second(self) -> None:
        self._say("second chain: anvil, with an Anchor of its own")
        chain_id = self._chain_id() + 10**9
        self.second = Anvil(
            tools.anvil(),
            self.layout.second_state,
            chain_id=chain_id,
            port=self.ports["chain-2"],
            block_time=self.options.block_time,
        )
        await asyncio.to_thread(self.second.start)
        self.second_rpc = Rpc(self.second.url)
        founder, faucet = (PrivateKey(self.layout.secret_key(name)) for name in ("deployer", "faucet"))
        if not self.layout.second_record.exists():
            for key in (founder, faucet):
                self.second.fund(address_of(key), 10**9 * 10**18)
        self._second_faucet = Sender(self.second_rpc, faucet, chain_id)
        self.second_record = await second.deploy_anchor(self.layout, self.second_rpc, founder, chain_id)

    def _chains(self) -> list[dict[str, Any]]:
        """Connected chains, as settings of gatekeepers and workers."""
        return [{"record": str(self.layout.second_record), "rpc": [self.second.url]}] if self.second else []

    def _chain_id(self) -> int:
        file = self.layout.home / "chain-id"
        if not file.exists():
            write_private(file, str(1_000_000_000 + secrets.randbelow(1_000_000_000)).encode())
        return int(file.read_text())

    async def _start_tee(self) -> None:
        self._say("pretend hardware: vendor-shaped keys and certificates")
        cleanup(self.layout.tee)
        arguments = ["--work", str(self.layout.tee)]
        await self._spawn("tee", "cloister.devnet.tee", arguments, timeout=90.0)
        control = TeeControl(self.layout.tee)
        await control.ready()
        for name, kind in GATEKEEPERS:
            self._launched(name, await control.create_machine(name, kind, "gatekeeper"))
        for name, kind in WORKERS[: self.options.workers]:
            try:
                self._launched(name, await control.create_machine(name, kind, "worker"))
            except CloisterError as error:
                if error.code != NO_SWTPM.code:
                    raise
                self._say(f"{name}: left out, {error.found}; {error.remedy}")
                # Listed all the same: with the packages installed, the next start has the machine.
                measurement = from_hex(await control.measure(kind, "worker"), name="measurement")
                self._listed.add(measurement_id("worker", measurement))

    def _launched(self, name: str, made: Mapping[str, Any]) -> None:
        self.machines[name] = made
        self._listed.add(measurement_id(made["role"], from_hex(made["measurement"], name="measurement")))

    async def _prepare_chain(self) -> None:
        deployer = PrivateKey(self.layout.secret_key("deployer"))
        if self.layout.genesis.exists():
            self._say("contracts: already on this chain")
            self.genesis = Genesis.parse(self.layout.genesis.read_bytes())
            return
        self._say("contracts: deploying from the package's artifacts")
        assert self.anvil is not None  # noqa: S101 - started before
        for key in (deployer, PrivateKey(self.layout.secret_key("faucet"))):
            self.anvil.fund(address_of(key), 10**9 * 10**18)
        roots = devnet_roots(self.layout.tee)
        assert self.rpc is not None  # noqa: S101 - started before
        self.genesis = await ledger.deploy(
            self.layout,
            self.rpc,
            deployer,
            self._chain_id(),
            sorted(self._listed),
            roots,
            self.options.parameters,
            self.options.rules,
        )

    async def _start_gatekeepers(self) -> None:
        self._say("gatekeepers: five processes on three vendors' hardware")
        assert self.rpc is not None  # noqa: S101 - started before
        assert self.genesis is not None  # noqa: S101 - prepared before
        await _together(*(self.start_gatekeeper(name) for name, _ in GATEKEEPERS))
        deployer = PrivateKey(self.layout.secret_key("deployer"))
        if not self.layout.network.exists():
            members = [from_hex(self.children[n].ready["address"], 20, name=n) for n, _ in GATEKEEPERS]
            self._say("gatekeepers: registering, then generating a 3-of-5 master key that nobody holds")
            await ledger.found(self.rpc, deployer, self.genesis, members, THRESHOLD)
            await ledger.network_file(self.layout, self.rpc, self.genesis, self.gatekeeper_urls())
        await ledger.adopt(self.rpc, deployer, self.genesis)
        self.network = Network.parse(self.layout.network.read_bytes())
        if self.second_rpc is not None and self.second_record is not None:
            await second.connect(self.rpc, self.second_rpc, deployer, self.network, self.second_record)

    async def start_gatekeeper(self, name: str) -> Child:
        """Start (or start again) one gatekeeper and give its account gas."""
        number = [n for n, _ in GATEKEEPERS].index(name)
        endpoint = f"http://127.0.0.1:{self.ports[name]}"
        config = {
            "data": str(self.layout.node(name)),
            "listen": f"127.0.0.1:{self.ports[name]}",
            "rpc": [self._chain_url()],
            "genesis": str(self.layout.genesis),
            "operator": to_hex(operator_address(f"gatekeeper operator {number}")),
            "endpoint": endpoint,
            "machine": self.machines[name]["machine"],
            "chains": self._chains(),
        }
        child = await self._node(name, "cloister.gatekeeper", config)
        await self.fund(from_hex(child.ready["address"], 20, name="address"))
        return child

    async def _start_gateway(self) -> None:
        self._say("gateway: the public door")
        config = {
            "host": "127.0.0.1",
            "port": self.ports["gateway"],
            "workers": str(self.layout.gateway_socket),
            "rpc": self._chain_url(),
            "gatekeepers": self.gatekeeper_urls(),
            "network": str(self.layout.network),
            "fabric": str(self.layout.fabric),
        }
        await self._node("gateway", "cloister.gateway", config)

    async def _start_workers(self) -> None:
        names = [name for name, _ in WORKERS if name in self.machines]
        self._say(f"workers: {len(names)} processes, attesting and registering")
        await _together(*(self.start_worker(name) for name in names))
        await self._until_live([from_hex(self.children[n].ready["address"], 20, name=n) for n in names])

    async def start_worker(self, name: str, *, machine: Mapping[str, Any] | None = None) -> Child:
        """Start (or start again) one worker and give its account gas."""
        mapped = {host: f"{ip}:{port}" for host, (ip, port) in self.map_host().items()}
        config = {
            "data": str(self.layout.node(name)),
            "network": str(self.layout.network),
            "rpc": self._chain_url(),
            "gatekeepers": self.gatekeeper_urls(),
            "gateway": str(self.layout.gateway_socket),
            "calls": self.gateway_url,
            "fabric": str(self.layout.fabric),
            "operator": to_hex(operator_address(f"operator of {name}")),
            "endpoint": f"unix:{name}",
            "machine": (machine or self.machines[name])["machine"],
            "map_host": mapped,
            "extra_ca": str(self.layout.model / "ca.pem") if mapped else None,
            "chains": self._chains(),
            "root_s": self.options.root_s,
            "agents": {"blanks": 0},  # nobody waits for these agents; several workers share few cores
        }
        child = await self._node(name, "cloister.worker", config)
        address = from_hex(child.ready["address"], 20, name="address")
        await self.fund(address)
        if self._second_faucet is not None and self.options.second_gas:
            await self._second_faucet.send(address, value=GAS_WEI)
        return child

    async def _start_model(self) -> None:
        self._say("model server: all-MiniLM-L6-v2 behind https://api.openai.com")
        key = self.layout.model / API_KEY_FILE
        if not key.exists():
            write_private(key, b"sk-devnet-" + secrets.token_hex(16).encode())
        arguments = ["--work", str(self.layout.model), "--port", str(self.ports["model"]), "--key-file", str(key)]
        one = {"OPENBLAS_NUM_THREADS": "1"}  # more threads spin for each other on a small machine
        await self._spawn("model", "cloister.devnet.model", arguments, timeout=60.0, env=one)

    # --- facts ---

    def map_host(self) -> Mapping[str, tuple[str, int]]:
        """Names that sandboxes reach on this machine instead of the real host."""
        if self.options.map_host or "model" not in self.children:
            return self.options.map_host
        return {"api.openai.com": ("127.0.0.1", self.ports["model"])}

    def api_key(self) -> str:
        """The model server's API key: a secret of the example agent."""
        return (self.layout.model / API_KEY_FILE).read_text()

    def gatekeeper_urls(self) -> list[str]:
        """Base URLs of all five."""
        return [f"http://127.0.0.1:{self.ports[name]}" for name, _ in GATEKEEPERS]

    @property
    def gateway_url(self) -> str:
        """The public door."""
        return f"http://127.0.0.1:{self.ports['gateway']}"

    def owner(self) -> PrivateKey:
        """The devnet owner's wallet key, funded."""
        return PrivateKey(self.layout.secret_key("owner"))

    async def fund(self, address: bytes) -> None:
        """Give an account gas by a transaction, and wait for it.

        The chain's control method would change state between blocks: proofs of the block before would fail."""
        assert self.rpc is not None  # noqa: S101 - started before
        if self._faucet is None:
            self._faucet = Sender(self.rpc, PrivateKey(self.layout.secret_key("faucet")), self._chain_id())
        await self._faucet.send(address, value=GAS_WEI)

    def _chain_url(self) -> str:
        assert self.anvil is not None  # noqa: S101 - started before
        return self.anvil.url

    # --- down ---

    async def crash(self) -> None:
        """SIGKILL every process but the chain, which ends in order and keeps its state. ``start`` brings it back."""
        await asyncio.gather(*(child.kill() for child in self.children.values()))
        await self.stop()

    async def stop(self) -> None:
        """Stop everything; SIGKILL what does not listen. Mounts and sockets go, folders stay."""
        for group in (["worker-", "gateway", "model"], ["gk-"], ["tee"]):
            chosen = [c for n, c in self.children.items() if n.startswith(tuple(group))]
            await asyncio.gather(*(c.stop() for c in chosen))
        self.children.clear()
        if self.rpc is not None:
            await self.rpc.close()
            self.rpc = self._faucet = None
        if self.second_rpc is not None:
            await self.second_rpc.close()
            self.second_rpc = self._second_faucet = None
        for chain in (self.anvil, self.second):
            if chain is not None:
                await asyncio.to_thread(chain.stop)
        self.anvil = self.second = None
        cleanup(self.layout.tee)
        with contextlib.suppress(FileNotFoundError):
            self.layout.gateway_socket.unlink()
        with contextlib.suppress(FileNotFoundError):
            self.layout.devnet.unlink()

    # --- inside ---

    async def _node(self, name: str, module: str, config: Mapping[str, Any]) -> Child:
        folder = self.layout.node(name)
        folder.mkdir(mode=0o700, exist_ok=True)
        file = self.layout.home / f"{name}.json"
        write_json(file, config)
        return await self._spawn(name, module, ["--config", str(file)], timeout=READY_TIMEOUT_S)

    async def _spawn(
        self, name: str, module: str, arguments: list[str], *, timeout: float, env: Mapping[str, str] | None = None
    ) -> Child:
        child = await spawn(name, module, arguments, log_dir=self.layout.logs, timeout=timeout, env=env)
        self.children[name] = child
        return child

    async def _until_live(self, workers: list[bytes]) -> None:
        assert self.rpc is not None  # noqa: S101 - started before
        assert self.genesis is not None  # noqa: S101 - prepared before
        address = self.genesis.address("Workers")
        end = asyncio.get_running_loop().time() + READY_TIMEOUT_S
        while True:
            listed = await call(self.rpc, address, "Workers", "list", 0, 4096, block="finalized")
            if set(workers) <= set(listed):
                return
            if asyncio.get_running_loop().time() > end:
                raise NOT_UP(expected=f"{len(workers)} workers", found=f"{len(set(workers) & set(listed))}")
            await asyncio.sleep(0.2)

    async def _write_devnet_file(self) -> None:
        assert self.network is not None  # noqa: S101 - read before
        owner = self.owner()
        await self.fund(address_of(owner))
        if self._second_faucet is not None:
            await self._second_faucet.send(address_of(owner), value=GAS_WEI)
        write_json(
            self.layout.devnet,
            {
                "gateway": self.gateway_url,
                "network_file": str(self.layout.network),
                "fingerprint": self.network.fingerprint(),
                "rpc": self._chain_url(),
                **keep_owner(self.layout, owner),
                "api_key_file": str(self.layout.model / API_KEY_FILE),
                "pid": os.getpid(),
                "processes": {n: c.process.pid for n, c in self.children.items()},
                "chain_pid": self.anvil.pid if self.anvil else None,
                **self._second_facts(),
            },
        )

    def _second_facts(self) -> dict[str, Any]:
        """Where the second chain is, for people; nothing without one."""
        if self.second is None:
            return {}
        record = str(self.layout.second_record)
        return {"second_rpc": self.second.url, "second_chain": self.second.chain_id, "second_record": record}


async def _together(*steps: Awaitable[object]) -> None:
    """All at once. If one fails, the others are cancelled and waited for: nothing starts behind a stopped network."""
    tasks = [asyncio.ensure_future(step) for step in steps]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

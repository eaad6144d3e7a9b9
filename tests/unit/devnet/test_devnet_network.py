"""The devnet's own work, without its processes: what each is told, in which order it starts and ends, what is written.

Processes, chain, pretend hardware and the ledger are stand-ins here; tests/scenarios run the real ones.
"""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from coincurve import PrivateKey

from cloister.core.attestation.model import measurement_id
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.signatures import address_of
from cloister.core.errors import CloisterError
from cloister.core.keys.keystore import decrypt_key
from cloister.devnet import network as subject
from cloister.devnet.layout import GATEKEEPERS, WORKERS
from cloister.devnet.ledger import ELECTING
from cloister.devnet.network import Devnet, Options
from cloister.devnet.tee.client import CONTROL_FAILED, NO_SWTPM
from cloister.devnet.told import operator_address, read_devnet_file
from cloister.gatekeeper.config import GatekeeperConfig
from cloister.gateway.config import GatewayConfig
from cloister.node.config import parse_config
from cloister.worker.config import WorkerConfig, check_config

NODES = {"cloister.gatekeeper": GatekeeperConfig, "cloister.gateway": GatewayConfig, "cloister.worker": WorkerConfig}


@dataclass
class FakeChild:
    """A process that runs until it is told otherwise."""

    name: str
    ready: Mapping[str, Any]
    events: list[str]
    alive: bool = True

    @property
    def process(self) -> Any:
        """Its pid."""
        return SimpleNamespace(pid=1000 + len(self.name))

    async def stop(self, grace_s: float = 5.0) -> None:
        """SIGTERM."""
        self.alive = False
        self.events.append(f"stop {self.name}")

    async def kill(self) -> None:
        """SIGKILL."""
        self.alive = False
        self.events.append(f"kill {self.name}")


@dataclass
class Stand:
    """Everything around a devnet, and what happened to it."""

    events: list[str] = field(default_factory=list)
    configs: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, list[str]] = field(default_factory=dict)
    funded: list[bytes] = field(default_factory=list)
    sent: list[tuple[bytes, int]] = field(default_factory=list)
    listed: list[bytes] = field(default_factory=list)
    broken: str = ""
    no_swtpm: bool = False
    slow: dict[str, asyncio.Event] = field(default_factory=dict)

    async def spawn(self, name: str, module: str, arguments: list[str], **options: Any) -> FakeChild:
        """``process.spawn``: notes, and reads the settings as the process would."""
        self.events.append(f"start {name}")
        self.arguments[name] = arguments
        if name == self.broken:
            raise subject.NOT_UP(expected=f"{name} ready", found="nothing")
        if name in self.slow:
            await self.slow[name].wait()
            self.events.append(f"late {name}")
        if module in NODES:
            data = Path(arguments[1]).read_bytes()
            self.configs[name] = parse_config(data, NODES[module])
        return FakeChild(name, {"address": to_hex(address(name)), "boot": to_hex(bytes(32))}, self.events)


def address(name: str) -> bytes:
    return address_of(PrivateKey(name.encode().rjust(32, b"\x01")))


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Stand:
    made = Stand()

    class FakeAnvil:
        def __init__(self, program: Path, state: Path, *, chain_id: int, port: int, block_time: float) -> None:
            made.events.append(f"chain {block_time:g}")
            self.url, self.chain_id, self.pid = f"http://127.0.0.1:{port}", chain_id, 77

        def start(self) -> None:
            made.events.append("start chain")

        def stop(self) -> None:
            made.events.append("stop chain")

        def fund(self, address: bytes, wei: int) -> None:
            made.funded.append(address)

    class FakeSender:
        def __init__(self, rpc: Any, key: PrivateKey, chain_id: int) -> None:
            self.key = key

        async def send(self, to: bytes, data: bytes = b"", value: int = 0) -> None:
            made.sent.append((to, value))

    class FakeTee:
        def __init__(self, folder: Path) -> None:
            pass

        async def ready(self) -> None:
            pass

        async def create_machine(self, name: str, kind: str, role: str) -> Mapping[str, Any]:
            if kind == "tpm" and made.no_swtpm:
                raise NO_SWTPM(expected="swtpm and tpm2-tools", found="no swtpm")
            made.events.append(f"machine {name} {kind} {role}")
            return {"role": role, "measurement": "0x" + "11" * 48, "machine": {"tsm_socket": f"/{name}"}}

        async def measure(self, kind: str, role: str) -> str:
            made.events.append(f"measure {kind} {role}")
            return "0x" + "22" * 48

    async def deploy(layout: Any, *args: Any) -> Any:
        made.events.append("deploy")
        made.arguments["deploy"] = list(args)
        layout.genesis.write_bytes(b"genesis")
        return SimpleNamespace(address=lambda name: b"\x09" * 20)

    async def found(*args: Any) -> None:
        made.events.append("found")
        made.arguments["found"] = list(args)

    async def network_file(layout: Any, *args: Any) -> None:
        made.events.append("network file")
        layout.network.write_bytes(b"network")

    async def adopt(*args: Any) -> None:
        made.events.append("adopt")

    async def call(rpc: Any, to: bytes, contract: str, function: str, *args: Any, block: str = "latest") -> Any:
        assert (contract, function, block) == ("Workers", "list", "finalized")
        return made.listed if made.listed else [address(name) for name, _ in WORKERS]

    parsed = SimpleNamespace(fingerprint=lambda: "ab" * 32, id=bytes(32), mpk=bytes(96))
    monkeypatch.setattr(subject, "spawn", made.spawn)
    monkeypatch.setattr(subject, "Anvil", FakeAnvil)
    monkeypatch.setattr(subject, "Sender", FakeSender)
    monkeypatch.setattr(subject, "TeeControl", FakeTee)
    monkeypatch.setattr(subject, "devnet_roots", lambda folder: {"intel": ["00" * 32]})
    monkeypatch.setattr(subject, "call", call)
    monkeypatch.setattr(subject.tools, "anvil", lambda: Path("/anvil"))
    ledger = {"deploy": deploy, "found": found, "network_file": network_file, "adopt": adopt}
    for name, function in ledger.items():
        monkeypatch.setattr(subject.ledger, name, function)
    monkeypatch.setattr(
        subject.Genesis, "parse", staticmethod(lambda data: SimpleNamespace(address=lambda name: b"\x09" * 20))
    )
    monkeypatch.setattr(subject.Network, "parse", staticmethod(lambda data: parsed))
    return made


def devnet(tmp_path: Path, **options: Any) -> Devnet:
    return Devnet(Options(tmp_path, **options))


def started(stand: Stand) -> list[str]:
    return [event.removeprefix("start ") for event in stand.events if event.startswith("start ")]


# --- up ---


async def test_everything_starts_in_an_order_in_which_it_can(tmp_path: Path, stand: Stand) -> None:
    async with devnet(tmp_path):
        pass
    order = started(stand)
    assert set(order[:3]) == {"chain", "tee", "model"}
    assert order[3:8] == [name for name, _ in GATEKEEPERS]
    assert order[8] == "gateway"
    assert order[9:] == [name for name, _ in WORKERS]
    events = stand.events
    assert events.index("deploy") < events.index("start gk-1") < events.index("found") < events.index("network file")
    assert events.index("network file") < events.index("adopt") < events.index("start gateway")
    assert events.index("network file") < events.index("start gateway")


async def test_every_process_gets_settings_that_it_takes(tmp_path: Path, stand: Stand) -> None:
    made = devnet(tmp_path)
    async with made:
        pass
    assert set(stand.configs) == {n for n, _ in (*GATEKEEPERS, *WORKERS)} | {"gateway"}
    keepers = [stand.configs[name] for name, _ in GATEKEEPERS]
    assert (
        len({c.operator for c in keepers}) == len({c.data for c in keepers}) == len({c.endpoint for c in keepers}) == 5
    )
    for name, _ in GATEKEEPERS:
        config = stand.configs[name]
        assert config.endpoint == f"http://127.0.0.1:{made.ports[name]}"
        assert config.address() == ("127.0.0.1", made.ports[name])
        assert config.machine == {"tsm_socket": f"/{name}"}
        assert config.genesis == made.layout.genesis
    gateway = stand.configs["gateway"]
    assert (gateway.host, gateway.port) == ("127.0.0.1", made.ports["gateway"])
    assert gateway.gatekeepers == [c.endpoint for c in keepers]
    for name, _ in WORKERS:
        config = stand.configs[name]
        check_config(config, "devnet")
        assert (config.gateway, config.fabric) == (gateway.workers, gateway.fabric)
        assert config.network == gateway.network == made.layout.network
        assert config.map_host == {"api.openai.com": f"127.0.0.1:{made.ports['model']}"}
        assert config.extra_ca == made.layout.model / "ca.pem"


async def test_settings_and_folders_are_private(tmp_path: Path, stand: Stand) -> None:
    async with devnet(tmp_path):
        home = tmp_path / "devnet"
        for name in (*(n for n, _ in (*GATEKEEPERS, *WORKERS)), "gateway"):
            assert stat.S_IMODE((home / f"{name}.json").stat().st_mode) == 0o600
        for name, _ in (*GATEKEEPERS, *WORKERS):
            assert stat.S_IMODE((home / name).stat().st_mode) == 0o700
        assert stat.S_IMODE((home / "model" / "api-key").stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "devnet.json").stat().st_mode) == 0o600


async def test_who_pays_gets_gas_by_transactions(tmp_path: Path, stand: Stand) -> None:
    """The chain's control method is used before the first proof only: later it would spoil proofs."""
    made = devnet(tmp_path)
    async with made:
        pass
    assert len(stand.funded) == 2
    paid = [to for to, value in stand.sent if value == subject.GAS_WEI]
    assert paid == [*(address(n) for n, _ in (*GATEKEEPERS, *WORKERS)), address_of(made.owner())]


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
async def test_as_many_workers_as_asked_for(workers: int, tmp_path: Path, stand: Stand) -> None:
    async with devnet(tmp_path, workers=workers):
        pass
    names = [name for name, _ in WORKERS[:workers]]
    assert [e for e in started(stand) if e.startswith("worker-")] == names
    machines = [e.split()[1] for e in stand.events if e.startswith("machine worker-")]
    assert machines == names


async def test_without_swtpm_a_devnet_has_three_workers_and_says_so_in_one_line(tmp_path: Path, stand: Stand) -> None:
    """Its measurement is listed all the same, so that the machine joins once the packages are there."""
    stand.no_swtpm = True
    said: list[str] = []
    async with Devnet(Options(tmp_path), said.append) as made:
        assert set(made.machines) == {name for name, _ in (*GATEKEEPERS, *WORKERS)} - {"worker-4"}
    assert [e for e in started(stand) if e.startswith("worker-")] == ["worker-1", "worker-2", "worker-3"]
    assert [line for line in said if "worker-4" in line] == [
        "worker-4: left out, no swtpm; on Debian: apt-get install -y swtpm tpm2-tools"
    ]
    assert "workers: 3 processes, attesting and registering" in said
    assert measurement_id("worker", b"\x22" * 48) in stand.arguments["deploy"][3]
    stand.no_swtpm = False
    async with devnet(tmp_path):
        pass
    assert "worker-4" in started(stand)


async def test_another_refusal_of_a_machine_ends_the_start(
    tmp_path: Path, stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(self: Any, name: str, kind: str, role: str) -> None:
        raise CONTROL_FAILED(expected="an answer", found="silence")

    monkeypatch.setattr(subject.TeeControl, "create_machine", refuse)
    with pytest.raises(CloisterError) as caught:
        async with devnet(tmp_path):
            pass
    assert caught.value.code == "devnet.tee"


async def test_options_reach_the_chain_and_the_first_policy(tmp_path: Path, stand: Stand) -> None:
    async with devnet(tmp_path, block_time=0.25, parameters={"period_blocks": 8, "lease_blocks": 16}):
        pass
    assert "chain 0.25" in stand.events
    assert stand.arguments["deploy"][-2:] == [{"period_blocks": 8, "lease_blocks": 16}, ELECTING]
    assert stand.arguments["found"][-2:] == [[address(n) for n, _ in GATEKEEPERS], 3]


async def test_without_a_model_nothing_is_mapped(tmp_path: Path, stand: Stand) -> None:
    async with devnet(tmp_path, with_model=False):
        pass
    assert "model" not in started(stand)
    config = stand.configs["worker-1"]
    assert (config.map_host, config.extra_ca) == ({}, None)


async def test_hosts_that_a_person_maps_replace_the_models(tmp_path: Path, stand: Stand) -> None:
    async with devnet(tmp_path, map_host={"a.example": ("127.0.0.1", 9)}):
        pass
    assert stand.configs["worker-2"].map_host == {"a.example": "127.0.0.1:9"}


async def test_the_models_key_goes_by_file_not_by_argument(tmp_path: Path, stand: Stand) -> None:
    made = devnet(tmp_path)
    async with made:
        key = made.api_key()
    assert key.startswith("sk-devnet-")
    assert len(key) > 40
    assert key not in " ".join(stand.arguments["model"])
    assert str(tmp_path / "devnet" / "model" / "api-key") in stand.arguments["model"]


# --- again ---


async def test_a_second_start_deploys_and_founds_nothing_and_keeps_everything(tmp_path: Path, stand: Stand) -> None:
    first = devnet(tmp_path)
    async with first:
        known, key, owner = read_devnet_file(tmp_path), first.api_key(), first.owner().secret
    stand.events.clear()
    second = devnet(tmp_path)
    async with second:
        again = read_devnet_file(tmp_path)
        assert (second.ports, second.api_key(), second.owner().secret) == (first.ports, key, owner)
        assert second._chain_id() == first._chain_id()
    assert not {"deploy", "found", "network file"} & set(stand.events)
    assert known is not None
    assert again is not None
    assert {**known, "processes": 0} == {**again, "processes": 0}


async def test_a_gatekeeper_that_comes_back_keeps_its_operator_and_endpoint(tmp_path: Path, stand: Stand) -> None:
    made = devnet(tmp_path)
    async with made:
        before = stand.configs["gk-3"]
        await made.start_gatekeeper("gk-3")
        assert stand.configs["gk-3"] == before


async def test_a_worker_may_come_back_on_another_machine(tmp_path: Path, stand: Stand) -> None:
    made = devnet(tmp_path)
    async with made:
        await made.start_worker("worker-1", machine={"machine": {"nsm_socket": "/other"}})
        assert stand.configs["worker-1"].machine == {"nsm_socket": "/other"}
        assert stand.configs["worker-1"].data == tmp_path / "devnet" / "worker-1"


# --- devnet.json ---


async def test_devnet_json_has_what_the_command_line_needs(tmp_path: Path, stand: Stand) -> None:
    made = devnet(tmp_path)
    async with made:
        known = json.loads((tmp_path / "devnet.json").read_text())
        assert set(known) == {
            "gateway",
            "network_file",
            "fingerprint",
            "rpc",
            "owner_keystore",
            "owner_passphrase_file",
            "api_key_file",
            "pid",
            "processes",
            "chain_pid",
        }
        assert known["gateway"] == made.gateway_url == f"http://127.0.0.1:{made.ports['gateway']}"
        assert known["rpc"] == f"http://127.0.0.1:{made.ports['chain']}"
        assert set(known["processes"]) == {"tee", "model", "gateway", *(n for n, _ in (*GATEKEEPERS, *WORKERS))}
        assert known["chain_pid"] == 77
        phrase = Path(known["owner_passphrase_file"]).read_text()
        document = json.loads(Path(known["owner_keystore"]).read_text())
        assert decrypt_key(document, phrase) == made.owner().secret
        text = json.dumps(known)
        assert not any(secret in text for secret in (phrase, made.owner().secret.hex(), made.api_key()))
    assert read_devnet_file(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", "7", "{", "\x00"])
def test_a_devnet_file_that_is_none_counts_as_no_network(text: str, tmp_path: Path) -> None:
    (tmp_path / "devnet.json").write_text(text)
    assert read_devnet_file(tmp_path) is None


def test_operators_differ_by_name_and_nobody_holds_their_keys() -> None:
    names = [f"gatekeeper operator {i}" for i in range(5)] + [f"operator of worker-{i}" for i in range(3)]
    found = {operator_address(name) for name in names}
    assert len(found) == len(names)
    assert all(len(a) == 20 for a in found)
    assert operator_address(names[0]) == operator_address(names[0])


# --- down ---


async def test_workers_and_gateway_end_before_gatekeepers_before_hardware_before_the_chain(
    tmp_path: Path, stand: Stand
) -> None:
    async with devnet(tmp_path):
        stand.events.clear()
    ended = [e.removeprefix("stop ") for e in stand.events]
    groups = [
        {"gateway", "model", *(n for n, _ in WORKERS)},
        {n for n, _ in GATEKEEPERS},
        {"tee"},
        {"chain"},
    ]
    for group in groups:
        assert set(ended[: len(group)]) == group
        ended = ended[len(group) :]
    assert ended == []


async def test_a_crash_kills_everything_but_the_chain(tmp_path: Path, stand: Stand) -> None:
    made = devnet(tmp_path)
    await made.start()
    stand.events.clear()
    await made.crash()
    killed = {e.removeprefix("kill ") for e in stand.events if e.startswith("kill ")}
    assert killed == {"tee", "model", "gateway", *(n for n, _ in (*GATEKEEPERS, *WORKERS))}
    assert stand.events[-1] == "stop chain"
    assert made.children == {}
    assert not (tmp_path / "devnet.json").exists()


@pytest.mark.parametrize("broken", ["tee", "gk-2", "gateway", "worker-3", "model"])
async def test_a_start_that_fails_stops_what_had_started(broken: str, tmp_path: Path, stand: Stand) -> None:
    stand.broken = broken
    with pytest.raises(CloisterError):
        async with devnet(tmp_path):
            raise AssertionError("it did not start")
    running = {e.removeprefix("start ") for e in stand.events if e.startswith("start ")} - {broken}
    ended = {e.removeprefix("stop ") for e in stand.events if e.startswith("stop ")}
    assert running == ended
    assert not (tmp_path / "devnet.json").exists()


@pytest.mark.parametrize(("broken", "slow"), [("gk-2", "gk-4"), ("worker-1", "worker-3"), ("tee", "model")])
async def test_nothing_starts_behind_a_network_that_failed(
    broken: str, slow: str, tmp_path: Path, stand: Stand
) -> None:
    stand.broken, stand.slow[slow] = broken, asyncio.Event()
    made = devnet(tmp_path)
    with pytest.raises(CloisterError):
        await made.__aenter__()
    stand.slow[slow].set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert f"start {slow}" in stand.events
    assert f"late {slow}" not in stand.events
    assert made.children == {}


async def test_a_start_that_is_cancelled_starts_nothing_more(tmp_path: Path, stand: Stand) -> None:
    stand.slow["gk-1"] = asyncio.Event()
    made = devnet(tmp_path)
    task = asyncio.ensure_future(made.start())
    for _ in range(500):
        if "start gk-5" in stand.events:
            break
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await made.stop()
    stand.slow["gk-1"].set()
    await asyncio.sleep(0)
    assert not {"late gk-1", "found"} & set(stand.events)


async def test_stopping_what_never_started_or_twice_is_harmless(tmp_path: Path, stand: Stand) -> None:
    made = devnet(tmp_path)
    await made.stop()
    await made.start()
    await made.stop()
    stand.events.clear()
    await made.stop()
    assert stand.events == []


async def test_workers_that_never_appear_on_chain_are_named(
    tmp_path: Path, stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "READY_TIMEOUT_S", 0.0)
    stand.listed = [address("worker-1")]
    with pytest.raises(CloisterError) as caught:
        async with devnet(tmp_path):
            pass
    assert (caught.value.code, caught.value.expected, caught.value.found) == ("devnet.not_up", "4 workers", "1")


async def test_progress_is_said_once_per_step(tmp_path: Path, stand: Stand) -> None:
    said: list[str] = []
    async with Devnet(Options(tmp_path), said.append):
        pass
    heads = [line.split(":")[0] for line in said]
    assert {"chain", "pretend hardware", "contracts", "gatekeepers", "gateway", "workers", "model server"} == set(heads)
    assert len(said) == len(set(said))
    said.clear()
    async with Devnet(Options(tmp_path), said.append):
        pass
    assert "contracts: already on this chain" in said
    await asyncio.sleep(0)

"""The worker process: settings, loops, start, shutdown; the whole of it over a chain in memory and a real socket."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from cloister.chain.tx import Receipt
from cloister.core.attestation.model import Binding, Evidence
from cloister.core.encoding.signatures import Signed, SignerSet, address_of
from cloister.core.encoding.statements import WorkerAdmission
from cloister.core.envelope.client import ClientSession, Psk
from cloister.core.errors import CloisterError
from cloister.core.state.endorse import Answer
from cloister.fabric.embedded import open_fabric
from cloister.node.config import config_hash, parse_config
from cloister.wire.announce import Announcement, Kind, call_payload
from cloister.wire.committee import TOO_FEW
from cloister.wire.frames import Connection, FrameServer
from cloister.wire.heads import HeadsRequest
from cloister.wire.messages import AdmissionRequest
from cloister.worker import loops, service
from cloister.worker.config import (
    MAX_FRESH_S,
    WorkerConfig,
    check_config,
    in_memory,
    mapped_hosts,
    operator_of,
    work_folder,
)
from cloister.worker.loops import SLOWEST_S, Troubles, keep_turning
from cloister.worker.service import QUOTES_AT_ONCE, Worker
from support.fake_sandbox import FakeSandbox
from support.fake_world import MEMBERS, MPK, World
from support.worker_kit import ChainRpc, FakeCommittee, Rig, keys_of, list_workers, opened, refused, until
from support.worker_kit import world_of as new_world

DOCS = Path(__file__).parents[3] / "docs" / "operate" / "worker.md"
OPERATOR = "0x" + "0a" * 20


def settings(folder: Path, **changes: Any) -> WorkerConfig:
    values: dict[str, Any] = {
        "data": str(folder / "data"),
        "network": str(folder / "network.json"),
        "rpc": "http://127.0.0.1:1",
        "gatekeepers": ["http://127.0.0.1:1"],
        "gateway": str(folder / "g.sock"),
        "fabric": str(folder / "fabric"),
        "operator": OPERATOR,
        "endpoint": "unix:one",
        "machine": {},
    }
    return parse_config(json.dumps(values | changes).encode(), WorkerConfig)


# --- settings ---


def test_every_setting_is_documented_and_no_other(tmp_path: Path) -> None:
    table = DOCS.read_text().partition("## Settings")[2].partition("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| `")]
    named = [name.strip(" `") for row in rows for name in row.split(",")]
    assert named == [field.name for field in fields(WorkerConfig)]
    for field in fields(WorkerConfig):
        assert field.name in (WorkerConfig.__doc__ or "") or field.name == "log_level"


BAD: dict[str, dict[str, Any]] = {
    "a freshness limit that never ends": {"fresh_s": MAX_FRESH_S + 1},
    "no freshness limit": {"fresh_s": 0},
    "a negative freshness limit": {"fresh_s": -5},
    "no gatekeeper": {"gatekeepers": []},
    "too many gatekeepers": {"gatekeepers": [f"http://{n}" for n in range(65)]},
    "one gatekeeper twice": {"gatekeepers": ["http://a", "http://a"]},
    "no endpoint": {"endpoint": ""},
    "an endpoint that the contract refuses": {"endpoint": "x" * 257},
    "an unknown log level": {"log_level": "loud"},
    "an operator that is no address": {"operator": "0x12"},
    "an operator in capitals": {"operator": "0x" + "0A" * 20},
    "processes that stop while their requests come": {"agents": {"idle_s": 1}},
    "no process at all": {"agents": {"processes": 0}},
    "memory for no process": {"agents": {"memory_mb": 1}},
    "a budget of an unknown name": {"agents": {"process": 3}},
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_settings_out_of_bounds_are_refused(tmp_path: Path, case: str) -> None:
    with pytest.raises(CloisterError, match=r"worker\.setting"):
        check_config(settings(tmp_path, **BAD[case]), "devnet")


def test_good_settings_pass_and_change_the_hash_in_the_report_data(tmp_path: Path) -> None:
    config = settings(tmp_path)
    check_config(config, "devnet")
    assert operator_of(config) == b"\x0a" * 20
    assert work_folder(config) == tmp_path / "data" / "sandbox"
    hashes = {config_hash(replace(config, **{name: value})) for name, value in OTHER.items()}
    assert len(hashes | {config_hash(config)}) == len(OTHER) + 1


OTHER: dict[str, Any] = {
    "fresh_s": 16,
    "operator": "0x" + "0b" * 20,
    "work": Path("/run/x"),
    "map_host": {"a": "127.0.0.1:1"},
    "gatekeepers": ["http://b"],
}

MAPS: dict[str, str] = {
    "no port": "127.0.0.1",
    "no address": ":443",
    "a port of letters": "127.0.0.1:https",
    "port zero": "127.0.0.1:0",
    "a port over the top": "127.0.0.1:65536",
    "a very long port": "127.0.0.1:" + "1" * 5000,
    "digits of another script": "127.0.0.1:\u0664\u0664\u0663",
}


def test_hosts_are_mapped_on_a_devnet_only_and_to_an_address_and_port(tmp_path: Path) -> None:
    config = settings(tmp_path, map_host={"api.example.com": "127.0.0.1:8443"})
    assert mapped_hosts(config, "devnet") == {"api.example.com": ("127.0.0.1", 8443)}
    for bad in (config, settings(tmp_path, extra_ca=str(tmp_path))):
        with pytest.raises(CloisterError, match=r"worker\.map_host"):
            check_config(bad, "production")
    for case, target in MAPS.items():
        with pytest.raises(CloisterError, match=r"worker\.map_host"):
            mapped_hosts(settings(tmp_path, map_host={"a": target}), "devnet")
            pytest.fail(case)


def test_outside_a_devnet_compiled_code_must_lie_in_memory(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    lines = [
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw",
        "2 1 0:5 / /run rw,nosuid shared:5 - tmpfs tmpfs rw",
        "3 2 8:2 / /run/disk rw - ext4 /dev/sdb rw",
        "4 1 0:6 / /mem rw - ramfs none rw",
        "5 1 8:3 / /mem rw - xfs /dev/sdc rw",
        "garbage",
    ]
    mounts.write_text("\n".join(lines))
    memory = {"/run/cloister": True, "/run": True, "/run/disk/x": False, "/var/lib": False, "/mem/x": False}
    assert {name: in_memory(Path(name), mounts) for name in memory} == memory
    assert not in_memory(Path("/runner"), mounts)
    assert not in_memory(Path("/run"), tmp_path / "missing")
    with pytest.raises(CloisterError, match=r"worker\.work_folder"):
        check_config(settings(tmp_path, work="/sys/not-memory"), "production")


# --- loops ---


async def test_a_loop_that_is_refused_waits_longer_and_longer_until_it_works() -> None:
    waits: list[float] = []
    refusals = 8

    async def turn() -> None:
        if len(waits) < refusals:
            raise TOO_FEW(expected="3", found="0")

    async def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == refusals + 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await keep_turning("test", turn, wait, every_s=0.5)
    assert waits == [1.0, 2.0, 4.0, 8.0, SLOWEST_S, SLOWEST_S, SLOWEST_S, SLOWEST_S, 0.5, 0.5]


async def test_a_fault_of_ours_is_no_refusal() -> None:
    async def turn() -> None:
        raise TypeError("ours")

    with pytest.raises(TypeError):
        await keep_turning("test", turn, asyncio.sleep, every_s=0)


def test_troubles_are_told_when_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Log:
        def warning(self, event: str, **fields: str) -> None:
            said.append(f"{fields['agent']} {fields['code']}")

        def info(self, event: str, **fields: str) -> None:
            said.append(f"{fields['agent']} over")

    error, troubles = TOO_FEW(expected="3", found="0"), Troubles("not served")
    monkeypatch.setattr(loops, "_log", Log())
    for now in ({b"a": error}, {b"a": error}, {b"a": error, b"b": error}, {b"b": error}, {}):
        troubles.tell(now, bytes.decode)
    assert said == ["a gatekeeper.too_few", "b gatekeeper.too_few", "a over", "b over"]


# --- the process ---


class Machine:
    """A TEE that echoes. ``gate`` holds quotes back."""

    kind = "tdx"

    def __init__(self) -> None:
        self.gate: asyncio.Event | None = None

    async def quote(self, report_data: bytes) -> Evidence:
        if self.gate is not None:
            await self.gate.wait()
        return Evidence("tdx", report_data)

    async def sealing_key(self, context: bytes) -> bytes:
        assert context == service.SEALING_CONTEXT
        return b"\x05" * 32


class WholeCommittee(FakeCommittee):
    """Everything that the process asks of the committee."""

    load_quorum = 3
    endpoints = ()

    @property
    def now(self) -> WholeCommittee:
        return self

    @property
    def signers(self) -> SignerSet:
        return self.terms.in_office.signers

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.endorsed = 0
        self.closed = False

    async def admission(self, request: AdmissionRequest) -> Signed:
        binding = request.shown.binding
        said = WorkerAdmission(
            term=1,
            worker=binding.node,
            operator=request.operator,
            vendor_class=b"intel".ljust(32, b"\0"),
            measurement=b"\x01" * 32,
            boot=binding.boot,
            expiry=self.world.number + 5000,
        )
        return self.world.sign(said)

    async def heads(self, agent: bytes, nonce: bytes) -> list[Answer]:
        return [Answer(address_of(m), 0, bytes(32)) for m in MEMBERS[:3]]

    async def endorse_heads(self, request: HeadsRequest) -> tuple[Signed, ...]:
        self.endorsed += len(request.heads)
        return tuple(self.world.sign(move.statement(1), MEMBERS[:4]) for move in request.heads)

    async def close(self) -> None:
        self.closed = True


class Scene:
    """A worker process whose outside is in memory. Its transactions write the world's records."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.world = folder, new_world()
        self.committee, self.tee, self.sandbox = WholeCommittee(self.world), Machine(), FakeSandbox()
        self.config = settings(folder)
        (folder / "network.json").write_bytes(self.world.network.encode())
        self.announced: list[Announcement] = []
        self.gateway = FrameServer(folder / "g.sock", on_announce=self._heard)
        self.worker: Worker
        monkeypatch.setattr(service, "open_tee", lambda machine: self.tee)
        monkeypatch.setattr(service, "LiveCommittee", lambda *args: self.committee)
        monkeypatch.setattr(service, "Rpc", lambda url: ChainRpc(self.world))
        monkeypatch.setattr(service, "AgentSandbox", lambda work, blanks: self.sandbox)
        monkeypatch.setattr(service, "Sender", lambda rpc, key, chain_id: self)
        monkeypatch.setattr(service, "acquire", self._acquire)
        monkeypatch.setattr(service, "host_now_ms", lambda: int(self.world.now * 1000))

    async def open(self) -> Worker:
        self.worker = await Worker.open(self.config)
        return self.worker

    async def send(self, to: bytes | None, data: bytes = b"", value: int = 0, gas: int | None = None) -> Receipt:
        """The chain account: a registration appears on chain."""
        self.world.set_worker(self.worker.node.key, self.worker.node.boot, expiry=self.world.number + 5000)
        list_workers(self.world, self.worker.node.address)
        self.world.mine()
        return Receipt(b"\x01" * 32, self.world.number, b"\x02" * 32, 1, None, ())

    async def _acquire(self, node: Any, *args: Any) -> Any:
        return keys_of(self.world, node, args[5])

    def _heard(self, connection: Connection, data: bytes) -> None:
        self.announced.append(Announcement.decode(data))

    def seats(self) -> list[Any]:
        return list(self.announced[-1].seats) if self.announced else []


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    scene = Scene(tmp_path, monkeypatch)
    yield scene
    await scene.gateway.close()


async def test_from_start_to_a_verified_answer_to_the_end(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = await scene.open()
    for blob in scene.world.blobs.values():
        await worker.fabric.blobs.put(blob)
    agent = scene.world.set_agent()
    for blob in scene.world.blobs.values():
        await worker.fabric.blobs.put(blob)
    scene.world.mine()
    await scene.gateway.start()
    stop = asyncio.Event()
    running = asyncio.ensure_future(worker.run(stop))
    await until(lambda: scene.seats() or running.done())
    assert scene.sandbox.reserve.told, "what waits for agents is looked after"
    seat = scene.seats()[0]
    seat.verify(scene.world.network.founding, scene.world.network.id, scene.world.number)
    session = ClientSession(seat.certificate, Psk.encapsulate(seat.certificate, MPK, os.urandom), os.urandom)
    sealed = session.seal(Rig.head(_Now(scene.world)), b"")  # type: ignore[arg-type]
    connection = next(iter(scene.gateway.connections))
    got = opened(seat.certificate, sealed, await connection.ask(Kind.CALL, call_payload(agent, sealed.data)))
    assert (got.body, got.status) == (b"hello", 200)
    status = json.loads(await connection.ask(Kind.STATUS, b""))
    expected = {"vendor": "tdx", "agents": 1, "served": 1, "refused": 0, "active": 0, "problems": {}, "unendorsed": {}}
    expected |= {"unanswered": {}, "witnessed": 0, "processes": 1, "blanks": 0}
    assert status.pop("resident") > 0
    assert status == {"worker": "0x" + worker.node.address.hex(), **expected}
    nonce = os.urandom(32)
    shown = json.loads(await connection.ask(Kind.EVIDENCE, nonce))
    binding = Binding.from_json(shown["binding"])
    assert (binding.nonce, binding.boot, binding.keys) == (nonce, worker.node.boot, {})
    assert binding.config == config_hash(scene.config)
    stop.set()
    await running
    await until(lambda: scene.seats() == [])
    await worker.close()
    assert scene.committee.closed
    assert scene.sandbox.closed
    assert not scene.sandbox.running


class _Now:
    def __init__(self, world: World) -> None:
        self.world = world

    def now_ms(self) -> int:
        return int(self.world.now * 1000)


async def test_a_restart_has_the_same_key_and_another_boot(scene: Scene) -> None:
    first = await scene.open()
    await first.close()
    second = await scene.open()
    await second.close()
    assert first.node.address == second.node.address
    assert first.node.boot != second.node.boot


async def test_a_worker_cut_off_from_everything_stays_up_says_so_and_stops(scene: Scene) -> None:
    scene.committee.error = TOO_FEW(expected="3", found="0")
    worker = await scene.open()
    stop = asyncio.Event()
    running = asyncio.ensure_future(worker.run(stop))
    await asyncio.sleep(0.05)
    assert not running.done()
    await refused(worker.evidence(bytes(32)), "worker.stale_view")
    assert worker.status()["agents"] == 0
    stop.set()
    await running
    await worker.close()


@pytest.mark.parametrize("loop", ["reconcile", "turn", "refresh"])
async def test_a_fault_of_ours_in_any_loop_ends_the_process(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    worker = await scene.open()

    async def broken(*args: object) -> None:
        raise ZeroDivisionError

    owner: Any = {"reconcile": worker.table, "turn": worker.endorser, "refresh": worker.watch}[loop]
    monkeypatch.setattr(owner, loop, broken)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(worker.run(asyncio.Event()), 20)
    await worker.close()


async def test_closing_closes_everything_even_if_a_part_fails(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = await scene.open()

    async def broken() -> None:
        raise OSError("a link that does not close")

    monkeypatch.setattr(worker.link, "close", broken)
    with pytest.raises(OSError, match="does not close"):
        await worker.close()
    assert scene.sandbox.closed
    assert scene.committee.closed
    await refused(worker.fabric.blobs.get(bytes(32)), "fabric.no_blob")


async def test_a_start_that_fails_leaves_nothing_open(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    async def watched(path: Path, *, synced: bool) -> Any:
        fabric = await open_fabric(path, synced=synced)
        close = fabric.close

        async def noted() -> None:
            closed.append("fabric")
            await close()

        monkeypatch.setattr(fabric, "close", noted)
        return fabric

    def broken(*args: object) -> object:
        raise ZeroDivisionError

    monkeypatch.setattr(service, "open_fabric", watched)
    monkeypatch.setattr(service, "ServerSessions", broken)
    with pytest.raises(ZeroDivisionError):
        await scene.open()
    assert closed == ["fabric"]
    assert scene.sandbox.closed


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no network file": (lambda f: f.unlink(), "config.unreadable"),
    "a network file that is far too large": (lambda f: f.write_bytes(b" " * (2 << 20)), "config.unreadable"),
    "a network file of another form": (lambda f: f.write_bytes(b"{}"), "encoding.field"),
    "a network file that is no JSON": (lambda f: f.write_bytes(b"\xff"), "encoding.not_canonical"),
}


@pytest.mark.parametrize("case", UNREADABLE, ids=str)
async def test_a_network_file_that_cannot_be_used_is_refused_by_name(scene: Scene, case: str) -> None:
    spoil, code = UNREADABLE[case]
    spoil(scene.folder / "network.json")
    await refused(scene.open(), code)


async def test_outsiders_cannot_queue_more_quotes_than_a_few(scene: Scene) -> None:
    worker = await scene.open()
    await worker.watch.refresh()
    scene.tee.gate = asyncio.Event()
    asking = [asyncio.ensure_future(worker.evidence(os.urandom(32))) for _ in range(QUOTES_AT_ONCE)]
    await asyncio.sleep(0)
    await refused(worker.evidence(bytes(32)), "worker.evidence_busy")
    asking[0].cancel()
    scene.tee.gate.set()
    await asyncio.gather(*asking, return_exceptions=True)
    assert await worker.evidence(bytes(32))
    await worker.close()


async def test_agents_texts_reach_no_log_of_the_host(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = await scene.open()
    said: list[str] = []

    class Log:
        def __getattr__(self, level: str) -> Any:
            return lambda event, **fields: said.append(f"{event} {fields}")

    monkeypatch.setattr(service, "_log", Log())
    worker.logbook.of(b"\x01" * 32).line("warn", "a caller's letter")
    await worker._logs()
    assert not said
    await worker.close()

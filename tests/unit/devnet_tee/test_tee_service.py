"""The process of pretend hardware: its commands, its machines through the real evidence code, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cloister
from cloister.core.attestation.appraise import appraise, require
from cloister.core.attestation.examine import examine
from cloister.core.attestation.model import measurement_id
from cloister.core.attestation.policy import devnet
from cloister.core.attestation.roots import Roots
from cloister.core.errors import CloisterError, ConfigError, EvidenceError
from cloister.devnet.tee import TeeControl, cleanup, devnet_roots
from cloister.devnet.tee.client import is_mounted
from cloister.devnet.tee.machines import Factory, launched
from cloister.devnet.tee.measure import measure
from cloister.devnet.tee.service import Service
from cloister.evidence.configfs_tsm import TsmSocket, read_report
from cloister.evidence.detect import MachineConfig, open_tee
from cloister.evidence.sockets import call, exchange
from support.hardware import KINDS, NETWORK, binding, factory
from support.simulated import ALL, need_swtpm


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A small package to launch."""
    folder = tmp_path / "p"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    return folder


@pytest.fixture(params=["fuse", "socket"])
async def service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Path]:
    """A running service in its work folder, once with a mount and once with sockets."""
    work = tmp_path / "w"
    running = Service(work, request.param, Factory(Path(factory()._store._folder).parent))
    try:
        await running.start()
    except OSError as error:
        await running.stop()
        pytest.skip(f"FUSE is not usable here: {error.strerror}")
    try:
        yield work
    finally:
        await running.stop()
        assert not is_mounted(work / "tsm")
        assert not is_mounted(work / "attestation")
        assert not list(work.glob("**/*.sock*"))


@pytest.mark.parametrize("kind", ALL)
async def test_a_machine_from_command_to_verdict(kind: str, service: Path, package: Path) -> None:
    """Launch a machine, find its TEE as a node does, take a quote, appraise it as a gatekeeper does, seal."""
    if kind == "tpm":
        need_swtpm()
    made = await TeeControl(service).create_machine(f"w-{kind}", kind, "worker", package)
    assert made["measurement"] == "0x" + launched(kind, "worker", measure(package, "worker")).hex()
    tee = await asyncio.to_thread(open_tee, MachineConfig.from_json(made["machine"]))
    assert tee.kind == kind
    evidence = await tee.quote(binding().report_data())
    roots = Roots.from_json(devnet_roots(service))
    listed = frozenset({measurement_id("worker", bytes.fromhex(made["measurement"][2:]))})
    question: dict[str, Any] = {"network": NETWORK, "role": "worker", "measurements": listed}
    question |= {"checkpoints": None, "nonce": None, "now": int(time.time())}
    verdict = appraise(evidence, binding(), policy=devnet(roots), **question)
    assert require(verdict).kind == kind
    key = await tee.sealing_key(b"context")
    assert len(key) == 32
    assert key == await tee.sealing_key(b"context") != await tee.sealing_key(b"other")


async def test_what_a_launch_returns(service: Path, package: Path) -> None:
    control = TeeControl(service)
    mounted = (await control.ready())["tsm"] == "fuse"
    tdx, snp, nitro = [await control.create_machine(f"m-{kind}", kind, "gatekeeper", package) for kind in KINDS]
    for made in (tdx, snp):
        assert ("tsm_root" in made, "tsm_socket" in made) == (mounted, not mounted)
        assert Path(made["collateral"]).is_file()
    assert "nsm_socket" in nitro
    assert {"vek", "intermediate", "ark"} <= set(snp)
    for made in (tdx, snp, nitro):
        assert stat.S_IMODE(Path(made["sealing_socket"]).stat().st_mode) == 0o600
        assert json.loads(json.dumps(made)) == made
    listed = await control.command("list")
    assert listed["m-tdx"] == {"kind": "tdx", "role": "gatekeeper", "measurement": tdx["measurement"]}
    assert await control.command("roots") == devnet_roots(service)


async def test_launching_again_measures_again(service: Path, package: Path) -> None:
    control = TeeControl(service)
    first = await control.create_machine("again", "snp", "worker", package)
    (package / "more.py").write_text("")
    second = await control.create_machine("again", "snp", "worker", package)
    assert first["measurement"] != second["measurement"]
    assert first["machine"] == second["machine"]


@pytest.mark.parametrize(
    ("kind", "flaw", "code"),
    [
        ("sgx", {"defect": "debug"}, "attestation.debug"),
        ("sgx", {"tcb": "OutOfDate"}, "attestation.tcb_status"),
        ("tpm", {"defect": "key_purpose"}, "attestation.certificate"),
    ],
)
async def test_a_machine_with_a_chosen_flaw(
    kind: str, flaw: dict[str, str], code: str, service: Path, package: Path
) -> None:
    if kind == "tpm":
        need_swtpm()
    made = await TeeControl(service).create_machine("flawed", kind, "worker", package, **flaw)
    tee = await asyncio.to_thread(open_tee, MachineConfig.from_json(made["machine"]))
    shown = await tee.quote(binding().report_data())
    rules = devnet(Roots.from_json(devnet_roots(service)))
    failed = [c.code for c in examine(shown, policy=rules, now=int(time.time()), binding=binding()).checks if not c.ok]
    assert failed == [code]


async def test_an_enclave_that_is_launched_again_gets_the_new_keys(service: Path, package: Path) -> None:
    control = TeeControl(service)
    keys = []
    for _ in range(2):
        made = await control.create_machine("again", "sgx", "worker", package)
        tee = await asyncio.to_thread(open_tee, MachineConfig.from_json(made["machine"]))
        keys.append(await tee.sealing_key(b"x"))
        (package / "more.py").write_text("")
    assert keys[0] != keys[1]


async def test_a_tpm_machine_without_swtpm_is_refused_by_name_and_the_others_go_on(
    service: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloister.devnet.tee.tpm.shutil.which", lambda name: None)
    control = TeeControl(service)
    with pytest.raises(CloisterError) as caught:
        await control.create_machine("t", "tpm", "worker", package)
    assert (caught.value.code, caught.value.found) == ("devnet.swtpm", "no tpm2_quote")
    assert "apt-get install -y swtpm tpm2-tools" in caught.value.remedy
    assert await control.command("list") == {}
    assert (await control.create_machine("s", "snp", "worker", package))["kind"] == "snp"


async def test_a_long_name_of_a_socket_is_refused_before_anything_runs(service: Path, package: Path) -> None:
    deep = Service(Path("/tmp") / ("x" * 70), "socket", factory())
    with pytest.raises(CloisterError) as caught:
        await deep._create("y" * 20, "tpm", "worker", str(package))
    assert caught.value.code == "devnet.path"


@pytest.mark.parametrize("kind", ALL)
async def test_a_measurement_is_told_without_a_launch(kind: str, service: Path) -> None:
    control = TeeControl(service)
    code = measure(Path(cloister.__file__).parent, "worker")
    assert await control.measure(kind, "worker") == "0x" + launched(kind, "worker", code).hex()
    assert await control.command("list") == {}


async def test_the_own_package_is_the_default(service: Path) -> None:
    made = await TeeControl(service).create_machine("own", "nitro", "worker")
    assert len(made["measurement"]) == 98


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown command": ({"command": "reboot"}, "devnet.command"),
    "no command": ({}, "devnet.command"),
    "a command with too many fields": ({"command": "ping", "more": 1}, "devnet.command"),
    "a machine without a role": ({"command": "create_machine", "name": "a", "kind": "tdx"}, "devnet.command"),
    "a measurement chosen by the caller": (
        {"command": "create_machine", "name": "a", "kind": "tdx", "role": "worker", "measurement": "0x00"},
        "devnet.command",
    ),
    "a name that is no text": (
        {"command": "create_machine", "name": 7, "kind": "tdx", "role": "worker"},
        "devnet.command",
    ),
    "a name that climbs": (
        {"command": "create_machine", "name": "../a", "kind": "tdx", "role": "worker"},
        "devnet.machine",
    ),
    "an unknown kind": ({"command": "create_machine", "name": "a", "kind": "sev", "role": "worker"}, "devnet.machine"),
    "a flaw of another kind": (
        {"command": "create_machine", "name": "a", "kind": "tdx", "role": "worker", "defect": "debug"},
        "devnet.machine",
    ),
    "a measurement of an unknown kind": ({"command": "measure", "kind": "sev", "role": "worker"}, "devnet.machine"),
    "a measurement for an unknown role": ({"command": "measure", "kind": "tdx", "role": "owner"}, "devnet.machine"),
    "a measurement of a package": (
        {"command": "measure", "kind": "tdx", "role": "worker", "package": "/"},
        "devnet.command",
    ),
    "no package": (
        {"command": "create_machine", "name": "a", "kind": "tdx", "role": "worker", "package": "/"},
        "devnet.package",
    ),
}


@pytest.mark.parametrize("sentence", REFUSED)
async def test_commands_that_are_refused(sentence: str, service: Path) -> None:
    fields, code = REFUSED[sentence]
    with pytest.raises(CloisterError) as caught:
        await TeeControl(service).command(
            fields.get("command", ""), **{k: v for k, v in fields.items() if k != "command"}
        )
    assert caught.value.code == code


async def test_lines_that_are_no_commands(service: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(str(service / "control.sock"))
    for line in (b"{", b"[]", b"7", b'"x"', b"\xff", b"[" * 60000):
        writer.write(line + b"\n")
        assert "error" in json.loads(await reader.readline())
    writer.write(b'{"command": "ping"}\n')
    assert json.loads(await reader.readline())["result"]["pid"] == os.getpid()
    writer.write(b"x" * 70000 + b"\n")
    assert await reader.read() == b""
    writer.close()


async def test_a_machines_sockets_refuse_what_they_do_not_know(service: Path, package: Path) -> None:
    control = TeeControl(service)
    made = await control.create_machine("sock", "tdx", "worker", package)
    seal = Path(made["sealing_socket"])
    for request in (
        {},
        {"op": "sealing_key"},
        {"op": "other", "context": "0x"},
        {"op": "sealing_key", "context": "zz"},
    ):
        with pytest.raises(EvidenceError):
            await asyncio.to_thread(call, seal, request)
    for raw in (b"", b"[]", b"\xff", b"7", b"[" * 60000):
        assert "error" in json.loads(await asyncio.to_thread(exchange, seal, raw))
    if "tsm_socket" not in made:
        return
    path = Path(made["tsm_socket"])
    strange: tuple[dict[str, object], ...] = (
        {},
        {"op": "mkdir"},
        {"op": "format", "name": "x"},
        {"op": "mkdir", "name": 7},
        {"op": "rmdir", "name": "x"},
    )
    for odd in strange:
        with pytest.raises(EvidenceError):
            await asyncio.to_thread(call, path, odd)
    report = await asyncio.to_thread(read_report, TsmSocket(path), bytes(64))
    assert report.provider == "tdx_guest"


async def test_files_are_private(service: Path) -> None:
    assert stat.S_IMODE(service.stat().st_mode) == 0o700
    assert stat.S_IMODE((service / "control.sock").stat().st_mode) == 0o600
    assert stat.S_IMODE((service / "roots.json").stat().st_mode) == 0o600


async def test_a_work_folder_with_a_long_path_is_refused(tmp_path: Path) -> None:
    running = Service(tmp_path / ("x" * 100), "socket", factory())
    with pytest.raises(ConfigError) as caught:
        await running.start()
    assert caught.value.code == "devnet.path"
    await running.stop()


async def test_no_service_is_a_named_refusal(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        await TeeControl(tmp_path).ready(timeout=0.1)
    assert caught.value.code == "devnet.tee"
    with pytest.raises(ConfigError):
        devnet_roots(tmp_path)


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    """A work folder that already holds keys, tidied at the end."""
    folder = tmp_path / "w"
    folder.mkdir()
    (folder / "vendors").symlink_to(factory()._store._folder)
    yield folder
    cleanup(folder)


@pytest.fixture
def spawn(work: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts the process on the work folder; whatever still runs at the end is killed by its pid."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "cloister.devnet.tee", "--work", str(work)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        assert started[-1].stdout is not None
        assert json.loads(started[-1].stdout.readline()) == {"ready": True, "service": "tee"}
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait(20)


def test_a_killed_process_takes_its_tpms_along(work: Path, spawn: Callable[[], subprocess.Popen[bytes]]) -> None:
    need_swtpm()
    process = spawn()
    asyncio.run(TeeControl(work).create_machine("t", "tpm", "worker"))
    children = [int(pid) for pid in _children(process.pid)]
    assert [Path(f"/proc/{pid}/comm").read_text().strip() for pid in children] == ["swtpm"]
    process.kill()
    process.wait(20)
    for _ in range(500):
        if not any(_lives(pid) for pid in children):
            break
        time.sleep(0.01)
    assert not any(_lives(pid) for pid in children)
    assert (work / "run" / "t-tpm.sock").exists()
    cleanup(work)
    assert not list((work / "run").glob("*.sock*"))


def _children(pid: int) -> list[str]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += (task / "children").read_text().split()
    return found


def _lives(pid: int) -> bool:
    """Whether it runs: a zombie that its new parent has not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_ends_clean_on_a_signal(
    number: signal.Signals, work: Path, spawn: Callable[[], subprocess.Popen[bytes]]
) -> None:
    process = spawn()
    process.send_signal(number)
    assert process.wait(20) == 0
    assert not is_mounted(work / "tsm")
    assert not (work / "control.sock").exists()


def test_a_killed_process_is_tidied_and_its_roots_return(
    work: Path, spawn: Callable[[], subprocess.Popen[bytes]]
) -> None:
    process = spawn()
    roots = devnet_roots(work)
    process.kill()
    process.wait(20)
    assert (work / "control.sock").exists()
    again = spawn()
    assert asyncio.run(TeeControl(work).ready())["pid"] == again.pid
    assert devnet_roots(work) == roots
    again.kill()
    again.wait(20)
    cleanup(work)
    assert not is_mounted(work / "tsm")
    assert not (work / "control.sock").exists()


def test_a_folder_that_cannot_be_used_ends_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    command = [sys.executable, "-m", "cloister.devnet.tee", "--work", str(tmp_path / "file")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("devnet tee: ")
    assert "Traceback" not in ended.stderr

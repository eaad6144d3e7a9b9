"""What up, down, status, doctor and logs do: over a stand-in for the network, with real processes to stop."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cloister.core.errors import CloisterError
from cloister.devnet import commands, live
from cloister.devnet import doctor as machine_doctor
from cloister.devnet.commands import BAD_MAP, NO_LOG, NOT_RUNNING, RUNNING, down, logs, parse_map_host, status, up

SLEEPER = "import time; time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


@pytest.fixture
def process() -> Iterator[Callable[[str], int]]:
    """Starts a Python line; returns its pid. A thread reaps it, as init would reap a network that ends."""
    import threading

    started: list[subprocess.Popen[bytes]] = []

    def start(line: str) -> int:
        child = subprocess.Popen([sys.executable, "-c", line], stdout=subprocess.PIPE)
        started.append(child)
        if "print" in line:
            assert child.stdout is not None
            child.stdout.readline()
        threading.Thread(target=child.wait, daemon=True).start()
        return child.pid

    yield start
    for child in started:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        child.wait()


def write(home: Path, pid: int, **more: Any) -> None:
    facts = {"gateway": "http://127.0.0.1:1", "fingerprint": "ab", "pid": pid, "processes": {}, **more}
    (home / "devnet.json").write_text(json.dumps(facts))


async def code_of(work: Any) -> str:
    with pytest.raises(CloisterError) as caught:
        await work
    return caught.value.code


# --- host maps ---


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("a.example=127.0.0.1:1", ("a.example", ("127.0.0.1", 1))),
        ("a=[::1]:65535", ("a", ("[::1]", 65535))),
        ("a=b=c:7", ("a", ("b=c", 7))),
    ],
)
def test_maps_as_people_write_them(text: str, parsed: tuple[str, tuple[str, int]]) -> None:
    assert parse_map_host([text]) == dict([parsed])


BAD_MAPS = ["", "a", "a=", "=1.1.1.1:1", "a=1.1.1.1", "a=:1", "a=1.1.1.1:", "a=1.1.1.1:0", "a=1.1.1.1:65536", "a=b:-1"]


@pytest.mark.parametrize("text", [*BAD_MAPS, "a=1.1.1.1:²", "a=1.1.1.1:1x", "a=1.1.1.1: 1"])
def test_what_is_no_map_is_named(text: str) -> None:
    with pytest.raises(CloisterError) as caught:
        parse_map_host(["good=127.0.0.1:1", text])
    assert (caught.value.code, caught.value.found) == (BAD_MAP.code, text)


@given(st.lists(st.text(max_size=20), max_size=4))
def test_a_map_is_parsed_or_refused(texts: list[str]) -> None:
    try:
        found = parse_map_host(texts)
    except CloisterError as error:
        assert error.code == BAD_MAP.code  # noqa: PT017
        return
    assert len(found) <= len(texts)
    for host, (ip, port) in found.items():
        assert host
        assert ip
        assert 0 < port < 65536


def test_the_last_of_two_maps_of_one_host_counts() -> None:
    assert parse_map_host(["a=1.1.1.1:1", "a=2.2.2.2:2"]) == {"a": ("2.2.2.2", 2)}
    assert parse_map_host([]) == {}


# --- up ---


class FakeDevnet:
    """A devnet that starts at once, hangs, or fails; writes devnet.json as the real one does."""

    made: list[FakeDevnet]

    def __init__(self, options: Any, say: Callable[[str], None]) -> None:
        self.options, self.say, self.stops = options, say, 0
        self.made.append(self)

    async def start(self) -> None:
        self.say("starting")
        write(self.options.home, os.getpid())

    async def stop(self) -> None:
        self.stops += 1
        (self.options.home / "devnet.json").unlink(missing_ok=True)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeDevnet]:
    FakeDevnet.made = []
    monkeypatch.setattr(commands, "Devnet", FakeDevnet)
    return FakeDevnet


def signal_soon(number: int = signal.SIGTERM) -> None:
    asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_up_runs_until_a_signal_and_stops_once(number: int, tmp_path: Path, fake: type[FakeDevnet]) -> None:
    said: list[str] = []
    ready: list[Any] = []

    def on_ready(known: Any) -> None:
        ready.append(known)
        signal_soon(number)

    await up(tmp_path, workers=2, map_host=["a=127.0.0.1:1"], say=said.append, on_ready=on_ready)
    (made,) = fake.made
    assert (made.stops, said) == (1, ["starting"])
    assert (made.options.home, made.options.workers) == (tmp_path, 2)
    assert made.options.map_host == {"a": ("127.0.0.1", 1)}
    assert ready[0]["pid"] == os.getpid()


async def test_up_ends_the_live_view_with_the_network(tmp_path: Path, fake: type[FakeDevnet]) -> None:
    ended: list[str] = []

    async def view() -> None:
        signal_soon()
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("view")

    await up(tmp_path, say=lambda _: None, on_ready=lambda known: view())
    await asyncio.sleep(0)
    assert ended == ["view"]


async def test_a_signal_while_it_starts_stops_it_too(
    tmp_path: Path, fake: type[FakeDevnet], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(self: Any) -> None:
        signal_soon()
        await asyncio.sleep(60)

    monkeypatch.setattr(fake, "start", hang)
    await up(tmp_path, say=lambda _: None, on_ready=lambda known: pytest.fail("it was never ready"))
    assert fake.made[0].stops == 1


async def test_a_start_that_fails_is_told_and_stopped(
    tmp_path: Path, fake: type[FakeDevnet], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: Any) -> None:
        raise NO_LOG(expected="a", found="b")

    monkeypatch.setattr(fake, "start", fail)
    assert await code_of(up(tmp_path, say=lambda _: None, on_ready=lambda known: None)) == NO_LOG.code
    assert fake.made[0].stops == 1


async def test_a_home_with_a_running_network_is_refused(tmp_path: Path, fake: type[FakeDevnet]) -> None:
    write(tmp_path, os.getpid())
    assert await code_of(up(tmp_path, say=lambda _: None, on_ready=lambda known: None)) == RUNNING.code
    assert fake.made == []
    assert (tmp_path / "devnet.json").exists()


@pytest.mark.parametrize("pid", [0, -1, 1 << 22])
async def test_what_a_dead_network_left_behind_is_no_obstacle(pid: int, tmp_path: Path, fake: type[FakeDevnet]) -> None:
    write(tmp_path, pid)
    await up(tmp_path, say=lambda _: None, on_ready=lambda known: signal_soon())
    assert fake.made[0].stops == 1


async def test_a_bad_map_is_refused_before_anything_starts(tmp_path: Path, fake: type[FakeDevnet]) -> None:
    work = up(tmp_path, map_host=["nothing"], say=lambda _: None, on_ready=lambda known: None)
    assert await code_of(work) == BAD_MAP.code
    assert fake.made == []


# --- down, status ---


async def test_down_ends_the_process_and_waits_for_it(tmp_path: Path, process: Callable[[str], int]) -> None:
    pid = process(SLEEPER)
    write(tmp_path, pid)
    await down(tmp_path)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_down_kills_what_does_not_listen(
    tmp_path: Path, process: Callable[[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "STOP_WAIT_S", 0.2)
    pid = process(STUBBORN)
    write(tmp_path, pid)
    await down(tmp_path)
    for _ in range(100):
        if not commands._alive(pid):
            break
        await asyncio.sleep(0.02)
    assert not commands._alive(pid)


@pytest.mark.parametrize("known", [None, 0, -1, 1 << 22], ids=["no file", "no pid", "a group", "a dead one"])
@pytest.mark.parametrize("command", [down, status])
async def test_without_a_living_network_both_refuse(command: Any, known: int | None, tmp_path: Path) -> None:
    if known is not None:
        write(tmp_path, known)
    assert await code_of(command(tmp_path)) == NOT_RUNNING.code


async def test_status_says_who_lives_and_what_the_gateway_says(tmp_path: Path, process: Callable[[str], int]) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"checkpoint": 9, "path": request.path})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    alive = process(SLEEPER)
    write(tmp_path, os.getpid(), gateway=url, processes={"gk-1": alive, "gk-2": 1 << 22})
    facts = await status(tmp_path)
    await runner.cleanup()
    assert facts["processes"] == {"gk-1": True, "gk-2": False}
    assert facts["status"] == {"checkpoint": 9, "path": "/v1/status"}
    assert (facts["gateway"], facts["fingerprint"]) == (url, "ab")
    assert set((await status(tmp_path))["status"]) == {"unreachable"}


async def test_a_gateway_that_answers_nonsense_is_shown_as_unreachable(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=b"<html>")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found = await commands._ask(f"http://127.0.0.1:{runner.addresses[0][1]}")
    await runner.cleanup()
    assert found == {"unreachable": "JSONDecodeError"}


# --- the live table ---


def drawn(facts: dict[str, Any]) -> list[str]:
    console = Console(file=io.StringIO(), width=100)
    console.print(live.table(facts))
    text: Any = console.file
    return [line.rstrip() for line in text.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("served", "head"), [({"checkpoint": 12}, "12"), ({}, "?"), ({"unreachable": "x"}, "?"), (None, "?"), ([], "?")]
)
def test_the_live_table_shows_every_process_and_the_height(served: Any, head: str) -> None:
    facts = {"gateway": "http://g", "status": served, "processes": {"gk-1": True, "worker-3": False, "tee": True}}
    title, header, *rows = drawn(facts)
    assert title == f"http://g   checkpoint {head}"
    assert header.split() == ["process", "hardware", "state"]
    assert [row.split() for row in rows] == [["gk-1", "tdx", "runs"], ["worker-3", "nitro", "dead"], ["tee", "runs"]]


async def test_the_live_view_goes_on_over_a_turn_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[int] = []
    over = asyncio.Event()

    async def asked(home: Path) -> Any:
        turns.append(1)
        if len(turns) == 2:
            raise NOT_RUNNING(expected="a", found="b")
        if len(turns) == 4:
            over.set()
        return {"gateway": "g", "processes": {"gk-1": True}, "status": {"checkpoint": len(turns)}}

    monkeypatch.setattr(commands, "status", asked)
    monkeypatch.setattr(live, "EVERY_S", 0.001)
    view = asyncio.ensure_future(live.show(tmp_path, Console(file=io.StringIO(), force_terminal=True, width=80)))
    await asyncio.wait_for(over.wait(), 10)
    view.cancel()
    with pytest.raises(asyncio.CancelledError):
        await view


# --- logs ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "devnet" / "logs"
    made.mkdir(parents=True)
    (made / "gk-1.log").write_text("".join(f"line {i}\n" for i in range(300)))
    (made / "tee.log").write_bytes(b"hello \xff\n")
    (made / "notes.txt").write_text("no log")
    (tmp_path / "devnet" / "secret.log").write_text("outside")
    return made


async def test_logs_shows_the_last_lines_of_one_or_of_all(tmp_path: Path, folder: Path) -> None:
    out: list[str] = []
    await logs(tmp_path, "gk-1", False, out.append)
    assert (len(out), out[0], out[-1]) == (200, "gk-1: line 100", "gk-1: line 299")
    out.clear()
    await logs(tmp_path, None, False, out.append)
    assert (len(out), out[-1]) == (201, "tee: hello \ufffd")


@pytest.mark.parametrize("name", ["gk-9", "../secret", "", "notes.txt", "../../devnet/logs/gk-1", "/etc/passwd"])
async def test_a_log_that_is_not_there_is_named_and_no_path_leaves_the_folder(
    name: str, tmp_path: Path, folder: Path
) -> None:
    out: list[str] = []
    with pytest.raises(CloisterError) as caught:
        await logs(tmp_path, name, False, out.append)
    assert (caught.value.code, out) == (NO_LOG.code, [])


async def test_without_any_log_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(CloisterError) as caught:
        await logs(tmp_path, None, False, lambda _: None)
    assert caught.value.found == "none at all"


async def test_following_prints_what_is_added(tmp_path: Path, folder: Path) -> None:
    out: list[str] = []
    more = asyncio.Event()

    def take(line: str) -> None:
        out.append(line)
        if line == "tee: three":
            more.set()

    task = asyncio.ensure_future(logs(tmp_path, "tee", True, take))
    await asyncio.sleep(0)
    with (folder / "tee.log").open("a") as file:
        file.write("two\nthree\n")
    await asyncio.wait_for(more.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert out == ["tee: hello \ufffd", "tee: two", "tee: three"]


def test_a_log_that_shrank_is_followed_from_its_end(tmp_path: Path) -> None:
    """The file was emptied or replaced: nothing is printed twice, and what comes next is seen."""
    file, out = tmp_path / "x.log", []
    file.write_text("one\ntwo\n")
    assert commands._more(file, 100, out.append) == 8
    assert commands._more(file, 8, out.append) == 8
    assert out == []
    file.write_text("one\ntwo\nthree\n")
    assert commands._more(file, 8, out.append) == 14
    assert out == ["x: three"]


# --- doctor ---


def test_a_row_has_a_hint_only_if_it_is_bad() -> None:
    assert machine_doctor.check("a", True, "f", "h") == {"name": "a", "ok": True, "found": "f", "hint": ""}
    assert machine_doctor.check("a", False, "f", "h")["hint"] == "h"


BROKEN: dict[str, tuple[str, Any, str]] = {
    "disk": ("shutil.disk_usage", lambda path: type("U", (), {"free": machine_doctor.MIN_DISK - 1})(), "free 2 GiB"),
    "loopback ports": ("_can_bind", lambda: False, "allow binding"),
    "python": ("sys.version_info", (3, 10, 4), "python3.11"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_this_machine_lacks_is_a_bad_row_with_its_hint(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, value, hint = BROKEN[name]
    monkeypatch.setattr(f"cloister.devnet.doctor.{where}", value)
    rows = {row["name"]: row for row in machine_doctor.machine(tmp_path)}
    assert [n for n, row in rows.items() if not row["ok"]] == [name]
    assert hint in rows[name]["hint"]


def test_fuse_is_optional_and_said_either_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for there, word in ((True, "present"), (False, "unix socket")):
        monkeypatch.setattr(machine_doctor.os, "access", lambda path, mode, there=there: there)
        row = machine_doctor.machine(tmp_path)[3]
        assert (row["name"], row["ok"]) == ("fuse (optional)", True)
        assert word in row["found"]


def test_swtpm_is_optional_and_what_is_missing_has_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_doctor.shutil, "which", lambda name: None if name == "swtpm" else f"/usr/bin/{name}")
    row = machine_doctor.machine(tmp_path)[4]
    assert row == {
        "name": "swtpm (optional)",
        "ok": True,
        "found": "absent (swtpm): the devnet has no worker-4",
        "hint": "apt-get install -y swtpm tpm2-tools",
    }
    monkeypatch.setattr(machine_doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    row = machine_doctor.machine(tmp_path)[4]
    assert (row["ok"], row["found"], row["hint"]) == (True, "present", "")


async def test_doctor_has_rows_of_machine_and_sandbox_and_leaves_no_folder(tmp_path: Path) -> None:
    rows = await commands.doctor(tmp_path)
    names = [row["name"] for row in rows]
    assert names[:5] == ["python", "disk", "loopback ports", "fuse (optional)", "swtpm (optional)"]
    assert len(names) > 5
    assert len(names) == len(set(names))
    assert {frozenset(row) for row in rows} == {frozenset({"name", "ok", "found", "hint"})}
    assert all(row["ok"] or row["hint"] for row in rows)
    assert not list(tmp_path.iterdir())


async def test_a_machine_without_fuse_is_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend hardware has a socket then. The sandbox's own row must not say otherwise."""
    bad = {"name": "fuse", "ok": False, "found": "none", "hint": "modprobe fuse"}
    monkeypatch.setattr("cloister.sandbox.checks.check_machine", lambda work: [bad, {**bad, "name": "deno"}])
    rows = {row["name"]: row["ok"] for row in await commands.doctor(tmp_path)}
    assert "fuse" not in rows
    assert (rows["fuse (optional)"], rows["deno"]) == (True, False)

"""Several gateway processes on one port: any of them serves any session; one that is killed costs no unnamed end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cloister.client.gateway import Gateway, NotOpened
from cloister.core.errors import CloisterError
from cloister.gateway import __main__ as command_line
from cloister.gateway.config import GatewayConfig, check_config
from cloister.gateway.processes import Processes, merged
from cloister.wire.announce import Announcement, Kind
from cloister.wire.frames import FrameClient, Incoming
from support.doors import Door, door
from support.sealed import AGENT

BOOTS = (b"\1" * 32, b"\2" * 32)
NAMED = {"gateway.worker_gone", "gateway.no_worker", "client.unreachable", "client.broken_off", "gateway.overloaded"}


def settings(folder: Path, **changes: Any) -> Path:
    """A file of settings; nobody answers at its chain and gatekeepers."""
    fields: dict[str, Any] = {"workers": folder / "workers", "operate": "127.0.0.1:0", **changes}
    path = folder / "gateway.json"
    config = Door(folder).config("http://127.0.0.1:9", ["http://127.0.0.1:9"], **fields)
    path.write_text(json.dumps(asdict(config), default=str))
    return path


@contextlib.asynccontextmanager
async def running(config: Path, *words: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, Any]]]:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cloister.gateway", "--config", str(config), *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert child.stdout is not None
        line = await asyncio.wait_for(child.stdout.readline(), 40)
        yield child, json.loads(line) if line else {}
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
        await asyncio.wait_for(child.wait(), 30)


async def echo(incoming: Incoming) -> None:
    """A worker that answers a call with what it got."""
    if incoming.kind == Kind.CALL:
        await incoming.send(incoming.payload)
    else:
        await incoming.send(b'{"worker":"0x00","agents":1}')


@contextlib.asynccontextmanager
async def worker(folder: Path, boot: bytes, processes: int) -> AsyncIterator[None]:
    """One worker boot, connected to every process's socket."""
    said = Announcement(boot[:20], boot, ())
    clients = [FrameClient(folder / f"{n}.sock", handler=echo, announce=said.encode) for n in range(processes)]
    for one in clients:
        one.start()
    for one in clients:
        await one.connected(10)
    try:
        yield
    finally:
        for one in clients:
            await one.close()


async def called(gateway: Gateway, boot: bytes, body: bytes) -> str:
    """`answer`, or the name of what it ended with. Anything else fails the test."""
    try:
        async with gateway.call(AGENT, boot, body) as answer:
            if isinstance(answer, NotOpened):
                return answer.error.code
            got = b"".join([chunk async for chunk in answer])
    except CloisterError as error:
        return error.code
    assert got == AGENT + body
    return "answer"


class Aclosing(Gateway):
    """A gateway's client that ``aclosing`` ends."""

    async def aclose(self) -> None:
        """Close."""
        await self.close()


def samples(text: str, name: str) -> dict[str, float]:
    families = text_string_to_metric_families(text)
    return {s.labels["process"]: s.value for family in families for s in family.samples if s.name == name}


async def starts(http: aiohttp.ClientSession, operator: str) -> dict[str, float]:
    page = await (await http.get(f"{operator}/metrics")).text()
    return samples(page, "cloister_gateway_process_starts_total")


async def test_two_processes_serve_one_port_and_one_that_is_killed_comes_back(tmp_path: Path) -> None:
    async with running(settings(tmp_path), "--processes", "2") as (child, ready), contextlib.AsyncExitStack() as held:
        assert len(set(ready["processes"])) == 2
        operator = f"http://127.0.0.1:{ready['operate']}"
        http = await held.enter_async_context(aiohttp.ClientSession())
        assert (await http.get(f"{operator}/healthz")).status == 200
        assert (await http.get(f"{operator}/readyz")).status == 503  # no worker, no gatekeeper
        for boot in BOOTS:  # two worker processes behind one gateway: each is a boot
            await held.enter_async_context(worker(tmp_path / "workers", boot, 2))
        url = f"http://127.0.0.1:{ready['port']}"
        ends: Counter[str] = Counter()

        async def load(boot: bytes, rounds: int) -> None:
            for number in range(rounds):  # a connection each: the kernel spreads them
                async with contextlib.aclosing(Aclosing(url)) as gateway:
                    ends[await called(gateway, boot, b"%d" % number)] += 1

        await asyncio.gather(*(load(boot, 8) for boot in BOOTS for _ in range(3)))
        assert ends == {"answer": 48}
        page = await (await http.get(f"{operator}/metrics")).text()
        served = samples(page, "cloister_gateway_calls_total")
        assert sum(served.values()) == 48
        assert min(served.values()) > 0, "a session's calls are served by each"

        loading = [asyncio.ensure_future(load(boot, 25)) for boot in BOOTS for _ in range(3)]
        await asyncio.sleep(0.1)
        os.kill(ready["processes"][0], signal.SIGKILL)
        await asyncio.gather(*loading)
        assert ends.total() == 48 + 150
        assert set(ends) <= {"answer", *NAMED}
        async with asyncio.timeout(20):
            while await starts(http, operator) != {"0": 2.0, "1": 1.0}:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        child.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(child.wait(), 20) == 0
        assert list((tmp_path / "workers").iterdir()) == []
        with pytest.raises(ProcessLookupError):
            os.kill(ready["processes"][1], 0)


_WORKER = """
import asyncio, sys
from pathlib import Path
from cloister.wire.announce import Announcement
from cloister.wire.frames import FrameClient
async def slow(incoming):
    await asyncio.sleep(0.02)
    await incoming.send(incoming.payload)
async def main():
    boot = bytes([int(sys.argv[2])]) * 32
    client = FrameClient(Path(sys.argv[1]), handler=slow, announce=Announcement(boot[:20], boot, ()).encode)
    client.start()
    await client.connected(10)
    print("up", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_a_killed_worker_process_costs_its_own_calls_a_named_end_and_others_nothing(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        path = str(here.gateway.config.workers)
        children = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _WORKER, path, str(boot[0])),
                stdout=asyncio.subprocess.PIPE,
                env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.pathsep.join(sys.path)},
            )
            for boot in BOOTS
        ]
        try:
            for one in children:
                assert one.stdout is not None
                await asyncio.wait_for(one.stdout.readline(), 20)
            ends: dict[bytes, Counter[str]] = {boot: Counter() for boot in BOOTS}

            async def load(gateway: Gateway, boot: bytes) -> None:
                for number in range(20):
                    ends[boot][await called(gateway, boot, b"%d" % number)] += 1

            async with contextlib.aclosing(Aclosing(f"http://127.0.0.1:{here.gateway.http.port}")) as gateway:
                async with asyncio.timeout(10):
                    while await called(gateway, BOOTS[0], b"") != "answer":  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                loading = [asyncio.ensure_future(load(gateway, boot)) for boot in BOOTS for _ in range(4)]
                await asyncio.sleep(0.1)
                children[0].kill()
                await asyncio.gather(*loading)
            assert ends[BOOTS[0]].total() == ends[BOOTS[1]].total() == 80
            assert set(ends[BOOTS[0]]) <= {"answer", "gateway.worker_gone", "gateway.no_worker"}
            assert set(ends[BOOTS[1]]) == {"answer"}
            assert ends[BOOTS[0]]["gateway.no_worker"] > 0
        finally:
            for one in children:
                with contextlib.suppress(ProcessLookupError):
                    one.kill()
                await one.wait()


async def test_a_process_that_dies_at_once_is_started_again_with_growing_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    config = GatewayConfig(**{**json_config(tmp_path), "processes": 1})
    made = Processes(config, tmp_path / "no such file", monotonic=lambda: 0.0)
    real = asyncio.sleep

    async def noted(seconds: float) -> None:
        pauses.append(seconds)
        await real(0)

    async def dies(child: Any) -> None:
        if len(pauses) == 10:
            raise asyncio.CancelledError

    monkeypatch.setattr("cloister.gateway.processes.asyncio.sleep", noted)
    monkeypatch.setattr(made, "_run", dies)
    with pytest.raises(asyncio.CancelledError):
        await made._keep(made._children[0])
    assert pauses[:4] == [0.2, 0.4, 0.8, 1.6]
    assert pauses[-1] == 30.0


def json_config(folder: Path) -> dict[str, Any]:
    return {**asdict(Door(folder).config("http://127.0.0.1:9", ["http://127.0.0.1:9"])), "workers": folder / "w"}


async def test_a_taken_port_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = GatewayConfig(**{**json_config(tmp_path), "port": taken.getsockname()[1], "processes": 2})
        made = Processes(config, tmp_path / "gateway.json")
        with pytest.raises(CloisterError, match=r"gateway\.setting"):
            await made.start()
        assert made.pids == []
        await made.close()


@pytest.mark.parametrize("count", [0, -1, 65])
def test_how_many_processes_has_bounds(count: int, tmp_path: Path) -> None:
    with pytest.raises(CloisterError, match=r"gateway\.setting"):
        check_config(GatewayConfig(**{**json_config(tmp_path), "processes": count}))


@pytest.mark.parametrize("words", [["--processes", "3"], ["--processes=3"]])
def test_the_option_is_shown_by_the_check(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOISTER_GATEWAY_PROCESSES", "1")
    assert command_line.main(["--config", str(settings(tmp_path)), *words, "--check"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["processes"] == 3
    assert command_line.main(["--config", str(settings(tmp_path)), "--processes", "x", "--check"]) == 1


def test_pages_of_processes_become_one(tmp_path: Path) -> None:
    page = '# HELP a_total says\n# TYPE a_total counter\na_total 3.0\n# HELP b x\n# TYPE b gauge\nb{worker="0x"} 1\n'
    text = merged([("0", page), ("1", page), ("2", "not a page {{{")], {"0": 1, "1": 4}).decode()
    assert samples(text, "a_total") == {"0": 3.0, "1": 3.0}
    assert samples(text, "b") == {"0": 1.0, "1": 1.0}
    assert samples(text, "cloister_gateway_process_starts_total") == {"0": 1.0, "1": 4.0}
    assert text.count("# TYPE a_total counter") == 1

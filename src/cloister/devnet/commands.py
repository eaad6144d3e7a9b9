"""What ``cloister up | down | status | doctor | logs`` do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from cloister.core.errors import ConfigError, define
from cloister.devnet import doctor as machine_doctor
from cloister.devnet.layout import WORKERS, Layout
from cloister.devnet.network import Devnet, Options
from cloister.devnet.told import read_devnet_file

STOP_WAIT_S = 20.0
_TAIL = 200

RUNNING = define(
    "devnet.running",
    ConfigError,
    check="no other network runs in this home folder",
    remedy="stop it with `cloister down`, or choose another folder with --home",
)
NOT_RUNNING = define(
    "devnet.not_running",
    ConfigError,
    check="a network runs on this machine",
    remedy="start one with `cloister up`",
)
BAD_MAP = define(
    "devnet.map_host",
    ConfigError,
    check="--map-host is HOST=IP:PORT",
    remedy="for example --map-host api.openai.com=127.0.0.1:8443",
)
NO_LOG = define(
    "devnet.no_log",
    ConfigError,
    check="the named process has a log",
    remedy="names are gk-1 to gk-5, worker-1 to worker-4, gateway, tee, model",
)


def parse_map_host(texts: list[str]) -> dict[str, tuple[str, int]]:
    """``HOST=IP:PORT`` options. Raises ConfigError (devnet.map_host)."""
    hosts = {}
    for text in texts:
        host, equals, target = text.partition("=")
        ip, _, port = target.rpartition(":")
        if not (host and equals and ip and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise BAD_MAP(expected="HOST=IP:PORT", found=text[:80])
        hosts[host] = (ip, int(port))
    return hosts


async def up(
    home: Path,
    *,
    workers: int = len(WORKERS),
    map_host: list[str] | None = None,
    second_chain: bool = False,
    say: Callable[[str], None],
    on_ready: Callable[[Mapping[str, Any]], Any],
) -> None:
    """Start a network in ``home`` and run it in the foreground until SIGINT or SIGTERM.

    ``say`` hears each step; ``on_ready`` gets devnet.json and may return a coroutine function that shows a live view.
    Raises devnet.running when one runs there already.
    """
    known = read_devnet_file(home)
    if known is not None and _alive(int(known.get("pid", 0))):
        raise RUNNING(expected=f"no network in {home}", found=f"process {known['pid']}")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    options = Options(home, workers=workers, map_host=parse_map_host(map_host or []), second_chain=second_chain)
    devnet = Devnet(options, say)
    try:
        starting, stopping = asyncio.ensure_future(devnet.start()), asyncio.ensure_future(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            view = on_ready(read_devnet_file(home) or {})
            viewing = asyncio.ensure_future(view) if view is not None else None
            await stopping
            if viewing is not None:
                viewing.cancel()
        else:
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await starting
    finally:
        await devnet.stop()


async def down(home: Path) -> None:
    """Stop the network of ``home``; its data stays. Raises devnet.not_running."""
    known = read_devnet_file(home)
    pid = int(known.get("pid", 0)) if known else 0
    if not _alive(pid):
        raise NOT_RUNNING(expected=f"a network in {home}", found="none")
    os.kill(pid, signal.SIGTERM)
    for _ in range(int(STOP_WAIT_S * 10)):
        if not _alive(pid):
            return
        await asyncio.sleep(0.1)
    os.kill(pid, signal.SIGKILL)


async def status(home: Path) -> dict[str, Any]:
    """Facts of the network of ``home``: what runs, and what the gateway says. Raises devnet.not_running."""
    known = read_devnet_file(home)
    if known is None or not _alive(int(known.get("pid", 0))):
        raise NOT_RUNNING(expected=f"a network in {home}", found="none")
    processes = {name: _alive(pid) for name, pid in known["processes"].items()}
    return {
        "gateway": known["gateway"],
        "fingerprint": known["fingerprint"],
        "processes": processes,
        "status": await _ask(f"{known['gateway']}/v1/status"),
    }


async def doctor(home: Path) -> list[dict[str, Any]]:
    """Rows {name, ok, found, hint} about this machine."""
    from cloister.sandbox.checks import check_machine

    work = home / "doctor"
    rows = await asyncio.to_thread(machine_doctor.machine, work)
    own = {str(row["name"]).split(" ")[0] for row in rows}  # the devnet's word counts: FUSE is optional for it
    rows += [row for row in await asyncio.to_thread(check_machine, work) if row["name"] not in own]
    with contextlib.suppress(OSError):
        work.rmdir()
    return rows


async def logs(
    home: Path, name: str | None, follow: bool, out: Callable[[str], None] = print, *, tail: int | None = _TAIL
) -> None:
    """Print the last lines of one process's log, or of all; with ``follow`` go on until interrupted.

    ``tail``: how many lines of each, None for all."""
    folder = Layout(home / "devnet").logs
    files = sorted(folder.glob("*.log")) if name is None else [folder / f"{name}.log"]
    if not files or not all(file.is_file() and file.parent == folder for file in files):
        raise NO_LOG(expected="a log", found=name or "none at all")
    places = {}
    for file in files:
        text = file.read_text(errors="replace")
        for line in text.splitlines()[-(tail or 0) :]:
            out(f"{file.stem}: {line}")
        places[file] = file.stat().st_size
    while follow:
        await asyncio.sleep(0.3)
        for file, at in places.items():
            places[file] = _more(file, at, out)


def _more(file: Path, at: int, out: Callable[[str], None]) -> int:
    size = file.stat().st_size
    if size <= at:
        return size
    with file.open("rb") as stream:
        stream.seek(at)
        data = stream.read(1 << 20)
    for line in data.decode(errors="replace").splitlines():
        out(f"{file.stem}: {line}")
    return at + len(data)


async def _ask(url: str) -> Any:
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3)) as session,
            session.get(url) as answer,
        ):
            return json.loads(await answer.content.read(1 << 20))
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        return {"unreachable": type(error).__name__}


def _alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True

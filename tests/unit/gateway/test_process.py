"""The gateway as a process of its own: ready line, a sealed call, a clean end; and what it refuses to start with."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cloister.core.encoding.hexes import to_hex
from cloister.core.envelope.opener import Final
from cloister.core.errors import CloisterError
from cloister.gateway.config import GatewayConfig
from cloister.gateway.service import Gateway
from cloister.node.config import parse_config
from cloister.wire.announce import split_call
from cloister.wire.frames import Incoming
from support.doors import SERVED, Door, FakeWorker
from support.sealed import AGENT, World


def settings(folder: Path, **changes: Any) -> Path:
    """A configuration file. Nobody answers at its chain and gatekeeper addresses."""
    config = asdict(Door(folder).config("http://127.0.0.1:9", ["http://127.0.0.1:9"], **changes))
    path = folder / "gateway.json"
    path.write_text(json.dumps(config, default=str))
    return path


@contextlib.asynccontextmanager
async def process(config: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, Any]]]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "cloister.gateway",
        "--config",
        str(config),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert child.stdout is not None
        line = await asyncio.wait_for(child.stdout.readline(), 30)
        yield child, json.loads(line) if line else {}
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.communicate()


async def test_it_serves_a_call_and_ends_cleanly_with_a_call_in_progress(tmp_path: Path) -> None:
    world, asked, gate = World(), asyncio.Event(), asyncio.Event()

    async def serve(incoming: Incoming) -> None:
        from support.sealed import answer

        asked.set()
        await gate.wait()
        await incoming.send(answer(world.open(split_call(incoming.payload)[1])))

    async with process(settings(tmp_path)) as (child, ready):
        assert (ready["ready"], ready["service"], ready["pid"]) == (True, "gateway", child.pid)
        worker = FakeWorker(tmp_path / "w.sock", world, serve)
        worker.client.start()
        await worker.client.connected(10)
        base = f"http://127.0.0.1:{ready['port']}"
        async with aiohttp.ClientSession() as http:
            async with asyncio.timeout(10):
                while not (await (await http.get(f"{base}/v1/agents/{to_hex(AGENT)}/seats")).json())["seats"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            sealed = world.seal(b"hello")
            target = f"{base}/v1/call/{to_hex(AGENT)}?boot={to_hex(world.boot)}"
            calling = asyncio.ensure_future(http.post(target, data=sealed.data, headers={"content-type": SERVED}))
            await asyncio.wait_for(asked.wait(), 10)
            child.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.1)
            gate.set()
            reply = await calling
            assert isinstance(sealed.opener.feed(await reply.read())[-1], Final)
        assert await asyncio.wait_for(child.wait(), 20) == 0
        assert not (tmp_path / "w.sock").exists()
        await worker.client.close()


async def test_it_refuses_to_start_by_name_and_says_so_in_its_log(tmp_path: Path) -> None:
    async with process(settings(tmp_path, workers=tmp_path / "no/such/folder/w.sock")) as (child, ready):
        assert ready == {}
        assert child.stderr is not None
        log = await asyncio.wait_for(child.stderr.read(), 20)
        assert await asyncio.wait_for(child.wait(), 20) == 1
        assert json.loads(log.splitlines()[-1])["code"] == "gateway.setting"


@pytest.mark.parametrize("change", [{"extra": 1}, {"port": "80"}, {"gatekeepers": "x"}, {"max_call": 1.5}], ids=str)
def test_settings_of_another_shape_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    value = {**json.loads(settings(tmp_path).read_text()), **change}
    with pytest.raises(CloisterError, match=r"config\.bad"):
        parse_config(json.dumps(value).encode(), GatewayConfig)


async def test_a_missing_network_file_is_named(tmp_path: Path) -> None:
    config = Door(tmp_path).config("http://127.0.0.1:9", [])
    config.network.unlink()
    with pytest.raises(CloisterError, match=r"gateway\.setting"):
        await Gateway.open(config)


async def test_a_port_in_use_is_named_and_leaves_nothing_behind(tmp_path: Path) -> None:
    taken = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    gateway = await Gateway.open(Door(tmp_path).config("http://127.0.0.1:9", [], port=port))
    with pytest.raises(CloisterError, match=r"gateway\.setting"):
        await gateway.start()
    await gateway.close()
    assert not (tmp_path / "w.sock").exists()
    taken.close()


async def test_a_network_file_that_is_none_is_refused(tmp_path: Path) -> None:
    config = Door(tmp_path).config("http://127.0.0.1:9", [])
    config.network.write_bytes(b"{}")
    with pytest.raises(CloisterError, match="encoding"):
        await Gateway.open(config)


async def test_two_gateways_may_share_a_port(tmp_path: Path) -> None:
    gateways, port = [], 0
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        config = Door(folder).config("http://127.0.0.1:9", [], reuse_port=True, port=port)
        gateways.append(await Gateway.open(config))
        port = await gateways[-1].start()
    assert gateways[0].http.port == gateways[1].http.port
    for gateway in gateways:
        await gateway.close()


def test_settings_have_the_documented_defaults() -> None:
    text = json.dumps(
        {
            "host": "127.0.0.1",
            "port": 1,
            "network": "n",
            "rpc": "r",
            "gatekeepers": [],
            "workers": "w",
            "fabric": "f",
        }
    ).encode()
    config = parse_config(text, GatewayConfig)
    page = (Path(__file__).parents[3] / "docs/operate/gateway.md").read_text()
    for name in ("reuse_port", "max_call", "max_calls", "max_blob", "blob_hour", "connections", "answer_s", "drain_s"):
        assert f"| `{name}` |" in page
        assert f"| {str(getattr(config, name)).lower()} |" in page

"""The operator's door: what it counts, when the gateway is ready, and what it never says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import CloisterError
from cloister.gateway.config import GatewayConfig, check_config
from cloister.gateway.service import Gateway
from support.doors import Door, door
from support.sealed import AGENT


@asynccontextmanager
async def operated(folder: Path) -> AsyncIterator[tuple[Door, str]]:
    """A gateway with a worker, and the address of its operator's door."""
    async with door(folder, operate="127.0.0.1:0") as here:
        yield here, f"http://127.0.0.1:{here.gateway.operate.port}"


async def page(address: str, path: str, method: str = "GET") -> tuple[int, str, str]:
    async with aiohttp.ClientSession() as http, http.request(method, address + path) as reply:
        return reply.status, await reply.text(), reply.headers["content-type"]


async def numbers(address: str) -> dict[str, float]:
    """name{labels} -> value, read by Prometheus's own parser."""
    status, text, kind = await page(address, "/metrics")
    assert status == 200
    assert kind.startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{n}={v}" for n, v in sample.labels.items())
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


async def test_calls_workers_and_times_are_counted(tmp_path: Path) -> None:
    async with operated(tmp_path) as (here, address):
        before = await numbers(address)
        for _ in range(3):
            await here.call(here.world.seal().data)
        after = await numbers(address)
    assert before["cloister_gateway_calls_total"] == 0
    assert after["cloister_gateway_calls_total"] == 3
    assert after["cloister_gateway_call_seconds_count"] == 3
    assert after["cloister_gateway_in_flight"] == 0
    assert after["cloister_gateway_request_bytes_total"] > 0
    assert after["cloister_gateway_answer_bytes_total"] > 0
    assert after["cloister_gateway_connected_workers"] == 1
    assert after["cloister_gateway_connected_seats"] == 1


async def test_a_refused_call_is_counted_as_one(tmp_path: Path) -> None:
    async with operated(tmp_path) as (here, address):
        await here.call(here.world.seal().data, boot=b"\x07" * 32)
        assert (await numbers(address))["cloister_gateway_refused_total"] == 1


WORKER = "0x" + "ab" * 20
SAID: dict[str, tuple[Any, dict[str, float]]] = {
    "numbers and problems": (
        {"worker": WORKER, "agents": 4, "active": 1, "served": 9, "refused": 2, "problems": {"a": "x"}},
        {"agents": 4, "active": 1, "served_total": 9, "refused_total": 2, "unserved_agents": 1},
    ),
    "no name": ({"agents": 4}, {}),
    "no object": ([1, 2], {}),
    "text for numbers": ({"worker": WORKER, "agents": "4", "active": -1, "served": 1 << 60}, {}),
}


@pytest.mark.parametrize("case", SAID)
async def test_what_a_worker_says_counts_as_far_as_it_is_numbers(case: str, tmp_path: Path) -> None:
    said, expected = SAID[case]

    async def connected() -> list[Any]:
        return [said]

    async with operated(tmp_path) as (here, address):
        here.gateway.operate._connected = connected
        found = await numbers(address)
    prefix = "cloister_gateway_worker_"
    mine = {n: v for n, v in found.items() if n.startswith(prefix)}
    assert mine == {f"{prefix}{name}{{worker={WORKER}}}": value for name, value in expected.items()}


async def test_no_agent_is_named(tmp_path: Path) -> None:
    async with operated(tmp_path) as (here, address):
        await here.call(here.world.seal().data)
        text = (await page(address, "/metrics"))[1]
    assert to_hex(AGENT)[2:] not in text
    assert to_hex(AGENT)[2:18] not in text


async def test_it_is_alive_and_ready_while_a_worker_and_a_checkpoint_are_there(tmp_path: Path) -> None:
    async with operated(tmp_path) as (_, address):
        assert json.loads((await page(address, "/healthz"))[1]) == {"alive": True}
        status, text, _ = await page(address, "/readyz")
    assert (status, json.loads(text)["ready"]) == (200, True)


async def test_without_workers_it_is_alive_and_not_ready(tmp_path: Path) -> None:
    gateway = await Gateway.open(
        Door(tmp_path).config("http://127.0.0.1:9", ["http://127.0.0.1:9"], operate="127.0.0.1:0")
    )
    await gateway.start()
    address = f"http://127.0.0.1:{gateway.operate.port}"
    assert (await page(address, "/healthz"))[0] == 200
    status, text, _ = await page(address, "/readyz")
    await gateway.close()
    assert (status, json.loads(text)["error"]["code"]) == (503, "gateway.not_ready")


async def test_without_a_committee_it_is_not_ready(tmp_path: Path) -> None:
    async with operated(tmp_path) as (here, address):
        for keeper in here.keepers:
            keeper.broken = True
        status, text, _ = await page(address, "/readyz")
        assert (status, json.loads(text)["error"]["code"]) == (503, "gateway.not_ready")


async def test_while_it_leaves_it_is_not_ready(tmp_path: Path) -> None:
    async with operated(tmp_path) as (here, address):
        here.gateway.operate.leaving = True
        assert (await page(address, "/readyz"))[0] == 503


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("POST", "/metrics"), ("GET", "/v1/network")])
async def test_it_serves_nothing_else(method: str, path: str, tmp_path: Path) -> None:
    async with operated(tmp_path) as (_, address):
        status, text, _ = await page(address, path, method)
    assert (status, json.loads(text)["error"]["code"]) == (404, "gateway.no_page")


async def test_callers_do_not_reach_it_by_the_public_door(tmp_path: Path) -> None:
    async with operated(tmp_path) as (here, _), here.http.get("/metrics") as reply:
        assert reply.status == 404


BAD: dict[str, dict[str, Any]] = {
    "a port beyond the last": {"port": 65536},
    "no gatekeeper": {"gatekeepers": []},
    "a gatekeeper twice": {"gatekeepers": ["http://a", "http://a"]},
    "room for no call": {"max_calls": 0},
    "a door without a port": {"operate": "127.0.0.1"},
    "a door beyond the last port": {"operate": "127.0.0.1:99999"},
    "a socket in no folder": {"workers": Path("/nowhere/w.sock")},
    "a network file that is not there": {"network": Path("/nowhere/network.json")},
}


@pytest.mark.parametrize("case", BAD)
def test_settings_that_cannot_work_are_refused_before_anything_starts(case: str, tmp_path: Path) -> None:
    good = Door(tmp_path).config("http://127.0.0.1:9", ["http://127.0.0.1:9"])
    check_config(good)
    fields = {name: getattr(good, name) for name in GatewayConfig.__slots__}
    with pytest.raises(CloisterError, match=r"gateway\.setting"):
        check_config(GatewayConfig(**{**fields, **BAD[case]}))

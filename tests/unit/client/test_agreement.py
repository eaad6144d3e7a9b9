"""Several workers say the same, or the caller hears nothing."""

from __future__ import annotations

from typing import Any

import pytest

from cloister.client import Demand
from cloister.client.agree import choose
from cloister.client.sync import Client as BlockingClient
from cloister.core.encoding.signatures import address_of
from cloister.core.errors import CloisterError
from support.fake_gateway import FakeWorker


def says(text: bytes, status: int = 200) -> Any:
    return lambda request: (status, (), [text])


def third(net: Any, vendor: str) -> FakeWorker:
    """One more worker on the agent."""
    worker = FakeWorker(net.world, "three", vendor)
    net.gateway.workers.append(worker)
    net.world.mine()
    net.gateway.offer(net.agent)
    return worker


async def test_two_vendors_that_say_the_same_agree(net: Any) -> None:
    net.one.handler = net.two.handler = says(b"42")
    async with net.client() as client:
        made = await (await client.agent(1)).agreed("/price")
    assert (made.status, made.body) == (200, b"42")
    assert made.vendors == {"intel", "amd"}
    assert {reply.receipt.worker for reply in made.replies} == {address_of(net.one.key), address_of(net.two.key)}
    assert len({reply.request_id for reply in made.replies}) == 2
    assert (len(net.one.ran), len(net.two.ran)) == (1, 1)


LIES: dict[str, Any] = {"another body": says(b"43"), "another status": says(b"42", 201), "nothing": says(b"")}


@pytest.mark.parametrize("case", LIES)
async def test_a_worker_that_says_something_else_is_named(case: str, net: Any) -> None:
    net.one.handler, net.two.handler = says(b"42"), LIES[case]
    async with net.client() as client:
        with pytest.raises(CloisterError) as caught:
            await (await client.agent(1)).agreed("/price")
    assert caught.value.code == "client.disagree"
    for worker in (net.one, net.two):
        assert address_of(worker.key).hex()[:8] in caught.value.found
    assert "42" not in caught.value.found.split(), "an answer is not repeated in an error text"


async def test_three_workers_of_two_vendors_agree_without_all_of_them(net: Any) -> None:
    three = third(net, "intel")
    for worker in (net.one, net.two, three):
        worker.handler = says(b"42")
    async with net.client() as client:
        made = await (await client.agent(1)).agreed("/", workers=3, vendors=2)
    assert len(made.replies) == 3


async def test_one_that_does_not_answer_is_replaced(net: Any) -> None:
    three = third(net, "amd")
    for worker in (net.one, net.two, three):
        worker.handler = says(b"42")
    net.two.spoil = lambda data: data[:-1] + bytes([data[-1] ^ 1])
    async with net.client() as client:
        made = await (await client.agent(1)).agreed("/")
    assert {reply.receipt.worker for reply in made.replies} == {address_of(net.one.key), address_of(three.key)}


async def test_a_replacement_of_the_same_vendor_does_not_count_for_two(net: Any) -> None:
    three = third(net, "intel")
    for worker in (net.one, net.two, three):
        worker.handler = says(b"42")
    net.two.spoil = lambda data: data[:-1] + bytes([data[-1] ^ 1])
    async with net.client() as client:
        with pytest.raises(CloisterError):
            await (await client.agent(1)).agreed("/")


FEW: dict[str, tuple[dict[str, int], Demand]] = {
    "more workers than there are": ({"workers": 3}, Demand()),
    "more vendors than there are": ({"workers": 3, "vendors": 3}, Demand()),
    "a demand that leaves one vendor": ({}, Demand(vendor="intel")),
}


@pytest.mark.parametrize("case", FEW)
async def test_too_few_are_refused_before_anybody_is_asked(case: str, net: Any) -> None:
    options, demand = FEW[case]
    async with net.client() as client:
        with pytest.raises(CloisterError) as caught:
            await (await client.agent(1, demand=demand)).agreed("/", **options)
    assert caught.value.code == "client.too_few_to_agree"
    assert net.one.ran + net.two.ran == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_what_changes_something_is_not_asked_twice(method: str, net: Any) -> None:
    async with net.client() as client:
        with pytest.raises(ValueError, match="several times"):
            await (await client.agent(1)).agreed("/", method=method)
    assert net.one.ran + net.two.ran == []


@pytest.mark.parametrize("options", [{"workers": 1}, {"workers": 17}, {"vendors": 0}, {"workers": 2, "vendors": 3}])
async def test_numbers_that_mean_nothing_are_a_mistake(options: dict[str, int], net: Any) -> None:
    async with net.client() as client:
        with pytest.raises(ValueError, match="workers is"):
            await (await client.agent(1)).agreed("/", **options)


async def test_the_seats_of_one_worker_count_once(net: Any) -> None:
    async with net.client() as client:
        found = await client.resolver.resolve(net.agent)
        with pytest.raises(CloisterError, match=r"client\.too_few_to_agree"):
            choose([found.sittings[0]] * 4, 2, 1)
        mixed = choose([*found.sittings, *found.sittings], 2, 2)
    assert sorted(s.vendor for s in mixed) == ["amd", "intel"]


def test_it_is_there_without_an_event_loop(net: Any) -> None:
    net.one.handler = net.two.handler = says(b"42")
    fingerprint = net.world.network.fingerprint()
    with BlockingClient(net.gateway.url, home=net.home, clock=lambda: net.world.now, fingerprint=fingerprint) as client:
        assert client.agent(1).agreed("/").body == b"42"

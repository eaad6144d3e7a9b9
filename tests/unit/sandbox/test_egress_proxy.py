"""The way out: who may be reached, by which address, how much, and what a broken client gets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.errors import SandboxError
from cloister.core.policy.egress import parse_rules
from cloister.sandbox import egress
from cloister.sandbox.egress import EgressProxy, check_map, is_public
from cloister.sandbox.ports import Also

PUBLIC = ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]
HIDDEN = {
    "this machine": "127.0.0.1",
    "this machine, elsewhere": "127.9.9.9",
    "no address": "0.0.0.0",  # noqa: S104
    "a private network": "10.1.2.3",
    "another private network": "172.16.0.1",
    "a home network": "192.168.1.1",
    "a cloud's metadata service": "169.254.169.254",
    "a carrier's network": "100.64.0.1",
    "a benchmark network": "198.18.0.1",
    "a documentation network": "203.0.113.5",
    "multicast": "224.0.0.1",
    "broadcast": "255.255.255.255",
    "a reserved network": "240.0.0.1",
    "an anycast relay": "192.88.99.1",
    "IPv6 loopback": "::1",
    "IPv6 unspecified": "::",
    "IPv6 link-local": "fe80::1%eth0",
    "IPv6 unique local": "fd00::1",
    "the metadata service of a cloud over IPv6": "fd00:ec2::254",
    "IPv6 multicast": "ff02::1",
    "loopback inside IPv6": "::ffff:127.0.0.1",
    "a private network inside IPv6": "::ffff:10.0.0.1",
    "a private network behind NAT64": "64:ff9b::a00:1",
    "local NAT64": "64:ff9b:1::a00:1",
    "a private network inside 6to4": "2002:a00:1::1",
    "Teredo": "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "IPv6 documentation": "2001:db8::1",
}


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("sentence", HIDDEN)
def test_addresses_behind_the_wall_are_not(sentence: str) -> None:
    assert not is_public(HIDDEN[sentence])


@settings(deadline=None)
@given(st.ip_addresses(v=4))
def test_wrapping_an_address_in_ipv6_changes_nothing(address: object) -> None:
    assert is_public(f"::ffff:{address}") == is_public(str(address))


@pytest.mark.parametrize(
    "entry", [("a.example", ("b.example", 1)), ("A.example", ("1.1.1.1", 1)), ("a", ("1.1.1.1", 0))]
)
def test_a_host_map_names_addresses(entry: tuple[str, tuple[str, int]]) -> None:
    with pytest.raises(SandboxError) as caught:
        check_map(dict([entry]))
    assert caught.value.code == "sandbox.egress"


@dataclass
class World:
    """A proxy with a fake resolver, an upstream that answers in upper case, and what was noted."""

    proxy: EgressProxy
    port: int
    upstream: int
    notes: list[str]
    names: dict[str, Sequence[str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def say(self, data: bytes, *, eof: bool = False) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        if eof:
            writer.write_eof()
        try:
            return await asyncio.wait_for(reader.read(), 5)
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    async def status(self, target: str) -> str:
        answer = await self.say(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode(), eof=True)
        return answer.split(b" ", 2)[1].decode()


@asynccontextmanager
async def world(
    *patterns: str, idle_s: float = 30.0, hidden: bool = False, budget: int = 1 << 30, also: Also = lambda h, p: True
) -> AsyncIterator[World]:
    left = {True: budget, False: budget}

    def spend(count: int, outwards: bool) -> bool:
        left[outwards] -= count
        return left[outwards] > 0

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data.upper())
        writer.close()

    server = await asyncio.start_server(shout, "127.0.0.1", 0)
    upstream = server.sockets[0].getsockname()[1]
    listener = socket.create_server(("127.0.0.1", 0))
    notes: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        here.asked.append(host)
        if host not in here.names:
            raise OSError("no such name")
        return here.names[host]

    rules = parse_rules(patterns or ("api.example", "*.wild.example", "other.example:8443"))
    mapped = {} if hidden else {"api.example": ("127.0.0.1", upstream), "a.wild.example": ("127.0.0.1", upstream)}
    proxy = EgressProxy(rules, mapped, note=notes.append, resolve=resolve, idle_s=idle_s, spend=spend, also=also)
    here = World(proxy, listener.getsockname()[1], upstream, notes)
    await proxy.serve(listener)
    try:
        yield here
    finally:
        await proxy.close()
        server.close()


async def test_an_allowed_host_is_reached_and_its_bytes_are_counted() -> None:
    async with world() as here:
        answer = await here.say(b"CONNECT api.example:443 HTTP/1.1\r\n\r\nhello", eof=True)
        assert answer == b"HTTP/1.1 200 Connection established\r\n\r\nHELLO"
        assert (here.proxy.sent, here.proxy.received) == (5, 5)
        assert here.notes == []
        assert here.asked == []


STATUS: dict[str, tuple[str, str]] = {
    "a host of the list": ("api.example:443", "200"),
    "the same in capitals": ("API.Example:443", "200"),
    "the same with a final dot": ("api.example.:443", "200"),
    "a name below a wildcard": ("a.wild.example:443", "200"),
    "a wildcard's own name": ("wild.example:443", "403"),
    "a name that only ends like a wildcard": ("evilwild.example:443", "403"),
    "another host": ("evil.example:443", "403"),
    "another port of an allowed host": ("api.example:22", "403"),
    "the default port where another is named": ("other.example:443", "403"),
    "a named port, of a name that does not resolve": ("other.example:8443", "502"),
    "an address": ("127.0.0.1:443", "403"),
    "port zero": ("api.example:0", "403"),
}


@pytest.mark.parametrize("sentence", STATUS)
async def test_the_list_decides(sentence: str) -> None:
    target, expected = STATUS[sentence]
    async with world() as here:
        assert await here.status(target) == expected
        assert bool(here.notes) == (expected != "200")


BROKEN: dict[str, tuple[bytes, bytes]] = {
    "plain http": (b"GET http://api.example/ HTTP/1.1\r\nHost: api.example\r\n\r\n", b"HTTP/1.1 405"),
    "CONNECT without a port": (b"CONNECT api.example HTTP/1.1\r\n\r\n", b"HTTP/1.1 405"),
    "CONNECT to an IPv6 address": (b"CONNECT [::1]:443 HTTP/1.1\r\n\r\n", b"HTTP/1.1 405"),
    "CONNECT with a user": (b"CONNECT u@api.example:443 HTTP/1.1\r\n\r\n", b"HTTP/1.1 405"),
    "a header of 20 KiB": (b"CONNECT api.example:443 HTTP/1.1\r\nA: " + b"b" * 20000 + b"\r\n\r\n", b"HTTP/1.1 431"),
    "a head that never ends": (b"CONNECT api.example:443 HTTP/1.1\r\n", b""),
    "noise": (b"\x16\x03\x01\x02\x00\r\n\r\n", b"HTTP/1.1 405"),
    "nothing": (b"", b""),
}


@pytest.mark.parametrize("sentence", BROKEN)
async def test_a_broken_client_gets_a_status_or_a_closed_door(sentence: str) -> None:
    data, expected = BROKEN[sentence]
    async with world() as here:
        answer = await here.say(data, eof=True)
        assert answer.startswith(expected) if expected else answer == b""
        assert here.proxy.sent == 0


@given(st.binary(max_size=200))
def test_garbage_never_opens_a_tunnel(data: bytes) -> None:
    async def run() -> None:
        async with world() as here:
            answer = await here.say(data + b"\r\n\r\n", eof=True)
            assert not answer.startswith(b"HTTP/1.1 200")

    asyncio.run(run())


@pytest.mark.parametrize("addresses", [["10.0.0.1"], ["1.1.1.1", "127.0.0.1"], ["::1"], [], ["not an address"]])
async def test_a_name_with_one_hidden_address_is_refused(addresses: list[str]) -> None:
    async with world(hidden=True) as here:
        here.names["api.example"] = addresses
        assert await here.status("api.example:443") in ("403", "502")
        assert here.proxy.sent == 0


async def test_a_name_is_resolved_once_and_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[str] = []

    async def connect(host: str, port: int, **rest: object) -> None:
        reached.append(host)
        raise OSError("unreachable here")

    async with world(hidden=True) as here:
        real = asyncio.open_connection
        here.names["api.example"] = ["1.1.1.1", "8.8.8.8"]
        monkeypatch.setattr(asyncio, "open_connection", lambda h, p, **k: pick(real, connect, h)(h, p, **k))
        assert await here.status("api.example:443") == "502"
        here.names["api.example"] = ["127.0.0.1"]  # the name is rebound to the worker's machine
        assert await here.status("api.example:443") == "502"
        assert reached == ["1.1.1.1", "8.8.8.8"] * 2
        assert here.asked == ["api.example"]


def pick(real: Callable[..., object], fake: Callable[..., object], host: str) -> Callable[..., object]:
    return real if host == "127.0.0.1" else fake


async def test_an_idle_tunnel_is_cut() -> None:
    async with world(idle_s=0.05) as here:
        answer = await here.say(b"CONNECT api.example:443 HTTP/1.1\r\n\r\n")
        assert answer in (b"HTTP/1.1 200 Connection established\r\n\r\n", b"")


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "MAX_CONNECTIONS", 2)
    async with world() as here:
        held = [await asyncio.open_connection("127.0.0.1", here.port) for _ in range(2)]
        await asyncio.sleep(0.05)
        assert (await here.say(b"CONNECT api.example:443 HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 429")
        held += [await asyncio.open_connection("127.0.0.1", here.port) for _ in range(2)]
        await asyncio.sleep(0.05)
        assert await here.say(b"CONNECT api.example:443 HTTP/1.1\r\n\r\n") == b""
        for _, writer in held:
            writer.close()


async def test_closing_cuts_tunnels() -> None:
    async with world() as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        writer.write(b"CONNECT api.example:443 HTTP/1.1\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await here.proxy.close()
        assert await reader.read() == b""
        writer.close()


async def test_traffic_beyond_the_allowance_cuts_the_tunnel_and_refuses_the_next() -> None:
    async with world(budget=100) as here:
        answer = await here.say(b"CONNECT api.example:443 HTTP/1.1\r\n\r\n" + b"x" * 5000, eof=True)
        assert b"X" not in answer
        assert here.notes == ["egress cut: the agent's egress_bytes are used up"]
        assert await here.status("api.example:443") == "429"
        assert here.notes[-1] == "egress refused: the agent's egress_bytes are used up"


async def test_what_an_upstream_sends_is_bounded_too() -> None:
    async with world(budget=100) as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        writer.write(b"CONNECT api.example:443 HTTP/1.1\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        got = b""
        for _ in range(50):
            writer.write(b"ten bytes.")
            piece = await asyncio.wait_for(reader.read(100), 5)
            got += piece
            if not piece:
                break
        writer.close()
        assert len(got) <= 100
        assert here.proxy.received <= 110


async def test_a_list_on_chain_narrows_the_manifest_and_adds_nothing() -> None:
    asked: list[tuple[str, int]] = []

    def also(host: str, port: int) -> bool:
        asked.append((host, port))
        return host == "evil.example"

    async with world(also=also) as here:
        assert b" 403 " in await here.say(b"CONNECT api.example:443 HTTP/1.1\r\n\r\n")
        assert b" 403 " in await here.say(b"CONNECT evil.example:443 HTTP/1.1\r\n\r\n")
        assert asked == [("api.example", 443)], "a host that the manifest leaves out is not asked about"
        assert "list on chain" in here.notes[0]


async def test_a_list_that_changes_cuts_what_is_open() -> None:
    allowed = [True]
    async with world(also=lambda host, port: allowed[0]) as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        writer.write(b"CONNECT api.example:443 HTTP/1.1\r\n\r\nhello")
        await reader.readuntil(b"HELLO")
        allowed[0] = False
        writer.write(b"more")
        with contextlib.suppress(ConnectionError):
            assert await reader.read(100) == b""
        writer.close()
        assert any("cut" in note for note in here.notes)

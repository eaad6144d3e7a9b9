"""Sealed calls through gateway and worker, beside the same agent served by plain Deno.serve in the same run.

One load generator for all of them, rounds interleaved, medians. CPU is that of whole processes, from their clocks:
the worker's and the gateway's background work (chain watch, leases) is in it.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import uvloop

from bench.live import TEXT, Live, Loaded, Pool, direct, get, live, load, one_shot_pool, post, session_pool
from bench.load import Answer
from bench.measure import Row, at_least, at_most, cpu_us, fact, family_cpu_us, finish, median, percentile

WIDTH = 32
STREAMS = (1, 20)
Make = Callable[[Live, int, int], Awaitable[Pool]]


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to call: how requests are sealed, and its floors (share of direct, ms added at one client)."""

    name: str
    make: Make
    share: float
    added_ms: float


KINDS = (
    Kind("sealed session call", session_pool, 0.40, 0.25),
    Kind("one-shot sealed call", one_shot_pool, 0.15, 0.5),
)
PYTHON_RATE = {"sealed session call": 20_000.0}


@dataclass(slots=True)
class Clocks:
    """CPU clocks of the processes on the way, read before and after a load."""

    gateway: int
    worker: int
    plain: int
    marks: list[tuple[float, ...]] = field(default_factory=list)

    def __call__(self) -> None:
        one = (cpu_us(self.gateway), cpu_us(self.worker), family_cpu_us(self.worker), cpu_us(self.plain))
        self.marks.append(one)

    def per_request(self, count: int) -> tuple[float, ...]:
        """(gateway, worker, sandbox, plain Deno) microseconds per request since the two last marks."""
        before, after = self.marks[-2:]
        return tuple((b - a) / count for a, b in zip(before, after, strict=True))


@dataclass(slots=True)
class Samples:
    """What the rounds gave for one way to call (or for plain Deno)."""

    rates: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    cpu: list[tuple[float, ...]] = field(default_factory=list)
    load: list[float] = field(default_factory=list)

    def wide(self, loaded: Loaded, clocks: Clocks) -> None:
        """Note a round of many clients."""
        self.rates.append(loaded.rate)
        self.p99.append(percentile(loaded.times_ms(), 0.99))
        self.cpu.append(clocks.per_request(loaded.requests))
        self.load.append(loaded.cpu_us / loaded.requests)

    def part(self, index: int) -> float:
        """Median CPU microseconds of one process per request."""
        return median(one[index] for one in self.cpu)


async def rows(net: Live, *, rounds: int = 3, each: int = 100) -> list[Row]:
    """All rows about calls."""
    async with direct(net.folder) as (port, pid):
        clocks = Clocks(net.devnet.children["gateway"].process.pid, net.pid_of(await net.sitting()), pid)
        plain, sealed = Samples(), {kind.name: Samples() for kind in KINDS}
        for _ in range(rounds):
            await _round(net, port, clocks, plain, sealed, each)
        found = _rows(plain, sealed)
        return [*found, *await _streams(net, port, rounds)]


async def _round(net: Live, port: int, clocks: Clocks, plain: Samples, sealed: dict[str, Samples], each: int) -> None:
    request = [post("/ask", "application/json", TEXT)]
    plain.wide(await load(net.folder, port, [request] * WIDTH, repeat=4 * each, watch=clocks), clocks)
    alone = await load(net.folder, port, [request], repeat=4 * each)
    plain.alone.append(percentile(alone.times_ms(), 0.5))
    for kind in KINDS:
        pool = await kind.make(net, WIDTH, each)
        loaded = await load(net.folder, net.gateway_port, pool.lanes, watch=clocks)
        pool.verify(loaded.answers, receipts_every=16)
        sealed[kind.name].wide(loaded, clocks)
        pool = await kind.make(net, 1, 2 * each)
        loaded = await load(net.folder, net.gateway_port, pool.lanes)
        pool.verify(loaded.answers, receipts_every=16)
        sealed[kind.name].alone.append(percentile(loaded.times_ms(), 0.5))


def _rows(plain: Samples, sealed: dict[str, Samples]) -> list[Row]:
    found, limit = [], median(plain.rates)
    for kind in KINDS:
        one = sealed[kind.name]
        python = one.part(0) + one.part(1)
        found.append(at_least(f"{kind.name}, {WIDTH} clients", median(one.rates), "1/s", kind.share * limit, limit))
        per_core = 1e6 / python
        if kind.name in PYTHON_RATE:
            found.append(at_least("  per Python core-second", per_core, "1/s", PYTHON_RATE[kind.name]))
            found.append(at_most("  p99", median(one.p99), "ms", 1.7 * median(plain.p99), median(plain.p99)))
        else:
            found.append(fact("  per Python core-second", per_core, "1/s"))
        names = ("gateway CPU", "worker CPU", "sandbox CPU")
        base = plain.part(3)
        found += [fact(f"  {name}", one.part(index), "us/req", base) for index, name in enumerate(names)]
        found.append(fact("  load generator CPU", median(one.load), "us/req", median(plain.load)))
        added = median(one.alone) - median(plain.alone)
        found.append(at_most("  added p50, 1 client", added, "ms", kind.added_ms, median(plain.alone)))
    return found


# --- streams ---


async def _streams(net: Live, port: int, rounds: int) -> list[Row]:
    found = []
    for width, floor in zip(STREAMS, (0.6, 2.0), strict=True):
        ours, plain = [], []
        for _ in range(rounds):
            each = 20 if width == 1 else 3
            bare = await load(net.folder, port, [[get("/stream")]] * width, repeat=each)
            plain += [a.arrivals[0][0] / 1e6 for a in bare.answers]
            pool = await session_pool(net, width, each, method="GET", path="/stream", body=b"")
            loaded = await load(net.folder, net.gateway_port, pool.lanes)
            ours += [first_body_ms(a) for a in loaded.answers]
            pool.verify(loaded.answers)
        name = f"added first streamed byte p50, {width} stream" + ("s at once" if width > 1 else "")
        base = percentile(plain, 0.5)
        found.append(at_most(name, percentile(ours, 0.5) - base, "ms", floor, base))
    return found


def first_body_ms(answer: Answer) -> float:
    """When the first sealed body chunk was there whole: 32 random bytes, the head's chunk, then it."""
    end = 32
    for _ in range(2):
        end += 5 + int.from_bytes(answer.body[end : end + 4], "big")
    return next(took for took, size in answer.arrivals if size >= end) / 1e6


async def main(arguments: Sequence[str]) -> int:
    """The rows of this module alone: ``python -m bench.calls [rounds] [requests per client]``."""
    rounds, each = (*(int(a) for a in arguments), *(3, 100)[len(arguments) :])[:2]
    async with live() as net:
        return finish(await rows(net, rounds=rounds, each=each))


if __name__ == "__main__":
    sys.exit(uvloop.run(main(sys.argv[1:])))

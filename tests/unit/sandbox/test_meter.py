"""Purses and counters: what requests bring, what idling leaves, and that a purse is never worth more than it should."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.sandbox.meter import IDLE_BYTES, IDLE_CPU_RATE, IDLE_CPU_US, MAPPED_MB, Allowance, Meter
from cloister.sandbox.ports import Limits

STEPS = st.lists(st.tuples(st.sampled_from(["begin", "spend", "rest", "refill"]), st.integers(0, 5000)), max_size=60)


def test_a_request_brings_its_share_and_resting_keeps_little_of_it() -> None:
    purse = Allowance(1000, 100)
    assert purse.spend(100)
    assert not purse.spend(1)
    purse.begin()
    purse.begin()
    assert purse.spend(2000)
    purse.begin()
    purse.rest()
    assert purse.left == 100
    assert not purse.spend(101)


def test_a_limit_below_the_idle_share_bounds_that_too() -> None:
    assert Allowance(10, 100).left == 10
    assert Allowance(0, 100).left == 0
    assert not Allowance(0, 100).spend(1)


@given(STEPS)
def test_nobody_spends_more_than_requests_brought(steps: list[tuple[str, int]]) -> None:
    purse, brought, spent = Allowance(1000, 100), 100, 0
    for what, amount in steps:
        if what == "begin":
            purse.begin()
            brought += 1000
        elif what == "spend":
            spent += amount if purse.spend(amount) else 0
        elif what == "rest":
            purse.rest()
        else:
            before = purse.left
            purse.refill(amount)
            assert purse.left <= max(100, before)
            brought += amount
    assert spent <= brought


def test_cpu_time_is_charged_from_the_clock_of_the_process() -> None:
    meter = Meter(Limits(cpu_ms=10))
    meter.loaded(500_000)
    meter.begin(500_000, 1)
    assert meter.tick(515_000, 0.25, 1), "10 ms of the request and 10 ms at rest"
    assert not meter.tick(521_000, 0.25, 1)


def test_a_clock_that_goes_back_gives_nothing_back() -> None:
    meter = Meter(Limits(cpu_ms=1000))
    meter.loaded(1_000_000)
    meter.begin(1_000_000, 1)
    meter.charge(1_400_000)
    left = meter.cpu.left
    meter.charge(0)
    meter.charge(1_400_000)
    assert meter.cpu.left == left


def test_what_is_left_of_a_request_is_not_saved() -> None:
    meter = Meter(Limits())
    for _ in range(100):
        meter.begin(0, 1)
        meter.end(0, 1000, 0)
    assert (meter.cpu.left, meter.sent.left, meter.received.left) == (IDLE_CPU_US, IDLE_BYTES, IDLE_BYTES)
    assert (meter.requests, meter.busy_us, meter.peak_requests) == (100, 100_000, 1)


def test_work_between_requests_ends_the_purse_and_waiting_fills_it_slowly() -> None:
    meter = Meter(Limits())
    meter.begin(0, 1)
    meter.end(0, 1000, 0)
    assert meter.tick(IDLE_CPU_US, 1.0, 0)
    assert meter.cpu.left == IDLE_CPU_RATE
    assert not meter.tick(IDLE_CPU_US + 10 * IDLE_CPU_RATE, 1.0, 0)


def test_while_one_request_goes_on_the_purse_is_kept() -> None:
    meter = Meter(Limits(cpu_ms=5000))
    meter.begin(0, 1)
    meter.begin(0, 2)
    meter.end(0, 10, 1)
    assert meter.cpu.left == 11_000_000
    assert meter.peak_requests == 2


@pytest.mark.parametrize("memory", [32, 192, 16384])
def test_the_second_wall_of_memory_lies_above_the_first(memory: int) -> None:
    assert Meter(Limits(memory_mb=memory)).most_resident == (memory + MAPPED_MB) << 20

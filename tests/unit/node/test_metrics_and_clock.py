"""Counters and clocks."""

from __future__ import annotations

import time

import pytest

from cloister.node.clock import Clock, ManualClock, SystemClock
from cloister.node.metrics import CONTENT_TYPE, Metrics


def test_metrics_are_served_in_the_text_format_under_the_services_name() -> None:
    metrics = Metrics("worker")
    calls = metrics.counter("calls", "sealed calls", ["outcome"])
    calls.labels("ok").inc(3)
    metrics.gauge("agents", "agents that run").set(2)
    metrics.histogram("call_seconds", "time per call").observe(0.003)
    text = metrics.text().decode()
    assert 'cloister_worker_calls_total{outcome="ok"} 3.0' in text
    assert "cloister_worker_agents 2.0" in text
    assert 'cloister_worker_call_seconds_bucket{le="0.005"} 1.0' in text
    assert CONTENT_TYPE.startswith("text/plain")


def test_two_registries_do_not_disturb_each_other() -> None:
    for _ in range(2):
        Metrics("worker").counter("calls", "sealed calls").inc()
    one = Metrics("worker")
    one.counter("calls", "sealed calls")
    with pytest.raises(ValueError):
        one.counter("calls", "again")


def test_a_manual_clock_moves_when_told_to_and_never_back() -> None:
    clock: Clock = ManualClock(100.0)
    assert isinstance(clock, ManualClock)
    clock.advance(2.5)
    assert (clock.now(), clock.monotonic()) == (102.5, 2.5)
    with pytest.raises(ValueError):
        clock.advance(-1)
    assert clock.now() == 102.5


def test_the_system_clock_is_the_hosts() -> None:
    clock: Clock = SystemClock()
    before = time.time()
    assert before <= clock.now() <= time.time()
    assert clock.monotonic() <= clock.monotonic()

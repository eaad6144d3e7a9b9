"""What an agent may use and has used: allowances that requests bring, measured outside the process (spec/sandbox.md 7).

A process serves many requests, and nobody can tell from outside which of them a thread works for. So each request
brings its share of CPU time and traffic, requests under way spend from one purse, and what is left when the last of
them ends is not saved for later: an agent that nobody asks may do next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cloister.sandbox.ports import Limits

_MIB: Final = 1 << 20
IDLE_CPU_US, IDLE_BYTES = 1_000_000, 1 * _MIB
# What an agent that nobody asks gets back per second: timers and keep-alives, no work.
IDLE_CPU_RATE, IDLE_BYTES_RATE = 20_000, 16 << 10
# Resident memory beside ``memory_mb``: programs and libraries that are mapped, not allocated.
MAPPED_MB: Final = 160


class Allowance:
    """A purse. ``each``: what a request brings. ``idle``: the most that stays when no request is under way."""

    __slots__ = ("each", "idle", "left")

    def __init__(self, each: int, idle: int) -> None:
        self.each, self.idle = each, min(each, idle)
        self.left = self.idle

    def begin(self) -> None:
        """A request begins. Debts of the time before are forgiven: they were refused when they were made."""
        self.left = self.left + self.each if self.left > 0 else self.each

    def spend(self, amount: int) -> bool:
        """Take ``amount``; whether it was there."""
        self.left -= amount
        return self.left >= 0

    def rest(self) -> None:
        """No request is under way any more."""
        self.left = min(self.left, self.idle)

    def refill(self, amount: int) -> None:
        """Give back to an agent at rest, up to ``idle``."""
        self.left = min(self.left + amount, self.idle)


@dataclass(slots=True)
class Meter:
    """Purses and counters of one process. ``cpu`` in microseconds, traffic in bytes, ``busy_us``: sum over requests."""

    limits: Limits
    cpu: Allowance = field(init=False)
    sent: Allowance = field(init=False)
    received: Allowance = field(init=False)
    requests: int = 0
    peak_requests: int = 0
    busy_us: int = 0
    _cpu_us: int = 0

    def __post_init__(self) -> None:
        self.cpu = Allowance(self.limits.cpu_ms * 1000, IDLE_CPU_US)
        self.sent = Allowance(self.limits.egress_bytes, IDLE_BYTES)
        self.received = Allowance(self.limits.egress_bytes, IDLE_BYTES)

    def loaded(self, cpu_us: int) -> None:
        """The bundle is loaded; what that took is bounded by ``start_s``."""
        self._cpu_us = cpu_us

    def begin(self, cpu_us: int, under_way: int) -> None:
        """A request begins; ``under_way`` counts it too."""
        if cpu_us > self._cpu_us:
            self.charge(cpu_us)
        self.requests += 1
        if under_way > self.peak_requests:
            self.peak_requests = under_way
        self.cpu.begin()
        self.sent.begin()
        self.received.begin()

    def end(self, cpu_us: int, took_us: int, under_way: int) -> None:
        """A request ended after ``took_us``; ``under_way`` are left."""
        if cpu_us > self._cpu_us:
            self.charge(cpu_us)
        self.busy_us += took_us
        if not under_way:
            for purse in (self.cpu, self.sent, self.received):
                purse.rest()

    def charge(self, cpu_us: int) -> bool:
        """Take CPU time up to the reading ``cpu_us``; whether it was there."""
        spent, self._cpu_us = max(0, cpu_us - self._cpu_us), max(cpu_us, self._cpu_us)
        return self.cpu.spend(spent)

    def tick(self, cpu_us: int, passed_s: float, under_way: int) -> bool:
        """Time passes; whether CPU time is within the allowance."""
        fine = self.charge(cpu_us)
        if not under_way:
            self.cpu.refill(int(passed_s * IDLE_CPU_RATE))
            for purse in (self.sent, self.received):
                purse.refill(int(passed_s * IDLE_BYTES_RATE))
        return fine

    @property
    def most_resident(self) -> int:
        """Resident bytes beyond which the process is stopped, should RLIMIT_DATA not have stopped it."""
        return (self.limits.memory_mb + MAPPED_MB) * _MIB

"""Counters of one process in the Prometheus text format. Sizes and timings are public; nothing else goes in here."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """A registry of its own per process (tests make many): names get the prefix ``cloister_<service>_``."""

    def __init__(self, service: str) -> None:
        self._prefix = f"cloister_{service}_"
        self._registry = CollectorRegistry(auto_describe=True)

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        """A number that only grows. Label values must come from a small fixed set, never from a caller."""
        return Counter(self._prefix + name, text, labels, registry=self._registry)

    def gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        """A number that moves."""
        return Gauge(self._prefix + name, text, labels, registry=self._registry)

    def histogram(
        self, name: str, text: str, labels: Sequence[str] = (), buckets: Sequence[float] = SECONDS
    ) -> Histogram:
        """A distribution; ``buckets`` default to seconds from 0.5 ms to 10 s."""
        return Histogram(self._prefix + name, text, labels, registry=self._registry, buckets=buckets)

    def text(self) -> bytes:
        """The exposition, to serve as ``CONTENT_TYPE``."""
        return bytes(generate_latest(self._registry))

"""Counters of one process in the Prometheus text format. Sizes and timings are public; nothing else goes in here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

Reading = tuple[str, str, float, dict[str, str]]
"""Name, what it says, value, labels. A name that ends in ``_total`` only grows."""

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

    def readings(self, read: Callable[[], Iterable[Reading]]) -> None:
        """Numbers that somebody counts already: asked for whenever the text is made."""
        self._registry.register(_Readings(self._prefix, read))

    def text(self) -> bytes:
        """The exposition, to serve as ``CONTENT_TYPE``."""
        return bytes(generate_latest(self._registry))


class _Readings(Collector):
    def __init__(self, prefix: str, read: Callable[[], Iterable[Reading]]) -> None:
        self._prefix, self._read = prefix, read

    def collect(self) -> Iterable[Metric]:
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for name, text, value, labels in self._read():
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = families.setdefault(name, kind(self._prefix + name, text, labels=list(labels)))
            family.add_metric(list(labels.values()), value)
        return families.values()

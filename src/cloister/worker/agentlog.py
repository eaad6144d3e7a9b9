"""What agents log: capped per agent, without the secrets that they were given, and never to a host that may not see it.

An agent's text may hold its callers' data. On a devnet it goes to the worker's own log. Elsewhere the host reads that
log, so lines are counted and dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from cloister.node.logs import BLANK

BURST: Final = 64 << 10
PER_S: Final = 8 << 10
MIN_SECRET: Final = 4
# Versions of an agent that may run at once, or come to their end: in force, canary, what they replaced.
MAX_VERSIONS: Final = 4
_OVERHEAD: Final = 64

Sink = Callable[[str, str], None]


class AgentLog:
    """The log of one agent. ``sink(level, text)`` takes a line, None drops all; ``monotonic``: seconds.

    At most 64 KiB at once and 8 KiB per second; what is over it is counted in ``dropped``."""

    def __init__(self, sink: Sink | None, monotonic: Callable[[], float]) -> None:
        self._sink, self._monotonic = sink, monotonic
        self._hidden: dict[bytes, set[str]] = {}
        self._secrets: tuple[str, ...] = ()
        self._left, self._at = float(BURST), monotonic()
        self._full = False
        self.lines = 0
        self.dropped = 0

    def hide(self, secrets: Iterable[str], version: bytes = b"") -> None:
        """Blank these values (of at least 4 characters) from now on, beside those of the other newest versions."""
        self._hidden.pop(version, None)
        self._hidden[version] = {s for s in secrets if len(s) >= MIN_SECRET}
        while len(self._hidden) > MAX_VERSIONS:
            del self._hidden[next(iter(self._hidden))]
        self._secrets = tuple(sorted(set().union(*self._hidden.values()), key=len, reverse=True))

    def line(self, level: str, text: str) -> None:
        """Take one line."""
        self.lines += 1
        if self._sink is None:
            self.dropped += 1
            return
        if not self._room(len(text) + _OVERHEAD):
            self.dropped += 1
            if not self._full:
                self._sink("warn", "too much at once: lines are dropped")
            self._full = True
            return
        self._full = False
        for secret in self._secrets:
            text = text.replace(secret, BLANK)
        self._sink(level, text)

    def _room(self, size: int) -> bool:
        now = self._monotonic()
        self._left = min(float(BURST), self._left + (now - self._at) * PER_S)
        self._at = now
        if size > self._left:
            return False
        self._left -= size
        return True

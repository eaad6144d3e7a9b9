"""What a worker remembers so that nothing runs twice: a window per session, and contexts that are gone."""

from __future__ import annotations

from typing import Final

from cloister.core.errors import EnvelopeError, define

WINDOW: Final = 1024
_BUCKET_MS: Final = 8192

REPLAY = define(
    "envelope.replay",
    EnvelopeError,
    check="a request is opened once: its number was not seen before and is within the window of 1024",
    remedy="seal the request again under the next number; keep its request id",
    status=409,
)
OVERLOADED = define(
    "envelope.overloaded",
    EnvelopeError,
    check="the worker can remember one more context",
    remedy="repeat in some seconds, or use sessions instead of one-shot requests",
    status=503,
)


class ReplayWindow:
    """A bitmap of the newest 1024 sequence numbers. ``check`` before opening, ``mark`` after it opened."""

    __slots__ = ("_seen", "_top")

    def __init__(self) -> None:
        self._top = -1
        self._seen = 0

    def check(self, seq: int) -> None:
        """Raise EnvelopeError (envelope.replay) if ``seq`` was marked or lies below the window."""
        behind = self._top - seq
        if behind < 0:
            return
        if behind >= WINDOW or self._seen >> behind & 1:
            raise REPLAY(expected="a number not seen, within 1024 of the newest", found=f"{seq} after {self._top}")

    def mark(self, seq: int) -> None:
        """Record ``seq`` as seen."""
        ahead = seq - self._top
        if ahead > 0:
            self._seen = ((self._seen << ahead) if ahead < WINDOW else 0) & _MASK | 1
            self._top = seq
        else:
            self._seen |= 1 << -ahead


_MASK: Final = (1 << WINDOW) - 1


class Retired:
    """Contexts that are gone but could still be replayed: remembered until their last deadline has passed.

    Filed by deadline in buckets of some seconds, so that forgetting costs nothing per request.
    """

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._until: dict[bytes, tuple[int, bool]] = {}
        self._buckets: dict[int, list[bytes]] = {}
        self._oldest = 0

    def __len__(self) -> int:
        return len(self._until)

    def get(self, name: bytes) -> bool | None:
        """None if unknown; True for a one-shot that was served, False for a session that was dropped."""
        found = self._until.get(name)
        return None if found is None else found[1]

    def need_room(self, count: int = 1) -> None:
        """Raise EnvelopeError (envelope.overloaded) unless ``count`` more fit."""
        if len(self._until) + count > self._cap:
            raise OVERLOADED(expected=f"at most {self._cap} remembered contexts", found="no room")

    def add(self, name: bytes, until_ms: int, *, one_shot: bool) -> None:
        """Remember ``name`` until ``until_ms``; the later time counts if it is remembered already."""
        bucket = until_ms // _BUCKET_MS
        if name in self._until and self._until[name][0] >= bucket:
            return
        self._until[name] = (bucket, one_shot)
        self._buckets.setdefault(bucket, []).append(name)

    def forget(self, now_ms: int) -> None:
        """Drop what no deadline protects any more."""
        current = now_ms // _BUCKET_MS
        if current <= self._oldest:
            return
        self._oldest = current
        for bucket in [b for b in self._buckets if b < current]:
            for name in self._buckets.pop(bucket):
                if name in self._until and self._until[name][0] == bucket:
                    del self._until[name]

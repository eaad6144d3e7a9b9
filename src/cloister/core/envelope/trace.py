"""A request's place in a trace: W3C Trace Context, inside the envelope and outside of it (spec/tracing.md 1-3)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cloister.core.encoding.contexts import Context, digest

HEADER: Final = "traceparent"
_MAX: Final = 256
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A place in a trace: ids of 16 and 8 bytes, and whether whoever came before records it."""

    trace: bytes
    span: bytes
    sampled: bool

    @property
    def header(self) -> str:
        """The value of ``traceparent`` that names this place, version 00."""
        return f"00-{self.trace.hex()}-{self.span.hex()}-{int(self.sampled):02x}"

    @classmethod
    def parse(cls, text: str | None) -> TraceContext | None:
        """From a ``traceparent`` header; None for none, and for one that is not well formed (W3C 3.2: begin anew)."""
        match = _PARENT.fullmatch(text) if text is not None and len(text) <= _MAX else None
        if match is None or match[1] == "ff" or (match[1] == "00" and match[5]):
            return None
        trace, span = bytes.fromhex(match[2]), bytes.fromhex(match[3])
        if not any(trace) or not any(span):
            return None
        return cls(trace, span, bool(int(match[4], 16) & 1))


def outer(inner: TraceContext) -> TraceContext:
    """The place that a caller shows to the gateway: linked to the sealed one for whoever has that, for nobody else."""
    made = digest(Context.TRACE, inner.trace, inner.span)
    return TraceContext(made[:16], made[16:24], inner.sampled)

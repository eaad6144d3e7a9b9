"""Which hosts an agent may reach: patterns of its manifest (spec/sandbox.md 6).

Pure text: resolving names and refusing private addresses is the proxy's work (cloister.sandbox.egress).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cloister.core.errors import SandboxError, define

MAX_PATTERNS: Final = 64
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = rf"{_LABEL}(?:\.{_LABEL})*"
HOST: Final = re.compile(_NAME)
_PATTERN = re.compile(rf"(\*\.)?({_NAME})(?::([1-9][0-9]{{0,4}}))?")

EGRESS = define(
    "sandbox.egress",
    SandboxError,
    check="an egress pattern is host, *.domain, or either with :port",
    remedy='write hosts as "api.example.org" or "*.example.org:8443" in the manifest',
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One egress pattern. ``wild``: every name below ``host``, not ``host`` itself."""

    host: str
    port: int
    wild: bool

    def allows(self, host: str, port: int) -> bool:
        """Whether a lower-case host name and a port fit."""
        named = host.endswith("." + self.host) if self.wild else host == self.host
        return named and port == self.port

    def __str__(self) -> str:
        return f"{'*.' if self.wild else ''}{self.host}:{self.port}"


def parse_rule(pattern: object) -> Rule:
    """A pattern of the manifest. Raises SandboxError (sandbox.egress)."""
    found = _PATTERN.fullmatch(pattern) if isinstance(pattern, str) and len(pattern) <= 260 else None
    if found is None or int(found[3] or 443) > 65535 or (found[1] and "." not in found[2]):
        raise EGRESS(expected='"host", "*.domain.tld" or either with ":port", lower case', found="another text")
    return Rule(found[2], int(found[3] or 443), bool(found[1]))


def parse_rules(patterns: Sequence[object]) -> tuple[Rule, ...]:
    """At most 64 patterns. Raises SandboxError (sandbox.egress)."""
    if len(patterns) > MAX_PATTERNS:
        raise EGRESS(expected=f"at most {MAX_PATTERNS} patterns", found=f"{len(patterns)}")
    return tuple(parse_rule(pattern) for pattern in patterns)

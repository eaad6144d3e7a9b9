"""The one error family.

::

    CloisterError                    everything this project refuses, with a stable code
    ├── EncodingError                bytes that are not what the format says
    ├── AttestationError             evidence that does not prove what it must
    ├── ThresholdError               shares, dealings and partials that do not fit together
    ├── SealError                    sealing, wallets, key identities
    ├── ChainViewError               proofs, checkpoints, staleness
    ├── PolicyError                  may_*: a finalised rule says no
    ├── EnvelopeError                sealed HTTP
    ├── ReceiptError                 receipts and their log
    ├── StateError                   agent state: heads, conflicts, rollback
    ├── FabricError                  queues, blobs, ciphertext state on disk
    ├── SandboxError                 agent code and its limits
    ├── EvidenceError                this machine could not produce evidence
    ├── ChainError                   a chain endpoint failed or lied
    ├── TransportError               a peer could not be reached or broke the protocol
    ├── ConfigError                  settings, files, command line
    └── RemoteError                  a peer's refusal with a code that this build does not know

Every refusal is *defined* once, beside the check that raises it::

    REPLAY = define("envelope.replay", EnvelopeError, check="...", remedy="...")
    raise REPLAY(expected="a sequence number not seen before", found="17, seen")

The code survives the wire (``to_wire`` / ``from_wire``). Hostile input raises a ``CloisterError``; a
programmer's mistake raises ``RuntimeError`` or ``TypeError``: never the same class. Texts never contain a secret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

_CODE = re.compile(r"[a-z]+(\.[a-z0-9_]+)+")
_MAX_TEXT = 512


class CloisterError(Exception):
    """A refusal: which check, what it expected, what it found, what to do.

    Attributes:
        code: stable dotted name, for machines. check, expected, found, remedy: sentences, for people.
        status: the HTTP status that a service answers with.
    """

    def __init__(self, *, code: str, check: str, expected: str, found: str, remedy: str, status: int = 400) -> None:
        self.code, self.check, self.remedy, self.status = code, check, remedy, status
        self.expected, self.found = _clip(expected), _clip(found)
        super().__init__(f"{code}: {check}: expected {self.expected}, found {self.found}")

    def to_wire(self) -> dict[str, Any]:
        """The error as JSON-ready fields; ``from_wire`` rebuilds the same class and code."""
        return {
            "code": self.code,
            "check": self.check,
            "expected": self.expected,
            "found": self.found,
            "remedy": self.remedy,
        }


class EncodingError(CloisterError):
    """Bytes that are not what the format says."""


class AttestationError(CloisterError):
    """Evidence that does not prove what it must."""


class ThresholdError(CloisterError):
    """Shares, dealings and partials that do not fit together."""


class SealError(CloisterError):
    """Sealing, wallets, key identities."""


class ChainViewError(CloisterError):
    """Proofs, checkpoints, staleness."""


class PolicyError(CloisterError):
    """A finalised rule says no."""


class EnvelopeError(CloisterError):
    """Sealed HTTP."""


class ReceiptError(CloisterError):
    """Receipts and their log."""


class StateError(CloisterError):
    """Agent state: heads, conflicts, rollback."""


class FabricError(CloisterError):
    """Queues, blobs, ciphertext state on disk."""


class SandboxError(CloisterError):
    """Agent code and its limits."""


class EvidenceError(CloisterError):
    """This machine could not produce evidence."""


class ChainError(CloisterError):
    """A chain endpoint failed or lied."""


class TransportError(CloisterError):
    """A peer could not be reached or broke the protocol."""


class ConfigError(CloisterError):
    """Settings, files, command line."""


class RemoteError(CloisterError):
    """A peer's refusal with a code that this build does not know."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One named refusal. Call it with what was expected and found to get the exception to raise."""

    code: str
    family: type[CloisterError]
    check: str
    remedy: str
    status: int = 400

    def __call__(self, *, expected: str, found: str, remedy: str | None = None) -> CloisterError:
        return self.family(
            code=self.code,
            check=self.check,
            expected=expected,
            found=found,
            remedy=remedy or self.remedy,
            status=self.status,
        )


REGISTRY: Final[dict[str, Refusal]] = {}


def define(code: str, family: type[CloisterError], *, check: str, remedy: str, status: int = 400) -> Refusal:
    """Register a refusal. Raises RuntimeError for a malformed or duplicate code: that is our mistake, at import."""
    if not _CODE.fullmatch(code):
        raise RuntimeError(f"error code {code!r} is not dotted lower case")
    if code in REGISTRY:
        raise RuntimeError(f"error code {code!r} is defined twice")
    refusal = Refusal(code, family, check, remedy, status)
    REGISTRY[code] = refusal
    return refusal


def from_wire(fields: object, *, status: int = 400) -> CloisterError:
    """Rebuild a peer's error. Unknown codes become RemoteError; malformed input too: it never raises."""
    data = fields if isinstance(fields, dict) else {}
    text = {k: _clip(str(data.get(k, "not said"))) for k in ("code", "check", "expected", "found", "remedy")}
    known = REGISTRY.get(text["code"])
    family, status = (known.family, known.status) if known else (RemoteError, status)
    return family(status=status, **text)


def _clip(text: str) -> str:
    clean = "".join(c if c.isprintable() else "?" for c in text)
    return clean if len(clean) <= _MAX_TEXT else clean[: _MAX_TEXT - 1] + "…"

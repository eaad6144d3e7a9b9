"""What a member of a ceremony wants done now (``protocol.py``): data for a service that has the chain and the wire.

An action is asked for again and again until the facts show that it is done; who carries it out may drop repetitions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cloister.core.errors import CloisterError
from cloister.core.threshold.dealing import Dealing
from cloister.core.threshold.facts import Complaint, Confirmation, OpenedShare
from cloister.core.threshold.shares import KeyShare


@dataclass(frozen=True, slots=True)
class CommitDealing:
    """Put this digest (32 bytes) on chain (G3)."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class ShowDealing:
    """From now on show our dealing to whoever asks (G5)."""

    dealing: Dealing


@dataclass(frozen=True, slots=True)
class FetchDealing:
    """Get the dealing with this committed digest, for ``Member.on_dealing``.

    From its dealer or any peer; if ``published`` also from the call data on chain.
    """

    dealer: int
    digest: bytes
    published: bool


@dataclass(frozen=True, slots=True)
class Complain:
    """Complain on chain (G5)."""

    complaint: Complaint


@dataclass(frozen=True, slots=True)
class Content:
    """Say on chain that we have no further complaint: round 1 in SHOW (G6), round 2 in OBJECT."""

    round: int


@dataclass(frozen=True, slots=True)
class Publish:
    """Put our whole dealing on chain as call data (G7)."""

    dealing: Dealing


@dataclass(frozen=True, slots=True)
class OpenShare:
    """Open a share that was called bad, on chain (G7)."""

    opened: OpenedShare


@dataclass(frozen=True, slots=True)
class Confirm:
    """Confirm on chain; ``Member.kept`` with the share in it MUST be durable before (G11)."""

    value: Confirmation


@dataclass(frozen=True, slots=True)
class ErasePolynomial:
    """No opening can be asked for any more: overwrite older copies of ``Member.kept`` (G3)."""


@dataclass(frozen=True, slots=True)
class EraseTransport:
    """The end is final: erase this ceremony's transport key wherever it is, and older copies of ``kept`` (G2)."""


@dataclass(frozen=True, slots=True)
class EraseOld:
    """The new term is final for long enough: erase the share of this term and its sealed copies (R4)."""

    term: int


@dataclass(frozen=True, slots=True)
class TakeOffice:
    """The committee is in office: use this share from now on."""

    share: KeyShare = field(repr=False)


@dataclass(frozen=True, slots=True)
class Fail:
    """This member ends with nothing, for this reason. Nothing changed: no share, no key, no seat (G12)."""

    reason: CloisterError


Action = (
    CommitDealing
    | ShowDealing
    | FetchDealing
    | Complain
    | Content
    | Publish
    | OpenShare
    | Confirm
    | ErasePolynomial
    | EraseTransport
    | EraseOld
    | TakeOffice
    | Fail
)

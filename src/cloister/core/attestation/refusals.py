"""Refusals that every evidence kind shares, and the rule that anything unexpected is a refusal too."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from cloister.core.errors import AttestationError, CloisterError, define

P = ParamSpec("P")
T = TypeVar("T")

MALFORMED = define(
    "attestation.malformed",
    AttestationError,
    check="the evidence has the layout of its kind",
    remedy="send the evidence exactly as the hardware gave it, with the certificates of its kind",
)
UNPINNED_ROOT = define(
    "attestation.root",
    AttestationError,
    check="the evidence ends in a root that policy pins",
    remedy="use hardware of a pinned vendor; simulated hardware counts only on its own devnet",
    status=403,
)
BAD_CERTIFICATE = define(
    "attestation.certificate",
    AttestationError,
    check="every certificate is issued by the one above it, with the rights and the algorithm of its place",
    remedy="fetch the vendor's certificates again for this very machine",
)
OUT_OF_DATE = define(
    "attestation.expired",
    AttestationError,
    check="certificates and collateral are valid at the time of verification",
    remedy="produce fresh evidence with fresh collateral; compare the clocks of both sides",
)
REVOKED = define(
    "attestation.revoked",
    AttestationError,
    check="no certificate of the chain is revoked",
    remedy="the vendor withdrew the key: use another machine, or certificates issued after the vendor's fix",
    status=403,
)
BAD_SIGNATURE = define(
    "attestation.signature",
    AttestationError,
    check="the hardware's key signed the evidence",
    remedy="send the evidence unchanged, with the certificate of the chip that made it",
)
NOT_THIS_CHIP = define(
    "attestation.chip",
    AttestationError,
    check="the certificate belongs to the chip, firmware and product in the report",
    remedy="fetch the certificate for the reported chip id and TCB version",
)
DEBUG = define(
    "attestation.debug",
    AttestationError,
    check="the environment runs without debug access",
    remedy="launch with debugging off; a debuggable environment hides nothing",
    status=403,
)
PLATFORM = define(
    "attestation.platform",
    AttestationError,
    check="the platform is set up as policy demands for its kind",
    remedy="change the named setting of the machine, or use another machine",
    status=403,
)


def need_listed(name: str, found: str, allowed: tuple[str, ...]) -> None:
    """``found`` is on the list, or the list is empty. Raises attestation.platform."""
    if allowed and found not in allowed:
        raise PLATFORM(expected=f"a {name} of {len(allowed)} that policy lists", found=found[:32] or "none")


def fail_closed(step: Callable[P, T]) -> Callable[P, T]:
    """A verifier may raise only CloisterError: libraries raise a zoo, and Rust panics are BaseException."""

    @wraps(step)
    def closed(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return step(*args, **kwargs)
        except (CloisterError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            raise MALFORMED(expected="evidence that parses", found=type(error).__name__) from None

    return closed

"""What a TEE offers its software: quotes over 64 bytes, and maybe a key that only this code on this machine gets."""

from __future__ import annotations

from typing import Protocol

from cloister.core.attestation.model import Evidence
from cloister.core.errors import EvidenceError, define

REPORT_DATA_SIZE = 64
MAX_CONTEXT = 1024

NO_SEALING = define(
    "evidence.no_sealing",
    EvidenceError,
    check="this machine has a key of its own to seal with",
    remedy="TDX and Nitro offer none: let the other members hold the disk key, or use SEV-SNP",
    status=503,
)
BAD_QUOTE = define(
    "evidence.quote",
    EvidenceError,
    check="the hardware answers a request for evidence",
    remedy="check the guest's TEE driver and the host's quoting service; the text names the step that failed",
    status=503,
)


class Tee(Protocol):
    """One trusted environment, seen from inside. Implementations are stateless between calls and safe to share."""

    @property
    def kind(self) -> str:
        """The evidence kind: "tdx", "snp", "nitro", "sgx", "tpm", ..."""

    async def quote(self, report_data: bytes) -> Evidence:
        """Evidence over exactly 64 bytes. Raises EvidenceError; TypeError for another size."""

    async def sealing_key(self, context: bytes) -> bytes:
        """32 bytes that only this measurement on this machine gets for this context (at most 1 KiB).

        Raises EvidenceError (evidence.no_sealing) where the hardware offers none.
        """


class Sealing(Protocol):
    """Where sealing keys come from on this machine."""

    async def key(self, context: bytes) -> bytes:
        """32 bytes for a context. Raises EvidenceError."""


class NoSealing:
    """Hardware without a sealing key: every request is refused, with the remedy."""

    async def key(self, context: bytes) -> bytes:
        """Always raises EvidenceError (evidence.no_sealing)."""
        raise NO_SEALING(expected="a sealing key", found="none on this hardware")


def need_report_data(report_data: bytes) -> bytes:
    """The argument, if it is 64 bytes. Raises TypeError: report data comes from our own Binding, never from outside."""
    if not isinstance(report_data, bytes) or len(report_data) != REPORT_DATA_SIZE:
        raise TypeError(f"report data is {REPORT_DATA_SIZE} bytes")
    return report_data

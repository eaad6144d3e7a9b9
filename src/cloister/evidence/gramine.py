"""Evidence from inside an SGX enclave under Gramine: files below /dev/attestation (Gramine "Attestation and secret
provisioning").

Gramine keeps what was written per process, so writing and reading happen in one thread and under a lock.
"""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cloister.core.attestation.model import Evidence
from cloister.evidence.collateral import CollateralSource, NoCollateral
from cloister.evidence.places import GRAMINE_ROOT
from cloister.evidence.tee import BAD_QUOTE, MAX_CONTEXT, NO_SEALING, Sealing, need_report_data

MAX_FILE: Final = 16384
TYPE: Final = "dcap"
SEAL_KEY: Final = "keys/_sgx_mrenclave"
_LABEL: Final = b"cloister sealing key v1\0"


class Gramine:
    """SGX through Gramine. ``root``: the folder of its pseudo-files."""

    def __init__(
        self, root: Path = GRAMINE_ROOT, collateral: CollateralSource | None = None, sealing: Sealing | None = None
    ) -> None:
        self._root = root
        self._collateral = collateral or NoCollateral()
        self._sealing = sealing or EnclaveSealing(root)
        self._lock = threading.Lock()

    @property
    def kind(self) -> str:
        """ "sgx"."""
        return "sgx"

    async def quote(self, report_data: bytes) -> Evidence:
        """Evidence with its collateral. Raises EvidenceError."""
        blob = await asyncio.to_thread(self._quote, need_report_data(report_data))
        return Evidence("sgx", blob, await self._collateral.aux("sgx", blob))

    async def sealing_key(self, context: bytes) -> bytes:
        """A key that only this enclave on this CPU gets. Raises EvidenceError."""
        return await self._sealing.key(context)

    def _quote(self, report_data: bytes) -> bytes:
        with self._lock:
            _write(self._root / "user_report_data", report_data)
            quote = _read(self._root / "quote", "quote")
        if not quote:
            raise BAD_QUOTE(expected="a quote", found="nothing")
        return quote


class EnclaveSealing:
    """Sealing keys from the enclave's own key, which the CPU derives from MRENCLAVE; one per context by HKDF."""

    def __init__(self, root: Path = GRAMINE_ROOT) -> None:
        self._root = root

    async def key(self, context: bytes) -> bytes:
        """32 bytes for a context of at most 1 KiB. Raises EvidenceError (evidence.no_sealing)."""
        if len(context) > MAX_CONTEXT:
            raise TypeError(f"a sealing context holds at most {MAX_CONTEXT} bytes")
        secret = await asyncio.to_thread(_read, self._root / SEAL_KEY, "the enclave's key")
        if len(secret) != 16 or not any(secret):
            raise NO_SEALING(expected="an enclave key of 16 bytes", found=f"{len(secret)} bytes")
        return HKDF(hashes.SHA256(), 32, salt=None, info=_LABEL + context).derive(secret)


def probe(root: Path) -> str:
    """The attestation type, which must be "dcap". Raises EvidenceError."""
    found = _read(root / "attestation_type", "attestation_type").decode("ascii", "replace").strip()
    if found != TYPE:
        raise BAD_QUOTE(expected=f"attestation type {TYPE}", found=found[:32] or "nothing")
    return found


def _write(path: Path, data: bytes) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            written = os.write(handle, data)
        finally:
            os.close(handle)
    except OSError as error:
        raise BAD_QUOTE(expected=f"{path.name} to be written", found=error.strerror or "an error") from None
    if written != len(data):
        raise BAD_QUOTE(expected=f"{len(data)} bytes written at once", found=str(written))


def _read(path: Path, what: str) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            data = bytearray()
            while piece := file.read(MAX_FILE + 1 - len(data)):
                data += piece
                if len(data) > MAX_FILE:
                    raise BAD_QUOTE(expected=f"{what} of at most {MAX_FILE} bytes", found="more")
            return bytes(data)
    except OSError as error:
        raise BAD_QUOTE(expected=f"{what} to be read", found=error.strerror or "an error") from None

"""Certificates and collateral that travel beside a quote, and where a machine gets them.

Verifiers check them; a source is never trusted. So a source is plumbing: a file, or the vendor's service (``fetch``).
"""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path
from typing import Protocol

from cloister.core.encoding.hexes import from_hex
from cloister.core.errors import CloisterError, EvidenceError, define

MAX_FILE = 131072
_NAMES = {
    uuid.UUID("63da758d-e664-4564-adc5-f4b93be8accd"): "vek",
    uuid.UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1"): "vek",
    uuid.UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782"): "intermediate",
    uuid.UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae"): "ark",
}
_TPM_CHAINS = {"ak_chain", "authorities"}

NO_COLLATERAL = define(
    "evidence.collateral",
    EvidenceError,
    check="the certificates and collateral of this machine's evidence are at hand",
    remedy="name a collateral file in the machine's configuration, and refresh it before it expires",
    status=503,
)


class CollateralSource(Protocol):
    """Where the auxiliary parts of evidence come from."""

    async def aux(self, kind: str, blob: bytes) -> dict[str, bytes]:
        """The aux of ``Evidence`` for a quote of this kind. Raises EvidenceError."""


class NoCollateral:
    """No source configured."""

    async def aux(self, kind: str, blob: bytes) -> dict[str, bytes]:
        """Always raises EvidenceError (evidence.collateral)."""
        raise NO_COLLATERAL(expected=f"a collateral source for {kind}", found="none configured")


class FileCollateral:
    """A JSON file, read anew each time: whoever refreshes it needs no restart.

    For tdx, sgx and dstack: the nine QuoteCollateralV3 fields. For snp: {"vek", "intermediate", "ark"}, DER as 0x-hex.
    For tpm: {"ak_chain"}, the attestation key's certificates in PEM, leaf first; or {"authorities"}, those above the
    endorsement certificate in the TPM.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    async def aux(self, kind: str, blob: bytes) -> dict[str, bytes]:
        """Read the file. Raises EvidenceError (evidence.collateral)."""
        data = await asyncio.to_thread(self._read)
        if kind in ("tdx", "sgx", "dstack"):
            return {"collateral": data}
        if kind == "tpm":
            return _tpm_chain(data)
        try:
            certificates = json.loads(data)
            return {name: from_hex(certificates[name], name=name) for name in ("vek", "intermediate", "ark")}
        except (ValueError, KeyError, TypeError, RecursionError, CloisterError) as error:
            raise NO_COLLATERAL(expected="vek, intermediate and ark in hex", found=type(error).__name__) from None

    def _read(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_FILE + 1)
        except OSError as error:
            raise NO_COLLATERAL(expected=f"a readable {self._path.name}", found=error.strerror or "no") from None
        if len(data) > MAX_FILE:
            raise NO_COLLATERAL(expected=f"at most {MAX_FILE} bytes", found="more")
        return data


def _tpm_chain(data: bytes) -> dict[str, bytes]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or len(value) != 1 or not set(value) <= _TPM_CHAINS:
        raise NO_COLLATERAL(expected="ak_chain or authorities", found="another file")
    name, pem = next(iter(value.items()))
    if not isinstance(pem, str) or not pem.startswith("-----BEGIN CERTIFICATE-----") or not pem.isascii():
        raise NO_COLLATERAL(expected=f"{name} in PEM", found="something else")
    return {name: pem.encode()}


def parse_certificate_table(blob: bytes) -> dict[str, bytes]:
    """The certificates that an SNP host put beside the report (GHCB 2.0 4.1.8.1): vek, intermediate, ark, as present.

    Entries are {GUID, offset u32, length u32}, ended by zeros. Both byte orders of a GUID are met in the field, and
    both are taken: a verifier checks the certificates anyway. Raises EvidenceError for a table that overruns.
    """
    found: dict[str, bytes] = {}
    for start in range(0, min(len(blob), 24 * 32) - 23, 24):
        guid, offset, length = blob[start : start + 16], *_pair(blob[start + 16 : start + 24])
        if not any(guid):
            break
        if offset + length > len(blob):
            raise NO_COLLATERAL(expected="certificates inside the table", found=f"one that ends at {offset + length}")
        name = _NAMES.get(uuid.UUID(bytes=guid)) or _NAMES.get(uuid.UUID(bytes_le=guid))
        if name and length:
            found[name] = blob[offset : offset + length]
    return found


def _pair(raw: bytes) -> tuple[int, int]:
    return int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:], "little")

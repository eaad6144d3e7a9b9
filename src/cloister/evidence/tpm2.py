"""Evidence of a machine with a TPM 2.0: a quote over its PCRs. ``collect`` adds the boot log that explains them.

The report data's SHA-256 is the qualifying data, because TPMs take less than 64 bytes there (spec/attestation.md 9).
Who vouches for the attestation key comes from the machine's collateral file: a chain of the key itself, as clouds and
attestation authorities issue it, or the authorities of the endorsement certificate in the TPM; then each verifier asks
for an activation first, which ``Tpm2.activate`` answers.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloister.core.attestation.model import Evidence
from cloister.evidence.collateral import NO_COLLATERAL, CollateralSource, NoCollateral
from cloister.evidence.tee import BAD_QUOTE, MAX_CONTEXT, Sealing, need_report_data
from cloister.evidence.tpm_bench import PCRS
from cloister.evidence.tpm_tools import TpmTools


class Tpm2:
    """A TPM 2.0. It says what was measured and hides nothing: policy decides whether that counts."""

    def __init__(
        self,
        tools: TpmTools | None = None,
        collateral: CollateralSource | None = None,
        sealing: Sealing | None = None,
        pcrs: Sequence[int] = PCRS,
    ) -> None:
        """``pcrs``: of the SHA-256 bank, in order; the listed measurement is over the same ones."""
        self.tools = tools or TpmTools()
        self._collateral = collateral or NoCollateral()
        self._sealing = sealing or TpmSealing(self.tools, pcrs)
        self._pcrs = tuple(pcrs)
        self._public: bytes | None = None

    @property
    def kind(self) -> str:
        """ "tpm"."""
        return "tpm"

    async def quote(self, report_data: bytes) -> Evidence:
        """Evidence over 64 bytes. Raises EvidenceError; the first time makes the attestation key if there is none."""
        blob, aux = await asyncio.to_thread(self._quote, need_report_data(report_data))
        chain = await self._collateral.aux("tpm", blob)
        if authorities := chain.pop("authorities", None):
            chain["ek_chain"] = await asyncio.to_thread(self._endorsement_chain, authorities)
        if not chain:
            raise NO_COLLATERAL(expected="ak_chain or authorities in the collateral file", found="no such file")
        return Evidence("tpm", blob, aux | chain)

    async def activate(self, credential: bytes, encrypted_seed: bytes) -> bytes:
        """The answer to a verifier's ``credential.Challenge``. Raises EvidenceError if it is not for this TPM."""
        return await asyncio.to_thread(self.tools.activate, credential, encrypted_seed)

    async def sealing_key(self, context: bytes) -> bytes:
        """A key that this TPM gives only after this boot chain. Raises EvidenceError."""
        return await self._sealing.key(context)

    def _quote(self, report_data: bytes) -> tuple[bytes, dict[str, bytes]]:
        if self._public is None:
            self._public = self.tools.create_attestation_key()
        blob, signature, pcrs = self.tools.quote(hashlib.sha256(report_data).digest(), self._pcrs)
        return blob, {"signature": signature, "pcrs": pcrs, "ak": self._public, "report_data": report_data}

    def _endorsement_chain(self, authorities: bytes) -> bytes:
        _, der = self.tools.endorsement_certificate()
        try:
            pem = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
        except ValueError:
            raise BAD_QUOTE(expected="an endorsement certificate in the TPM", found="something else") from None
        if len(pem) + len(authorities) > 65536:
            raise NO_COLLATERAL(expected="an endorsement chain of at most 64 KiB", found="more")
        return pem + authorities


class TpmSealing:
    """Sealing keys from the TPM itself, bound to the PCRs."""

    def __init__(self, tools: TpmTools, pcrs: Sequence[int] = PCRS) -> None:
        self._tools, self._pcrs = tools, tuple(pcrs)

    async def key(self, context: bytes) -> bytes:
        """32 bytes for a context of at most 1 KiB. Raises EvidenceError."""
        if len(context) > MAX_CONTEXT:
            raise TypeError(f"a sealing context holds at most {MAX_CONTEXT} bytes")
        return await asyncio.to_thread(self._tools.keyed_hash, context, self._pcrs)

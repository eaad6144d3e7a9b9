"""Evidence of an Azure confidential VM: the paravisor's report, a quote of its vTPM, and what the host hands out.

1. NV index 0x01400001 of the vTPM holds the HCL report: a hardware report over the vTPM's attestation key.
2. That key (handle 0x81000003) quotes the PCRs over SHA-256 of the report data.
3. The metadata service gives the rest: for SEV-SNP the chip's certificates (THIM), for TDX a quote over the TD report
   in the HCL report (``/acc/tdquote``).

Nothing of it is trusted here; what is plainly not Azure's is refused early, by name. The quote is checked by whoever
verifies it. Sources: spec/attestation.md 10,
Azure "Trusted Hardware Identity Management". Not run on a machine of Azure: see docs/limitations.md.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import http.client
import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning

from cloister.core.attestation import hcl
from cloister.core.attestation.model import Evidence
from cloister.core.errors import CloisterError, EvidenceError, define
from cloister.evidence.collateral import CollateralSource, NoCollateral
from cloister.evidence.tee import BAD_QUOTE, NoSealing, Sealing, need_report_data
from cloister.evidence.tpm_bench import PCRS, TpmBenches, selection

REPORT_INDEX: Final = 0x01400001
AK_HANDLE: Final = 0x81000003
IMDS: Final = "http://169.254.169.254"
CERTIFICATES: Final = "/metadata/THIM/amd/certification"
TD_QUOTE: Final = "/acc/tdquote"
TD_REPORT_SIZE: Final = 1024
TDX_TYPE: Final = 0x81
MAX_ANSWER: Final = 65536
MAX_QUOTE: Final = 16384
TIMEOUT_S: Final = 20.0
TRIES: Final = 3
_KINDS: Final[Mapping[int, str]] = {hcl.SNP: "azure-snp", hcl.TDX: "azure-tdx"}
_SNP: Final = ("vek", "intermediate", "ark")

NO_IMDS = define(
    "evidence.azure_metadata",
    EvidenceError,
    check="Azure's metadata service hands out the certificates or the quote of this VM",
    remedy="let this process reach 169.254.169.254 without a proxy, or name a collateral file in the configuration",
    status=503,
)


@dataclass(frozen=True, slots=True)
class Quoted:
    """One answer of the vTPM: TPMS_ATTEST, plain signature, PCR values in the order of the selection."""

    message: bytes
    signature: bytes
    pcrs: bytes


class Vtpm:
    """The two requests to the vTPM, through tpm2-tools. Both block, and raise EvidenceError."""

    def __init__(self, tools: TpmBenches | None = None) -> None:
        self._tools = tools or TpmBenches()

    def report(self) -> bytes:
        """The HCL report, as the paravisor wrote it at boot."""
        with self._tools.bench() as bench:
            bench.run("tpm2_nvread", "-C", "o", f"0x{REPORT_INDEX:08x}", "-o", "report")
            return bench.read("report")

    def quote(self, qualifying: bytes, pcrs: Sequence[int]) -> Quoted:
        """A quote over SHA-256 PCRs, under the key that the HCL report names."""
        with self._tools.bench() as bench:
            wanted = ("-c", f"0x{AK_HANDLE:08x}", "-l", selection(pcrs), "-q", qualifying.hex(), "-g", "sha256")
            bench.run(
                "tpm2_quote", *wanted, "-m", "quote", "-s", "signature", "-f", "plain", "-o", "pcrs", "-F", "values"
            )
            return Quoted(bench.read("quote"), bench.read("signature"), bench.read("pcrs"))


class Metadata:
    """Azure's instance metadata service. Requests block, go to no proxy, follow nothing, and raise EvidenceError."""

    def __init__(
        self, base: str | None = None, *, timeout_s: float = TIMEOUT_S, sleep: Callable[[float], None] = time.sleep
    ):
        at = urlsplit(base or IMDS)
        if at.scheme != "http" or not at.hostname:
            raise TypeError("the metadata service answers plain HTTP at an address")
        self._host, self._port, self._timeout, self._sleep = at.hostname, at.port or 80, timeout_s, sleep

    def chip_certificates(self) -> dict[str, bytes]:
        """ "vek", "intermediate", "ark" in DER, of the chip that this VM runs on."""
        said = self._json("GET", CERTIFICATES, None)
        found = [*_chain(said.get("vcekCert"), "vcekCert", 1), *_chain(said.get("certificateChain"), "the chain", 2)]
        return dict(zip(_SNP, found, strict=True))

    def td_quote(self, td_report: bytes) -> bytes:
        """A TD quote made of a TDREPORT of 1024 bytes."""
        text = base64.urlsafe_b64encode(td_report).rstrip(b"=").decode()
        quote = _base64(self._json("POST", TD_QUOTE, {"report": text}).get("quote"))
        version, tee = int.from_bytes(quote[:2], "little"), int.from_bytes(quote[4:8], "little")
        if version not in (4, 5) or tee != TDX_TYPE:
            raise NO_IMDS(expected="a TD quote, version 4 or 5", found=f"{len(quote)} other bytes")
        return quote

    def _json(self, method: str, path: str, body: Mapping[str, str] | None) -> dict[str, Any]:
        """1. three tries where the service is busy or silent; 2. status 200; 3. at most 64 KiB; 4. a JSON object."""
        reason = "no answer"
        for attempt in range(TRIES):
            if attempt:
                self._sleep(float(attempt))
            try:
                status, data = self._once(method, path, body)
            except (OSError, http.client.HTTPException) as error:  # 1
                reason = getattr(error, "strerror", None) or type(error).__name__
                continue
            if status == 200:  # 2
                return _object(data)
            reason = f"status {status}"
            if status not in (408, 410, 429) and status < 500:
                break
        raise NO_IMDS(expected=f"an answer of {path}", found=reason)

    def _once(self, method: str, path: str, body: Mapping[str, str] | None) -> tuple[int, bytes]:
        link = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        headers = {"Metadata": "true", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            link.request(method, path, None if body is None else json.dumps(body), headers)
            reply = link.getresponse()
            return reply.status, reply.read(MAX_ANSWER + 1)
        finally:
            link.close()


class AzureVm:
    """A confidential VM of Azure, on SEV-SNP or TDX."""

    def __init__(
        self,
        kind: str,
        vtpm: Vtpm | None = None,
        metadata: Metadata | None = None,
        collateral: CollateralSource | None = None,
        sealing: Sealing | None = None,
        *,
        pcrs: Sequence[int] = PCRS,
    ) -> None:
        """``kind``: from ``probe``. ``pcrs``: of the SHA-256 bank, in order; the measurement is over the same ones."""
        if kind not in _KINDS.values():
            raise TypeError("azure-snp or azure-tdx")
        self._kind, self._pcrs = kind, tuple(pcrs)
        self._vtpm, self._metadata = vtpm or Vtpm(), metadata or Metadata()
        self._collateral, self._sealing = collateral or NoCollateral(), sealing or NoSealing()

    @property
    def kind(self) -> str:
        """ "azure-snp" or "azure-tdx"."""
        return self._kind

    async def quote(self, report_data: bytes) -> Evidence:
        """Evidence over 64 bytes. Raises EvidenceError."""
        found = await self.answer(hashlib.sha256(need_report_data(report_data)).digest())
        return Evidence(found.kind, found.blob, {**found.aux, "report_data": report_data})

    async def answer(self, qualifying: bytes) -> Evidence:
        """Evidence whose vTPM quote holds ``qualifying`` (at most 48 bytes) as it is. Raises EvidenceError."""
        if not 0 < len(qualifying) <= 48:
            raise TypeError("qualifying data is 1 to 48 bytes")
        blob, report, aux = await asyncio.to_thread(self._quoted, qualifying)
        hardware = self._chip(report.hardware) if self._kind == "azure-snp" else self._td(report.hardware)
        return Evidence(self._kind, blob, {**aux, **await hardware})

    async def sealing_key(self, context: bytes) -> bytes:
        """A sealing key of this machine. Raises EvidenceError."""
        return await self._sealing.key(context)

    def _quoted(self, qualifying: bytes) -> tuple[bytes, hcl.HclReport, dict[str, bytes]]:
        blob = self._vtpm.report()
        kind, report = parse_report(blob)
        if kind != self._kind:
            raise BAD_QUOTE(expected=f"an HCL report of {self._kind}", found=kind)
        made = self._vtpm.quote(qualifying, self._pcrs)
        aux = {"quote": made.message, "signature": made.signature, "pcrs": made.pcrs}
        return blob, report, aux

    async def _chip(self, hardware: bytes) -> dict[str, bytes]:
        """The chip's certificates from the metadata service; a file's or the vendor's parts go above them."""
        found: dict[str, bytes] = {}
        refused: CloisterError | None = None
        try:
            found |= await asyncio.to_thread(self._metadata.chip_certificates)
        except CloisterError as error:
            refused = error
        try:
            found |= await self._collateral.aux("azure-snp", hardware)
        except CloisterError as error:
            refused = refused or error
        if not set(_SNP) <= set(found):
            raise refused or NO_IMDS(expected=", ".join(_SNP), found=", ".join(sorted(found)) or "none")
        return found

    async def _td(self, hardware: bytes) -> dict[str, bytes]:
        quote = await asyncio.to_thread(self._metadata.td_quote, hardware[:TD_REPORT_SIZE])
        return {"td_quote": quote, **await self._collateral.aux("tdx", quote)}


def probe(vtpm: Vtpm) -> str:
    """The kind of this VM, "azure-snp" or "azure-tdx". Raises EvidenceError where the vTPM holds no HCL report."""
    return parse_report(vtpm.report())[0]


def parse_report(blob: bytes) -> tuple[str, hcl.HclReport]:
    """(kind, report) of an HCL report. Raises EvidenceError (evidence.quote) for anything else."""
    number = int.from_bytes(blob[hcl.DATA_AT + 8 : hcl.DATA_AT + 12], "little")
    if number not in _KINDS:
        raise BAD_QUOTE(expected="an HCL report over SEV-SNP or TDX", found=f"{len(blob)} bytes of another thing")
    try:
        return _KINDS[number], hcl.parse(blob, number)
    except (CloisterError, ValueError, TypeError, RecursionError) as error:
        found = error.found if isinstance(error, CloisterError) else type(error).__name__
        raise BAD_QUOTE(expected="an HCL report", found=found) from None


def _object(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_ANSWER:
        raise NO_IMDS(expected=f"an answer of at most {MAX_ANSWER} bytes", found="more")
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise NO_IMDS(expected="a JSON answer", found=f"{len(data)} other bytes") from None
    if not isinstance(value, dict):
        raise NO_IMDS(expected="a JSON object", found=type(value).__name__)
    return value


def _chain(text: object, name: str, count: int) -> list[bytes]:
    if not isinstance(text, str):
        raise NO_IMDS(expected=f"{name} in PEM", found=type(text).__name__)
    try:
        with warnings.catch_warnings():  # AMD numbers every VCEK 0
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            chain = x509.load_pem_x509_certificates(text.encode("ascii", "replace"))
    except ValueError:
        raise NO_IMDS(expected=f"{name} in PEM", found=f"{len(text)} other characters") from None
    if len(chain) != count:
        raise NO_IMDS(expected=f"{count} certificates in {name}", found=str(len(chain)))
    return [one.public_bytes(Encoding.DER) for one in chain]


def _base64(text: object) -> bytes:
    if not isinstance(text, str) or not 0 < len(text) <= 2 * MAX_QUOTE:
        raise NO_IMDS(expected="a quote in base64", found=type(text).__name__)
    plain = text.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        quote = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise NO_IMDS(expected="a quote in base64", found="another text") from None
    if len(quote) > MAX_QUOTE:
        raise NO_IMDS(expected=f"a quote of at most {MAX_QUOTE} bytes", found=f"{len(quote)}")
    return quote

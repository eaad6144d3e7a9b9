"""Collateral from the vendors: Intel's PCS (or a PCCS) and AMD's KDS, with retries and a cache on disk.

What comes back is public and unverified: the verifier checks it. So the transport may be anything, a cache may be old,
and an answer that cannot be had is the only failure. Sources: Intel PCS API v4; AMD 57230.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlencode

from dcap_qvl import parse_quote

from cloister.core.attestation import parts, snp
from cloister.core.attestation.certificates import load_pem_chain
from cloister.core.errors import CloisterError
from cloister.evidence.collateral import NO_COLLATERAL, CollateralSource

PCS: Final = "https://api.trustedservices.intel.com"
INTEL_ROOT_CRL: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
KDS: Final = "https://kdsintf.amd.com"
MAX_BODY: Final = 1 << 20
TIMEOUT_S: Final = 20.0
TRIES: Final = 3
FRESH_S: Final = 12 * 3600
_CHAIN_HEADERS: Final = {
    "pck_crl": "sgx-pck-crl-issuer-chain",
    "tcb_info": "tcb-info-issuer-chain",
    "qe_identity": "sgx-enclave-identity-issuer-chain",
}
_SPL: Final = {"bootloader": "blSPL", "tee": "teeSPL", "snp": "snpSPL", "microcode": "ucodeSPL", "fmc": "fmcSPL"}


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP answer. headers: lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Get = Callable[[str], Awaitable[Reply]]
Sleep = Callable[[float], Awaitable[None]]


async def http_get(url: str) -> Reply:
    """GET without redirects; at most 1 MiB in 20 seconds. Raises OSError, TimeoutError."""
    return await _http("GET", url, None, {})


async def http_post(url: str, body: bytes, content_type: str) -> Reply:
    """POST without redirects; at most 1 MiB in 20 seconds. Raises OSError, TimeoutError."""
    return await _http("POST", url, body, {"Content-Type": content_type})


async def _http(method: str, url: str, sent: bytes | None, headers: Mapping[str, str]) -> Reply:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, max_field_size=65536) as session,
            session.request(method, url, data=sent, headers=headers, allow_redirects=False) as reply,
        ):
            body = bytearray()
            async for piece in reply.content.iter_chunked(65536):
                body += piece
                if len(body) > MAX_BODY:
                    raise OSError("an answer of over 1 MiB")
            return Reply(reply.status, {k.lower(): v for k, v in reply.headers.items()}, bytes(body))
    except aiohttp.ClientError as error:
        raise OSError(type(error).__name__) from None


class Cache:
    """Answers on disk, one file each, named by the hash of the address. None: no cache."""

    def __init__(self, folder: Path | None, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock

    def get(self, url: str, max_age_s: float) -> Reply | None:
        """The kept answer, if it is at most so old. A file that cannot be read is no answer."""
        if self._folder is None:
            return None
        try:
            with self._file(url).open("rb") as file:
                value = json.loads(file.read(4 * MAX_BODY))
            if value["url"] != url or not 0 <= self._clock() - value["at"] <= max_age_s:
                return None
            headers = {str(k): str(v) for k, v in value["headers"].items()}
            return Reply(200, headers, bytes.fromhex(value["body"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def put(self, url: str, reply: Reply) -> None:
        """Keep an answer. A disk that refuses costs only the cache."""
        if self._folder is None:
            return
        headers = {name: reply.headers[name] for name in _CHAIN_HEADERS.values() if name in reply.headers}
        value = {"url": url, "at": self._clock(), "headers": headers, "body": reply.body.hex()}
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh = self._folder / f".{secrets.token_hex(8)}"
            fresh.write_text(json.dumps(value))
            fresh.replace(self._file(url))

    def _file(self, url: str) -> Path:
        if self._folder is None:
            raise RuntimeError("no cache folder")
        return self._folder / f"{hashlib.sha256(url.encode()).hexdigest()}.json"


class VendorCollateral:
    """A ``CollateralSource`` that asks the vendors.

    Args: get (one HTTP GET), cache, pccs (address of a PCCS; None: Intel's PCS), kds (AMD's address), sleep (between
    tries: 1 s, 2 s), beside (parts that are at hand already, such as a VLEK, which no service gives out).
    """

    def __init__(
        self,
        get: Get = http_get,
        cache: Cache | None = None,
        *,
        pccs: str | None = None,
        kds: str = KDS,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._get, self._cache, self._sleep = get, cache or Cache(None), sleep
        self._pcs, self._own_pccs, self._kds = (pccs or PCS).rstrip("/"), pccs is not None, kds.rstrip("/")

    async def aux(self, kind: str, blob: bytes) -> dict[str, bytes]:
        """Collateral for a quote, or certificates and revocation list for a report. Raises EvidenceError."""
        try:
            if kind in ("tdx", "sgx", "dstack"):
                return {"collateral": await self._intel("sgx" if kind == "sgx" else "tdx", blob)}
            if kind == "snp":
                return await self._amd(blob)
            if kind == "azure-snp":  # Azure hands out the certificates, AMD the revocation list
                named = products(blob)
                return await self._revocations(named[0]) if len(named) == 1 else {}
        except CloisterError:
            raise
        except Exception as error:
            raise NO_COLLATERAL(expected=f"a {kind} quote with collateral", found=type(error).__name__) from None
        return {}

    async def _intel(self, tee: str, blob: bytes) -> bytes:
        quote = parse_quote(blob)
        base, fmspc = f"{self._pcs}/sgx/certification/v4", quote.fmspc()
        tee_base = f"{self._pcs}/{tee}/certification/v4"
        root = f"{base}/rootcacrl" if self._own_pccs else INTEL_ROOT_CRL
        pck = await self._fetch(f"{base}/pckcrl?{urlencode({'ca': quote.ca(), 'encoding': 'der'})}")
        tcb = await self._fetch(f"{tee_base}/tcb?{urlencode({'fmspc': fmspc})}")
        enclave = await self._fetch(f"{tee_base}/qe/identity")
        fields: dict[str, Any] = {
            "pck_crl": _binary(pck.body).hex(),
            "root_ca_crl": _binary((await self._fetch(root)).body).hex(),
        }
        for name, reply in (("tcb_info", tcb), ("qe_identity", enclave)):
            found, signed, signature = parts.pcs_reply(reply.body.decode("utf-8"))
            if found != name:
                raise NO_COLLATERAL(expected=name, found=found)
            fields |= {name: signed, f"{name}_signature": signature}
        for name, reply in (("pck_crl", pck), ("tcb_info", tcb), ("qe_identity", enclave)):
            fields[f"{name}_issuer_chain"] = unquote(reply.headers.get(_CHAIN_HEADERS[name], ""))
        return json.dumps(fields).encode()

    async def _amd(self, report: bytes) -> dict[str, bytes]:
        if len(report) != snp.REPORT_SIZE:
            raise NO_COLLATERAL(expected=f"a report of {snp.REPORT_SIZE} bytes", found=f"{len(report)} bytes")
        vlek = (int.from_bytes(report[0x48:0x4C], "little") >> 2) & 7 == 1
        found: dict[str, bytes] = {}
        product, refused = "", None
        for product in products(report):
            try:
                if not vlek:
                    found["vek"] = (
                        await self._fetch(f"{self._kds}/vcek/v1/{product}/{vcek_path(report, product)}")
                    ).body
                break
            except CloisterError as error:
                refused = error
        else:
            raise refused or NO_COLLATERAL(expected="a known product", found="none")
        base = f"{self._kds}/{'vlek' if vlek else 'vcek'}/v1/{product}"
        chain = load_pem_chain((await self._fetch(f"{base}/cert_chain")).body, "the AMD chain")
        found |= dict(zip(("intermediate", "ark"), map(parts.to_der, chain), strict=True))
        return {**found, "crl": (await self._fetch(f"{base}/crl")).body}

    async def _revocations(self, product: str) -> dict[str, bytes]:
        return {"crl": (await self._fetch(f"{self._kds}/vcek/v1/{product}/crl")).body}

    async def _fetch(self, url: str) -> Reply:
        """A fresh kept answer, else a new one, else an old kept one. Raises EvidenceError (evidence.collateral)."""
        if kept := self._cache.get(url, FRESH_S):
            return kept
        reason = "no answer"
        for attempt in range(TRIES):
            if attempt:
                await self._sleep(float(attempt))
            try:
                reply = await self._get(url)
            except (OSError, TimeoutError) as error:
                reason = str(error)[:64] or type(error).__name__
                continue
            if reply.status == 200 and 0 < len(reply.body) <= MAX_BODY:
                self._cache.put(url, reply)
                return reply
            reason = f"status {reply.status}"
            if reply.status not in (408, 425, 429) and reply.status < 500:
                break
        if old := self._cache.get(url, float("inf")):
            return old
        raise NO_COLLATERAL(expected=f"an answer of {url[:200]}", found=reason)


class LayeredCollateral:
    """The first source that answers."""

    def __init__(self, *sources: CollateralSource) -> None:
        self._sources = sources

    async def aux(self, kind: str, blob: bytes) -> dict[str, bytes]:
        """Ask in order. Raises the last source's EvidenceError."""
        refused: CloisterError | None = None
        for source in self._sources:
            try:
                return await source.aux(kind, blob)
            except CloisterError as error:
                refused = error
        raise refused or NO_COLLATERAL(expected=f"a source for {kind}", found="none")


def products(report: bytes) -> tuple[str, ...]:
    """The products that a report may come from: by its CPUID from version 3, else those that made version 2."""
    if int.from_bytes(report[:4], "little") < 3:
        return ("Milan", "Genoa")
    family, model = report[0x188], report[0x189]
    if family == 0x19:
        return ("Milan",) if model < 0x10 else ("Genoa",)
    return ("Turin",) if family == 0x1A else ()


def vcek_path(report: bytes, product: str) -> str:
    """Chip and TCB as KDS wants them: hwid?blSPL=…; Turin has an 8-byte hwid and the firmware controller's version."""
    chip = report[0x1A0:0x1E0][: 8 if product == "Turin" else 64]
    tcb = snp.parse_tcb(report[0x180:0x188], product)
    return f"{chip.hex()}?{urlencode({_SPL[name]: f'{value:02d}' for name, value in tcb.items()})}"


def _binary(body: bytes) -> bytes:
    """DER as it is, or a PCCS's hex of it."""
    return body if body[:1] == b"\x30" else bytes.fromhex(body.decode("ascii").strip())

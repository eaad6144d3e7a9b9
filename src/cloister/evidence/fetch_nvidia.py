"""Reference manifests and OCSP answers for NVIDIA devices, from the vendor's services.

The device's own signed report says which manifests it must match; their ids follow from it. OCSP is asked about every
certificate that the vendor issued: of the device's chain, and of the manifests' chains. What comes back is unverified
here, except that an answer that says other than "good" is kept too: the verifier names it. Sources: NVIDIA RIM service
API v1, RFC 6960 appendix A.1.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from cloister.core.attestation import nvidia, rim, spdm
from cloister.core.attestation.certificates import load_pem_chain
from cloister.core.attestation.ocsp import MAX_ANSWER
from cloister.core.errors import CloisterError
from cloister.evidence.collateral import NO_COLLATERAL
from cloister.evidence.fetch import FRESH_S, TRIES, Cache, Get, Reply, Sleep, http_get, http_post

RIM: Final = "https://rim.attestation.nvidia.com"
OCSP: Final = "https://ocsp.ndis.nvidia.com"
OCSP_FRESH_S: Final = 3600
_CHIP_INFO, _CHIP_SKU, _PROJECT, _PROJECT_SKU = 35, 15, 17, 18
_LS10: Final = ("5612", "0002", "890")  # project, project SKU and chip SKU, which a switch does not report
_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,96}")
_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"

Post = Callable[[str, bytes, str], Awaitable[Reply]]


class NvidiaCollateral:
    """A ``CollateralSource`` for "nvidia-gpu" and "nvidia-switch". Its blob is the exchange, then the chain in PEM.

    Args: get, post (one HTTP request each), cache, rim, ocsp (addresses), sleep (between tries: 1 s, 2 s).
    """

    def __init__(
        self,
        get: Get = http_get,
        post: Post = http_post,
        cache: Cache | None = None,
        *,
        rim: str = RIM,
        ocsp: str = OCSP,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._get, self._post, self._cache, self._sleep = get, post, cache or Cache(None), sleep
        self._rim, self._ocsp = rim.rstrip("/"), ocsp.rstrip("/")

    async def aux(self, kind: str, blob: bytes) -> dict[str, bytes]:
        """Manifests and "ocsp". Raises EvidenceError (evidence.collateral); {} for other kinds."""
        if kind not in ("nvidia-gpu", "nvidia-switch"):
            return {}
        try:
            cut = blob.index(_BEGIN)
            exchange, chain = spdm.parse(blob[:cut]), load_pem_chain(blob[cut:], "the device's chain")[::-1]
            names = rim_ids(kind, exchange, nvidia.chip_of(tuple(chain)))
            manifests = {name: await self._manifest(name_id) for name, name_id in names.items()}
            chains = [rim.signers(manifests[name]) for name in sorted(manifests)]
            pairs = nvidia.issued_by_vendor(chain, chains)
            answers = [await self._answer(*pair) for pair in pairs]
        except CloisterError as error:
            if error.code == NO_COLLATERAL.code:
                raise
            raise NO_COLLATERAL(expected=error.expected, found=error.found) from None
        except Exception as error:
            raise NO_COLLATERAL(expected="a device's exchange and chain", found=type(error).__name__) from None
        return {**manifests, "ocsp": b"".join(answers)}

    async def _manifest(self, name: str) -> bytes:
        """One manifest by its id: the service wraps it in JSON, with its SHA-256."""
        url = f"{self._rim}/v1/rim/{name}"
        reply = await self._tried(url, url, FRESH_S, lambda: self._get(url))
        return parse_rim_reply(reply.body, name)

    async def _answer(self, certificate: x509.Certificate, issuer: x509.Certificate) -> bytes:
        """One OCSP answer. Without a nonce: it is checked later, by others, and dates say how fresh it is."""
        request = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA384()).build()
        body = request.public_bytes(Encoding.DER)
        key = f"{self._ocsp}#{hashlib.sha256(body).hexdigest()}"
        reply = await self._tried(
            key, self._ocsp, OCSP_FRESH_S, lambda: self._post(self._ocsp, body, "application/ocsp-request")
        )
        return reply.body

    async def _tried(self, key: str, url: str, fresh_s: int, ask: Callable[[], Awaitable[Reply]]) -> Reply:
        """1. a fresh kept answer; 2. a new one, in three tries; 3. an old kept one: the verifier judges its age."""
        if kept := self._cache.get(key, fresh_s):  # 1
            return kept
        reason = "no answer"
        for attempt in range(TRIES):  # 2
            if attempt:
                await self._sleep(float(attempt))
            try:
                reply = await ask()
            except (OSError, TimeoutError) as error:
                reason = str(error)[:64] or type(error).__name__
                continue
            if reply.status == 200 and self._usable(key, reply):
                self._cache.put(key, reply)
                return reply
            reason = f"status {reply.status}, {len(reply.body)} bytes"
            if reply.status not in (408, 425, 429) and reply.status < 500:
                break
        if old := self._cache.get(key, float("inf")):  # 3
            return old
        raise NO_COLLATERAL(expected=f"an answer of {url[:160]}", found=reason)

    def _usable(self, key: str, reply: Reply) -> bool:
        """Not empty, within its size; an OCSP answer is a successful one (a busy service answers 200 as well)."""
        if "#" not in key:
            return 0 < len(reply.body) <= 4 * rim.MAX_MANIFEST
        try:
            answer = ocsp.load_der_ocsp_response(reply.body) if 0 < len(reply.body) <= MAX_ANSWER else None
        except ValueError:
            return False
        return answer is not None and answer.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL


def rim_ids(kind: str, exchange: spdm.Exchange, chip: str) -> dict[str, str]:
    """Aux name -> id at the RIM service, for a device's signed report. Raises AttestationError, EvidenceError."""
    vbios = nvidia.vbios_of(exchange).replace(".", "").upper()
    if kind == "nvidia-switch":
        return {"vbios_rim": _checked("_".join(("NV_SWITCH_BIOS", *_LS10, vbios)))}
    board = [_text(exchange, field) for field in (_PROJECT, _PROJECT_SKU, _CHIP_SKU)]
    driver = nvidia.driver_of(exchange)
    hopper = chip.startswith("GH")
    named = f"NV_GPU_DRIVER_{chip}" if hopper else f"NV_GPU_CC_DRIVER_{_text(exchange, _CHIP_INFO) or chip}"
    return {
        "driver_rim": _checked(f"{named}_{driver}"),
        "vbios_rim": _checked("_".join(("NV_GPU_VBIOS", *board, vbios)).upper()),
    }


def parse_rim_reply(body: bytes, name: str) -> bytes:
    """The manifest in a reply of the RIM service. Raises EvidenceError (evidence.collateral)."""
    try:
        value: Any = json.loads(body.decode("utf-8"))
        said, text = value["id"], value["rim"]
        data = base64.b64decode(text, validate=True)
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
        raise NO_COLLATERAL(expected=f"the manifest {name} in JSON", found=type(error).__name__) from None
    if said != name or not 0 < len(data) <= rim.MAX_MANIFEST:
        raise NO_COLLATERAL(expected=f"the manifest {name}", found=f"{str(said)[:64]}, {len(data)} bytes")
    digest = value.get("sha256")
    if digest is not None and digest != hashlib.sha256(data).hexdigest():
        raise NO_COLLATERAL(expected="a manifest of the hash that the service names", found="another")
    return data


def _text(exchange: spdm.Exchange, field: int) -> str:
    return exchange.opaque.get(field, b"").rstrip(b"\0").decode("ascii", "replace")


def _checked(name: str) -> str:
    if not _ID.fullmatch(name) or "__" in name:
        raise NO_COLLATERAL(expected="a report that names its board and versions", found=repr(name)[:96])
    return name

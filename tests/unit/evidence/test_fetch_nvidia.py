"""Manifests and OCSP answers from a local server that plays NVIDIA's: ids, wrapping, retries, caps, cache."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.x509 import ocsp
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.attestation import kinds, spdm
from cloister.core.attestation.model import Evidence
from cloister.core.errors import CloisterError, EvidenceError
from cloister.evidence.fetch import Cache, Reply
from cloister.evidence.fetch_nvidia import NvidiaCollateral, parse_rim_reply, rim_ids
from support.hardware import NOW
from support.nvidia_kit import Device, nvidia_roots
from support.ocsp_kit import REVOKED, answer, pairs_of, refusal
from support.vectors import vectors

BOARD = {15: b"882\0\0", 17: b"1010\0", 18: b"0200\0"}
DRIVER_ID, VBIOS_ID = "NV_GPU_DRIVER_GH100_580.159.03", "NV_GPU_VBIOS_1010_0200_882_9600740020"


def device() -> Device:
    return Device(fields=BOARD)


class Vendor:
    """Both services. ``manifests``: id -> XML; ``pairs``: what OCSP knows; ``busy``: answers to refuse first."""

    def __init__(self, one: Device) -> None:
        self.evidence = one.evidence()
        self.manifests = {DRIVER_ID: self.evidence.aux["driver_rim"], VBIOS_ID: self.evidence.aux["vbios_rim"]}
        self.pairs = pairs_of(self.evidence)
        self.asked: list[str] = []
        self.busy = 0
        self.changes: dict[int, dict[str, Any]] = {}

    async def get(self, url: str) -> Reply:
        """The RIM service."""
        self.asked.append(url)
        name = url.rsplit("/", 1)[-1]
        if self.busy:
            self.busy -= 1
            return Reply(503, {}, b"")
        if name not in self.manifests:
            return Reply(404, {}, b"{}")
        data = self.manifests[name]
        body = {"id": name, "rim": base64.b64encode(data).decode(), "sha256": hashlib.sha256(data).hexdigest()}
        return Reply(200, {}, json.dumps(body).encode())

    async def post(self, url: str, body: bytes, content_type: str) -> Reply:
        """The OCSP service."""
        assert content_type == "application/ocsp-request"
        self.asked.append(url)
        request = ocsp.load_der_ocsp_request(body)
        for place, pair in enumerate(self.pairs):
            if pair[0].serial_number == request.serial_number:
                assert request.hash_algorithm.name == "sha384"
                return Reply(200, {}, answer(pair, **self.changes.get(place, {})))
        return Reply(200, {}, refusal(ocsp.OCSPResponseStatus.UNAUTHORIZED))

    def source(self, cache: Cache | None = None, **options: Any) -> NvidiaCollateral:
        """A client that does not wait."""
        return NvidiaCollateral(self.get, self.post, cache, sleep=_no_sleep, **options)

    @property
    def blob(self) -> bytes:
        """What the source is asked about."""
        return self.evidence.blob + self.evidence.aux["chain"]


async def _no_sleep(_: float) -> None:
    return None


def verified(one: Evidence, aux: dict[str, bytes]) -> dict[str, Any]:
    bare = {"chain": one.aux["chain"], "mode": one.aux["mode"]}
    claims = kinds.verify(dataclasses.replace(one, aux={**bare, **aux}), nvidia_roots(), NOW)
    return {**claims.details, "tcb": claims.tcb_status}


async def test_what_is_fetched_makes_a_golden_device() -> None:
    vendor = Vendor(device())
    found = await vendor.source().aux("nvidia-gpu", vendor.blob)
    assert set(found) == {"driver_rim", "vbios_rim", "ocsp"}
    details = verified(vendor.evidence, found)
    assert (details["tcb"], details["revocation"]) == ("Golden", "good")
    assert len(vendor.asked) == 2 + 7


async def test_an_answer_of_revoked_is_kept_and_the_verifier_names_it() -> None:
    vendor = Vendor(device())
    vendor.changes = {2: {"status": REVOKED}}
    found = await vendor.source().aux("nvidia-gpu", vendor.blob)
    with pytest.raises(CloisterError, match=r"attestation\.revoked"):
        verified(vendor.evidence, found)


async def test_other_kinds_are_not_our_business() -> None:
    assert await Vendor(device()).source().aux("tdx", b"anything") == {}


# --- ids ---


def test_ids_follow_from_the_report() -> None:
    def ids(one: Device, kind: str = "nvidia-gpu") -> dict[str, str]:
        return rim_ids(kind, spdm.parse(one.exchange()), one.chip)

    assert ids(device()) == {"driver_rim": DRIVER_ID, "vbios_rim": VBIOS_ID}
    blackwell = Device("GB100", fields={**BOARD, 35: b"GB200\0"})
    assert ids(blackwell)["driver_rim"] == "NV_GPU_CC_DRIVER_GB200_580.159.03"
    assert ids(Device("GB100", fields=BOARD))["driver_rim"] == "NV_GPU_CC_DRIVER_GB100_580.159.03"
    assert ids(Device("LS10"), "nvidia-switch") == {"vbios_rim": "NV_SWITCH_BIOS_5612_0002_890_9600740020"}


def test_a_real_report_names_its_manifests() -> None:
    (row,) = json.loads((vectors() / "nvidia-gpu/attestation-sdk/hopper_evidence.json").read_text())
    named = rim_ids("nvidia-gpu", spdm.parse(base64.b64decode(row["evidence"])), "GH100")
    assert named == {
        "driver_rim": "NV_GPU_DRIVER_GH100_590.12",
        "vbios_rim": "NV_GPU_VBIOS_G520_0200_885_9600A50001",
    }


@pytest.mark.parametrize("field", [15, 17, 18])
@pytest.mark.parametrize("value", [b"", b"../..\0", b"a b", b"\xff\xfe", b"x" * 90])
def test_a_report_that_names_no_board_is_refused(field: int, value: bytes) -> None:
    one = Device(fields={**BOARD, field: value})
    with pytest.raises(CloisterError):
        rim_ids("nvidia-gpu", spdm.parse(one.exchange()), "GH100")


# --- the services misbehave ---


async def test_a_manifest_that_is_not_there_is_named() -> None:
    vendor = Vendor(device())
    del vendor.manifests[VBIOS_ID]
    with pytest.raises(EvidenceError) as caught:
        await vendor.source().aux("nvidia-gpu", vendor.blob)
    assert (caught.value.code, VBIOS_ID in caught.value.expected) == ("evidence.collateral", True)
    assert sum(VBIOS_ID in url for url in vendor.asked) == 1, "a missing manifest is not asked for again"


async def test_a_busy_service_is_asked_again() -> None:
    vendor = Vendor(device())
    vendor.busy = 2
    assert await vendor.source().aux("nvidia-gpu", vendor.blob)
    vendor.busy = 3
    with pytest.raises(EvidenceError):
        await vendor.source().aux("nvidia-gpu", vendor.blob)


async def test_an_ocsp_service_that_refuses_is_a_refusal() -> None:
    vendor = Vendor(device())
    vendor.pairs = vendor.pairs[1:]
    with pytest.raises(EvidenceError) as caught:
        await vendor.source().aux("nvidia-gpu", vendor.blob)
    assert caught.value.code == "evidence.collateral"


@pytest.mark.parametrize("blob", [b"", b"x" * 100, b"-----BEGIN CERTIFICATE-----", Device().exchange()])
async def test_what_is_no_device_is_a_named_refusal(blob: bytes) -> None:
    with pytest.raises(EvidenceError) as caught:
        await Vendor(device()).source().aux("nvidia-gpu", blob)
    assert caught.value.code == "evidence.collateral"


def _reply(**changes: Any) -> bytes:
    data = b"<xml/>"
    whole = {"id": "X", "rim": base64.b64encode(data).decode(), "sha256": hashlib.sha256(data).hexdigest()}
    return json.dumps(whole | changes).encode()


REPLIES: dict[str, bytes] = {
    "no JSON": b"<html>",
    "a list": b"[]",
    "deep": b"[" * 50_000,
    "another id": _reply(id="Y"),
    "no manifest": json.dumps({"id": "X"}).encode(),
    "no base64": _reply(rim="***"),
    "a number": _reply(rim=7),
    "empty": _reply(rim=""),
    "over 64 KiB": _reply(rim=base64.b64encode(bytes(65537)).decode(), sha256=None),
    "another hash": _reply(sha256="00" * 32),
    "a hash that is a number": _reply(sha256=1),
}


@pytest.mark.parametrize("what", REPLIES)
def test_other_replies_are_refused(what: str) -> None:
    assert parse_rim_reply(_reply(), "X") == b"<xml/>"
    with pytest.raises(EvidenceError) as caught:
        parse_rim_reply(REPLIES[what], "X")
    assert caught.value.code == "evidence.collateral"


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(EvidenceError):
        parse_rim_reply(data, "X")


# --- the cache ---


async def test_kept_answers_are_used_while_fresh_and_when_nobody_answers(tmp_path: Path) -> None:
    vendor, now = Vendor(device()), [float(NOW)]
    cache = Cache(tmp_path / "cache", clock=lambda: now[0])
    first = await vendor.source(cache).aux("nvidia-gpu", vendor.blob)
    assert len(vendor.asked) == 9
    assert await vendor.source(cache).aux("nvidia-gpu", vendor.blob) == first
    assert len(vendor.asked) == 9, "all from the cache"
    now[0] += 3601
    again = await vendor.source(cache).aux("nvidia-gpu", vendor.blob)
    assert len(vendor.asked) == 9 + 7, "OCSP answers are asked for anew each hour, manifests are not"
    assert again["ocsp"] != first["ocsp"]
    now[0] += 30 * 86400

    async def gone(*_: object) -> Reply:
        raise OSError("no route")

    offline = NvidiaCollateral(gone, gone, cache, sleep=_no_sleep)
    assert await offline.aux("nvidia-gpu", vendor.blob) == again
    with pytest.raises(EvidenceError):
        await NvidiaCollateral(gone, gone, sleep=_no_sleep).aux("nvidia-gpu", vendor.blob)


# --- over real HTTP ---


@pytest.fixture
async def server() -> AsyncIterator[tuple[Vendor, TestServer]]:
    vendor = Vendor(device())

    async def serve_rim(request: web.Request) -> web.Response:
        reply = await vendor.get(str(request.url))
        return web.Response(status=reply.status, body=reply.body)

    async def serve_ocsp(request: web.Request) -> web.Response:
        reply = await vendor.post("", await request.read(), request.headers["Content-Type"])
        return web.Response(status=reply.status, body=reply.body, content_type="application/ocsp-response")

    app = web.Application()
    app.router.add_get("/v1/rim/{id}", serve_rim)
    app.router.add_post("/ocsp", serve_ocsp)
    made = TestServer(app, host="127.0.0.1")
    await made.start_server()
    try:
        yield vendor, made
    finally:
        await made.close()


async def test_over_real_http(server: tuple[Vendor, TestServer]) -> None:
    vendor, made = server
    source = NvidiaCollateral(rim=str(made.make_url("/")), ocsp=str(made.make_url("/ocsp")), sleep=_no_sleep)
    found = await source.aux("nvidia-gpu", vendor.blob)
    assert verified(vendor.evidence, found)["revocation"] == "good"

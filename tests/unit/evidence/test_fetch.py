"""Collateral from the vendors: a local server plays Intel's PCS, a PCCS and AMD's KDS; retries, caps and the cache."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import Encoding

from cloister.attestation import Evidence, verify
from cloister.core.attestation import snp
from cloister.core.errors import CloisterError, EvidenceError
from cloister.devnet.tee import amd
from cloister.devnet.tee.x509build import DAY, moment
from cloister.evidence.collect import Bundle, collect
from cloister.evidence.detect import MachineConfig
from cloister.evidence.fetch import (
    INTEL_ROOT_CRL,
    MAX_BODY,
    Cache,
    LayeredCollateral,
    Reply,
    VendorCollateral,
    http_get,
    products,
    vcek_path,
)
from support.hardware import MEASUREMENT, NOW, chip, collateral, evidence, factory, platform, roots
from support.intel_kit import ccel, sgx_collateral, sgx_quote, tdx_quote
from support.vectors import cases, evidence_of

REPORT = bytes(range(64))
CHAINS = {
    "pck_crl": "SGX-PCK-CRL-Issuer-Chain",
    "tcb_info": "TCB-Info-Issuer-Chain",
    "qe_identity": "SGX-Enclave-Identity-Issuer-Chain",
}
Respond = Callable[[str], Reply]


def _crl() -> bytes:
    issuer = factory().amd.root
    digest = hashes.SHA384()
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.certificate.subject)
    builder = builder.last_update(moment(NOW - DAY)).next_update(moment(NOW + DAY))
    made = builder.sign(issuer.key, digest, rsa_padding=padding.PSS(padding.MGF1(digest), 48))
    return made.public_bytes(Encoding.DER)


def _vendor(url: str) -> Reply:
    """Every address of the vendors, by path."""
    place, query = urlsplit(url).path, parse_qs(urlsplit(url).query)
    fields = json.loads(sgx_collateral() if place.startswith("/sgx/") else collateral())
    name = {"tcb": "tcb_info", "identity": "qe_identity", "pckcrl": "pck_crl"}.get(place.rsplit("/", 1)[-1], "")
    if name == "tcb_info":
        assert query == {"fmspc": ["C10157E50000"]}
    if name == "pck_crl":
        assert query == {"ca": ["platform"], "encoding": ["der"]}
    headers = {CHAINS[name].lower(): quote(fields[f"{name}_issuer_chain"])} if name else {}
    if name in ("tcb_info", "qe_identity"):
        key = {"tcb_info": "tcbInfo", "qe_identity": "enclaveIdentity"}[name]
        text = f'{{"{key}":{fields[name]},"signature":"{fields[f"{name}_signature"]}"}}'
        return Reply(200, headers, text.encode())
    if name == "pck_crl":
        return Reply(200, headers, bytes.fromhex(fields["pck_crl"]))
    if place.endswith("/rootcacrl"):
        return Reply(200, {}, fields["root_ca_crl"].encode())  # a PCCS answers in hex
    if url == INTEL_ROOT_CRL:
        return Reply(200, {}, bytes.fromhex(fields["root_ca_crl"]))
    return _amd(place, query)


def _amd(place: str, query: dict[str, list[str]]) -> Reply:
    certificates = chip().certificates
    if place == f"/vcek/v1/Genoa/{chip().chip_id.hex()}":
        assert query == {"blSPL": ["10"], "teeSPL": ["00"], "snpSPL": ["25"], "ucodeSPL": ["88"]}
        return Reply(200, {}, certificates["vek"])
    if place in ("/vcek/v1/Genoa/cert_chain", "/vlek/v1/Genoa/cert_chain"):
        return Reply(200, {}, (factory().amd.signing.pem + factory().amd.root.pem).encode())
    if place in ("/vcek/v1/Genoa/crl", "/vlek/v1/Genoa/crl"):
        return Reply(200, {}, _crl())
    return Reply(404, {}, b"")


class Fake:
    """A vendor that fails as often as it is told, and remembers what it was asked."""

    def __init__(self, respond: Respond = _vendor, failures: int = 0, error: Exception | None = None) -> None:
        self.asked: list[str] = []
        self.slept: list[float] = []
        self._respond, self._failures, self._error = respond, failures, error

    async def get(self, url: str) -> Reply:
        self.asked.append(url)
        if self._failures:
            self._failures -= 1
            if self._error:
                raise self._error
            return Reply(503, {}, b"")
        return self._respond(url)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def source(self, cache: Cache | None = None, **options: Any) -> VendorCollateral:
        return VendorCollateral(self.get, cache, sleep=self.sleep, **options)


def _quotes() -> dict[str, bytes]:
    return {"tdx": platform().quote(MEASUREMENT, REPORT), "sgx": sgx_quote()}


@pytest.mark.parametrize("kind", ["tdx", "sgx"])
async def test_collateral_of_intel_verifies(kind: str) -> None:
    fake = Fake()
    blob = _quotes()[kind]
    shown = Evidence(kind, blob, await fake.source().aux(kind, blob))
    assert verify(shown, roots(), NOW).tcb_status == "UpToDate"
    tee = kind
    base = "https://api.trustedservices.intel.com"
    assert fake.asked == [
        f"{base}/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
        f"{base}/{tee}/certification/v4/tcb?fmspc=C10157E50000",
        f"{base}/{tee}/certification/v4/qe/identity",
        INTEL_ROOT_CRL,
    ]


async def test_certificates_of_amd_verify_with_their_list() -> None:
    fake, report = Fake(), chip().report(MEASUREMENT, REPORT)
    aux = await fake.source().aux("snp", report)
    assert set(aux) == {"vek", "intermediate", "ark", "crl"}
    assert verify(Evidence("snp", report, aux), roots(), NOW).details["crl"] is True
    assert len(fake.asked) == 3


async def test_a_vlek_cannot_be_fetched_and_its_authorities_can() -> None:
    report = bytearray(chip().report(MEASUREMENT, REPORT))
    report[0x48] |= 1 << 2
    aux = await Fake().source().aux("snp", bytes(report))
    assert set(aux) == {"intermediate", "ark", "crl"}


async def test_kinds_that_need_nothing_get_nothing() -> None:
    fake = Fake()
    assert await fake.source().aux("nitro", b"document") == {}
    assert fake.asked == []


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    async def handle(request: web.Request) -> web.Response:
        if request.path == "/moved":
            return web.Response(status=302, headers={"Location": "/sgx/certification/v4/rootcacrl"})
        if request.path == "/endless":
            return web.Response(body=bytes(MAX_BODY + 1))
        reply = _vendor(f"http://vendor{request.path_qs}")
        return web.Response(status=reply.status, body=reply.body, headers=dict(reply.headers))

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server()
    yield server
    await server.close()


async def test_over_real_http_from_a_local_pccs(server: TestServer) -> None:
    url = str(server.make_url("/"))
    source = VendorCollateral(http_get, pccs=url, kds=url)
    for kind, blob in _quotes().items():
        shown = Evidence(kind, blob, await source.aux(kind, blob))
        assert verify(shown, roots(), NOW).kind == kind
    report = chip().report(MEASUREMENT, REPORT)
    assert verify(Evidence("snp", report, await source.aux("snp", report)), roots(), NOW).kind == "snp"


async def test_http_follows_no_redirect_and_reads_no_more_than_a_mebibyte(server: TestServer) -> None:
    assert (await http_get(str(server.make_url("/moved")))).status == 302
    with pytest.raises(OSError, match="1 MiB"):
        await http_get(str(server.make_url("/endless")))


async def test_nobody_there_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError):
        await http_get("http://127.0.0.1:1/")


@pytest.mark.parametrize("error", [None, OSError("reset"), TimeoutError()])
async def test_two_failures_are_tried_again(error: Exception | None) -> None:
    fake = Fake(failures=2, error=error)
    report = chip().report(MEASUREMENT, REPORT)
    assert "vek" in await fake.source().aux("snp", report)
    assert fake.slept == [1.0, 2.0]


async def test_three_failures_are_a_refusal_that_names_the_address() -> None:
    fake = Fake(failures=3)
    blob = _quotes()["tdx"]
    with pytest.raises(EvidenceError) as caught:
        await fake.source().aux("tdx", blob)
    assert caught.value.code == "evidence.collateral"
    assert "pckcrl" in caught.value.expected
    assert caught.value.found == "status 503"


async def test_what_is_not_there_is_not_asked_for_again() -> None:
    fake = Fake(lambda url: Reply(404, {}, b""))
    with pytest.raises(EvidenceError):
        await fake.source().aux("tdx", _quotes()["tdx"])
    assert (len(fake.asked), fake.slept) == (1, [])


BAD_REPLIES: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"hello",
    "another reply": b'{"enclaveIdentity":{},"signature":"00"}',
    "no signature": b'{"tcbInfo":{}}',
    "no text": b"\xff\xfe",
    "JSON of great depth": b'{"tcbInfo":' + b"[" * 100000,
    "more than the limit": bytes(MAX_BODY + 1),
}


@pytest.mark.parametrize("sentence", BAD_REPLIES)
async def test_other_replies_are_named_refusals(sentence: str) -> None:
    def respond(url: str) -> Reply:
        good = _vendor(url)
        return Reply(200, good.headers, BAD_REPLIES[sentence]) if "/tcb?" in url else good

    with pytest.raises(CloisterError) as caught:
        await Fake(respond).source().aux("tdx", _quotes()["tdx"])
    assert caught.value.code in ("evidence.collateral", "attestation.input")


@pytest.mark.parametrize(
    ("kind", "blob"), [("tdx", b""), ("tdx", b"x" * 700), ("sgx", b"\x03\0"), ("snp", b""), ("snp", bytes(1184))]
)
async def test_what_is_no_quote_is_a_named_refusal(kind: str, blob: bytes) -> None:
    with pytest.raises(CloisterError):
        await Fake().source().aux(kind, blob)


class Clock:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_kept_answers_are_used_while_they_are_fresh(tmp_path: Path) -> None:
    clock, fake, blob = Clock(), Fake(), _quotes()["tdx"]
    source = fake.source(Cache(tmp_path / "cache", clock))
    first = await source.aux("tdx", blob)
    assert await source.aux("tdx", blob) == first
    assert len(fake.asked) == 4
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "cache").iterdir()} <= {0, 0o044}
    clock.now += 12 * 3600 + 1
    assert await source.aux("tdx", blob) == first
    assert len(fake.asked) == 8


async def test_old_answers_are_better_than_none(tmp_path: Path) -> None:
    clock, blob = Clock(), _quotes()["tdx"]
    cache = Cache(tmp_path, clock)
    first = await Fake().source(cache).aux("tdx", blob)
    clock.now += 20 * DAY
    dead = Fake(failures=99, error=OSError("unreachable"))
    assert await dead.source(cache).aux("tdx", blob) == first
    assert verify(Evidence("tdx", blob, first), roots(), NOW).kind == "tdx"


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda data: b"",
    "cut off": lambda data: data[:100],
    "of another address": lambda data: data.replace(b"https://", b"https:// "),
    "of the future": lambda data: data.replace(b'"at": 1000.0', b'"at": 9999.0'),
    "a list": lambda data: b"[]",
    "without headers": lambda data: data.replace(b'"headers"', b'"heads"'),
    "not hex": lambda data: data.replace(b'"body": "', b'"body": "zz'),
}


@pytest.mark.parametrize("sentence", DAMAGE)
async def test_a_damaged_cache_costs_only_itself(sentence: str, tmp_path: Path) -> None:
    cache, blob = Cache(tmp_path, Clock()), _quotes()["tdx"]
    first = await Fake().source(cache).aux("tdx", blob)
    for path in tmp_path.iterdir():
        path.write_bytes(DAMAGE[sentence](path.read_bytes()))
    fake = Fake()
    assert await fake.source(cache).aux("tdx", blob) == first
    assert len(fake.asked) == 4


async def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert await Fake().source(Cache(tmp_path / "file" / "cache")).aux("tdx", _quotes()["tdx"])
    with pytest.raises(RuntimeError):
        Cache(None)._file("x")


def test_products_are_told_by_their_cpuid() -> None:
    def report(version: int, family: int, model: int) -> bytes:
        raw = bytearray(1184)
        raw[0], raw[0x188], raw[0x189] = version, family, model
        return bytes(raw)

    assert products(report(2, 0, 0)) == ("Milan", "Genoa")
    assert products(report(3, 0x19, 0x01)) == ("Milan",)
    assert products(report(3, 0x19, 0x11)) == products(report(5, 0x19, 0xA0)) == ("Genoa",)
    assert products(report(5, 0x1A, 0x02)) == ("Turin",)
    assert products(report(3, 0x18, 0x02)) == ()


def test_real_reports_are_of_the_products_that_their_certificates_say() -> None:
    for case in cases("snp"):
        if case.get("product"):
            assert case["product"].split("-")[0] in products(evidence_of(case).blob)


def test_turin_is_asked_for_by_eight_bytes_and_five_versions() -> None:
    raw = bytearray(1184)
    raw[0x180:0x188], raw[0x1A0:0x1E0] = bytes([1, 2, 3, 4, 0, 0, 0, 9]), bytes(range(64))
    assert vcek_path(bytes(raw), "Turin") == "0001020304050607?fmcSPL=01&blSPL=02&teeSPL=03&snpSPL=04&ucodeSPL=09"
    assert vcek_path(bytes(raw), "Milan").startswith(
        bytes(range(64)).hex() + "?blSPL=01&teeSPL=02&snpSPL=00&ucodeSPL=09"
    )


async def test_a_chip_of_version_two_is_looked_for_under_both_products() -> None:
    report = bytearray(chip().report(MEASUREMENT, REPORT))
    report[0] = 2
    fake = Fake()
    assert "vek" in await fake.source().aux("snp", bytes(report))
    assert ["/vcek/v1/Milan/" in url for url in fake.asked[:2]] == [True, False]
    with pytest.raises(EvidenceError):
        await Fake(lambda url: Reply(404, {}, b"")).source().aux("snp", bytes(report))
    assert amd.GENERATION in snp.PRODUCTS


async def test_the_first_source_that_answers_counts() -> None:
    dead = Fake(failures=99).source()
    both = LayeredCollateral(dead, Fake().source())
    assert "collateral" in await both.aux("tdx", _quotes()["tdx"])
    for sources in ((), (dead,)):
        with pytest.raises(EvidenceError):
            await LayeredCollateral(*sources).aux("tdx", _quotes()["tdx"])


class Machine:
    """`collect` on a machine of this kind."""

    def __init__(self, shown: Evidence) -> None:
        self._shown = shown
        self.kind = shown.kind

    async def quote(self, report_data: bytes) -> Evidence:
        assert report_data == REPORT
        return self._shown


def _bundle(monkeypatch: pytest.MonkeyPatch, shown: Evidence, log: Path, **options: Any) -> Bundle:
    monkeypatch.setattr("cloister.evidence.collect.open_tee", lambda machine, source: Machine(shown))
    return asyncio.run(collect(MachineConfig(), REPORT, log=log, clock=lambda: NOW + 0.5, **options))


def test_a_bundle_is_all_that_a_later_check_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from cloister.core.attestation.examine import examine
    from cloister.core.attestation.intake import read
    from support.hardware import policy

    for kind in ("tdx", "snp", "nitro"):
        bundle = _bundle(monkeypatch, evidence(kind, REPORT), tmp_path / "none", offline=True)
        assert bundle.collected_at == NOW
        taken = read(bundle.encode())
        assert taken.evidence == bundle.evidence
        assert examine(taken.evidence, policy=policy(), now=NOW, report_data=REPORT).accepted


def test_a_boot_log_comes_along_if_it_fits_the_quote(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from cloister.core.attestation.eventlog import replay_rtmrs

    log = tmp_path / "CCEL"
    log.write_bytes(ccel([(1, 4, b"firmware"), (3, 13, b"kernel")]))
    rtmrs, _ = replay_rtmrs(log.read_bytes())
    for registers, comes in ((rtmrs, True), ([*rtmrs[:3], b"\1" * 48], False)):
        shown = Evidence("tdx", tdx_quote(registers, REPORT), {"collateral": collateral()})
        bundle = _bundle(monkeypatch, shown, log)
        assert ("event_log" in bundle.evidence.aux) is comes
        assert verify(bundle.evidence, roots(), NOW).kind == "tdx"
    log.write_bytes(b"garbage")
    shown = Evidence("tdx", tdx_quote(rtmrs, REPORT), {"collateral": collateral()})
    assert "event_log" not in _bundle(monkeypatch, shown, log).evidence.aux

"""Evidence of Azure VMs: what the producer collects is what the verifier takes, on real and on pretend machines."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.attestation import hcl, kinds
from cloister.core.attestation.model import Evidence
from cloister.core.attestation.roots import Roots
from cloister.core.errors import EvidenceError
from cloister.evidence import azure
from cloister.evidence.azure import CERTIFICATES, MAX_ANSWER, TD_QUOTE, AzureVm, Metadata, Vtpm, probe
from cloister.evidence.collateral import NO_COLLATERAL
from cloister.evidence.collect import with_log
from support.azure_kit import azure_evidence, runtime_data
from support.azure_vm import FakeTools, Imds, canned, living, td_answer, thim, vtpm_of
from support.hardware import NOW, chip, collateral, roots
from support.tpm_kit import boot_log, keys
from support.vectors import at, der, vectors

REPORT_DATA = bytes(range(64))
BOTH = ("azure-snp", "azure-tdx")


class Source:
    """Collateral of the simulated vendors: TDX's, or a revocation list."""

    def __init__(self, **parts: bytes) -> None:
        self.parts, self.asked = parts, []  # type: ignore[var-annotated]

    async def aux(self, kind: str, blob: bytes) -> dict[str, bytes]:
        """What was given; for TDX the simulated collateral."""
        self.asked.append((kind, len(blob)))
        return {"collateral": collateral()} if kind == "tdx" and not self.parts else self.parts


class Silent:
    """A source that has nothing."""

    async def aux(self, kind: str, blob: bytes) -> dict[str, bytes]:
        """Refuses."""
        raise NO_COLLATERAL(expected=f"{kind} of {len(blob)}", found="nothing")


def machine(kind: str, imds: Imds, **options: Any) -> AzureVm:
    model = azure_evidence(kind)
    options = {"vtpm": vtpm_of(model), "metadata": imds.metadata(), "collateral": Source()} | options
    return AzureVm(kind, **options)


async def refusal(work: Any) -> str:
    with pytest.raises(EvidenceError) as caught:
        await work
    assert caught.value.remedy
    return caught.value.code


# --- the whole way ---


@pytest.mark.parametrize("kind", BOTH)
async def test_what_is_collected_verifies(kind: str) -> None:
    with Imds.of(azure_evidence(kind)).serving() as imds:
        tee = machine(kind, imds)
        evidence = await tee.quote(REPORT_DATA)
    claims = kinds.verify(evidence, roots(), NOW)
    assert (claims.kind, claims.report_data) == (kind, REPORT_DATA)
    assert tee.kind == evidence.kind == kind
    assert kinds.launch_measurement(claims)


@pytest.mark.parametrize("kind", BOTH)
async def test_each_quote_answers_its_own_report_data(kind: str) -> None:
    with Imds.of(azure_evidence(kind)).serving() as imds:
        one, two = [await machine(kind, imds).quote(bytes([n]) * 64) for n in (1, 2)]
    assert kinds.verify(one, roots(), NOW).report_data == b"\1" * 64
    swapped = dataclasses.replace(one, aux={**one.aux, "report_data": two.aux["report_data"]})
    with pytest.raises(Exception, match=r"attestation\.tpm_nonce"):
        kinds.verify(swapped, roots(), NOW)


async def test_the_metadata_service_is_asked_as_azure_wants_it() -> None:
    with Imds.of(azure_evidence("azure-snp")).serving() as imds:
        await machine("azure-snp", imds).quote(REPORT_DATA)
        assert imds.asked == [("GET", CERTIFICATES, b"", "true")]
    model = azure_evidence("azure-tdx")
    with Imds.of(model).serving() as imds:
        await machine("azure-tdx", imds).quote(REPORT_DATA)
        ((method, path, body, header),) = imds.asked
    report = json.loads(body)["report"]
    assert (method, path, header) == ("POST", TD_QUOTE, "true")
    assert base64.urlsafe_b64decode(report + "=" * (-len(report) % 4)) == model.blob[32 : 32 + 1024]


def real_snp() -> Evidence:
    """A real VM; its certificates as the metadata service gave them out."""
    whole = json.loads((vectors() / "azure-vtpm/snp/evidence-v1.json").read_text())["evidence"]
    quote = whole["tpm_quote"]
    aux = {
        "quote": bytes.fromhex(quote["message"]),
        "signature": bytes.fromhex(quote["signature"]),
        "pcrs": bytes.fromhex("".join(quote["pcrs"])),
        "vek": _base64url(whole["vcek"]),
        "intermediate": der("azure-vtpm/snp/imds-chain-0.der"),
        "ark": der("azure-vtpm/snp/imds-chain-1.der"),
    }
    return Evidence("azure-snp", _base64url(whole["hcl_report"]), aux)


def _base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


async def test_a_real_vm_on_snp_replayed() -> None:
    """Report, quote and certificates of a real VM pass through the producer and verify under AMD's own root."""
    recorded = real_snp()
    with Imds.of(recorded).serving() as imds:
        vm = AzureVm("azure-snp", vtpm_of(recorded, canned(recorded)), imds.metadata(), Silent())
        evidence = await vm.answer(b"challenge")
    assert evidence == recorded
    claims = kinds.verify(evidence, Roots.production(), at("2026-11-22T00:00:00+00:00"))
    assert (claims.vendor_class, claims.report_data) == ("microsoft+amd", b"challenge")


async def test_a_real_vm_on_tdx_replayed() -> None:
    """The vTPM's half and the TD quote of a real VM; there is no collateral of its family at hand."""
    whole = json.loads((vectors() / "azure-vtpm/tdx/evidence-v1.json").read_text())["evidence"]
    quote = whole["tpm_quote"]
    parts = {name: bytes.fromhex(quote[field]) for name, field in (("quote", "message"), ("signature", "signature"))}
    parts |= {"pcrs": bytes.fromhex("".join(quote["pcrs"])), "td_quote": _base64url(whole["td_quote"])}
    recorded = Evidence("azure-tdx", _base64url(whole["hcl_report"]), {**parts, "collateral": b"{}"})
    with Imds.of(recorded).serving() as imds:
        vtpm = vtpm_of(recorded, canned(recorded))
        vm = AzureVm("azure-tdx", vtpm, imds.metadata(), Source(collateral=b"{}"))
        evidence = await vm.answer(b"challenge")
        body = json.loads(imds.asked[0][2])
    assert evidence == recorded
    assert _base64url(body["report"]) == recorded.blob[32 : 32 + 1024]


# --- certificates and collateral ---


async def test_the_vendors_revocation_list_joins_the_hosts_certificates() -> None:
    with Imds.of(azure_evidence("azure-snp")).serving() as imds:
        source = Source(crl=b"a list")
        evidence = await machine("azure-snp", imds, collateral=source).quote(REPORT_DATA)
    assert evidence.aux["crl"] == b"a list"
    assert source.asked == [("azure-snp", 1184)]


async def test_a_file_stands_in_for_a_silent_metadata_service() -> None:
    with Imds({CERTIFICATES: (503, b"")}).serving() as imds:
        evidence = await machine("azure-snp", imds, collateral=Source(**chip().certificates)).quote(REPORT_DATA)
        assert kinds.verify(evidence, roots(), NOW).kind == "azure-snp"
        assert len(imds.asked) == 3, "a busy service is asked again"
        assert await refusal(machine("azure-snp", imds, collateral=Silent()).quote(REPORT_DATA)) == (
            "evidence.azure_metadata"
        )


async def test_tdx_without_collateral_is_refused() -> None:
    with Imds.of(azure_evidence("azure-tdx")).serving() as imds:
        work = machine("azure-tdx", imds, collateral=Silent()).quote(REPORT_DATA)
        assert await refusal(work) == "evidence.collateral"


# --- the metadata service misbehaves ---


def _thim(**changes: Any) -> bytes:
    return json.dumps(json.loads(thim(azure_evidence("azure-snp"))) | changes).encode()


BAD_THIM: dict[str, Callable[[], bytes]] = {
    "no JSON": lambda: b"<html>",
    "a list": lambda: b"[]",
    "nothing": lambda: b"",
    "no certificate": lambda: _thim(vcekCert=None),
    "a number": lambda: _thim(vcekCert=7),
    "another text": lambda: _thim(vcekCert="hello"),
    "broken PEM": lambda: _thim(vcekCert="-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"),
    "two certificates of the chip": lambda: _thim(vcekCert=json.loads(_thim())["certificateChain"]),
    "one certificate of two": lambda: _thim(certificateChain=json.loads(_thim())["vcekCert"]),
    "letters beyond ASCII": lambda: _thim(vcekCert="-----BEGIN CERTIFICATE-----\nÄ\n-----END CERTIFICATE-----"),
    "a deep document": lambda: b"[" * 60000,
    "over 64 KiB": lambda: _thim(more="x" * MAX_ANSWER),
}


@pytest.mark.parametrize("what", BAD_THIM)
async def test_certificates_that_are_none(what: str) -> None:
    with Imds({CERTIFICATES: (200, BAD_THIM[what]())}).serving() as imds:
        work = machine("azure-snp", imds, collateral=Silent()).quote(REPORT_DATA)
        assert await refusal(work) == "evidence.azure_metadata"


BAD_TD: dict[str, bytes] = {
    "no quote": b"{}",
    "a number": b'{"quote": 1}',
    "no base64": b'{"quote": "***"}',
    "no TD quote": b'{"quote": "AAAA"}',
    "an empty text": b'{"quote": ""}',
    "over 16 KiB": json.dumps({"quote": "A" * 30000}).encode(),
}


@pytest.mark.parametrize("what", BAD_TD)
async def test_td_quotes_that_are_none(what: str) -> None:
    with Imds({TD_QUOTE: (200, BAD_TD[what])}).serving() as imds:
        assert await refusal(machine("azure-tdx", imds).quote(REPORT_DATA)) == "evidence.azure_metadata"


@pytest.mark.parametrize(("status", "asked"), [(400, 1), (403, 1), (404, 1), (301, 1), (429, 3), (500, 3), (410, 3)])
async def test_only_a_busy_service_is_asked_again(status: int, asked: int) -> None:
    with Imds({TD_QUOTE: (status, td_answer(azure_evidence("azure-tdx")))}).serving() as imds:
        assert await refusal(machine("azure-tdx", imds).quote(REPORT_DATA)) == "evidence.azure_metadata"
        assert len(imds.asked) == asked


async def test_a_service_that_wakes_up_is_heard() -> None:
    good = (200, td_answer(azure_evidence("azure-tdx")))
    with Imds({TD_QUOTE: [(429, b""), (503, b""), good]}).serving() as imds:
        evidence = await machine("azure-tdx", imds).quote(REPORT_DATA)
    assert kinds.verify(evidence, roots(), NOW).kind == "azure-tdx"


async def test_no_service_at_all() -> None:
    gone = Metadata("http://127.0.0.1:1", timeout_s=1.0, sleep=lambda _: None)
    vm = AzureVm("azure-tdx", vtpm_of(azure_evidence("azure-tdx")), gone, Source())
    assert await refusal(vm.quote(REPORT_DATA)) == "evidence.azure_metadata"


@pytest.mark.parametrize("base", ["https://169.254.169.254", "ftp://x", "/tmp", "http://"])
def test_only_plain_http_addresses_are_taken(base: str) -> None:
    with pytest.raises(TypeError):
        Metadata(base)


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with Imds.of(azure_evidence("azure-snp")).serving() as imds:
        assert set(imds.metadata().chip_certificates()) == {"vek", "intermediate", "ark"}


# --- the vTPM misbehaves ---


REPORTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "short": lambda r: r[:1000],
    "no magic": lambda r: b"XXXX" + r[4:],
    "an unknown hardware": lambda r: r[:1224] + (9).to_bytes(4, "little") + r[1228:],
    "no runtime data": lambda r: r[:1236],
    "another length": lambda r: r[:1232] + (5).to_bytes(4, "little") + r[1236:],
    "runtime data that is no JSON": lambda r: r[:1236] + b"x" + r[1237:],
    "zeros": lambda r: bytes(len(r)),
}


@pytest.mark.parametrize("what", REPORTS)
async def test_no_hcl_report_no_azure(what: str) -> None:
    report = REPORTS[what](azure_evidence("azure-snp").blob)
    vtpm = Vtpm(FakeTools(report, living))
    with pytest.raises(EvidenceError) as caught:
        probe(vtpm)
    assert caught.value.code == "evidence.quote"
    assert await refusal(AzureVm("azure-snp", vtpm, Metadata("http://127.0.0.1:1")).quote(REPORT_DATA)) == (
        "evidence.quote"
    )


@settings(max_examples=60)
@given(st.integers(0, 2599), st.integers(0, 7))
def test_any_bit_of_a_report_flipped_is_a_report_or_refused(place: int, bit: int) -> None:
    report = bytearray(azure_evidence("azure-snp").blob)
    report[place] ^= 1 << bit
    with contextlib.suppress(EvidenceError):
        assert probe(Vtpm(FakeTools(bytes(report), living))) in BOTH


@settings(max_examples=60)
@given(st.binary(max_size=4096))
def test_any_bytes_are_no_report(data: bytes) -> None:
    with pytest.raises(EvidenceError):
        probe(Vtpm(FakeTools(b"HCLA" + data, living)))


@pytest.mark.parametrize("kind", BOTH)
def test_the_report_says_which_hardware(kind: str) -> None:
    assert probe(vtpm_of(azure_evidence(kind))) == kind


async def test_a_machine_that_changed_its_hardware_is_refused() -> None:
    vm = AzureVm("azure-tdx", vtpm_of(azure_evidence("azure-snp")), Metadata("http://127.0.0.1:1"))
    assert await refusal(vm.quote(REPORT_DATA)) == "evidence.quote"


async def test_a_deeply_nested_runtime_is_refused() -> None:
    text = runtime_data(keys("rsa"))[:-1] + b',"x":' + b"[" * 100 + b"]" * 100 + b"}"
    with pytest.raises(EvidenceError):
        azure.parse_report(azure_evidence("azure-snp", text=text).blob[:2000])


# --- the boot log ---


async def test_a_boot_log_travels_only_if_it_explains_the_quote(tmp_path: Path) -> None:
    log, other = tmp_path / "log", tmp_path / "other"
    data = boot_log((4, 0x0D, b"kernel"))
    log.write_bytes(data)
    other.write_bytes(b"not a log")
    unlike = tmp_path / "unlike"
    unlike.write_bytes(boot_log((4, 0x0D, b"another kernel")))
    model = azure_evidence("azure-snp")
    with Imds.of(model).serving() as imds:
        plain = await machine("azure-snp", imds).quote(REPORT_DATA)
    names = {"right": log, "garbage": other, "absent": tmp_path / "none", "unlike": unlike}
    found = {name: with_log(plain, path) for name, path in names.items()}
    assert found["right"].aux["event_log"] == data
    assert kinds.verify(found["right"], roots(), NOW).details["events"] > 0
    assert all("event_log" not in found[name].aux for name in ("garbage", "absent", "unlike"))


# --- arguments ---


async def test_arguments_of_our_own_are_checked() -> None:
    with pytest.raises(TypeError):
        AzureVm("snp")
    vm = AzureVm("azure-snp", vtpm_of(azure_evidence("azure-snp")), Metadata("http://127.0.0.1:1"))
    for wrong in (b"", bytes(49)):
        with pytest.raises(TypeError):
            await vm.answer(wrong)
    with pytest.raises(TypeError):
        await vm.quote(bytes(63))
    assert hcl.MAGIC == b"HCLA"
    with pytest.raises(EvidenceError) as caught:
        await vm.sealing_key(b"context")
    assert caught.value.code == "evidence.no_sealing"

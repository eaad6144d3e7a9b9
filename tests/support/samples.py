"""Evidence of every kind that verifies, real and pretended, with every part that the kind knows."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import lru_cache
from typing import Any, NamedTuple

from cloister.core.attestation import kinds
from cloister.core.attestation.intake import read
from cloister.core.attestation.model import Claims, Evidence
from cloister.core.attestation.roots import Roots
from cloister.devnet.tee.x509build import DAY, revocation_list
from support.azure_kit import azure_evidence
from support.hardware import NOW, evidence, factory, roots
from support.intel_kit import ccel, dstack_evidence, fold, runtime_event, sgx_evidence, tdx_quote
from support.nvidia_kit import Device, nvidia_roots
from support.ocsp_kit import answers, pairs_of
from support.tpm_kit import boot_log, machine, public_area, tpm_evidence, tpm_roots
from support.vectors import at, cases, evidence_of, vectors

TODAY = at("2026-11-22T00:00:00+00:00")


class Sample(NamedTuple):
    """Evidence that verifies, under which roots and when (Unix seconds)."""

    name: str
    evidence: Evidence
    roots: Roots
    now: int

    def claims(self) -> Claims:
        return kinds.verify(self.evidence, self.roots, self.now)

    def part(self, name: str) -> bytes:
        return self.evidence.aux[name] if name else self.evidence.blob

    def with_part(self, name: str, data: bytes) -> Evidence:
        if not name:
            return dataclasses.replace(self.evidence, blob=data)
        return dataclasses.replace(self.evidence, aux={**self.evidence.aux, name: data})


def _as_read(case: dict[str, Any]) -> Evidence:
    """The evidence, with its own kind, and its log where it has one."""
    shown = evidence_of(case)
    if case.get("tee") == "sgx":
        return dataclasses.replace(shown, kind="sgx")
    if case["file"].endswith("quote-report.json"):
        log = json.loads((vectors() / case["file"]).read_bytes())["event_log"].encode()
        return Evidence("dstack", shown.blob, {**shown.aux, "event_log": log})
    return shown


@lru_cache(maxsize=1)
def real() -> tuple[Sample, ...]:
    """All real evidence that verifies."""
    found = [
        Sample(case["file"], _as_read(case), Roots.production(), at(case["verify_at"]))
        for case in cases("dcap", "snp", "nitro")
        if case["verdict"] != "reject"
    ]
    ark = [(vectors() / "amd-snp/roots/ask_ark_milan.pem").read_bytes()]
    files = {f"azure-vtpm/snp/{name}.json": ark for name in ("evidence-v1", "milan-v3-attestation")}
    files |= {f"nvidia-gpu/attestation-sdk/{n}.json": [] for n in ("hopper_evidence", "evidence_hopper_590_12")}
    for name, beside in files.items():
        taken = read((vectors() / name).read_bytes(), beside)
        found.append(Sample(name, taken.evidence, Roots.production(), TODAY))
    return tuple(found)


@lru_cache(maxsize=1)
def pretend() -> tuple[Sample, ...]:
    """Evidence of pretend vendors with every part that a kind knows."""
    own, snp = roots(), evidence("snp")
    crl = revocation_list(factory().amd.root, NOW - DAY, NOW + DAY)
    firmware = [(1, 4, b"variables"), (2, 13, b"kernel"), (3, 13, b"image"), (4, 13, b"settings")]
    measured = [fold([hashlib.sha384(data).digest()]) for _, _, data in firmware]
    tdx = Evidence("tdx", tdx_quote(measured), {**evidence("tdx").aux, "event_log": ccel(firmware)})
    log, tpm = boot_log((4, 13, b"kernel"), (15, 13, b"image"), (0, 3, b"a note")), machine()
    boot = [("app-id", b"a" * 20), ("compose-hash", b"c" * 32), ("boot-mr-done", b"")]
    return (
        Sample("tdx with a log", tdx, own, NOW),
        Sample("an enclave", sgx_evidence(), own, NOW),
        Sample("a guest", dstack_evidence([runtime_event(name, payload) for name, payload in boot]), own, NOW),
        Sample("nitro", evidence("nitro"), own, NOW),
        Sample("snp with a list", dataclasses.replace(snp, aux={**snp.aux, "crl": crl}), own, NOW),
        Sample("tpm", tpm_evidence(tpm, event_log=log, ak=public_area(tpm.ak)), tpm_roots(), NOW),
        Sample("azure-snp with all", azure_evidence("azure-snp", crl=crl, event_log=log), own, NOW),
        Sample("azure-tdx with all", azure_evidence("azure-tdx", event_log=log), own, NOW),
        Sample("gpu with all", _answered(Device("GH100").evidence()), nvidia_roots(), NOW),
        Sample("switch with all", _answered(Device("LS10").evidence()), nvidia_roots(), NOW),
    )


def _answered(shown: Evidence) -> Evidence:
    return dataclasses.replace(shown, aux={**shown.aux, "ocsp": answers(pairs_of(shown))})


def pretended(kind: str) -> Sample:
    """Pretended evidence of the kind: there is some of every kind, wherever the tests run."""
    return next(one for one in pretend() if one.evidence.kind == kind)


def one_of(kind: str) -> Sample:
    """Real evidence of the kind if there is some."""
    return next(one for one in (*real(), *pretend()) if one.evidence.kind == kind)


def fullest(kind: str) -> Sample:
    """The evidence of the kind with the most parts."""
    return max((one for one in (*pretend(), *real()) if one.evidence.kind == kind), key=lambda s: len(s.evidence.aux))

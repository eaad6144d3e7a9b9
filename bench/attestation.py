"""Verifications of every kind: CPU milliseconds, how many per second of one core, memory over ten thousand.

Intel's kinds stand beside bare dcap-qvl, which verifies less: no root of ours, no lengths, no debug, no lists' dates.
Evidence is real where vectors are at hand, else of pretend vendors; the row's name says which. Milliseconds are the
median of the quietest of twelve batches: other programs on the core's sibling thread make all medians longer.
Floors: 1 ms TDX and SNP; 4 ms Nitro, Azure, GPU. ``python -m bench.attestation [rounds [verifications]]``.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dcap_qvl import QuoteCollateralV3, verify_with_root_ca

from bench.evidence import VECTORS, Sample, pretend, real
from bench.measure import Row, at_most, fact, finish, median
from cloister.core.attestation.dcap import open_collateral
from cloister.core.attestation.intake import read
from cloister.core.attestation.kinds import verify
from cloister.core.attestation.model import Evidence
from cloister.core.attestation.roots import Roots

FLOORS_MS = {"tdx": 1.0, "snp": 1.0, "nitro": 4.0, "azure-snp": 4.0, "azure-tdx": 4.0, "nvidia-gpu": 4.0}
QUOTES = {
    "tdx": "",
    "sgx": "",
    "dstack": "",
    "azure-tdx": "td_quote",
}  # where a kind keeps its DCAP quote; "": the blob
FLAT_KIB = 4096.0
BATCHES = 12
FILES: Mapping[str, tuple[str, tuple[str, ...], str]] = {
    "sgx": ("intel-dcap/phala/sgx_quote", ("intel-dcap/phala/sgx_quote_collateral.json",), "2025-06-20T10:00:00+00:00"),
    "dstack": (
        "dstack/quote-report.json",
        ("intel-dcap/phala/tdx_quote_outdated_collateral.json",),
        "2026-02-20T00:00:00+00:00",
    ),
    "azure-snp": (
        "azure-vtpm/snp/milan-v3-attestation.json",
        ("amd-snp/roots/ask_ark_milan.pem",),
        "2026-11-22T00:00:00+00:00",
    ),
    "nvidia-gpu": ("nvidia-gpu/attestation-sdk/hopper_evidence.json", (), "2026-11-22T00:00:00+00:00"),
}


def samples(folder: Path) -> dict[str, Sample]:
    """One sample per kind: real ones, and for what the vectors lack those of pretend vendors."""
    found = {**pretend(folder), **made_up()}
    if VECTORS.is_dir():
        from tests.support.vectors import at

        found |= real()
        for kind, (file, beside, when) in FILES.items():
            taken = read((VECTORS / file).read_bytes(), [(VECTORS / one).read_bytes() for one in beside])
            found[kind] = Sample(taken.evidence, Roots.production(), at(when), "real")
    return found


def made_up() -> dict[str, Sample]:
    """Kinds of pretend vendors that only the tests build; a GPU with both of its manifests."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))  # the kits import each other as "support"
    from support.azure_kit import azure_evidence
    from support.hardware import NOW, roots
    from support.intel_kit import dstack_evidence, runtime_event, sgx_evidence
    from support.nvidia_kit import Device, nvidia_roots
    from support.tpm_kit import tpm_evidence, tpm_roots

    boot = [("app-id", b"a" * 20), ("compose-hash", b"c" * 32), ("boot-mr-done", b"")]
    guest = dstack_evidence([runtime_event(name, payload) for name, payload in boot])
    intel = {"sgx": sgx_evidence(), "dstack": guest, "azure-tdx": azure_evidence("azure-tdx")}
    found = {kind: Sample(evidence, roots(), NOW, "pretend") for kind, evidence in intel.items()}
    found["azure-snp"] = Sample(azure_evidence("azure-snp"), roots(), NOW, "pretend")
    found["tpm"] = Sample(tpm_evidence(), tpm_roots(), NOW, "pretend")
    for chip, kind in (("GH100", "nvidia-gpu"), ("LS10", "nvidia-switch")):
        found[kind] = Sample(Device(chip).evidence(), nvidia_roots(), NOW, "pretend")
    return found


def cpu_ms(works: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """CPU milliseconds of one call of each, taken in turns: their medians in the batch that was quietest for all."""
    for work in works:
        work()
    batches = []
    for _ in range(BATCHES):
        taken = [[_once(work) for work in works] for _ in range(max(rounds // BATCHES, 3))]
        batches.append([median(one) for one in zip(*taken, strict=True)])
    return min(batches, key=sum)


def _once(work: Callable[[], object]) -> float:
    began = time.process_time_ns()
    work()
    return (time.process_time_ns() - began) / 1e6


def bare(sample: Sample, quote: bytes) -> Callable[[], object]:
    """The same quote through dcap-qvl alone, its collateral parsed before."""
    text = sample.evidence.aux["collateral"]
    collateral, (_, root) = QuoteCollateralV3.from_json(text.decode()), open_collateral(text)
    return lambda: verify_with_root_ca(quote, collateral, root, sample.now)


def rows(folder: Path, *, rounds: int = 200, times: int = 10_000) -> list[Row]:
    """Rows per kind: milliseconds, verifications per second; then memory."""
    made, found = samples(folder), []
    for kind, sample in sorted(made.items()):
        works: list[Callable[[], object]] = [lambda s=sample: verify(s.evidence, s.roots, s.now)]  # type: ignore[misc]
        if kind in QUOTES:
            works.append(bare(sample, sample.evidence.aux[QUOTES[kind]] if QUOTES[kind] else sample.evidence.blob))
        took, *beside = cpu_ms(works, rounds)
        name = f"{sample.origin} {kind}" + (" beside bare dcap-qvl" if beside else "")
        floor, baseline = FLOORS_MS.get(kind), beside[0] if beside else None
        found.append(at_most(name, took, "ms", floor, baseline) if floor else fact(name, took, "ms", baseline))
        found.append(fact(f"{sample.origin} {kind} per CPU second", 1000 / took, "/s"))
    growth = growth_kib(made, times)
    found.append(at_most(f"memory grown by {times} verifications, no two alike", growth, "KiB", FLAT_KIB))
    return found


def growth_kib(made: Mapping[str, Sample], times: int) -> float:
    """How much the process grows over so many verifications of TDX, SNP and Nitro evidence, in KiB.

    Quotes and collateral differ each time, and every third piece is damaged and refused: no memory of ours may grow."""

    def some(start: int, count: int) -> None:
        for number in range(start, start + count):
            sample = made[("tdx", "snp", "nitro")[number % 3]]
            _attempt(_different(sample.evidence, number), sample)

    warm = max(times // 5, 60)
    some(0, warm)
    before = _resident_kib()
    some(warm, times)
    return max(0.0, _resident_kib() - before)


def _different(evidence: Evidence, number: int) -> Evidence:
    if evidence.kind == "tdx":  # zeros behind a quote and spaces behind JSON mean nothing
        collateral = evidence.aux["collateral"] + b" " * (number % 97)
        return replace(evidence, blob=evidence.blob + bytes(number % 64), aux={"collateral": collateral})
    if number % 2 == 0:
        return evidence
    bad = bytearray(evidence.blob)
    bad[number % len(bad)] ^= 1 + number % 255
    return replace(evidence, blob=bytes(bad))


def _attempt(evidence: Evidence, sample: Sample) -> None:
    from cloister.core.errors import CloisterError

    try:
        verify(evidence, sample.roots, sample.now)
    except CloisterError:
        return


def _resident_kib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return float(line.split()[1])
    raise RuntimeError("no VmRSS")


def main(arguments: Sequence[str]) -> int:
    """The rows of this module alone."""
    rounds, times = [*map(int, arguments), *(200, 10_000)[len(arguments) :]]
    with tempfile.TemporaryDirectory(prefix="bench-attestation-") as name:
        return finish(rows(Path(name), rounds=rounds, times=times))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

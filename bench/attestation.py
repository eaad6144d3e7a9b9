"""Verifications of every kind on real evidence: CPU milliseconds, how many per second of one core, memory.

TDX and SGX stand beside bare dcap-qvl, which verifies less: no root of ours, no lengths, no debug, no dates of lists.
Floors: issue "attestation" (1 ms TDX and SNP, 4 ms Nitro, Azure, GPU). ``python -m bench.attestation [rounds]``.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dcap_qvl import QuoteCollateralV3, verify_with_root_ca

from bench.evidence import VECTORS, Sample, pretend, real
from bench.measure import Row, at_most, fact, finish, median
from cloister.core.attestation.intake import read
from cloister.core.attestation.kinds import verify
from cloister.core.attestation.roots import Roots

FLOORS_MS = {"tdx": 1.0, "snp": 1.0, "sgx": 1.0, "dstack": 2.0, "nitro": 4.0}
FLOOR_MS = 4.0
FLAT_KIB = 4096.0
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
    """One sample per kind that the vectors hold; the three first kinds of pretend vendors without them."""
    if not VECTORS.is_dir():
        return dict(pretend(folder))
    from tests.support.vectors import at

    found = dict(real())
    for kind, (file, beside, when) in FILES.items():
        taken = read((VECTORS / file).read_bytes(), [(VECTORS / one).read_bytes() for one in beside])
        found[kind] = Sample(taken.evidence, Roots.production(), at(when), "real")
    return found


def cpu_ms(work: Callable[[], object], rounds: int) -> float:
    """Median CPU milliseconds of one call."""

    def once() -> float:
        began = time.process_time_ns()
        work()
        return (time.process_time_ns() - began) / 1e6

    once()
    return median(once() for _ in range(rounds))


def bare_ms(sample: Sample, rounds: int) -> float:
    """The same quote through dcap-qvl alone, its collateral parsed before."""
    from cloister.core.attestation.dcap import open_collateral

    text = sample.evidence.aux["collateral"]
    collateral, (_, root) = QuoteCollateralV3.from_json(text.decode()), open_collateral(text)
    return cpu_ms(lambda: verify_with_root_ca(sample.evidence.blob, collateral, root, sample.now), rounds)


def growth_kib(sample: Sample, times: int) -> float:
    """How much the process grows over so many verifications of evidence that differs each time, in KiB."""
    evidence = sample.evidence

    def some(count: int) -> None:
        for number in range(count):
            blob = evidence.blob + bytes(number % 64) if evidence.kind in ("tdx", "sgx") else evidence.blob
            verify(dataclasses.replace(evidence, blob=blob), sample.roots, sample.now)

    some(max(times // 10, 50))
    before = _resident_kib()
    some(times)
    return max(0.0, _resident_kib() - before)


def rows(folder: Path, *, rounds: int = 60, times: int = 10_000) -> list[Row]:
    """Rows per kind: milliseconds, verifications per second; then memory of TDX."""
    made, found = samples(folder), []
    for kind, sample in made.items():
        took = cpu_ms(lambda s=sample: verify(s.evidence, s.roots, s.now), rounds)  # type: ignore[misc]
        bare = bare_ms(sample, rounds) if kind in ("tdx", "sgx", "dstack") else None
        floor = FLOORS_MS.get(kind, FLOOR_MS)
        found.append(
            at_most(f"{sample.origin} {kind} verified (CPU; baseline: bare dcap-qvl)", took, "ms", floor, bare)
        )
        found.append(fact(f"{sample.origin} {kind} verifications per CPU second", 1000 / took, "/s"))
    tdx = growth_kib(made["tdx"], times)
    found.append(at_most(f"memory grown by {times} verifications of TDX", tdx, "KiB", FLAT_KIB))
    return found


def _resident_kib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return float(line.split()[1])
    raise RuntimeError("no VmRSS")


def main(arguments: Sequence[str]) -> int:
    """The rows of this module alone."""
    with tempfile.TemporaryDirectory(prefix="bench-attestation-") as name:
        return finish(rows(Path(name), rounds=int(arguments[0]) if arguments else 60))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

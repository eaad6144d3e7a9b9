"""Evidence verified: one TDX quote, one SNP report, one Nitro document, each with its whole chain. CPU time.

Real evidence where it is at hand (``tests/support/vectors.py``), else that of devnet's pretend vendors: the same
formats and curves, but shorter chains, so some 20 % cheaper; the row's name says which. ``python -m bench.evidence``.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.measure import Row, at_most, finish, median
from cloister.core.attestation.kinds import verify
from cloister.core.attestation.model import Evidence
from cloister.core.attestation.roots import Roots
from cloister.devnet.tee.machines import Factory

FLOORS_MS = {"tdx": 1.0, "snp": 1.0, "nitro": 4.0}
VECTORS = Path(__file__).resolve().parents[2] / "shared" / "vectors"
REAL = {
    "tdx": "intel-dcap/phala/tdx_quote",
    "snp": "amd-snp/microsoft/genoa_attestation_report.bin",
    "nitro": "aws-nitro/dstack/nitro_attestation.cose",
}
MEASUREMENT = hashlib.sha384(b"what was launched").digest()
REPORT_DATA = bytes(range(64))


class Sample(NamedTuple):
    """Evidence with what verifies it: roots, and a time (Unix seconds) at which it is valid."""

    evidence: Evidence
    roots: Roots
    now: int
    origin: str


def pretend(folder: Path) -> Mapping[str, Sample]:
    """One sample per kind from devnet's vendors."""
    now = int(time.time())
    factory = Factory(folder, clock=lambda: now)
    roots = Roots.from_json(factory.roots())
    platform, chip = factory.intel.platform("one", now), factory.amd.chip("one", now)
    document = factory.aws.instance("one", now).document({0: MEASUREMENT}, now, user_data=REPORT_DATA)
    made = {
        "tdx": Evidence("tdx", platform.quote(MEASUREMENT, REPORT_DATA), {"collateral": factory.collateral()}),
        "snp": Evidence("snp", chip.report(MEASUREMENT, REPORT_DATA), dict(chip.certificates)),
        "nitro": Evidence("nitro", document),
    }
    return {kind: Sample(evidence, roots, now, "pretend") for kind, evidence in made.items()}


def real() -> Mapping[str, Sample]:
    """One sample per kind of the real evidence beside the repository."""
    from tests.support.vectors import at, cases, evidence_of

    files = {case["file"]: case for case in cases("dcap", "snp", "nitro") if case["verdict"].startswith("accept")}
    chosen = {kind: files[file] for kind, file in REAL.items()}
    return {
        kind: Sample(evidence_of(case), Roots.production(), at(case["verify_at"]), "real")
        for kind, case in chosen.items()
    }


def cpu_ms(sample: Sample) -> float:
    """CPU milliseconds of one verification."""
    began = time.process_time_ns()
    verify(sample.evidence, sample.roots, sample.now)
    return (time.process_time_ns() - began) / 1e6


def rows(folder: Path, *, rounds: int = 60) -> list[Row]:
    """A row per kind."""
    samples, found = real() if VECTORS.is_dir() else pretend(folder), []
    for kind, sample in samples.items():
        took = median(cpu_ms(sample) for _ in range(rounds))
        found.append(at_most(f"evidence verified, {sample.origin} {kind} (CPU)", took, "ms", FLOORS_MS[kind]))
    return found


def main(arguments: Sequence[str]) -> int:
    """The rows of this module alone."""
    with tempfile.TemporaryDirectory(prefix="bench-evidence-") as name:
        return finish(rows(Path(name), rounds=int(arguments[0]) if arguments else 60))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

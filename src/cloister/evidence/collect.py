"""One file with evidence and all that a later check without a network needs (``cloister evidence collect``)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from dcap_qvl import parse_quote

from cloister.core.attestation import eventlog, tpm, tpm_structures
from cloister.core.attestation.model import Evidence
from cloister.core.attestation.tpm_structures import split_pcrs
from cloister.core.errors import CloisterError
from cloister.evidence.collateral import CollateralSource, FileCollateral, NoCollateral
from cloister.evidence.detect import MachineConfig, open_tee
from cloister.evidence.fetch import Cache, LayeredCollateral, VendorCollateral

CCEL: Final = Path("/sys/firmware/acpi/tables/data/CCEL")


@dataclass(frozen=True, slots=True)
class Bundle:
    """Evidence, and when it was made (Unix seconds, for people: nothing signs it)."""

    evidence: Evidence
    collected_at: int

    def encode(self) -> bytes:
        """The file: JSON that ``cloister verify evidence`` reads."""
        value = {"evidence": self.evidence.to_json(), "collected_at": self.collected_at}
        return json.dumps(value, indent=1).encode() + b"\n"


async def collect(
    machine: MachineConfig,
    report_data: bytes,
    *,
    offline: bool = False,
    pccs: str | None = None,
    cache: Path | None = None,
    vendor: CollateralSource | None = None,
    log: Path = CCEL,
    clock: Callable[[], float] = time.time,
) -> Bundle:
    """Fresh evidence over 64 bytes. Collateral comes from the machine's file, else (not ``offline``) the vendors.

    The boot log of a TDX guest or of a TPM's machine is added if it replays to the quote's registers: later
    measurements would contradict it.
    Raises EvidenceError.
    """
    sources: list[CollateralSource] = [FileCollateral(machine.collateral)] if machine.collateral else []
    if not offline:
        sources.append(vendor or VendorCollateral(cache=Cache(cache), pccs=pccs))
    tee = open_tee(machine, LayeredCollateral(*sources) if sources else NoCollateral())
    evidence = await tee.quote(report_data)
    if evidence.kind == "tdx":
        evidence = with_log(evidence, log)
    elif evidence.kind == "tpm" and machine.tpm_log is not None:
        evidence = with_log(evidence, machine.tpm_log)
    return Bundle(evidence, int(clock()))


def with_log(evidence: Evidence, path: Path) -> Evidence:
    """``tdx`` or ``tpm`` evidence with the boot log at ``path``, if there is one and it explains the registers."""
    try:
        with path.open("rb") as file:
            data = file.read(eventlog.MAX_LOG + 1)
        if evidence.kind == "tpm":
            tpm.check_log(data, split_pcrs(evidence.aux["pcrs"], tpm_structures.parse_quote(evidence.blob).selection))
        else:
            report = parse_quote(evidence.blob).report
            eventlog.need_rtmrs(data, [report.rt_mr0, report.rt_mr1, report.rt_mr2, report.rt_mr3])
    except (OSError, ValueError, CloisterError):
        return evidence
    return replace(evidence, aux={**evidence.aux, "event_log": data})

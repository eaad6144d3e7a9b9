"""One file with evidence and all that a later check without a network needs (``cloister evidence collect``)."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from dcap_qvl import parse_quote

from cloister.core.attestation import eventlog, tpm, tpm_structures
from cloister.core.attestation.model import Binding, Evidence
from cloister.core.attestation.tpm_structures import split_pcrs
from cloister.core.errors import CloisterError
from cloister.evidence.collateral import CollateralSource, FileCollateral, NoCollateral
from cloister.evidence.detect import MachineConfig, open_tee
from cloister.evidence.fetch import Cache, LayeredCollateral, VendorCollateral
from cloister.evidence.fetch_nvidia import NvidiaCollateral
from cloister.evidence.nvidia import NvidiaDevices

_WITH_TPM: Final = ("tpm", "azure-snp", "azure-tdx")
CCEL: Final = Path("/sys/firmware/acpi/tables/data/CCEL")


@dataclass(frozen=True, slots=True)
class Bundle:
    """Evidence, and when it was made (Unix seconds, for people: nothing signs it).

    devices: evidence of GPUs and switches beside it; binding: what the report data commits to, which names them.
    """

    evidence: Evidence
    collected_at: int
    devices: tuple[Evidence, ...] = ()
    binding: Binding | None = None

    def encode(self) -> bytes:
        """The file: JSON that ``cloister verify evidence`` reads."""
        value: dict[str, Any] = {"evidence": self.evidence.to_json(), "collected_at": self.collected_at}
        if self.binding is not None:
            value["binding"] = self.binding.to_json()
        if self.devices:
            value["devices"] = [one.to_json() for one in self.devices]
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
    elif evidence.kind in _WITH_TPM and machine.tpm_log is not None:
        evidence = with_log(evidence, machine.tpm_log)
    return Bundle(evidence, int(clock()))


async def collect_bound(
    machine: MachineConfig,
    binding: Binding,
    which: Sequence[str],
    *,
    devices: NvidiaDevices | None = None,
    offline: bool = False,
    cache: Path | None = None,
    **options: Any,
) -> Bundle:
    """Devices over the nonce of ``binding``, then the CPU over the binding that names them, in one bundle.

    Args: which (sorts of ``nvidia.KINDS``), devices (their producer; None: the vendor's programs and services), options
    (as of ``collect``). Raises EvidenceError.
    """
    if devices is None:
        devices = NvidiaDevices(None if offline else NvidiaCollateral(cache=Cache(cache)))
    bound, found = await devices.bind(binding, which)
    bundle = await collect(machine, bound.report_data(), offline=offline, cache=cache, **options)
    return replace(bundle, devices=tuple(found), binding=bound)


def own_binding(nonce: bytes = bytes(32), rng: Callable[[int], bytes] = secrets.token_bytes) -> Binding:
    """A binding for evidence outside of any network: a fresh boot id and the verifier's nonce, everything else zero."""
    zero = bytes(32)
    return Binding(network=zero, role="worker", node=bytes(20), boot=rng(32), config=zero, checkpoint=zero, nonce=nonce)


def with_log(evidence: Evidence, path: Path) -> Evidence:
    """``tdx``, ``tpm`` or Azure evidence with the boot log at ``path``, if there is one that explains the registers."""
    try:
        with path.open("rb") as file:
            data = file.read(eventlog.MAX_LOG + 1)
        if evidence.kind in _WITH_TPM:
            quote = tpm_structures.parse_quote(evidence.aux.get("quote", evidence.blob))
            tpm.check_log(data, split_pcrs(evidence.aux["pcrs"], quote.selection))
        else:
            report = parse_quote(evidence.blob).report
            eventlog.need_rtmrs(data, [report.rt_mr0, report.rt_mr1, report.rt_mr2, report.rt_mr3])
    except (OSError, ValueError, CloisterError):
        return evidence
    return replace(evidence, aux={**evidence.aux, "event_log": data})

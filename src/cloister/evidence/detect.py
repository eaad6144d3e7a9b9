"""Which TEE this machine has: try each in order, keep the reason for each that is absent.

A producer is imported when its place is configured, never before: an image holds those of its own machine only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from cloister.core.errors import CloisterError, EvidenceError, define
from cloister.evidence import places
from cloister.evidence.collateral import CollateralSource, FileCollateral, NoCollateral
from cloister.evidence.sockets import SealingSocket
from cloister.evidence.tee import NoSealing, Sealing, Tee

NO_TEE = define(
    "evidence.no_tee",
    EvidenceError,
    check="this machine offers a TEE",
    remedy="run on TDX, SEV-SNP or Nitro hardware, or try everything on simulated hardware with `cloister up`",
    status=503,
)
BAD_MACHINE = define(
    "evidence.machine",
    EvidenceError,
    check="the machine's configuration names paths of known purposes",
    remedy="use the fields of MachineConfig: "
    + "tsm_root, tsm_socket, nsm_device, nsm_socket, gramine_root, dstack_socket, sev_device, tdx_device, "
    + "tpm_device, tpm_socket, tpm_log, sealing_socket, collateral",
)


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """Where this machine's TEE is. Every field is a path; the defaults are the kernel's places.

    tsm_root: configfs-tsm. tsm_socket: the same by socket. nsm_device, nsm_socket: the Nitro module. gramine_root:
    Gramine's files inside an SGX enclave. dstack_socket: the agent of a dstack guest. sev_device, tdx_device: kernels
    before configfs-tsm. tpm_device, tpm_socket: a TPM 2.0, or its emulator's socket. tpm_log: the measured-boot log
    beside it. sealing_socket: a service that holds sealing keys. collateral: a file of certificates or
    collateral (``FileCollateral``).
    """

    tsm_root: Path | None = places.TSM_ROOT
    tsm_socket: Path | None = None
    nsm_device: Path | None = places.NSM_DEVICE
    nsm_socket: Path | None = None
    gramine_root: Path | None = None
    dstack_socket: Path | None = None
    sev_device: Path | None = None
    tdx_device: Path | None = None
    tpm_device: Path | None = None
    tpm_socket: Path | None = None
    tpm_log: Path | None = None
    sealing_socket: Path | None = None
    collateral: Path | None = None

    @classmethod
    def everywhere(cls) -> Self:
        """Every place that a kernel or a runtime offers by itself."""
        return cls(
            gramine_root=places.GRAMINE_ROOT,
            dstack_socket=places.DSTACK_SOCKET,
            sev_device=places.SEV_DEVICE,
            tdx_device=places.TDX_DEVICE,
            tpm_device=places.TPM_DEVICE,
            tpm_log=places.BOOT_LOG,
        )

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Paths by name; names that are absent or null mean "not on this machine". Raises EvidenceError."""
        names = {f.name for f in fields(cls)}
        if not isinstance(value, dict) or not set(value) <= names:
            raise BAD_MACHINE(expected=", ".join(sorted(names)), found=str(value)[:80])
        if not all(item is None or (isinstance(item, str) and 0 < len(item) < 4096) for item in value.values()):
            raise BAD_MACHINE(expected="paths as texts", found="another type")
        return cls(**{name: Path(value[name]) if value.get(name) else None for name in names})

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: absent paths are null."""
        return {f.name: None if getattr(self, f.name) is None else str(getattr(self, f.name)) for f in fields(self)}


@dataclass(frozen=True, slots=True)
class Finding:
    """One place that was tried: found, or why not."""

    place: str
    tee: Tee | None
    reason: str


def survey(machine: MachineConfig, collateral: CollateralSource | None = None) -> list[Finding]:
    """Try every place of the configuration, in order. Blocking for a moment; never raises CloisterError.

    ``collateral`` takes the place of the configuration's file.
    """
    if collateral is None:
        collateral = FileCollateral(machine.collateral) if machine.collateral else NoCollateral()
    sealing: Sealing = SealingSocket(machine.sealing_socket) if machine.sealing_socket else NoSealing()
    found = [
        _tsm("configfs-tsm", machine.tsm_root, collateral, sealing, socket=False),
        _tsm("tsm socket", machine.tsm_socket, collateral, sealing, socket=True),
        _nsm("nsm device", machine.nsm_device, sealing, socket=False),
        _nsm("nsm socket", machine.nsm_socket, sealing, socket=True),
    ]
    # Places of few machines: tried, and reported, only where the configuration names them.
    if machine.gramine_root:
        found.append(_gramine(machine.gramine_root, collateral, machine.sealing_socket))
    if machine.dstack_socket:
        found.append(_dstack(machine.dstack_socket, collateral, sealing))
    if machine.sev_device:
        found.append(_sev(machine.sev_device, collateral, sealing))
    if machine.tdx_device:
        found.append(_tdx(machine.tdx_device, collateral, sealing))
    # Last: a TPM hides nothing, so whatever else is there says more. That of an Azure VM names its hardware.
    for place, path, socket in (("tpm device", machine.tpm_device, False), ("tpm socket", machine.tpm_socket, True)):
        if path:
            found.append(_azure(f"azure {place}", path, collateral, sealing, socket=socket))
            found.append(_tpm(place, path, machine, collateral, socket=socket))
    return found


def open_tee(machine: MachineConfig, collateral: CollateralSource | None = None) -> Tee:
    """This machine's TEE: the first place that answers. Raises EvidenceError with a reason for each that does not."""
    findings = survey(machine, collateral)
    for finding in findings:
        if finding.tee is not None:
            return finding.tee
    raise NO_TEE(expected="a TEE", found="; ".join(f"{f.place}: {f.reason}" for f in findings))


def _tsm(place: str, path: Path | None, collateral: CollateralSource, sealing: Sealing, *, socket: bool) -> Finding:
    def opened(found: Path) -> tuple[Tee, str]:
        from cloister.evidence import configfs_tsm

        reports = configfs_tsm.TsmSocket(found) if socket else configfs_tsm.TsmFolder(found)
        kind = configfs_tsm.probe(reports)
        return configfs_tsm.ConfigfsTsm(kind, reports, collateral, sealing), f"{kind} answers"

    return _tried(place, path, opened)


def _nsm(place: str, path: Path | None, sealing: Sealing, *, socket: bool) -> Finding:
    def opened(found: Path) -> tuple[Tee, str]:
        from cloister.evidence import nitro

        request = nitro.socket_request(found) if socket else nitro.device_request(found)
        module = nitro.probe(request)
        return nitro.Nitro(request, sealing), f"{module} answers"

    return _tried(place, path, opened)


def _gramine(path: Path, collateral: CollateralSource, sealing: Path | None) -> Finding:
    def opened(root: Path) -> tuple[Tee, str]:
        from cloister.evidence import gramine

        found = gramine.probe(root)
        own = SealingSocket(sealing) if sealing else None
        return gramine.Gramine(root, collateral, own), f"Gramine with {found} answers"

    return _tried("gramine", path, opened)


def _dstack(path: Path, collateral: CollateralSource, sealing: Sealing) -> Finding:
    def opened(agent: Path) -> tuple[Tee, str]:
        from cloister.evidence import dstack

        app = dstack.probe(agent)
        return dstack.Dstack(agent, collateral, sealing), f"app {app} answers"

    return _tried("dstack socket", path, opened)


def _sev(path: Path, collateral: CollateralSource, sealing: Sealing) -> Finding:
    def opened(device: Path) -> tuple[Tee, str]:
        from cloister.evidence import ioctls

        ioctl = ioctls.device_ioctl(device)
        ioctls.snp_report(ioctl, bytes(64))
        return ioctls.SevGuest(ioctl, collateral, sealing), "snp answers"

    return _tried("sev-guest device", path, opened)


def _tdx(path: Path, collateral: CollateralSource, sealing: Sealing) -> Finding:
    def opened(device: Path) -> tuple[Tee, str]:
        from cloister.evidence import ioctls

        ioctl = ioctls.device_ioctl(device)
        ioctls.td_report(ioctl, bytes(64))
        return ioctls.TdxGuest(ioctl, None, collateral, sealing), "tdx answers"

    return _tried("tdx_guest device", path, opened)


def _tpm(place: str, path: Path, machine: MachineConfig, collateral: CollateralSource, *, socket: bool) -> Finding:
    def opened(found: Path) -> tuple[Tee, str]:
        from cloister.evidence import tpm2, tpm_bench, tpm_tools

        if absent := tpm_bench.missing_program():
            raise tpm_bench.NO_TOOLS(expected=absent, found="nothing of that name on PATH")
        tools = tpm_tools.TpmTools(tpm_bench.socket_tcti(found) if socket else tpm_bench.device_tcti(found))
        maker = tools.manufacturer()
        own = SealingSocket(machine.sealing_socket) if machine.sealing_socket else None
        return tpm2.Tpm2(tools, collateral, own), f"TPM 2.0 of {maker} answers"

    return _tried(place, path, opened)


def _azure(place: str, path: Path, collateral: CollateralSource, sealing: Sealing, *, socket: bool) -> Finding:
    def opened(found: Path) -> tuple[Tee, str]:
        from cloister.evidence import azure, tpm_bench

        tcti = tpm_bench.socket_tcti(found) if socket else tpm_bench.device_tcti(found)
        vtpm = azure.Vtpm(tpm_bench.TpmBenches(tcti))
        kind = azure.probe(vtpm)
        return azure.AzureVm(kind, vtpm, None, collateral, sealing), f"{kind} answers"

    return _tried(place, path, opened)


def _tried(place: str, path: Path | None, opened: Callable[[Path], tuple[Tee, str]]) -> Finding:
    if (missing := _missing(path)) or path is None:
        return Finding(place, None, missing)
    try:
        tee, reason = opened(path)
    except ModuleNotFoundError as error:
        return Finding(place, None, f"this image holds no {error.name}")
    except CloisterError as error:
        return Finding(place, None, f"expected {error.expected}, found {error.found}")
    return Finding(place, tee, reason)


def _missing(path: Path | None) -> str:
    if path is None:
        return "not configured"
    try:
        return "" if path.exists() else f"no {path}"
    except OSError as error:
        return f"{path}: {error.strerror}"

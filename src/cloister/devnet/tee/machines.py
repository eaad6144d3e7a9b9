"""Pretend machines: a name, a kind, a role, a launch measurement, and what the kind's hardware answers."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cloister.core.attestation.model import ROLES
from cloister.core.errors import ConfigError, define
from cloister.devnet.tee import sgx, tpm
from cloister.devnet.tee.amd import Amd, Chip
from cloister.devnet.tee.aws import Aws, Instance
from cloister.devnet.tee.hardware import Hardware
from cloister.devnet.tee.intel import Intel, Platform
from cloister.devnet.tee.measure import measure
from cloister.devnet.tee.sgx import SgxHardware
from cloister.devnet.tee.store import Store
from cloister.devnet.tee.tpm import TpmHardware, TpmMaker

KINDS: Final = ("tdx", "snp", "nitro", "sgx", "tpm")
DEFECTS: Final = {"sgx": sgx.DEFECTS, "tpm": tpm.DEFECTS}
PROVIDERS: Final = {"tdx": "tdx_guest", "snp": "sev_guest"}
MAX_MACHINES: Final = 256
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")

Clock = Callable[[], int]

BAD_MACHINE = define(
    "devnet.machine",
    ConfigError,
    check="a machine is asked for with a name, a kind and a role, and keeps its kind",
    remedy=f"names are lower case, kinds are {', '.join(KINDS)}, roles are {', '.join(ROLES)}, flaws are of the kind",
)


@dataclass(frozen=True, slots=True)
class Machine:
    """One pretend machine. ``secret`` is its own for ever; ``measurement`` is what it launched last."""

    name: str
    kind: str
    role: str
    measurement: bytes
    secret: bytes = field(repr=False)
    hardware: Hardware = field(repr=False)

    def sealing_key(self, context: bytes) -> bytes:
        """32 bytes of this machine, for this measurement and context."""
        info = b"cloister devnet sealing 1\0" + self.kind.encode() + b"\0" + self.measurement + context
        return HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(self.secret)


class Factory:
    """The pretend vendors of one devnet, and the machines made so far."""

    def __init__(self, work: Path, clock: Clock | None = None) -> None:
        self._clock = clock or (lambda: int(time.time()))
        self._work, self._store = work, Store(work / "vendors")
        now = self._clock()
        self.intel, self.amd, self.aws = Intel(self._store, now), Amd(self._store, now), Aws(self._store, now)
        self.tpm = TpmMaker(self._store, now)
        self.machines: dict[str, Machine] = {}

    def roots(self) -> dict[str, list[str]]:
        """Vendor -> fingerprints of its root, as ``Roots.from_json`` reads them."""
        vendors = (self.intel, self.amd, self.aws, self.tpm)
        return {v.vendor: ["0x" + hashlib.sha256(v.root.der).hexdigest()] for v in vendors}

    def create(
        self,
        name: str,
        kind: str,
        role: str,
        package: Path,
        *,
        run: Path | None = None,
        tcb: str = "",
        defect: str = "",
    ) -> Machine:
        """Launch ``package`` in ``role`` on the machine of this name. Raises CloisterError.

        Launching again on a machine that exists measures again; its kind, keys and secret stay. ``run``: the folder
        for a TPM's socket. ``tcb``, ``defect``: what is wrong with it, for the kinds that have something.
        """
        before = self.machines.get(name)
        good = _NAME.fullmatch(name) and kind in KINDS and role in ROLES
        good = good and (not tcb or (kind == "sgx" and tcb in sgx.TCB_STATES))
        good = good and (not defect or defect in DEFECTS.get(kind, ()))
        if not good or (before is not None and before.kind != kind) or len(self.machines) >= MAX_MACHINES:
            found = f"{name[:32]!r}, {kind[:16]!r}, {role[:16]!r}, {tcb[:32]!r}, {defect[:32]!r}"
            raise BAD_MACHINE(expected=f"a name, one of {', '.join(KINDS)}, a role", found=found)
        code = measure(package, role)
        secret, measurement = self._store.secret(f"machine-{name}", 32), launched(kind, role, code)
        if before is not None:
            before.hardware.close()
        if kind == "tpm":
            hardware: Hardware = self._tpm(name, role, code, run or self._work / "run", defect)
        elif kind == "sgx":
            state = tcb or sgx.TCB_STATES[0]
            hardware = SgxHardware(self.intel, name, measurement, secret, self._clock(), state, defect)
        else:
            hardware = self._hardware(name, kind, measurement)
        self.machines[name] = Machine(name, kind, role, measurement, secret, hardware)
        return self.machines[name]

    def collateral(self, name: str | None = None) -> bytes:
        """Fresh Intel collateral: of an SGX machine, or for TDX."""
        machine = self.machines[name] if name else None
        if machine is not None and isinstance(machine.hardware, SgxHardware):
            return machine.hardware.collateral(self._clock())
        return self.intel.collateral(self._clock())

    def close(self) -> None:
        """Power off what runs as a process."""
        for machine in self.machines.values():
            machine.hardware.close()

    def _tpm(self, name: str, role: str, code: bytes, run: Path, defect: str) -> TpmHardware:
        hardware = TpmHardware(self.tpm, self._work / "tpm" / name, run / f"{name}-tpm.sock", defect)
        try:
            hardware.boot(tpm.boot_events(code, role), self._clock())
        except BaseException:
            hardware.close()
            raise
        return hardware

    def _hardware(self, name: str, kind: str, measurement: bytes) -> Hardware:
        now = self._clock()
        if kind == "tdx":
            return TdxHardware(self.intel.platform(name, now), measurement)
        if kind == "snp":
            return SnpHardware(self.amd.chip(name, now), measurement)
        return NitroHardware(self.aws.instance(name, now), measurement, self._clock)


def launched(kind: str, role: str, code: bytes) -> bytes:
    """What a machine of this kind reports after launching what ``measure`` found (48 bytes): its launch measurement."""
    if kind == "sgx":
        return hashlib.sha256(b"cloister devnet enclave 1\0" + code).digest()
    return tpm.launch_measurement(tpm.boot_events(code, role)) if kind == "tpm" else code


class TdxHardware(Hardware):
    """A TD on a pretend platform."""

    def __init__(self, platform: Platform, measurement: bytes) -> None:
        self._platform, self._measurement = platform, measurement

    def report(self, report_data: bytes) -> tuple[bytes, bytes]:
        """A quote; TDX has no auxblob."""
        return self._platform.quote(self._measurement, report_data), b""


class SnpHardware(Hardware):
    """A guest on a pretend chip."""

    def __init__(self, chip: Chip, measurement: bytes) -> None:
        self.chip, self._measurement = chip, measurement

    def report(self, report_data: bytes) -> tuple[bytes, bytes]:
        """A report, and the host's certificate table."""
        return self.chip.report(self._measurement, report_data), self.chip.table()


class NitroHardware(Hardware):
    """An enclave on a pretend instance."""

    def __init__(self, instance: Instance, measurement: bytes, clock: Clock) -> None:
        self._instance, self._clock = instance, clock
        self._pcrs = {0: measurement, 4: hashlib.sha384(instance.module_id.encode()).digest()}

    def nsm(self, request: bytes) -> bytes:
        """The module's answer."""
        return self._instance.answer(request, self._pcrs, self._clock())

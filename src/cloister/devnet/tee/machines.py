"""Pretend machines: a name, a kind, a role, a launch measurement, and what the kind's hardware answers."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cloister.core.attestation.model import ROLES
from cloister.core.errors import ConfigError, define
from cloister.devnet.tee.amd import Amd, Chip
from cloister.devnet.tee.aws import Aws, Instance
from cloister.devnet.tee.intel import Intel, Platform
from cloister.devnet.tee.measure import measure
from cloister.devnet.tee.store import Store

KINDS: Final = ("tdx", "snp", "nitro")
PROVIDERS: Final = {"tdx": "tdx_guest", "snp": "sev_guest"}
MAX_MACHINES: Final = 256
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")

Clock = Callable[[], int]

BAD_MACHINE = define(
    "devnet.machine",
    ConfigError,
    check="a machine is asked for with a name, a kind and a role, and keeps its kind",
    remedy=f"names are lower case, kinds are {', '.join(KINDS)}, roles are {', '.join(ROLES)}",
)


class Hardware(Protocol):
    """What one machine's TEE does for its guest."""

    def report(self, report_data: bytes) -> tuple[bytes, bytes]:
        """(outblob, auxblob) over 64 bytes, for configfs-tsm."""

    def nsm(self, request: bytes) -> bytes:
        """The security module's answer, for Nitro."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One pretend machine. ``secret`` is its own for ever; ``measurement`` is what it launched last."""

    name: str
    kind: str
    role: str
    measurement: bytes
    secret: bytes = field(repr=False)
    hardware: Hardware

    def sealing_key(self, context: bytes) -> bytes:
        """32 bytes of this machine, for this measurement and context."""
        info = b"cloister devnet sealing 1\0" + self.kind.encode() + b"\0" + self.measurement + context
        return HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(self.secret)


class Factory:
    """The three pretend vendors of one devnet, and the machines made so far."""

    def __init__(self, work: Path, clock: Clock | None = None) -> None:
        self._clock = clock or (lambda: int(time.time()))
        self._store = Store(work / "vendors")
        now = self._clock()
        self.intel, self.amd, self.aws = Intel(self._store, now), Amd(self._store, now), Aws(self._store, now)
        self.machines: dict[str, Machine] = {}

    def roots(self) -> dict[str, list[str]]:
        """Vendor -> fingerprints of its root, as ``Roots.from_json`` reads them."""
        return {v.vendor: ["0x" + hashlib.sha256(v.root.der).hexdigest()] for v in (self.intel, self.amd, self.aws)}

    def create(self, name: str, kind: str, role: str, package: Path) -> Machine:
        """Launch ``package`` in ``role`` on the machine of this name. Raises ConfigError.

        Launching again on a machine that exists measures again; its kind, keys and secret stay.
        """
        before = self.machines.get(name)
        good = _NAME.fullmatch(name) and kind in KINDS and role in ROLES
        if not good or (before is not None and before.kind != kind) or len(self.machines) >= MAX_MACHINES:
            found = f"{name[:32]!r}, {kind[:16]!r}, {role[:16]!r}"
            raise BAD_MACHINE(expected=f"a name, one of {', '.join(KINDS)}, a role", found=found)
        measurement = measure(package, role)
        secret = self._store.secret(f"machine-{name}", 32)
        machine = Machine(name, kind, role, measurement, secret, self._hardware(name, kind, measurement))
        self.machines[name] = machine
        return machine

    def collateral(self) -> bytes:
        """Fresh Intel collateral."""
        return self.intel.collateral(self._clock())

    def _hardware(self, name: str, kind: str, measurement: bytes) -> Hardware:
        now = self._clock()
        if kind == "tdx":
            return TdxHardware(self.intel.platform(name, now), measurement)
        if kind == "snp":
            return SnpHardware(self.amd.chip(name, now), measurement)
        return NitroHardware(self.aws.instance(name, now), measurement, self._clock)


class TdxHardware:
    """A TD on a pretend platform."""

    def __init__(self, platform: Platform, measurement: bytes) -> None:
        self._platform, self._measurement = platform, measurement

    def report(self, report_data: bytes) -> tuple[bytes, bytes]:
        """A quote; TDX has no auxblob."""
        return self._platform.quote(self._measurement, report_data), b""

    def nsm(self, request: bytes) -> bytes:
        """There is no such device here."""
        raise OSError(19, "no such device")


class SnpHardware:
    """A guest on a pretend chip."""

    def __init__(self, chip: Chip, measurement: bytes) -> None:
        self.chip, self._measurement = chip, measurement

    def report(self, report_data: bytes) -> tuple[bytes, bytes]:
        """A report, and the host's certificate table."""
        return self.chip.report(self._measurement, report_data), self.chip.table()

    def nsm(self, request: bytes) -> bytes:
        """There is no such device here."""
        raise OSError(19, "no such device")


class NitroHardware:
    """An enclave on a pretend instance."""

    def __init__(self, instance: Instance, measurement: bytes, clock: Clock) -> None:
        self._instance, self._clock = instance, clock
        self._pcrs = {0: measurement, 4: hashlib.sha384(instance.module_id.encode()).digest()}

    def report(self, report_data: bytes) -> tuple[bytes, bytes]:
        """There is no configfs-tsm here."""
        raise OSError(19, "no such device")

    def nsm(self, request: bytes) -> bytes:
        """The module's answer."""
        return self._instance.answer(request, self._pcrs, self._clock())

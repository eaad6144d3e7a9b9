"""Evidence by the kernel's configfs-tsm reports (Linux 6.7; Documentation/ABI/testing/configfs-tsm-report).

A report is a folder: mkdir a name nobody uses, write ``inblob``, read ``outblob`` (and ``auxblob``), and accept them
only if ``generation`` moved by exactly our one write. Names are random and never reused; the folder is removed.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from cloister.core.attestation.model import Evidence
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.evidence import sockets
from cloister.evidence.collateral import CollateralSource, NoCollateral, parse_certificate_table
from cloister.evidence.places import TSM_ROOT
from cloister.evidence.tee import BAD_QUOTE, NoSealing, Sealing, need_report_data

MAX_OUTBLOB: Final = 32768
KINDS: Final = {"tdx_guest": "tdx", "sev_guest": "snp"}


class TsmReports(Protocol):
    """The file operations that a report needs. Blocking; raise OSError or EvidenceError."""

    def mkdir(self, name: str) -> None:
        """Make a report."""

    def rmdir(self, name: str) -> None:
        """Remove it."""

    def read(self, name: str, attribute: str) -> bytes:
        """Read an attribute to its end, at most 32 KiB."""

    def write(self, name: str, attribute: str, data: bytes) -> None:
        """Write an attribute in one write."""


class TsmFolder:
    """configfs itself, or a file system that behaves like it."""

    def __init__(self, root: Path = TSM_ROOT) -> None:
        self._root = root

    def mkdir(self, name: str) -> None:
        """Make a report."""
        (self._root / name).mkdir()

    def rmdir(self, name: str) -> None:
        """Remove it."""
        (self._root / name).rmdir()

    def read(self, name: str, attribute: str) -> bytes:
        """Read to the end: attributes say size 0, so only the end of file ends them."""
        with (self._root / name / attribute).open("rb", buffering=0) as file:
            data = bytearray()
            while piece := file.read(MAX_OUTBLOB + 1 - len(data)):
                data += piece
                if len(data) > MAX_OUTBLOB:
                    raise BAD_QUOTE(expected=f"{attribute} of at most {MAX_OUTBLOB} bytes", found="more")
            return bytes(data)

    def write(self, name: str, attribute: str, data: bytes) -> None:
        """One write, whole or refused."""
        handle = os.open(self._root / name / attribute, os.O_WRONLY)
        try:
            written = os.write(handle, data)
        finally:
            os.close(handle)
        if written != len(data):
            raise BAD_QUOTE(expected=f"{len(data)} bytes written at once", found=str(written))


class TsmSocket:
    """The same operations over a Unix socket, for machines that cannot mount."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def mkdir(self, name: str) -> None:
        """Make a report."""
        sockets.call(self._path, {"op": "mkdir", "name": name})

    def rmdir(self, name: str) -> None:
        """Remove it."""
        sockets.call(self._path, {"op": "rmdir", "name": name})

    def read(self, name: str, attribute: str) -> bytes:
        """Read an attribute."""
        answer = sockets.call(self._path, {"op": "read", "name": name, "attribute": attribute})
        return from_hex(answer.get("data"), name=attribute, max_size=MAX_OUTBLOB)

    def write(self, name: str, attribute: str, data: bytes) -> None:
        """Write an attribute."""
        sockets.call(self._path, {"op": "write", "name": name, "attribute": attribute, "data": to_hex(data)})


@dataclass(frozen=True, slots=True)
class Report:
    """What one report gave: provider text, outblob, auxblob (empty if none)."""

    provider: str
    outblob: bytes
    auxblob: bytes


def read_report(reports: TsmReports, report_data: bytes) -> Report:
    """Run the protocol once. Blocking; raises EvidenceError (evidence.quote) naming the step that failed."""
    name, step = f"cloister-{secrets.token_hex(16)}", "mkdir"
    try:
        reports.mkdir(name)
        try:
            step = "generation"
            before = _number(reports.read(name, "generation"))
            step = "inblob"
            reports.write(name, "inblob", report_data)
            step = "outblob"
            outblob = reports.read(name, "outblob")
            step = "provider"
            provider = reports.read(name, "provider").decode("ascii").strip()
            step = "auxblob"
            auxblob = reports.read(name, "auxblob") if KINDS.get(provider) == "snp" else b""
            step = "generation"
            after = _number(reports.read(name, "generation"))
        finally:
            reports.rmdir(name)
    except (OSError, ValueError) as error:
        found = (error.strerror or "an error") if isinstance(error, OSError) else type(error).__name__
        raise BAD_QUOTE(expected=f"{step} to work", found=found) from None
    if after != before + 1 or not outblob:
        raise BAD_QUOTE(expected="a report of our one write", found=f"generation {before} to {after}")
    return Report(provider, outblob, auxblob)


class ConfigfsTsm:
    """TDX or SNP through configfs-tsm."""

    def __init__(
        self,
        kind: str,
        reports: TsmReports | None = None,
        collateral: CollateralSource | None = None,
        sealing: Sealing | None = None,
    ) -> None:
        if kind not in KINDS.values():
            raise TypeError("kind is tdx or snp")
        self._kind = kind
        self._reports = reports or TsmFolder()
        self._collateral = collateral or NoCollateral()
        self._sealing = sealing or NoSealing()

    @property
    def kind(self) -> str:
        """ "tdx" or "snp"."""
        return self._kind

    async def quote(self, report_data: bytes) -> Evidence:
        """Evidence with its aux. Raises EvidenceError."""
        report = await asyncio.to_thread(read_report, self._reports, need_report_data(report_data))
        if KINDS.get(report.provider) != self._kind:
            raise BAD_QUOTE(expected=f"a provider of {self._kind}", found=report.provider[:32] or "none")
        return Evidence(self._kind, report.outblob, await self._aux(report))

    async def sealing_key(self, context: bytes) -> bytes:
        """A sealing key of this machine. Raises EvidenceError."""
        return await self._sealing.key(context)

    async def _aux(self, report: Report) -> dict[str, bytes]:
        given = parse_certificate_table(report.auxblob) if self._kind == "snp" else {}
        if set(given) == {"vek", "intermediate", "ark"}:
            return given
        return {**await self._collateral.aux(self._kind, report.outblob), **given}


def probe(reports: TsmReports) -> str:
    """The kind that answers here. Makes one report over zeros. Raises EvidenceError."""
    provider = read_report(reports, bytes(64)).provider
    kind = KINDS.get(provider)
    if kind is None:
        raise BAD_QUOTE(expected=f"provider {' or '.join(KINDS)}", found=provider[:32] or "none")
    return kind


def _number(raw: bytes) -> int:
    try:
        return int(raw.decode("ascii").strip())
    except ValueError:
        raise BAD_QUOTE(expected="a generation number", found=repr(raw[:16])) from None

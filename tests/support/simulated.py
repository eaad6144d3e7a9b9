"""Simulated evidence of every kind of the devnet, at the fixed time of ``support.hardware``, without a process."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from cloister.core.attestation.model import Evidence
from cloister.devnet.tee import tpm
from cloister.devnet.tee.sgx import SgxHardware
from cloister.devnet.tee.tpm import TpmHardware
from cloister.evidence import tpm_bench
from cloister.evidence.collateral import FileCollateral
from cloister.evidence.collect import with_log
from cloister.evidence.tpm2 import PCRS, Tpm2
from support.hardware import MEASUREMENT, NOW, binding, evidence, factory
from support.tpm_kit import SoftTpm, public_area, quote_parts

ALL = ("tdx", "snp", "nitro", "sgx", "tpm")
VENDOR = {"tdx": "intel", "sgx": "intel", "snp": "amd", "nitro": "aws", "tpm": "tpm"}
MRENCLAVE = hashlib.sha256(b"the launched enclave").digest()
EVENTS = tpm.boot_events(MEASUREMENT, "worker")


@lru_cache(maxsize=8)
def enclave(tcb: str = "UpToDate", defect: str = "") -> SgxHardware:
    """One SGX machine."""
    return SgxHardware(factory().intel, "enclave", MRENCLAVE, bytes(32), NOW, tcb, defect)


@lru_cache(maxsize=1)
def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def shown(kind: str, report_data: bytes | None = None) -> Evidence:
    """Evidence of this kind over the binding, as the devnet's own policy accepts it."""
    data = binding().report_data() if report_data is None else report_data
    if kind == "sgx":
        return Evidence("sgx", enclave().quote(data), {"collateral": enclave().collateral(NOW)})
    if kind == "tpm":
        return _tpm(data)
    return evidence(kind, data)


def launched(kind: str) -> bytes:
    """The launch measurement of ``shown``."""
    return {"sgx": MRENCLAVE, "tpm": tpm.launch_measurement(EVENTS)}.get(kind, MEASUREMENT)


def _tpm(data: bytes) -> Evidence:
    """A software TPM after the devnet's boot, its key certified by the devnet's maker: no swtpm needed."""
    machine, maker = SoftTpm(_key()), factory().tpm
    for event in EVENTS:
        machine.extend(event.pcr, hashlib.sha256(event.data).digest())
    parts = quote_parts(machine, data, PCRS)
    leaf = maker.issue("Simulated TPM attestation key", _key().public_key(), tpm.AK_USAGE, NOW - 60)
    chain = leaf.public_bytes(Encoding.PEM) + maker.authorities().encode()
    more = {"ak": public_area(_key()), "ak_chain": chain, "event_log": tpm.boot_log(EVENTS)}
    return Evidence("tpm", parts.pop("quote"), parts | more)


def need_swtpm() -> None:
    """Skip, with the reason, where the Debian packages are not installed; in CI that is a failure."""
    for program in ("swtpm", *tpm_bench.PROGRAMS):
        if shutil.which(program) is None:
            missing = f"no {program}: apt-get install -y swtpm tpm2-tools"
            if os.environ.get("CI") == "true":
                pytest.fail(missing)
            pytest.skip(missing)


@contextmanager
def tpm_machine(work: Path, defect: str = "", events: tuple[tpm.Event, ...] = EVENTS) -> Iterator[TpmHardware]:
    """A booted machine with a TPM (swtpm) of the devnet's maker; powered off at the end."""
    need_swtpm()
    with tempfile.TemporaryDirectory(prefix="clo-") as short:  # socket paths have 107 bytes
        hardware = TpmHardware(factory().tpm, work, Path(short) / "tpm.sock", defect)
        try:
            hardware.boot(events, NOW)
            yield hardware
        finally:
            hardware.close()


def producer(machine: TpmHardware, **options: Any) -> Tpm2:
    """The real producer on this machine."""
    return Tpm2(machine.emulator.tools, FileCollateral(machine.collateral), **options)


def quoted(machine: TpmHardware, report_data: bytes, **options: Any) -> Evidence:
    """What the real producer shows on this machine, with its boot log as ``cloister evidence collect`` adds it."""
    log = options.pop("log", machine.log)
    return with_log(asyncio.run(producer(machine, **options).quote(report_data)), log)

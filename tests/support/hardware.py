"""Pretend hardware for tests, at a fixed time, without a process: keys are made once per test run."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

from cloister.core.attestation.model import Binding, Evidence
from cloister.core.attestation.policy import Policy, devnet
from cloister.core.attestation.roots import Roots
from cloister.devnet.tee.amd import Chip
from cloister.devnet.tee.aws import Instance
from cloister.devnet.tee.intel import Platform
from cloister.devnet.tee.machines import Factory

NOW = 1_750_000_000  # in the past, so that processes with a real clock can use the same keys
MEASUREMENT = hashlib.sha384(b"the launched software").digest()
NETWORK = hashlib.sha256(b"the network").digest()
CHECKPOINT = hashlib.sha256(b"a recent block").digest()
NONCE = hashlib.sha256(b"the verifier's nonce").digest()
KINDS = ("tdx", "snp", "nitro")


@lru_cache(maxsize=1)
def factory() -> Factory:
    """The three pretend vendors of this test run."""
    work = Path(tempfile.mkdtemp(prefix="cloister-hardware-"))
    atexit.register(shutil.rmtree, work, ignore_errors=True)
    return Factory(work, clock=lambda: NOW)


@lru_cache(maxsize=1)
def platform() -> Platform:
    """One TDX machine."""
    return factory().intel.platform("one", NOW)


@lru_cache(maxsize=1)
def chip() -> Chip:
    """One SNP machine."""
    return factory().amd.chip("one", NOW)


@lru_cache(maxsize=1)
def instance() -> Instance:
    """One Nitro machine."""
    return factory().aws.instance("one", NOW)


@lru_cache(maxsize=1)
def collateral() -> bytes:
    """Intel collateral issued at NOW."""
    return factory().intel.collateral(NOW)


def roots() -> Roots:
    """The simulated roots."""
    return Roots.from_json(factory().roots())


def policy() -> Policy:
    """A devnet policy under them."""
    return devnet(roots())


def binding(**changes: object) -> Binding:
    """A worker's binding."""
    fields: dict[str, object] = {
        "network": NETWORK,
        "role": "worker",
        "node": b"\x11" * 20,
        "boot": b"\x22" * 32,
        "config": b"\x33" * 32,
        "checkpoint": CHECKPOINT,
        "nonce": NONCE,
        "keys": {"transport": b"\x44" * 48},
    }
    return Binding(**(fields | changes))  # type: ignore[arg-type]


def evidence(kind: str, report_data: bytes | None = None, measurement: bytes = MEASUREMENT, now: int = NOW) -> Evidence:
    """Simulated evidence of this kind, over the binding unless told otherwise."""
    data = binding().report_data() if report_data is None else report_data
    if kind == "tdx":
        return Evidence("tdx", platform().quote(measurement, data), {"collateral": collateral()})
    if kind == "snp":
        return Evidence("snp", chip().report(measurement, data), dict(chip().certificates))
    return Evidence("nitro", instance().document({0: measurement, 4: b"\x04" * 48}, now, user_data=data))

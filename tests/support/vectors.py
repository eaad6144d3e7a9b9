"""Where the real evidence lies: ``../shared/vectors`` beside the repository. Never committed.

A checkout without it skips those tests and says so; in CI (``CI=true``) its absence is a failure.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning

from cloister.core.attestation.model import Evidence

REPOSITORY = Path(__file__).resolve().parents[2]


def vectors() -> Path:
    """The folder of real evidence. Skips the test without it; fails it in CI."""
    folder = REPOSITORY.parent / "shared" / "vectors"
    if folder.is_dir():
        return folder
    message = f"real evidence is missing: put the vectors at {folder}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def cases(*kinds: str) -> list[dict[str, Any]]:
    """The cases of VERDICTS.json of these kinds ("dcap", "snp", "nitro")."""
    listed = json.loads((vectors() / "VERDICTS.json").read_text())
    return [case for case in listed if case["kind"] in kinds]


def at(text: str) -> int:
    """Unix seconds of an ISO time."""
    return int(datetime.datetime.fromisoformat(text).timestamp())


def der(path: str) -> bytes:
    """A certificate of the vectors, as DER whatever it is stored as."""
    data = (vectors() / path).read_bytes()
    if not data.startswith(b"-----"):
        return data
    with quiet_der():
        return x509.load_pem_x509_certificate(data).public_bytes(Encoding.DER)


@contextlib.contextmanager
def quiet_der() -> Iterator[None]:
    """AMD numbers every VCEK 0, and the library warns about it each time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        yield


def evidence_of(case: dict[str, Any]) -> Evidence:
    """The evidence of one case of VERDICTS.json."""
    blob = (vectors() / case["file"]).read_bytes()
    if case["kind"] == "snp":
        return Evidence("snp", blob, {name: der(case[name]) for name in ("vek", "intermediate", "ark")})
    if case["kind"] == "nitro":
        return Evidence("nitro", blob)
    if case["file"].endswith(".hex"):
        blob = bytes.fromhex(blob.decode().strip().removeprefix("0x"))
    if case["file"].endswith("quote-report.json"):
        blob = bytes.fromhex(json.loads(blob)["quote"])
    return Evidence("tdx", blob, {"collateral": (vectors() / case["collateral"]).read_bytes()})

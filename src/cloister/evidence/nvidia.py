"""Evidence of NVIDIA GPUs and NVSwitches, through the vendor's own programs.

``nvattest collect-evidence`` (NVIDIA attestation SDK 1.x) asks the driver (NVML, for switches NSCQ) for an SPDM
exchange over a nonce and the device's certificates. ``nvidia-smi conf-compute`` says whether confidential computing
and DevTools are on: no device signs that, so the CPU's evidence must cover it (``core/attestation/devices.py``).

The exact forms that are relied on, none of them run on a GPU in confidential mode by us (docs/limitations.md)::

    nvattest --format json collect-evidence --device gpu|nvswitch --nonce 64-HEX-DIGITS
        -> {"result_code": 0, "evidences": [{"evidence": BASE64, "certificate": BASE64 of PEM, "arch": ...}, ...]}
    nvidia-smi conf-compute -f     -> a line "CC status: ON" or "CC status: OFF"
    nvidia-smi conf-compute -d     -> a line "DevTools Mode: ON" or "DevTools Mode: OFF"
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from cloister.core.attestation import devices, spdm
from cloister.core.attestation.certificates import load_pem_chain
from cloister.core.attestation.model import Binding, Evidence
from cloister.core.errors import CloisterError, EvidenceError, define
from cloister.evidence.collateral import CollateralSource
from cloister.evidence.tee import BAD_QUOTE

NONCE_SIZE: Final = 32
MAX_OUTPUT: Final = 4 << 20
TIMEOUT_S: Final = 120.0
KINDS: Final[Mapping[str, str]] = {"gpu": "nvidia-gpu", "nvswitch": "nvidia-switch"}
_MODES: Final = {
    "cc": ("-f", re.compile(r"^\s*CC status:\s*(ON|OFF)\s*$", re.MULTILINE)),
    "devtools": ("-d", re.compile(r"^\s*DevTools Mode:\s*(ON|OFF)\s*$", re.MULTILINE)),
}

NO_NVIDIA_TOOLS = define(
    "evidence.nvidia_tools",
    EvidenceError,
    check="the vendor's programs for device evidence are installed and answer",
    remedy="install NVIDIA's driver and its attestation program (nvattest), and let this user open the devices",
    status=503,
)

Runner = Callable[[Sequence[str]], bytes]


def run_program(arguments: Sequence[str]) -> bytes:
    """Run one program; its standard output, at most 4 MiB. Blocking. Raises EvidenceError (evidence.nvidia_tools)."""
    program = shutil.which(arguments[0])
    if program is None:
        raise NO_NVIDIA_TOOLS(expected=arguments[0], found="nothing of that name on PATH")
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C"}
    try:
        ended = subprocess.run(
            [program, *arguments[1:]],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        found = f"still running after {TIMEOUT_S:.0f} s"
        raise NO_NVIDIA_TOOLS(expected=f"{arguments[0]} to end", found=found) from None
    except OSError as error:
        raise NO_NVIDIA_TOOLS(expected=f"{arguments[0]} to run", found=error.strerror or "an error") from None
    if ended.returncode or len(ended.stdout) > MAX_OUTPUT:
        found = f"exit code {ended.returncode}, {len(ended.stdout)} bytes"
        raise NO_NVIDIA_TOOLS(expected=f"{arguments[0]} to work, with at most {MAX_OUTPUT} bytes", found=found)
    return ended.stdout


class NvidiaDevices:
    """The devices of this machine. ``collateral`` adds manifests and OCSP answers; it may be absent or fail."""

    def __init__(self, collateral: CollateralSource | None = None, runner: Runner = run_program) -> None:
        self._collateral, self._run = collateral, runner

    async def collect(self, nonce: bytes, which: Sequence[str] = ("gpu",)) -> list[Evidence]:
        """Evidence of every device of the sorts in ``which`` ("gpu", "nvswitch") over a nonce of 32 bytes.

        Raises EvidenceError (evidence.nvidia_tools, evidence.quote; what the collateral source raises)."""
        if len(nonce) != NONCE_SIZE or not set(which) <= set(KINDS):
            raise TypeError(f"a nonce of {NONCE_SIZE} bytes, and devices of {', '.join(KINDS)}")
        found = await asyncio.to_thread(self._exchanges, nonce, tuple(which))
        if not 0 < len(found) <= devices.MAX_DEVICES:
            raise BAD_QUOTE(expected=f"evidence of 1 to {devices.MAX_DEVICES} devices", found=str(len(found)))
        return [await self._complete(one) for one in found]

    async def bind(self, binding: Binding, which: Sequence[str] = ("gpu",)) -> tuple[Binding, list[Evidence]]:
        """The binding that the CPU's evidence must be over, and the devices that it names (spec 11.1).

        The devices sign a nonce that follows from ``binding``. Raises as ``collect``."""
        found = await self.collect(devices.device_nonce(binding), which)
        return devices.bind_devices(binding, found), found

    def mode(self) -> dict[str, str]:
        """{"cc": "on" or "off", "devtools": "on" or "off"}, as the driver says. Raises EvidenceError."""
        found = {}
        for name, (option, line) in _MODES.items():
            said = line.findall(self._run(("nvidia-smi", "conf-compute", option)).decode("ascii", "replace"))
            if len(set(said)) != 1:
                raise NO_NVIDIA_TOOLS(expected=f"one line about {name}: ON or OFF", found=f"{len(said)} lines")
            found[name] = str(said[0]).lower()
        return found

    def _exchanges(self, nonce: bytes, which: Sequence[str]) -> list[Evidence]:
        found: list[Evidence] = []
        for sort in which:
            asked = ("nvattest", "--format", "json", "collect-evidence", "--device", sort, "--nonce", nonce.hex())
            found += parse_evidences(self._run(asked), KINDS[sort], nonce)
        if any(one.kind == "nvidia-gpu" for one in found):
            mode = json.dumps(self.mode(), sort_keys=True).encode()
            found = [replace(one, aux={**one.aux, "mode": mode}) if one.kind == "nvidia-gpu" else one for one in found]
        return found

    async def _complete(self, one: Evidence) -> Evidence:
        if self._collateral is None:
            return one
        extra = await self._collateral.aux(one.kind, one.blob + one.aux["chain"])
        return replace(one, aux={**one.aux, **extra})


def parse_evidences(output: bytes, kind: str, nonce: bytes) -> list[Evidence]:
    """What ``nvattest`` printed, as evidence without mode and manifests. Raises EvidenceError (evidence.quote).

    Each exchange must parse, and be over ``nonce``; each chain must be certificates in PEM."""
    try:
        value = json.loads(output.decode("utf-8")) if len(output) <= MAX_OUTPUT else None
    except (ValueError, RecursionError):
        raise BAD_QUOTE(expected="JSON from nvattest", found=f"{len(output)} other bytes") from None
    if not isinstance(value, dict) or value.get("result_code") != 0 or isinstance(value.get("result_code"), bool):
        code = value.get("result_code") if isinstance(value, dict) else "another form"
        raise BAD_QUOTE(expected="result code 0 from nvattest", found=str(code)[:32])
    listed = value.get("evidences")
    if not isinstance(listed, list) or not 0 < len(listed) <= devices.MAX_DEVICES:
        count = len(listed) if isinstance(listed, list) else "none"
        raise BAD_QUOTE(expected=f"1 to {devices.MAX_DEVICES} devices", found=str(count))
    return [_evidence(one, kind, nonce) for one in listed]


def _evidence(value: Any, kind: str, nonce: bytes) -> Evidence:
    fields = value if isinstance(value, dict) else {}
    blob, chain = (_base64(fields.get(name), name) for name in ("evidence", "certificate"))
    try:
        signed = spdm.parse(blob).nonce
        load_pem_chain(chain, "the device's chain")
    except CloisterError as error:
        raise BAD_QUOTE(expected=error.expected, found=error.found) from None
    if not hmac.compare_digest(signed, nonce):
        raise BAD_QUOTE(expected=f"an exchange over nonce {nonce.hex()[:16]}", found=f"nonce {signed.hex()[:16]}")
    return Evidence(kind, blob, {"chain": chain})


def _base64(text: object, name: str) -> bytes:
    if not isinstance(text, str) or not 0 < len(text) <= 2 * spdm.MAX_EXCHANGE + 65536:
        raise BAD_QUOTE(expected=f"{name} in base64", found=type(text).__name__)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BAD_QUOTE(expected=f"{name} in base64", found="another text") from None

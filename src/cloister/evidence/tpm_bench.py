"""tpm2-tools by subprocess: one program per request to a TPM 2.0 (tpm2-tools 5; TCG "TPM 2.0 Library").

Every request works in a folder of its own that only this user reads; what is secret goes through files there, never
through an argument or the environment. Objects that a program loads are flushed: a TPM without a resource manager holds
three.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cloister.core.errors import EvidenceError, define
from cloister.evidence.places import TPM_DEVICE
from cloister.evidence.tee import BAD_QUOTE

PROGRAMS: Final = ("tpm2_quote", "tpm2_readpublic", "tpm2_nvread", "tpm2_createek", "tpm2_createak")
# Everything static but 10 and 15: the running system extends these two (file measurements, the machine's own identity).
PCRS: Final = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14)
TIMEOUT_S: Final = 30.0
MAX_ANSWER: Final = 8192

NO_TOOLS = define(
    "evidence.tpm_tools",
    EvidenceError,
    check="the programs that talk to a TPM 2.0 are installed",
    remedy="on Debian: apt-get install -y tpm2-tools",
    status=503,
)


def device_tcti(path: Path = TPM_DEVICE) -> str:
    """How tpm2-tools reach a device of the kernel; /dev/tpmrm0 is the one with a resource manager."""
    return f"device:{path}"


def socket_tcti(path: Path) -> str:
    """How tpm2-tools reach an emulator (swtpm) at a Unix socket; its control channel is at PATH.ctrl."""
    return f"swtpm:path={path}"


class TpmBenches:
    """One TPM, and a bench for each request to it."""

    def __init__(self, tcti: str | None = None) -> None:
        self.tcti = tcti or device_tcti()
        self._lock = threading.Lock()

    @contextmanager
    def bench(self) -> Iterator[Bench]:
        """A private folder for one request; one request at a time."""
        with self._lock, tempfile.TemporaryDirectory(prefix="cloister-tpm-") as folder:
            yield Bench(Path(folder), self.tcti)


class Bench:
    """One request's folder, and the programs that run in it. Use it through TpmTools, or to provision a TPM."""

    def __init__(self, folder: Path, tcti: str) -> None:
        self._folder, self._tcti = folder, tcti

    def run(self, name: str, *arguments: str) -> bytes:
        """Run one program; its standard output. Raises EvidenceError (evidence.tpm_tools, evidence.quote)."""
        program = shutil.which(name)
        if program is None:
            raise NO_TOOLS(expected=name, found="nothing of that name on PATH")
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C", "TSS2_LOG": "all+NONE"}
        environment["TPM2TOOLS_TCTI"] = self._tcti
        try:
            ended = subprocess.run(
                [program, *arguments],
                cwd=self._folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BAD_QUOTE(expected=f"{name} to end within {TIMEOUT_S:.0f} s", found="still running") from None
        except OSError as error:
            raise BAD_QUOTE(expected=f"{name} to run", found=error.strerror or "an error") from None
        if ended.returncode:
            raise BAD_QUOTE(expected=f"{name} to work", found=_reason(ended.stderr))
        return ended.stdout

    def loading(self, name: str, *arguments: str) -> None:
        """Run a program that leaves objects in a TPM without a resource manager, then flush them."""
        try:
            self.run(name, *arguments)
        finally:
            self.run("tpm2_flushcontext", "-t")

    def read(self, name: str) -> bytes:
        """A file that a program wrote, at most 8 KiB. Raises EvidenceError."""
        try:
            with (self._folder / name).open("rb") as file:
                data = file.read(MAX_ANSWER + 1)
        except OSError as error:
            raise BAD_QUOTE(expected=f"the TPM's {name}", found=error.strerror or "an error") from None
        if not 0 < len(data) <= MAX_ANSWER:
            raise BAD_QUOTE(expected=f"{name} of at most {MAX_ANSWER} bytes", found=f"{len(data)}")
        return data

    def write(self, name: str, data: bytes) -> None:
        """A file for a program; the folder is private."""
        (self._folder / name).write_bytes(data)

    def public(self, handle: str) -> bytes:
        """TPMT_PUBLIC of a key: without the length of its TPM2B_PUBLIC."""
        self.loading("tpm2_readpublic", "-c", handle, "-f", "tss", "-o", "public")
        sized = self.read("public")
        if int.from_bytes(sized[:2], "big") != len(sized) - 2:
            raise BAD_QUOTE(expected="a TPM2B_PUBLIC", found=f"{len(sized)} bytes of another length")
        return sized[2:]


def selection(pcrs: Sequence[int]) -> str:
    """PCRs of the SHA-256 bank as tpm2-tools write them. Raises TypeError for others than 1 to 24 different ones."""
    if not pcrs or sorted(set(pcrs)) != list(pcrs) or not 0 <= pcrs[0] <= pcrs[-1] < 24:
        raise TypeError("PCRs are different numbers from 0 to 23, in order")
    return "sha256:" + ",".join(map(str, pcrs))


def missing_program() -> str:
    """The first of the needed programs that is not installed, or an empty text."""
    return next((name for name in PROGRAMS if shutil.which(name) is None), "")


def _reason(stderr: bytes) -> str:
    """The first line in which the program says what is wrong."""
    lines = [line.strip() for line in stderr[:4096].decode("ascii", "replace").splitlines() if line.strip()]
    told = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (told or lines or ["an error without a word"])[0][:120]

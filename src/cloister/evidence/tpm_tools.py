"""tpm2-tools by subprocess: what a TPM 2.0 is asked, one program per request (tpm2-tools 5; TCG "TPM 2.0 Library").

Every request works in a folder of its own that only this user reads; what is secret goes through files there, never
through an argument or the environment. Objects that a program loads are flushed: a TPM without a resource manager holds
three.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cloister.core.errors import EvidenceError, define
from cloister.evidence.tee import BAD_QUOTE

TPM_DEVICE: Final = Path("/dev/tpmrm0")
PROGRAMS: Final = ("tpm2_quote", "tpm2_readpublic", "tpm2_nvread", "tpm2_createek", "tpm2_createak")
AK_HANDLE: Final = 0x81010002
EK_CERTIFICATES: Final = {"ecc": 0x01C0000A, "rsa": 0x01C00002}  # TCG EK Credential Profile 2.2.1.4: P-256, RSA-2048
TIMEOUT_S: Final = 30.0
MAX_ANSWER: Final = 8192
MAX_POLICY_PCRS: Final = 8  # what tpm2_policypcr takes at once
_CREDENTIAL: Final = bytes.fromhex("badcc0de00000001")  # tpm2-tools' own head of a credential file
_MAC: Final = b"cloister TPM sealing 1\0"

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


class TpmTools:
    """One TPM. Methods block for tens of milliseconds, one at a time, and raise EvidenceError."""

    def __init__(self, tcti: str | None = None) -> None:
        self.tcti = tcti or device_tcti()
        self._lock = threading.Lock()

    def manufacturer(self) -> str:
        """Four letters from the TPM: it answers."""
        with self.bench() as bench:
            said = bench.run("tpm2_getcap", "properties-fixed")
        found = re.search(rb"TPM2_PT_MANUFACTURER:\s+raw: 0x([0-9A-Fa-f]{1,8})\b", said)
        if found is None:
            raise BAD_QUOTE(expected="a TPM 2.0 with a manufacturer", found="none")
        letters = bytes.fromhex(found[1].decode().rjust(8, "0")).strip(b"\0 ")
        return "".join(chr(c) if 32 < c < 127 else "?" for c in letters)

    def attestation_key(self) -> bytes | None:
        """TPMT_PUBLIC of the attestation key, or None if this TPM has none yet."""
        with self.bench() as bench:
            held = bench.run("tpm2_getcap", "handles-persistent").decode("ascii", "replace")
            if f"0x{AK_HANDLE:08x}" not in held.lower().split():
                return None
            return bench.public(hex(AK_HANDLE))

    def create_attestation_key(self) -> bytes:
        """Make the attestation key under the endorsement key, once and for ever. Returns its TPMT_PUBLIC.

        A restricted P-256 signing key that never leaves the TPM: ECDSA, SHA-256.
        """
        if (known := self.attestation_key()) is not None:
            return known
        algorithm = self.endorsement_certificate()[0]
        with self.bench() as bench:
            bench.endorsement_key(algorithm)
            key = ("-G", "ecc", "-g", "sha256", "-s", "ecdsa")
            bench.loading("tpm2_createak", "-C", "ek.ctx", "-c", "ak.ctx", *key)
            bench.loading("tpm2_evictcontrol", "-C", "o", "-c", "ak.ctx", hex(AK_HANDLE))
            return bench.public(hex(AK_HANDLE))

    def quote(self, qualifying: bytes, pcrs: Sequence[int]) -> tuple[bytes, bytes, bytes]:
        """(TPMS_ATTEST, signature, PCR values) over SHA-256 PCRs, with at most 64 bytes of qualifying data."""
        with self.bench() as bench:
            wanted = ("-l", selection(pcrs), "-q", qualifying.hex(), "-g", "sha256")
            out = ("-m", "quote", "-s", "signature", "-f", "plain", "-o", "pcrs", "-F", "values")
            bench.run("tpm2_quote", "-c", hex(AK_HANDLE), *wanted, *out)
            return bench.read("quote"), bench.read("signature"), bench.read("pcrs")

    def endorsement_certificate(self) -> tuple[str, bytes]:
        """("ecc" or "rsa", the endorsement certificate in DER) as the maker stored it, without the padding behind."""
        refusals = []
        for algorithm, index in EK_CERTIFICATES.items():
            try:
                with self.bench() as bench:
                    bench.run("tpm2_nvread", hex(index), "-o", "certificate")
                    return algorithm, trimmed(bench.read("certificate"))
            except EvidenceError as error:
                refusals.append(error.found)
        raise BAD_QUOTE(expected="an endorsement certificate in the TPM", found="; ".join(refusals)[:120])

    def activate(self, credential: bytes, encrypted_seed: bytes) -> bytes:
        """TPM2_ActivateCredential for the attestation key: the secret of a verifier's challenge.

        Args: credential (TPM2B_ID_OBJECT), encrypted_seed (TPM2B_ENCRYPTED_SECRET), at most 1 KiB each.
        """
        if len(credential) > 1024 or len(encrypted_seed) > 1024:
            raise BAD_QUOTE(expected="a challenge of at most 1 KiB and 1 KiB", found="more")
        algorithm = self.endorsement_certificate()[0]
        with self.bench() as bench:
            bench.write("credential", _CREDENTIAL + credential + encrypted_seed)
            bench.endorsement_key(algorithm)
            with bench.session() as session:
                bench.run("tpm2_policysecret", "-S", session, "-c", "e")
                keys = ("-c", hex(AK_HANDLE), "-C", "ek.ctx", "-P", f"session:{session}")
                bench.loading("tpm2_activatecredential", *keys, "-i", "credential", "-o", "secret")
            return bench.read("secret")

    def keyed_hash(self, data: bytes, pcrs: Sequence[int]) -> bytes:
        """32 bytes that this TPM computes over ``data`` while these PCRs hold what they hold now.

        HMAC-SHA-256 over its hash, because a TPM takes 1 KiB at once. The key is a primary of the owner hierarchy, and
        its only authorisation is a policy over the PCRs: after another boot chain it is another key. Clearing the TPM's
        owner ends it.
        """
        with self.bench() as bench:
            bench.write("data", hashlib.sha256(_MAC + data).digest())
            with bench.session(trial=True) as session:
                bench.pcr_policy(session, pcrs, "-L", "policy")
            attributes = "fixedtpm|fixedparent|sensitivedataorigin|sign|noda"
            made = ("-G", "hmac", "-g", "sha256", "-L", "policy", "-a", attributes, "-c", "key.ctx")
            bench.loading("tpm2_createprimary", "-C", "o", *made)
            with bench.session() as session:
                bench.pcr_policy(session, pcrs)
                bench.loading("tpm2_hmac", "-c", "key.ctx", "-p", f"session:{session}", "-o", "mac", "data")
            found = bench.read("mac")
        if len(found) != 32:
            raise BAD_QUOTE(expected="a keyed hash of 32 bytes", found=f"{len(found)}")
        return found

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

    def endorsement_key(self, algorithm: str) -> None:
        """The endorsement key of the TCG's default template, as ek.ctx: the same one each time."""
        self.loading("tpm2_createek", "-G", algorithm, "-c", "ek.ctx", "-u", "ek.pub", "-f", "tss")

    @contextmanager
    def session(self, *, trial: bool = False) -> Iterator[str]:
        """A policy session's file, for policies to be made (``trial``) or met."""
        name = "trial.session" if trial else "policy.session"
        self.run("tpm2_startauthsession", "-S", name, *([] if trial else ["--policy-session"]))
        try:
            yield name
        finally:
            self.run("tpm2_flushcontext", name)

    def pcr_policy(self, session: str, pcrs: Sequence[int], *more: str) -> None:
        """TPM2_PolicyPCR over the SHA-256 bank, in as many steps as the program needs."""
        for start in range(0, len(pcrs), MAX_POLICY_PCRS):
            chosen = selection(pcrs[start : start + MAX_POLICY_PCRS])
            self.run("tpm2_policypcr", "-S", session, "-l", chosen, *more)


def selection(pcrs: Sequence[int]) -> str:
    """PCRs of the SHA-256 bank as tpm2-tools write them. Raises TypeError for others than 1 to 24 different ones."""
    if not pcrs or sorted(set(pcrs)) != list(pcrs) or not 0 <= pcrs[0] <= pcrs[-1] < 24:
        raise TypeError("PCRs are different numbers from 0 to 23, in order")
    return "sha256:" + ",".join(map(str, pcrs))


def trimmed(stored: bytes) -> bytes:
    """One DER value without what follows it: makers fill the rest of the index. Raises EvidenceError."""
    size, start = (stored[1], 2) if len(stored) > 4 else (0, 0)
    if size & 0x80:
        width = size & 0x7F
        size, start = int.from_bytes(stored[2 : 2 + width], "big"), 2 + width
        size = size if 0 < width <= 2 else 0
    if stored[:1] != b"\x30" or not size or start + size > len(stored):
        raise BAD_QUOTE(expected="a certificate in the TPM", found=f"{len(stored)} bytes of something else")
    return stored[: start + size]


def missing_program() -> str:
    """The first of the needed programs that is not installed, or an empty text."""
    return next((name for name in PROGRAMS if shutil.which(name) is None), "")


def _reason(stderr: bytes) -> str:
    """The first line in which the program says what is wrong."""
    lines = [line.strip() for line in stderr[:4096].decode("ascii", "replace").splitlines() if line.strip()]
    told = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (told or lines or ["an error without a word"])[0][:120]

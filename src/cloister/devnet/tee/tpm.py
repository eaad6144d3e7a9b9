"""Pretend TPM machines: swtpm behind a socket, endorsed and certified by a pretend maker, booted by a pretend firmware.

The boot log and the PCRs carry what is launched: package and role. Before the maker certifies an attestation key it
lets the TPM activate a credential, as an attestation authority does. One swtpm process per machine; it dies with the
process that started it. swtpm is software: whoever owns the machine can read its keys.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from cloister.core.attestation import credential
from cloister.core.attestation.roots import Roots
from cloister.core.attestation.tpm_structures import parse_public
from cloister.core.errors import EvidenceError
from cloister.devnet.tee.client import NO_SWTPM
from cloister.devnet.tee.hardware import Hardware
from cloister.devnet.tee.store import Store, write_private
from cloister.devnet.tee.x509build import DAY, Issuer, PublicKey, certificate, der_oid, der_sequence
from cloister.evidence import tpm_bench
from cloister.evidence.tpm_bench import PCRS, socket_tcti
from cloister.evidence.tpm_tools import EK_CERTIFICATES, TpmTools, endorsement_key

EK_USAGE, AK_USAGE = "2.23.133.8.1", "2.23.133.8.3"
BANKS: Final = {0x000B: "sha256", 0x000C: "sha384"}
CODE_PCR: Final = 11
START_TIMEOUT_S: Final = 10.0
# What is wrong with a machine, and the code by which verifiers refuse it.
DEFECTS: Final = {
    "extended_later": "attestation.measurement",
    "another_key": "attestation.chip",
    "key_purpose": "attestation.certificate",
    "expired": "attestation.expired",
    "foreign_maker": "attestation.root",
    "not_certified": "attestation.tpm_activation",
}
_prctl = ctypes.CDLL(None).prctl  # looked up before any fork: a child of many threads may not
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the boot log: PCR, TCG event type, what was measured."""

    pcr: int
    kind: int
    data: bytes


def boot_events(package: bytes, role: str) -> tuple[Event, ...]:
    """What the pretend firmware and loader measure. ``package``: 48 bytes of ``measure``."""
    return (
        Event(0, 0x08, b"cloister devnet firmware 1"),  # EV_S_CRTM_VERSION
        Event(7, 0x80000001, b"SecureBoot\0\1"),  # EV_EFI_VARIABLE_DRIVER_CONFIG
        Event(4, 0x80000003, b"cloister devnet loader 1"),  # EV_EFI_BOOT_SERVICES_APPLICATION
        *(Event(pcr, 0x04, bytes(4)) for pcr in range(8)),  # EV_SEPARATOR
        Event(CODE_PCR, 0x0D, b"cloister package and role 1\0" + role.encode() + b"\0" + package),  # EV_IPL
    )


def boot_log(events: tuple[Event, ...]) -> bytes:
    """A TCG2 crypto-agile log (TCG PC Client Platform Firmware Profile 10.2)."""
    described = b"Spec ID Event03\0" + bytes(4) + bytes((0, 2, 0, 2)) + struct.pack("<I", len(BANKS))
    described += b"".join(struct.pack("<HH", bank, hashlib.new(name).digest_size) for bank, name in BANKS.items())
    log = struct.pack("<II", 0, 3) + bytes(20) + struct.pack("<I", len(described) + 1) + described + b"\0"
    for event in events:
        log += struct.pack("<III", event.pcr, event.kind, len(BANKS))
        log += b"".join(struct.pack("<H", b) + hashlib.new(n, event.data).digest() for b, n in BANKS.items())
        log += struct.pack("<I", len(event.data)) + event.data
    return log


def launch_measurement(events: tuple[Event, ...]) -> bytes:
    """48 bytes: what a quote over the producer's PCRs of the SHA-256 bank stands for (spec/attestation.md 7)."""
    values = {pcr: bytes(32) for pcr in PCRS}
    for event in events:
        values[event.pcr] = hashlib.sha256(values[event.pcr] + hashlib.sha256(event.data).digest()).digest()
    return hashlib.sha384(b"".join(b"\x00\x0b" + bytes([pcr]) + values[pcr] for pcr in PCRS)).digest()


class TpmMaker:
    """Root and issuing authority of one devnet's TPMs."""

    vendor = "tpm"

    def __init__(self, store: Store, now: int) -> None:
        start, end = now - DAY, now + 20 * 365 * DAY
        key = store.ec_key("tpm-root", ec.SECP384R1())

        def new() -> x509.Certificate:
            wide = hashes.SHA384()
            return certificate(
                "Simulated TPM Root CA", key.public_key(), key, start=start, end=end, root=True, digest=wide
            )

        self.root = Issuer(store.certificate("tpm-root", new), key)
        below = store.ec_key("tpm-issuer", ec.SECP384R1())

        def issuer() -> x509.Certificate:
            name, wide = "Simulated TPM Issuing CA", hashes.SHA384()
            return certificate(name, below.public_key(), self.root, start=start, end=end, authority=0, digest=wide)

        self.issuer = Issuer(store.certificate("tpm-issuer", issuer), below)

    def issue(self, common: str, key: PublicKey, usage: str, start: int, days: int = 5 * 365) -> x509.Certificate:
        """A certificate of a TPM's key, for one of EK_USAGE and AK_USAGE."""
        purpose = [("2.5.29.37", der_sequence(der_oid(usage)))]
        end, wide = start + days * DAY, hashes.SHA384()
        return certificate(common, key, self.issuer, start=start, end=end, extensions=purpose, digest=wide)

    def authorities(self) -> str:
        """The certificates above a TPM's own, in PEM, root last."""
        return self.issuer.pem + self.root.pem

    def certify(self, tools: TpmTools, now: int) -> x509.Certificate:
        """A certificate of the attestation key, after this very TPM activated it. Raises CloisterError."""
        public = tools.create_attestation_key()
        endorsement = x509.load_der_x509_certificate(tools.endorsement_certificate()[1])
        chain = endorsement.public_bytes(Encoding.PEM) + self.authorities().encode()
        roots = Roots.of({self.vendor: [hashlib.sha256(self.root.der).digest()]})
        asked = credential.challenge(chain, public, roots, now, os.urandom)
        credential.finish(asked, tools.activate(asked.credential, asked.encrypted_seed))
        return self.issue("Simulated TPM attestation key", parse_public(public).key, AK_USAGE, now - DAY)


class Emulator:
    """One swtpm process: a TPM whose state is in ``folder`` and whose socket is ``socket``."""

    def __init__(self, folder: Path, socket: Path) -> None:
        self.folder, self.socket = folder, socket
        self.tools = TpmTools(socket_tcti(socket))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running process; 0 if there is none."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    def start(self) -> None:
        """Power on: PCRs are zero. Raises ConfigError (devnet.swtpm)."""
        program = shutil.which("swtpm")
        if program is None or tpm_bench.missing_program():
            raise NO_SWTPM(expected="swtpm and tpm2-tools", found=f"no {tpm_bench.missing_program() or 'swtpm'}")
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._unlink()
        arguments = ["socket", "--tpm2", "--tpmstate", f"dir={self.folder},mode=0600"]
        arguments += ["--server", f"type=unixio,path={self.socket},mode=0600"]
        arguments += ["--ctrl", f"type=unixio,path={self.socket}.ctrl,mode=0600"]
        arguments += ["--flags", "not-need-init,startup-clear", "--log", f"file={self.folder / 'log'},truncate"]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            [program, *arguments], stdin=quiet, stdout=quiet, stderr=quiet, env={}, preexec_fn=_die_with_parent
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (self.socket.exists() and Path(f"{self.socket}.ctrl").exists()):
            if not self.pid or time.monotonic() > deadline:
                self.stop()
                raise NO_SWTPM(expected="swtpm listening", found=_last_line(self.folder / "log"))
            time.sleep(0.005)

    def stop(self) -> None:
        """Power off; its non-volatile state stays."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        self._unlink()

    def extend(self, events: tuple[Event, ...]) -> None:
        """Measure, in order, into both banks."""
        digests = [
            f"{e.pcr}:" + ",".join(f"{name}={hashlib.new(name, e.data).hexdigest()}" for name in BANKS.values())
            for e in events
        ]
        with self.tools.bench() as bench:
            bench.run("tpm2_pcrextend", *digests)

    def endorse(self, maker: TpmMaker, now: int) -> None:
        """What happens in the maker's factory: the endorsement certificate goes into the TPM, once."""
        with contextlib.suppress(EvidenceError):
            self.tools.endorsement_certificate()
            return
        with self.tools.bench() as bench:
            endorsement_key(bench, "ecc")
            public = parse_public(bench.read("ek.pub")[2:])
            made = maker.issue("Simulated TPM endorsement key", public.key, EK_USAGE, now - DAY).public_bytes(
                Encoding.DER
            )
            bench.write("certificate", made)
            index, rights = hex(EK_CERTIFICATES["ecc"]), "ppwrite|ppread|ownerread|authread|no_da|platformcreate"
            bench.run("tpm2_nvdefine", index, "-C", "p", "-s", str(len(made)), "-a", rights)
            bench.run("tpm2_nvwrite", index, "-C", "p", "-i", "certificate")

    def _unlink(self) -> None:
        for path in (self.socket, Path(f"{self.socket}.ctrl")):
            path.unlink(missing_ok=True)


class TpmHardware(Hardware):
    """One machine with a TPM. ``state``: its folder; ``socket``: where tpm2-tools find the TPM."""

    def __init__(self, maker: TpmMaker, state: Path, socket: Path, defect: str = "") -> None:
        self.emulator = Emulator(state / "tpm", socket)
        self.log, self.collateral, self.defect = state / "boot-log", state / "collateral.json", defect
        self._maker, self._key_chain = maker, state / "ak-chain.pem"

    def boot(self, events: tuple[Event, ...], now: int) -> None:
        """Power cycle, measure, and write log and collateral. Raises CloisterError."""
        self.emulator.stop()
        self.emulator.start()
        self.emulator.extend(events)
        if self.defect == "extended_later":
            self.emulator.extend((Event(CODE_PCR, 0x0D, b"something else"),))
        self.emulator.endorse(self._maker, now)
        write_private(self.log, boot_log(events))
        write_private(self.collateral, json.dumps(self._vouching(now)).encode())

    def close(self) -> None:
        """Power off."""
        self.emulator.stop()

    def _vouching(self, now: int) -> dict[str, str]:
        if self.defect == "not_certified":
            return {"authorities": self._maker.authorities()}
        if self.defect:
            return {"ak_chain": self._wrong_chain(now)}
        if not self._key_chain.exists():
            made = self._maker.certify(self.emulator.tools, now).public_bytes(Encoding.PEM)
            write_private(self._key_chain, made + self._maker.authorities().encode())
        return {"ak_chain": self._key_chain.read_text()}

    def _wrong_chain(self, now: int) -> str:
        key: PublicKey = parse_public(self.emulator.tools.create_attestation_key()).key
        if self.defect == "another_key":
            key = ec.generate_private_key(ec.SECP256R1()).public_key()
        usage = EK_USAGE if self.defect == "key_purpose" else AK_USAGE
        start, days = (now - 9 * DAY, 8) if self.defect == "expired" else (now - DAY, 30)
        pem = self._maker.issue("Simulated TPM attestation key", key, usage, start, days).public_bytes(Encoding.PEM)
        if self.defect != "foreign_maker":
            return pem.decode() + self._maker.authorities()
        stranger = ec.generate_private_key(ec.SECP384R1())
        wide = hashes.SHA384()
        root = certificate(
            "Simulated TPM Root CA", stranger.public_key(), stranger, start=start, end=now + DAY, root=True, digest=wide
        )
        own = certificate("TPM key", key, Issuer(root, stranger), start=start, end=now + DAY, digest=wide)
        return own.public_bytes(Encoding.PEM).decode() + Issuer(root, stranger).pem


def _die_with_parent() -> None:
    """Between fork and exec: SIGKILL swtpm when whoever started it dies.

    For the kernel that is the thread which forked: start emulators from one that lives as long as its process, as those
    of asyncio's pool do."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").split("\n")
    except OSError:
        return "silence"
    return next((line.strip()[:120] for line in reversed(lines) if line.strip()), "silence")

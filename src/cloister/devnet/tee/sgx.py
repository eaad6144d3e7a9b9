"""A pretend SGX machine: an enclave's quotes (Intel DCAP, version 3) under the pretend Intel, and what may be wrong.

Defects are chosen at launch, so that every refusal of the real verifier can be met by evidence from the real producer.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cloister.devnet.tee import intel
from cloister.devnet.tee.hardware import Hardware
from cloister.devnet.tee.intel import Intel
from cloister.devnet.tee.x509build import DAY

FMSPC: Final = bytes.fromhex("00806f050000")  # a model with DDR5 memory
DDR4_FMSPC: Final = intel.FMSPC
ATTRIBUTES: Final = bytes.fromhex("0500000000000000e700000000000000")  # initialised, 64-bit
MRSIGNER: Final = hashlib.sha256(b"cloister devnet enclave signer").digest()
PRODUCT, VERSION = 1, 1
TCB_STATES: Final = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
)
# What is wrong with a machine, and the code by which verifiers refuse it.
DEFECTS: Final = {
    "debug": "attestation.debug",
    "provision_key": "attestation.malformed",
    "uninitialised": "attestation.malformed",
    "quote_version": "attestation.malformed",
    "quote_signature": "attestation.sgx_quote",
    "foreign_attestation_key": "attestation.sgx_quote",
    "quoting_enclave": "attestation.sgx_quote",
    "revoked": "attestation.sgx_quote",
    "expired": "attestation.sgx_quote",
    "tdx_collateral": "attestation.sgx_quote",
    "ddr4": "attestation.generation",
    "report_data": "attestation.report_data",
}
_FLAGS: Final = {"debug": 0x07, "provision_key": 0x15, "uninitialised": 0x04}


class SgxHardware(Hardware):
    """One enclave on a pretend platform. ``mrenclave``: 32 bytes; ``secret``: the CPU's own."""

    def __init__(
        self,
        maker: Intel,
        name: str,
        mrenclave: bytes,
        secret: bytes,
        now: int,
        tcb: str = "UpToDate",
        defect: str = "",
    ) -> None:
        self._maker, self.mrenclave, self._secret = maker, mrenclave, secret
        self.tcb, self.defect = tcb, defect
        self._fmspc = DDR4_FMSPC if defect == "ddr4" else FMSPC
        self._platform = maker.platform(name, now, self._fmspc)
        self._stranger = maker.platform(f"{name}-stranger", now, self._fmspc)

    def quote(self, report_data: bytes) -> bytes:
        """A quote over 64 bytes, with the machine's defect if it has one."""
        version = 4 if self.defect == "quote_version" else 3
        header = struct.pack("<HHIHH", version, 2, 0, 8, 13) + intel.QE_VENDOR + bytes(20)
        signed = header + self._report(bytes(64) if self.defect == "report_data" else report_data)
        head, about = self._platform.signature(signed)
        if self.defect == "quote_signature":
            head = self._platform.signature(signed + b"\0")[0]
        if self.defect == "foreign_attestation_key":
            head = self._stranger.signature(signed)[0]
        data = head + about + self._platform.certificates()
        return signed + struct.pack("<I", len(data)) + data

    def seal_key(self, label: str) -> bytes:
        """16 bytes that the CPU derives for this enclave ("_sgx_mrenclave") or its signer ("_sgx_mrsigner")."""
        identity = self.mrenclave if label == "_sgx_mrenclave" else MRSIGNER
        info = b"cloister devnet enclave key 1\0" + label.encode() + b"\0" + identity
        return HKDF(hashes.SHA256(), 16, salt=None, info=info).derive(self._secret)

    def collateral(self, now: int) -> bytes:
        """The nine QuoteCollateralV3 fields for this machine's model, with its TCB state."""
        if self.defect == "tdx_collateral":
            return self._maker.collateral(now)
        issued = now - 2 * intel.COLLATERAL_DAYS * DAY if self.defect == "expired" else now
        revoked = (self._platform.serial,) if self.defect == "revoked" else ()
        return self._maker.collateral(issued, self._levels, self._enclave, revoked)

    def _report(self, report_data: bytes) -> bytes:
        if len(report_data) != 64:
            raise TypeError("an enclave's report holds 64 bytes of report data")
        attributes = bytes((_FLAGS.get(self.defect, ATTRIBUTES[0]),)) + ATTRIBUTES[1:]
        head = intel.CPU_SVN + bytes(4) + bytes(28) + attributes + self.mrenclave + bytes(32) + MRSIGNER + bytes(96)
        return head + struct.pack("<HH", PRODUCT, VERSION) + bytes(60) + report_data

    def _levels(self, value: dict[str, Any]) -> None:
        for name in ("tdxModule", "tdxModuleIdentities"):
            del value[name]
        value |= {"id": "SGX", "fmspc": self._fmspc.hex().upper()}
        for level in value["tcbLevels"]:
            del level["tcb"]["tdxtcbcomponents"]
            level["tcbStatus"] = self.tcb
            if self.tcb != "UpToDate":
                level["advisoryIDs"] = ["INTEL-SA-00000"]

    def _enclave(self, value: dict[str, Any]) -> None:
        value["id"] = "QE"
        if self.defect == "quoting_enclave":
            value["mrsigner"] = hashlib.sha256(b"another signer").hexdigest().upper()

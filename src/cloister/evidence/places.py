"""Where kernels and runtimes offer their TEE, by their own documents: the defaults of every producer."""

from __future__ import annotations

from pathlib import Path
from typing import Final

TSM_ROOT: Final = Path("/sys/kernel/config/tsm/report")
NSM_DEVICE: Final = Path("/dev/nsm")
GRAMINE_ROOT: Final = Path("/dev/attestation")
DSTACK_SOCKET: Final = Path("/var/run/dstack.sock")
SEV_DEVICE: Final = Path("/dev/sev-guest")
TDX_DEVICE: Final = Path("/dev/tdx_guest")
TPM_DEVICE: Final = Path("/dev/tpmrm0")
BOOT_LOG: Final = Path("/sys/kernel/security/tpm0/binary_bios_measurements")

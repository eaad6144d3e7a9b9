"""Evidence from kernels before configfs-tsm: /dev/sev-guest and /dev/tdx_guest (Linux uapi sev-guest.h, tdx-guest.h).

A TDX device gives a report for this machine only; the host's quoting service turns it into a quote, over vsock
(Intel QGS message format 1.0). ``ioctl`` and ``exchange`` are arguments, so that tests stand in for kernel and host.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cloister.core.attestation.model import Evidence
from cloister.core.errors import EvidenceError
from cloister.evidence.collateral import CollateralSource, NoCollateral, parse_certificate_table
from cloister.evidence.places import SEV_DEVICE, TDX_DEVICE
from cloister.evidence.tee import BAD_QUOTE, NoSealing, Sealing, need_report_data

SNP_GET_REPORT: Final = 0xC0205300
SNP_GET_EXT_REPORT: Final = 0xC0205302
TDX_CMD_GET_REPORT0: Final = 0xC4405401
RESPONSE_SIZE: Final = 4000
REPORT_SIZE: Final = 1184
REPORT_AT: Final = 32
CERTS_SIZE: Final = 0x4000  # the driver's own limit; whole pages
TD_REPORT_SIZE: Final = 1024
QGS_PORT: Final = 4050
MAX_QUOTE: Final = 16384
TIMEOUT_S: Final = 30.0
_HEAD: Final = struct.Struct("<HHIII")  # major, minor, type, size, error
_GET_QUOTE, _GET_QUOTE_ANSWER = 0, 1

Ioctl = Callable[[int, ctypes.Structure], None]
Exchange = Callable[[bytes], bytes]


class ReportRequest(ctypes.Structure):
    """struct snp_report_req, 96 bytes."""

    _fields_ = (("user_data", ctypes.c_uint8 * 64), ("vmpl", ctypes.c_uint32), ("reserved", ctypes.c_uint8 * 28))


class ExtendedRequest(ctypes.Structure):
    """struct snp_ext_report_req: certificates of the host go to ``certs_address``."""

    _fields_ = (("data", ReportRequest), ("certs_address", ctypes.c_uint64), ("certs_len", ctypes.c_uint32))


class GuestRequest(ctypes.Structure):
    """struct snp_guest_request_ioctl, 32 bytes."""

    _fields_ = (
        ("msg_version", ctypes.c_uint8),
        ("req_data", ctypes.c_uint64),
        ("resp_data", ctypes.c_uint64),
        ("exitinfo2", ctypes.c_uint64),
    )


class TdReport(ctypes.Structure):
    """struct tdx_report_req, 1088 bytes: 64 bytes in, 1024 out."""

    _fields_ = (("reportdata", ctypes.c_uint8 * 64), ("tdreport", ctypes.c_uint8 * TD_REPORT_SIZE))


def device_ioctl(path: Path) -> Ioctl:
    """One ioctl on a device that is opened for it. Raises EvidenceError (evidence.quote)."""

    def ioctl(code: int, argument: ctypes.Structure) -> None:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(handle, code, argument)
            finally:
                os.close(handle)
        except OSError as error:
            raise BAD_QUOTE(expected=f"{path} to answer", found=error.strerror or "an error") from None

    return ioctl


def vsock_exchange(port: int = QGS_PORT) -> Exchange:
    """One request to the host's quoting service. Raises EvidenceError (evidence.quote)."""

    def exchange(message: bytes) -> bytes:
        try:
            with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as link:
                link.settimeout(TIMEOUT_S)
                link.connect((socket.VMADDR_CID_HOST, port))
                link.sendall(struct.pack(">I", len(message)) + message)
                (size,) = struct.unpack(">I", _exactly(link, 4))
                if size > MAX_QUOTE + 1024:
                    raise BAD_QUOTE(expected=f"an answer of at most {MAX_QUOTE} bytes", found=str(size))
                return _exactly(link, size)
        except OSError as error:
            found = error.strerror or "a timeout"
            raise BAD_QUOTE(expected=f"the quoting service at vsock port {port}", found=found) from None

    return exchange


class SevGuest:
    """SEV-SNP through /dev/sev-guest."""

    def __init__(
        self, ioctl: Ioctl | None = None, collateral: CollateralSource | None = None, sealing: Sealing | None = None
    ) -> None:
        self._ioctl = ioctl or device_ioctl(SEV_DEVICE)
        self._collateral = collateral or NoCollateral()
        self._sealing = sealing or NoSealing()

    @property
    def kind(self) -> str:
        """ "snp"."""
        return "snp"

    async def quote(self, report_data: bytes) -> Evidence:
        """A report with its certificates: the host's where it gives them, else the source's. Raises EvidenceError."""
        report, table = await asyncio.to_thread(snp_report, self._ioctl, need_report_data(report_data))
        given = parse_certificate_table(table)
        if set(given) != {"vek", "intermediate", "ark"}:
            given = {**await self._collateral.aux("snp", report), **given}
        return Evidence("snp", report, given)

    async def sealing_key(self, context: bytes) -> bytes:
        """A sealing key of this machine. Raises EvidenceError."""
        return await self._sealing.key(context)


class TdxGuest:
    """TDX through /dev/tdx_guest and the host's quoting service."""

    def __init__(
        self,
        ioctl: Ioctl | None = None,
        exchange: Exchange | None = None,
        collateral: CollateralSource | None = None,
        sealing: Sealing | None = None,
    ) -> None:
        self._ioctl = ioctl or device_ioctl(TDX_DEVICE)
        self._exchange = exchange or vsock_exchange()
        self._collateral = collateral or NoCollateral()
        self._sealing = sealing or NoSealing()

    @property
    def kind(self) -> str:
        """ "tdx"."""
        return "tdx"

    async def quote(self, report_data: bytes) -> Evidence:
        """A quote with its collateral. Raises EvidenceError."""
        blob = await asyncio.to_thread(self._quote, need_report_data(report_data))
        return Evidence("tdx", blob, await self._collateral.aux("tdx", blob))

    async def sealing_key(self, context: bytes) -> bytes:
        """A sealing key of this machine. Raises EvidenceError."""
        return await self._sealing.key(context)

    def _quote(self, report_data: bytes) -> bytes:
        return read_quote(self._exchange(quote_request(td_report(self._ioctl, report_data))))


def snp_report(ioctl: Ioctl, report_data: bytes, vmpl: int = 0) -> tuple[bytes, bytes]:
    """(report, certificate table or nothing). Blocking; raises EvidenceError (evidence.quote)."""
    report_request = ReportRequest((ctypes.c_uint8 * 64)(*report_data), vmpl)
    table = ctypes.create_string_buffer(CERTS_SIZE)
    extended = ExtendedRequest(report_request, ctypes.addressof(table), CERTS_SIZE)
    try:
        return _snp(ioctl, SNP_GET_EXT_REPORT, extended), table.raw
    except EvidenceError:  # a host that gives no certificates
        return _snp(ioctl, SNP_GET_REPORT, report_request), b""


def td_report(ioctl: Ioctl, report_data: bytes) -> bytes:
    """The 1024-byte TD report. Blocking; raises EvidenceError (evidence.quote)."""
    request = TdReport((ctypes.c_uint8 * 64)(*report_data))
    ioctl(TDX_CMD_GET_REPORT0, request)
    report = bytes(request.tdreport)
    if report[128:192] != report_data:
        raise BAD_QUOTE(expected="a TD report over our report data", found="another")
    return report


def quote_request(report: bytes) -> bytes:
    """A GET_QUOTE message of the quoting service around a TD report."""
    size = _HEAD.size + 8 + len(report)
    return _HEAD.pack(1, 0, _GET_QUOTE, size, 0) + struct.pack("<II", len(report), 0) + report


def read_quote(answer: bytes) -> bytes:
    """The quote of a GET_QUOTE answer. Raises EvidenceError (evidence.quote)."""
    if len(answer) < _HEAD.size + 8:
        raise BAD_QUOTE(expected="an answer of the quoting service", found=f"{len(answer)} bytes")
    major, _, kind, size, error = _HEAD.unpack_from(answer)
    selected, length = struct.unpack_from("<II", answer, _HEAD.size)
    if (major, kind, size) != (1, _GET_QUOTE_ANSWER, len(answer)) or error:
        raise BAD_QUOTE(expected="a quote", found=f"type {kind}, error {error:#x}")
    quote = answer[_HEAD.size + 8 + selected :]
    if len(quote) != length or not 0 < length <= MAX_QUOTE:
        raise BAD_QUOTE(expected=f"a quote of at most {MAX_QUOTE} bytes", found=f"{length}")
    return quote


def _snp(ioctl: Ioctl, code: int, request: Any) -> bytes:
    answer = ctypes.create_string_buffer(RESPONSE_SIZE)
    message = GuestRequest(1, ctypes.addressof(request), ctypes.addressof(answer), 0)
    ioctl(code, message)
    status, size = struct.unpack_from("<II", answer.raw)
    if status or message.exitinfo2 or size != REPORT_SIZE:
        raise BAD_QUOTE(expected=f"a report of {REPORT_SIZE} bytes", found=f"status {status:#x}, {size} bytes")
    return answer.raw[REPORT_AT : REPORT_AT + REPORT_SIZE]


def _exactly(link: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = link.recv(size - len(data))
        if not piece:
            raise BAD_QUOTE(expected=f"{size} bytes of the quoting service", found=f"{len(data)}, then the end")
        data += piece
    return bytes(data)

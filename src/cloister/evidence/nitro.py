"""Evidence from a Nitro enclave's security module, /dev/nsm (AWS NSM API; ioctl 0xc0200a00 with two iovecs)."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import cbor2

from cloister.core.attestation.model import Evidence
from cloister.core.errors import CloisterError
from cloister.evidence import sockets
from cloister.evidence.places import NSM_DEVICE
from cloister.evidence.tee import BAD_QUOTE, NoSealing, Sealing, need_report_data

NSM_IOCTL: Final = 0xC0200A00
MAX_REQUEST: Final = 0x1000
MAX_RESPONSE: Final = 0x3000

NsmRequest = Callable[[bytes], bytes]


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Message(ctypes.Structure):
    _fields_ = (("request", _Iovec), ("response", _Iovec))


def device_request(path: Path = NSM_DEVICE) -> NsmRequest:
    """Requests to the device. Each is one blocking ioctl; raises EvidenceError (evidence.quote)."""

    def request(data: bytes) -> bytes:
        if len(data) > MAX_REQUEST:
            raise TypeError(f"an NSM request holds at most {MAX_REQUEST} bytes")
        sent, answer = ctypes.create_string_buffer(data, len(data)), ctypes.create_string_buffer(MAX_RESPONSE)
        message = _Message(_Iovec(ctypes.addressof(sent), len(data)), _Iovec(ctypes.addressof(answer), MAX_RESPONSE))
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(handle, NSM_IOCTL, message)
            finally:
                os.close(handle)
        except OSError as error:
            raise BAD_QUOTE(expected=f"{path} to answer", found=error.strerror or "an error") from None
        return answer.raw[: min(message.response.size, MAX_RESPONSE)]

    return request


def socket_request(path: Path) -> NsmRequest:
    """Requests over a Unix socket: one frame of CBOR each way. Blocking; raises EvidenceError (evidence.socket)."""
    return lambda data: sockets.exchange(path, data)


class Nitro:
    """A Nitro enclave. ``nsm_request`` carries CBOR to the module and back."""

    def __init__(self, nsm_request: NsmRequest | None = None, sealing: Sealing | None = None) -> None:
        self._request = nsm_request or device_request()
        self._sealing = sealing or NoSealing()

    @property
    def kind(self) -> str:
        """ "nitro"."""
        return "nitro"

    async def quote(self, report_data: bytes) -> Evidence:
        """An attestation document whose user_data is the report data. Raises EvidenceError."""
        return Evidence("nitro", await asyncio.to_thread(self._document, need_report_data(report_data)))

    async def sealing_key(self, context: bytes) -> bytes:
        """A sealing key of this machine. Raises EvidenceError."""
        return await self._sealing.key(context)

    def _document(self, report_data: bytes) -> bytes:
        wanted = {"Attestation": {"user_data": report_data, "nonce": None, "public_key": None}}
        return _attestation(self._request(cbor2.dumps(wanted)))


def probe(request: NsmRequest) -> str:
    """The module's id. Raises EvidenceError if nothing answers like an NSM."""
    answer = _decode(request(cbor2.dumps("DescribeNSM")))
    described = answer.get("DescribeNSM")
    module = described.get("module_id") if isinstance(described, dict) else None
    if not isinstance(module, str):
        raise BAD_QUOTE(expected="DescribeNSM with a module id", found=str(sorted(map(str, answer)))[:64])
    return module


def _attestation(raw: bytes) -> bytes:
    answer = _decode(raw)
    inner = answer.get("Attestation")
    document = inner.get("document") if isinstance(inner, dict) else None
    if not isinstance(document, bytes) or not document:
        found = str(answer.get("Error", "another answer"))
        raise BAD_QUOTE(expected="an attestation document", found=found[:64])
    return document


def _decode(raw: bytes) -> dict[object, object]:
    if len(raw) > MAX_RESPONSE:
        raise BAD_QUOTE(expected=f"an answer of at most {MAX_RESPONSE} bytes", found=str(len(raw)))
    try:
        answer = cbor2.loads(raw, max_depth=8)
    except CloisterError:
        raise
    except Exception as error:
        raise BAD_QUOTE(expected="an answer in CBOR", found=type(error).__name__) from None
    if not isinstance(answer, dict):
        raise BAD_QUOTE(expected="an answer map", found=str(answer)[:64])
    return answer

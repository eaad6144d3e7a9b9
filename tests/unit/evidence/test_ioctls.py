"""The older guest devices: layouts of the kernel's headers; the test plays the kernel and the quoting service."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.attestation import snp, tdx
from cloister.core.errors import EvidenceError
from cloister.evidence import ioctls
from cloister.evidence.detect import MachineConfig, survey
from cloister.evidence.ioctls import SevGuest, TdxGuest, device_ioctl, quote_request, read_quote, vsock_exchange
from support.hardware import MEASUREMENT, NOW, chip, collateral, platform, roots

REPORT = bytes(range(64))


class Source:
    """Certificates of the simulated vendors."""

    async def aux(self, kind: str, blob: bytes) -> dict[str, bytes]:
        """Of either kind."""
        return {"collateral": collateral()} if kind == "tdx" else dict(chip().certificates)


class Kernel:
    """Answers the three ioctls by writing where their structs point to."""

    def __init__(self, table: bytes | None = None, status: int = 0, vmm_error: int = 0, size: int = 1184) -> None:
        self.codes: list[int] = []
        self._table, self._status, self._vmm_error, self._size = table, status, vmm_error, size

    def ioctl(self, code: int, argument: ctypes.Structure) -> None:
        self.codes.append(code)
        if code == ioctls.TDX_CMD_GET_REPORT0:
            report = bytearray(1024)
            report[128:192] = bytes(argument.reportdata)
            ctypes.memmove(ctypes.addressof(argument) + 64, bytes(report), 1024)
            return
        raw = bytes(argument)
        version, request_at, response_at = raw[0], *struct.unpack_from("<QQ", raw, 8)
        assert version == 1
        request = ctypes.string_at(request_at, 112 if code == ioctls.SNP_GET_EXT_REPORT else 96)
        if code == ioctls.SNP_GET_EXT_REPORT:
            if self._table is None:
                raise ioctls.BAD_QUOTE(expected="certificates", found="an error")
            place, length = struct.unpack_from("<QI", request, 96)
            assert length == ioctls.CERTS_SIZE >= len(self._table)
            ctypes.memmove(place, self._table, len(self._table))
        assert request[68:96] == bytes(28)
        vmpl = int.from_bytes(request[64:68], "little")
        report = chip().report(MEASUREMENT, request[:64], vmpl=vmpl)
        answer = struct.pack("<II", self._status, self._size) + bytes(24) + report
        ctypes.memmove(response_at, answer, len(answer))
        if self._vmm_error:
            ctypes.memmove(ctypes.addressof(argument) + 24, struct.pack("<II", 0, self._vmm_error), 8)


def _refusal(call: Callable[[], object]) -> str:
    with pytest.raises(EvidenceError) as caught:
        call()
    return caught.value.code


def test_structs_and_numbers_are_those_of_the_kernel() -> None:
    sizes = {
        ioctls.ReportRequest: 96,
        ioctls.ExtendedRequest: 112,
        ioctls.GuestRequest: 32,
        ioctls.TdReport: 1088,
    }
    assert {one: ctypes.sizeof(one) for one in sizes} == sizes
    both_ways, sev, td = 3 << 30, ord("S") << 8, ord("T") << 8
    assert both_ways | 32 << 16 | sev | 0 == ioctls.SNP_GET_REPORT
    assert both_ways | 32 << 16 | sev | 2 == ioctls.SNP_GET_EXT_REPORT
    assert both_ways | 1088 << 16 | td | 1 == ioctls.TDX_CMD_GET_REPORT0
    assert ioctls.GuestRequest.resp_data.offset == 16
    assert ioctls.ExtendedRequest.certs_len.offset == 104


async def test_a_report_with_the_certificates_of_the_host() -> None:
    kernel = Kernel(chip().table())
    shown = await SevGuest(kernel.ioctl).quote(REPORT)
    assert kernel.codes == [ioctls.SNP_GET_EXT_REPORT]
    claims = snp.verify(shown, roots(), NOW)
    assert (claims.report_data, claims.details["vmpl"]) == (REPORT, 0)


async def test_a_host_without_certificates_leaves_them_to_the_source() -> None:
    kernel = Kernel()
    shown = await SevGuest(kernel.ioctl, Source()).quote(REPORT)
    assert kernel.codes == [ioctls.SNP_GET_EXT_REPORT, ioctls.SNP_GET_REPORT]
    assert snp.verify(shown, roots(), NOW).report_data == REPORT
    empty = await SevGuest(Kernel(b"").ioctl, Source()).quote(REPORT)
    assert snp.verify(empty, roots(), NOW).kind == SevGuest(kernel.ioctl).kind == "snp"


FAILING = {
    "a status of the firmware": Kernel(status=0x16),
    "an error of the host": Kernel(vmm_error=2),
    "a report of another size": Kernel(size=1000),
}


@pytest.mark.parametrize("sentence", FAILING)
def test_failures_of_the_firmware(sentence: str) -> None:
    assert _refusal(lambda: ioctls.snp_report(FAILING[sentence].ioctl, REPORT)) == "evidence.quote"


def _service(message: bytes) -> bytes:
    """The host's quoting service: takes the report data out of the report and signs."""
    major, minor, kind, size, error = struct.unpack_from("<HHIII", message)
    report_size, ids = struct.unpack_from("<II", message, 16)
    assert (major, minor, kind, size, error, report_size, ids) == (1, 0, 0, len(message), 0, 1024, 0)
    quote = platform().quote(MEASUREMENT, message[24 + 128 : 24 + 192])
    return struct.pack("<HHIII", 1, 0, 1, 24 + len(quote), 0) + struct.pack("<II", 0, len(quote)) + quote


async def test_a_td_report_becomes_a_quote_on_the_host() -> None:
    tee = TdxGuest(Kernel().ioctl, _service, Source())
    assert tee.kind == "tdx"
    assert tdx.verify(await tee.quote(REPORT), roots(), NOW).report_data == REPORT
    with pytest.raises(TypeError):
        await tee.quote(b"short")


def test_a_report_over_other_data_is_refused() -> None:
    def liar(code: int, argument: ctypes.Structure) -> None:
        del code, argument

    assert _refusal(lambda: ioctls.td_report(liar, REPORT)) == "evidence.quote"


ANSWERS: dict[str, bytes] = {
    "nothing": b"",
    "a head only": struct.pack("<HHIII", 1, 0, 1, 16, 0),
    "an error": struct.pack("<HHIIIII", 1, 0, 1, 24, 0x11001, 0, 0),
    "another message": struct.pack("<HHIIIII", 1, 0, 3, 24, 0, 0, 0),
    "another version": struct.pack("<HHIIIII", 2, 0, 1, 24, 0, 0, 0),
    "a quote of nothing": struct.pack("<HHIIIII", 1, 0, 1, 24, 0, 0, 0),
    "a quote shorter than it says": struct.pack("<HHIIIII", 1, 0, 1, 25, 0, 0, 9) + b"x",
    "a quote over the limit": struct.pack("<HHIIIII", 1, 0, 1, 24 + 16385, 0, 0, 16385) + bytes(16385),
    "a size that is not its own": struct.pack("<HHIIIII", 1, 0, 1, 99, 0, 0, 1) + b"x",
}


@pytest.mark.parametrize("sentence", ANSWERS)
def test_answers_of_the_service(sentence: str) -> None:
    assert _refusal(lambda: read_quote(ANSWERS[sentence])) == "evidence.quote"


def test_selected_keys_before_the_quote_are_skipped() -> None:
    assert read_quote(struct.pack("<HHIIIII", 1, 1, 1, 24 + 5, 0, 2, 3) + b"idabc") == b"abc"
    assert len(quote_request(bytes(1024))) == 24 + 1024


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_of_the_service_is_a_named_refusal(data: bytes) -> None:
    try:
        assert 0 < len(read_quote(data)) < 200
    except EvidenceError as error:
        assert error.code == "evidence.quote"  # noqa: PT017


def test_devices_that_are_absent_are_named(tmp_path: Path) -> None:
    ioctl = device_ioctl(tmp_path / "sev-guest")
    with pytest.raises(EvidenceError) as caught:
        ioctl(ioctls.SNP_GET_REPORT, ioctls.GuestRequest())
    assert "sev-guest" in caught.value.expected
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert _refusal(lambda: device_ioctl(plain)(ioctls.SNP_GET_REPORT, ioctls.GuestRequest())) == "evidence.quote"


def test_no_quoting_service_is_a_refusal() -> None:
    assert _refusal(lambda: vsock_exchange(1)(b"x")) == "evidence.quote"


def test_detection_tries_the_devices_that_are_named(tmp_path: Path) -> None:
    plain = tmp_path / "device"
    plain.write_bytes(b"")
    machine = MachineConfig(tsm_root=None, nsm_device=None, sev_device=plain, tdx_device=tmp_path / "gone")
    found = {finding.place: finding for finding in survey(machine)}
    assert found["sev-guest device"].tee is None
    assert str(plain) in found["sev-guest device"].reason
    assert found["tdx_guest device"].reason == f"no {tmp_path / 'gone'}"
    everywhere = MachineConfig.everywhere()
    assert (str(everywhere.sev_device), str(everywhere.tdx_device)) == ("/dev/sev-guest", "/dev/tdx_guest")

"""Finding this machine's TEE, and the socket frames that carry requests to it."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloister.core.errors import EvidenceError
from cloister.evidence import sockets
from cloister.evidence.detect import MachineConfig, open_tee, survey
from cloister.evidence.sockets import SealingSocket, call, exchange

NOWHERE = MachineConfig(tsm_root=None, nsm_device=None)


class Peer:
    """A Unix-socket server that answers every connection with fixed bytes."""

    def __init__(self, path: Path, answer: Callable[[bytes], bytes]) -> None:
        self.requests: list[bytes] = []
        self._answer = answer
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                link, _ = self._socket.accept()
            except OSError:
                return
            with link:
                (size,) = struct.unpack(">I", link.recv(4))
                request = b""
                while len(request) < size:
                    request += link.recv(size - len(request))
                self.requests.append(request)
                link.sendall(self._answer(request))

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[bytes], Path]]:
    peers: list[Peer] = []

    def start(raw: bytes) -> Path:
        path = tmp_path / f"{len(peers)}.sock"
        peers.append(Peer(path, lambda _: raw))
        return path

    yield start
    for peer in peers:
        peer.close()


def _frame(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def test_one_frame_goes_and_one_comes(serve: Callable[[bytes], Path]) -> None:
    assert exchange(serve(_frame(b"answer")), b"question") == b"answer"
    assert exchange(serve(_frame(b"")), b"") == b""


BROKEN = {
    "nothing at all": b"",
    "half a length": b"\0\0",
    "less than it says": struct.pack(">I", 9) + b"x",
    "a frame over the limit": struct.pack(">I", 65537),
}


@pytest.mark.parametrize("sentence", BROKEN)
def test_broken_answers_are_refused(sentence: str, serve: Callable[[bytes], Path]) -> None:
    with pytest.raises(EvidenceError) as caught:
        exchange(serve(BROKEN[sentence]), b"x")
    assert caught.value.code == "evidence.socket"


def test_a_socket_that_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError) as caught:
        exchange(tmp_path / "absent.sock", b"x")
    assert caught.value.code == "evidence.socket"
    assert caught.value.expected == "an answer from absent.sock"


def test_a_request_over_the_limit_is_our_mistake(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        exchange(tmp_path / "x", bytes(65537))


def test_answers_are_json_objects(serve: Callable[[bytes], Path]) -> None:
    assert call(serve(_frame(b'{"a": 1}')), {}) == {"a": 1}
    for raw in (b"[]", b"{", b"", b"\xff", b"1", b"[" * 60000):
        with pytest.raises(EvidenceError):
            call(serve(_frame(raw)), {})


def test_a_refusal_of_the_service_keeps_its_code(serve: Callable[[bytes], Path]) -> None:
    known = {"code": "evidence.quote", "check": "c", "expected": "e", "found": "f", "remedy": "r"}
    with pytest.raises(EvidenceError) as caught:
        call(serve(_frame(json.dumps({"error": known}).encode())), {})
    assert (caught.value.code, caught.value.found) == ("evidence.quote", "f")
    for raw in (b'{"error": {"code": "somebody.else", "found": "x"}}', b'{"error": 7}'):
        with pytest.raises(EvidenceError) as caught:
            call(serve(_frame(raw)), {})
        assert caught.value.code == "evidence.socket"


async def test_a_sealing_key_is_32_bytes(serve: Callable[[bytes], Path]) -> None:
    good = SealingSocket(serve(_frame(json.dumps({"key": "0x" + "ab" * 32}).encode())))
    assert await good.key(b"context") == b"\xab" * 32
    for text in ("0x" + "ab" * 31, "ab" * 33, "0x" + "zz" * 32, 7, None):
        with pytest.raises(EvidenceError) as caught:
            await SealingSocket(serve(_frame(json.dumps({"key": text}).encode()))).key(b"x")
        assert "ab" not in caught.value.found
    with pytest.raises(TypeError):
        await good.key(bytes(1025))


def test_no_tee_names_a_reason_for_each_place(tmp_path: Path) -> None:
    machine = MachineConfig(tsm_root=tmp_path, nsm_device=tmp_path / "nsm", nsm_socket=tmp_path / "s.sock")
    findings = survey(machine)
    assert [f.place for f in findings] == ["configfs-tsm", "tsm socket", "nsm device", "nsm socket"]
    assert all(f.tee is None and f.reason for f in findings)
    assert findings[1].reason == "not configured"
    with pytest.raises(EvidenceError) as caught:
        open_tee(machine)
    assert caught.value.code == "evidence.no_tee"
    for finding in findings:
        assert f"{finding.place}: " in caught.value.found


def test_an_empty_configuration_is_no_tee() -> None:
    with pytest.raises(EvidenceError):
        open_tee(NOWHERE)


def test_the_first_place_that_answers_is_taken(serve: Callable[[bytes], Path]) -> None:
    from cbor2 import dumps

    path = serve(_frame(dumps({"DescribeNSM": {"module_id": "i-1"}})))
    machine = MachineConfig(tsm_root=None, nsm_device=None, nsm_socket=path)
    assert open_tee(machine).kind == "nitro"
    assert survey(machine)[3].reason == "i-1 answers"


def test_a_socket_that_answers_nonsense_is_no_tee(serve: Callable[[bytes], Path]) -> None:
    path = serve(_frame(b"{}"))
    machine = MachineConfig(tsm_root=None, nsm_device=None, nsm_socket=path, tsm_socket=path)
    assert [f.tee for f in survey(machine)] == [None] * 4


def test_the_configuration_goes_there_and_back(tmp_path: Path) -> None:
    machine = MachineConfig(tsm_root=tmp_path, nsm_device=None, collateral=tmp_path / "c")
    assert MachineConfig.from_json(machine.to_json()) == machine
    assert MachineConfig.from_json({}) == NOWHERE
    assert str(MachineConfig().tsm_root) == "/sys/kernel/config/tsm/report"


@pytest.mark.parametrize(
    "value", [None, [], {"path": "x"}, {"tsm_root": 7}, {"tsm_root": ""}, {"collateral": "x" * 5000}]
)
def test_other_configurations_are_refused(value: object) -> None:
    with pytest.raises(EvidenceError) as caught:
        MachineConfig.from_json(value)
    assert caught.value.code == "evidence.machine"


def test_timeouts_are_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "TIMEOUT_S", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.bind(str(tmp_path / "silent.sock"))
        silent.listen()
        with pytest.raises(EvidenceError) as caught:
            exchange(tmp_path / "silent.sock", b"x")
    assert caught.value.found == "a timeout"

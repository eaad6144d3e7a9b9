"""A dstack guest's agent on its socket: quote and log come out and verify; nonsense is refused."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from cloister.core.attestation import dstack as kind
from cloister.core.errors import EvidenceError
from cloister.evidence.detect import MachineConfig, open_tee, survey
from cloister.evidence.dstack import Dstack, ask, probe
from support.hardware import NOW, collateral, roots
from support.intel_kit import dstack_evidence, runtime_event, tdx_quote

REPORT = bytes(range(64))
Answer = tuple[int, bytes]
Serve = Callable[[Callable[[str, bytes], Answer]], Path]


class Source:
    """The simulated vendor's collateral."""

    async def aux(self, kind: str, blob: bytes) -> dict[str, bytes]:
        """For dstack guests."""
        assert kind == "dstack"
        return {"collateral": collateral()}


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    servers: list[socketserver.BaseServer] = []

    def start(answer: Callable[[str, bytes], Answer]) -> Path:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, data = answer(self.path, body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

            def address_string(self) -> str:
                return "a socket"

        path = tmp_path / f"{len(servers)}.sock"
        server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return path

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def _agent(path: str, body: bytes) -> Answer:
    if path == "/Info":
        return 200, json.dumps({"app_id": "aa" * 20, "instance_id": "ii"}).encode()
    assert path == "/GetQuote"
    report_data = bytes.fromhex(json.loads(body)["report_data"])
    names = [("app-id", b"a" * 20), ("compose-hash", b"c" * 32), ("boot-mr-done", b"")]
    made = dstack_evidence([runtime_event(name, payload) for name, payload in names])
    rtmrs = kind.replay(kind.parse(made.aux["event_log"]))
    answer = {
        "quote": tdx_quote(rtmrs, report_data).hex(),
        "event_log": made.aux["event_log"].decode(),
        "vm_config": "",
    }
    return 200, json.dumps(answer).encode()


async def test_quote_and_log_verify(serve: Serve) -> None:
    tee = Dstack(serve(_agent), Source())
    assert tee.kind == "dstack"
    claims = kind.verify(await tee.quote(REPORT), roots(), NOW)
    assert (claims.report_data, claims.measurements["app_id"]) == (REPORT, b"a" * 20)
    with pytest.raises(EvidenceError) as caught:
        await tee.sealing_key(b"x")
    assert caught.value.code == "evidence.no_sealing"


async def test_detection_takes_the_agent(serve: Serve) -> None:
    machine = MachineConfig(tsm_root=None, nsm_device=None, dstack_socket=serve(_agent))
    assert [f.reason for f in survey(machine) if f.tee] == [f"app {'aa' * 20} answers"]
    assert kind.verify(await open_tee(machine, Source()).quote(REPORT), roots(), NOW).kind == "dstack"


BAD: dict[str, Answer] = {
    "an error": (500, b"{}"),
    "no JSON": (200, b"hello"),
    "a list": (200, b"[]"),
    "an empty object": (200, b"{}"),
    "a quote that is no hex": (200, b'{"quote": "zz", "event_log": "[]"}'),
    "a quote that is a number": (200, b'{"quote": 7, "event_log": "[]"}'),
    "a log that is a list": (200, b'{"quote": "00", "event_log": []}'),
    "JSON of great depth": (200, b"[" * 100000),
    "more than the limit": (200, b" " * ((2 << 20) + 1)),
}


@pytest.mark.parametrize("sentence", BAD)
async def test_other_answers_are_refused(sentence: str, serve: Serve) -> None:
    path = serve(lambda path, body: BAD[sentence])
    with pytest.raises(EvidenceError) as caught:
        await Dstack(path, Source()).quote(REPORT)
    assert caught.value.code in ("evidence.quote", "evidence.socket")
    with pytest.raises(EvidenceError):
        probe(path)


def test_an_absent_agent_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError) as caught:
        ask(tmp_path / "dstack.sock", "Info", {})
    assert caught.value.expected == "an answer from dstack.sock"
    machine = MachineConfig(tsm_root=None, nsm_device=None, dstack_socket=tmp_path / "dstack.sock")
    assert survey(machine)[-1].reason == f"no {tmp_path / 'dstack.sock'}"

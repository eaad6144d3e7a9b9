"""Evidence of a dstack guest: its agent answers HTTP on a Unix socket with a TDX quote and the event log."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from pathlib import Path
from typing import Any, Final

from cloister.core.attestation.model import Evidence
from cloister.evidence.collateral import CollateralSource, NoCollateral
from cloister.evidence.places import DSTACK_SOCKET
from cloister.evidence.sockets import SOCKET_FAILED
from cloister.evidence.tee import BAD_QUOTE, NoSealing, Sealing, need_report_data

MAX_ANSWER: Final = 2 << 20
TIMEOUT_S: Final = 30.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Dstack:
    """A dstack guest."""

    def __init__(
        self, path: Path = DSTACK_SOCKET, collateral: CollateralSource | None = None, sealing: Sealing | None = None
    ) -> None:
        self._path = path
        self._collateral = collateral or NoCollateral()
        self._sealing = sealing or NoSealing()

    @property
    def kind(self) -> str:
        """ "dstack"."""
        return "dstack"

    async def quote(self, report_data: bytes) -> Evidence:
        """Quote, event log and collateral. Raises EvidenceError."""
        request = {"report_data": need_report_data(report_data).hex()}
        answer = await asyncio.to_thread(ask, self._path, "GetQuote", request)
        quote, log = answer.get("quote"), answer.get("event_log")
        if not isinstance(quote, str) or not isinstance(log, str):
            raise BAD_QUOTE(expected="a quote and an event log", found=", ".join(sorted(map(str, answer)))[:64])
        try:
            blob = bytes.fromhex(quote.removeprefix("0x"))
        except ValueError:
            raise BAD_QUOTE(expected="a quote in hex", found="another text") from None
        collateral = await self._collateral.aux("dstack", blob)
        return Evidence("dstack", blob, {**collateral, "event_log": log.encode()})

    async def sealing_key(self, context: bytes) -> bytes:
        """A sealing key of this machine. Raises EvidenceError."""
        return await self._sealing.key(context)


def probe(path: Path) -> str:
    """The app id that the agent says. Raises EvidenceError."""
    found = ask(path, "Info", {}).get("app_id")
    if not isinstance(found, str) or not found:
        raise BAD_QUOTE(expected="an agent that names its app", found="another")
    return found[:40]


def ask(path: Path, method: str, request: dict[str, Any]) -> dict[str, Any]:
    """One request to the agent. Blocking; raises EvidenceError (evidence.socket)."""
    link = _UnixConnection(path)
    try:
        link.request("POST", f"/{method}", json.dumps(request), {"Content-Type": "application/json"})
        reply = link.getresponse()
        body = reply.read(MAX_ANSWER + 1)
    except (OSError, http.client.HTTPException) as error:
        found = getattr(error, "strerror", None) or type(error).__name__
        raise SOCKET_FAILED(expected=f"an answer from {path.name}", found=found) from None
    finally:
        link.close()
    if reply.status != 200 or len(body) > MAX_ANSWER:
        raise SOCKET_FAILED(expected=f"status 200 and at most {MAX_ANSWER} bytes", found=str(reply.status))
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise SOCKET_FAILED(expected="a JSON answer", found=f"{len(body)} other bytes") from None
    if not isinstance(answer, dict):
        raise SOCKET_FAILED(expected="a JSON object", found=type(answer).__name__)
    return answer

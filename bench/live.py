"""A running devnet for benchmarks: an agent on it, sealed sessions to one seat, requests sealed ahead of the run."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.load import Answer, read_answers, write_plan
from cloister.client.client import Client
from cloister.client.deploy import await_seats, deploy_agent
from cloister.client.resolve import Sitting
from cloister.client.wallet import Wallet
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.envelope.client import ClientSession, Psk, SealedRequest, seal_once
from cloister.core.envelope.model import RequestHead
from cloister.core.envelope.opener import Body, Final, Head
from cloister.core.policy.manifest import normalize
from cloister.core.receipts.receipt import Exchange
from cloister.core.receipts.verify import verify_receipt
from cloister.devnet import tools
from cloister.devnet.network import Devnet, Options

AGENTS = Path(__file__).parent / "agents"
SEATS_WITHIN_S = 300.0  # a machine that other things keep busy is measured late, not refused
TEXT = json.dumps({"text": "a question of ordinary length, " * 7}).encode()


@dataclass(slots=True)
class Live:
    """A devnet, its owner's client, a folder to write to, and the agent that is called."""

    devnet: Devnet
    client: Client
    folder: Path
    agent: bytes

    async def sitting(self) -> Sitting:
        """The first verified seat of the agent now: the one that holds the newest lease and stays the same worker."""
        found = (await self.client.resolver.resolve(self.agent, again=True)).sittings
        return min(found, key=lambda s: s.worker.worker)

    def pid_of(self, sitting: Sitting) -> int:
        """Process id of the worker on a seat."""
        for child in self.devnet.children.values():
            if child.ready.get("address") == to_hex(sitting.worker.worker):
                return child.process.pid
        raise RuntimeError("the seat's worker is not of this devnet")

    @property
    def gateway_port(self) -> int:
        """Where calls go."""
        return int(self.devnet.ports["gateway"])


@asynccontextmanager
async def live(workers: int = 2, *, model: bool = False, script: Path = AGENTS / "small.js") -> AsyncIterator[Live]:
    """A devnet with ``script`` deployed as an agent that two workers hold."""
    home = Path(tempfile.mkdtemp(prefix="cloister-bench-"))
    devnet = Devnet(Options(home, workers=workers, with_model=model), lambda text: print(f"  {text}", file=sys.stderr))
    try:
        await devnet.start()
        assert devnet.network is not None
        fingerprint = devnet.network.fingerprint()
        async with Client(
            devnet.gateway_url, fingerprint=fingerprint, wallet=Wallet(devnet.owner()), home=home / "client"
        ) as client:
            deployed = await deploy_agent(client, script.read_bytes(), normalize({}))
            await await_seats(client, deployed.agent, seats=2, within_s=SEATS_WITHIN_S)
            yield Live(devnet, client, home, deployed.agent)
    finally:
        await devnet.stop()
        shutil.rmtree(home, ignore_errors=True)


def head(method: str = "POST", path: str = "/ask") -> RequestHead:
    """A fresh request head."""
    return RequestHead(
        request_id=to_hex(os.urandom(16)),
        method=method,
        path=path,
        deadline_ms=int(time.time() * 1000) + 300_000,
        headers=(("content-type", "application/json"),) if method == "POST" else (),
    )


@dataclass(slots=True)
class Pool:
    """Sealed requests per connection, as objects that open their answers and as HTTP bytes."""

    sitting: Sitting
    sealed: list[list[SealedRequest]]
    lanes: list[list[bytes]]

    def verify(self, answers: Sequence[Answer], receipts_every: int = 1) -> None:
        """Open every answer and check the receipt of every n-th, once each.

        Raises if one is missing, does not open, is a refusal, or has a wrong receipt."""
        if sorted((a.connection, a.index) for a in answers) != [
            (c, i) for c, lane in enumerate(self.sealed) for i in range(len(lane))
        ]:
            raise RuntimeError("not every request was answered once")
        for count, answer in enumerate(answers):
            request = self.sealed[answer.connection][answer.index]
            final = status = None
            for event in request.opener.feed(answer.body):
                if isinstance(event, Head):
                    status = event.status
                elif isinstance(event, Final):
                    final = event
                elif not isinstance(event, Body):
                    raise event.error
            request.opener.close()
            if final is None or status != 200:
                raise RuntimeError(f"status {status}")
            if count % receipts_every == 0:
                self._receipt(request, final, status)

    def _receipt(self, request: SealedRequest, final: Final, status: int) -> None:
        exchange = Exchange(
            from_hex(request.request_id, 16), status, request.commitment, request.opener.commitment(request.salt)
        )
        seat = self.sitting.seat
        verify_receipt(final.receipt, final.signature, seat.certificate, self.sitting.admission, exchange, final.batch)


async def session_pool(
    net: Live, width: int, each: int, *, method: str = "POST", path: str = "/ask", body: bytes = TEXT
) -> Pool:
    """``width`` sessions, opened by a first call each, with ``each`` requests of consecutive numbers."""
    sitting = await net.sitting()
    certificate = sitting.seat.certificate
    psk = Psk.encapsulate(certificate, net.client.network.mpk, os.urandom)
    sessions = [ClientSession(certificate, psk, os.urandom) for _ in range(width)]
    for session in sessions:
        await _open(net, session)
    sealed = [[s.seal(head(method, path), body) for _ in range(each)] for s in sessions]
    return _pool(sitting, sealed)


async def one_shot_pool(net: Live, width: int, each: int) -> Pool:
    """One-shot requests: a context each, under one PSK."""
    sitting = await net.sitting()
    certificate = sitting.seat.certificate
    psk = Psk.encapsulate(certificate, net.client.network.mpk, os.urandom)
    sealed = [[seal_once(certificate, psk, head(), TEXT, os.urandom) for _ in range(each)] for _ in range(width)]
    return _pool(sitting, sealed)


def _pool(sitting: Sitting, sealed: list[list[SealedRequest]]) -> Pool:
    certificate = sitting.seat.certificate
    path = f"/v1/call/{to_hex(certificate.agent)}?boot={to_hex(certificate.boot)}"
    lanes = [[post(path, "application/cloister-sealed", r.data) for r in lane] for lane in sealed]
    return Pool(sitting, sealed, lanes)


def post(path: str, content_type: str, body: bytes) -> bytes:
    """A whole HTTP request."""
    lines = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}"
    return lines.encode() + b"\r\n\r\n" + body


def get(path: str) -> bytes:
    """A whole HTTP request without a body."""
    return f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode()


async def _open(net: Live, session: ClientSession) -> None:
    certificate = session.certificate
    request = session.seal(head(), TEXT)
    async with net.client.gateway.call(certificate.agent, certificate.boot, request.data) as answer:
        async for chunk in answer:  # type: ignore[union-attr]
            request.opener.feed(chunk)
    request.opener.close()


@dataclass(slots=True)
class Loaded:
    """What one run of the load generator gave."""

    seconds: float
    requests: int
    cpu_us: float
    answers: list[Answer]

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    def times_ms(self) -> list[float]:
        """Milliseconds of every request."""
        return [answer.took_ns / 1e6 for answer in self.answers]


async def load(
    folder: Path, port: int, lanes: Sequence[Sequence[bytes]], *, repeat: int = 1, watch: Any = None
) -> Loaded:
    """Run the generator in its own process. ``watch`` is called right before and right after the load."""
    plan, out = folder / "plan", folder / "answers"
    write_plan(plan, port, lanes, repeat)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.load",
        str(plan),
        str(out),
        cwd=Path(__file__).parents[1],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    if await process.stdout.readline() != b"ready\n":
        raise RuntimeError("the load generator did not start")
    if watch is not None:
        watch()
    process.stdin.write(b"go\n")
    line = await process.stdout.readline()
    if watch is not None:
        watch()
    if await process.wait() != 0 or not line:
        raise RuntimeError("the load generator failed")
    return Loaded(**json.loads(line), answers=read_answers(out.read_bytes()))


@asynccontextmanager
async def direct(folder: Path) -> AsyncIterator[tuple[int, int]]:
    """Plain Deno serving the same agent: (port, pid)."""
    environment = {**os.environ, "DENO_DIR": str(folder / "deno"), "DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"}
    argv = [str(tools.deno()), "run", "--allow-net", str(AGENTS / "direct.js")]
    process = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE)  # noqa: ASYNC220 - one line, at start
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline()), process.pid
    finally:
        process.kill()
        process.wait()

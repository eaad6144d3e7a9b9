"""A worker with a canary key, a neighbour agent, and room for one attacker at a time behind walls of choice."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import mock
from urllib.parse import urlencode

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister.core.errors import SandboxError
from cloister.core.policy.archive import pack
from cloister.core.policy.egress import parse_rules
from cloister.devnet.model.tls import CA_FILE, server_context
from cloister.sandbox import seccomp
from cloister.sandbox.blanks import Shape
from cloister.sandbox.deno import DenoSandbox, command
from cloister.sandbox.deno import sandbox as sandbox_module
from cloister.sandbox.deno.command import Plan
from cloister.sandbox.machine import Tools
from cloister.sandbox.ports import AgentSpec, Limits
from cloister.sandbox.process import SandboxProcess
from cloister.sandbox.python import PythonSandbox
from support.attacks import Attack, Stop, Walls
from support.sandbox_kit import MemoryHost, ask, children, descendants, network_namespaces, open_files, spec_of

CODE = Path(__file__).with_name("attacks.js").read_text()
NEIGHBOUR = """
let count = 0;
Deno.listen({ hostname: "127.0.0.1", port: 7777 });
export default { fetch: () => new Response("served " + ++count) };
"""
PYTHON = pack({"source/agent.py": Path(__file__).with_name("attacks_agent.py").read_bytes()})
SECRET = "k-0123456789"
_FOLDERS = ("in/deno", "out/deno", "py/python")
_OWN = {"DENO_DIR", "DENO_CERT", "DENO_NO_UPDATE_CHECK", "HTTPS_PROXY", "HTTP_PROXY", "PWD", "SECRET"}
_OWN |= {"PATH", "DENO_NODE_SHIM_ACTIVE"}  # Deno sets these itself
_OWN |= {"HOME", "http_proxy", "https_proxy", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"}  # the Python harness sets these
_PRIVATE = [
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "fd00::1",
    "fe80::1",
    "::ffff:10.0.0.1",
    "64:ff9b::a00:1",
]
_NAMES = {"rebind.example": "127.0.0.1", "v6.example": "::1", "metadata.example": "169.254.169.254"}
_NAMES |= {f"p{i}.private.example": address for i, address in enumerate(_PRIVATE)}
_EGRESS = ["allowed.example", "flips.example", "metadata.example", "rebind.example", "v6.example", "*.private.example"]
_EXTRA = [
    [56, 17],
    [56, 0x10000000],
    [41, 40, 1, 0],
    [41, 16, 3, 0],
    [16, 0, 0x5412],
]  # fork, userns, vsock, netlink, tiocsti


@dataclass(frozen=True)
class Result:
    """``outcome``: the refusal's code or the answer in quotes. ``seconds`` until it ended, ``peak_mb`` of memory."""

    outcome: str
    seconds: float
    peak_mb: int


@dataclass
class Upstream:
    """One server with TLS (names of the internet) and one without, on this machine."""

    tls: int
    plain: int
    ca: bytes
    udp: int = 0
    reached: list[str] = field(default_factory=list)


@dataclass
class Lab:
    """``attack`` runs one; afterwards everything that should still stand has been tried."""

    work: Path
    upstream: Upstream
    inside: DenoSandbox
    outside: DenoSandbox
    python: PythonSandbox
    neighbour: SandboxProcess
    key: Ed25519PrivateKey
    canary: str
    served: int = 0
    cpu_us: int = 0
    blank: bool = False  # attackers behind both walls get a process that waited

    async def attack(self, attack: Attack, walls: Walls) -> Result:
        """Run it in a fresh process. AssertionError: it went further than it may."""
        before = self._traces()
        host = MemoryHost()
        process, family = await self.start(attack, walls, host)
        began = time.monotonic()
        try:
            result = await self._outcome(process, attack, walls)
            seconds = time.monotonic() - began
            await self._aftermath(process, attack, result)
            used = process.usage()
            peak, self.cpu_us = used["peak_bytes"], self.cpu_us + used["cpu_us"]
            if walls is not Walls.DENO:
                assert peak < 320 << 20, f"{peak >> 20} MiB"
            assert attack.logged in str(host.lines), "the owner is told"
        finally:
            await process.close()
        self._check_secrets(result, host)
        await self._check_standing(before, family)
        return Result(result, seconds, peak >> 20)

    async def start(self, attack: Attack, walls: Walls, host: MemoryHost) -> tuple[SandboxProcess, set[int]]:
        """A process with the hostile bundle, and its process ids."""
        known = children()
        with _open(walls):
            inside = self.python if attack.python else self.inside
            sandbox = self.outside if walls is Walls.DENO else inside
            process = await sandbox.start(await self._awaited(self._spec(attack, walls), walls), host)
        assert sandbox is not self.inside or self.inside.blanks.held() == (0, 0), "the one that waited is its own"
        return process, descendants(children() - known)

    def _spec(self, attack: Attack, walls: Walls) -> AgentSpec:
        limits = Limits(memory_mb=128, response_bytes=8 << 20)
        known = ("127.0.0.1", self.upstream.tls)
        alone = walls is Walls.DENO
        return spec_of(
            PYTHON if attack.python else CODE,
            runtime="python" if attack.python else "deno",
            limits=replace(limits, **attack.limits),
            env={"SECRET": SECRET},
            egress=[f"127.0.0.1:{self.upstream.plain}"] if alone else _EGRESS,
            map_host={"allowed.example": known, "evil.example": known},
            extra_ca=self.upstream.ca,
        )

    async def _awaited(self, spec: AgentSpec, walls: Walls) -> AgentSpec:
        """A process waits for this agent, if the lab is for those."""
        if self.blank and walls is Walls.BOTH and spec.runtime == "deno":
            self.inside.blanks.want(Shape.of(spec, parse_rules(spec.egress)))
            self.inside.blanks.tend(room=True)
            await self.inside.blanks.settled()
            assert self.inside.blanks.held()[0] == 1
        return spec

    async def _outcome(self, process: SandboxProcess, attack: Attack, walls: Walls) -> str:
        """What ended it. A refusal carries no secret of the agent."""
        query = urlencode(self._targets(walls))
        answer = ask(process, f"/{attack.name}?{query}", seconds=attack.seconds)
        (result,) = await asyncio.gather(answer, return_exceptions=True)
        if isinstance(result, SandboxError):
            assert SECRET not in json.dumps(result.to_wire())
            return result.code
        assert not isinstance(result, BaseException), repr(result)
        return repr(result.text)

    def _targets(self, walls: Walls) -> dict[str, str]:
        plain = f"http://127.0.0.1:{self.upstream.plain}"
        base = plain if walls is Walls.DENO else "https://allowed.example"
        there = f"http://localhost:{self.upstream.plain}/ok" if walls is Walls.DENO else "https://evil.example/ok"
        return {
            "redirect": f"{base}/redirect?{urlencode({'to': there})}",
            "drip": f"{base}/drip",
            "file": str(self.work / "worker-key"),
            "pid": str(os.getpid()),
            "port": str(self.upstream.tls),
            "udp": str(self.upstream.udp),
            "calls": json.dumps([[number] for number in seccomp.DENIED.values()] + _EXTRA).replace(" ", ""),
        }

    async def _aftermath(self, process: SandboxProcess, attack: Attack, outcome: str) -> None:
        """The attacker itself: dead by name, or it answers again. Work after the answer ends too."""
        if attack.name in ("background", "loopAfter"):
            await _until(lambda: not process.alive, "work for nobody is stopped")
        fatal = ("sandbox.memory", "sandbox.crashed", "sandbox.protocol", "sandbox.cpu")
        if outcome in fatal or not process.alive:
            assert not process.alive
            with contextlib.suppress(SandboxError):
                await ask(process, "/hello")
                raise AssertionError("a dead agent answered")
        elif outcome != "sandbox.deadline" and attack.name not in ("pollute", "stopSelf", "frameBadHead"):
            assert (await ask(process, "/hello")).text == "hello"

    def _check_secrets(self, outcome: str, host: MemoryHost) -> None:
        said = outcome + str(host.lines) + str(host.calls) + str(host.store)[:100_000]
        assert self.canary not in said
        for seen in self.upstream.reached:
            assert self.canary not in seen
            assert not seen.startswith(("evil.example", "localhost", "datagram")), "nobody forbidden was reached"

    async def _check_standing(self, before: object, family: set[int]) -> None:
        """The worker's key signs, the neighbour serves, and nothing is left of the attacker."""
        raw = bytes.fromhex(self.canary)
        assert self.key.sign(b"still mine") == Ed25519PrivateKey.from_private_bytes(raw).sign(b"still mine")
        self.served += 1
        assert (await ask(self.neighbour)).text == f"served {self.served}"
        await _until(lambda: self._traces() == before and not family & _running(), "no trace is left")

    def _traces(self) -> tuple[set[int], int, int, list[str], int]:
        """Processes, network namespaces, open files, files of the sandbox, tasks."""
        folders = [str(path) for base in _FOLDERS for path in (self.work / base / "agents").glob("**/*")]
        # The spawner waits in the namespace that it made last: so they are counted.
        spaces = len(network_namespaces())
        return children(), spaces, open_files(), sorted(folders), len(asyncio.all_tasks())

    def environment_is_clean(self, text: str) -> bool:
        """Whether an environ block or a list of names holds the sandbox's own names only."""
        names = {part.split("=")[0] for part in re.split(r"\\x00|,", text.strip("'\"")) if part}
        return names <= _OWN and self.canary not in text


def matches(lab: Lab, outcome: str, expected: str) -> bool:
    """Whether an attack ended as the list says."""
    if expected in ("environment", "names"):
        return lab.environment_is_clean(outcome)
    if expected == "refused":
        return outcome.startswith("'refused ")
    if expected == "anything":
        return True
    return outcome in expected.split("|")


@asynccontextmanager
async def open_lab(work: Path) -> AsyncIterator[Lab]:
    """A lab below ``work``. AssertionError at the end if anything outlives it."""
    key = Ed25519PrivateKey.generate()
    canary = key.private_bytes_raw().hex()
    (work / "worker-key").write_text(canary)
    before = children(), network_namespaces()
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, {"WORKER_CANARY": canary}))
        upstream = await stack.enter_async_context(_upstream(work))
        inside = await stack.enter_async_context(DenoSandbox(work / "in", resolve=_Names().resolve, blanks=1))
        outside = await stack.enter_async_context(DenoSandbox(work / "out", rooted=False))
        python = await stack.enter_async_context(PythonSandbox(work / "py", resolve=_Names().resolve))
        with _open(Walls.OS):  # it listens, which no agent may: something to knock at
            neighbour = await inside.start(spec_of(NEIGHBOUR), MemoryHost())
        lab = Lab(work, upstream, inside, outside, python, neighbour, key, canary)
        stack.enter_context(_bare(work))
        for walls in (Walls.BOTH, Walls.DENO):  # the compiled code is made once
            process, _ = await lab.start(Attack("hello", "", "", _NOTHING), walls, MemoryHost())
            await process.close()
        process, _ = await lab.start(Attack("hello", "", "", _NOTHING, python=True), Walls.BOTH, MemoryHost())
        await process.close()
        yield lab
        await neighbour.close()
    assert (children(), network_namespaces()) == before, "nothing outlives the lab"


_NOTHING = Stop("", "")


class _Names:
    """A resolver that lies about some names, and about one from its second answer on."""

    def __init__(self) -> None:
        self._flipped = False

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        if host == "flips.example":
            answer, self._flipped = ("127.0.0.1" if self._flipped else "64:ff9b::808:808"), True
            return [answer]
        return [_NAMES[host]]


@contextmanager
def _open(walls: Walls) -> Iterator[None]:
    """The OS wall alone: Deno starts with everything allowed."""
    if walls is not Walls.OS:
        yield
        return

    def everything(plan: Plan) -> list[str]:
        return ["--allow-all"]

    with mock.patch.object(command, "permissions", everything):
        yield


@contextmanager
def _bare(work: Path) -> Iterator[None]:
    """Start what lies below ``work``/out without bubblewrap: Deno's wall alone, as this user, on this machine."""
    real = command.command

    def choose(tools: Tools, plan: Plan, *, seccomp_fd: int, info_fd: int) -> list[str]:
        if not plan.bundle.startswith(str(work / "out")):
            return real(tools, plan, seccomp_fd=seccomp_fd, info_fd=info_fd)
        return _bare_command(work, plan, info_fd)

    with mock.patch.object(sandbox_module, "command", choose):
        yield


def _bare_command(work: Path, plan: Plan, info_fd: int) -> list[str]:
    """Deno as the sandbox would start it, with the files where they are: the shipped harness but for paths."""
    folder = str(Path(plan.bundle).parent)
    harness = work / f"harness-{len(list(work.glob('harness-*')))}.js"
    text = command.HARNESS.read_text()
    changes = {'"/agent/': f'"{folder}/', '"/run/a/s.sock"': f'"{plan.socket}"', "if (settings.bridge) bridge();": ""}
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    harness.write_text(text)
    argv = command.deno_command(replace(plan, bridge=None))
    places = {"/deno": plan.deno, "/h/harness.js": str(harness)}
    argv = [places.get(word, word.replace("read=/agent", f"read={folder}")) for word in argv]
    argv = [word.replace("/run/a/s.sock", plan.socket or "") for word in argv]
    # bubblewrap would tell its child's number: here the shell does, and becomes it.
    tell = f'printf \'{{"child-pid": %d}}\' $$ >&{info_fd}; exec "$@" {info_fd}>&-'
    start = ["setpriv", "--pdeathsig", "KILL", "bash", "-c", tell, "deno-alone"]
    return [*start, "env", "-i", f"DENO_DIR={plan.cache}", "DENO_NO_UPDATE_CHECK=1", *argv]


@asynccontextmanager
async def _upstream(work: Path) -> AsyncIterator[Upstream]:
    reached: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        reached.append(f"{request.host}{request.path}")
        try:
            await request.read()
        except ConnectionError:  # cut by the proxy
            return web.Response(status=400)
        if request.path == "/redirect":
            raise web.HTTPFound(request.query["to"])
        if request.path == "/page":
            return web.Response(body=bytes(1 << 20))
        if request.path != "/drip":
            return web.Response(text="ok")
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(600):
            try:
                await response.write(b".")
            except ConnectionError:  # the agent is gone
                break
            await asyncio.sleep(0.05)
        return response

    app = web.Application(client_max_size=4 << 20)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    context = server_context(work, ["allowed.example", "evil.example"], datetime.datetime.now(datetime.UTC))
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    (_, tls), (_, plain) = runner.addresses
    datagrams, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Datagrams(reached), local_addr=("127.0.0.1", 0)
    )
    udp = datagrams.get_extra_info("sockname")[1]
    yield Upstream(tls, plain, (work / CA_FILE).read_bytes(), udp, reached)
    datagrams.close()
    await runner.cleanup()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, reached: list[str]) -> None:
        self._reached = reached

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._reached.append("datagram")


async def _until(done: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.02)


def _running() -> set[int]:
    """Processes that are not dead yet: the machine's init takes seconds to collect those that bubblewrap left to it."""
    found = set()
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            with contextlib.suppress(OSError):
                if (path / "stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X"):
                    found.add(int(path.name))
    return found

"""What sandboxes of every runtime share: one hostile agent, one process, one socket, one proxy (spec/sandbox.md 1).

A runtime says how a bundle is made ready and what the command line is; everything that stands between the agent and
the machine is here and in ``namespaces``, ``launch``, ``channel``, ``egress``.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import hmac
import os
import secrets
import shutil
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from cloister.core.policy.egress import Rule, parse_rules
from cloister.core.policy.manifest import ENV_NAME, MAX_BUNDLE, RESERVED
from cloister.sandbox import seccomp
from cloister.sandbox.cache import BundleStore
from cloister.sandbox.egress import EgressProxy, Resolve, check_map
from cloister.sandbox.errors import BUNDLE, MACHINE, SPEC, START
from cloister.sandbox.launch import Watched
from cloister.sandbox.limits import fresh_uid
from cloister.sandbox.meter import Meter
from cloister.sandbox.namespaces import Launched, Spawner
from cloister.sandbox.ports import AgentSpec, HostCalls, Limits
from cloister.sandbox.process import Parts, SandboxProcess

MAX_SETTINGS: Final = 512 << 10


@dataclass(frozen=True, slots=True)
class Place:
    """What one process gets. Paths are those that its bubblewrap can reach; ``socket`` None: a warm-up without one.
    ``blank``: its bundle is a folder, and comes later."""

    limits: Limits
    uid: int | None
    rules: tuple[Rule, ...] = ()
    socket: str | None = None
    bridge: str | None = None
    extra_ca: str | None = None
    blank: bool = False


Seen = Callable[[Watched, socket.socket], Awaitable[None]]


class ProcessSandbox(ABC):
    """Starts agents below ``work``/``runtime``, which no second sandbox may use at the same time.

    ``work`` must be on storage that the worker trusts (memory or an integrity-protected disk): compiled code lies
    there. ``staged``: files that agents must reach, besides the work folder. ``rooted``: own user and network namespace
    per agent, by default exactly as root; otherwise bubblewrap's own namespaces and a bridge. ``resolve``: addresses
    of a name that agents want. Use ``async with`` or ``close()``.
    """

    _bundles: BundleStore

    def __init__(
        self, work: Path, runtime: str, staged: Mapping[str, Path], *, rooted: bool | None, resolve: Resolve
    ) -> None:
        self._runtime, self._resolve = runtime, resolve
        self._rooted = os.geteuid() == 0 if rooted is None else rooted
        self._root, self._lock = _claim(work, runtime)
        self._program = seccomp.program()
        try:
            self._spawner = Spawner({**staged, "work": self._root}, rooted=self._rooted)
        except BaseException:
            os.close(self._lock)
            raise
        self._agents = private_folder(self._root / "agents")
        self._processes: set[SandboxProcess] = set()
        self._launches: set[asyncio.Task[tuple[Launched, Watched]]] = set()
        self._live: set[Watched] = set()

    @abstractmethod
    async def _prepare(self, spec: AgentSpec) -> Path:
        """The folder with the bundle ready to run. Raises SandboxError (sandbox.bundle)."""

    @abstractmethod
    def _argv(self, bundle: Path, place: Place, *, seccomp_fd: int, info_fd: int) -> list[str]:
        """The whole argument list of one process; without a socket it only loads the bundle. It holds no secret."""

    @abstractmethod
    async def _stop_preparing(self) -> None:
        """``close`` begins: end what ``_prepare`` has begun."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def start(self, spec: AgentSpec, host: HostCalls) -> SandboxProcess:
        """Start one agent and wait until its bundle is loaded. Raises SandboxError (spec, bundle, start, ...)."""
        rules = check_spec(spec)
        if spec.runtime != self._runtime:
            raise SPEC(expected=f"an agent for {self._runtime}", found="one for another runtime")
        try:
            return await self._start(spec, host, rules)
        except OSError as error:  # TimeoutError too
            raise START(expected=f"a start within {spec.limits.start_s} s", found=type(error).__name__) from None

    async def _start(self, spec: AgentSpec, host: HostCalls, rules: tuple[Rule, ...]) -> SandboxProcess:
        self._bundles.hold(spec.code_hash)
        try:
            bundle = await self._prepare(spec)
            folder = private_folder(self._agents / secrets.token_hex(8))
        except BaseException:
            self._bundles.release(spec.code_hash)
            raise
        process, parts = self._made(spec, host, rules, folder, lambda: self._bundles.release(spec.code_hash))
        try:
            await asyncio.wait_for(self._run(spec, rules, bundle, parts, process), spec.limits.start_s)
            await process.wait_ready()
        except BaseException:
            await process.close()
            raise
        return process

    def _made(
        self, spec: AgentSpec, host: HostCalls, rules: tuple[Rule, ...], folder: Path, done: Callable[[], None]
    ) -> tuple[SandboxProcess, Parts]:
        """The worker's side of a process."""
        meter = Meter(spec.limits)
        proxy = EgressProxy(
            rules,
            spec.map_host,
            note=lambda text: process.log("warn", text),
            resolve=self._resolve,
            also=spec.also,
            spend=lambda count, outwards: (meter.sent if outwards else meter.received).spend(count),
        )
        parts = Parts(folder, proxy, meter, done)
        process = SandboxProcess(spec, host, parts)
        self._processes = {p for p in self._processes if p.alive} | {process}
        return process, parts

    async def close(self) -> None:
        """Stop every agent and remove everything below ``work``."""
        await self._stop_preparing()
        await asyncio.gather(*(process.close() for process in self._processes))
        await asyncio.gather(*self._launches, return_exceptions=True)
        for watched in self._live:
            watched.kill()
        await asyncio.gather(*(watched.exited for watched in self._live))
        self._spawner.close()
        shutil.rmtree(self._root, ignore_errors=True)
        os.close(self._lock)

    async def _run(
        self, spec: AgentSpec, rules: tuple[Rule, ...], bundle: Path, parts: Parts, process: SandboxProcess
    ) -> None:
        async def seen(watched: Watched, outlet: socket.socket) -> None:
            process.adopt(watched)
            await parts.proxy.serve(outlet)

        stand = self._stand(bundle, parts.folder, spec.limits, rules, spec.extra_ca, process.hear, seen)
        await attach(process, await stand)
        process.channel.introduce(bridge=not self._rooted)

    async def _stand(
        self,
        bundle: Path,
        folder: Path,
        limits: Limits,
        rules: tuple[Rule, ...],
        extra_ca: bytes | None,
        on_line: Callable[[str], None],
        seen: Seen,
        *,
        blank: bool = False,
    ) -> socket.socket:
        """Start a process and wait until its harness is connected: that connection. ``seen``: gets the process and
        the socket of its proxy, both before anything else may fail."""
        uid = fresh_uid() if self._rooted else None
        if extra_ca is not None:
            (folder / "ca.pem").write_bytes(self._trusted(extra_ca))
            (folder / "ca.pem").chmod(0o444)
        with contextlib.closing(_listen(folder, "s.sock", uid)) as listener:
            bridge = None if self._rooted else _listen(folder, "p.sock", uid)
            place = Place(
                limits=limits,
                uid=uid,
                rules=rules,
                socket=self._reach(folder / "s.sock"),
                bridge=None if self._rooted else self._reach(folder / "p.sock"),
                extra_ca=self._reach(folder / "ca.pem") if extra_ca is not None else None,
                blank=blank,
            )
            launched, watched = await self._launch(bundle, place, on_line)
            outlet = bridge or launched.listener
            if outlet is None:
                raise RuntimeError("an agent has a proxy")
            await seen(watched, outlet)
            connection = await self._connected(listener, watched, uid)
        (folder / "s.sock").unlink()
        return connection

    async def _connected(self, listener: socket.socket, watched: Watched, uid: int | None) -> socket.socket:
        """Accept exactly one connection, from the agent's user. Afterwards nobody else can knock."""
        loop = asyncio.get_running_loop()
        knocked: asyncio.Future[Any] = loop.create_future()
        # Not sock_accept: when that is cancelled it unregisters later, by a number that is another file's by then.
        loop.add_reader(listener, _resolve, knocked)
        try:
            await asyncio.wait({knocked, watched.exited}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            loop.remove_reader(listener)
        if not knocked.done():
            raise START(expected="a process that starts", found=watched.reason(watched.exited.result()).found)
        connection, _ = listener.accept()
        connection.setblocking(False)
        _, peer, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if peer != (os.geteuid() if uid is None else uid):
            connection.close()
            raise START(expected="the agent's user at the socket", found="another user")
        return connection

    def _reach(self, path: Path) -> str:
        return self._spawner.path("work", str(path.relative_to(self._root)))

    async def _launch(self, bundle: Path, place: Place, on_line: Callable[[str], None]) -> tuple[Launched, Watched]:
        """Start a process. Its thread cannot be interrupted, so a cancelled start is ended when it has happened."""
        task = asyncio.get_running_loop().create_task(self._launch_now(bundle, place, on_line))
        self._launches.add(task)
        task.add_done_callback(self._launches.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_discard)
            raise

    async def _launch_now(self, bundle: Path, place: Place, on_line: Callable[[str], None]) -> tuple[Launched, Watched]:
        program = os.memfd_create("seccomp")
        info_read, info_write = os.pipe2(os.O_CLOEXEC)
        try:
            os.write(program, self._program)
            os.lseek(program, 0, os.SEEK_SET)
            argv = self._argv(bundle, place, seccomp_fd=program, info_fd=info_write)
            launched = await asyncio.wrap_future(self._spawner.start(argv, (program, info_write), place.uid))
        except BaseException:
            os.close(info_read)
            raise
        finally:
            os.close(program)
            os.close(info_write)
        watched = Watched(launched, info_read, on_line)
        self._live.add(watched)
        watched.exited.add_done_callback(lambda _: self._live.discard(watched))
        return launched, watched

    def _trusted(self, extra_ca: bytes) -> bytes:
        """The PEM that an agent with an authority of its own gets."""
        return extra_ca

    def _own_uid(self, cache: Path) -> int | None:
        """A user for a warm-up, who may write ``cache``."""
        uid = fresh_uid() if self._rooted else None
        if uid is not None:
            os.chown(cache, uid, uid)
        return uid

    async def _load_once(self, bundle: Path, uid: int | None, within_s: float) -> bool:
        """Run a process that only loads its bundle; whether it ended by itself and in time."""
        launched, watched = await self._launch(bundle, Place(Limits(), uid), lambda text: None)
        if launched.listener is not None:
            launched.listener.close()
        try:
            return await asyncio.wait_for(asyncio.shield(watched.exited), within_s) == 0
        except TimeoutError:
            return False
        finally:
            watched.kill()
            await watched.exited


async def attach(process: SandboxProcess, connection: socket.socket) -> None:
    """What comes on this connection is the process's."""
    await asyncio.get_running_loop().connect_accepted_socket(lambda: process.channel, connection)


def _resolve(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(None)


def _discard(task: asyncio.Task[tuple[Launched, Watched]]) -> None:
    if not task.cancelled() and task.exception() is None:
        launched, watched = task.result()
        watched.kill()
        if launched.listener is not None:
            launched.listener.close()


def check_spec(spec: AgentSpec) -> tuple[Rule, ...]:
    """Refuse a spec that a worker must not start; its egress rules. Raises SandboxError (spec, bundle, egress)."""
    if len(spec.bundle) > MAX_BUNDLE:
        raise BUNDLE(expected=f"at most {MAX_BUNDLE} bytes", found=f"{len(spec.bundle)} bytes")
    if not hmac.compare_digest(hashlib.sha256(spec.bundle).digest(), spec.code_hash):
        raise BUNDLE(expected="bytes with the code hash", found="other bytes")
    if spec.entry not in ("fetch", "main"):
        raise SPEC(expected='entry "fetch" or "main"', found="another entry")
    for name in (*spec.env, *spec.secrets):
        if not ENV_NAME.fullmatch(name) or name in RESERVED:
            raise SPEC(expected="environment and secret names of letters, digits and _", found="another or reserved")
    values = (*spec.env.values(), *spec.secrets.values())
    if any("\0" in value for value in values) or sum(map(len, values)) > MAX_SETTINGS:
        raise SPEC(expected=f"values without NUL, at most {MAX_SETTINGS} characters", found="others")
    if not 16 <= spec.limits.heap_mb <= 4096 or not 32 <= spec.limits.memory_mb <= 16384:
        raise SPEC(expected="heap_mb of 16 to 4096 and memory_mb of 32 to 16384", found="others")
    check_map(spec.map_host)
    return parse_rules(spec.egress)


def _claim(work: Path, name: str) -> tuple[Path, int]:
    """Lock ``work`` and empty what a killed worker left there. Raises SandboxError if another sandbox uses it."""
    work.mkdir(parents=True, exist_ok=True)
    lock = os.open(work / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise MACHINE(expected="a work folder of its own", found="one that another sandbox uses") from None
    root = work / name
    shutil.rmtree(root, ignore_errors=True)
    return private_folder(root), lock


def private_folder(path: Path) -> Path:
    """A fresh folder that agents may search but not list."""
    path.mkdir()
    path.chmod(0o711)
    return path


def _listen(folder: Path, name: str, uid: int | None) -> socket.socket:
    """A unix socket in ``folder`` that only the agent's user may open. The path may be longer than a socket's limit."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    base = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{base}/{name}")
    finally:
        os.close(base)
    path = folder / name
    path.chmod(0o600)
    if uid is not None:
        os.chown(path, uid, uid)
    listener.listen(64)
    listener.setblocking(False)
    return listener

"""DenoSandbox: JavaScript agents behind two independent walls, Deno's permissions and the OS (spec/sandbox.md)."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import socket
from dataclasses import fields
from pathlib import Path
from typing import Final

from cloister.core.policy.egress import Rule
from cloister.sandbox import machine
from cloister.sandbox.base import Place, ProcessSandbox, attach, check_spec, private_folder
from cloister.sandbox.blanks import MAX_BLANK_BUNDLE, Blank, Blanks, Shape
from cloister.sandbox.cache import BundleStore, lay_script
from cloister.sandbox.deno.command import HARNESS, Plan, command
from cloister.sandbox.egress import Resolve, resolve_host
from cloister.sandbox.launch import Watched
from cloister.sandbox.ports import AgentSpec, HostCalls
from cloister.sandbox.process import SandboxProcess

# How long a bundle may take to load while its compiled code is made; without it the agent starts slower.
WARM_S: Final = 4.0
# What compiled code for blanks is made from: the harness is all that it holds.
NOTHING: Final = b"export default { fetch() {} };"


class DenoSandbox(ProcessSandbox):
    """Starts agents in Deno; see ``ProcessSandbox`` for ``work``, ``rooted`` and ``resolve``. ``blanks``: how many
    processes may wait for small agents; none does before ``blanks.tend``."""

    def __init__(
        self,
        work: Path,
        *,
        deno: Path | None = None,
        rooted: bool | None = None,
        resolve: Resolve = resolve_host,
        blanks: int = 0,
    ) -> None:
        self._tools = machine.find_tools(deno)
        staged = {"deno": self._tools.deno, "harness.js": HARNESS}
        super().__init__(work, "deno", staged, rooted=rooted, resolve=resolve)
        self._bundles = BundleStore(private_folder(self._root / "bundles"), self._warm)
        self._template: Path | None = None
        self.blanks = Blanks(self._blank, blanks)

    async def _prepare(self, spec: AgentSpec) -> Path:
        return await self._bundles.ready(spec.code_hash, spec.bundle)

    async def _stop_preparing(self) -> None:
        await self.blanks.close()
        await self._bundles.close()

    def _argv(self, bundle: Path, place: Place, *, seccomp_fd: int, info_fd: int) -> list[str]:
        cache = self._template if place.blank and self._template is not None else bundle
        plan = Plan(
            deno=self._spawner.path("deno"),
            harness=self._spawner.path("harness.js"),
            bundle=self._reach(bundle if place.blank else bundle / "agent.js"),
            cache=self._reach(cache / "cache"),
            **{field.name: getattr(place, field.name) for field in fields(place)},
        )
        return command(self._tools, plan, seccomp_fd=seccomp_fd, info_fd=info_fd)

    async def _start(self, spec: AgentSpec, host: HostCalls, rules: tuple[Rule, ...]) -> SandboxProcess:
        blank = self.blanks.take(Shape.of(spec, rules)) if len(spec.bundle) <= MAX_BLANK_BUNDLE else None
        if blank is None:
            return await super()._start(spec, host, rules)
        return await self._claim(blank, spec, host, rules)

    async def _claim(self, blank: Blank, spec: AgentSpec, host: HostCalls, rules: tuple[Rule, ...]) -> SandboxProcess:
        """The blank becomes the agent: 1. everything of it is the agent's, and ends with it; 2. its bundle lies where
        the process sees it; 3. only then the harness hears whose it is."""
        process, parts = self._made(spec, host, rules, blank.folder, lambda: None)
        watched, outlet, connection = blank.release()  # 1
        blank.note = process.hear
        try:
            process.adopt(watched)
            await attach(process, connection)
            await parts.proxy.serve(outlet)
            lay_script(blank.slot, spec.bundle)  # 2
            process.channel.introduce(bridge=not self._rooted)  # 3
            await process.wait_ready()
        except BaseException:
            await process.close()
            raise
        return process

    async def _blank(self, shape: Shape) -> Blank:
        """A process without an agent, whose harness waits to be told. Raises SandboxError, OSError (a timeout too)."""
        if self._template is None:
            name = hashlib.sha256(NOTHING).digest()
            self._bundles.hold(name)
            self._template = await self._bundles.ready(name, NOTHING)
        blank = Blank(shape, private_folder(self._agents / secrets.token_hex(8)))

        async def seen(watched: Watched, outlet: socket.socket) -> None:
            blank.watched, blank.outlet = watched, outlet

        limits = shape.limits
        try:
            blank.slot.mkdir()
            blank.slot.chmod(0o755)
            stand = self._stand(
                blank.slot,
                blank.folder,
                limits,
                shape.rules,
                shape.extra_ca,
                lambda text: blank.note(text),
                seen,
                blank=True,
            )
            blank.connection = await asyncio.wait_for(stand, limits.start_s)
        except BaseException:
            await blank.end()
            raise
        return blank

    async def _warm(self, script: Path, cache: Path) -> None:
        """Load the bundle, so that V8's compiled code lies in ``cache``. A bundle that fails leaves less there.

        Twice: the first leaves Deno's database as after a crash, which only a process that may write can recover. The
        second recovers it, and leaves a log and an index without which a read-only reader could not open it.
        """
        uid = self._own_uid(cache)
        if await self._load_once(script.parent, uid, WARM_S):
            await self._load_once(script.parent, uid, WARM_S)


__all__ = ["DenoSandbox", "check_spec"]

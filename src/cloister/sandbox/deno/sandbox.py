"""DenoSandbox: JavaScript agents behind two independent walls, Deno's permissions and the OS (spec/sandbox.md)."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Final

from cloister.sandbox import machine
from cloister.sandbox.base import Place, ProcessSandbox, check_spec, private_folder
from cloister.sandbox.cache import BundleStore
from cloister.sandbox.deno.command import HARNESS, Plan, command
from cloister.sandbox.egress import Resolve, resolve_host
from cloister.sandbox.ports import AgentSpec

# How long a bundle may take to load while its compiled code is made; without it the agent starts slower.
WARM_S: Final = 4.0


class DenoSandbox(ProcessSandbox):
    """Starts agents in Deno; see ``ProcessSandbox`` for ``work``, ``rooted`` and ``resolve``."""

    def __init__(
        self,
        work: Path,
        *,
        deno: Path | None = None,
        rooted: bool | None = None,
        resolve: Resolve = resolve_host,
    ) -> None:
        self._tools = machine.find_tools(deno)
        staged = {"deno": self._tools.deno, "harness.js": HARNESS}
        super().__init__(work, "deno", staged, rooted=rooted, resolve=resolve)
        self._bundles = BundleStore(private_folder(self._root / "bundles"), self._warm)

    async def _prepare(self, spec: AgentSpec) -> Path:
        return await self._bundles.ready(spec.code_hash, spec.bundle)

    async def _stop_preparing(self) -> None:
        await self._bundles.close()

    def _argv(self, bundle: Path, place: Place, *, seccomp_fd: int, info_fd: int) -> list[str]:
        plan = Plan(
            deno=self._spawner.path("deno"),
            harness=self._spawner.path("harness.js"),
            bundle=self._reach(bundle / "agent.js"),
            cache=self._reach(bundle / "cache"),
            **{field.name: getattr(place, field.name) for field in fields(place)},
        )
        return command(self._tools, plan, seccomp_fd=seccomp_fd, info_fd=info_fd)

    async def _warm(self, script: Path, cache: Path) -> None:
        """Load the bundle, so that V8's compiled code lies in ``cache``. A bundle that fails leaves less there.

        Twice: the first leaves Deno's database as after a crash, which only a process that may write can recover. The
        second recovers it, and leaves a log and an index without which a read-only reader could not open it.
        """
        uid = self._own_uid(cache)
        if await self._load_once(script.parent, uid, WARM_S):
            await self._load_once(script.parent, uid, WARM_S)


__all__ = ["DenoSandbox", "check_spec"]

"""AgentSandbox: agents of every runtime that a worker runs, each in the sandbox of its runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self

from cloister.sandbox.base import ProcessSandbox
from cloister.sandbox.deno.sandbox import DenoSandbox
from cloister.sandbox.egress import Resolve, resolve_host
from cloister.sandbox.errors import SPEC
from cloister.sandbox.ports import AgentSpec, HostCalls, Reserve
from cloister.sandbox.process import SandboxProcess

RUNTIMES: Final = ("deno", "python")


class AgentSandbox:
    """Starts agents below ``work``. Implements ports.Sandbox; arguments as in ``ProcessSandbox``. ``blanks``: how many
    Deno processes may wait for small agents, kept by ``reserve``."""

    def __init__(
        self, work: Path, *, rooted: bool | None = None, resolve: Resolve = resolve_host, blanks: int = 0
    ) -> None:
        self._work, self._rooted, self._resolve = work, rooted, resolve
        # What a worker cannot do without: a machine that lacks it says so at once.
        deno = DenoSandbox(work, rooted=rooted, resolve=resolve, blanks=blanks)
        self._open: dict[str, ProcessSandbox] = {"deno": deno}
        self.reserve: Reserve = deno.blanks

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def start(self, spec: AgentSpec, host: HostCalls) -> SandboxProcess:
        """Start one agent in its runtime. Raises SandboxError (sandbox.spec, sandbox.machine, ...)."""
        if spec.runtime not in RUNTIMES:
            raise SPEC(expected=f"one of {', '.join(RUNTIMES)}", found="another runtime")
        return await self._of(spec.runtime).start(spec, host)

    async def close(self) -> None:
        """Stop every agent and remove what they left."""
        for sandbox in self._open.values():
            await sandbox.close()

    def _of(self, runtime: str) -> ProcessSandbox:
        if runtime not in self._open:
            from cloister.sandbox.python.sandbox import PythonSandbox  # loaded with the first agent that needs it

            self._open[runtime] = PythonSandbox(self._work, rooted=self._rooted, resolve=self._resolve)
        return self._open[runtime]

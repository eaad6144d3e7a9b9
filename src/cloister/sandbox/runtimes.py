"""AgentSandbox: agents of every runtime that a worker runs, each in the sandbox of its runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from cloister.sandbox.base import ProcessSandbox
from cloister.sandbox.egress import Resolve, resolve_host
from cloister.sandbox.errors import SPEC
from cloister.sandbox.ports import AgentSpec, HostCalls
from cloister.sandbox.process import SandboxProcess

RUNTIMES: Final = ("deno", "python")


class AgentSandbox:
    """Starts agents below ``work``. Implements ports.Sandbox; arguments as in ``ProcessSandbox``."""

    def __init__(self, work: Path, *, rooted: bool | None = None, resolve: Resolve = resolve_host) -> None:
        self._work, self._rooted, self._resolve = work, rooted, resolve
        self._open: dict[str, ProcessSandbox] = {}
        self._of("deno")  # what a worker cannot do without: a machine that lacks it says so at once

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
            self._open[runtime] = _class(runtime)(self._work, rooted=self._rooted, resolve=self._resolve)
        return self._open[runtime]


def _class(runtime: str) -> Callable[..., ProcessSandbox]:
    """A runtime's sandbox, loaded with the first agent that needs it."""
    if runtime == "python":
        from cloister.sandbox.python.sandbox import PythonSandbox

        return PythonSandbox
    from cloister.sandbox.deno.sandbox import DenoSandbox

    return DenoSandbox

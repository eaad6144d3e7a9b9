"""PythonSandbox: Python agents behind the OS wall, which is the only one here (spec/sandbox.md 1)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from cloister.core.errors import CloisterError
from cloister.core.policy.archive import MAX_FILES, unpack
from cloister.sandbox.base import Place, ProcessSandbox, private_folder
from cloister.sandbox.cache import BundleStore
from cloister.sandbox.egress import Resolve, resolve_host
from cloister.sandbox.errors import BUNDLE
from cloister.sandbox.ports import AgentSpec
from cloister.sandbox.python.command import API, HARNESS, Plan, command, find_interpreter

# How long a bundle may take to load while its compiled code is made; without it the agent starts slower.
WARM_S: Final = 20.0


class PythonSandbox(ProcessSandbox):
    """Starts agents in CPython; see ``ProcessSandbox`` for ``work``, ``rooted`` and ``resolve``."""

    def __init__(self, work: Path, *, rooted: bool | None = None, resolve: Resolve = resolve_host) -> None:
        self._found = find_interpreter()
        staged = {"python": self._found.program, "library": self._found.library, "roots.pem": self._found.roots}
        staged |= {"harness.py": HARNESS, "cloister_agent.py": API}
        if self._found.shared is not None:
            staged["libpython"] = self._found.shared
        super().__init__(work, "python", staged, rooted=rooted, resolve=resolve)
        bundles = private_folder(self._root / "bundles")
        self._bundles = BundleStore(bundles, self._warm, lay_archive, most_files=2 * MAX_FILES)

    async def _prepare(self, spec: AgentSpec) -> Path:
        try:
            return await self._bundles.ready(spec.code_hash, spec.bundle)
        except CloisterError as error:
            if error.code == BUNDLE.code:
                raise
            raise BUNDLE(expected="an archive in the form of spec/sandbox.md 5", found=error.code) from None

    async def _stop_preparing(self) -> None:
        await self._bundles.close()

    def _argv(self, bundle: Path, place: Place, *, seccomp_fd: int, info_fd: int) -> list[str]:
        path = self._spawner.path
        plan = Plan(
            program=path("python"),
            library=path("library"),
            shared=path("libpython") if self._found.shared is not None else None,
            harness=path("harness.py"),
            api=path("cloister_agent.py"),
            bundle=self._reach(bundle / "bundle"),
            cache=self._reach(bundle / "cache"),
            ca=place.extra_ca or path("roots.pem"),
            limits=place.limits,
            uid=place.uid,
            socket=place.socket,
            bridge=place.bridge,
        )
        return command(self._found, plan, seccomp_fd=seccomp_fd, info_fd=info_fd)

    def _trusted(self, extra_ca: bytes) -> bytes:
        return self._found.roots.read_bytes() + b"\n" + extra_ca

    async def _warm(self, bundle: Path, cache: Path) -> None:
        """Load the bundle, so that its compiled modules lie in ``cache``. A bundle that fails leaves less there."""
        await asyncio.sleep(0)
        await self._load_once(bundle.parent, self._own_uid(cache), WARM_S)


def lay_archive(folder: Path, archive: bytes) -> Path:
    """Unpack a bundle; its folder. Raises ConfigError (manifest.archive) before a wrong file is written."""
    target = folder / "bundle"
    for part in ("source", "packages"):
        (target / part).mkdir(parents=True)
    for name, data in unpack(archive):
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o444)
    return target

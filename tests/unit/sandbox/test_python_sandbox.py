"""What is particular to Python agents: their command line, what is mounted, compiled code, bundles that do not run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from cloister.core.errors import CloisterError, SandboxError
from cloister.core.policy.archive import pack
from cloister.sandbox.ports import AgentSpec, Limits, Sandbox
from cloister.sandbox.python import PythonSandbox
from cloister.sandbox.python.command import BASE_MB, Interpreter, Plan, command, find_interpreter
from cloister.sandbox.runtimes import AgentSandbox
from support.sandbox_kit import MemoryHost, ask, children, spec_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

FOUND = Interpreter(
    bwrap=Path("/bin/bwrap"),
    prlimit=Path("/bin/prlimit"),
    program=Path("/opt/py/bin/python3.11"),
    library=Path("/opt/py/lib/python3.11"),
    shared=Path("/opt/py/lib/libpython3.11.so.1.0"),
    version="python3.11",
    libraries=(Path("/lib/libc.so.6"),),
    roots=Path("/etc/ssl/roots.pem"),
)
PLAN = Plan(
    program="/stage/python",
    library="/stage/library",
    shared="/stage/libpython",
    harness="/stage/harness.py",
    api="/stage/cloister_agent.py",
    bundle="/stage/bundle",
    cache="/stage/cache",
    ca="/stage/roots.pem",
    limits=Limits(memory_mb=100),
    uid=1_100_000_000,
    socket="/stage/s.sock",
)
AGENT = """
import os, sys, small
async def fetch(request, ctx):
    if request.path == "/cached":
        return [small.__cached__, os.path.exists(small.__cached__), sys.modules["agent"].__cached__]
    if request.path == "/trust":
        import ssl
        return [len(ssl.create_default_context().get_ca_certs()), open("/ca.pem").read().count("BEGIN CERT")]
    if request.path == "/see":
        library = os.path.dirname(os.__file__)
        folders = [f"{library}/{name}" for name in os.listdir(library) if name.endswith("-packages")]
        return [sys.path, sorted(os.listdir("/python/lib")), [name for one in folders for name in os.listdir(one)]]
    return small.word
"""
FILES = {"source/agent.py": AGENT.encode(), "packages/small/__init__.py": b"word = 'pinned'\n"}


def python_spec(files: dict[str, bytes] | None = None, **more: object) -> AgentSpec:
    return spec_of(pack(FILES if files is None else files), runtime="python", **more)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sandbox(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PythonSandbox]:
    async with PythonSandbox(tmp_path_factory.mktemp("python")) as sandbox:
        yield sandbox


def line(plan: Plan = PLAN) -> list[str]:
    return command(FOUND, plan, seccomp_fd=7, info_fd=8)


def mounted(argv: list[str]) -> dict[str, str]:
    return {argv[i + 2]: argv[i + 1] for i, word in enumerate(argv) if word in ("--ro-bind", "--bind")}


# --- the command line ---


async def test_limits_and_walls_are_those_of_every_agent() -> None:
    argv = line()
    assert argv[0] == "/bin/prlimit"
    assert f"--data={(BASE_MB + 100) << 20}" in argv
    walls = {"--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent", "--as-pid-1"}
    assert walls | {"--new-session", "--clearenv"} <= set(argv)
    assert argv[argv.index("--cap-drop") + 1] == "ALL"
    assert argv[argv.index("--seccomp") + 1] == "7"


async def test_the_environment_is_empty() -> None:
    assert "--setenv" not in line()


async def test_everything_is_read_only_but_the_cache_of_a_warm_up() -> None:
    assert "--bind" not in line()
    warm = line(replace(PLAN, socket=None))
    assert [warm[i + 2] for i, word in enumerate(warm) if word == "--bind"] == ["/cache"]
    assert warm[-1] == "warm"
    assert "--cpu=20" in warm
    assert "/run/a/s.sock" not in mounted(warm)


async def test_only_interpreter_library_harness_and_bundle_are_mounted() -> None:
    assert set(mounted(line()).values()) == {
        "/lib/libc.so.6",
        "/stage/libpython",
        "/stage/python",
        "/stage/library",
        "/stage/harness.py",
        "/stage/cloister_agent.py",
        "/stage/roots.pem",
        "/stage/s.sock",
        "/stage/bundle/source",
        "/stage/bundle/packages",
        "/stage/cache",
    }


async def test_packages_of_the_workers_own_interpreter_are_covered(tmp_path: Path) -> None:
    (tmp_path / "site-packages").mkdir()
    argv = command(replace(FOUND, library=tmp_path), PLAN, seccomp_fd=7, info_fd=8)
    covered = "/python/lib/python3.11/site-packages"
    assert argv[argv.index("--tmpfs") : argv.index("--tmpfs") + 4] == ["--tmpfs", covered, "--remount-ro", covered]


async def test_python_starts_isolated() -> None:
    argv = line()
    assert argv[-8:] == ["/python/bin/python3.11", "-I", "-S", "-B", "-X", "utf8", "/h/harness.py", "3128"]


async def test_the_interpreter_of_this_machine_is_found() -> None:
    found = find_interpreter()
    assert (found.library / "os.py").is_file()
    assert found.program.is_file()
    assert b"BEGIN CERTIFICATE" in found.roots.read_bytes()
    assert all("site-packages" not in str(path) for path in found.libraries)


# --- real processes ---


async def test_packages_are_found_and_the_workers_are_not(sandbox: PythonSandbox) -> None:
    process = await sandbox.start(python_spec(), MemoryHost())
    assert (await ask(process)).text == "pinned"
    path, libraries, packages = json.loads((await ask(process, "/see")).body)
    assert path[0] == "/agent/source"
    assert path[-1] == "/agent/packages"
    assert (libraries, packages) == ([find_interpreter().version], [])
    await process.close()


async def test_compiled_code_is_made_once_and_found_by_every_process(sandbox: PythonSandbox) -> None:
    process = await sandbox.start(python_spec(), MemoryHost())
    cached, exists, own = json.loads((await ask(process, "/cached")).body)
    assert cached.startswith("/cache/agent/packages/small/")
    assert exists
    assert own.startswith("/cache/agent/source/agent.")
    await process.close()


async def test_public_authorities_are_trusted_and_those_of_the_spec_besides(sandbox: PythonSandbox) -> None:
    plain = await sandbox.start(python_spec(), MemoryHost())
    _, public = json.loads((await ask(plain, "/trust")).body)
    extra = (
        find_interpreter().roots.read_bytes().split(b"-----END CERTIFICATE-----")[0] + b"-----END CERTIFICATE-----\n"
    )
    more = await sandbox.start(python_spec(extra_ca=extra), MemoryHost())
    loaded, both = json.loads((await ask(more, "/trust")).body)
    assert (both, loaded > 0) == (public + 1, True)
    await asyncio.gather(plain.close(), more.close())


async def test_without_root_the_same_agent_runs_behind_a_bridge(tmp_path: Path) -> None:
    async with PythonSandbox(tmp_path, rooted=False) as sandbox:
        process = await sandbox.start(python_spec(), MemoryHost())
        assert (await ask(process)).text == "pinned"
        assert process.usage()["cpu_us"] > 0


BAD_BUNDLES: dict[str, tuple[str, str]] = {
    "a syntax error": ("async def fetch(", "SyntaxError"),
    "a module that throws": ("raise ValueError('sk-secret')", "ValueError"),
    "a module that exits": ("raise SystemExit(3)", "SystemExit"),
    "no fetch": ("x = 1", "TypeError"),
    "a fetch that is not async": ("def fetch(request, ctx): return 'x'", "TypeError"),
    "a package that is not in the lock": ("import requests", "ModuleNotFoundError"),
    "a program": ("import subprocess; subprocess.run(['/bin/true'])", "PermissionError"),
}


@pytest.mark.parametrize("sentence", BAD_BUNDLES)
async def test_a_python_bundle_that_cannot_run_is_refused_by_name(sandbox: PythonSandbox, sentence: str) -> None:
    code, found = BAD_BUNDLES[sentence]
    host, before = MemoryHost(), children()
    with pytest.raises(SandboxError) as caught:
        await sandbox.start(python_spec({"source/agent.py": code.encode()}), host)
    assert (caught.value.code, caught.value.found) == ("sandbox.bundle", found)
    assert "sk-secret" not in str(caught.value.to_wire())
    assert host.lines, "the owner reads the reason"
    assert children() == before


async def test_bytes_that_are_no_archive_never_reach_a_process(sandbox: PythonSandbox) -> None:
    before = children()
    for data in (b"x", pack(FILES) + b"x", b"export default 1"):
        with pytest.raises(SandboxError) as caught:
            await sandbox.start(spec_of(data, runtime="python"), MemoryHost())
        assert caught.value.code == "sandbox.bundle"
    assert children() == before


async def test_a_bundle_for_another_runtime_is_refused(sandbox: PythonSandbox) -> None:
    with pytest.raises(SandboxError) as caught:
        await sandbox.start(replace(python_spec(), runtime="deno"), MemoryHost())
    assert caught.value.code == "sandbox.spec"


# --- both runtimes behind one door ---


async def test_one_door_starts_agents_of_both_runtimes(tmp_path: Path) -> None:
    async with AgentSandbox(tmp_path) as both:
        port: Sandbox = both
        python = await port.start(python_spec(), MemoryHost())
        deno = await port.start(spec_of("export default () => new Response('js');"), MemoryHost())
        assert ((await ask(python)).text, (await ask(deno)).text) == ("pinned", "js")
        with pytest.raises(CloisterError) as caught:
            await port.start(replace(python_spec(), runtime="ruby"), MemoryHost())
        assert caught.value.code == "sandbox.spec"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deno.lock", "python.lock"], "nothing is left"


async def test_python_is_looked_for_when_the_first_agent_wants_it(tmp_path: Path) -> None:
    async with AgentSandbox(tmp_path) as both:
        assert set(both._open) == {"deno"}
        process = await both.start(python_spec(), MemoryHost())
        await process.close()
        assert set(both._open) == {"deno", "python"}

"""Devnet children: ready lines, names for failures, nothing left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cloister.core.errors import ConfigError
from cloister.devnet.process import spawn

READY = """
import json, ssl, sys, time, os
trusted = len(ssl.create_default_context().get_ca_certs())
print("noise before the ready line", flush=True)
print(json.dumps({"ready": True, "pid": os.getpid(), "env": sorted(os.environ), "authorities": trusted}), flush=True)
print("x" * 200000, flush=True)
time.sleep(60)
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + READY


def module(tmp_path: Path, name: str, text: str) -> dict[str, str]:
    (tmp_path / f"{name}.py").write_text(text)
    return {"PYTHONPATH": str(tmp_path)}


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"


async def test_a_child_is_ready_when_it_says_so_and_gets_a_clean_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_KEY", "sk-secret")
    child = await spawn("one", "ready_child", [], log_dir=tmp_path / "logs", env=module(tmp_path, "ready_child", READY))
    assert child.alive
    assert "MY_API_KEY" not in child.ready["env"]
    assert child.ready["authorities"] == 0
    await child.stop()
    assert not child.alive
    assert gone(child.ready["pid"])


async def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    env = module(tmp_path, "stubborn_child", STUBBORN)
    child = await spawn("one", "stubborn_child", [], log_dir=tmp_path / "logs", env=env)
    await child.stop(grace_s=0.2)
    assert child.process.returncode == -signal.SIGKILL


async def test_kill_is_sigkill(tmp_path: Path) -> None:
    env = module(tmp_path, "killed_child", READY)
    child = await spawn("one", "killed_child", [], log_dir=tmp_path / "logs", env=env)
    await child.kill()
    assert child.process.returncode == -signal.SIGKILL
    await child.stop()


@pytest.mark.parametrize(
    ("why", "text", "timeout"),
    [
        ("it ends first", "import sys; sys.stderr.write('disk is full\\n'); sys.exit(3)", 10.0),
        (
            "it never says so",
            "import sys, time; sys.stderr.write('disk is full\\n'); sys.stderr.flush(); time.sleep(60)",
            2.0,
        ),
    ],
)
async def test_a_child_that_is_not_ready_is_named_with_the_end_of_its_log(
    tmp_path: Path, why: str, text: str, timeout: float
) -> None:
    env = module(tmp_path, "bad_child", text)
    with pytest.raises(ConfigError) as caught:
        await spawn("broken", "bad_child", [], log_dir=tmp_path / "logs", env=env, timeout=timeout)
    assert caught.value.code == "devnet.not_ready", why
    assert "disk is full" in caught.value.found


async def test_a_start_that_is_cancelled_leaves_no_process(tmp_path: Path) -> None:
    text = "import os, pathlib, sys, time\npathlib.Path(sys.argv[1]).write_text(str(os.getpid()))\ntime.sleep(60)\n"
    env, pid = module(tmp_path, "slow_child", text), tmp_path / "pid"
    task = asyncio.ensure_future(spawn("slow", "slow_child", [str(pid)], log_dir=tmp_path / "logs", env=env))
    for _ in range(500):
        if pid.exists() and pid.read_text():
            break
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gone(int(pid.read_text()))


async def test_children_die_with_their_parent_even_by_sigkill(tmp_path: Path) -> None:
    module(tmp_path, "orphan_child", READY)
    parent = (
        "import asyncio, pathlib, sys\n"
        "from cloister.devnet.process import spawn\n"
        "async def main():\n"
        f"    here = {str(tmp_path)!r}\n"
        "    c = await spawn('o', 'orphan_child', [], log_dir=pathlib.Path(here), env={'PYTHONPATH': here})\n"
        "    print(c.ready['pid'], flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen(  # noqa: ASYNC220 - the parent must outlive this loop's children
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert not gone(child)
        process.kill()
    for _ in range(100):
        if gone(child):
            break
        await asyncio.sleep(0.05)
    assert gone(child)


async def test_the_refusal_of_a_childs_last_log_line_is_the_reason(tmp_path: Path) -> None:
    text = (
        "import sys, json\n"
        "line = {'code': 'node.foreign_folder', 'expected': 'our own', 'found': 'another', 'event': 'refused'}\n"
        "sys.stderr.write(json.dumps(line) + '\\n'); sys.exit(1)\n"
    )
    env = module(tmp_path, "refused_child", text)
    with pytest.raises(ConfigError) as caught:
        await spawn("refused", "refused_child", [], log_dir=tmp_path / "logs", env=env)
    assert caught.value.found == "node.foreign_folder: expected our own, found another"

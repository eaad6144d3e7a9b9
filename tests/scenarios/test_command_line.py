"""The command line against a real network, as a person types it.

1. new, build (twice, same hash), deploy, list, show, call, receipts, verify, pause, resume.
2. `cloister up` starts a network of its own, and control-C leaves no process, mount or socket.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from cloister.devnet.network import Devnet

pytestmark = pytest.mark.asyncio(loop_scope="session")
PROGRAM = Path(sys.executable).parent / "cloister"


async def run(home: Path, *arguments: str, code: int = 0, stdin: bytes = b"") -> tuple[str, str]:
    """One run of the program; (stdout, stderr). Asserts its exit status."""
    process = await asyncio.create_subprocess_exec(
        str(PROGRAM),
        "--home",
        str(home),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "LANG": "C.UTF-8"},  # the bundler's cache and certificates are the person's own
        cwd=home,
    )
    out, err = await asyncio.wait_for(process.communicate(stdin), 90)
    assert process.returncode == code, (arguments, out.decode(), err.decode())
    return out.decode(), err.decode()


async def facts(home: Path, *arguments: str) -> Any:
    out, _ = await run(home, *arguments, "--json")
    return json.loads(out)


@pytest.mark.timeout(400)
async def test_a_person_deploys_calls_verifies_and_pauses(devnet: Devnet) -> None:
    home = devnet.options.home
    await run(home, "agent", "new", "hello")
    first = await facts(home, "agent", "build", "hello")
    again = await facts(home, "agent", "build", "hello")
    assert first["code_hash"] == again["code_hash"]
    deployed = await facts(home, "agent", "deploy", "hello")
    agent = deployed["agent"]
    assert agent in json.dumps(await facts(home, "agent", "list"))
    shown = await facts(home, "agent", "show", agent)
    assert len(shown["seats"]) >= 1
    out, err = await run(home, "call", agent, "/")
    assert out
    assert "receipt" in err
    await run(home, "call", agent, "/notes", "-d", '{"text": "x"}')
    async with asyncio.timeout(30):
        while "saved a note" not in (await run(home, "agent", "logs", agent))[0]:  # noqa: ASYNC110
            await asyncio.sleep(0.2)  # a line waits for its page, at most a second
    lines = await facts(home, "agent", "logs", agent)
    assert not [line for line in lines if line.get("lost")]
    assert (await facts(home, "agent", "metrics", agent))["calls"] >= 2
    assert (await facts(home, "agent", "jobs", agent))["tasks"] == []
    refused, _ = await run(home, "agent", "command", agent, "{}", code=22)
    assert "no command" in refused
    assert (await facts(home, "agent", "versions", "hello"))[0]["code_hash"] == first["code_hash"]
    receipts = await facts(home, "receipts")
    newest = json.dumps(receipts)
    assert agent in newest
    await run(home, "verify", "network")
    await run(home, "verify", "agent", agent)
    await run(home, "agent", "pause", agent)
    _, err = await run(home, "call", agent, "/", code=1)
    assert "error:" in err
    assert "hint:" in err
    await run(home, "agent", "resume", agent)


async def test_wrong_command_lines_are_two_and_refusals_one(devnet: Devnet) -> None:
    _, err = await run(devnet.options.home, "call", code=2)
    assert "Traceback" not in err
    _, err = await run(devnet.options.home, "agent", "show", "0x" + "42" * 32, code=1)
    assert "error:" in err
    assert "Traceback" not in err


async def test_up_and_control_c_leave_nothing(tmp_path: Path) -> None:
    home = Path(tempfile.mkdtemp(prefix="clo-"))
    try:
        process = await asyncio.create_subprocess_exec(
            str(PROGRAM),
            "--home",
            str(home),
            "up",
            "--workers",
            "2",
            "--json",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        shown = json.loads(await asyncio.wait_for(_document(process.stdout), 120))
        assert shown["gateway"].startswith("http://127.0.0.1:")
        known = json.loads((home / "devnet.json").read_text())
        pids = [*known["processes"].values(), known["chain_pid"]]
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 60) == 0
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
        assert str(home) not in Path("/proc/self/mountinfo").read_text()
        assert not (home / "devnet.json").exists()
        assert not list(home.rglob("*.sock"))
    finally:
        shutil.rmtree(home, ignore_errors=True)


async def _document(stream: asyncio.StreamReader) -> str:
    """Lines until they are one JSON document."""
    text = ""
    while True:
        text += (await stream.readline()).decode()
        try:
            json.loads(text)
        except ValueError:
            continue
        return text

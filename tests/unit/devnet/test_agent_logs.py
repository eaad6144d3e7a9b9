"""`agent logs` shows one agent's lines out of the workers' logs, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cloister.core.errors import CloisterError
from cloister.devnet.commands import agent_logs
from cloister.devnet.layout import Layout

AGENT = "0x" + "ab" * 32


def line(agent: str, text: str, **more: str) -> str:
    fields = {"event": "agent", "level": "info", "agent": agent[:18], "agent_level": "warn", "text": text, **more}
    return json.dumps({**fields, "host_time": "2026-01-01T00:00:00Z"})


async def test_only_the_agents_own_lines_are_shown(tmp_path: Path) -> None:
    folder = Layout(tmp_path / "devnet").logs
    folder.mkdir(parents=True)
    lines = [line(AGENT, "mine"), line("0x" + "cd" * 32, "another's"), "no json", "[" * 9000, "7"]
    lines += [line(AGENT, "not an agent's line", event="lease"), line(AGENT, "last: with colon")]
    (folder / "worker-1.log").write_text("\n".join(lines) + "\n")
    (folder / "worker-2.log").write_text(line(AGENT, "by another worker") + "\n")
    (folder / "gateway.log").write_text(line(AGENT, "said by the gateway") + "\n")
    said: list[str] = []
    await agent_logs(tmp_path, AGENT, False, said.append)
    assert sorted(said) == [
        "worker-1: 2026-01-01T00:00:00Z warn  last: with colon",
        "worker-1: 2026-01-01T00:00:00Z warn  mine",
        "worker-2: 2026-01-01T00:00:00Z warn  by another worker",
    ]


async def test_without_a_devnet_there_is_no_log(tmp_path: Path) -> None:
    with pytest.raises(CloisterError) as caught:
        await agent_logs(tmp_path, AGENT, False, lambda text: None)
    assert caught.value.code == "devnet.no_log"

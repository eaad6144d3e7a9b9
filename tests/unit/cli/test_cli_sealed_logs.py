"""What owners see on the terminal: lines and gaps, figures, jobs, a command's answer; texts of agents move nothing."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import cloister.client.owner as client_owner
from cloister.cli.app import app
from cloister.client.agentlogs import Gap, Line

BOOT, WORKER = b"\x03" * 32, b"\x02" * 20
EVENTS = [
    Line(1_800_000_000_000, "info", "hello", WORKER, BOOT, 0),
    Gap(1_800_000_000_500, "2 pages are missing from the store", WORKER, BOOT),
    Line(1_800_000_001_000, "warn", "\x1b[2Jred\x07\r\nnext\tü", WORKER, BOOT, 9),
    Line(1 << 62, "error", "late", WORKER, BOOT, 10),
]


class FakeOwner:
    """An owner whose worker answers at once. ``did``: what was asked."""

    known = True
    did: list[Any] = []  # noqa: RUF012 - one test at a time

    def __init__(self, client: Any, agent: bytes) -> None:
        self.agent = agent

    async def published(self) -> bool:
        return FakeOwner.known

    async def publish(self) -> None:
        FakeOwner.did.append("publish")

    async def logs(self) -> list[Any]:
        return EVENTS

    async def metrics(self) -> dict[str, Any]:
        return {"calls": 3, "p50_ms": 0.5}

    async def jobs(self) -> dict[str, Any]:
        task = {"task": 0, "cron": "0 * * * *", "path": "/tick", "next": 1_800_000_000, "tries": 0}
        letter = {"task": 0, "due": 7, "path": "/tick", "code": "sandbox.deadline", "tries": 5, "at": 1_800_000_000}
        return {"now": 1, "tasks": [task], "dead": [letter], "again": [0, 7]}

    async def retry(self, task: int, due: int) -> None:
        FakeOwner.did.append((task, due))

    async def command(self, body: bytes, *, request_id: bytes | None = None) -> Any:
        FakeOwner.did.append((body, request_id))
        status = 409 if body == b"no" else 200
        receipt = SimpleNamespace(id=b"\x01" * 32)
        return SimpleNamespace(status=status, body=b"said", text="said", request_id="0x0a", receipt=receipt)


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_owner, "Owner", FakeOwner)
    FakeOwner.known, FakeOwner.did = True, []


@pytest.fixture
def tell(cli_net: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``tell("logs", "1")``: `cloister agent logs 1` as a wallet of this test."""
    from cloister.cli.settings import Settings
    from cloister.client.wallet import Wallet
    from support.fake_world import OWNER

    monkeypatch.setattr(Settings, "wallet", lambda *a, **k: Wallet(OWNER))

    def go(*words: str) -> Result:
        return CliRunner().invoke(app, [*cli_net.options, "agent", *words])

    return go


def test_lines_go_to_stdout_gaps_to_stderr_and_no_text_moves_the_cursor(tell: Any) -> None:
    result = tell("logs", "1")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "2027-01-15T08:00:00.000Z 0x02020202 info  hello",
        "2027-01-15T08:00:01.000Z 0x02020202 warn  \\x1b[2Jred\\x07\\r\\nnext\tü",
        "no time 0x02020202 error late",
    ]
    assert "-- 2 pages are missing from the store (worker 0x02020202)" in result.stderr
    assert FakeOwner.did == []


def test_logs_as_json_are_one_document(tell: Any) -> None:
    found = json.loads(tell("logs", "1", "--json").stdout)
    assert [one.get("text", one.get("gap")) for one in found] == [
        getattr(event, "text", getattr(event, "what", "")) for event in EVENTS
    ]
    assert [one.get("lost") for one in found] == [None, True, None, None]


def test_a_key_that_is_not_published_is_published_first(tell: Any) -> None:
    FakeOwner.known = False
    result = tell("logs", "1")
    assert FakeOwner.did == ["publish"]
    assert "lines are kept from now on" in result.stderr


def test_figures_and_jobs_are_facts(tell: Any) -> None:
    assert json.loads(tell("metrics", "1", "--json").stdout) == {"calls": 3, "p50_ms": 0.5}
    shown = tell("jobs", "1")
    for part in ("/tick", "2027-01-15T08:00:00Z", "sandbox.deadline"):
        assert part in shown.stdout
    for part in ("given up", "task 0 of 7 runs once more"):
        assert part in shown.stderr
    assert json.loads(tell("jobs", "1", "--json").stdout)["dead"][0]["due"] == 7


def test_a_given_up_job_is_named_by_task_and_time(tell: Any) -> None:
    assert json.loads(tell("retry", "1", "0", "7", "--json").stdout) == {"task": 0, "due": 7, "again": True}
    assert FakeOwner.did == [(0, 7)]
    assert tell("retry", "1", "-1", "7").exit_code == 2


def test_a_commands_answer_goes_to_stdout(tell: Any, tmp_path: Any) -> None:
    result = tell("command", "1", '{"a": 1}', "--request-id", "0x" + "0a" * 16)
    assert (result.exit_code, result.stdout) == (0, "said")
    (tmp_path / "body").write_bytes(b"from a file")
    assert json.loads(tell("command", "1", f"@{tmp_path / 'body'}", "--json").stdout)["status"] == 200
    assert FakeOwner.did == [(b'{"a": 1}', b"\x0a" * 16), (b"from a file", None)]
    assert tell("command", "1", "no").exit_code == 22
    refused = tell("command", "1", "x", "--request-id", "0x0a")
    assert (refused.exit_code, "encoding.hex" in refused.stderr) == (1, True)

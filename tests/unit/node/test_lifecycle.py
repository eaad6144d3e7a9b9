"""How a process starts, stops and dies: with real processes and real signals."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cloister.node import lifecycle

CHILD = str(Path(__file__).parents[2] / "support" / "lifecycle_child.py")


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, CHILD, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ready_line(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdout is not None
    fields = lifecycle.parse_ready(process.stdout.readline())
    assert fields is not None
    return fields


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_the_service_finish(number: signal.Signals) -> None:
    with started("stop") as process:
        assert ready_line(process) == {"ready": True, "service": "test", "mode": "stop", "pid": process.pid}
        process.send_signal(number)
        output, _ = process.communicate(timeout=30)
        assert (output, process.returncode) == ("stopped\n", 0)


def test_a_second_signal_cuts_it_short() -> None:
    with started("hang", "3600") as process:
        ready_line(process)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130


def test_a_service_that_does_not_finish_is_cut_short_after_its_grace() -> None:
    with started("hang", "0.01") as process:
        ready_line(process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 130


def test_a_failure_is_logged_without_its_text_and_exits_1() -> None:
    with started("fail") as process:
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 1
        assert "ValueError" in errors
        assert "hunter2" not in errors


def test_a_child_dies_with_its_parent_even_by_sigkill() -> None:
    with started("child") as process:
        child = int(str(ready_line(process)["child"]))
        handle = os.pidfd_open(child)
        process.kill()
        process.wait()
        try:
            os.waitid(os.P_PIDFD, handle, os.WEXITED)
        except ChildProcessError:  # it is init's child now: wait for its end by polling the handle
            import select

            assert select.select([handle], [], [], 30)[0]
        finally:
            os.close(handle)
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def test_a_child_whose_parent_is_gone_already_exits_at_once() -> None:
    with started("orphan", "1") as process:
        process.communicate(timeout=30)
        assert process.returncode == 1


def test_a_ready_line_is_one_json_line() -> None:
    out = io.StringIO()
    lifecycle.ready("gateway", stream=out, port=8080, text="a\nb")
    assert out.getvalue().count("\n") == 1
    fields = lifecycle.parse_ready(out.getvalue())
    assert fields == {"ready": True, "service": "gateway", "pid": os.getpid(), "port": 8080, "text": "a\nb"}


@pytest.mark.parametrize(
    "line", ["", "log text", "{", "[]", "7", '{"ready": 1}', '{"ready": false}', b"\xff", "[" * 90_000]
)
def test_any_other_line_is_not_ready(line: str | bytes) -> None:
    assert lifecycle.parse_ready(line) is None

"""``cloister relay`` as a process, and ``cloister call --oblivious`` through it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from typer.testing import CliRunner

from cloister.cli.app import app


@contextmanager
def relay(gateway: str) -> Iterator[str]:
    """A running relay."""
    command = [sys.executable, "-m", "cloister.cli", "relay", "--to", gateway, "--listen", "127.0.0.1:0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        text = ""
        while not text.rstrip().endswith("}"):
            line = process.stdout.readline()
            assert line, "the relay ended"
            text += line
        yield json.loads(text)["relay"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.long
def test_a_call_goes_through_the_relay_and_nowhere_else(cli_net: Any) -> None:
    pin = ["--fingerprint", cli_net.world.network.fingerprint()]
    with relay(cli_net.gateway.url) as url:
        done = CliRunner().invoke(app, [*pin, "call", f"0x{cli_net.agent.hex()}", "/notes", "--oblivious", url])
        assert done.exit_code == 0, done.output
        streamed = [*pin, "call", f"0x{cli_net.agent.hex()}", "/notes", "--stream", "--oblivious", url]
        again = CliRunner().invoke(app, streamed)
        assert again.exit_code == 0, again.output
    assert '"path": "/notes"' in done.stdout
    assert '"path": "/notes"' in again.stdout
    assert cli_net.gateway.calls == []
    kinds = [headers["Content-Type"] for _, headers in cli_net.gateway.heard]
    assert kinds == ["message/ohttp-req", "message/ohttp-chunked-req"], "--stream asks for chunks"


BAD = {
    "no address": (["--to", "x"], "relay.gateway"),
    "no port": (["--to", "http://127.0.0.1:1", "--listen", "127.0.0.1"], "cli.relay_listen"),
    "a port beyond ports": (["--to", "http://127.0.0.1:1", "--listen", "127.0.0.1:70000"], "cli.relay_listen"),
    "an address of another machine": (["--to", "http://127.0.0.1:1", "--listen", "192.0.2.1:0"], "cli.relay_listen"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_relay_is_refused_with(what: str) -> None:
    arguments, code = BAD[what]
    done = CliRunner().invoke(app, ["relay", *arguments])
    assert done.exit_code == 1
    assert code in done.output

"""``cloister agent dev | test``: an agent on this machine, in the worker's sandbox, without a network."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from cloister.cli.options import AsJson
from cloister.cli.output import print_error, print_facts, print_json, progress, say
from cloister.cli.project import find_deno
from cloister.cli.running import command
from cloister.cli.settings import settings_of
from cloister.core.errors import ConfigError, define

NO_NODE = define(
    "cli.no_node",
    ConfigError,
    check="the parts that run agents are installed",
    remedy="pip install 'cloister[node]'; bubblewrap comes with `apt-get install -y bubblewrap`",
)
BAD_MAP = define(
    "cli.map_host",
    ConfigError,
    check="--map-host is HOST=IP:PORT",
    remedy="for example --map-host api.openai.com=127.0.0.1:8443 --ca ca.pem",
)

Folder = Annotated[Path, typer.Argument(help="Folder of the agent.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the group of agents."""
    command(app, "dev")(dev)
    command(app, "test")(try_out)


async def dev(
    context: typer.Context,
    folder: Folder = Path(),
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; any free one without it.", min=0, max=65535)] = 0,
    secrets: Annotated[Path | None, typer.Option(help="JSON file {NAME: value}.", metavar="FILE")] = None,
    map_host: Annotated[list[str] | None, typer.Option(help="HOST=IP:PORT that stands in for a host.")] = None,
    ca: Annotated[Path | None, typer.Option(help="PEM that the agent trusts besides.", metavar="FILE")] = None,
    model: Annotated[bool, typer.Option(help="Use the running devnet's model server, under its own key.")] = False,
    agent: Annotated[
        list[str] | None, typer.Option(help="ID=URL of another agent that runs so, for ctx.agents.fetch.")
    ] = None,
    run_schedule: Annotated[
        bool, typer.Option("--run-schedule", help="Ask by the clock what the manifest says.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Serve an agent on this machine and reload it when a file changes. No chain, no attestation.

    Say who calls with the header x-cloister-caller: 0x…; state lies in FOLDER/.cloister/state.
    """
    local = _local()
    from cloister.local.dev import Dev, devnet_model, read_secrets
    from cloister.local.offers import parse_agents

    values, mapped = read_secrets(folder, secrets), dict(_mapped(text) for text in map_host or [])
    pem = local.read_file(ca) if ca is not None else None
    if model:
        key, hosts, pem = devnet_model(settings_of(context).home.path)
        values, mapped = {"OPENAI_API_KEY": key, **values}, {**hosts, **mapped}
    _end_on_sigterm()
    outside = local.Outside(values, mapped, pem, parse_agents(agent or []))
    loop = Dev(folder, find_deno(), outside, say, print_error, time.time if run_schedule else None)
    say(f"building {folder} …")
    await loop.run(port, lambda facts: _ready(facts, as_json))


async def try_out(folder: Folder = Path(), as_json: AsJson = False) -> None:
    """Run the agent's tests (agent.test.ts) against it, in the worker's sandbox, without any network."""
    _local()
    from cloister.local.testing import FAILED_TESTS, Outcome, run_tests

    def told(outcome: Outcome) -> None:
        say(f"{'ok    ' if outcome.error is None else 'FAILED'} {outcome.name} ({outcome.ms} ms)")
        if outcome.error is not None:
            say(outcome.error)

    with progress(f"testing {folder}"):
        outcomes = await run_tests(folder, find_deno(), lambda level, text: say(f"  {level}: {text}"), told)
    if as_json:
        print_json([outcome.to_json() for outcome in outcomes])
    failed = [outcome.name for outcome in outcomes if outcome.error is not None]
    if failed:
        raise FAILED_TESTS(expected=f"{len(outcomes)} passed", found=f"{len(failed)} failed")
    say(f"{len(outcomes)} passed")


class _Parts:
    """What this file needs of parts that the client alone does not have."""

    def __init__(self) -> None:
        from cloister.client.home import read_file
        from cloister.local.agent import Outside

        self.read_file, self.Outside = read_file, Outside


def _local() -> _Parts:
    """The local parts. Raises ConfigError (cli.no_node) where only the client is installed."""
    try:
        return _Parts()
    except ImportError as error:
        raise NO_NODE(expected="cloister[node]", found=f"no {error.name}") from None


def _mapped(text: str) -> tuple[str, tuple[str, int]]:
    """HOST=IP:PORT. Raises ConfigError (cli.map_host); the sandbox refuses what is no address."""
    host, _, where = text.partition("=")
    ip, _, port = where.rpartition(":")
    if not host or not ip or not port.isascii() or not port.isdecimal() or len(port) > 5:
        raise BAD_MAP(expected="HOST=IP:PORT", found=text[:80])
    return host, (ip, int(port))


def _ready(facts: dict[str, Any], as_json: bool) -> None:
    print_facts(facts, as_json=as_json)
    say("control-C ends it; a change of a file reloads it")


def _end_on_sigterm() -> None:
    """SIGTERM ends it as control-C does: the sandbox is closed, temporary folders go."""
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("commands run in a task")
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)

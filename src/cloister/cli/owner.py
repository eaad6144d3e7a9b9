"""``cloister agent logs | metrics | receipts | jobs | retry | command``: what an agent's owner sees and commands."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cloister.cli.options import AgentName, AsJson, PassphraseFd, WalletName
from cloister.cli.output import print_facts, print_json, print_rows, progress, say
from cloister.cli.running import command
from cloister.cli.settings import settings_of
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.errors import CloisterError

if TYPE_CHECKING:
    from cloister.client.agentlogs import Event
    from cloister.client.owner import Owner

Account = Annotated[
    str | None,
    typer.Option("--as", help="The owner: a contract account (0x…) that takes the wallet's signature."),
]
POLL_S: Final = 1.0


def register(app: typer.Typer) -> None:
    """Add the commands to the group of agents."""
    command(app, "logs")(logs)
    command(app, "metrics")(metrics)
    command(app, "receipts")(receipts)
    command(app, "jobs")(jobs)
    command(app, "retry")(retry)
    command(app, "command")(command_)


async def logs(
    context: typer.Context,
    agent: AgentName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing.")] = False,
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    account: Account = None,
    as_json: AsJson = False,
) -> None:
    """What an agent logged, as its owner: sealed inside the worker, opened here. Says what is missing.

    Workers seal lines to the owner's wallet once it has published its key: deploying does, and so does this command.
    With `--follow --json`: one object per line.
    """
    async with _owner(context, agent, wallet, passphrase_fd, account) as mine:
        if not await mine.published():
            await mine.publish()
            say("your log key was not published: lines are kept from now on")
        events = await mine.logs()
        if as_json and not follow:
            print_json([event.to_json() for event in events])
            return
        while True:
            _show(events, as_json)
            if not follow:
                return
            await asyncio.sleep(POLL_S)
            events = await mine.logs()


async def metrics(
    context: typer.Context,
    agent: AgentName,
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    account: Account = None,
    as_json: AsJson = False,
) -> None:
    """Calls, errors, CPU, bytes and durations of an agent since its workers started, as its owner."""
    async with _owner(context, agent, wallet, passphrase_fd, account) as mine:
        found = await mine.metrics()
    print_facts(found, as_json=as_json)


async def receipts(
    context: typer.Context,
    agent: AgentName,
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    account: Account = None,
    as_json: AsJson = False,
) -> None:
    """Receipts of all calls that an agent's workers answered since they started, as its owner; each is verified."""
    async with _owner(context, agent, wallet, passphrase_fd, account) as mine:
        found = await mine.receipts()
    if as_json:
        print_json([one.to_json() for one in found])
        return
    rows = [
        {
            "id": to_hex(one.receipt.id),
            "when": _when(one.receipt.host_time_ms // 1000),
            "worker": to_hex(one.receipt.worker),
            "status": one.receipt.status,
            "cpu_us": one.receipt.usage.cpu_us,
            "took_us": one.receipt.usage.duration_us,
            "memory_peak": one.receipt.usage.memory_peak_bytes,
        }
        for one in found
    ]
    columns = ("id", "when", "worker", "status", "cpu_us", "took_us", "memory_peak")
    print_rows(rows, columns, as_json=False, empty="no receipts")


async def jobs(
    context: typer.Context,
    agent: AgentName,
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    account: Account = None,
    as_json: AsJson = False,
) -> None:
    """An agent's schedule: when each task runs next, tries, and what was given up; as its owner."""
    async with _owner(context, agent, wallet, passphrase_fd, account) as mine:
        found = await mine.jobs()
    if as_json:
        print_json(found)
        return
    tasks = [{**task, "next": _when(task.get("next")), "done": _when(task.get("done"))} for task in found["tasks"]]
    print_rows(tasks, ("task", "cron", "path", "next", "done", "tries"), as_json=False, empty="no schedule")
    dead = [{**letter, "at": _when(letter.get("at"))} for letter in found["dead"]]
    if dead:
        say("given up; run one again with: cloister agent retry AGENT TASK DUE")
        print_rows(dead, ("task", "due", "path", "code", "tries", "at"), as_json=False, empty="")
    if found.get("again"):
        say(f"task {found['again'][0]} of {found['again'][1]} runs once more")


async def retry(
    context: typer.Context,
    agent: AgentName,
    task: Annotated[int, typer.Argument(help="Number of the task, as `agent jobs` says.", min=0)],
    due: Annotated[int, typer.Argument(help="When the job was due, in Unix seconds.", min=0)],
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    account: Account = None,
    as_json: AsJson = False,
) -> None:
    """Run a job that was given up once more, within seconds. It stays given up if it fails again."""
    async with _owner(context, agent, wallet, passphrase_fd, account) as mine:
        await mine.retry(task, due)
    print_facts({"task": task, "due": due, "again": True}, as_json=as_json)


async def command_(
    context: typer.Context,
    agent: AgentName,
    data: Annotated[str, typer.Argument(help="What the agent's command takes; @FILE reads a file.")],
    request_id: Annotated[str | None, typer.Option(help="16 bytes (0x…): a repeat under it runs nothing.")] = None,
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    account: Account = None,
    as_json: AsJson = False,
) -> None:
    """Run an agent's `command` as its owner: in order, exactly once. Its answer goes to stdout."""
    from cloister.client.call import MAX_BODY
    from cloister.client.home import read_file

    body = read_file(Path(data[1:]), MAX_BODY) if data.startswith("@") else data.encode()
    name = from_hex(request_id.lower(), 16, name="request id") if request_id else None
    async with _owner(context, agent, wallet, passphrase_fd, account) as mine:
        reply = await mine.command(body, request_id=name)
    if as_json:
        receipt = to_hex(reply.receipt.id)
        facts = {"status": reply.status, "body": reply.text, "request_id": reply.request_id, "receipt": receipt}
        print_json(facts)
    else:
        sys.stdout.buffer.write(reply.body)
        sys.stdout.buffer.flush()
        say(f"{reply.status}, request {reply.request_id}, receipt {to_hex(reply.receipt.id)}")
    if reply.status >= 400:
        raise typer.Exit(22)


@contextlib.asynccontextmanager
async def _owner(
    context: typer.Context, agent: str, wallet: str | None, passphrase_fd: int | None, account: str | None
) -> AsyncIterator[Owner]:
    from cloister.client.callers import ContractWallet
    from cloister.client.owner import Owner

    settings = settings_of(context)
    key = settings.wallet(wallet, passphrase_fd)
    caller = ContractWallet(from_hex(account.lower(), 20, name="contract account"), key.sign) if account else None
    async with settings.client(key, caller=caller) as client:
        yield Owner(client, await client.agent_id(agent))


async def publish_key(client: Any, agent: bytes) -> None:
    """After a deployment: lines are sealed to the owner from the first call on. Says why where that fails."""
    from cloister.client.owner import Owner

    try:
        with progress("publishing the key that reads its log"):
            await Owner(client, agent).publish()
    except CloisterError as error:
        say(f"note: its log is not kept yet: {error.check}; found {error.found} ({error.code})")


def _show(events: Sequence[Event], as_json: bool) -> None:
    for event in events:
        facts = event.to_json()
        if as_json:
            sys.stdout.write(json.dumps(facts, ensure_ascii=False) + "\n")
        elif "gap" in facts:
            say(f"-- {facts['gap']} (worker {facts['worker'][:10]})")
        else:
            sys.stdout.write(
                f"{_clock(facts['ms'])} {facts['worker'][:10]} {facts['level']:<5} {_plain(facts['text'])}\n"
            )
    sys.stdout.flush()


def _plain(text: str) -> str:
    """An agent's text moves no cursor and rings no bell."""
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in text)


def _clock(ms: int) -> str:
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return "no time"


def _when(seconds: Any) -> str | None:
    return _clock(seconds * 1000)[:19] + "Z" if isinstance(seconds, int) and seconds else None

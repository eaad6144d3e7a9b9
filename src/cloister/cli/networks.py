"""``cloister up | down | status | doctor | logs``: a whole network on this machine. All work is devnet's."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from cloister.cli.options import AsJson
from cloister.cli.output import print_facts, print_json, print_rows, progress, say
from cloister.cli.running import command
from cloister.cli.settings import settings_of
from cloister.core.errors import ConfigError, define

SHOWN = ("gateway", "fingerprint", "network_file", "rpc", "second_chain", "second_rpc", "second_record")

UNHEALTHY = define(
    "cli.unhealthy",
    ConfigError,
    check="this machine has what a devnet needs",
    remedy="follow the hints of `cloister doctor`",
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "up")(up)
    command(app, "down")(down)
    command(app, "status")(status)
    command(app, "doctor")(doctor)
    command(app, "logs")(logs)


async def up(
    context: typer.Context,
    workers: Annotated[int, typer.Option(help="How many workers.", min=1, max=4)] = 4,
    map_host: Annotated[
        list[str] | None,
        typer.Option(help="HOST=IP:PORT: where agents find HOST on this devnet; repeatable.", metavar="MAP"),
    ] = None,
    second_chain: Annotated[
        bool, typer.Option("--second-chain", help="Another chain beside it, connected, for agents on both.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Start a whole network on this machine, with pretend TEEs, and run it until control-C."""
    from cloister.devnet import commands, live

    home = settings_of(context).home.path

    def ready(known: Mapping[str, Any]) -> Any:
        print_facts({name: known.get(name) for name in SHOWN if name in known}, as_json=as_json)
        say("the network runs; control-C stops it. In another terminal:")
        say("  cloister agent new hello && cloister agent deploy hello")
        return live.show(home) if sys.stderr.isatty() and not as_json else None

    await commands.up(home, workers=workers, map_host=map_host, second_chain=second_chain, say=say, on_ready=ready)
    say("stopped; its data stays")


async def down(context: typer.Context) -> None:
    """Stop the network of this machine. Its data stays."""
    from cloister.devnet import commands

    with progress("stopping the network"):
        await commands.down(settings_of(context).home.path)


async def status(context: typer.Context, as_json: AsJson = False) -> None:
    """What runs: the network of this machine, or what a gateway says about itself."""
    settings = settings_of(context)
    if settings.gateway is None:
        from cloister.devnet import commands

        print_facts(await commands.status(settings.home.path), as_json=as_json)
        return
    from cloister.client.gateway import Gateway

    gateway = Gateway(settings.gateway_url())
    try:
        print_facts(await gateway.status(), as_json=as_json)
    finally:
        await gateway.close()


async def doctor(context: typer.Context, as_json: AsJson = False) -> None:
    """Check this machine, with a hint for each thing that is missing."""
    from cloister.devnet import commands

    with progress("looking at this machine"):
        rows: list[dict[str, Any]] = await commands.doctor(settings_of(context).home.path)
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, ("name", "ok", "found", "hint"), as_json=False, empty="nothing to check")
    bad = [str(row["name"]) for row in rows if not row["ok"]]
    if bad:
        raise UNHEALTHY(expected="every row ok", found=", ".join(bad))


async def logs(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="One process, such as worker-1; all without it.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing.")] = False,
) -> None:
    """Print what the network's processes logged."""
    from cloister.devnet import commands

    await commands.logs(settings_of(context).home.path, name, follow)

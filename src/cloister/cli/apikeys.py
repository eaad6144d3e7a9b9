"""``cloister agent keys new | list | revoke``: API keys of an agent, for its owner (spec/sealed-http.md 12, 13)."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cloister.cli.options import AgentName, AsJson, PassphraseFd, WalletName
from cloister.cli.output import print_facts, print_json, print_rows, progress, say
from cloister.cli.running import command
from cloister.cli.settings import settings_of
from cloister.core.encoding.hexes import to_hex

if TYPE_CHECKING:
    from cloister.client.owner import Owner

app = typer.Typer(help="API keys of an agent, for callers without a wallet.", no_args_is_help=True)

DAY_S: Final = 86_400


def register(agents: typer.Typer) -> None:
    """Add the group to the group of agents."""
    agents.add_typer(app, name="keys")


@command(app, "new")
async def new(
    context: typer.Context,
    agent: AgentName,
    name: Annotated[str, typer.Argument(help="What the key is for, such as 'mobile app'.")],
    days: Annotated[float, typer.Option(help="How long it holds.", min=0.001, max=3650)] = 90.0,
    per_minute: Annotated[int, typer.Option(help="Requests per minute, at each worker.", min=1, max=1_000_000)] = 60,
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key and print it, once: it is kept nowhere. Who has it calls the agent until it ends."""
    async with _owner(context, agent, wallet, passphrase_fd) as mine:
        with progress("making the key known"):
            key = await mine.new_api_key(name, life_s=days * DAY_S, per_minute=per_minute)
    if as_json:
        print_json({"id": to_hex(key.address), "name": name, "key": key.text})
        return
    typer.echo(key.text)
    say(f"id {to_hex(key.address)}; keep the line above: it is not shown again")


@command(app, "list")
async def list_(
    context: typer.Context,
    agent: AgentName,
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """API keys that the agent knows, revoked ones too. The keys themselves are not readable."""
    async with _owner(context, agent, wallet, passphrase_fd) as mine:
        found = await mine.api_keys()
    rows = found if as_json else [_row(key) for key in found]
    print_rows(
        rows, ("id", "name", "expiry", "per_minute", "revoked"), as_json=as_json, empty="the agent has no API keys"
    )


@command(app, "revoke")
async def revoke(
    context: typer.Context,
    agent: AgentName,
    key: Annotated[str, typer.Argument(help="The key's id (0x…).")],
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Revoke an API key, for good: its next request is refused, in running sessions too."""
    async with _owner(context, agent, wallet, passphrase_fd) as mine:
        with progress("revoking the key"):
            gone = await mine.revoke_api_key(key.lower())
    print_facts(gone, as_json=as_json)


def _row(key: dict[str, Any]) -> dict[str, Any]:
    return {**key, "expiry": _day(key.get("expiry")), "revoked": "yes" if key.get("revoked") else "no"}


def _day(seconds: object) -> str:
    try:
        return datetime.fromtimestamp(int(str(seconds)), UTC).isoformat()[:16] + "Z"
    except (ValueError, OverflowError, OSError):
        return "no time"


@contextlib.asynccontextmanager
async def _owner(
    context: typer.Context, agent: str, wallet: str | None, passphrase_fd: int | None
) -> AsyncIterator[Owner]:
    from cloister.client.owner import Owner

    settings = settings_of(context)
    async with settings.client(settings.wallet(wallet, passphrase_fd)) as client:
        yield Owner(client, await client.agent_id(agent))

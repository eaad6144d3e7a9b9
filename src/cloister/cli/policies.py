"""``cloister agent policy | transfer | freeze``: what limits an agent beside its code, and who owns it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cloister.cli.asking import confirmed
from cloister.cli.options import AgentName, AsJson, PassphraseFd, WalletName
from cloister.cli.output import print_facts, print_json, print_rows, progress, say
from cloister.cli.running import command
from cloister.cli.settings import settings_of
from cloister.core.encoding.hexes import from_hex, to_hex

app = typer.Typer(help="Rules on chain that limit an agent.", no_args_is_help=True)

Names = Annotated[list[str] | None, typer.Option(help="One name; repeatable. Replaces the list.")]
Unlisted = Annotated[list[str] | None, typer.Option("--no-list", help="egress, tools or models: take its list away.")]
Address = Annotated[str | None, typer.Option(help="Address, or none.", metavar="ADDRESS")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def register(agents: typer.Typer) -> None:
    """Add the commands to the group of agents."""
    agents.add_typer(app, name="policy")
    command(agents, "transfer")(transfer)
    command(agents, "freeze")(freeze)


@command(app, "show")
async def show(context: typer.Context, agent: AgentName, as_json: AsJson = False) -> None:
    """The agent's rules, by proof."""
    from cloister.client.policies import read_rules

    async with settings_of(context).client() as client:
        rules = await read_rules(client, await client.agent_id(agent))
    print_facts(rules.to_json(), as_json=as_json)


@command(app, "set")
async def set_(
    context: typer.Context,
    agent: AgentName,
    egress: Names = None,
    tool: Names = None,
    model: Names = None,
    no_list: Unlisted = None,
    hook: Address = None,
    payer: Address = None,
    guardian: Address = None,
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Change rules: lists of hosts, tools, models; access hook; fee payer; guardian. What is not named stays."""
    from cloister.client.policies import differences, read_rules, set_rules

    change = _change(egress, tool, model, no_list, hook, payer, guardian)
    settings = settings_of(context)
    async with settings.client(settings.wallet(wallet, passphrase_fd)) as client:
        found = await client.agent_id(agent)
        before = await read_rules(client, found)
        rows = differences(before, change.applied(before))
        with progress("changing the rules"):
            receipts = await set_rules(client, found, change)
    blocks = [r.block_number for r in receipts]
    if as_json:
        print_json({"agent": to_hex(found), "changes": rows, "blocks": blocks})
    else:
        print_rows(rows, ("rule", "effect", "binds"), as_json=False, empty="nothing differs")


@command(app, "diff")
async def diff(
    context: typer.Context,
    agent: AgentName,
    egress: Names = None,
    tool: Names = None,
    model: Names = None,
    no_list: Unlisted = None,
    hook: Address = None,
    payer: Address = None,
    guardian: Address = None,
    as_json: AsJson = False,
) -> None:
    """Say in words what `set` with the same options would change, and from when it would bind. Sends nothing."""
    from cloister.client.policies import differences, read_rules

    change = _change(egress, tool, model, no_list, hook, payer, guardian)
    async with settings_of(context).client() as client:
        before = await read_rules(client, await client.agent_id(agent))
    rows = differences(before, change.applied(before))
    print_rows(rows, ("rule", "effect", "binds"), as_json=as_json, empty="nothing differs")


@command(app, "dry-run")
async def dry_run(
    context: typer.Context,
    agent: AgentName,
    caller: Annotated[str | None, typer.Option(help="Who would call; anonymous without it.", metavar="ADDRESS")] = None,
    method: Annotated[str, typer.Option(help="Method of the call.")] = "GET",
    path: Annotated[str, typer.Option(help="Path of the call.")] = "/",
    host: Annotated[str, typer.Option(help="A host that its code would reach.", metavar="HOST")] = "",
    tool: Annotated[str, typer.Option(help="A tool that it would call; agent:0x… is one.", metavar="NAME")] = "",
    model: Annotated[str, typer.Option(help="A model that it would ask.", metavar="NAME")] = "",
    egress: Names = None,
    no_list: Unlisted = None,
    hook: Address = None,
    as_json: AsJson = False,
) -> None:
    """Ask the rules, or the rules as they would be, about a call, a host, a tool, a model. Runs the hook here."""
    from cloister.client import policies

    change = _change(egress, None, None, no_list, hook, None, None)
    who = None if caller is None else from_hex(caller.lower(), 20, name="caller")
    async with settings_of(context).client() as client:
        rules = change.applied(await policies.read_rules(client, await client.agent_id(agent)))
        with progress("asking over proven state"):
            asked = {"method": method.upper(), "path": path, "host": host, "tool": tool, "model": model}
            rows = await policies.dry_run(client, rules, caller=who, **asked)
    print_rows(rows, ("question", "answer"), as_json=as_json, empty="nothing asked")


async def transfer(
    context: typer.Context,
    agent: AgentName,
    to: Annotated[str, typer.Argument(help="The new owner's address.", metavar="ADDRESS")],
    yes: Yes = False,
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Give an agent to another owner: new keys; secrets, guardian, hook and fee payer end."""
    from cloister.client import policies

    address = from_hex(to.lower(), 20, name="new owner")
    settings = settings_of(context)
    async with settings.client(settings.wallet(wallet, passphrase_fd)) as client:
        found = await client.agent_id(agent)
        confirmed(f"give agent {agent} to {to}, for good", yes)
        with progress("transferring"):
            receipt = await policies.transfer(client, found, address)
    print_facts({"agent": to_hex(found), "owner": to, "block": receipt.block_number}, as_json=as_json)
    say("its secrets are gone with the old keys: the new owner sets them again")


async def freeze(
    context: typer.Context,
    agent: AgentName,
    yes: Yes = False,
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Freeze an agent's code for ever: not even its owner changes it again."""
    from cloister.client import policies

    settings = settings_of(context)
    async with settings.client(settings.wallet(wallet, passphrase_fd)) as client:
        found = await client.agent_id(agent)
        confirmed(f"freeze the code of agent {agent}, for ever", yes)
        with progress("freezing"):
            receipt = await policies.freeze(client, found)
    print_facts({"agent": to_hex(found), "upgrade": "frozen", "block": receipt.block_number}, as_json=as_json)


def _change(
    egress: list[str] | None,
    tool: list[str] | None,
    model: list[str] | None,
    no_list: list[str] | None,
    hook: str | None,
    payer: str | None,
    guardian: str | None,
) -> Any:
    """The change that options make. Raises typer.BadParameter for an unknown list, EncodingError for an address."""
    from cloister.client.policies import LISTS, Change, parse_address

    unknown = sorted(set(no_list or ()) - set(LISTS))
    if unknown:
        raise typer.BadParameter(f"{unknown[0]}: one of {', '.join(LISTS)}")
    lists = [None if names is None else tuple(names) for names in (egress, tool, model)]
    addresses = [None if text is None else parse_address(text) for text in (hook, payer, guardian)]
    return Change(lists[0], lists[1], lists[2], tuple(no_list or ()), *addresses)

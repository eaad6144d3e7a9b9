"""``cloister chain``: contracts of a network (status, verify, deploy, upgrade), and what goes to connected chains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cloister.cli.options import AgentName, AsJson, PassphraseFd, WalletName
from cloister.cli.output import print_facts, print_rows, progress, say
from cloister.cli.running import command
from cloister.cli.settings import settings_of
from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import CloisterError

app = typer.Typer(help="The contracts of a network.", no_args_is_help=True)

Endpoint = Annotated[str, typer.Option("--rpc", help="The chain's endpoint.", metavar="URL")]
File = Annotated[Path, typer.Option("--deployment", help="Addresses and ABIs, as deploy wrote them.", metavar="FILE")]
RecordFile = Annotated[
    Path | None, typer.Option("--record", help="What makes it resumable; default: beside it.", metavar="FILE")
]


RecordName = Annotated[Path, typer.Argument(help="The connected chain's record.", metavar="RECORD")]
Kind = Annotated[str, typer.Option(help="How that chain's endpoints behave.")]


@command(app, "status")
async def status(context: typer.Context, as_json: AsJson = False) -> None:
    """Chain id, newest checkpoint, committee and policy, by proof."""
    from cloister.client.contracts import chain_status

    async with settings_of(context).client() as client:
        facts = await chain_status(client)
    print_facts(facts, as_json=as_json)


@command(app, "verify")
async def verify(
    context: typer.Context,
    deployment: Annotated[
        Path | None, typer.Option("--deployment", help="Check this deployment instead.", metavar="FILE")
    ] = None,
    rpc: Annotated[str, typer.Option("--rpc", help="Endpoint for --deployment: believed.", metavar="URL")] = "",
    as_json: AsJson = False,
) -> None:
    """Compare each contract's code with this build: by proof over a gateway, or as an endpoint shows a deployment."""
    if (deployment is None) != (not rpc):
        raise typer.BadParameter("--deployment and --rpc belong together")
    with progress("reading the contracts' code"):
        rows = await (_proven(context) if deployment is None else _seen(deployment, rpc))
    marks = [name for name in ("version", "pinned", "file", "artifact") if rows and name in rows[0]]
    print_rows(rows, ("contract", "address", *marks), as_json=as_json, empty="no contracts")
    _require_good(rows, [name for name in marks if name != "version"])


@command(app, "deploy")
async def deploy(
    context: typer.Context,
    plan: Annotated[Path, typer.Argument(help="The plan: docs/operate/chain.md.", metavar="PLAN")],
    rpc: Endpoint,
    deployment: File,
    record: RecordFile = None,
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Put the contracts of a new network on a chain, behind a timelock. Run it again to resume; done steps stay."""
    from cloister.chain.rpc import Rpc
    from cloister.client import deployments

    wanted = deployments.read_plan(plan)
    key = settings_of(context).wallet(wallet, passphrase_fd)
    async with Rpc(rpc) as endpoint:
        kept = record or deployment.with_suffix(".record.json")
        facts = await deployments.deploy(endpoint, key, wanted, kept, deployment, say)
    print_facts(facts if as_json else _short(facts), as_json=as_json)


@command(app, "upgrade")
async def upgrade(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The contract.", metavar="CONTRACT")],
    rpc: Endpoint,
    deployment: File,
    record: RecordFile = None,
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Replace a contract by this build's, through the timelock. Run it again until it says published."""
    from cloister.chain.rpc import Rpc
    from cloister.client import deployments

    key = settings_of(context).wallet(wallet, passphrase_fd)
    async with Rpc(rpc) as endpoint:
        kept = record or deployment.with_suffix(".upgrades.json")
        facts = await deployments.upgrade(endpoint, key, name, deployment, kept, say)
    print_facts(facts, as_json=as_json)
    if "order" in facts:
        say("this wallet may not propose: let the timelock's proposers send the order, then run it again")


@command(app, "carry")
async def carry(
    context: typer.Context,
    record: RecordName,
    rpc: Endpoint,
    kind: Kind = "ethereum",
    gatekeeper: Annotated[
        list[str] | None, typer.Option(help="One that left office and still runs; repeat it.", metavar="URL")
    ] = None,
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Tell a connected chain's Anchor of the committee in office. Workers do it by themselves; anybody may."""
    from cloister.client.relaying import Elsewhere, carry_committee

    settings = settings_of(context)
    async with settings.client(settings.wallet(wallet, passphrase_fd)) as client:
        there = Elsewhere.load(record, rpc, kind)
        with progress("carrying the committee"):
            receipts = await carry_committee(client, there, gatekeeper or ())
    carried = [{"block": one.block_number, "gas": one.gas_used, "transaction": to_hex(one.tx_hash)} for one in receipts]
    print_rows(carried, ("block", "gas", "transaction"), as_json=as_json, empty="nothing to carry: the Anchor knows it")


@command(app, "account")
async def account(
    context: typer.Context,
    record: RecordName,
    agent: AgentName,
    rpc: Endpoint,
    kind: Kind = "ethereum",
    as_json: AsJson = False,
) -> None:
    """An agent's account on a connected chain, and what is known of the agent there, as the endpoint says."""
    from cloister.chain.rpc import Rpc
    from cloister.client.relaying import Elsewhere, account_there

    there = Elsewhere.load(record, rpc, kind)
    async with settings_of(context).client() as client, Rpc(rpc) as endpoint:
        facts = await account_there(endpoint, there.record.anchor.address, await client.agent_id(agent))
    print_facts(facts, as_json=as_json)


@command(app, "stop")
async def stop(
    context: typer.Context,
    record: RecordName,
    agent: AgentName,
    rpc: Endpoint,
    kind: Kind = "ethereum",
    resume: Annotated[bool, typer.Option("--resume", help="Let it go on instead; its owner only.")] = False,
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Stop an agent on a connected chain at once, as its owner or guardian."""
    from cloister.client.relaying import Elsewhere, stop_there

    settings, there = settings_of(context), Elsewhere.load(record, rpc, kind)
    async with settings.client(settings.wallet(wallet, passphrase_fd)) as client:
        found = await client.agent_id(agent)
        with progress("resuming" if resume else "stopping"):
            receipt = await stop_there(client, there, found, stopped=not resume)
    print_facts({"agent": to_hex(found), "stopped": not resume, "block": receipt.block_number}, as_json=as_json)


async def _proven(context: typer.Context) -> list[dict[str, Any]]:
    from cloister.client.contracts import verify_contracts

    async with settings_of(context).client() as client:
        return await verify_contracts(client)


async def _seen(deployment: Path, rpc: str) -> list[dict[str, Any]]:
    from cloister.chain.rpc import Rpc
    from cloister.client import deployments

    async with Rpc(rpc) as endpoint:
        return await deployments.verify(endpoint, deployments.read_deployment(deployment))


def _require_good(rows: list[dict[str, Any]], marks: list[str]) -> None:
    from cloister.client.contracts import WRONG_CONTRACTS

    bad = [str(row["contract"]) for row in rows if not all(row[mark] for mark in marks)]
    if bad:
        error: CloisterError = WRONG_CONTRACTS(expected="every contract as pinned and built", found=", ".join(bad))
        raise error


def _short(facts: dict[str, Any]) -> dict[str, Any]:
    """For people: one address per line."""
    addresses = {name: one["address"] for name, one in facts["contracts"].items()}
    return {"chain_id": facts["chain_id"], **addresses}

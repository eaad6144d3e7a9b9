"""``cloister request send | status | sponsor``: asking agents through the Anchor, and paying for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from cloister.cli.options import AgentName, AsJson, PassphraseFd, WalletName
from cloister.cli.output import print_facts, progress, say
from cloister.cli.running import command
from cloister.cli.settings import settings_of
from cloister.core.encoding.hexes import to_hex

app = typer.Typer(help="Ask agents by a transaction, and follow what becomes of it.", no_args_is_help=True)


@command(app, "send")
async def send(
    context: typer.Context,
    agent: AgentName,
    body: Annotated[str, typer.Argument(help="What to ask, as text.")],
    fee: Annotated[int, typer.Option(help="Fee in wei.", min=0)] = 0,
    copies: Annotated[int, typer.Option(help="Equal answers wanted.", min=1, max=8)] = 1,
    within: Annotated[int, typer.Option(help="Seconds until it is too late.", min=60)] = 3600,
    sealed: Annotated[bool, typer.Option("--sealed", help="Only the agent reads it.")] = False,
    sealed_reply: Annotated[
        Path | None, typer.Option(help="Seal the reply; what opens it is written here.", metavar="FILE")
    ] = None,
    sponsored: Annotated[bool, typer.Option("--sponsored", help="The agent's fee payer pays the fee.")] = False,
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Ask an agent at the Anchor. Anybody can read what is not sealed."""
    from cloister.client.requests import send_request

    settings = settings_of(context)
    async with settings.client(settings.wallet(wallet, passphrase_fd)) as client:
        with progress("asking"):
            sent = await send_request(
                client,
                await client.agent_id(agent),
                body.encode(),
                fee=fee,
                copies=copies,
                within_s=within,
                sealed=sealed,
                sealed_reply=sealed_reply is not None,
                sponsored=sponsored,
            )
    if sealed_reply is not None and sent.reply_key is not None:
        _keep(sealed_reply, sent.reply_key.private_bytes_raw())
    facts: dict[str, Any] = {"agent": to_hex(sent.request.agent), "index": sent.request.index, "block": sent.block}
    print_facts(facts | {"deadline": sent.request.deadline}, as_json=as_json)
    say(f"next: cloister request status {agent} {sent.request.index}")


@command(app, "status")
async def status(
    context: typer.Context,
    agent: AgentName,
    index: Annotated[int, typer.Argument(help="Number of the request.", min=1)],
    as_json: AsJson = False,
) -> None:
    """What became of a request: open or closed by proof, and how it ended."""
    from cloister.client.requests import request_status

    async with settings_of(context).client() as client:
        with progress("reading the queue"):
            facts = await request_status(client, await client.agent_id(agent), index)
    print_facts(facts, as_json=as_json)


@command(app, "sponsor")
async def sponsor(
    context: typer.Context,
    agent: AgentName,
    most: Annotated[int, typer.Option(help="Wei a request; 0 takes it back.", min=0)],
    total: Annotated[int, typer.Option(help="Wei in all.", min=0)],
    requester: Annotated[str, typer.Option(help="Who asks: an address, or anybody.", metavar="ADDRESS")],
    within: Annotated[int, typer.Option(help="Seconds that it counts.", min=0)] = 30 * 86400,
    deposit: Annotated[int, typer.Option(help="Wei to put into your credit.", min=0)] = 0,
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Agree to pay for requests to an agent that names you as its fee payer."""
    from cloister.client.policies import parse_address
    from cloister.client.requests import consent

    who = parse_address("none" if requester == "anybody" else requester)
    settings = settings_of(context)
    async with settings.client(settings.wallet(wallet, passphrase_fd)) as client:
        found = await client.agent_id(agent)
        with progress("agreeing"):
            receipts = await consent(client, found, who, most=most, total=total, within_s=within, deposit=deposit)
    facts = {"agent": to_hex(found), "requester": requester, "most": str(most), "total": str(total)}
    print_facts(facts | {"block": receipts[-1].block_number}, as_json=as_json)


@command(app, "relay")
async def relay(
    context: typer.Context,
    agent: AgentName,
    index: Annotated[int, typer.Argument(help="Number of the request.", min=1)],
    record: Annotated[Path | None, typer.Option("--record", help="A connected chain's record.", metavar="FILE")] = None,
    rpc: Annotated[str, typer.Option("--rpc", help="Its endpoint, for --record.", metavar="URL")] = "",
    kind: Annotated[str, typer.Option(help="How that chain's endpoints behave.")] = "ethereum",
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Pay for an answer that a worker signed and cannot bring. The contract checks it; you risk the gas."""
    from cloister.client.relaying import Elsewhere, relay_request

    if (record is None) != (not rpc):
        raise typer.BadParameter("--record and --rpc belong together")
    settings = settings_of(context)
    async with settings.client(settings.wallet(wallet, passphrase_fd)) as client:
        there = None if record is None else Elsewhere.load(record, rpc, kind)
        with progress("bringing the answer"):
            receipt = await relay_request(client, await client.agent_id(agent), index, there)
    facts: dict[str, Any] = {"index": index, "block": receipt.block_number, "gas": receipt.gas_used}
    print_facts(facts | {"transaction": to_hex(receipt.tx_hash)}, as_json=as_json)


def _keep(file: Path, key: bytes) -> None:
    """Write a key for its owner alone; never over an existing file."""
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as sink:
        sink.write(to_hex(key).encode() + b"\n")

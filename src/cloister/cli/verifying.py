"""``cloister verify network | receipt | agent | worker | evidence``: numbered steps, and the reason of each."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloister.cli import evidence
from cloister.cli.options import AsJson
from cloister.cli.output import print_json, print_steps, progress, say
from cloister.cli.running import REFUSED, command
from cloister.cli.settings import Settings, settings_of
from cloister.client.verify import Report

if TYPE_CHECKING:
    from cloister.client.anchored import Bundle
    from cloister.client.receipts import Kept

app = typer.Typer(help="Check it yourself: quote, keys, receipt, chain.", no_args_is_help=True)
evidence.register(app)


@command(app, "network")
async def network(context: typer.Context, as_json: AsJson = False) -> None:
    """The network file, the chain behind the gateway, the contracts' code, the committee."""
    from cloister.client.verify import verify_network

    async with settings_of(context).client() as client:
        with progress("checking the network"):
            report = await verify_network(client)
    _finish(report, as_json)


@command(app, "agent")
async def agent(
    context: typer.Context,
    agent: Annotated[str, typer.Argument(help="Agent id (0x…) or token id.")],
    as_json: AsJson = False,
) -> None:
    """The agent's proven record, its code and manifest, and every worker that offers a key for it."""
    from cloister.client.verify import verify_agent

    async with settings_of(context).client() as client:
        with progress("checking the agent"):
            report = await verify_agent(client, await client.agent_id(agent))
    _finish(report, as_json)


@command(app, "worker")
async def worker(
    context: typer.Context,
    worker: Annotated[str, typer.Argument(help="Address of the worker (0x…).")],
    as_json: AsJson = False,
) -> None:
    """The worker's admission by proof, and fresh evidence of its hardware over our own nonce."""
    from cloister.client.verify import verify_worker
    from cloister.core.encoding.hexes import from_hex

    async with settings_of(context).client() as client:
        with progress("asking the worker for evidence"):
            report = await verify_worker(client, from_hex(worker.lower(), 20, name="worker address"))
    _finish(report, as_json)


@command(app, "receipt")
async def receipt(
    context: typer.Context,
    receipt: Annotated[str, typer.Argument(help="Id of a kept receipt (0x…, or a prefix), or a file with one.")],
    offline: Annotated[bool, typer.Option("--offline", help="Ask nobody: check what was saved with it.")] = False,
    on_chain: Annotated[
        bool, typer.Option("--on-chain", help="Also against the roots in the Receipts contract.")
    ] = False,
    save: Annotated[Path | None, typer.Option(help="Write the receipt with its proof into this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """A receipt: its form, lease and signature, its place in a witnessed log, the worker's admission by proof.

    With `--on-chain`: that a root of this log is in the Receipts contract, and covers it. A file of
    `cloister receipts ID --export FILE` holds all that this needs; with `--offline` nobody is asked.
    """
    from cloister.client.anchored import MAX_BUNDLE, Bundle, is_bundle
    from cloister.client.home import read_file
    from cloister.client.receipts import Kept, kept_of
    from cloister.client.verify import verify_anchored_receipt, verify_kept_receipt, with_proof

    settings = settings_of(context)
    data = read_file(Path(receipt), MAX_BUNDLE) if Path(receipt).is_file() else None
    bundle = Bundle.parse(data) if data is not None and is_bundle(data) else None
    kept = bundle.kept if bundle else Kept.parse(data) if data is not None else kept_of(settings.home, receipt)
    if offline:
        report = await _offline(settings, kept, bundle, on_chain)
    else:
        async with settings.client() as client:
            with progress("checking the receipt"):
                kept = kept if kept.proof is not None else await with_proof(client, kept)
                if on_chain:
                    report, _ = await verify_anchored_receipt(client, kept)
                else:
                    report = await verify_kept_receipt(client, kept)
    if save is not None and report.ok:
        _write(save, kept)
    _finish(report, as_json)


async def _offline(settings: Settings, kept: Kept, bundle: Bundle | None, on_chain: bool) -> Report:
    from cloister.client.anchored import BAD_BUNDLE
    from cloister.client.terms import remembered
    from cloister.client.verify import verify_receipt_bundle, verify_saved_receipt

    network = settings.network_offline(bundle.network if bundle else None)
    terms = remembered(network, settings.home, int(time.time()))
    if bundle is not None:
        return await verify_receipt_bundle(bundle, network, terms)
    if on_chain:
        raise BAD_BUNDLE(expected="a file of `cloister receipts --export`", found="a receipt alone")
    return await verify_saved_receipt(network, kept, terms)


def _write(path: Path, kept: Kept) -> None:
    from cloister.client.home import UNREADABLE

    try:
        path.write_text(json.dumps(kept.to_json(), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UNREADABLE(expected=f"to write {path}", found=error.strerror or "an error") from None


def _finish(report: Report, as_json: bool) -> None:
    if as_json:
        print_json(report.to_json())
    else:
        print_steps([step.to_json() for step in report.steps], as_json=False)
        for note in report.notes:
            say(f"note: {note}")
    if not report.ok:
        first = next((s for s in report.steps if not s.ok), None)
        if first is not None and not as_json:
            say(f"hint: {first.remedy}")
        raise typer.Exit(REFUSED)

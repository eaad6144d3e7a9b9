"""``cloister agent update | promote | rollback | versions``: the owner's changes of an agent's code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloister.cli.options import AgentName, AsJson, PassphraseFd, WalletName
from cloister.cli.output import print_facts, print_rows, progress, say
from cloister.cli.project import build_project
from cloister.cli.running import command
from cloister.cli.settings import settings_of
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.errors import CloisterError

if TYPE_CHECKING:
    from cloister.client.client import Client
    from cloister.client.versions import Version

Folder = Annotated[Path, typer.Argument(help="Folder of the agent.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the group of agents."""
    command(app, "update")(update)
    command(app, "promote")(promote)
    command(app, "rollback")(rollback)
    command(app, "versions")(versions)


async def update(
    context: typer.Context,
    agent: AgentName,
    folder: Folder = Path(),
    apply: Annotated[bool, typer.Option("--apply", help="Put the announced change in force, once it may be.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Take the announced change back.")] = False,
    canary: Annotated[
        int | None, typer.Option(min=0, max=100, help="Run it beside the version in force, for PERCENT of the callers.")
    ] = None,
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Build an agent again and give it the new code, as its upgrade rule allows.

    Under a delay this announces the change; `--apply` puts it in force when the blocks have passed. `--canary 10` lets
    it run for a tenth of the callers, over the same state; `agent promote` puts it in force, `agent rollback` ends it.
    """
    from cloister.client import versions as work

    if apply + cancel + (canary is not None) > 1:
        raise typer.BadParameter("--apply, --cancel and --canary exclude each other")
    settings = settings_of(context)
    built = None
    if not apply and not cancel:
        with progress(f"bundling {folder}"):
            built = await build_project(folder)
    async with settings.client(settings.wallet(wallet, passphrase_fd)) as client:
        found = await client.agent_id(agent)
        if cancel:
            with progress("taking the change back"):
                receipt = await work.cancel_code(client, found)
            print_facts({"agent": to_hex(found), "cancelled": True, "block": receipt.block_number}, as_json=as_json)
            return
        with progress("applying" if built is None else "uploading and setting"):
            if built is None:
                done = await work.apply_code(client, found)
            elif canary is not None:
                done = await work.set_canary(client, found, built.bundle, built.manifest, canary)
                _told_canary(done, canary, as_json)
                return
            else:
                done = await work.update(client, found, built.bundle, built.manifest)
        _told(folder, done, as_json)


async def promote(
    context: typer.Context,
    agent: AgentName,
    folder: Folder = Path(),
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Put an agent's canary in force for all calls, once it may run."""
    from cloister.client import versions as work

    settings = settings_of(context)
    async with settings.client(settings.wallet(wallet, passphrase_fd)) as client:
        found = await client.agent_id(agent)
        with progress("putting the canary in force"):
            done = await work.promote(client, found)
    _told(folder, done, as_json)


async def rollback(
    context: typer.Context,
    agent: AgentName,
    folder: Folder = Path(),
    to: Annotated[str | None, typer.Option(help="Code hash to go back to; the version before without it.")] = None,
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """End an agent's canary. Without one, give it an earlier version again, of those in FOLDER/cloister.versions.json.

    It is a change like any other: under a delay it is announced, and `agent update --apply` puts it in force.
    """
    from cloister.client import versions as work

    settings = settings_of(context)
    wanted = from_hex(to.lower(), 32, name="code hash") if to else None
    async with settings.client(settings.wallet(wallet, passphrase_fd)) as client:
        found = await client.agent_id(agent)
        if wanted is None and await work.canary_ready_at(client, found) is not None:
            with progress("ending the canary"):
                receipt = await work.drop_canary(client, found)
            ended: dict[str, Any] = {"agent": to_hex(found), "canary": None, "block": receipt.block_number}
            print_facts(ended, as_json=as_json)
            return
        known = work.read_versions(_home_of(folder))
        target = work.earlier(known, found, await _present(client, found), wanted)
        with progress(f"going back to {to_hex(target.code_hash)[:18]}"):
            done = await work.roll_back(client, found, target.code_hash, target.manifest_hash)
    _told(folder, done, as_json)


async def versions(folder: Folder = Path(), as_json: AsJson = False) -> None:
    """Versions that were deployed from a folder, oldest first."""
    from cloister.client.versions import read_versions

    rows = [one.to_json() for one in read_versions(_home_of(folder))]
    columns = ("block", "agent", "code_hash", "manifest_hash", "ready_at")
    print_rows(rows, columns, as_json=as_json, empty="no versions yet: cloister agent deploy")


def keep(folder: Path, version: Version) -> None:
    """Write a version into the folder's file. The transaction is made: what goes wrong here is said, not raised."""
    from cloister.client.build import find_entry
    from cloister.client.versions import VERSIONS_FILE, remember

    home = _home_of(folder)
    try:
        if not (home / VERSIONS_FILE).exists():
            find_entry(folder)
        remember(home, version)
    except CloisterError as error:
        say(f"note: {home / VERSIONS_FILE} was not written: found {error.found} ({error.code})")


async def _present(client: Client, agent: bytes) -> tuple[bytes, bytes]:
    record = await client.resolver.record(agent)
    return record.code_hash, record.manifest_hash


def _told_canary(done: Version, share: int, as_json: bool) -> None:
    print_facts({**done.to_json(), "canary": share}, as_json=as_json)
    when = (
        "workers follow once the block is final" if done.ready_at is None else f"it may run from block {done.ready_at}"
    )
    say(f"canary for {share} % of the callers: {when}; then cloister agent promote, or rollback")


def _told(folder: Path, done: Version, as_json: bool) -> None:
    facts: dict[str, Any] = done.to_json()
    keep(folder, done)
    print_facts(facts, as_json=as_json)
    if done.ready_at is None:
        say("in force; workers follow once the block is final")
    else:
        say(f"announced; from block {done.ready_at} on: cloister agent update {facts['agent']} {folder} --apply")


def _home_of(folder: Path) -> Path:
    """Where the file lies: the agent's folder, also where its source file was named."""
    return folder if folder.is_dir() else folder.parent

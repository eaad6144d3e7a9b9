"""``cloister gatekeeper run | status | propose-… | resume | audit``: for people of the committee."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloister.cli.local import NO_NODE
from cloister.cli.options import AsJson, PassphraseFd, WalletName
from cloister.cli.output import print_error, print_facts, print_json, print_rows, progress, say
from cloister.cli.running import REFUSED, command
from cloister.cli.settings import settings_of
from cloister.core.errors import CloisterError, TransportError, define

if TYPE_CHECKING:
    from cloister.client.client import Client
    from cloister.client.committee import CommitteeReader, Reading
    from cloister.core.encoding.statements import Statement

ConsentIn = Annotated[
    Path | None, typer.Option("--consent", help="Consent as the operator of the member with this data folder.",
                              metavar="FOLDER")
]  # fmt: skip
COLUMNS = ("asked", "doing", "block", "shares", "ceremony", "missing", "signs", "trouble")
MAX_VOTES = 64 << 10
MAX_TEXT = 160

MEMBERS_AWAY = define(
    "cli.members_away",
    TransportError,
    check="every gatekeeper that was asked answers, and none has halted",
    remedy="look at its row, and into its log; docs/operate/gatekeeper.md says what still works without it",
    status=503,
)

app = typer.Typer(help="The committee: run a member, watch it, move it on.", no_args_is_help=True)


@app.command("run")
def run(
    config: Annotated[Path, typer.Option("--config", help="Settings of the gatekeeper.", metavar="FILE")],
    check: Annotated[bool, typer.Option("--check", help="Only look at the settings.")] = False,
) -> None:
    """Run one gatekeeper until SIGTERM. This process becomes the service: nothing of the command line stays in it."""
    if importlib.util.find_spec("apsw") is None:
        print_error(NO_NODE(expected="cloister[node]", found="no apsw"))
        raise typer.Exit(REFUSED)
    words = [sys.executable, "-m", "cloister.gatekeeper", "--config", str(config), *(["--check"] if check else [])]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, words)  # noqa: S606 - no shell; the same interpreter


@command(app, "status")
async def status(
    context: typer.Context,
    urls: Annotated[list[str] | None, typer.Argument(help="Gatekeepers; those in office without it.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Tell of the open ceremony until its end.")] = False,
    as_json: AsJson = False,
) -> None:
    """What each gatekeeper is doing, in its own words; without URLs also what the chain proves of the committee."""
    if urls and not watch:
        chain, rows = None, await _rows_of(urls)
    else:
        async with settings_of(context).client() as client, _reader(client, urls or ()) as reader:
            if watch:
                await _watch_open(reader)
            chain = await _proven(reader)
            rows = await _rows_of(urls or await reader.endpoints())
    if as_json:
        print_json({"chain": chain, "members": rows})
    else:
        if chain is not None:
            print_facts(_chain_words(chain), as_json=False)
        print_rows([_row_words(row) for row in rows], COLUMNS, as_json=False, empty="nobody to ask")
    _require_well(rows)


@command(app, "propose-rotation")
async def propose_rotation(
    context: typer.Context,
    signed: Annotated[
        Path | None, typer.Option("--signed", help="Statement of t members that want it.", metavar="FILE")
    ] = None,
    call_data: Annotated[bool, typer.Option("--call-data", help="Print the DAO's transaction; send nothing.")] = False,
    consent: ConsentIn = None,
    members: Annotated[bool, typer.Option("--members", help="Ask the members which of them sign it now.")] = False,
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    as_json: AsJson = False,
) -> None:
    """Ask for a new master key: as the DAO, as t members, or as anybody when it is due."""
    from cloister.client import consents, moves

    settings = settings_of(context)
    if (signed is not None) + call_data + (consent is not None or members) > 1:
        raise typer.BadParameter("--signed, --call-data, and --consent or --members are different ways")
    if call_data:
        async with settings.client() as client:
            print_facts(await moves.rotation_call(client), as_json=as_json)
        return
    if consent is not None or members:
        await _propose(context, consents.rotation_of, consent, as_json=as_json)
        return
    votes = None if signed is None else moves.votes_from_json(_votes(signed))
    async with settings.client(settings.wallet(wallet, passphrase_fd)) as client, _reader(client) as reader:
        with progress("reading the committee by proof"):
            reading = await reader.read()
        with progress("sending the transaction"):
            if votes is None:
                receipt = await moves.rotate(client, reading)
            else:
                receipt = await moves.rotate_signed(client, reader, reading, votes)
    say("the ceremony is open: `cloister gatekeeper status --watch` tells of it")
    facts = {"master_epoch": reading.newest.epoch, "next_epoch": reading.newest.epoch + 1}
    print_facts({**facts, "block": receipt.block_number}, as_json=as_json)


@command(app, "propose-revocation")
async def propose_revocation(
    context: typer.Context,
    seat: Annotated[int, typer.Argument(help="The seat, from 1, as `cloister gatekeeper status --json` shows it.")],
    consent: ConsentIn = None,
    as_json: AsJson = False,
) -> None:
    """Remove a seat for cause, for good: consent on one's own member, and see which members sign it now."""
    from cloister.client import consents

    await _propose(context, lambda reading: consents.revocation_of(reading, seat), consent, as_json=as_json)


@command(app, "propose-removal")
async def propose_removal(
    context: typer.Context,
    worker: Annotated[str, typer.Argument(help="The worker's address (0x…).")],
    consent: ConsentIn = None,
    as_json: AsJson = False,
) -> None:
    """Remove a worker for cause, for good: consent on one's own member, and see which members sign it now."""
    from cloister.client import consents
    from cloister.core.encoding.hexes import from_hex

    address = from_hex(worker.lower(), 20, name="worker")
    await _propose(context, lambda reading: consents.removal_of(reading, address), consent, as_json=as_json)


@command(app, "resume")
async def resume(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Data folder of the halted gatekeeper.")],
    block: Annotated[int, typer.Option("--block", help="Height of the block that you believe.", min=0)],
    block_hash: Annotated[str, typer.Option("--hash", help="Its hash (0x…).", metavar="HASH")],
    chain: Annotated[
        int | None, typer.Option("--chain", help="A connected chain, by its id, where it halted.", metavar="ID", min=1)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Let a halted gatekeeper go on from a block that you believe: final, and no lower than the last that it signed."""
    from cloister.client import believing
    from cloister.core.encoding.hexes import from_hex
    from cloister.wire.believed import Believed

    word = Believed(block, from_hex(block_hash.lower(), 32, name="block hash"))
    async with settings_of(context).client() as client, _reader(client) as reader:
        with progress("asking the members what they signed"):
            reading = await reader.read()
            others = await believing.others_of(reading, client.network.id, word, chain)
    believing.require_believable(others, reading.term.threshold)
    believing.write(folder, word, chain)
    say(
        "written; restart the gatekeeper. It signs no height again that it signed before, and notes the word in its log"
    )
    facts: dict[str, Any] = {
        **word.to_json(),
        "signed_by_seats": others.same,
        "signed_otherwise_by_seats": others.other,
    }
    if not as_json:
        facts = {"block": block, "hash": block_hash.lower(), "signed by seats": _seats(others.same)}
        facts["another block signed by seats"] = _seats(others.other)
    print_facts(facts, as_json=as_json)


@command(app, "audit")
async def audit(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A copy of a member's audit.log.")],
    noted: Annotated[
        str | None, typer.Option("--noted", help="A hash that an earlier run printed.", metavar="HASH")
    ] = None,
    worker: Annotated[
        str | None, typer.Option("--exposed", help="List what this worker could read, by owner.", metavar="WORKER")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the log's hash chain, and list whom the member answered what; or what a removed worker could read."""
    from cloister.client.auditing import exposed, read_audit
    from cloister.core.encoding.hexes import from_hex

    wanted = None if noted is None else from_hex(noted.lower(), 32, name="hash")
    found = read_audit(file, wanted)
    if worker is not None:
        found.require(wanted)
        async with settings_of(context).client() as client:
            rows = await exposed(client, found, from_hex(worker.lower(), 20, name="worker"))
        exposure = ("owner", "token_id", "agent", "leased_epoch", "epoch", "credentials")
        print_rows(rows, exposure, as_json=as_json, empty="no lease of that worker")
        return
    if as_json:
        print_json(found.to_json())
    else:
        columns = ("worker", "agent", "what", "outcome", "times")
        print_rows(found.rows(), columns, as_json=False, empty="no answers")
        facts = found.to_json()
        print_facts({name: facts[name] for name in ("lines", "head", "torn", "first_bad_line")}, as_json=False)
    found.require(wanted)


# --- for other commands too ---


async def follow(reader: CommitteeReader, number: int) -> None:
    """Tell of a ceremony, step by step, until its end. Raises ThresholdError (client.ceremony_failed)."""
    from cloister.client.moves import watch

    async for reading in watch(reader, number):
        say(line_of(reading))


def line_of(reading: Reading) -> str:
    """A ceremony in one line."""
    said = reading.to_json()["ceremony"]
    if said is None:
        return "no ceremony was ever opened"
    left = "" if said["until_block"] is None else f", {said['blocks_left']} blocks left"
    waits = f" (waiting for {_some(said['missing'])})" if said["missing"] else ""
    return f"block {reading.checkpoint.number}: {_named(said)}: {said['phase']}{left}: {said['means']}{waits}"


def reader_of(client: Client, urls: Sequence[str] = ()) -> CommitteeReader:
    """A reader of the client's network."""
    from cloister.client.committee import CommitteeReader

    return CommitteeReader(client.network, client.rpc, clock=client.clock, urls=urls)


_reader = reader_of


# --- inside ---


async def _propose(
    context: typer.Context, statement_of: Callable[[Reading], Statement], folder: Path | None, *, as_json: bool
) -> None:
    """Consent in a member's folder, if one is named; then tell who signs. t members send it by themselves."""
    from cloister.client import consents

    async with settings_of(context).client() as client, _reader(client) as reader:
        reading = await reader.read()
        statement = statement_of(reading)
        if folder is not None:
            consents.consent(folder, statement)
            say("consented; the member signs it as soon as its rule holds, and notes it in its audit log")
        with progress("asking the members"):
            signed = await consents.signed_by(reading.sittings, statement, client.network.id)
    needed = reading.term.threshold
    facts: dict[str, Any] = {
        "kind": type(statement).NAME,
        "statement": statement.to_json(),
        "signed_by_seats": sorted(signed),
        "needed": needed,
    }
    if not as_json:
        facts = {**statement.to_json(), "signed by seats": ", ".join(map(str, sorted(signed))) or "none yet"}
        facts["needed"] = f"{needed} of {len(reading.sittings)}"
    print_facts(facts, as_json=as_json)
    if len(signed) < needed:
        say("other operators consent with the same command and --consent FOLDER; members send it once enough sign")


async def _watch_open(reader: CommitteeReader) -> None:
    reading = await reader.read()
    if reading.ceremony is None or not reading.running:
        say("no ceremony is open")
        return
    await follow(reader, reading.ceremony.number)


async def _proven(reader: CommitteeReader) -> dict[str, Any] | None:
    """What the chain proves; None, and why on stderr, while no t members give a checkpoint."""
    try:
        return (await reader.read()).to_json()
    except CloisterError as error:
        say(f"nothing is proven: {error.check}: found {error.found} ({error.code})")
        return None


async def _rows_of(urls: Sequence[str]) -> list[dict[str, Any]]:
    """What each says of itself, or why it does not."""
    from cloister.client.committee import ask_status
    from cloister.wire.ask import new_session

    async def one(url: str) -> dict[str, Any]:
        try:
            return {"asked": url, "error": None, **await ask_status(session, url)}
        except CloisterError as error:
            return {"asked": url, "error": {"code": error.code, "found": error.found, "remedy": error.remedy}}

    session = new_session()
    try:
        return list(await asyncio.gather(*(one(url) for url in urls)))
    finally:
        await session.close()


def _require_well(rows: Sequence[dict[str, Any]]) -> None:
    bad = [f"{_text(row['asked'])}: {_text(row['error']['code'])}" for row in rows if row["error"]]
    bad += [f"{_text(row['asked'])}: halted" for row in rows if str(row.get("doing", "")).startswith("halted")]
    if bad or not rows:
        raise MEMBERS_AWAY(expected=f"{len(rows)} that answer and work", found="; ".join(bad) or "nobody to ask")


def _chain_words(chain: dict[str, Any]) -> dict[str, str]:
    """What is proven, one line per subject."""
    size = len(chain["members"])
    epochs = [f"{e['epoch']} ({e['state']})" for e in chain["master_epochs"]]
    revoked = [str(m["seat"]) for m in chain["members"] if m["revoked"]]
    words = {
        "committee": f"term {chain['term']} since block {chain['since_block']}: any {chain['threshold']} of {size}",
        "master key": f"epoch {', '.join(epochs)}",
        "block": str(chain["block"]),
        "next": f"refresh from block {chain['refresh_from_block']}, rotation from {chain['rotation_from_block']}",
    }
    if revoked:
        words["revoked seats"] = ", ".join(revoked)
    said = chain["ceremony"]
    if said is not None:
        left = (
            "" if said["until_block"] is None else f", until block {said['until_block']} ({said['blocks_left']} left)"
        )
        waits = f"; waiting for {_some(said['missing'])}" if said["missing"] else ""
        words["ceremony"] = f"{_named(said)}: {said['phase']}{left}: {said['means']}{waits}"
    return words


def _row_words(row: dict[str, Any]) -> dict[str, str]:
    """A member's own words, cut to what fits a table."""
    if row["error"]:
        trouble = _text(f"{row['error']['code']}: {row['error']['found']}")
        return {"asked": _text(row["asked"]), "doing": "no answer", "trouble": trouble}
    said, shares = row["ceremony"] or {}, row["shares"] if isinstance(row["shares"], list) else []
    held = [f"epoch {s.get('master_epoch')} term {s.get('term')}" for s in shares[:8] if isinstance(s, dict)]
    found = said.get("trouble")
    return {
        "asked": _text(row["asked"]),
        "doing": _text(row["doing"]),
        "block": _text(row["block"]),
        "shares": _text(", ".join(held)) or "none",
        "ceremony": _text(f"{said.get('phase')} until {said.get('until_block') or 'over'}") if said else "-",
        "missing": _some(said.get("missing")),
        "signs": _signs(row.get("statements")),
        "trouble": _text(f"{found.get('code')}: {found.get('found')}") if isinstance(found, dict) else "-",
    }


def _text(value: object) -> str:
    """A stranger's word in a table: short, and without what moves a terminal's cursor."""
    return "".join(c if c.isprintable() else "?" for c in str(value)[:MAX_TEXT])


def _signs(value: object) -> str:
    """Kinds of statements that a member signs now, and how many agents an older master epoch still has."""
    said = value if isinstance(value, dict) else {}
    items, left = said.get("signed"), said.get("not_resealed")
    kinds = [one.get("kind") for one in items if isinstance(one, dict)] if isinstance(items, list) else []
    more = f"; {_text(left)} agents not re-sealed" if left else ""
    return _some(kinds) + more


def _named(said: dict[str, Any]) -> str:
    return f"{said['kind']} ceremony {said['number']} for term {said['term']}, master epoch {said['master_epoch']}"


def _some(items: object) -> str:
    """The first of what is missing, and how many more."""
    if not isinstance(items, list) or not items:
        return "-"
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return ", ".join(_text(item) for item in items[:3]) + more


def _seats(found: Sequence[int]) -> str:
    return ", ".join(map(str, found)) or "none"


def _votes(file: Path) -> Any:
    from cloister.client.home import read_file
    from cloister.wire.messages import parse_json

    return parse_json(read_file(file, MAX_VOTES))

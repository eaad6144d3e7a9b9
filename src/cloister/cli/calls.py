"""``cloister call AGENT PATH``: one sealed call. The answer goes to stdout byte for byte, the proof to stderr."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cloister.cli.asking import secret
from cloister.cli.options import AllowInstant, AsJson, PassphraseFd, WalletName, demand_of
from cloister.cli.output import print_json, say
from cloister.cli.running import command
from cloister.cli.settings import settings_of
from cloister.client.agent import Stream
from cloister.client.agree import Agreement
from cloister.client.call import MAX_BODY, SAFE_METHODS
from cloister.client.home import read_file
from cloister.client.reply import Reply
from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import ConfigError, define

AGENT_SAID_NO = 22  # the agent answered, with status 400 or above

BAD_HEADER = define(
    "cli.header",
    ConfigError,
    check="a header is written as `Name: value`",
    remedy="quote it: -H 'Accept: application/json'",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "call")(call)


async def call(
    context: typer.Context,
    agent: Annotated[str, typer.Argument(help="Agent id (0x…) or token id.")],
    path: Annotated[str, typer.Argument(help="Path with query, such as /notes?limit=3.")] = "/",
    data: Annotated[
        str | None, typer.Option("--data", "-d", help="Body; @FILE reads a file, @- standard input. Implies POST.")
    ] = None,
    method: Annotated[str | None, typer.Option("--method", "-X", help="GET, POST, …")] = None,
    header: Annotated[list[str] | None, typer.Option("--header", "-H", help="'Name: value'; repeatable.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="Makes a POST safe to repeat after a loss.")] = None,
    wallet: WalletName = None,
    passphrase_fd: PassphraseFd = None,
    api_key_fd: Annotated[int | None, typer.Option(help="Call by an API key that this descriptor gives.")] = None,
    code_hash: Annotated[str | None, typer.Option(help="Refuse any other code (0x…).")] = None,
    vendor: Annotated[str | None, typer.Option(help="Only workers of this vendor class, such as intel.")] = None,
    evidence: Annotated[bool, typer.Option(help="Ask the worker's hardware for evidence first.")] = False,
    allow_instant: AllowInstant = False,
    agree: Annotated[int, typer.Option(help="Ask so many workers; all must say the same. GET and HEAD.", min=1)] = 1,
    vendors: Annotated[int, typer.Option(help="With --agree: of at least so many vendor classes.", min=1)] = 2,
    deadline: Annotated[float, typer.Option(help="Seconds that the worker may take.", min=0.1, max=600)] = 30.0,
    oblivious: Annotated[
        str | None, typer.Option(help="Call through this relay: no gateway learns who calls.", metavar="URL")
    ] = None,
    stream: Annotated[bool, typer.Option(help="Print pieces as they come.")] = False,
    as_json: AsJson = False,
) -> None:
    """Call an agent: sealed to an attested worker, answered with a verified receipt.

    Exit code 0: answered below 400. 22: the agent answered 400 or above. 1: nothing that could be believed came back.
    """
    settings = settings_of(context)
    body = _body(data)
    verb = (method or ("POST" if body is not None else "GET")).upper()
    who = settings.wallet(wallet, passphrase_fd) if wallet else None
    if wallet and api_key_fd is not None:
        raise typer.BadParameter("a call is a wallet's or an API key's: not --wallet and --api-key-fd")
    api_key = secret("API key", fd=api_key_fd) if api_key_fd is not None else None
    demand = demand_of(code_hash, vendor, allow_instant, evidence)
    options: dict[str, Any] = {
        "headers": [_header(h) for h in header or ()],
        "body": body,
        "idempotency_key": idempotency_key,
    }
    async with settings.client(who, api_key=api_key, oblivious=oblivious) as client:
        found = await client.agent(agent, demand=demand)
        if agree > 1:
            if verb not in SAFE_METHODS or stream:
                raise typer.BadParameter("--agree is for GET and HEAD, without --stream")
            agreed = await found.agreed(
                path, method=verb, workers=agree, vendors=vendors, headers=options["headers"], deadline_s=deadline
            )
            status = _agreed(agreed, as_json)
        elif stream and not as_json:
            status = await _streamed(found.stream(verb, path, deadline_s=deadline, **options))
        else:
            reply = await found.request(verb, path, deadline_s=deadline, **options)
            status = _whole(reply, as_json)
    if status >= 400:
        raise typer.Exit(AGENT_SAID_NO)


def _facts(reply: Reply) -> dict[str, Any]:
    return {
        "status": reply.status,
        "headers": [list(pair) for pair in reply.headers.pairs],
        "body": reply.text,
        "request_id": reply.request_id,
        "receipt": to_hex(reply.receipt.id),
        "proof": reply.proof.to_json(),
    }


def _agreed(made: Agreement, as_json: bool) -> int:
    if as_json:
        print_json(
            {"status": made.status, "vendors": sorted(made.vendors), "replies": [_facts(r) for r in made.replies]}
        )
        return made.status
    _write(made.body)
    for reply in made.replies:
        proof = reply.proof
        say(f"{reply.status} from {proof.vendor} worker {to_hex(proof.worker)}, receipt {to_hex(reply.receipt.id)}")
    return made.status


def _whole(reply: Reply, as_json: bool) -> int:
    if as_json:
        print_json(_facts(reply))
        return reply.status
    _write(reply.body)
    proof = reply.proof
    say(f"{reply.status} from {proof.vendor} worker {to_hex(proof.worker)}, receipt {to_hex(reply.receipt.id)}")
    return reply.status


async def _streamed(stream: Stream) -> int:
    async for chunk in stream:
        _write(chunk)
    if stream.receipt is not None:
        say(f"{stream.status}, receipt {to_hex(stream.receipt.id)}")
    return stream.status


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    if sys.stdout.isatty() and data and not data.endswith(b"\n"):
        sys.stdout.write("\n")


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise BAD_HEADER(expected="Name: value", found=name[:40])
    return name.strip(), value.strip()


def _body(data: str | None) -> bytes | None:
    if data is None:
        return None
    if data == "@-":
        return sys.stdin.buffer.read(MAX_BODY + 1)
    return read_file(Path(data[1:]), MAX_BODY) if data.startswith("@") else data.encode()

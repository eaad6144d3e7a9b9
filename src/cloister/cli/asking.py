"""How secrets come in: a prompt that does not echo, standard input, or an inherited file descriptor.

Never the command line and never the environment: both are visible to other programs of the machine and live on in
histories and logs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer

from cloister.client.home import read_file
from cloister.core.errors import ConfigError, define

MAX_SECRET = 64 << 10

NO_SECRET = define(
    "cli.no_secret",
    ConfigError,
    check="a secret comes from a prompt, standard input or --fd, is not empty and has at most 64 KiB",
    remedy="run it on a terminal, pipe the value in, or pass an open descriptor: `--fd 3 3< file`",
)

NOT_CONFIRMED = define(
    "cli.not_confirmed",
    ConfigError,
    check="a step that cannot be taken back is confirmed",
    remedy="answer y on a terminal, or pass --yes",
)


def confirmed(what: str, yes: bool) -> None:
    """Ask before something that nobody can undo; ``yes`` answers it. Raises ConfigError (cli.not_confirmed)."""
    if yes:
        return
    if not sys.stdin.isatty() or not typer.confirm(f"{what}?", err=True):
        raise NOT_CONFIRMED(expected=f"a yes to: {what}", found="none")


def secret(question: str, *, fd: int | None = None, confirm: bool = False) -> str:
    """A secret value: from ``fd``, else from a terminal prompt, else from piped standard input.

    One trailing line break is dropped. Raises ConfigError (cli.no_secret).
    """
    if fd is not None:
        return _checked(_from_fd(fd), f"descriptor {fd}")
    if sys.stdin.isatty():
        value = typer.prompt(question, hide_input=True, confirmation_prompt=confirm, err=True)
        return _checked(str(value).encode(), "the prompt")
    return _checked(sys.stdin.buffer.read(MAX_SECRET + 1), "standard input")


def passphrase(name: str, *, fd: int | None = None, file: Path | None = None, new: bool = False) -> str:
    """The passphrase of a wallet: a file that a devnet owns, a descriptor, or a prompt."""
    if file is not None and fd is None:
        return _checked(read_file(file, MAX_SECRET), "the passphrase file")
    return secret(f"Passphrase of wallet {name}", fd=fd, confirm=new)


def _from_fd(fd: int) -> bytes:
    try:
        with os.fdopen(os.dup(fd), "rb") as stream:
            return stream.read(MAX_SECRET + 1)
    except OSError as error:
        raise NO_SECRET(expected=f"an open descriptor {fd}", found=error.strerror or "an error") from None


def _checked(data: bytes, where: str) -> str:
    if not data.strip() or len(data) > MAX_SECRET:
        raise NO_SECRET(expected=f"1 byte to 64 KiB from {where}", found=f"{len(data)} bytes")
    try:
        return data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise NO_SECRET(expected=f"UTF-8 text from {where}", found="other bytes") from None

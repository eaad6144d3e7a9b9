"""Reading our documents: fenced blocks, tables, command lines. What they say is compared with the program."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from cloister.cli.app import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "spec").rglob("*.md")])
COMMANDS: Any = typer.main.get_command(app)


def page(name: str) -> str:
    """The text of a document, by its path from the root."""
    return (ROOT / name).read_text()


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def cells(text: str, heading: str) -> dict[str, list[str]]:
    """The first table whose first heading is ``heading``: each row's first cell, without backticks, to the others."""
    rows: dict[str, list[str]] = {}
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(f"| {heading} |"):
            next(lines)
            break
    for line in lines:
        if not line.startswith("|"):
            break
        first, *rest = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        rows[first.replace("`", "")] = rest
    return rows


def command_lines(text: str) -> Iterator[str]:
    """Every ``cloister …`` line of shell blocks, without comments, redirections and the path of the program."""
    for block in blocks(text, "sh"):
        for line in block.splitlines():
            clean = line.strip().removeprefix(".venv/bin/")
            if clean.startswith("cloister "):
                yield clean


def words_of(line: str) -> list[str]:
    """The words after ``cloister``."""
    return [w for w in shlex.split(line, comments=True)[1:] if not re.fullmatch(r"\d<.*", w)]


def parse_command(words: list[str]) -> None:
    """Walk to the command and parse its arguments; nothing runs. Raises for what the program would not take."""
    group: Any = COMMANDS
    while words and words[0].startswith("-"):
        option = next((o for o in group.params if words[0] in o.opts), None)
        assert option is not None, f"no global option {words[0]}"
        words = words[1:] if option.is_flag else words[2:]
    while hasattr(group, "commands"):
        assert words, "a group without a command"
        assert words[0] in group.commands, f"no command {words[0]}"
        group, words = group.commands[words[0]], words[1:]
    group.make_context("cloister", list(words))


def leaves(group: Any = COMMANDS, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command, as its words."""
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            yield from leaves(one, (*path, name))
        else:
            yield (*path, name)


def command_of(path: tuple[str, ...]) -> Any:
    """The command object of some words."""
    found: Any = COMMANDS
    for name in path:
        found = found.commands[name]
    return found

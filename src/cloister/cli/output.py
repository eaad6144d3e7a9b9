"""The rules of the terminal.

* Facts go to stdout; errors, hints, questions and progress go to stderr. So ``cloister … > file`` keeps facts only.
* With ``--json``, stdout is one JSON document and nothing else.
* An error is one ``error:`` line and one ``hint:`` line, exit code 1. A wrong command line exits with 2. Never a
  traceback for something that the network or the person did.
* What may take over a second says so, and says it again when it is done; nothing is animated into a pipe.
* Colour only marks ok (green) and refused (red), and only on a terminal. Words carry the meaning.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cloister.core.errors import CloisterError


def out() -> Console:
    """Console for facts. Made anew so that a redirected stdout is honoured."""
    return Console(file=sys.stdout, highlight=False, soft_wrap=True)


def err() -> Console:
    """Console for everything that is not a fact."""
    return Console(file=sys.stderr, highlight=False, soft_wrap=True)


def print_error(error: CloisterError) -> None:
    """``error:`` and ``hint:`` lines on stderr. Texts of strangers are escaped, never read as markup."""
    text = f"{error.check}: expected {error.expected}, found {error.found} ({error.code})"
    err().print(f"[red]error:[/red] {escape(text)}")
    err().print(f"hint: {escape(error.remedy)}")


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_facts(facts: Mapping[str, Any], *, as_json: bool) -> None:
    """Name and value per line, or the JSON object."""
    if as_json:
        print_json(dict(facts))
        return
    width = max((len(n) for n in facts), default=0)
    for name, value in facts.items():
        out().print(f"{escape(name):<{width}}  {escape(_plain(value))}")


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool, empty: str) -> None:
    """A table with these columns, or the JSON list. ``empty`` is said on stderr where there are no rows."""
    if as_json:
        print_json([dict(row) for row in rows])
        return
    if not rows:
        err().print(escape(empty))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(escape(_short(_plain(row.get(column)))) for column in columns))
    out().print(table)


def print_steps(steps: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Numbered verification steps: what was checked, what was expected, what was found."""
    if as_json:
        print_json([dict(step) for step in steps])
        return
    for step in steps:
        mark = "[green]ok     [/green]" if step["ok"] else "[red]refused[/red]"
        out().print(f"{step['number']:>2}  {mark}  {escape(str(step['check']))}")
        if step["ok"]:
            out().print(f"[dim]             {escape(str(step['found']))}[/dim]")
        else:
            out().print(f"             expected  {escape(str(step['expected']))}")
            out().print(f"             found     {escape(str(step['found']))}  ({escape(str(step['code']))})")


@contextmanager
def progress(text: str) -> Iterator[None]:
    """Say what goes on: a spinner on a terminal, one line elsewhere."""
    console = err()
    if console.is_terminal:
        with console.status(escape(text)):
            yield
        return
    console.print(escape(f"{text} …"))
    yield


def say(text: str) -> None:
    """One line for a person, on stderr."""
    err().print(escape(text))


def _short(text: str) -> str:
    """Long hex is cut in tables, after enough digits to name the thing; ``--json`` has all of it."""
    return f"{text[:18]}…" if text.startswith("0x") and len(text) > 42 else text


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, ensure_ascii=False)
    return "-" if value is None else str(value)

"""docs/use is read by this test: commands exist with their options, Python compiles and its names resolve."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from cloister.cli.app import app
from cloister.client import Agent, Client, Reply, Stream
from cloister.client.verify import Report
from cloister.core.attestation.model import Check
from cloister.core.errors import CloisterError

DOCS = Path(__file__).parents[3] / "docs" / "use"
TEMPLATES = Path(__file__).parents[3] / "src" / "cloister" / "cli" / "templates"
FILES = sorted(DOCS.glob("*.md"))
MINE = [path for path in FILES if path.name in ("quickstart.md", "sdk.md", "cli.md")]
ROOT: Any = typer.main.get_command(app)
CLASSES: dict[str, type] = {
    "client": Client,
    "agent": Agent,
    "hidden": Agent,
    "reply": Reply,
    "stream": Stream,
    "report": Report,
    "step": Check,
    "error": CloisterError,
}


def blocks(path: Path, language: str) -> Iterator[str]:
    yield from re.findall(rf"```{language}\n(.*?)```", path.read_text(), flags=re.DOTALL)


def commands() -> list[tuple[str, str]]:
    found = [(p.name, line) for p in MINE for block in blocks(p, "sh") for line in block.splitlines()]
    for readme in TEMPLATES.glob("*/README.md"):
        lines = re.findall(r"^    (cloister .*)$", readme.read_text(), flags=re.MULTILINE)
        found += [(readme.parent.name, line.replace("TOKEN_ID", "1")) for line in lines]
    return [(name, line) for name, line in found if line.startswith("cloister")]


def leaves(group: Any = ROOT, path: tuple[str, ...] = ()) -> Iterator[str]:
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            yield from leaves(one, (*path, name))
        else:
            yield " ".join((*path, name))


def parse(words: list[str]) -> None:
    """Walk to the command and parse its arguments; nothing runs."""
    group: Any = ROOT
    while words and words[0].startswith("-"):
        option = next(o for o in ROOT.params if words[0] in o.opts)
        words = words[1:] if option.is_flag else words[2:]
    while hasattr(group, "commands"):
        assert words, "a group without a command"
        assert words[0] in group.commands, f"no command {words[0]}"
        group, words = group.commands[words[0]], words[1:]
    group.make_context("cloister", list(words))


def test_the_documents_are_there() -> None:
    assert len(MINE) == 3
    assert len(commands()) > 30


@pytest.mark.parametrize(("where", "line"), commands())
def test_every_command_line_parses(where: str, line: str) -> None:
    words = shlex.split(line)
    parse([w for w in words[1:] if not re.fullmatch(r"\d<.*", w)])


def test_the_reference_names_every_command_and_no_other() -> None:
    named = set(re.findall(r"^\| `cloister ([a-z ]+)` \|", (DOCS / "cli.md").read_text(), flags=re.MULTILINE))
    assert named == set(leaves())


@pytest.mark.parametrize("path", MINE, ids=lambda p: p.name)
def test_python_blocks_compile_and_their_names_resolve(path: Path) -> None:
    for block in blocks(path, "python"):
        tree = ast.parse(block)
        compile(block, path.name, "exec")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module}.{alias.name}"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in CLASSES:
                kind = CLASSES[node.value.id]
                known = hasattr(kind, node.attr) or f"self.{node.attr}" in inspect.getsource(kind)
                assert known, f"{kind.__name__}.{node.attr}"


@pytest.mark.parametrize("path", MINE, ids=lambda p: p.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_error_codes_in_the_documents_exist() -> None:
    from cloister.core.errors import REGISTRY

    for path in MINE:
        for code in re.findall(r"`((?:client|policy|envelope|receipt)\.[a-z_]+)`", path.read_text()):
            assert code in REGISTRY, code

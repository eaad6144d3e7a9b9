"""docs/use/cli.md is the whole reference: every command, every global option; the template's README too."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest

from support.documents import COMMANDS, ROOT, command_of, leaves, page, parse_command

TEMPLATES = ROOT / "src" / "cloister" / "cli" / "templates"
REFERENCE = "docs/use/cli.md"


def template_lines() -> list[tuple[str, str]]:
    found = []
    for readme in TEMPLATES.glob("*/README.md"):
        lines = re.findall(r"^    (cloister .*)$", readme.read_text(), flags=re.MULTILINE)
        found += [(readme.parent.name, line.replace("TOKEN_ID", "1")) for line in lines]
    return found


@pytest.mark.parametrize(("where", "line"), template_lines())
def test_every_command_line_of_a_template_parses(where: str, line: str) -> None:
    parse_command(shlex.split(line)[1:])


def test_the_reference_names_every_command_and_no_other() -> None:
    named = re.findall(r"^\| `cloister ([a-z -]+)` \|", page(REFERENCE), flags=re.MULTILINE)
    assert sorted(named) == sorted(" ".join(path) for path in leaves())


def test_the_reference_names_every_global_option_and_no_other() -> None:
    named = {words.split()[0] for words in re.findall(r"^\| `(--[^`]+)` \|", page(REFERENCE), flags=re.MULTILINE)}
    own = {option for one in COMMANDS.params for option in one.opts}
    assert named == own - {"--version", "--help", "-h"}


def test_exit_codes_of_the_reference_are_the_programs() -> None:
    from cloister.cli.calls import AGENT_SAID_NO
    from cloister.cli.running import INTERRUPTED, REFUSED

    text = " ".join(page(REFERENCE).split())
    for sentence in (
        f"{REFUSED} refused or failed",
        f"{AGENT_SAID_NO} the agent itself answered 400",
        f"{INTERRUPTED} interrupted",
    ):
        assert sentence in text


@pytest.mark.parametrize("path", list(leaves()), ids=" ".join)
def test_a_command_is_described_in_the_reference_in_one_short_line(path: tuple[str, ...]) -> None:
    row = re.search(rf"^\| `cloister {' '.join(path)}` \| (.+) \|$", page(REFERENCE), re.MULTILINE)
    assert row is not None
    assert 5 < len(row[1]) < 90
    found: Any = command_of(path)
    assert found.help, "and in its own help"

"""docs/audit/errors.md lists every refusal, with the words of the code."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_of_codes_is_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, "tools/codes.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_remedy_and_check_is_a_sentence_for_people() -> None:
    spec = importlib.util.spec_from_file_location("codes_tool", ROOT / "tools" / "codes.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.load_all()
    codes = {c: r for c, r in tool.REGISTRY.items() if not c.startswith("test.")}
    assert len(codes) > 150
    for code, refusal in codes.items():
        assert len(refusal.check) > 8, code
        assert len(refusal.remedy) > 8, code
        assert not refusal.check.endswith("."), code


def test_commands_that_remedies_name_exist() -> None:
    from cloister.cli.app import app

    groups = {
        g.name: {one.name for one in (*g.typer_instance.registered_commands, *g.typer_instance.registered_groups)}
        for g in app.registered_groups
    }
    tops = {c.name for c in app.registered_commands} | set(groups)
    text = (ROOT / "docs" / "audit" / "errors.md").read_text()
    for first, second in re.findall(r"`cloister ([a-z]+)(?: ([a-z-]+))?", text):
        assert first in tops, first
        if first in groups and second and groups[first]:
            assert second in groups[first], f"{first} {second}"

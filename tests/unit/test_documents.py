"""Whatever a document says about files and make targets is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "spec").rglob("*.md")])
_LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")
_MAKE = re.compile(r"`?make ([a-z][a-z-]*)`?")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in _LINK.findall(document.read_text()):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    quoted = re.findall(r"`make ([a-z][a-z-]*)", document.read_text())
    assert set(quoted) <= targets, document.name


def test_architecture_names_real_files() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    names = re.findall(r"`([a-z_]+/[a-z_/.*]+\.(?:py|js|sol))`", text)
    assert len(names) > 25
    for name in names:
        base = ROOT if name.startswith(("contracts/", "tests/")) else ROOT / "src" / "cloister"
        assert list(base.glob(name)), name

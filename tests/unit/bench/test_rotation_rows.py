"""The rotation's part of the bench: a whole rotation among members in memory, an agent re-sealed, and rows of both."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench import baseline, rotation


async def test_a_rotation_ends_and_every_row_says_something(tmp_path: Path) -> None:
    rows = await rotation.rows(tmp_path / "all", agents=2)
    assert len({row.name for row in rows}) == len(rows) == 11
    assert all(row.value > 0 and row.unit for row in rows)
    blocks = [row for row in rows if row.unit == "blocks"]
    assert len(blocks) == 3
    assert max(row.value for row in blocks) < rotation.LIMIT
    assert [row.target for row in blocks] == [None, 5, None], "three blocks and two confirmations"
    assert blocks[1].ok, "signatures of one block are sent in the next (spec/gatekeepers.md, statements of t members)"
    assert list((tmp_path / "all").glob("agent-*")) == [], "a thousand agents' files do not pile up"


async def test_a_re_seal_that_loses_a_value_is_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rotation.use_kits()
    from support.reseal_kit import Shop

    async def nothing(_shop: Shop, _epochs: object) -> dict[str, bytes | None]:
        return {}

    monkeypatch.setattr(Shop, "contents", nothing)
    with pytest.raises(RuntimeError, match="whole"):
        await rotation.resealed(tmp_path / "fabric")


def test_it_is_a_part_of_the_baseline_that_needs_no_network() -> None:
    assert "rotation" in baseline.LOCAL

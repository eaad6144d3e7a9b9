"""spec/vectors/statements.json is what the generator writes, and its signatures count in Python as they do on chain."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from cloister.core.encoding import contract_statements, handover, statements
from cloister.core.encoding.hexes import from_hex
from cloister.core.encoding.signatures import SignerSet, verify_committee
from cloister.core.errors import EncodingError

FOLDER = Path(__file__).resolve().parents[3] / "spec" / "vectors"
VECTORS: dict[str, Any] = json.loads((FOLDER / "statements.json").read_text(encoding="utf-8"))
NETWORK = from_hex(VECTORS["network"], 32)
KINDS: dict[str, Any] = {**vars(statements), **vars(contract_statements), **vars(handover)}
COMMITTEE = SignerSet(VECTORS["term"], VECTORS["threshold"], tuple(from_hex(m, 20) for m in VECTORS["members"]))


def test_the_file_is_what_the_generator_writes() -> None:
    assert runpy.run_path(str(FOLDER / "gen_statements.py"))["build"]() == VECTORS


@pytest.mark.parametrize("name", sorted(VECTORS["statements"]))
def test_each_statement_reads_back_and_hashes_alike(name: str) -> None:
    case = VECTORS["statements"][name]
    value = KINDS[name].from_json(case["fields"])
    assert value.type_string() == case["type"]
    assert value.struct_hash() == from_hex(case["struct_hash"], 32)
    assert value.digest(NETWORK) == from_hex(case["digest"], 32)


@pytest.mark.parametrize("name", sorted(n for n, c in VECTORS["statements"].items() if "term" in c["fields"]))
@pytest.mark.parametrize("count", range(6))
def test_committee_statements_count_with_t_signatures(name: str, count: int) -> None:
    case = VECTORS["statements"][name]
    value = KINDS[name].from_json(case["fields"])
    signatures = [from_hex(s, 65) for s in case["signatures"][:count]]
    if count >= COMMITTEE.threshold:
        verify_committee(value, signatures, COMMITTEE, NETWORK)
        return
    with pytest.raises(EncodingError):
        verify_committee(value, signatures, COMMITTEE, NETWORK)

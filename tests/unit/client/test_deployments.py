"""Files of a deployment: what a plan may say, whose record it is, what comes out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloister.chain.rollout import Record
from cloister.client.deployments import open_record, read_deployment, read_plan
from cloister.core.errors import CloisterError

PAGE = Path(__file__).resolve().parents[3] / "docs" / "operate" / "chain.md"


def example() -> dict[str, Any]:
    """The plan that the page shows."""
    text = PAGE.read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text.split("```json\n")[1].split("```")[0])
    return found


def wrote(folder: Path, value: object) -> Path:
    file = folder / "plan.json"
    file.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return file


def test_the_page_shows_a_plan(tmp_path: Path) -> None:
    plan = read_plan(wrote(tmp_path, example()))
    assert (plan.chain_id, plan.policy_delay, plan.timelock_delay) == (1, 50400, 172800)
    assert plan.proposers == (b"\x22" * 20,)
    assert plan.treasury == bytes(20)
    assert plan.rules.term_blocks == 216000


def test_addresses_may_be_written_with_their_checksum(tmp_path: Path) -> None:
    plan = example() | {"treasury": "0xF39Fd6e51aad88F6F4ce6aB8827279cffFb92266"}
    assert read_plan(wrote(tmp_path, plan)).treasury.hex().startswith("f39fd6")


SPOILT: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no object": lambda plan: [],
    "a field less": lambda plan: {k: v for k, v in plan.items() if k != "seats"},
    "a field more": lambda plan: plan | {"owner": "0x"},
    "another version": lambda plan: plan | {"v": 2},
    "nobody who proposes": lambda plan: plan | {"proposers": []},
    "a proposer that is none": lambda plan: plan | {"proposers": ["0x22"]},
    "proposers as one text": lambda plan: plan | {"proposers": "0x" + "22" * 20},
    "more measurements than a list has": lambda plan: plan | {"measurements": ["0x" + "00" * 32] * 257},
    "a number as text": lambda plan: plan | {"seats": "3"},
    "a truth for a number": lambda plan: plan | {"seats": True},
    "a negative delay": lambda plan: plan | {"timelock_delay": -1},
    "a rule less": lambda plan: plan | {"rules": {}},
    "a rule that is no number": lambda plan: plan | {"rules": plan["rules"] | {"min_stake": None}},
    "no JSON": lambda plan: b"{",
    "brackets without end": lambda plan: b"[" * 100_000,
}


@pytest.mark.parametrize("why", SPOILT)
def test_another_form_of_a_plan_is_refused_by_name(why: str, tmp_path: Path) -> None:
    with pytest.raises(CloisterError):
        read_plan(wrote(tmp_path, SPOILT[why](example())))


@given(st.binary(max_size=40))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    file = wrote(tmp_path, data)
    for read in (read_plan, read_deployment, lambda path: open_record(path, {})):
        with pytest.raises(CloisterError):
            read(file)


def test_a_record_is_kept_and_belongs_to_one_deployment(tmp_path: Path) -> None:
    file, mine = tmp_path / "deep" / "record.json", {"chain_id": 1, "deployer": "0x1"}
    kept = open_record(file, mine)
    assert kept.nonces == {}
    kept.nonces["Token"] = 3
    kept.save(kept)
    assert open_record(file, mine).nonces == {"Token": 3}
    assert file.stat().st_mode & 0o777 == 0o600
    for other in (mine | {"chain_id": 2}, mine | {"deployer": "0x2"}, {}):
        with pytest.raises(CloisterError, match=r"chain\.other_chain"):
            open_record(file, other)


@pytest.mark.parametrize("nonces", [[], {"Token": -1}, {"Token": "3"}, {str(n): n for n in range(300)}])
def test_a_record_of_another_form_is_refused(nonces: object, tmp_path: Path) -> None:
    with pytest.raises(CloisterError):
        open_record(wrote(tmp_path, {"v": 1, "for": {}, "nonces": nonces}), {})


def test_a_deployment_reads_back(tmp_path: Path) -> None:
    one = {"v": 1, "chain_id": 5, "directory": "0x" + "0d" * 20, "contracts": {"Anchor": {"address": "0x" + "0a" * 20}}}
    found = read_deployment(wrote(tmp_path, one))
    assert (found.chain_id, found.directory, found.contracts) == (5, b"\x0d" * 20, {"Anchor": b"\x0a" * 20})
    for spoilt in ({**one, "contracts": []}, {**one, "contracts": {"Anchor": 1}}, {**one, "contracts": {"Anchor": {}}}):
        with pytest.raises(CloisterError):
            read_deployment(wrote(tmp_path, spoilt))


def test_a_new_record_writes_nothing_before_something_is_sent(tmp_path: Path) -> None:
    assert isinstance(open_record(tmp_path / "r.json", {}), Record)
    assert not (tmp_path / "r.json").exists()

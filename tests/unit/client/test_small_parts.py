"""Small parts of the client, alone: headers, replies, demands, requests."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.client.call import Request
from cloister.client.demand import INSTANT, OTHER_CODE, Demand
from cloister.client.reply import HeaderMap, Proof
from cloister.core.chainview.records import AgentRecord, UpgradeMode
from cloister.core.errors import CloisterError
from support.fake_world import World

NAMES = st.text(st.sampled_from("abcXYZ-"), min_size=1, max_size=8)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8))
def test_headers_read_in_any_case_and_keep_their_order(pairs: list[tuple[str, str]]) -> None:
    headers = HeaderMap(tuple(pairs))
    assert list(headers.pairs) == pairs
    assert len(headers) == len({n.lower() for n, _ in pairs})
    for name, _ in pairs:
        last = [v for n, v in pairs if n.lower() == name.lower()][-1]
        assert headers[name.upper()] == headers[name.lower()] == headers.get(name) == last
    assert headers.get("not-there") is None
    assert set(headers) == {n.lower() for n, _ in pairs}


def test_headers_show_themselves() -> None:
    assert repr(HeaderMap((("a", "b"),))) == "HeaderMap([('a', 'b')])"


def test_a_proof_is_json_ready() -> None:
    fields: dict[str, Any] = dict.fromkeys(("network", "agent", "code_hash", "manifest_hash", "worker"), b"\x01" * 32)
    fields |= {"boot": b"", "vendor": "intel", "measurement": b"", "receipt_id": b"\x02"}
    proof = Proof(**fields, checkpoint=1, lease_expiry=2, committee=3).to_json()
    assert proof["vendor"] == "intel"
    assert proof["receipt_id"] == "0x02"
    assert proof["committee"] == 3


def record(**changes: Any) -> AgentRecord:
    world = World()
    return world.agents[world.set_agent(**changes)]


OWNER = b"\x05" * 20
OTHER = b"\x01" * 32
MODES: dict[str, tuple[UpgradeMode, Demand, bytes | None, str | None]] = {
    "frozen code needs no word": (UpgradeMode.FROZEN, Demand(), None, None),
    "delayed code needs no word": (UpgradeMode.DELAYED, Demand(), None, None),
    "instant code is refused": (UpgradeMode.INSTANT, Demand(), None, INSTANT.code),
    "instant code is refused to a stranger's wallet": (UpgradeMode.INSTANT, Demand(), b"\x06" * 20, INSTANT.code),
    "instant code is fine for its owner": (UpgradeMode.INSTANT, Demand(), OWNER, None),
    "instant code is fine for who says so": (UpgradeMode.INSTANT, Demand(upgrade_not_instant=False), None, None),
    "a pin on other code refuses": (UpgradeMode.FROZEN, Demand(code_hash=OTHER), None, OTHER_CODE.code),
    "a pin on another manifest refuses": (
        UpgradeMode.FROZEN,
        Demand(manifest_hash=b"\x01" * 32),
        None,
        OTHER_CODE.code,
    ),
    "a pin refuses the owner too": (UpgradeMode.INSTANT, Demand(code_hash=OTHER), OWNER, OTHER_CODE.code),
}


@pytest.mark.parametrize("what", MODES)
def test_demands_on_the_agent(what: str) -> None:
    mode, demand, caller, code = MODES[what]
    found = record(upgrade_mode=mode, owner=OWNER)
    if code is None:
        demand.check_record(found, caller)
        return
    with pytest.raises(CloisterError) as caught:
        demand.check_record(found, caller)
    assert caught.value.code == code
    assert caught.value.status == 403


@pytest.mark.parametrize("bad", [{"code_hash": b"x"}, {"manifest_hash": b""}, {"worker": b"\x01" * 32}])
def test_demands_of_the_wrong_size_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(CloisterError):
        Demand(**bad)


@given(st.sampled_from(["get", "HEAD", "post", "put", "delete", "patch"]), st.none() | st.text(min_size=1, max_size=5))
def test_only_safe_or_keyed_requests_repeat(method: str, key: str | None) -> None:
    request = Request.build(
        method,
        "/",
        headers=None,
        body=None,
        json_body=None,
        idempotency_key=key,
        request_id=bytes(16),
        deadline_ms=0,
    )
    assert request.repeatable == (method.upper() in ("GET", "HEAD") or key is not None)
    assert request.head().request_id == "0x" + "00" * 16

"""What must survive a crash: blobs, checkpoints, heads, grants; the audit log; the rate limit; the settings."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloister.core.encoding import jcs
from cloister.core.encoding.audit import verify_line
from cloister.core.encoding.identity import Epochs
from cloister.core.encoding.statements import Checkpoint, Lease
from cloister.core.errors import CloisterError
from cloister.core.policy.release import Ledger
from cloister.core.state.rows import Head
from cloister.core.state.table import HeadTable
from cloister.gatekeeper.audit import AuditLog
from cloister.gatekeeper.config import GatekeeperConfig
from cloister.gatekeeper.limits import RateLimit
from cloister.gatekeeper.store import Store
from cloister.node.clock import ManualClock
from cloister.node.config import parse_config
from support.gatekeepers import genesis_of, policy

B32 = b"\7" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def test_blobs_survive_reopening(path: Path) -> None:
    store = Store(path)
    store.put("a", b"1")
    store.put("a", b"2")
    store.close()
    assert Store(path).get("a") == b"2"
    assert Store(path).get("b") is None


def test_an_erased_blob_leaves_no_bytes_in_the_files(path: Path) -> None:
    store = Store(path)
    secret = bytes(range(64)) * 4
    store.put("secret", secret)
    store.erase("secret")
    assert store.get("secret") is None
    store.close()
    for file in path.parent.iterdir():
        assert secret[:64] not in file.read_bytes()


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\0" + bytes(200)])
def test_a_damaged_file_is_refused_by_name(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(CloisterError) as caught:
        Store(path)
    assert caught.value.code == "gatekeeper.store"


def test_a_file_of_another_format_is_refused(path: Path) -> None:
    store = Store(path)
    store.put("version", b"\x63")
    store.close()
    with pytest.raises(CloisterError):
        Store(path)


def point(number: int) -> Checkpoint:
    return Checkpoint(1, 31337, number, B32, B32, 1_700_000_000)


def test_a_second_checkpoint_of_a_height_cannot_be_written(path: Path) -> None:
    store = Store(path)
    store.add_checkpoints([(point(1), b"s"), (point(2), b"s")])
    with pytest.raises(apsw.ConstraintError):
        store.add_checkpoints([(point(3), b"s"), (point(2), b"t")])
    assert [c.number for c, _ in store.checkpoints()] == [1, 2], "all or nothing"


def lease(**changes: Any) -> Lease:
    base = Lease(1, B32, B32, B32, B32, 1, 1, 1, 0, b"\4" * 20, B32, 10, 600)
    return dataclasses.replace(base, **changes)


def test_grants_count_per_worker_and_term(path: Path) -> None:
    store = Store(path)
    worker, other = b"\4" * 20, b"\5" * 20
    for agent in (b"\1" * 32, b"\2" * 32):
        store.record_grant(lease(agent=agent))
    store.record_grant(lease(agent=b"\1" * 32, agent_epoch=2, checkpoint=11))
    assert store.ledger(1, worker, b"\1" * 32) == Ledger(frozenset({b"\1" * 32, b"\2" * 32}), (2, 1, 1))
    assert store.ledger(2, worker, b"\1" * 32).held == frozenset()
    assert store.ledger(1, other, b"\2" * 32) == Ledger(frozenset(), (1, 1, 1))
    newest = store.granted(1, worker, b"\1" * 32)
    assert newest is not None
    assert newest.agent_epoch == 2
    assert store.granted(1, other, b"\1" * 32) is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
def test_floors_only_rise(tmp_path: Path, epochs: list[tuple[int, int, int]]) -> None:
    store = Store(tmp_path / "floor.db")
    store._db.execute("DELETE FROM floors; DELETE FROM grants")
    low = (0, 0, 0)
    for number, (agent, cluster, master) in enumerate(epochs):
        store.record_grant(lease(agent_epoch=agent, cluster_epoch=cluster, master_epoch=master, checkpoint=number))
        floor = store.ledger(1, b"\4" * 20, B32).floor
        assert floor[:2] >= low[:2], "the cluster's epoch counts within one epoch of the agent"
        assert floor[2] >= low[2]
        low = floor
    assert low == (*max(e[:2] for e in epochs), max(e[2] for e in epochs))
    store.close()


def test_the_newest_head_of_an_agent_is_kept_with_its_epochs_and_loads_as_a_table(path: Path) -> None:
    store = Store(path)
    for epoch in (1, 2, 3):
        store.put_heads([(B32, Head(Epochs(epoch, 4, 5, b"\6" * 32), epoch * 10, b"\1" * 32, b"\2" * 32))])
    rows = store.head_rows()
    found = [(r["agent_epoch"], r["cluster_epoch"], r["master_epoch"], r["cluster"], r["height"]) for r in rows]
    assert found == [(3, 4, 5, "0x" + "06" * 32, 30)]
    table = HeadTable.from_json({"version": 1, "heads": rows})
    assert table.to_json()["heads"] == rows
    assert not table.merged


# The audit log.


def test_lines_chain_and_survive_reopening(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    log = AuditLog(file)
    log.append("keys", worker="0x01", outcome="granted")
    head = log.append("keys", worker="0x02", outcome="policy.paused")
    log.close()
    again = AuditLog(file)
    assert (again.count, again.head) == (2, head)
    again.append("admission", outcome="admitted")
    again.close()
    assert [json.loads(line)["n"] for line in file.read_text().splitlines()] == [0, 1, 2]
    assert AuditLog(file).count == 3


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    log = AuditLog(file)
    log.append("keys", outcome="granted")
    log.close()
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"n":1,"pre')
    again = AuditLog(file)
    again.append("keys", outcome="granted")
    again.close()
    assert AuditLog(file).count == 2


@pytest.mark.parametrize("position", range(0, 200, 7))
def test_a_flipped_byte_shows(tmp_path: Path, position: int) -> None:
    file = tmp_path / "audit.log"
    log = AuditLog(file)
    for outcome in ("granted", "policy.paused", "granted"):
        log.append("keys", outcome=outcome)
    log.close()
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(CloisterError) as caught:
        AuditLog(file)
    assert caught.value.code == "gatekeeper.audit"


def test_a_line_taken_out_or_moved_shows(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    log = AuditLog(file)
    for outcome in ("a", "b", "c"):
        log.append("keys", outcome=outcome)
    log.close()
    lines = file.read_bytes().splitlines(keepends=True)
    for broken in (lines[1:], [lines[0], lines[2]], [lines[1], lines[0], lines[2]]):
        file.write_bytes(b"".join(broken))
        with pytest.raises(CloisterError):
            AuditLog(file)


@given(st.binary(max_size=300))
def test_garbage_is_no_line(data: bytes) -> None:
    with pytest.raises(CloisterError):
        verify_line(data, 0, bytes(32))


# The rate limit.


def test_a_burst_then_a_rate() -> None:
    clock = ManualClock()
    limit = RateLimit(per_s=2, burst=3, clock=clock.monotonic)
    me = ("10.0.0.1", b"me")
    for _ in range(3):
        limit.take(me)
    with pytest.raises(CloisterError) as caught:
        limit.take(me)
    assert (caught.value.code, caught.value.status) == ("gatekeeper.rate", 429)
    limit.take(("10.0.0.2", b"me"))
    clock.advance(0.5)
    limit.take(me)
    with pytest.raises(CloisterError):
        limit.take(me)


def test_memory_is_bounded() -> None:
    clock = ManualClock()
    limit = RateLimit(per_s=1, burst=1, clock=clock.monotonic, askers=10)
    for number in range(100):
        limit.take(("10.0.0.1", number.to_bytes(4, "big")))
    assert len(limit._buckets) == 10


@given(st.lists(st.floats(0, 3), max_size=40))
def test_never_more_than_burst_plus_rate(steps: list[float]) -> None:
    clock = ManualClock()
    limit = RateLimit(per_s=2, burst=3, clock=clock.monotonic)
    allowed = 0
    for step in steps:
        clock.advance(step)
        try:
            limit.take(("a", b""))
        except CloisterError:
            continue
        allowed += 1
    assert allowed <= 3 + 2 * sum(steps) + 1e-6


# The settings.


def plain(tmp_path: Path, **changes: Any) -> bytes:
    base = {
        "data": str(tmp_path / "data"),
        "listen": "127.0.0.1:0",
        "rpc": ["http://127.0.0.1:8545"],
        "genesis": str(tmp_path / "genesis.json"),
        "operator": "0x" + "01" * 20,
        "endpoint": "http://127.0.0.1:8701",
        "machine": {},
    }
    return json.dumps({**base, **changes}).encode()


def config(tmp_path: Path, **changes: Any) -> GatekeeperConfig:
    return parse_config(plain(tmp_path, **changes), GatekeeperConfig)


def test_settings_and_genesis_are_read(tmp_path: Path) -> None:
    genesis = genesis_of(policy())
    (tmp_path / "genesis.json").write_bytes(jcs.encode(genesis.to_json()))
    read = config(tmp_path)
    assert read.address() == ("127.0.0.1", 0)
    assert read.quorum() == 1
    found, rules = read.load_genesis()
    assert found.genesis_id() == genesis.genesis_id()
    assert rules.hash() == genesis.policy_hash()


@pytest.mark.parametrize("listen", ["", "8701", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", ":1"])
def test_a_bad_listen_address_is_named(tmp_path: Path, listen: str) -> None:
    with pytest.raises(CloisterError) as caught:
        config(tmp_path, listen=listen).address()
    assert caught.value.code == "gatekeeper.listen"


BAD_GENESIS: dict[str, dict[str, Any]] = {
    "another header verifier": {"header_verifier": "light-client"},
    "a production file with devnet roots": {"mode": "production"},
    "a broken policy": {"policy": {}},
}


@pytest.mark.parametrize("case", BAD_GENESIS)
def test_a_genesis_file_is_refused_with(tmp_path: Path, case: str) -> None:
    body = {**genesis_of(policy()).to_json(), **BAD_GENESIS[case]}
    (tmp_path / "genesis.json").write_bytes(jcs.encode(body))
    with pytest.raises(CloisterError):
        config(tmp_path).load_genesis()


def test_a_missing_genesis_file_and_too_few_endpoints_are_named(tmp_path: Path) -> None:
    for refused in (
        config(tmp_path).load_genesis,
        config(tmp_path, rpc_quorum=2).quorum,
        config(tmp_path, rpc=[]).quorum,
    ):
        with pytest.raises(CloisterError) as caught:
            refused()
        assert caught.value.code == "gatekeeper.genesis"

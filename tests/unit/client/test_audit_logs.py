"""Copies of audit logs: whole ones are counted, and the first line that somebody touched is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.client.auditing import MAX_NAMES, Audit, _take, exposed, read_audit
from cloister.client.client import Client
from cloister.core.chainview.records import AgentRecord, UpgradeMode
from cloister.core.encoding import jcs
from cloister.core.encoding.audit import MAX_LINE, read_line, verify_line
from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import CloisterError
from cloister.gatekeeper.audit import AuditLog

WORKER, OTHER, AGENT = "0x" + "aa" * 20, "0x" + "bb" * 20, "0x" + "cc" * 32


def write(path: Path, times: int = 3) -> bytes:
    """A member's log; returns the newest hash."""
    log = AuditLog(path)
    for _ in range(times):
        log.append("keys", worker=WORKER, agent=AGENT, outcome="granted", checkpoint="5")
        log.append("keys", worker=OTHER, agent=AGENT, outcome="policy.not_placed")
    log.append("admission", worker=OTHER, operator=WORKER, outcome="admitted", expiry="9")
    log.append("anchor lease", worker=OTHER[2:], agent=AGENT[2:])
    log.close()
    return log.head


@pytest.fixture
def log(tmp_path: Path) -> Path:
    write(tmp_path / "audit.log")
    return tmp_path / "audit.log"


def test_a_whole_log_is_counted_by_worker_agent_and_outcome(tmp_path: Path) -> None:
    head = write(tmp_path / "a.log")
    found = read_audit(tmp_path / "a.log", head)
    found.require(head)
    assert (found.lines, found.head, found.bad, found.torn) == (8, head, None, False)
    assert found.rows() == [
        {"what": "keys", "worker": WORKER, "agent": AGENT, "outcome": "granted", "times": 3},
        {"what": "admission", "worker": OTHER, "agent": "", "outcome": "admitted", "times": 1},
        {"what": "anchor lease", "worker": OTHER, "agent": AGENT, "outcome": "answered", "times": 1},
        {"what": "keys", "worker": OTHER, "agent": AGENT, "outcome": "policy.not_placed", "times": 3},
    ]
    assert found.to_json()["first_bad_line"] is None


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


TOUCHED: dict[str, tuple[Callable[[list[bytes]], list[bytes]], int]] = {
    "a changed outcome shows at the next line": (
        lambda n: [*n[:1], n[1].replace(b"not_placed", b"granted "), *n[2:]],
        3,
    ),
    "a line left out": (lambda n: [*n[:2], *n[3:]], 3),
    "two lines exchanged": (lambda n: [n[1], n[0], *n[2:]], 1),
    "a line twice": (lambda n: [*n[:4], n[3], *n[4:]], 5),
    "a line that is no JSON": (lambda n: [*n[:5], b"{\n", *n[5:]], 6),
    "an empty line": (lambda n: [b"\n", *n], 1),
    "a line longer than any is": (lambda n: [*n, b'"' + b"x" * (2 * MAX_LINE) + b'"\n'], 9),
    "a long line without an end": (lambda n: [*n, b"x" * (2 * MAX_LINE)], 9),
    "the beginning cut off": (lambda n: n[3:], 1),
}


@pytest.mark.parametrize("sentence", TOUCHED)
def test_the_first_bad_line_is_named(log: Path, sentence: str) -> None:
    touch, line = TOUCHED[sentence]
    log.write_bytes(b"".join(touch(lines_of(log))))
    found = read_audit(log)
    assert found.to_json()["first_bad_line"] == line
    assert found.lines == line - 1
    with pytest.raises(CloisterError) as caught:
        found.require()
    assert caught.value.code == "gatekeeper.audit"
    assert f"line {line} of the file" in caught.value.found


def test_a_torn_last_line_is_a_crash_and_no_lie(log: Path) -> None:
    log.write_bytes(log.read_bytes()[:-20])
    found = read_audit(log)
    found.require()
    assert (found.lines, found.torn) == (7, True)


def test_a_cut_end_shows_by_a_hash_that_was_noted(log: Path) -> None:
    whole = read_audit(log).head
    first = read_line(lines_of(log)[0][:-1], 0, bytes(32))[1]
    log.write_bytes(b"".join(lines_of(log)[:5]))
    read_audit(log, first).require(first)
    with pytest.raises(CloisterError) as caught:
        read_audit(log, whole).require(whole)
    assert caught.value.code == "client.audit_cut"


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(CloisterError) as caught:
            read_audit(path)
        assert caught.value.code == "client.audit_file"


@given(st.binary(max_size=300))
def test_garbage_is_never_a_line(data: bytes) -> None:
    with pytest.raises(CloisterError):
        verify_line(data, 1, bytes(32))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "audit.log"
    write(path, 1)
    return path


@settings(deadline=None)
@given(at=st.integers(min_value=0), flip=st.integers(min_value=1, max_value=255))
def test_any_flipped_byte_is_found_or_is_in_the_last_line(whole: Path, at: int, flip: int) -> None:
    data = bytearray(whole.read_bytes())
    at %= len(data)
    data[at] ^= flip
    path = whole.parent / "flipped.log"
    path.write_bytes(data)
    found = read_audit(path)
    last = len(data) - len(lines_of(whole)[-1])
    assert found.bad is not None or found.torn or at >= last


def test_names_do_not_grow_without_end() -> None:
    """A log of strangers' names keeps a bounded table: the rest is counted together."""
    audit, head = Audit(), bytes(32)
    audit.answers.update({("keys", str(i), "", "granted"): 1 for i in range(MAX_NAMES)})
    _take(audit, jcs.encode({"n": 0, "prev": to_hex(head), "what": "keys", "worker": WORKER}) + b"\n", None)
    assert len(audit.answers) == MAX_NAMES + 1
    assert audit.answers["keys", "others", "others", "answered"] == 1


# --- what a removed worker could read ---


def agent_record(name: int, owner: int, secrets_epoch: int) -> AgentRecord:
    """An agent whose secrets were set under an epoch; 0: none are set."""
    kept = bytes([9] * 32) if secrets_epoch else bytes(32)
    return AgentRecord(
        bytes([name]) * 32, name, bytes([owner]) * 20, bytes(20), 7, False, bytes(32), bytes(32), bytes(32),
        UpgradeMode.INSTANT, 0, kept, 3, bytes(20), secrets_epoch, bytes(20),
    )  # fmt: skip


class Chain:
    """As much of a client as is asked: agents by proof."""

    records: ClassVar[dict[bytes, AgentRecord]] = {
        bytes([n]) * 32: agent_record(n, owner, secrets) for n, owner, secrets in ((1, 2, 4), (2, 1, 5), (3, 1, 0))
    }

    @property
    def resolver(self) -> Chain:
        return self

    async def record(self, agent: bytes) -> AgentRecord:
        return self.records[agent]


async def test_owners_learn_which_credentials_a_removed_worker_could_read(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "a.log")
    for name, epochs in ((1, (3, 4)), (2, (4, 2)), (3, (1,))):
        for epoch in epochs:
            log.append("keys", worker=WORKER, agent=to_hex(bytes([name]) * 32), outcome="granted", epoch=str(epoch))
    log.append("keys", worker=WORKER, agent=to_hex(bytes([4]) * 32), outcome="policy.not_placed")
    log.append("keys", worker=OTHER, agent=to_hex(bytes([5]) * 32), outcome="granted", epoch="1")
    log.append("keys", worker=WORKER, agent=to_hex(bytes([1]) * 32), outcome="granted", epoch="-9")
    log.close()
    rows = await exposed(cast(Client, Chain()), read_audit(tmp_path / "a.log"), bytes.fromhex(WORKER[2:]))
    said = [(row["owner"][:4], row["token_id"], row["leased_epoch"], row["credentials"]) for row in rows]
    assert said == [("0x01", 2, 4, "replaced"), ("0x01", 3, 1, "none"), ("0x02", 1, 4, "replace")]
    assert await exposed(cast(Client, Chain()), read_audit(tmp_path / "a.log"), b"\x77" * 20) == []

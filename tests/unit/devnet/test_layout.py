"""Devnet folders: private files, ports that stay."""

from __future__ import annotations

import stat
from pathlib import Path

from cloister.devnet.doctor import machine
from cloister.devnet.layout import GATEKEEPERS, THRESHOLD, WORKERS, Layout, free_ports, write_private


def test_ports_are_distinct_and_kept(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.prepare()
    ports = layout.ports()
    assert len(set(ports.values())) == len(ports)
    assert Layout(tmp_path).ports() == ports
    assert len(set(free_ports(20))) == 20


def test_keys_are_private_and_kept(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    key = layout.secret_key("owner")
    assert len(key) == 32
    assert layout.secret_key("owner") == key
    assert layout.secret_key("deployer") != key
    assert stat.S_IMODE((tmp_path / "owner.key").stat().st_mode) == 0o600


def test_writes_are_atomic_and_private(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_private(file, b"one")
    write_private(file, b"two")
    assert file.read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_devnet_committee_obeys_the_seat_rule() -> None:
    n = len(GATEKEEPERS)
    kinds = [kind for _, kind in GATEKEEPERS]
    assert max(kinds.count(k) for k in kinds) <= min(THRESHOLD - 1, n - THRESHOLD)
    assert len(set(kinds)) >= 3
    assert [kind for _, kind in WORKERS] == ["tdx", "snp", "nitro", "tpm"]


def test_the_doctor_gives_a_hint_for_every_failure(tmp_path: Path) -> None:
    rows = machine(tmp_path)
    assert {"python", "disk", "loopback ports"} <= {row["name"] for row in rows}
    assert all(row["ok"] or row["hint"] for row in rows)

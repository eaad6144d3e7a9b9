"""The command line of an agent's process: every wall is in it, no secret is."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.core.policy.egress import parse_rules
from cloister.sandbox import limits
from cloister.sandbox.deno.command import Plan, command, permissions
from cloister.sandbox.limits import V8_BASE_MB, fresh_uid
from cloister.sandbox.machine import Tools
from cloister.sandbox.ports import Limits

TOOLS = Tools(Path("/bin/bwrap"), Path("/bin/prlimit"), Path("/opt/deno"), (Path("/lib/libc.so.6"),))
PLAN = Plan(
    deno="/stage/deno",
    harness="/stage/harness.js",
    bundle="/stage/agent.js",
    cache="/stage/cache",
    limits=Limits(memory_mb=100, heap_mb=32),
    uid=1_100_000_000,
    rules=parse_rules(["api.example", "*.wild.example:8443"]),
    socket="/stage/s.sock",
)


def line(plan: Plan = PLAN) -> list[str]:
    return command(TOOLS, plan, seccomp_fd=7, info_fd=8)


def pairs(argv: list[str], option: str) -> dict[str, str]:
    return {argv[i + 2]: argv[i + 1] for i, word in enumerate(argv) if word == option}


def test_limits_come_first_so_that_everything_inherits_them() -> None:
    argv = line()
    assert argv[0] == "/bin/prlimit"
    assert argv.index("--") < argv.index("/bin/bwrap") < argv.index("/deno")
    assert f"--data={(V8_BASE_MB + 100) << 20}" in argv
    assert {"--core=0", "--nofile=256"} <= set(argv)
    assert "--v8-flags=--max-old-space-size=32,--max-semi-space-size=4" in argv


def test_every_namespace_is_new_and_no_capability_is_left() -> None:
    argv = line()
    walls = {"--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent", "--as-pid-1"}
    assert walls | {"--new-session", "--clearenv"} <= set(argv)
    assert argv[argv.index("--cap-drop") + 1] == "ALL"
    assert (argv[argv.index("--seccomp") + 1], argv[argv.index("--info-fd") + 1]) == ("7", "8")


def test_the_network_is_the_workers_or_an_empty_one() -> None:
    assert "--unshare-net" not in line(), "as root the worker has put it into a namespace of its own"
    assert "--unshare-net" in line(replace(PLAN, uid=None, bridge="/stage/p.sock"))
    assert "--unshare-net" in line(replace(PLAN, uid=None))


def test_what_is_mounted_is_read_only() -> None:
    argv = line()
    assert pairs(argv, "--ro-bind") == {
        "/lib/libc.so.6": "/lib/libc.so.6",
        "/deno": "/stage/deno",
        "/h/harness.js": "/stage/harness.js",
        "/agent/agent.js": "/stage/agent.js",
        "/run/a/s.sock": "/stage/s.sock",
        "/cache": "/stage/cache",
    }
    assert pairs(argv, "--bind") == {}
    assert [argv[i + 1] for i, word in enumerate(argv) if word == "--remount-ro"] == ["/dev", "/"]


def test_only_a_warm_up_writes_its_cache_and_it_has_no_socket_and_no_network() -> None:
    warm = replace(PLAN, socket=None, rules=())
    argv = line(warm)
    assert pairs(argv, "--bind") == {"/cache": "/stage/cache"}
    assert "/run/a/s.sock" not in " ".join(argv)
    assert permissions(warm) == ["--allow-env", "--allow-read=/agent"]
    assert argv[-1] == "warm"
    assert any(word.startswith("--cpu=") for word in argv)
    assert not any(word.startswith("--cpu=") for word in line())


def test_denos_wall_names_the_manifests_hosts_and_one_socket() -> None:
    assert permissions(PLAN) == [
        "--allow-env",
        "--allow-net=api.example:443,*.wild.example:8443,unix:/run/a/s.sock",
        "--allow-read=/agent,/run/a/s.sock",
        "--allow-write=/run/a/s.sock",
    ]
    bridged = permissions(replace(PLAN, bridge="/stage/p.sock"))
    assert "127.0.0.1:3128" in bridged[1]
    assert "unix:/run/a/p.sock" in bridged[1]


def test_the_environment_is_the_sandboxs_own() -> None:
    names = {line()[i + 1] for i, word in enumerate(line()) if word == "--setenv"}
    assert names == {"DENO_DIR", "DENO_NO_UPDATE_CHECK", "HTTPS_PROXY", "HTTP_PROXY"}
    with_ca = line(replace(PLAN, extra_ca="/stage/ca.pem"))
    assert with_ca[with_ca.index("DENO_CERT") + 1] == "/ca.pem"
    assert pairs(with_ca, "--ro-bind")["/ca.pem"] == "/stage/ca.pem"


def test_processes_are_counted_only_where_the_agent_has_its_own_user() -> None:
    assert any(word.startswith("--nproc=") for word in line())
    assert not any(word.startswith("--nproc=") for word in line(replace(PLAN, uid=None)))


@pytest.mark.parametrize(
    ("mapped", "low", "high"), [(1 << 32, 0x4000_0000, 0x5000_0000), (65536, 20_000, 60_000), (1000, None, None)]
)
def test_user_ids_are_fresh_and_within_what_is_mapped(
    monkeypatch: pytest.MonkeyPatch, mapped: int, low: int | None, high: int | None
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(limits, "_mapped_ids", lambda: mapped)
    drawn = {fresh_uid() for _ in range(50)}
    if low is None or high is None:
        assert drawn == {None}
    else:
        assert len(drawn) > 40
        assert all(uid is not None and low <= uid < high for uid in drawn)


def test_without_root_there_is_no_other_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert fresh_uid() is None

"""Refusals on the terminal: one ``error:`` line with its code, one ``hint:`` line, nothing on stdout, exit code 1."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.cli.project import new_project
from cloister.client import Wallet
from cloister.core.chainview.records import UpgradeMode
from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import REGISTRY
from support.fake_world import STRANGERS, fresh

Prepare = Callable[[Any], None]


def nothing(net: Any) -> None:
    pass


def paused(net: Any) -> None:
    net.world.paused_now.add(net.agent)


def instant(net: Any) -> None:
    net.world.set_agent(upgrade_mode=UpgradeMode.INSTANT, upgrade_delay=0)
    net.world.mine()
    net.gateway.offer(net.agent)


def no_seats(net: Any) -> None:
    net.gateway.seats = {}


def strangers(net: Any) -> None:
    net.gateway.offer(net.agent, members=STRANGERS[:3])


def stale(net: Any) -> None:
    net.world.now -= 10_000
    net.world.mine()


def spoiled(net: Any) -> None:
    for worker in net.workers:
        worker.spoil = lambda data: data[:-1] + bytes([data[-1] ^ 1])


def garbage(net: Any) -> None:
    net.gateway.network = b"{}"


def with_wallet(net: Any) -> None:
    Wallet.create("alice", "words", home=net.home, cost=1 << 8)


REFUSALS: dict[str, tuple[Prepare, tuple[str, ...], str]] = {
    "an agent that does not exist": (nothing, ("call", "9"), "policy.agent_unknown"),
    "an agent's name that is none": (nothing, ("call", "hello"), "encoding.hex"),
    "a paused agent": (paused, ("call", "1"), "policy.paused"),
    "an owner who may swap the code": (instant, ("call", "1"), "client.demand_upgrade"),
    "nobody holds the agent": (no_seats, ("call", "1"), "client.no_seat"),
    "seats that strangers signed": (strangers, ("call", "1"), "encoding.signature"),
    "a checkpoint of hours ago": (stale, ("agent", "list"), "chainview.stale"),
    "another vendor than demanded": (nothing, ("call", "1", "--vendor", "aws"), "client.demand_worker"),
    "other code than pinned": (nothing, ("call", "1", "--code-hash", "0x" + "00" * 32), "client.demand_code"),
    "a pin that is no hash": (nothing, ("call", "1", "--code-hash", "0x00"), "encoding.hex"),
    "a header without a colon": (nothing, ("call", "1", "-H", "Accept"), "cli.header"),
    "a header without a name": (nothing, ("call", "1", "-H", ": x"), "cli.header"),
    "a header with a line break in it": (nothing, ("call", "1", "-H", "A: b\nC: d"), "envelope.head"),
    "a path that does not begin with a slash": (nothing, ("call", "1", "notes"), "envelope.head"),
    "a body from a file that is not there": (nothing, ("call", "1", "-d", "@/no/such/file"), "client.file"),
    "an answer that was altered": (spoiled, ("call", "1", "-d", "x"), "client.outcome_unknown"),
    "a network file that is none": (garbage, ("verify", "network"), "encoding.fingerprint"),
    "a wallet that is not there": (nothing, ("call", "1", "--wallet", "bob"), "client.wallet_unknown"),
    "a wallet's name that is a path": (nothing, ("call", "1", "--wallet", "../x"), "client.bad_name"),
    "no wallet where one signs": (nothing, ("agent", "pause", "1"), "cli.no_wallet"),
    "no wallet where one owns": (nothing, ("agent", "list", "--mine"), "cli.no_wallet"),
    "a wrong passphrase": (with_wallet, ("call", "1", "--wallet", "alice"), "seal.passphrase"),
    "a receipt that was not kept": (nothing, ("verify", "receipt", "0x" + "11" * 32), "client.receipt_unknown"),
    "a receipt's prefix that is too short": (nothing, ("receipts", "0x1111"), "client.receipt_unknown"),
    "a receipt's name that is none": (nothing, ("receipts", "mine"), "encoding.hex"),
    "a worker's address that is none": (nothing, ("verify", "worker", "0x11"), "encoding.hex"),
    "an agent filter that is none": (nothing, ("receipts", "--agent", "1"), "encoding.hex"),
    "secrets of an agent that does not exist": (nothing, ("agent", "secrets", "list", "9"), "policy.agent_unknown"),
}


@pytest.mark.parametrize("sentence", REFUSALS)
def test_a_refusal_is_two_lines_and_exit_code_one(sentence: str, run: Any, request: pytest.FixtureRequest) -> None:
    prepare, words, code = REFUSALS[sentence]
    net = request.getfixturevalue("shared_net" if prepare is nothing else "cli_net")
    prepare(net)
    result = run(*words, net=net, input="not the passphrase\n")
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    error, hint = lines[-2:]
    assert error.startswith("error: ")
    assert error.endswith(f"({code})"), error
    assert hint == f"hint: {REGISTRY[code].remedy}"
    assert REGISTRY[code].check in error
    assert "Traceback" not in result.output


BAD_PROJECTS: dict[str, tuple[tuple[str, ...], str]] = {
    "a folder without a source": (("agent", "build", "{empty}"), "build.entry"),
    "a folder that is not there": (("agent", "build", "{empty}/none"), "build.entry"),
    "source that does not parse": (("agent", "build", "{broken}"), "build.failed"),
    "a manifest with an unknown field": (("agent", "build", "{strange}"), "manifest.field"),
    "a template that is not there": (("agent", "new", "x", "--template", "huge"), "cli.template"),
    "an agent whose folder exists": (("agent", "new", "taken", "--into", "{into}"), "cli.folder_exists"),
    "an agent's name that is a path": (("agent", "new", "../x"), "client.bad_name"),
}


@pytest.mark.parametrize("sentence", BAD_PROJECTS)
def test_a_project_that_cannot_be_built_is_refused_by_name(sentence: str, run: Any, tmp_path: Path) -> None:
    words, code = BAD_PROJECTS[sentence]
    for name, files in {
        "empty": {},
        "broken": {"agent.ts": "export default {"},
        "strange": {"agent.ts": "export default 1;", "cloister.json": '{"cpu": 9}'},
    }.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
    new_project("taken", "minimal", tmp_path)
    places = {name: str(tmp_path / name) for name in ("empty", "broken", "strange")} | {"into": str(tmp_path)}
    result = run(*(word.format(**places) for word in words))
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"({code})" in result.stderr


def test_json_does_not_change_how_a_refusal_looks(run: Any, cli_net: Any) -> None:
    result = run("call", "9", "--json", net=cli_net)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "(policy.agent_unknown)" in result.stderr


def test_a_report_that_fails_is_a_document_and_exit_code_one(run: Any, cli_net: Any) -> None:
    """A failing verification is a result, so it is on stdout; its hint is on stderr."""
    paused(cli_net)
    result = run("verify", "agent", "1", "--json", net=cli_net)
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert [s["code"] for s in report["steps"] if not s["ok"]] == ["policy.paused", "policy.paused"]
    text = run("verify", "agent", "1", net=cli_net)
    assert text.stdout.count("refused") == 2
    assert text.stderr.splitlines()[-1] == f"hint: {REGISTRY['policy.paused'].remedy}"


def test_devnet_json_that_is_broken_is_named(run: Any, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for text in ("", "[]", '{"gateway": '):
        (home / "devnet.json").write_text(text)
        assert "(client.file)" in run("agent", "list").stderr
    for value in ({}, {"gateway": 7}, {"gateway": ""}):
        (home / "devnet.json").write_text(json.dumps(value))
        assert "(cli.no_gateway)" in run("agent", "list").stderr


def test_a_gateway_cannot_write_on_the_terminal(run: Any, cli_net: Any) -> None:
    """Texts of a stranger's error are printed as text: no colours, no links, no lines that look like ours."""
    from cloister.core.errors import from_wire

    def refuse() -> Any:
        raise from_wire(
            {
                "code": "gateway.no_worker",
                "check": "[red]x[/red]",
                "expected": "\x1b]8;;http://evil\x07",
                "found": "[link=http://evil]click[/link]",
                "remedy": "rm -rf /\nerror: all is lost",
            },
            status=503,
        )

    cli_net.gateway.checkpoint = refuse
    result = run("agent", "list", net=cli_net)
    assert result.exit_code == 1
    assert "\x1b" not in result.output
    assert "[red]x[/red]" in result.stderr
    assert "[link=http://evil]click[/link]" in result.stderr
    assert not [line for line in result.stderr.splitlines() if line.startswith("error: all is lost")]


def test_an_unknown_agent_is_named_in_full(run: Any, cli_net: Any) -> None:
    name = to_hex(fresh())
    assert name in run("agent", "show", name, net=cli_net).stderr

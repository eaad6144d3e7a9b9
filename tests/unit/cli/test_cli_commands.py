"""Commands against a fake network of the real formats: scripted, with their output."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cloister.cli.project import TEMPLATES, new_project
from cloister.client import Wallet
from cloister.core.chainview.records import UpgradeMode
from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import CloisterError
from support import fake_world
from support.fake_world import STRANGERS

FAST = 1 << 8


def ok(result: Any) -> Any:
    assert result.exit_code == 0, result.output
    return result


# --- calls and receipts ---


def test_call_prints_the_answer_and_names_the_receipt(run: Any, cli_net: Any) -> None:
    result = ok(run("call", "1", "/x?y=1", net=cli_net))
    assert json.loads(result.stdout)["path"] == "/x?y=1"
    assert "200 from " in result.stderr
    assert "receipt 0x" in result.stderr


def test_call_with_data_is_a_post(run: Any, cli_net: Any, tmp_path: Path) -> None:
    (tmp_path / "body").write_text("from a file")
    for given, expected in (("text", "text"), (f"@{tmp_path / 'body'}", "from a file"), ("@-", "from a pipe")):
        result = ok(run("call", to_hex(cli_net.agent), "/", "-d", given, net=cli_net, input="from a pipe"))
        said = json.loads(result.stdout)
        assert (said["method"], said["body"]) == ("POST", expected)
    result = ok(run("agent", "call", "1", "/", "-X", "put", "-d", "x", "-H", "A: b", net=cli_net))
    assert json.loads(result.stdout)["method"] == "PUT"
    heads = [r.head.headers for w in cli_net.workers for r in w.ran]
    assert (("a", "b"),) in heads


def test_call_may_ask_several_workers_and_wants_one_answer(run: Any, cli_net: Any) -> None:
    result = ok(run("call", "1", "/x", "--agree", "2", net=cli_net))
    assert json.loads(result.stdout)["path"] == "/x"
    assert result.stderr.count("receipt 0x") == 2
    shown = json.loads(ok(run("call", "1", "/x", "--agree", "2", "--json", net=cli_net)).stdout)
    assert shown["vendors"] == ["amd", "intel"]
    assert len({reply["receipt"] for reply in shown["replies"]}) == 2
    cli_net.workers[0].handler = lambda request: (200, (), [b"a lie"])
    refused = run("call", "1", "/x", "--agree", "2", net=cli_net)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "client.disagree" in refused.stderr
    few = run("call", "1", "/x", "--agree", "3", net=cli_net)
    assert (few.exit_code, "client.too_few_to_agree" in few.stderr) == (1, True)
    assert run("call", "1", "/x", "--agree", "2", "-d", "x", net=cli_net).exit_code == 2


def test_call_as_json_and_as_stream(run: Any, cli_net: Any) -> None:
    facts = json.loads(ok(run("call", "1", "--json", net=cli_net)).stdout)
    assert facts["status"] == 200
    assert facts["proof"]["vendor"] in ("intel", "amd")
    assert facts["receipt"] == facts["proof"]["receipt_id"]
    result = ok(run("call", "1", "/s", "--stream", net=cli_net))
    assert json.loads(result.stdout)["path"] == "/s"
    assert "200, receipt 0x" in result.stderr


def test_what_the_agent_refuses_exits_with_22(run: Any, cli_net: Any) -> None:
    for worker in cli_net.workers:
        worker.handler = lambda r: (404, (), [b"no such note"])
    result = run("call", "1", net=cli_net)
    assert (result.exit_code, result.stdout) == (22, "no such note")


def test_a_lost_post_says_what_to_do(run: Any, cli_net: Any) -> None:
    for worker in cli_net.workers:
        worker.spoil = lambda d: d[:-1]
    result = run("call", "1", "-d", "x", net=cli_net)
    assert result.exit_code == 1
    assert "(client.outcome_unknown)" in result.stderr
    assert "hint: ask the agent what happened, or repeat with an idempotency key" in result.stderr
    assert result.stdout == ""


def test_bad_headers_files_and_agents(run: Any, cli_net: Any) -> None:
    for words, code in (
        (["call", "1", "-H", "nothing"], "cli.header"),
        (["call", "1", "-d", "@/nothing/there"], "client.file"),
        (["call", "0x12"], "encoding.hex"),
        (["call", "77"], "policy.agent_unknown"),
        (["call", "1", "--vendor", "aws"], "client.demand_worker"),
        (["call", "1", "--code-hash", "0x" + "11" * 32], "client.demand_code"),
    ):
        result = run(*words, net=cli_net)
        assert result.exit_code == 1, words
        assert f"({code})" in result.stderr


def test_an_instant_agent_asks_for_a_word(run: Any, cli_net: Any) -> None:
    cli_net.world.set_agent(upgrade_mode=UpgradeMode.INSTANT, upgrade_delay=0)
    cli_net.world.mine()
    cli_net.gateway.offer(cli_net.agent)
    result = run("call", "1", net=cli_net)
    assert result.exit_code == 1
    assert "--allow-instant" in result.stderr
    ok(run("call", "1", "--allow-instant", net=cli_net))


def test_receipts_are_listed_shown_and_verified(run: Any, cli_net: Any) -> None:
    assert "no receipts kept" in ok(run("receipts")).stderr
    for i in range(3):
        ok(run("call", "1", f"/{i}", net=cli_net))
    rows = json.loads(ok(run("receipts", "--json")).stdout)
    assert len(rows) == 3
    assert len(json.loads(ok(run("receipts", "--limit", "2", "--json")).stdout)) == 2
    assert json.loads(ok(run("receipts", "--agent", "0x" + "00" * 32, "--json")).stdout) == []
    shown = ok(run("receipts", rows[0]["id"][:12])).stdout
    assert json.loads(json.loads(shown)["receipt"])["agent"] == to_hex(cli_net.agent)
    result = ok(run("verify", "receipt", rows[0]["id"][:12], net=cli_net))
    assert result.stdout.count(" ok ") == 5
    assert "does not prove that the answer is true" in result.stderr
    file = cli_net.home / "one.json"
    file.write_text(shown)
    ok(run("verify", "receipt", str(file), net=cli_net))
    assert "(client.receipt_unknown)" in run("verify", "receipt", "0x" + "11" * 8, net=cli_net).stderr


def test_a_receipt_is_saved_with_its_proof_and_verified_offline(run: Any, cli_net: Any, tmp_path: Path) -> None:
    ok(run("call", "1", "-d", "x", net=cli_net))
    (row,) = json.loads(ok(run("receipts", "--json")).stdout)
    worker = next(w for w in cli_net.gateway.workers if w.issued)
    cli_net.gateway.proofs[bytes.fromhex(row["id"][2:])] = worker.proof(bytes.fromhex(row["id"][2:]))
    saved, network = tmp_path / "saved.json", tmp_path / "network.json"
    ok(run("verify", "receipt", row["id"], "--save", str(saved), net=cli_net))
    assert "proof" in json.loads(saved.read_text())
    network.write_bytes(cli_net.gateway.network)
    told = ok(run("--network", str(network), "verify", "receipt", str(saved), "--offline"))
    assert "offline" in told.stderr
    refused = run("verify", "receipt", str(saved), "--offline")
    assert refused.exit_code == 1
    assert "(cli.no_network_file)" in refused.stderr
    spoilt = json.loads(saved.read_text())
    spoilt["proof"]["index"] += 1
    saved.write_text(json.dumps(spoilt))
    told = run("--network", str(network), "verify", "receipt", str(saved), "--offline")
    assert told.exit_code != 0


def test_a_wallet_calls_under_its_name(run: Any, cli_net: Any, tmp_path: Path) -> None:
    wallet = Wallet.create("alice", "words", home=cli_net.home, cost=FAST)
    (tmp_path / "p").write_text("words")
    with (tmp_path / "p").open() as stream:
        words = ["call", "1", "--wallet", "alice", "--passphrase-fd", str(stream.fileno())]
        result = ok(run(*words, net=cli_net))
    assert json.loads(result.stdout)["caller"] == to_hex(wallet.address)
    assert "(client.wallet_unknown)" in run("call", "1", "--wallet", "bob", net=cli_net).stderr
    assert "(seal.passphrase)" in run("call", "1", "--wallet", "alice", net=cli_net, input="wrong").stderr


# --- looking ---


def test_agents_are_listed_and_shown(run: Any, cli_net: Any) -> None:
    rows = json.loads(ok(run("agent", "list", "--json", net=cli_net)).stdout)
    assert [r["token_id"] for r in rows] == [1]
    assert to_hex(cli_net.agent)[:18] in ok(run("agent", "list", net=cli_net)).stdout
    facts = json.loads(ok(run("agent", "show", "1", "--json", net=cli_net)).stdout)
    assert {s["vendor"] for s in facts["seats"]} == {"intel", "amd"}
    assert "delay 10 blocks" in ok(run("agent", "show", "1", net=cli_net)).stdout
    assert "(cli.no_wallet)" in run("agent", "list", "--mine", net=cli_net).stderr


def test_the_gateways_status(run: Any, cli_net: Any) -> None:
    assert json.loads(ok(run("status", "--json", net=cli_net)).stdout)["workers"] == 2


def test_verify_prints_steps_and_exits_by_them(run: Any, cli_net: Any) -> None:
    result = ok(run("verify", "agent", "1", net=cli_net))
    assert result.stdout.count(" ok ") == 7
    cli_net.gateway.offer(cli_net.agent, members=STRANGERS[:3])
    result = run("verify", "agent", "1", net=cli_net)
    assert result.exit_code == 1
    assert "refused" in result.stdout
    assert "(encoding.signature)" in result.stdout
    assert "hint: " in result.stderr
    report = json.loads(run("verify", "agent", "1", "--json", net=cli_net).stdout)
    assert report["ok"] is False
    assert [s["code"] for s in report["steps"] if not s["ok"]] == ["encoding.signature"]
    ok(run("verify", "network", net=cli_net))
    assert "(encoding.hex)" in run("verify", "worker", "0x12", net=cli_net).stderr
    assert "(client.file)" in run("verify", "evidence", "/nothing", net=cli_net).stderr


# --- wallets ---


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cheap scrypt, so that the commands' own defaults do not take a second each."""
    from cloister.client import wallet

    real = wallet.encrypt_key
    monkeypatch.setattr(wallet, "encrypt_key", lambda key, words, rng, n: real(key, words, rng, FAST))


@pytest.mark.usefixtures("fast")
def test_wallets_are_made_imported_and_listed(run: Any, tmp_path: Path) -> None:
    assert "no wallets yet" in ok(run("wallet", "list")).stderr
    made = json.loads(ok(run("wallet", "new", "alice", "--json", input="words\n")).stdout)
    (tmp_path / "key").write_text("0x4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318\n")
    with (tmp_path / "key").open() as key:
        got = ok(run("wallet", "import", "bob", "--fd", str(key.fileno()), "--json", input="other"))
    bob = json.loads(got.stdout)
    assert bob["address"] == "0x2c7536E3605D9C16a7a3D7b1898e529396a65c23"
    assert json.loads(ok(run("wallet", "list", "--json")).stdout) == [made, bob]
    for words in (["new", "alice"], ["import", "bob"]):
        result = run("wallet", *words, input="words")
        assert "(client.wallet_exists)" in result.stderr
    assert "(client.bad_name)" in run("wallet", "new", "../x", input="words").stderr
    assert "(cli.no_secret)" in run("wallet", "new", "carol", input="").stderr
    home = Path(os.environ["CLOISTER_HOME"])
    assert b"4c0883a6" not in b"".join(p.read_bytes() for p in home.rglob("*.json"))


# --- projects ---


def test_a_new_agent_builds_and_says_its_hash(run: Any, tmp_path: Path) -> None:
    result = ok(run("agent", "new", "hello", "--into", str(tmp_path)))
    assert "next: cloister agent test" in result.stderr
    names = [".gitignore", "README.md", "agent.test.ts", "agent.ts", "cloister.json", "context.ts"]
    assert sorted(p.name for p in (tmp_path / "hello").iterdir()) == names
    assert "AGENT_NAME" not in (tmp_path / "hello" / "agent.ts").read_text()
    facts = json.loads(ok(run("agent", "build", str(tmp_path / "hello"), "--json")).stdout)
    assert facts["manifest"]["upgrade"] == {"rule": "delay", "blocks": 100}
    again = json.loads(ok(run("agent", "build", str(tmp_path / "hello"), "--json")).stdout)
    assert facts["code_hash"] == again["code_hash"]
    assert "(cli.folder_exists)" in run("agent", "new", "hello", "--into", str(tmp_path)).stderr
    assert "(cli.template)" in run("agent", "new", "x", "--template", "big", "--into", str(tmp_path)).stderr
    assert "(client.bad_name)" in run("agent", "new", "a/b", "--into", str(tmp_path)).stderr
    assert "(build.entry)" in run("agent", "build", str(tmp_path)).stderr


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_template_is_complete(template: str, tmp_path: Path) -> None:
    folder = new_project("one", template, tmp_path)
    assert (folder / "cloister.json").is_file()
    assert (folder / "README.md").read_text().startswith("# one")
    with pytest.raises(CloisterError):
        new_project("one", template, tmp_path)


def test_deploy_needs_a_wallet(run: Any, cli_net: Any, tmp_path: Path) -> None:
    folder = new_project("hello", "minimal", tmp_path)
    result = run("agent", "deploy", str(folder), net=cli_net)
    assert result.exit_code == 1
    assert "(cli.no_wallet)" in result.stderr


def test_the_world_of_these_tests_is_now() -> None:
    assert fake_world.NOW > 0

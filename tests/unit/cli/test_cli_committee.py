"""``cloister gatekeeper``, and the committee's layers of ``cloister keys rotate``: what is printed, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey

from cloister.chain.contracts import call, encode
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.client.home import write_private
from cloister.core.encoding.handover import MasterRotation
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.identity import Epochs
from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.keys.keystore import encrypt_key
from cloister.core.state.rows import Head
from cloister.gatekeeper.audit import AuditLog
from support.anvil import TestChain
from support.committee_town import Town, committee_town


@pytest.fixture(scope="module")
def shared_town(chain: TestChain) -> Iterator[Town]:
    with committee_town(chain) as made:
        yield made


@pytest.fixture
def town(shared_town: Town) -> Iterator[Town]:
    """A home with the DAO's wallet, as ``cloister up`` would leave it."""
    use_wallet(shared_town, shared_town.chain.deployer)
    yield shared_town
    shared_town.away.clear()
    shared_town.says.clear()
    shared_town.heads.clear()


def use_wallet(town: Town, key: PrivateKey) -> None:
    home = Path(os.environ["CLOISTER_HOME"])
    document = encrypt_key(key.secret, "its words", os.urandom, 1 << 8)
    write_private(home / "owner.keystore.json", json.dumps(document).encode())
    write_private(home / "owner.passphrase", b"its words")
    facts = {
        "gateway": town.net.url,
        "fingerprint": town.net.parsed.fingerprint(),
        "owner_keystore": str(home / "owner.keystore.json"),
        "owner_passphrase_file": str(home / "owner.passphrase"),
    }
    write_private(home / "devnet.json", json.dumps(facts).encode())


def ready(town: Town) -> None:
    """The next ceremony may open."""

    async def go() -> None:
        async with Rpc(town.chain.url) as rpc:
            await town.ready(rpc)

    asyncio.run(go())


def facts(result: Any) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


# --- status ---


def test_status_says_what_is_proven_and_what_each_member_says(run: Any, town: Town) -> None:
    found = facts(run("gatekeeper", "status", "--json"))
    assert found["chain"]["threshold"] == 3
    assert [m["endpoint"] for m in found["chain"]["members"]] == town.urls
    assert [row["asked"] for row in found["members"]] == town.urls
    assert all(row["error"] is None for row in found["members"])
    text = run("gatekeeper", "status")
    assert text.exit_code == 0
    for part in ("any 3 of 5", "refresh from block", "in office in term 1, seat 5", "epoch 1 term 1"):
        assert part in text.stdout, part


RUNNING = {
    "number": 7,
    "id": "0x" + "11" * 32,
    "kind": "reshare",
    "term": 2,
    "master_epoch": 1,
    "phase": "commit",
    "means": "dealers put digests of their dealings on chain",
    "until_block": 345,
    "missing": [f"the digest of dealer {i}" for i in range(1, 6)],
    "trouble": {"code": "gatekeeper.unverified", "found": "no evidence\x1b[2J", "remedy": "wait"},
}


def test_named_members_are_asked_without_a_gateway(run: Any, town: Town) -> None:
    (Path(os.environ["CLOISTER_HOME"]) / "devnet.json").unlink()
    town.says[1] = {"ceremony": RUNNING}
    result = run("gatekeeper", "status", *town.urls[:2])
    assert result.exit_code == 0, result.output
    for part in ("commit until 345", "dealer 3 and 2 more", "gatekeeper.unverified", "no evidence?[2J"):
        assert part in result.stdout, part
    assert "\x1b" not in result.stdout
    found = facts(run("gatekeeper", "status", town.urls[1], "--json"))
    assert (found["chain"], found["members"][0]["ceremony"]) == (None, RUNNING)


@pytest.mark.parametrize("json_too", [(), ("--json",)], ids=["text", "json"])
def test_a_member_that_is_away_or_halted_makes_it_end_with_1(run: Any, town: Town, json_too: tuple[str, ...]) -> None:
    town.away = {0}
    town.says[1] = {"doing": "halted in term 1, seat 2: a final block conflicts with one that it signed"}
    result = run("gatekeeper", "status", *json_too)
    assert result.exit_code == 1
    assert "(cli.members_away)" in result.stderr
    assert f"{town.urls[0]}: wire.bad_answer; {town.urls[1]}: halted" in result.stderr
    assert "hint:" in result.stderr
    assert "halted in term 1" in result.stdout


def test_below_t_members_nothing_is_proven_and_the_others_are_still_shown(run: Any, town: Town) -> None:
    town.away = {0, 1, 2}
    result = run("gatekeeper", "status", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["chain"] is None
    assert [row["error"] is None for row in found["members"]] == [False] * 3 + [True] * 2
    assert "nothing is proven" in result.stderr


def test_watch_without_a_ceremony_says_so(run: Any, town: Town) -> None:
    result = run("gatekeeper", "status", "--watch")
    assert result.exit_code == 0, result.output
    assert "no ceremony is open" in result.stderr


# --- moves ---


def test_shares_then_the_master_key_are_made_new_and_told_step_by_step(run: Any, town: Town) -> None:
    ready(town)
    with town.playing():
        result = run("keys", "rotate", "shares", "--json")
        assert facts(result)["term"] == 2
        assert "reshare ceremony 2" in result.stderr
        assert "done: enough receivers confirmed the same" in result.stderr
    early = run("keys", "rotate", "shares")
    assert (early.exit_code, "(client.committee_busy)" in early.stderr) == (1, True)

    ready(town)
    use_wallet(town, town.chain.keys[3])
    stranger = run("gatekeeper", "propose-rotation")
    assert (stranger.exit_code, stranger.stdout) == (1, "")
    assert "(client.not_due)" in stranger.stderr
    assert to_hex(address_of(town.chain.deployer)) in stranger.stderr

    use_wallet(town, town.chain.deployer)
    with town.playing():
        made = run("keys", "rotate", "master", "--json")
        assert {"master_epoch": 2, "agents_under_the_old_key": 0}.items() <= facts(made).items()
    assert "rotate ceremony 3" in made.stderr
    assert "resumed" in made.stderr

    ready(town)
    again = run("gatekeeper", "propose-rotation", "--json")
    assert (again.exit_code, "epoch 1 is not destroyed yet" in again.stderr) == (1, True)
    found = facts(run("gatekeeper", "status", "--json"))["chain"]
    states = [(e["epoch"], e["state"]) for e in found["master_epochs"]]
    assert (found["term"], states) == (2, [(1, "paused"), (2, "resumed")])


def test_the_dao_s_transaction_is_printed_and_nothing_is_sent(run: Any, town: Town) -> None:
    found = facts(run("gatekeeper", "propose-rotation", "--call-data", "--json"))
    assert found["to"] == to_hex(town.contract)
    assert found["dao"] == to_hex(address_of(town.chain.deployer))
    assert len(found["data"]) == 10


def test_votes_are_read_from_a_file_and_judged(run: Any, town: Town, tmp_path: Path) -> None:
    statement = MasterRotation(77, 1)
    digest = statement.digest(town.net.parsed.id)
    votes = {"statement": statement.to_json(), "signatures": [to_hex(sign_digest(k, digest)) for k in town.keys[:3]]}
    file = tmp_path / "votes.json"
    ready(town)
    for value in (json.dumps(votes), "{}", "no JSON", json.dumps({**votes, "signatures": []})):
        file.write_text(value)
        result = run("gatekeeper", "propose-rotation", "--signed", str(file))
        assert (result.exit_code, result.stdout) == (1, ""), value
        assert "error:" in result.stderr
        assert "hint:" in result.stderr


def test_an_operator_consents_in_its_member_s_folder_and_sees_who_signs(run: Any, town: Town, tmp_path: Path) -> None:
    found = facts(run("gatekeeper", "propose-revocation", "2", "--consent", str(tmp_path), "--json"))
    assert (found["kind"], found["signed_by_seats"], found["needed"]) == ("SeatRevocation", [], 3)
    assert found["statement"]["member"] == to_hex(address_of(town.keys[1]))
    result = run("gatekeeper", "propose-rotation", "--consent", str(tmp_path))
    assert result.exit_code == 0
    assert "consented" in result.stderr
    assert "none yet" in result.stdout
    kinds = [one["kind"] for one in json.loads((tmp_path / "consents.json").read_text())]
    assert sorted(kinds) == ["MasterRotation", "SeatRevocation"]
    wrong = run("gatekeeper", "propose-revocation", "6")
    assert (wrong.exit_code, "error:" in wrong.stderr) == (1, True)


def test_an_operator_gives_a_worker_up(run: Any, town: Town, tmp_path: Path) -> None:
    worker = "0x" + "ee" * 20
    found = facts(run("gatekeeper", "propose-removal", worker, "--consent", str(tmp_path), "--json"))
    assert (found["kind"], found["statement"]["worker"]) == ("WorkerRemoval", worker)
    assert [one["kind"] for one in json.loads((tmp_path / "consents.json").read_text())] == ["WorkerRemoval"]
    wrong = run("gatekeeper", "propose-removal", "0x00")
    assert (wrong.exit_code, "error:" in wrong.stderr) == (1, True)


def test_a_halted_member_gets_its_operator_s_word(run: Any, town: Town, tmp_path: Path) -> None:
    block = town.chain.anvil.rpc("eth_getBlockByNumber", "finalized", False)
    number, name = int(block["number"], 16), block["hash"]
    found = facts(run("gatekeeper", "resume", str(tmp_path), "--block", str(number), "--hash", name, "--json"))
    assert (found["signed_by_seats"], found["signed_otherwise_by_seats"]) == ([1, 2, 3, 4, 5], [])
    assert json.loads((tmp_path / "believed.json").read_text()) == {"number": number, "block_hash": name}
    (tmp_path / "believed.json").unlink()
    abroad = ("--block", str(number), "--hash", "0x" + "ab" * 32, "--chain", "77", "--json")
    found = facts(run("gatekeeper", "resume", str(tmp_path), *abroad))
    assert (found["signed_by_seats"], found["signed_otherwise_by_seats"]) == ([], []), "they follow no such chain"
    assert json.loads((tmp_path / "believed-77.json").read_text())["block_hash"] == "0x" + "ab" * 32
    assert not (tmp_path / "believed.json").exists(), "the word is about the other chain alone"
    other = run("gatekeeper", "resume", str(tmp_path), "--block", str(number), "--hash", "0x" + "ab" * 32)
    assert (other.exit_code, "(client.contradicted)" in other.stderr) == (1, True)
    assert not (tmp_path / "believed.json").exists()
    nowhere = run("gatekeeper", "resume", str(tmp_path / "none"), "--block", str(number), "--hash", name)
    assert (nowhere.exit_code, "(client.believed_folder)" in nowhere.stderr) == (1, True)


def an_agent(town: Town) -> int:
    """A new agent of the wallet in use."""

    async def go() -> int:
        async with Rpc(town.chain.url) as rpc:
            target = town.net.chain.contracts["Agents"]
            owner = Sender(rpc, town.chain.deployer, town.chain.chain_id)
            await owner.send(target, encode("Agents", "register"))
            await town.block(rpc, int(await rpc.call("eth_blockNumber"), 16))
            found: int = await call(rpc, target, "Agents", "count")
            return found

    return asyncio.run(go())


def test_an_owner_sees_the_branches_of_a_forked_store_and_accepts_one(run: Any, town: Town) -> None:
    token = str(an_agent(town))
    at = Epochs(1, 1, 1, b"\xc2" * 32)
    one, other = (Head(at, 7, b"\x06" * 32, bytes([name]) * 32) for name in (0x0A, 0x0B))
    assert facts(run("agent", "heads", token, "--json")) == {"heads": [], "seats_without_a_head": [1, 2, 3, 4, 5]}

    town.heads |= {0: one, 1: one, 2: one, 3: other, 4: other}
    found = facts(run("agent", "heads", token, "--json"))["heads"]
    assert [(row["seats"], row["acceptable"]) for row in found] == [([1, 2, 3], True), ([4, 5], False)]
    text = run("agent", "heads", token)
    assert "may be accepted" in text.stdout
    small = run("agent", "accept-head", token, to_hex(other.head))
    assert (small.exit_code, "(client.not_acceptable)" in small.stderr) == (1, True)
    done = run("agent", "accept-head", token, to_hex(one.head), "--json")
    assert facts(done)["head"] == to_hex(one.head)
    assert "pausing the agent" in done.stderr
    assert "making new keys" in done.stderr

    town.heads |= {3: one}
    again = run("agent", "accept-head", token, to_hex(one.head))
    assert (again.exit_code, "q members hold it" in again.stderr) == (1, True)
    town.away |= {0, 1, 2}
    nobody = run("agent", "heads", token)
    assert nobody.exit_code == 1


WRONG = {
    "a word without a block": ("gatekeeper", "resume", "folder", "--hash", "0x" + "ab" * 32),
    "a head of no agent": ("agent", "accept-head", "1"),
    "a rotation by consent and by the DAO": (
        "gatekeeper",
        "propose-rotation",
        "--call-data",
        "--consent",
        "folder",
    ),
    "a revocation of nobody": ("gatekeeper", "propose-revocation"),
    "a rotation in two ways": ("gatekeeper", "propose-rotation", "--call-data", "--signed", "votes.json"),
    "a layer that is none": ("keys", "rotate", "roots", "1"),
    "an agent without its id": ("keys", "rotate", "agent"),
    "shares of one agent": ("keys", "rotate", "shares", "1"),
    "a master key to wipe": ("keys", "rotate", "master", "--wipe"),
    "a log without a name": ("gatekeeper", "audit"),
    "a service without settings": ("gatekeeper", "run"),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_a_wrong_command_line_ends_with_2(run: Any, sentence: str) -> None:
    result = run(*WRONG[sentence])
    assert (result.exit_code, result.stdout) == (2, "")


# --- audit ---


def test_an_audit_log_is_counted_and_its_first_bad_line_named(run: Any, tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log")
    for agent in ("0x" + "01" * 32, "0x" + "02" * 32, "0x" + "01" * 32):
        log.append("keys", worker="0x" + "aa" * 20, agent=agent, outcome="granted")
    log.close()
    path, head = str(tmp_path / "audit.log"), to_hex(log.head)
    found = facts(run("gatekeeper", "audit", path, "--noted", head, "--json"))
    assert (found["ok"], found["lines"], found["head"], found["first_bad_line"]) == (True, 3, head, None)
    assert [row["times"] for row in found["answers"]] == [2, 1]
    text = run("gatekeeper", "audit", path)
    assert (text.exit_code, "granted" in text.stdout, head in text.stdout) == (0, True, True)

    cut = run("gatekeeper", "audit", path, "--noted", "0x" + "00" * 31 + "01")
    assert (cut.exit_code, "(client.audit_cut)" in cut.stderr) == (1, True)
    data = (tmp_path / "audit.log").read_bytes()
    (tmp_path / "audit.log").write_bytes(data.replace(b"02" * 32, b"03" * 32))
    bad = run("gatekeeper", "audit", path, "--json")
    assert (bad.exit_code, json.loads(bad.stdout)["first_bad_line"]) == (1, 3)
    assert "(gatekeeper.audit)" in bad.stderr
    assert "line 3 of the file" in bad.stderr
    missing = run("gatekeeper", "audit", str(tmp_path / "none"))
    assert (missing.exit_code, "(client.audit_file)" in missing.stderr) == (1, True)
    assert run("gatekeeper", "audit", path, "--noted", "0xzz").exit_code == 1


# --- run ---


def test_run_becomes_the_service_with_the_same_interpreter(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, words: seen.append([path, *words]))
    config = str(tmp_path / "gatekeeper.json")
    assert run("gatekeeper", "run", "--config", config).exit_code == 0
    assert run("gatekeeper", "run", "--config", config, "--check").exit_code == 0
    service = [sys.executable, sys.executable, "-m", "cloister.gatekeeper", "--config", config]
    assert seen == [service, [*service, "--check"]]


def test_run_without_the_service_s_parts_says_what_to_install(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = run("gatekeeper", "run", "--config", "gatekeeper.json")
    assert (result.exit_code, "(cli.no_node)" in result.stderr) == (1, True)


def test_check_judges_the_settings_in_the_service_itself(tmp_path: Path) -> None:
    config = tmp_path / "gatekeeper.json"
    config.write_text("{}")
    words = [sys.executable, "-m", "cloister.cli", "gatekeeper", "run", "--config", str(config), "--check"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "hint: " in done.stderr

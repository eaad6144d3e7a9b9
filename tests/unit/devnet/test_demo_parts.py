"""The demo's parts alone: what its screen prints, how its attacks end, what it exits with, which programs it finds."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cloister.client import Client
from cloister.core.errors import CloisterError
from cloister.core.policy.manifest import normalize
from cloister.devnet import tools
from cloister.devnet.demo import __main__ as program
from cloister.devnet.demo import attacks
from cloister.devnet.demo.attacks import SealedAttacker, refusal
from cloister.devnet.demo.screen import EXPECTATION, Screen, expect
from cloister.devnet.demo.steps import DOCUMENTS, NOTE_CHARS, QUESTIONS, ROOT, Demo, parts, with_base_url
from support.fake_gateway import FakeGateway, FakeWorker, serving
from support.fake_world import NOW, World


def screen() -> tuple[Screen, io.StringIO]:
    out = io.StringIO()
    return Screen(Console(file=out, width=200, highlight=False, soft_wrap=True)), out


# --- the screen ---


def test_the_screen_prints_steps_facts_checks_and_passages_as_text() -> None:
    made, out = screen()
    with made.step(3, "a [bold]title[/bold]"):
        made.say("says [x]")
        made.fact("name", ["v"])
        made.good("holds [y]")
        made.refused("an attack [z]", EXPECTATION(expected="a", found="b"))
        made.passage(0.987, "Title [t]", "some\n  text " + "x" * 300)
    lines = out.getvalue().splitlines()
    assert lines[:7] == [
        "",
        "3. a [bold]title[/bold]",
        "   · says [x]",
        "   name           ['v']",
        "   ✓ holds [y]",
        "   ✓ an attack [z]: refused, demo.expectation",
        "     the demo sees what it promises",
    ]
    assert lines[7].startswith("     0.99 Title [t]: some text xxx")
    assert lines[7].endswith("x…")
    assert len(lines[7]) < 190
    assert lines[8].endswith(" s")
    assert list(made.times) == ["3. a [bold]title[/bold]"]


def test_a_step_that_fails_has_no_time_and_its_error_goes_on() -> None:
    made, _ = screen()
    with pytest.raises(LookupError), made.step(1, "x"):
        raise LookupError
    assert made.times == {}


def test_the_summary_counts() -> None:
    made, out = screen()
    made.summary({"documents": 4, "attacks refused": 5})
    assert out.getvalue().strip().startswith("done in 0 s: 4 documents, 5 attacks refused")


@pytest.mark.parametrize("condition", [False, 0, "", [], None])
def test_an_expectation_that_fails_ends_the_demo_by_name(condition: object) -> None:
    with pytest.raises(CloisterError) as caught:
        expect(condition, "this", 7)
    assert (caught.value.code, caught.value.expected, caught.value.found) == ("demo.expectation", "this", "7")
    expect("anything", "this", 7)


# --- its documents ---


def test_the_demos_documents_are_there_and_answer_its_questions() -> None:
    text = " ".join((ROOT / name).read_text() for name in DOCUMENTS)
    assert "data folder is copied" in text
    assert "pretend hardware" in text
    assert len(QUESTIONS) == 2


@given(st.lists(st.text(st.sampled_from("ab \n"), max_size=30), max_size=12), st.integers(1, 60))
def test_parts_keep_every_paragraph_once_and_in_order(paragraphs: list[str], limit: int) -> None:
    text = "\n\n".join(paragraphs)
    pieces = parts(text, limit)
    whole = "\n\n".join(pieces)
    assert [p.strip() for p in whole.split("\n\n") if p.strip()] == [p.strip() for p in text.split("\n\n") if p.strip()]
    for piece in pieces:
        assert len(piece) <= limit or "\n\n" not in piece.strip("\n")


def test_a_document_of_the_demo_fits_into_notes() -> None:
    for name in DOCUMENTS:
        assert all(0 < len(piece.strip()) <= 2 * NOTE_CHARS for piece in parts((ROOT / name).read_text()))


# --- a user's own model ---


@pytest.mark.parametrize(
    ("url", "host"),
    [("https://models.example/v1", "models.example"), ("https://models.example:8443/v1", "models.example:8443")],
)
def test_a_users_own_model_is_one_host_and_one_secret_more(url: str, host: str) -> None:
    before = normalize({"egress": ["api.openai.com"], "secrets": ["OPENAI_API_KEY"], "env": ["OPENAI_API_KEY"]})
    after = with_base_url(before, url)
    assert set(after.egress) == {"api.openai.com", host}
    assert set(after.secrets) == set(after.env) == {"OPENAI_API_KEY", "OPENAI_BASE_URL"}
    assert (after.limits, after.upgrade_delay) == (before.limits, before.upgrade_delay)


@pytest.mark.parametrize("url", [None, "", "nothing"])
def test_without_an_address_the_manifest_stays(url: str | None) -> None:
    before = normalize({"egress": ["api.openai.com"]})
    assert with_base_url(before, url) == before


@pytest.mark.parametrize("url", ["https://me:word@models.example/v1", "https://*/v1", "https://a b/v1"])
def test_an_address_that_is_no_plain_host_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(CloisterError) as caught:
        with_base_url(normalize({}), url)
    assert caught.value.code == "sandbox.egress"
    assert "word" not in str(caught.value)


# --- attacks ---


@pytest.fixture
async def attacker(tmp_path: Path) -> Any:
    """Somebody on the wire of a network with two workers."""
    world = World()
    agent = world.set_agent()
    workers = [FakeWorker(world, "one", "intel"), FakeWorker(world, "two", "amd")]
    gateway = FakeGateway(world, workers)
    world.mine()
    gateway.offer(agent)
    pin = world.network.fingerprint()
    with serving(gateway):
        async with Client(gateway.url, fingerprint=pin, home=tmp_path, clock=lambda: world.now) as client:
            yield SimpleNamespace(wire=SealedAttacker(client, agent), workers=workers, gateway=gateway, world=world)


@pytest.fixture(autouse=True)
def _worlds_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attacker's requests carry deadlines of the pretend world."""
    monkeypatch.setattr(attacks.time, "time", lambda: float(NOW))


@pytest.mark.parametrize(
    ("attack", "code"),
    [
        ("tampered_answer", "envelope.not_authentic"),
        ("replayed_request", "envelope.replay"),
        ("moved_request", "envelope.wrong_boot"),
    ],
)
async def test_an_attack_on_the_wire_is_refused_by_its_name(attack: str, code: str, attacker: Any) -> None:
    assert (await refusal(getattr(attacker.wire, attack)())).code == code


async def test_an_attack_that_succeeds_ends_the_demo(attacker: Any) -> None:
    async def harmless() -> None:
        return None

    assert (await refusal(_expecting(harmless()))).code == "demo.expectation"
    with pytest.raises(CloisterError, match=r"demo\.expectation"):
        await refusal(harmless())


async def _expecting(work: Any) -> None:
    await refusal(work)


async def test_a_worker_that_takes_a_request_twice_would_be_noticed(attacker: Any) -> None:
    """Against a gateway that answers a replay from its memory, the second answer does not open as a refusal."""
    seen: dict[bytes, bytes] = {}

    async def remembers(agent: bytes, boot: bytes, record: bytes) -> bytes:
        if record not in seen:
            seen[record] = attacker.gateway.deliver(agent, boot, record)
        return seen[record]

    attacker.gateway.on_call = remembers
    with pytest.raises(CloisterError, match=r"demo\.expectation"):
        await refusal(attacker.wire.replayed_request())


def test_names_of_workers_are_found_by_address() -> None:
    children = {f"worker-{i}": SimpleNamespace(ready={"address": "0x" + f"{i:02x}" * 20}) for i in (1, 3)}
    demo: Any = SimpleNamespace(devnet=SimpleNamespace(children=children))
    assert Demo._name_of(demo, b"\x03" * 20) == "worker-3"
    assert Demo._name_of(demo, b"\x02" * 20) == "0x" + "02" * 20


# --- the program ---


def home_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    home = tmp_path / "demo"

    def made(prefix: str) -> str:
        (home / "devnet" / "logs").mkdir(parents=True)
        (home / "devnet" / "logs" / "gk-1.log").write_text("".join(f"line {i}\n" for i in range(9)))
        return str(home)

    monkeypatch.setattr(program.tempfile, "mkdtemp", made)
    return home


@pytest.mark.parametrize(
    ("outcome", "status"), [(None, 0), (EXPECTATION(expected="a", found="b"), 1), (asyncio.CancelledError(), 130)]
)
def test_the_demo_exits_by_how_it_went_and_leaves_no_folder(
    outcome: Any, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = home_of(monkeypatch, tmp_path)

    async def show(given: Path, screen: Screen) -> None:
        assert given == home
        if outcome is not None:
            raise outcome

    monkeypatch.setattr(program, "show", show)
    assert program.main() == status
    assert not home.exists()
    said = capsys.readouterr().err
    if status == 1:
        assert "error: demo.expectation" in said
        assert "hint: this is a fault of the software" in said
        assert "--- gk-1.log\nline 4\nline 5\nline 6\nline 7\nline 8\n" in said
    else:
        assert "error" not in said


# --- programs ---


def test_programs_are_kept_where_the_person_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOISTER_CACHE", str(tmp_path))
    assert tools.cache_dir() == tmp_path
    monkeypatch.delenv("CLOISTER_CACHE")
    assert tools.cache_dir() == ROOT / ".build"
    monkeypatch.setattr(tools, "__file__", str(tmp_path / "lib" / "cloister" / "devnet" / "tools.py"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert tools.cache_dir() == tmp_path / "xdg" / "cloister"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert tools.cache_dir() == Path.home() / ".cache" / "cloister"


def test_a_program_that_is_missing_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CloisterError) as caught:
        tools.bubblewrap()
    assert (caught.value.code, caught.value.expected) == ("devnet.no_program", "bwrap")
    assert "apt-get install -y bubblewrap" in caught.value.remedy
    monkeypatch.setattr(tools.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(CloisterError):
        tools.deno()
    (tmp_path / "deno").write_text("#!/bin/sh\n")
    (tmp_path / "deno").chmod(0o700)
    assert tools.deno() == tmp_path / "deno"


def test_the_tools_print_where_they_are() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cloister.devnet.tools"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    found = json.loads(done.stdout)
    assert set(found) == {"deno", "bwrap", "anvil"}
    assert all(Path(path).is_file() for path in found.values())

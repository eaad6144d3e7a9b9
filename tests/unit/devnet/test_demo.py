"""The demo's own decisions: a user's model server, and a step that does not hold."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cloister.core.errors import ConfigError
from cloister.core.policy.manifest import normalize
from cloister.devnet.demo.attacks import refusal
from cloister.devnet.demo.screen import Screen, expect
from cloister.devnet.demo.steps import DOCUMENTS, ROOT, parts, with_base_url

NOTES = normalize({"egress": ["api.openai.com"], "secrets": ["OPENAI_API_KEY"], "env": ["OPENAI_API_KEY"]})


def test_without_a_base_url_the_manifest_is_the_agents_own() -> None:
    assert with_base_url(NOTES, None) is NOTES
    assert with_base_url(NOTES, "") is NOTES


def test_a_users_base_url_becomes_a_secret_and_its_host_reachable() -> None:
    changed = with_base_url(NOTES, "https://models.example.org:8443/v1")
    assert set(changed.egress) == {"api.openai.com", "models.example.org:8443"}
    assert set(changed.secrets) == set(changed.env) == {"OPENAI_API_KEY", "OPENAI_BASE_URL"}
    opened = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "https://models.example.org:8443/v1"}
    assert changed.environment(opened) == opened


def test_the_documents_that_the_demo_feeds_fit_into_notes() -> None:
    for name in DOCUMENTS:
        text = (ROOT / name).read_text()
        pieces = parts(text)
        assert "\n\n".join(pieces) == text
        assert all(0 < len(piece) <= 10_000 for piece in pieces), name


def test_a_promise_that_does_not_hold_ends_the_demo_by_name() -> None:
    expect(True, "anything", "nothing")
    with pytest.raises(ConfigError) as caught:
        expect([], "passages", "none")
    assert caught.value.code == "demo.expectation"


async def test_an_attack_that_succeeds_is_not_a_refusal() -> None:
    async def success() -> None:
        return None

    with pytest.raises(ConfigError, match="the attack succeeded"):
        await refusal(success())


def test_what_an_agent_says_cannot_draw_on_the_screen() -> None:
    sink = io.StringIO()
    screen = Screen(Console(file=sink, width=100, color_system=None))
    screen.passage(0.5, "[red]title[/red]", "text [bold]loud[/bold]")
    assert "[red]title[/red]" in sink.getvalue()
    assert "[bold]loud[/bold]" in sink.getvalue()

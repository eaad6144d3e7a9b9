"""spec/gateway-api.md and the gateway say the same: methods, limits, routes, codes."""

from __future__ import annotations

import re
from pathlib import Path

from cloister.gateway.relay import MAX_BATCH, MAX_RPC, METHODS

ROOT = Path(__file__).parents[3]
SPEC = (ROOT / "spec" / "gateway-api.md").read_text()


def item(number: int) -> str:
    """The text of one numbered item of the spec."""
    found = re.search(rf"^{number}\. (.*?)(?=^\d+\. |\Z)", SPEC, re.MULTILINE | re.DOTALL)
    assert found is not None, f"item {number}"
    return found[1]


def test_the_relayed_methods_are_those_of_the_spec() -> None:
    assert set(re.findall(r"\beth_[A-Za-z]+", item(3))) == METHODS


def test_whatever_our_own_code_asks_a_chain_for_passes_the_gateway() -> None:
    """A client has no other endpoint: a method that it uses and the gateway does not relay is a dead end."""
    used: set[str] = set()
    for folder in ("chain", "client"):
        for path in (ROOT / "src" / "cloister" / folder).rglob("*.py"):
            used |= set(re.findall(r'"(eth_[A-Za-z]+)"', path.read_text()))
    assert used, "the search finds nothing"
    assert used <= METHODS


def test_no_relayed_method_moves_keys_or_the_chain() -> None:
    assert not [m for m in METHODS if re.search(r"sign|account|mine|set|filter|debug|admin|sendtransaction", m.lower())]


def test_a_batch_is_capped_as_the_spec_says() -> None:
    assert f"a batch of at most {MAX_BATCH}, {MAX_RPC >> 20} MiB" in item(3)

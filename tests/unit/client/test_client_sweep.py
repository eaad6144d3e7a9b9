"""`cloister keys show` while agents move to a new master key: counts are proven, waivers are what the endpoint says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from cloister.chain.abi import BAD_ANSWER
from cloister.chain.contracts import artifact
from cloister.chain.events import topic
from cloister.client.keys import words
from cloister.client.sweep import Sweep, sweep_of, sweep_words
from cloister.core.chainview.epochs import EpochRecord, EpochState
from cloister.core.chainview.layout import Layout, mapping_slot
from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import ChainError

RESEALS = b"\x5e" * 20


def epoch(number: int, state: EpochState) -> EpochRecord:
    """A record; the second epoch was confirmed at block 20."""
    return EpochRecord(number, state, number, 1, 10 * number, 0, 0, bytes(32), bytes(96))


def moved(token: int, *, waived: bool, to: int = 2) -> dict[str, Any]:
    """A log of MovedOn."""
    data = b"".join(value.to_bytes(32, "big") for value in (to - 1, to, int(waived)))
    topics = [to_hex(topic("Reseals", "MovedOn")), f"0x{token:064x}"]
    return {"address": to_hex(RESEALS), "topics": topics, "data": to_hex(data)}


@dataclass
class Storage:
    """Words of the contracts; its ``read`` proves nothing and stands for ``ProvenState.read``."""

    newest: int = 2
    older: EpochState = EpochState.PAUSED
    words: dict[tuple[str, int], int] = field(default_factory=dict)

    def put(self, name: str, label: str, key: int, value: int) -> None:
        slot = Layout(artifact(name).layout).variable(label).slot
        self.words[name, mapping_slot(slot, key.to_bytes(32, "big"))] = value

    async def master(self) -> EpochRecord:
        return epoch(self.newest, EpochState.RESUMED if self.newest > 1 else EpochState.RELEASED)

    async def epoch_record(self, number: int) -> EpochRecord:
        return epoch(number, EpochState.RESUMED if number == self.newest else self.older)

    async def read(self, name: str, reader: Callable[[Any, Layout], Any]) -> Any:
        def get(slots: Sequence[int]) -> list[int]:
            return [self.words.get((name, slot), 0) for slot in slots]

        return reader(SimpleNamespace(get=get), Layout(artifact(name).layout))


class Endpoint:
    """Answers ``eth_getLogs``."""

    def __init__(self, logs: Any) -> None:
        self.logs, self.asked = logs, list[Any]()

    async def call(self, method: str, *arguments: Any) -> Any:
        self.asked.append((method, *arguments))
        if isinstance(self.logs, ChainError):
            raise self.logs
        return self.logs


def ten_agents() -> Storage:
    """Ten were born under the first key and four of them moved on: 1, 2, 3 re-sealed, 4 waived; 11 came later."""
    state = Storage()
    state.put("Agents", "bornUnder", 1, 10)
    state.put("Agents", "bornUnder", 2, 1)
    state.put("Reseals", "_left", 1, 4)
    state.put("Reseals", "_arrived", 2, 4)
    for token in range(1, 12):
        state.put("Agents", "bornIn", token, 1 if token < 11 else 2)
    for token in range(1, 5):
        state.put("Reseals", "_movedTo", token, 2)
    return state


LOGS = [*(moved(token, waived=False) for token in (1, 2, 3)), moved(4, waived=True)]


def client(state: Storage, logs: Any = LOGS, contracts: Sequence[str] = ("Reseals",)) -> Any:
    """As much of a client as is asked."""

    async def view() -> Any:
        return SimpleNamespace(state=state, checkpoint=SimpleNamespace(number=90))

    network = SimpleNamespace(genesis=SimpleNamespace(contracts=dict.fromkeys(contracts)))
    resolver = SimpleNamespace(view=view)
    return SimpleNamespace(resolver=resolver, network=network, rpc=Endpoint(logs), address=lambda _: RESEALS)


PLACES = {1: "re-sealed", 3: "re-sealed", 4: "waived", 5: "waiting", 10: "waiting", 11: "born"}


@pytest.mark.parametrize("token", PLACES)
async def test_an_agent_stands_somewhere_in_the_sweep(token: int) -> None:
    assert await sweep_of(client(ten_agents()), token) == Sweep(1, 2, 6, 4, 1, PLACES[token])


NO_SWEEP: dict[str, tuple[Storage, tuple[str, ...]]] = {
    "the first key still serves": (Storage(newest=1), ("Reseals",)),
    "the old key was destroyed": (Storage(older=EpochState.DESTROYED), ("Reseals",)),
    "a network without the contract": (ten_agents(), ()),
}


@pytest.mark.parametrize("sentence", NO_SWEEP)
async def test_there_is_no_sweep(sentence: str) -> None:
    state, contracts = NO_SWEEP[sentence]
    assert await sweep_of(client(state, contracts=contracts), 1) is None


SILENT: dict[str, Any] = {
    "refuses": BAD_ANSWER(expected="logs", found="none"),
    "answers no list": {"logs": []},
    "answers strange items": [1, None],
    "answers logs of another event": [{"topics": ["0x" + "11" * 32], "data": "0x"}],
    "answers logs without data": [{"topics": LOGS[0]["topics"]}],
    "names more waivers than agents that moved": [moved(token, waived=True) for token in range(1, 9)],
}


@pytest.mark.parametrize("sentence", SILENT)
async def test_the_endpoint_says_nothing_of_use_and_proven_counts_are_shown_all_the_same(sentence: str) -> None:
    found = await sweep_of(client(ten_agents(), SILENT[sentence]), 1)
    assert found is not None
    assert (found.waiting, found.moved, found.waived, found.resealed) == (6, 4, None, None)
    assert found.agent == "moved", "nobody says how"
    waiting = await sweep_of(client(ten_agents(), SILENT[sentence]), 7)
    assert waiting is not None
    assert waiting.agent == "waiting"


async def test_waivers_of_an_earlier_rotation_do_not_count() -> None:
    found = await sweep_of(client(ten_agents(), [*LOGS, moved(5, waived=True, to=1)]), 5)
    assert found == Sweep(1, 2, 6, 4, 1, "waiting")


async def test_logs_are_asked_for_since_the_new_key_was_confirmed() -> None:
    asking = client(ten_agents())
    await sweep_of(asking, 1)
    [(method, wanted)] = asking.rpc.asked
    assert method == "eth_getLogs"
    assert (wanted["fromBlock"], wanted["toBlock"], wanted["address"]) == (hex(20), hex(90), to_hex(RESEALS))


def test_a_sweep_in_words_and_json() -> None:
    one = Sweep(1, 2, 6, 4, 1, "re-sealed")
    assert one.to_json() == {
        "from": 1, "to": 2, "waiting": 6, "moved": 4, "resealed": 3, "waived": 1, "this_agent": "re-sealed",
    }  # fmt: skip
    assert sweep_words(one.to_json()) == (
        "4 of 10 agents moved from epoch 1 to 2 (3 re-sealed, 1 waived); this one: re-sealed"
    )
    silent = sweep_words(Sweep(1, 2, 6, 4, None, "born").to_json())
    assert silent == "4 of 10 agents moved from epoch 1 to 2; this one was made under the new key"


def test_keys_show_has_a_line_for_it_while_it_runs_alone() -> None:
    facts: dict[str, Any] = {
        "agent": "0x", "shares": {"term": 1, "threshold": 3, "members": 5}, "master": {"epoch": 2, "mpk": "0x"},
        "cluster": {"id": "0x", "epoch": 1}, "agent_epoch": 1, "secrets": "none", "served": True, "sweep": None,
    }  # fmt: skip
    assert "new master key" not in words(facts)
    told = words(facts | {"sweep": Sweep(1, 2, 6, 4, 1, "waiting").to_json()})
    assert told["new master key"].startswith("4 of 10 agents moved")

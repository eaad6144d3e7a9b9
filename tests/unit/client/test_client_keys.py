"""What owners are told of an agent's keys: four layers in words, nothing secret."""

from __future__ import annotations

from typing import Any

import pytest

from cloister.client.keys import _secrets, words
from cloister.core.chainview.records import AgentRecord, UpgradeMode
from cloister.core.encoding.identity import Epochs

CLUSTER = b"\xc2" * 32
FACTS: dict[str, Any] = {
    "agent": "0x" + "aa" * 32,
    "shares": {"term": 4, "threshold": 3, "members": 5},
    "master": {"epoch": 2, "mpk": "0x" + "bb" * 96},
    "cluster": {"id": "0x" + "c2" * 32, "epoch": 7},
    "agent_epoch": 9,
    "state_left_below": None,
    "secrets": "carried",
    "served": True,
    "sweep": None,
}


def record(secrets_hash: bytes, at: Epochs) -> AgentRecord:
    b20, b32 = bytes(20), bytes(32)
    return AgentRecord(
        agent=b32,
        token_id=1,
        owner=b20,
        guardian=b20,
        epoch=9,
        paused=False,
        code_hash=b32,
        manifest_hash=b32,
        cluster=CLUSTER,
        upgrade_mode=UpgradeMode.INSTANT,
        upgrade_delay=0,
        secrets_hash=secrets_hash,
        secrets_version=1,
        secrets_setter=b20,
        secrets_epoch=at.agent,
        account=b20,
        secrets_cluster=at.of,
        secrets_cluster_epoch=at.cluster,
        secrets_master_epoch=at.master,
    )


NOW = Epochs(9, 7, 2, CLUSTER)
SECRETS: dict[str, tuple[bytes, Epochs, str]] = {
    "none are set": (bytes(32), NOW, "none"),
    "set under the present keys": (b"\1" * 32, NOW, "present"),
    "set under an earlier agent epoch": (b"\1" * 32, NOW._replace(agent=8), "carried"),
    "set under an earlier cluster epoch": (b"\1" * 32, NOW._replace(cluster=6), "carried"),
    "set under an earlier master epoch": (b"\1" * 32, NOW._replace(master=1), "carried"),
}


@pytest.mark.parametrize("sentence", SECRETS)
def test_secrets(sentence: str) -> None:
    digest, at, said = SECRETS[sentence]
    assert _secrets(record(digest, at), NOW) == said


def test_all_four_layers_are_in_words() -> None:
    told = words(FACTS)
    assert told["shares"] == "term 4: any 3 of 5 gatekeepers derive keys"
    assert told["master key"].startswith("epoch 2, ")
    assert told["cluster"].startswith("epoch 7 ")
    assert told["this agent"] == "epoch 9"
    assert "carry" in told["secrets"]
    assert told["state"] == "served under these keys"


def test_an_agent_that_moves_is_said_to_move() -> None:
    assert "re-sealed" in words({**FACTS, "served": False})["state"]

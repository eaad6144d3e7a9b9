"""A connected chain as a worker sees it: what must hold before anything of it is used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.chain.connected import ChainSetting
from cloister.core.chainview.anchor import remote_caller
from cloister.core.encoding.chain_record import ChainRecord
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.network import ContractRef
from cloister.core.encoding.signatures import Signed, SignerSet, address_of, sign_digest
from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import CloisterError
from cloister.worker.anchor_outbox import Outbox
from cloister.worker.chains import OtherChain
from cloister.worker.chainwatch import STALE_VIEW
from support.anvil import test_key

MEMBERS = tuple(test_key(f"other chain {i}") for i in range(5))
SIGNERS = SignerSet(1, 3, tuple(address_of(m) for m in MEMBERS))
NETWORK, ANCHOR, OTHER = b"\x4e" * 32, b"\x0a" * 20, 77
RECORD = ChainRecord(OTHER, b"\x01" * 32, ContractRef(b"\x0b" * 20, b"\x0c" * 32), 5, True, 2, 60)


class Genesis:
    def address(self, name: str) -> bytes:
        return ANCHOR


class Network:
    id, genesis = NETWORK, Genesis()


class State:
    def __init__(self, listed: bytes | None) -> None:
        self.listed = listed

    async def read(self, name: str, reader: Any) -> bytes | None:
        assert name == "Directory"
        return self.listed


class Watch:
    """The network's own chain."""

    def __init__(self) -> None:
        self.listed: bytes | None = ANCHOR
        self.timestamp = 10_000
        self.refused: CloisterError | None = None

    def state(self) -> State:
        return State(self.listed)

    def require_fresh(self) -> Checkpoint:
        if self.refused is not None:
            raise self.refused
        return Checkpoint(1, 1, 1, b"\x01" * 32, b"\x02" * 32, self.timestamp)


class Committee:
    signers = SIGNERS

    def __init__(self) -> None:
        self.next = at(100)
        self.signs: tuple[int, ...] = (0, 1, 2)
        self.network = NETWORK
        self.asked: list[int] = []

    async def checkpoint(self, chain: int) -> Signed:
        self.asked.append(chain)
        digest = self.next.digest(self.network)
        return Signed(self.next, tuple(sign_digest(MEMBERS[i], digest) for i in self.signs))


def at(number: int, **changes: Any) -> Checkpoint:
    plain = Checkpoint(1, OTHER, number, number.to_bytes(32, "big"), b"\x05" * 32, 10_000)
    return replace(plain, **changes)


class Node:
    key, address = test_key("other chain worker"), b"\x11" * 20


class Scene:
    def __init__(self) -> None:
        self.watch, self.committee = Watch(), Committee()
        setting = ChainSetting(Path("unused"), ["http://127.0.0.1:9"])
        parts: tuple[Any, ...] = (setting, RECORD, Node(), Network(), self.watch, lambda: self.committee)
        self.chain = OtherChain(*parts)


async def code_of(work: Any) -> str:
    with pytest.raises(CloisterError) as caught:
        await work
    return caught.value.code


def fresh_code(scene: Scene) -> str:
    try:
        scene.chain.require_fresh()
    except CloisterError as error:
        return error.code
    return ""


async def test_a_signed_checkpoint_of_the_chain_counts() -> None:
    scene = Scene()
    assert fresh_code(scene) == "worker.chain_behind", "none yet"
    await scene.chain.refresh()
    assert scene.chain.require_fresh() == at(100)
    assert scene.committee.asked == [OTHER]
    assert scene.chain.state().checkpoint == scene.chain.calls().checkpoint == at(100)
    assert await scene.chain.founded() == 5
    await scene.chain.close()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "too few members": ({"signs": (0, 1)}, "encoding.too_few_signatures"),
    "one member three times": ({"signs": (0, 0, 0)}, "encoding.too_few_signatures"),
    "another network": ({"network": b"\x4f" * 32}, ""),
    "another chain": ({"next": at(100, chain_id=78)}, ""),
    "the network's own chain": ({"next": at(100, chain_id=1)}, ""),
    "another term": ({"next": at(100, term=2)}, ""),
}


@pytest.mark.parametrize("sentence", REFUSED)
async def test_what_does_not_count(sentence: str) -> None:
    scene = Scene()
    for name, value in REFUSED[sentence][0].items():
        setattr(scene.committee, name, value)
    await code_of(scene.chain.refresh())
    assert fresh_code(scene) == "worker.chain_behind"


async def test_checkpoints_move_forward_only() -> None:
    scene = Scene()
    await scene.chain.refresh()
    scene.committee.next = at(99)
    await scene.chain.refresh()
    assert scene.chain.require_fresh() == at(100)
    scene.committee.next = at(101)
    await scene.chain.refresh()
    assert scene.chain.require_fresh() == at(101)


@pytest.mark.parametrize("changes", [{"block_hash": b"\x99" * 32}, {"state_root": b"\x99" * 32}])
async def test_two_signed_blocks_at_one_height_end_the_use_of_the_chain(changes: dict[str, bytes]) -> None:
    scene = Scene()
    await scene.chain.refresh()
    scene.committee.next = at(100, **changes)
    assert await code_of(scene.chain.refresh()) == "worker.checkpoint_conflict"
    scene.committee.next = at(102)
    assert fresh_code(scene) == "worker.checkpoint_conflict"
    await scene.chain.refresh()
    assert fresh_code(scene) == "worker.checkpoint_conflict", "for good"


@pytest.mark.parametrize("listed", [None, b"\x0d" * 20])
async def test_a_chain_that_the_directory_does_not_name_is_not_used_and_comes_back(listed: bytes | None) -> None:
    scene = Scene()
    await scene.chain.refresh()
    scene.watch.listed = listed
    assert await code_of(scene.chain.refresh()) == "chainview.chain_not_connected"
    assert fresh_code(scene) == "chainview.chain_not_connected"
    for read in (scene.chain.state, scene.chain.calls):
        with pytest.raises(CloisterError):
            read()
    scene.watch.listed = ANCHOR
    await scene.chain.refresh()
    assert fresh_code(scene) == ""


@pytest.mark.parametrize(("ahead", "code"), [(0, ""), (60, ""), (61, "worker.chain_behind"), (-1000, "")])
async def test_a_chain_that_falls_behind_the_own_one_is_not_used(ahead: int, code: str) -> None:
    scene = Scene()
    await scene.chain.refresh()
    scene.watch.timestamp = 10_000 + ahead
    assert fresh_code(scene) == code


async def test_nothing_of_another_chain_is_fresher_than_the_own_one() -> None:
    scene = Scene()
    await scene.chain.refresh()
    scene.watch.refused = STALE_VIEW(expected="an answer", found="silence")
    assert fresh_code(scene) == "worker.stale_view"


# --- names that must not meet ---


def test_a_remote_contract_is_nobody_of_this_chain() -> None:
    asker = b"\x22" * 20
    alias = remote_caller(OTHER, asker)
    assert alias == keccak256(OTHER.to_bytes(32, "big"), asker.rjust(32, b"\0"))[-20:]
    assert len({alias, asker, remote_caller(OTHER + 1, asker), remote_caller(OTHER, b"\x23" * 20)}) == 4


def test_outboxes_of_two_chains_share_no_name() -> None:
    own, other, third = (Outbox(None, chain) for chain in (None, OTHER, 7))  # type: ignore[arg-type]
    boxes = (own, other, third)
    assert len({box._cursor for box in boxes} | {box._ask(1) for box in boxes}) == 6
    assert len({box.request_id("take 1") for box in boxes}) == 3
    assert not any(box._ask(1).startswith(own._prefix + "ask/") for box in (other, third))

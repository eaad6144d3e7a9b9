"""Checkpoints of connected chains: one line each, while the Directory names the record; a conflict halts that chain."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from cloister.chain.connected import ChainSetting, load_chains
from cloister.chain.finality import Finality, RpcQuorum
from cloister.core.encoding.chain_record import ChainRecord
from cloister.core.encoding.network import ContractRef
from cloister.core.encoding.signatures import verify_signer
from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import CloisterError
from cloister.gatekeeper.api import build
from cloister.gatekeeper.audit import AuditLog
from cloister.gatekeeper.believing import Believing
from cloister.gatekeeper.chains import ConnectedChain, ConnectedChains
from cloister.gatekeeper.office import Office, Shares
from cloister.gatekeeper.store import Store
from cloister.wire.believed import Believed, believed_file
from cloister.wire.messages import SignedBy
from support.gatekeepers import CHAIN_ID, Seat, World, policy, secrets_of, sit
from support.liar import serving
from support.scripted_rpc import ScriptedRpc
from support.scripted_rpc import chain_of as made

OTHER = 77
HOME_ANCHOR = b"\x0a" * 20


def record(blocks: list[dict[str, Any]], **changes: Any) -> ChainRecord:
    plain = ChainRecord(
        chain_id=OTHER,
        genesis_hash=bytes.fromhex(blocks[0]["hash"][2:]),
        anchor=ContractRef(b"\x0b" * 20, b"\x0c" * 32),
        since=1,
        tag=False,
        depth=2,
        max_age_s=60,
    )
    return replace(plain, **changes)


class Listed:
    """The network's own state, as far as the Directory goes."""

    def __init__(self, **names: bytes) -> None:
        self.names: dict[bytes, bytes] = {}

    async def listed(self, name: bytes) -> bytes | None:
        return self.names.get(name)


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    """One member's office, made once: the key generation is dear and not what is tested."""
    world, folder = World(policy()), tmp_path_factory.mktemp("office")
    seats = [Seat(world, folder / f"gk-{i}", i, 1) for i in range(3)]
    sit(world, seats, 2)
    store = Store(seats[0].folder / "state.db")
    found = Shares(store, seats[0].keys, secrets_of("chains")).office(world.now.seats, {1: 1})
    store.close()
    assert isinstance(found, Office)
    return found


class Desk:
    """One member and one other chain, served by two endpoints in memory."""

    def __init__(self, folder: Path, office: Office) -> None:
        self.folder, self.office = folder, office
        self.blocks = made(8)
        self.record, self.at = record(self.blocks), Listed()
        self.at.names[self.record.key()] = HOME_ANCHOR
        self.open()

    def open(self) -> None:
        self.store = Store(self.folder / "state.db")
        setting = ChainSetting(Path("unused"), ["http://127.0.0.1:9", "http://127.0.0.1:9"])
        self.audit = AuditLog(self.folder / "audit.log")
        self.chain = ConnectedChain(setting, self.record, self.store, Believing(self.folder, self.audit))
        self.ends = [ScriptedRpc(self.answer), ScriptedRpc(self.answer)]
        self.chain._rpcs = list(self.ends)
        self.chain._verifier = RpcQuorum(self.ends, 2, Finality(self.record.tag, self.record.depth))

    def answer(self, method: str, params: list[Any]) -> Any:
        if method == "eth_chainId":
            return hex(OTHER)
        number = len(self.blocks) - 1 if params[0] == "latest" else int(params[0], 16)
        return self.blocks[number] if number < len(self.blocks) else None

    async def turn(self) -> None:
        await self.chain.turn(self.at, self.office, HOME_ANCHOR)  # type: ignore[arg-type]

    def head(self) -> Checkpoint:
        statement = self.chain.checkpoints.newest().statement
        assert isinstance(statement, Checkpoint)
        return statement


@pytest.fixture
def desk(tmp_path: Path, office: Office) -> Iterator[Desk]:
    made_desk = Desk(tmp_path, office)
    yield made_desk
    made_desk.store.close()


async def refusal(work: Any) -> str:
    with pytest.raises(CloisterError) as caught:
        await work
    return caught.value.code


async def test_final_blocks_are_signed_under_their_own_chain_id(desk: Desk) -> None:
    await desk.turn()
    assert (desk.head().chain_id, desk.head().number) == (OTHER, 5)
    desk.blocks += made(12, desk.blocks)[8:]
    await desk.turn()
    for number in range(5, 10):
        signed = desk.chain.checkpoints.at(number)
        assert signed.statement.block_hash.hex() == desk.blocks[number]["hash"][2:]  # type: ignore[attr-defined]
        verify_signer(signed.statement.digest(desk.office.network), signed.signature, desk.office.address)
    assert CHAIN_ID != OTHER
    assert desk.store.checkpoints() == [], "the network's own line is another table"


async def test_a_reorganisation_of_blocks_that_are_not_final_changes_nothing(desk: Desk) -> None:
    await desk.turn()
    before = desk.head()
    desk.blocks = made(9, desk.blocks[:6], salt=b"fork")
    await desk.turn()
    assert desk.head().number == 6
    assert desk.chain.checkpoints.at(5).statement == before


async def test_a_final_block_that_is_replaced_halts_this_chain_for_good(desk: Desk) -> None:
    await desk.turn()
    honest = desk.blocks
    desk.blocks = made(12, desk.blocks[:4], salt=b"fork")
    assert await refusal(desk.turn()) == "gatekeeper.halted"
    desk.blocks = made(12, honest)
    assert await refusal(desk.turn()) == "gatekeeper.halted"
    desk.store.close()
    desk.open()
    assert await refusal(desk.turn()) == "gatekeeper.halted", "a restart forgets nothing"
    assert desk.store.get("halted") is None, "the network's own chain goes on"


# --- a halted chain goes on by its operator's word (gatekeepers.md K4) ---


async def halted(desk: Desk) -> list[dict[str, Any]]:
    """The chain's true blocks, after this member signed height 5 and was shown another one there."""
    await desk.turn()
    true = desk.blocks
    desk.blocks = made(12, true[:4], salt=b"fork")
    assert await refusal(desk.turn()) == "gatekeeper.halted"
    desk.blocks = made(12, true)
    return desk.blocks


def believe(desk: Desk, number: int, name: str, *, chain: int | None = OTHER) -> Path:
    file = desk.folder / believed_file(chain)
    file.write_text(json.dumps(Believed(number, bytes.fromhex(name[2:])).to_json()))
    return file


def restart(desk: Desk) -> None:
    desk.audit.close()
    desk.store.close()
    desk.open()


@pytest.mark.parametrize("above", [0, 2])
async def test_a_halted_chain_goes_on_from_the_block_that_is_believed(desk: Desk, above: int) -> None:
    blocks = await halted(desk)
    file = believe(desk, 5 + above, blocks[5 + above]["hash"])
    restart(desk)
    await desk.turn()
    assert not file.exists()
    assert desk.head().number == 9
    book = desk.chain.checkpoints
    assert min(c.statement.number for c in book.since(0)) == 6 + above  # type: ignore[attr-defined]
    with pytest.raises(CloisterError):
        book.at(5)
    noted = [json.loads(line) for line in (desk.folder / "audit.log").read_text().splitlines()]
    assert [(one["what"], one["number"], one["chain"]) for one in noted] == [("believed", 5 + above, str(OTHER))]
    restart(desk)
    desk.blocks += made(14, desk.blocks)[12:]
    await desk.turn()
    assert desk.head().number == 11, "a later start needs no word"
    restart(desk)
    desk.office = replace(desk.office, term=desk.office.term + 1)
    desk.blocks += made(15, desk.blocks)[14:]
    await desk.turn()
    assert desk.head().number == 12, "nor does the next term"


async def test_a_member_that_signed_a_lie_goes_on_at_its_height_and_signs_it_no_second_time(desk: Desk) -> None:
    true = made(12, desk.blocks)
    desk.blocks = made(8, true[:4], salt=b"fork")
    await desk.turn()
    lie = desk.head()
    desk.blocks = true
    assert await refusal(desk.turn()) == "gatekeeper.halted"
    believe(desk, 5, true[5]["hash"])
    restart(desk)
    await desk.turn()
    shown = [c.statement for c in desk.chain.checkpoints.since(0)]
    assert [c.number for c in shown] == [6, 7, 8, 9]  # type: ignore[attr-defined]
    assert lie.number == 5
    assert all(c.block_hash.hex() == true[c.number]["hash"][2:] for c in shown)  # type: ignore[attr-defined]


WORDS: dict[str, Callable[[Desk, list[dict[str, Any]]], object]] = {
    "about a block below the last one that it signed": lambda d, b: believe(d, 4, b[4]["hash"]),
    "about another block than its endpoints have": lambda d, b: believe(d, 6, "0x" + "ab" * 32),
    "about a block that is not final": lambda d, b: believe(d, 11, b[11]["hash"]),
    "about the network's own chain": lambda d, b: believe(d, 6, b[6]["hash"], chain=None),
    "about a third chain": lambda d, b: believe(d, 6, b[6]["hash"], chain=78),
    "that cannot be read": lambda d, b: believe(d, 6, b[6]["hash"]).write_text("{}"),
}


@pytest.mark.parametrize("sentence", WORDS)
async def test_a_chain_stays_halted_by_a_word(desk: Desk, sentence: str) -> None:
    WORDS[sentence](desk, await halted(desk))
    restart(desk)
    assert await refusal(desk.turn()) == "gatekeeper.halted"
    assert len(list(desk.folder.glob("believed*.json"))) == 1, "it may fit at the next start"


async def test_a_chain_stays_halted_while_its_endpoints_contradict_each_other(desk: Desk) -> None:
    blocks = await halted(desk)
    believe(desk, 6, blocks[6]["hash"])
    restart(desk)
    fork = made(12, blocks[:4], salt=b"other")
    desk.ends[1].manner = lambda method, params: (
        fork[-1 if params[0] == "latest" else int(params[0], 16)] if "Block" in method and params[0] != "0x0"
        else desk.answer(method, params)
    )  # fmt: skip
    assert await refusal(desk.turn()) == "gatekeeper.halted"


async def test_after_a_restart_the_line_goes_on_and_a_fork_behind_it_halts(desk: Desk) -> None:
    await desk.turn()
    desk.store.close()
    desk.open()
    desk.blocks += made(10, desk.blocks)[8:]
    await desk.turn()
    assert desk.head().number == 7
    desk.store.close()
    desk.open()
    desk.blocks = made(14, desk.blocks[:3], salt=b"fork")
    assert await refusal(desk.turn()) == "gatekeeper.halted"


async def test_endpoints_that_contradict_each_other_sign_nothing(desk: Desk) -> None:
    await desk.turn()
    fork = made(12, desk.blocks[:6], salt=b"fork")
    desk.blocks = made(12, desk.blocks)
    desk.ends[1].manner = lambda method, params: (
        fork[-1 if params[0] == "latest" else int(params[0], 16)] if "Block" in method else hex(OTHER)
    )
    assert await refusal(desk.turn()) == "chain.conflict"
    assert desk.head().number == 5


NOT_LISTED = {
    "nothing under the key": {},
    "another address under the key": {"address": b"\x0e" * 20},
    "the Anchor under the key of a record that says something else": {"key": b"\x01" * 32},
}


@pytest.mark.parametrize("sentence", NOT_LISTED)
async def test_only_what_the_directory_names_is_signed(desk: Desk, sentence: str) -> None:
    said = NOT_LISTED[sentence]
    desk.at.names = {said.get("key", desk.record.key()): said.get("address", HOME_ANCHOR)} if said else {}
    assert await refusal(desk.turn()) == "chainview.chain_not_connected"
    with pytest.raises(CloisterError):
        desk.chain.checkpoints.newest()
    assert desk.ends[0].calls == [], "its endpoints are not even asked"


async def test_a_chain_that_is_disconnected_is_no_longer_answered(desk: Desk) -> None:
    await desk.turn()
    desk.at.names[desk.record.key()] = b"\x0e" * 20
    assert await refusal(desk.turn()) == "chainview.chain_not_connected"
    with pytest.raises(CloisterError):
        desk.chain.checkpoints.newest()
    assert not desk.chain.connected


@pytest.mark.parametrize("what", ["first block", "chain id"])
async def test_endpoints_of_another_chain_are_refused(desk: Desk, what: str) -> None:
    honest = desk.answer
    if what == "chain id":
        desk.ends[1].manner = lambda method, params: hex(1) if method == "eth_chainId" else honest(method, params)
    else:
        desk.blocks = made(8, salt=b"another")
    assert await refusal(desk.turn()) == "gatekeeper.wrong_chain"


async def test_one_chain_in_trouble_does_not_hold_up_another(desk: Desk, tmp_path: Path) -> None:
    believing = Believing(tmp_path, desk.audit)
    chains = ConnectedChains([], desk.store, believing)
    setting = ChainSetting(Path("x"), ["http://127.0.0.1:9"])
    broken = ConnectedChain(setting, record(made(3), chain_id=78), desk.store, believing)
    chains._chains = {78: broken, OTHER: desk.chain}
    await chains.turn(desk.at, desk.office, HOME_ANCHOR)  # type: ignore[arg-type]
    assert desk.head().number == 5
    assert chains.anchors() == {OTHER: desk.record.anchor.address}
    with pytest.raises(CloisterError) as caught:
        chains.at(79)
    assert caught.value.code == "gatekeeper.unknown_chain"
    await chains.close()


# --- settings and records ---


def test_a_record_is_read_back_as_written() -> None:
    one = record(made(1))
    assert ChainRecord.parse(one.encode()) == one
    assert len(one.key()) == 32
    assert replace(one, depth=3).key() != one.key()


def test_every_other_byte_of_a_record_is_refused_or_another_record() -> None:
    data = record(made(1)).encode()
    for at in range(len(data)):
        for new in (data[at] ^ 1, 0x20, 0xFF):
            changed = data[:at] + bytes([new]) + data[at + 1 :]
            if changed == data:
                continue
            try:
                found = ChainRecord.parse(changed)
            except CloisterError:
                continue
            assert found.encode() == changed
            assert found.key() != record(made(1)).key()


@pytest.mark.parametrize(
    "changes",
    [{"tag": False, "depth": 0}, {"max_age_s": 0}, {"max_age_s": 1 << 20}, {"depth": -1}, {"chain_id": 1 << 53}],
)
def test_a_record_without_a_rule_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CloisterError):
        record(made(1), **changes)


def test_settings_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "chain.json"
    file.write_bytes(record(made(1)).encode())
    good = ChainSetting(file, ["http://a", "http://b"])
    assert load_chains([good], CHAIN_ID)[0][1].chain_id == OTHER
    bad = {
        "twice": ([good, good], CHAIN_ID),
        "the network's own": ([good], OTHER),
        "more endpoints wanted than there are": ([ChainSetting(file, ["http://a"], 2)], CHAIN_ID),
        "no endpoints": ([ChainSetting(file, [])], CHAIN_ID),
        "no file": ([ChainSetting(tmp_path / "none", ["http://a"])], CHAIN_ID),
        "a kind that nobody knows": ([ChainSetting(file, ["http://a"], 0, "etherium")], CHAIN_ID),
    }
    for sentence, (settings, home) in bad.items():
        with pytest.raises(CloisterError):
            load_chains(settings, home)
            pytest.fail(sentence)


# --- over HTTP ---


class Member:
    """What the routes ask of a gatekeeper."""

    def __init__(self, chain: ConnectedChain) -> None:
        self.chains = ConnectedChains([], chain._store, chain._believing)  # type: ignore[arg-type]
        self.chains._chains = {OTHER: chain}
        self.asked: list[tuple[int, int]] = []

    def small(self, remote: str) -> None:
        """No limit here."""

    def require_desks(self) -> None:
        """In office."""

    async def signer_set(self, chain: int, term: int) -> dict[str, object]:
        self.asked.append((chain, term))
        return {"signed": term}


async def test_the_routes_of_a_connected_chain(desk: Desk) -> None:
    await desk.turn()
    member = Member(desk.chain)
    wanted = {
        f"/v1/chains/{OTHER}/checkpoint": (200, 5),
        f"/v1/chains/{OTHER}/checkpoint/5": (200, 5),
        f"/v1/chains/{OTHER}/checkpoint/4": (404, "chainview.no_checkpoint"),
        "/v1/chains/78/checkpoint": (404, "gatekeeper.unknown_chain"),
        f"/v1/chains/{OTHER}/checkpoint/x": (400, ""),
        f"/v1/chains/{OTHER}/signers/3": (200, 3),
        f"/v1/chains/{OTHER}/signers/-1": (400, ""),
    }
    async with serving(build(member)) as url, ClientSession() as session:  # type: ignore[arg-type]
        for path, (status, what) in wanted.items():
            async with session.get(url + path) as answer:
                said = await answer.json()
                assert answer.status == status, path
            if status == 200:
                found = said.get("signed") or SignedBy.from_json(Checkpoint, said).statement.number  # type: ignore[attr-defined]
                assert found == what, path
            elif what:
                assert said["error"]["code"] == what, path
    assert member.asked == [(OTHER, 3)]

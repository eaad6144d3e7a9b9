"""Signer sets of connected chains: who signs a hand-over, and what an Anchor elsewhere takes of what endpoints say."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from coincurve import PrivateKey

from cloister.chain.contracts import call, encode, encode_constructor
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.client.carrying import carry_signers
from cloister.client.relaying import relay
from cloister.core.chainview.anchor import Asked
from cloister.core.chainview.ceremonies import TermRecord
from cloister.core.encoding.contract_statements import AnchorAnswer, AnchorLease
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.network import ContractRef
from cloister.core.encoding.signatures import Signed, address_of, sign_digest
from cloister.core.errors import CloisterError
from cloister.core.policy.signer_set import SET_S, may_sign_handover, signer_handover, voters
from cloister.gatekeeper.signersets import SignerSetDesk
from cloister.gatekeeper.store import Store
from cloister.wire.anchor import Ready
from cloister.wire.ask import new_session
from support.anvil import TestChain, test_key
from support.liar import serving

NETWORK = b"\x4e" * 32
AGENT, CODE = b"\xa6" * 32, b"\x0c" * 32


def keys_of(term: int) -> tuple[PrivateKey, ...]:
    """Members of a term: two stay, three are new."""
    return tuple(test_key(f"carried {term if i > 1 else 0} {i}") for i in range(5))


def record(term: int, now: int) -> TermRecord:
    members = tuple(address_of(k) for k in keys_of(term))
    return TermRecord(term, term, 100 * term, now, 1, 3, bytes(32), frozenset(), members)


@dataclass
class Elsewhere:
    """An Anchor whose signers no Gatekeepers contract tells it."""

    chain: TestChain
    rpc: Rpc
    payer: Sender
    now: int
    anchor: bytes = b""

    async def open(self) -> Elsewhere:
        data = encode_constructor("Anchor", bytes(20), bytes(20), self.payer.address)
        made = await self.payer.send(None, data)
        assert made.contract is not None
        self.anchor = made.contract
        first = record(1, self.now)
        install = encode("Anchor", "install", NETWORK, 1, list(first.members), 3, self.now + SET_S)
        await self.payer.send(self.anchor, install)
        return self

    def said(self, term: int, key: PrivateKey, **changes: Any) -> dict[str, Any]:
        """What an honest member answers, or a liar with ``changes``."""
        old, new = record(term, self.now), record(term + 1, self.now)
        statement = replace(signer_handover(old, new, self.chain.chain_id, self.anchor), **changes)
        signature = sign_digest(key, statement.digest(NETWORK))
        members = [to_hex(m) for m in new.members]
        return {"statement": statement.to_json(), "members": members, "signature": to_hex(signature)}

    async def held(self) -> int:
        return int((await call(self.rpc, self.anchor, "Anchor", "signerSet"))["term"])


@contextlib.asynccontextmanager
async def gatekeepers(answers: Any, count: int = 5) -> AsyncIterator[list[str]]:
    """``answers(member, term)`` gives each one's JSON, or None for silence."""
    async with contextlib.AsyncExitStack() as stack:
        urls = []
        for i in range(count):

            async def handle(request: web.Request, i: int = i) -> web.Response:
                said = answers(i, int(request.match_info["term"]))
                return web.json_response(said) if said is not None else web.Response(status=503)

            app = web.Application()
            app.router.add_get("/v1/chains/{chain}/signers/{term}", handle)
            urls.append(await stack.enter_async_context(serving(app)))
        yield urls


@contextlib.asynccontextmanager
async def elsewhere(chain: TestChain) -> AsyncIterator[Elsewhere]:
    async with Rpc(chain.url) as rpc:
        payer = Sender(rpc, chain.keys[5], chain.chain_id)
        yield await Elsewhere(chain, rpc, payer, int(time.time())).open()


async def carried(there: Elsewhere, urls: list[str], term: int) -> int:
    session = new_session()
    try:
        return len(await carry_signers(session, urls, NETWORK, there.payer, there.anchor, term))
    finally:
        await session.close()


async def test_the_set_is_carried_from_term_to_term_once(chain: TestChain) -> None:
    async with (
        elsewhere(chain) as there,
        gatekeepers(lambda i, term: there.said(term, keys_of(term)[i])) as urls,
    ):
        assert await carried(there, urls, 3) == 2
        assert await there.held() == 3
        assert await carried(there, urls, 3) == 0, "what is done is left"
        members = [address_of(k) for k in keys_of(3)]
        assert all([await call(there.rpc, there.anchor, "Anchor", "isSigner", m) for m in members])
        assert not await call(there.rpc, there.anchor, "Anchor", "isSigner", address_of(keys_of(1)[4]))


async def test_an_expired_set_hands_over_no_more(chain: TestChain) -> None:
    async with (
        elsewhere(chain) as there,
        gatekeepers(lambda i, term: there.said(term, keys_of(term)[i])) as urls,
    ):
        kept = await there.rpc.call("evm_snapshot")
        await there.rpc.call("evm_setNextBlockTimestamp", there.now + SET_S)
        await there.rpc.call("evm_mine")
        with pytest.raises(CloisterError) as caught:
            await carried(there, urls, 2)
        assert caught.value.code == "client.set_expired"
        assert await there.held() == 1
        await there.rpc.call("evm_revert", kept)


LIES: dict[str, tuple[dict[int, dict[str, Any]], bool]] = {
    "two are silent": ({3: {"silent": True}, 4: {"silent": True}}, True),
    "three are silent": ({2: {"silent": True}, 3: {"silent": True}, 4: {"silent": True}}, False),
    "two name another expiry": ({3: {"expiry": 1}, 4: {"expiry": 1}}, True),
    "three name three other thresholds": ({i: {"threshold": i} for i in (2, 4)} | {3: {"threshold": 5}}, False),
    "three sign for another Anchor": ({i: {"anchor": b"\x01" * 20} for i in (2, 3, 4)}, False),
    "three sign for another chain": ({i: {"chain_id": 1} for i in (2, 3, 4)}, False),
    "three skip terms, each another one": ({i: {"next_term": 7 + i} for i in (2, 3, 4)}, False),
    "three are strangers": ({i: {"stranger": True} for i in (2, 3, 4)}, False),
    "three say other members than they sign": ({i: {"members": b"\x09" * 32} for i in (2, 3, 4)}, False),
    "two talk nonsense": ({3: {"nonsense": True}, 4: {"nonsense": True}}, True),
}


@pytest.mark.long
@pytest.mark.parametrize("sentence", LIES)
async def test_only_t_of_the_set_that_the_anchor_holds_count(chain: TestChain, sentence: str) -> None:
    lies, moves = LIES[sentence]
    async with elsewhere(chain) as there:

        def answers(i: int, term: int) -> Any:
            changes = dict(lies.get(i, {}))
            if changes.pop("silent", False):
                return None
            if changes.pop("nonsense", False):
                return [{"statement": 7}]
            key = test_key(f"stranger {i}") if changes.pop("stranger", False) else keys_of(term)[i]
            return there.said(term, key, **changes)

        async with gatekeepers(answers) as urls:
            if moves:
                assert await carried(there, urls, 2) == 1
            else:
                with pytest.raises(CloisterError) as caught:
                    await carried(there, urls, 2)
                assert caught.value.code == "client.set_not_carried"
            assert await there.held() == (2 if moves else 1)


async def test_a_lease_of_a_set_that_was_handed_over_counts_no_more(chain: TestChain) -> None:
    """And what anybody brings for a worker without gas: its lease first, then the answer, once."""
    worker = test_key("a worker without gas")
    async with (
        elsewhere(chain) as there,
        gatekeepers(lambda i, term: there.said(term, keys_of(term)[i])) as urls,
    ):
        ask = (AGENT, bytes(32), 100_000, there.now + 3600, 1, 0)
        await there.payer.send(there.anchor, encode("Anchor", "request", ask, b"?"), value=7)
        asked = Asked(AGENT, 1, there.payer.address, 7, bytes(32), 100_000, there.now + 3600, 1, 0, keccak256(b"?"))
        said = AnchorAnswer(chain.chain_id, there.anchor, asked.commitment(), keccak256(b"!"), bytes(32))
        by = ((address_of(worker), sign_digest(worker, said.digest(NETWORK))),)

        def lease(term: int) -> Signed:
            one = AnchorLease(
                term, chain.chain_id, there.anchor, AGENT, 1, CODE, address_of(worker), b"\x01" * 32, b"\x02" * 20,
                there.now + 3600 + term,
            )  # fmt: skip
            return Signed(one, tuple(sign_digest(k, one.digest(NETWORK)) for k in keys_of(term)[:3]))

        await carried(there, urls, 2)
        with pytest.raises(CloisterError, match="WrongTerm"):
            await relay(there.payer, there.anchor, Ready(chain.chain_id, asked, b"!", by, lease(1)))
        good = Ready(chain.chain_id, asked, b"!", by, lease(2))
        for wrong in (replace(good, chain_id=1), replace(good, lease=Signed(asked_lease(good), ()))):
            with pytest.raises(CloisterError) as caught:
                await relay(there.payer, there.anchor, wrong)
            assert caught.value.code == "client.wrong_anchor"
        with pytest.raises(CloisterError, match="NotSignedBy"):
            await relay(there.payer, there.anchor, replace(good, reply=b"another"))
        await relay(there.payer, there.anchor, good)
        assert await call(there.rpc, there.anchor, "Anchor", "credits", b"\x02" * 20) == 7
        with pytest.raises(CloisterError, match="NotOpen"):
            await relay(there.payer, there.anchor, good)


def asked_lease(ready: Ready) -> AnchorLease:
    """The lease of an answer, for another Anchor."""
    assert ready.lease is not None
    statement = ready.lease.statement
    assert isinstance(statement, AnchorLease)
    return replace(statement, anchor=b"\x03" * 20)


def test_ready_answers_survive_json_and_nothing_else_does() -> None:
    asked = Asked(AGENT, 1, b"\x01" * 20, 7, bytes(32), 5, 9, 1, 0, bytes(32))
    good = Ready(5, asked, b"r", ((b"\x03" * 20, b"\x04" * 65),), None)
    assert Ready.from_json(good.to_json()) == good
    bad: list[dict[str, Any]] = [
        {"reply": "?"}, {"reply": 5}, {"reply": "A" * 40_000}, {"by": []}, {"by": [["0x00", "0x00"]]}, {"by": 5},
        {"by": good.to_json()["by"] * 9}, {"chain_id": -1}, {"request": {}}, {"lease": {}}, {"told": {}},
        {"told": 5}, {"more": 1},
    ]  # fmt: skip
    for changes in bad:
        with pytest.raises(CloisterError):
            Ready.from_json(good.to_json() | changes)


# --- a member's word ---


class Snapshot:
    def __init__(self, term: int, revoked: frozenset[int] = frozenset()) -> None:
        self.term, self.revoked, self.moved = term, revoked, 0

    async def committee(self) -> Any:
        return replace_term(self.term)

    async def term_record(self, term: int) -> TermRecord:
        return replace(record(term, 1000 + self.moved), revoked=self.revoked if term == 1 else frozenset())


def replace_term(term: int) -> Any:
    return type("Seats", (), {"term": term})()


class Book:
    halted = False

    def require_running(self) -> None:
        if self.halted:
            raise CloisterError(code="gatekeeper.halted", check="c", expected="e", found="f", remedy="r")


class Chains:
    """One connected chain."""

    def __init__(self) -> None:
        self.record = type("R", (), {"anchor": ContractRef(b"\x0b" * 20, bytes(32))})()
        self.checkpoints = Book()

    def at(self, chain_id: int) -> Chains:
        return self


class Keys:
    def __init__(self, key: PrivateKey) -> None:
        self._key, self.address = key, address_of(key)

    def sign(self, digest: bytes) -> bytes:
        return sign_digest(self._key, digest)


def desk(folder: Path, member: int, term: int = 1, chains: Chains | None = None) -> SignerSetDesk:
    parts: tuple[Any, ...] = (Store(folder / "state.db"), Keys(keys_of(term)[member]), chains or Chains())
    return SignerSetDesk(*parts)


async def refusal(work: Any) -> str:
    with pytest.raises(CloisterError) as caught:
        await work
    return caught.value.code


async def test_a_member_signs_the_one_successor_of_its_term(tmp_path: Path) -> None:
    one, at = desk(tmp_path, 3), Snapshot(2)
    said: Any = await one.answer(at, NETWORK, 77, 1)  # type: ignore[arg-type]
    wanted = signer_handover(record(1, 1000), record(2, 1000), 77, b"\x0b" * 20)
    assert said["statement"] == wanted.to_json()
    assert wanted.expiry == 1000 + SET_S
    assert await one.answer(at, NETWORK, 77, 1) == said, "the same every time"  # type: ignore[arg-type]
    at.moved = 5
    assert await refusal(one.answer(at, NETWORK, 77, 1)) == "gatekeeper.another_set"  # type: ignore[arg-type]


@pytest.mark.parametrize(("term", "code"), [(0, "gatekeeper.no_successor"), (2, "gatekeeper.no_successor")])
async def test_a_term_without_successor_is_not_handed_over(tmp_path: Path, term: int, code: str) -> None:
    assert await refusal(desk(tmp_path, 0).answer(Snapshot(2), NETWORK, 77, term)) == code  # type: ignore[arg-type]


async def test_members_of_later_terms_and_revoked_ones_sign_nothing(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    late = desk(tmp_path, 4, term=2)
    assert await refusal(late.answer(Snapshot(2), NETWORK, 77, 1)) == "policy.not_a_voter"  # type: ignore[arg-type]
    out, at = desk(tmp_path / "b", 3), Snapshot(2, frozenset({4}))
    assert await refusal(out.answer(at, NETWORK, 77, 1)) == "policy.not_a_voter"  # type: ignore[arg-type]


async def test_a_member_that_halted_on_the_chain_signs_nothing(tmp_path: Path) -> None:
    chains = Chains()
    chains.checkpoints.halted = True
    one = desk(tmp_path, 0, chains=chains)
    assert await refusal(one.answer(Snapshot(2), NETWORK, 77, 1)) == "gatekeeper.halted"  # type: ignore[arg-type]


def test_terms_that_do_not_follow_each_other_make_no_statement() -> None:
    for after in (1, 3):
        with pytest.raises(CloisterError):
            signer_handover(record(1, 1), record(after, 1), 77, b"\x0b" * 20)
    assert len(voters(replace(record(1, 1), revoked=frozenset({2, 5})))) == 3
    with pytest.raises(CloisterError):
        may_sign_handover(record(1, 1), b"\x01" * 20)

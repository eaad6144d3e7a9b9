"""Clients that call as contracts or by API keys, and owners who make keys: what is sent, what is believed."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from cloister.client import ApiKey, Client, ContractWallet, Demand, Wallet
from cloister.client.call import Sessions, _name
from cloister.client.owner import PREFIX, Owner
from cloister.client.reply import HeaderMap
from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import CloisterError
from support.fake_world import test_key
from support.sealed import MPK, World

ACCOUNT = b"\xac" * 20
KEY = ApiKey(bytes(range(32)))
WALLET = Wallet(test_key("a wallet"))


def code(work: Any) -> str:
    with pytest.raises(CloisterError) as caught:
        work()
    return caught.value.code


# --- who calls ---


def test_a_client_calls_as_its_wallet_its_caller_or_its_key() -> None:
    contract = ContractWallet(ACCOUNT, lambda digest: b"")
    for options, kind, address in (
        ({}, None, None),
        ({"wallet": WALLET}, "wallet", WALLET.address),
        ({"caller": contract}, "contract", ACCOUNT),
        ({"wallet": WALLET, "caller": contract}, "contract", ACCOUNT),
        ({"api_key": KEY.text}, "apikey", None),
        ({"wallet": WALLET, "api_key": KEY.text}, "apikey", None),
    ):
        client = Client("http://127.0.0.1:1", **options)  # type: ignore[arg-type]
        assert (client.caller.kind if client.caller else None) == kind
        assert client.caller_address == address, "an API key is nobody's address: it owns no agent"


def test_two_callers_or_a_text_that_is_no_key_are_refused_at_once() -> None:
    with pytest.raises(TypeError, match="not both"):
        Client("http://127.0.0.1:1", caller=WALLET, api_key=KEY.text)
    assert code(lambda: Client("http://127.0.0.1:1", api_key="clk1_no")) == "envelope.api_key_text"


def test_a_contract_account_has_an_address_and_bounded_signatures() -> None:
    assert code(lambda: ContractWallet(b"\x01" * 19, bytes)) == "encoding.size"
    account = ContractWallet(ACCOUNT, lambda digest: digest * 2)
    assert (account.kind, account.agent, account.sign(b"\x01" * 32)) == ("contract", None, b"\x01" * 64)
    assert code(lambda: ContractWallet(ACCOUNT, lambda digest: bytes(4097)).sign(bytes(32))) == "envelope.too_large"
    assert ContractWallet(ACCOUNT, lambda digest: bytes(4096)).sign(bytes(32)) == bytes(4096)


def test_sessions_of_one_address_under_two_kinds_are_two() -> None:
    assert _name(ContractWallet(WALLET.address, bytes)) != _name(WALLET)
    assert len({_name(None), _name(WALLET), _name(KEY), _name(ApiKey(os.urandom(32)))}) == 4


def test_a_session_opens_as_the_caller_that_it_is_for() -> None:
    world = World()
    sessions = Sessions(lambda epoch: MPK, os.urandom)
    sitting: Any = SimpleNamespace(seat=world.seat)
    first = sessions.session(sitting, KEY, 100)
    assert sessions.session(sitting, KEY, 101) is first
    assert sessions.session(sitting, WALLET, 100) is not first
    assert sessions.session(sitting, KEY, 100 + 3600) is not first, "its word is about to end"


# --- post-quantum ---


def test_a_demand_for_x_wing_takes_no_other_worker() -> None:
    classic: Any = SimpleNamespace(seat=World().seat, vendor="intel", worker=SimpleNamespace(worker=b"\x01" * 20))
    hybrid: Any = SimpleNamespace(
        **{
            **vars(classic),
            "seat": SimpleNamespace(certificate=replace(World().certificate, suite=2, xwing_key=bytes(1216))),
        }
    )
    assert Demand().accepts(classic)
    assert Demand().accepts(hybrid)
    assert not Demand(post_quantum=True).accepts(classic)
    assert Demand(post_quantum=True).accepts(hybrid)


# --- owners ---


class Answers:
    """An owner's client whose workers answer as told. ``asked``: (path, body)."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.calls, self.network = self, SimpleNamespace(id=bytes(32))
        self.rng, self.caller = os.urandom, None
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def clock(self) -> float:
        return 1000.0

    def need_wallet(self) -> Wallet:
        return WALLET

    async def call(self, agent: bytes, request: Any, check: Any, who: Any) -> Any:
        assert who is WALLET
        assert request.repeatable, "an order is carried out once, however often it is sent"
        self.asked.append((request.path, json.loads(request.body)))
        answer = self.answers.pop(0)
        said = answer(self.asked[-1][1]) if callable(answer) else answer
        return SimpleNamespace(status=200, headers=HeaderMap(()), json=lambda: said)


def owner(answers: Answers) -> Owner:
    client: Any = answers
    return Owner(client, bytes(32))


async def test_a_new_key_is_drawn_here_and_its_secret_stays_here() -> None:
    from cloister.core.envelope.apikey import key_id

    answers = Answers(lambda body: {"id": to_hex(key_id(bytes.fromhex(body["mac_key"][2:])))})
    key = await owner(answers).new_api_key("mobile app", life_s=60, per_minute=7)
    (path, body), *_ = answers.asked
    assert path == PREFIX + "keys/new"
    assert body == {"name": "mobile app", "mac_key": to_hex(key.mac), "expiry": 1060, "per_minute": 7}
    assert key.text[5:] not in json.dumps(body)


async def test_a_worker_that_names_another_key_is_not_believed() -> None:
    for said in ({"id": "0x" + "00" * 20}, {}, {"id": None}):
        with pytest.raises(CloisterError, match=r"client\.owner_answer"):
            await owner(Answers(said)).new_api_key("n", life_s=60, per_minute=1)


async def test_keys_are_listed_and_revoked_by_id() -> None:
    answers = Answers({"keys": [{"id": "0xab"}]}, {"id": "0xab", "revoked": True})
    mine = owner(answers)
    assert await mine.api_keys() == [{"id": "0xab"}]
    assert (await mine.revoke_api_key("0xab"))["revoked"] is True
    assert answers.asked == [(PREFIX + "keys", {}), (PREFIX + "keys/revoke", {"id": "0xab"})]


@pytest.mark.parametrize("said", [{}, {"keys": None}, {"keys": "0x"}])
async def test_an_answer_of_another_form_is_refused(said: Any) -> None:
    with pytest.raises(CloisterError, match=r"client\.owner_answer"):
        await owner(Answers(said)).api_keys()

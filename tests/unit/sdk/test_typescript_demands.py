"""What a caller demands, and whom it calls as: the TypeScript client checks as the Python client does."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from cloister.core.chainview.records import UpgradeMode
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.envelope.apikey import ApiKey
from cloister.core.envelope.certificate import KeyCertificate, Seat
from cloister.core.envelope.model import FLAG_IBE, FLAG_XWING, XWING_ENC
from support.fake_gateway import FakeWorker
from support.fake_world import CODE, OWNER, fresh

KEY = ApiKey(bytes(range(32)))
ACCOUNT = "0x" + "ac" * 20


def code(result: dict[str, Any]) -> str:
    assert "error" in result, result
    return str(result["error"]["code"])


def agreed(net: Any, path: str = "/price", **options: Any) -> dict[str, Any]:
    return net.typescript.do("agreed", path=path, options=options)  # type: ignore[no-any-return]


def says(text: bytes, status: int = 200) -> Any:
    return lambda request: (status, (), [text])


def third(net: Any, vendor: str) -> FakeWorker:
    """One more worker on the agent."""
    worker = FakeWorker(net.world, "three", vendor)
    net.gateway.workers.append(worker)
    net.world.mine()
    net.gateway.offer(net.agent)
    return worker


# --- X-Wing ---


def hybrid(net: Any, *workers: FakeWorker) -> None:
    for worker in workers:
        worker.hybrid = True
    net.gateway.offer(net.agent)


def test_a_call_is_sealed_by_x_wing_where_the_worker_has_a_key(net: Any) -> None:
    hybrid(net, net.one, net.two)
    net.connect()
    for _ in range(2):
        assert net.call()["ok"]["attempts"] == 1
    first, second = net.gateway.calls
    assert [first[5], second[5]] == [FLAG_IBE | FLAG_XWING, FLAG_XWING]
    assert first[70:102] == hashlib.sha256(first[144 : 144 + XWING_ENC]).digest()
    assert len(first) - len(second) > XWING_ENC


def test_workers_without_the_key_are_called_as_before(net: Any) -> None:
    net.connect()
    assert net.call()["ok"]["status"] == 200
    assert net.gateway.calls[0][5] == FLAG_IBE


def test_a_demand_for_x_wing_takes_no_other_worker(net: Any) -> None:
    net.connect({"postQuantum": True})
    assert code(net.call()) == "client.demand_post_quantum"
    hybrid(net, net.two)
    net.connect({"postQuantum": True})
    assert net.call()["ok"]["proof"]["vendor"] == "amd"
    net.connect({"postQuantum": True, "vendor": "intel"})
    assert code(net.call()) == "client.demand_worker"
    assert [record[5] for record in net.gateway.calls] == [FLAG_IBE | FLAG_XWING]


def test_nobody_between_takes_the_key_out_of_a_certificate(net: Any) -> None:
    hybrid(net, net.one, net.two)
    for seat in net.gateway.seats[net.agent]:
        seat["certificate"]["suite"] = 1
        del seat["certificate"]["xwing_key"]
    assert code(net.once()) == "encoding.signature"
    assert net.gateway.calls == []


def test_an_x_wing_key_of_somebody_else_is_not_sealed_to(net: Any) -> None:
    hybrid(net, net.one, net.two)
    for seat in net.gateway.seats[net.agent]:
        seat["certificate"]["xwing_key"] = to_hex(net.one.xwing.public[::-1])
    assert code(net.once()) == "encoding.signature"


def test_a_worker_whose_x_wing_key_is_weak_is_named(net: Any) -> None:
    seat = net.one.seat(net.agent)
    lease, key = seat.lease.statement, seat.certificate.hpke_key
    weak = KeyCertificate.under(lease, network=net.world.network.id, hpke_key=key, xwing_key=bytes(1216))
    made = Seat(weak, weak.sign(lambda d: sign_digest(net.one.key, d)), seat.lease)
    net.gateway.seats[net.agent] = [made.to_json()]
    assert code(net.once()) == "seal.xwing_key"
    assert net.gateway.calls == []


# --- the upgrade rule ---


def test_code_that_may_change_on_short_notice_is_refused(net: Any) -> None:
    for blocks, expected in ((10, None), (11, "client.demand_delay")):
        result = net.connect({"minUpgradeBlocks": blocks}, key=to_hex(OWNER.secret))
        assert ("ok" in result) if expected is None else (code(result) == expected)
    net.world.set_agent(upgrade_mode=UpgradeMode.FROZEN, upgrade_delay=0)
    net.world.mine()
    assert "ok" in net.connect({"minUpgradeBlocks": 1 << 40})
    net.world.set_agent(upgrade_mode=UpgradeMode.INSTANT, upgrade_delay=0)
    net.world.mine()
    assert code(net.connect({"minUpgradeBlocks": 1, "allowInstant": True})) == "client.demand_delay"


def test_the_rule_is_checked_again_when_the_record_changes(net: Any) -> None:
    net.connect({"minUpgradeBlocks": 10})
    assert net.call()["ok"]["status"] == 200
    net.world.set_agent(upgrade_delay=9)
    net.world.mine()
    assert code(net.typescript.do("agreed", path="/")) == "client.demand_delay"


def test_a_changed_manifest_is_refused(net: Any) -> None:
    found = to_hex(net.world.agents[net.agent].manifest_hash)
    assert "ok" in net.connect({"manifestHash": found, "codeHash": to_hex(hashlib.sha256(CODE).digest())})
    assert code(net.connect({"manifestHash": to_hex(fresh())})) == "client.demand_code"


MEANINGLESS: dict[str, tuple[dict[str, Any], str]] = {
    "a code hash that is none": ({"codeHash": "0x12"}, "encoding.hex"),
    "a manifest hash that is none": ({"manifestHash": "x"}, "encoding.hex"),
    "a worker that is no address": ({"worker": "0x12"}, "encoding.hex"),
    "a notice below zero": ({"minUpgradeBlocks": -1}, "unexpected"),
    "half a block": ({"minUpgradeBlocks": 0.5}, "unexpected"),
    "a notice as a text": ({"minUpgradeBlocks": "10"}, "unexpected"),
}


def test_a_demand_that_means_nothing_is_never_taken_for_none(net: Any) -> None:
    for sentence, (demand, expected) in MEANINGLESS.items():
        assert code(net.connect(demand)) == expected, sentence
    assert net.gateway.fetched == []


# --- one answer of several workers ---


def test_two_vendors_that_say_the_same_agree(net: Any) -> None:
    net.one.handler = net.two.handler = says(b"42")
    net.connect()
    made = agreed(net)["ok"]
    assert (made["status"], made["text"], made["vendors"]) == (200, "42", ["amd", "intel"])
    assert set(made["workers"]) == {to_hex(address_of(net.one.key)), to_hex(address_of(net.two.key))}
    assert len(set(made["ids"])) == 2
    assert (len(net.one.ran), len(net.two.ran)) == (1, 1)


LIES: dict[str, Any] = {"another body": says(b"43"), "another status": says(b"42", 201), "nothing": says(b"")}


def test_a_worker_that_says_something_else_is_named(net: Any) -> None:
    net.connect()
    for case, lie in LIES.items():
        net.one.handler, net.two.handler = says(b"42"), lie
        result = agreed(net)
        assert code(result) == "client.disagree", case
        for worker in (net.one, net.two):
            assert address_of(worker.key).hex()[:8] in result["error"]["found"]
        assert "42" not in result["error"]["found"].split(), "an answer is not repeated in an error text"


def test_three_workers_of_two_vendors_agree(net: Any) -> None:
    three = third(net, "intel")
    for worker in (net.one, net.two, three):
        worker.handler = says(b"42")
    net.connect()
    assert len(agreed(net, workers=3)["ok"]["workers"]) == 3


@pytest.mark.parametrize(("vendor", "good"), [("amd", True), ("intel", False)])
def test_one_that_does_not_answer_is_replaced_but_not_by_a_vendor_twice(vendor: str, good: bool, net: Any) -> None:
    three = third(net, vendor)
    for worker in (net.one, net.two, three):
        worker.handler = says(b"42")
    net.two.spoil = lambda data: data[:-1] + bytes([data[-1] ^ 1])
    net.connect()
    result = agreed(net)
    assert (
        set(result["ok"]["workers"]) == {to_hex(net.one.address), to_hex(three.address)} if good else "error" in result
    )


FEW: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "more workers than there are": ({"workers": 3}, {}),
    "more vendors than there are": ({"workers": 3, "vendors": 3}, {}),
    "a demand that leaves one vendor": ({}, {"vendor": "intel"}),
}


def test_too_few_are_refused_before_anybody_is_asked(net: Any) -> None:
    for case, (options, demand) in FEW.items():
        net.connect(demand)
        assert code(agreed(net, **options)) == "client.too_few_to_agree", case
    assert net.one.ran + net.two.ran == []


MISTAKES: list[dict[str, Any]] = [
    {"workers": 1}, {"workers": 17}, {"vendors": 0}, {"workers": 2, "vendors": 3}, {"workers": 2.5},
    {"method": "POST"}, {"method": "PUT"}, {"method": "DELETE"},
]  # fmt: skip


def test_what_means_nothing_or_happens_twice_is_a_mistake(net: Any) -> None:
    net.connect()
    for options in MISTAKES:
        result = agreed(net, **options)
        assert code(result) == "unexpected", options
        assert "TypeError" in result["error"]["found"]
    assert net.one.ran + net.two.ran == []


# --- who calls ---


def callers(net: Any) -> list[Any]:
    return [request.caller for request in (*net.one.ran, *net.two.ran)]


def test_a_call_by_an_api_key_carries_its_id_and_never_the_key(net: Any) -> None:
    net.connect(apiKey=KEY.text)
    assert net.call()["ok"]["status"] == 200
    (caller,) = callers(net)
    assert (caller.kind, caller.address) == ("apikey", KEY.address)
    assert KEY.text[5:].encode() not in b"".join(net.gateway.calls)
    assert code(net.connect(apiKey="clk1_no")) == "envelope.api_key_text"


def test_an_api_key_is_nobodys_address_and_owns_no_agent(net: Any) -> None:
    net.world.set_agent(upgrade_mode=UpgradeMode.INSTANT, upgrade_delay=0, owner=KEY.address)
    net.world.mine()
    assert code(net.connect(apiKey=KEY.text)) == "client.demand_upgrade"


def test_a_contract_account_signs_by_itself_within_bounds(net: Any) -> None:
    net.connect(contract={"address": ACCOUNT, "signature": "0x" + "5a" * 97})
    said = net.call(json={"text": "x"})["ok"]
    assert json.loads(said["text"])["caller"] == ACCOUNT
    (caller,) = callers(net)
    assert (caller.kind, to_hex(caller.address)) == ("contract", ACCOUNT)
    net.connect(contract={"address": ACCOUNT, "signature": "0x" + "5a" * 4097})
    assert code(net.call()) == "envelope.too_large"
    assert len(net.gateway.calls) == 1

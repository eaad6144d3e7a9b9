"""Agents' logs on their way to owners: sealed, chained, capped, and dropped where nobody may read them."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cloister.client.agentlogs import Gap, Line, LogReader, log_key
from cloister.client.wallet import Wallet
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.owner_statements import LogKey
from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.errors import CloisterError
from cloister.fabric.ports import UNKNOWN_OUTCOME, Tx
from cloister.sandbox.ports import AgentRequest
from cloister.worker import logbook as work
from cloister.worker.logbook import MAX_PENDING, PRUNE_EVERY
from support import hooks
from support.fake_sandbox import Calls, Reply
from support.fake_world import OWNER, Other, test_key
from support.worker_kit import Got, Rig

Make = Callable[..., Awaitable[Rig]]
NEXT = test_key("next owner")


async def asked(rig: Rig, agent: bytes, what: str, body: Any, key: Any = OWNER) -> Got:
    """A sealed question as a wallet."""
    session = rig.session(agent)
    session.authenticate(address_of(key), int(rig.world.now) + 3600, lambda digest: sign_digest(key, digest), None)
    path = f"/.well-known/cloister/owner/{what}"
    return await rig.call(agent, json.dumps(body).encode(), session=session, path=path)


def statement(rig: Rig, name: bytes, key: Any = OWNER, serial: int = 1, **changes: Any) -> dict[str, Any]:
    """The body that publishes a wallet's log key."""
    public = log_key(Wallet(key), rig.world.network.id, name).public_key().public_bytes_raw()
    fields = {"agent": name, "owner": address_of(key), "key": public, "serial": serial} | changes
    said = LogKey(**fields)
    return {"statement": said.to_json(), "signature": to_hex(sign_digest(key, said.digest(rig.world.network.id)))}


async def sealed_rig(make: Make) -> tuple[Rig, bytes]:
    """A worker whose agent's log is sealed to its owner."""
    rig = await make(chatty)
    rig.sealed = True
    agent = await rig.deploy()
    assert (await asked(rig, agent, "log-key", statement(rig, agent))).code == ""
    return rig, agent


async def chatty(request: AgentRequest, ctx: Calls) -> Reply:
    """Logs what it is sent."""
    ctx.host.log(request.request_id, "info", request.body.decode("utf-8", "surrogatepass"))
    return Reply()


def reader(rig: Rig, agent: bytes, key: Any = OWNER) -> LogReader:
    return LogReader(rig.world.network.id, agent, log_key(Wallet(key), rig.world.network.id, agent))


async def turn(rig: Rig, agent: bytes, *, last: bool = False) -> None:
    await rig.book.turn([rig.placed(agent)], last=last)


async def read(rig: Rig, agent: bytes, into: LogReader, key: Any = OWNER) -> list[Any]:
    """What a reader makes of one answer."""
    answer = json.loads((await asked(rig, agent, "logs", {"have": into.have()}, key)).body)
    events = [event for page in answer["pages"] for event in into.take(base64.b64decode(page))]
    return events + into.close(rig.boot, rig.node.address, answer["next"], bytes.fromhex(answer["head"][2:]))


def texts(events: list[Any]) -> list[str]:
    return [event.text if isinstance(event, Line) else f"-- {event.what}" for event in events]


async def test_lines_reach_the_owner_in_order_with_their_levels(make: Make) -> None:
    rig, agent = await sealed_rig(make)
    mine = reader(rig, agent)
    for text in ("one", "two ü\n", "\ud800"):
        rig.placed(agent).host.log(None, "warn", text)
    await turn(rig, agent)
    events = await read(rig, agent, mine)
    assert texts(events) == ["one", "two ü\n", "?"]
    first = events[0]
    assert (first.level, first.number, first.worker, first.boot) == ("warn", 0, rig.node.address, rig.boot)
    await rig.call(agent, b"three")
    await turn(rig, agent)
    assert texts(await read(rig, agent, mine)) == ["three"]
    assert await read(rig, agent, mine) == []


async def test_pages_hide_how_long_lines_are(make: Make) -> None:
    rig, agent = await sealed_rig(make)
    for text in ("a", "a" * 800):
        rig.placed(agent).host.log(None, "info", text)
        await turn(rig, agent)
    kept = await rig.fabric.state.scan(f"{agent.hex()}.log", "")
    assert len({len(entry.value) for _, entry in kept}) == 1


async def test_without_a_key_lines_are_dropped_and_counted(make: Make) -> None:
    rig = await make(chatty)
    rig.sealed = True
    agent = await rig.deploy()
    await rig.call(agent, b"too early")
    await turn(rig, agent)
    assert await rig.fabric.state.scan(f"{agent.hex()}.log", "") == []
    await asked(rig, agent, "log-key", statement(rig, agent))
    await rig.call(agent, b"in time")
    await turn(rig, agent)
    assert texts(await read(rig, agent, reader(rig, agent))) == ["-- 1 lines were not kept by the worker", "in time"]


WRONG: dict[str, dict[str, Any]] = {
    "of another agent": {"agent": bytes(32)},
    "of another owner": {"owner": bytes(20)},
    "with an old serial": {"serial": 1},
    "with an older serial": {"serial": 0},
}


@pytest.mark.parametrize("sentence", WRONG)
async def test_a_key_statement_is_refused(make: Make, sentence: str) -> None:
    rig, agent = await sealed_rig(make)
    got = await asked(rig, agent, "log-key", statement(rig, agent, **({"serial": 2} | WRONG[sentence])))
    assert got.code == "worker.log_key"


SPOILT: dict[str, Callable[[dict[str, Any]], Any]] = {
    "signed by somebody else": lambda b: b | {"signature": to_hex(sign_digest(NEXT, bytes(32)))},
    "with half a signature": lambda b: b | {"signature": b["signature"][:66]},
    "without a signature": lambda b: {"statement": b["statement"]},
    "with a field more": lambda b: b | {"more": 1},
    "that is a list": lambda b: b | {"statement": []},
    "with a key of another size": lambda b: b | {"statement": b["statement"] | {"key": "0x00"}},
    "with a key changed": lambda b: b | {"statement": b["statement"] | {"key": "0x" + "11" * 32}},
}


@pytest.mark.parametrize("sentence", SPOILT)
async def test_a_spoilt_key_statement_changes_nothing(make: Make, sentence: str) -> None:
    rig, agent = await sealed_rig(make)
    before = await rig.book.key(rig.placed(agent))
    got = await asked(rig, agent, "log-key", SPOILT[sentence](statement(rig, agent, serial=2)))
    assert got.code in ("worker.log_key", "encoding.field")
    assert await rig.book.key(rig.placed(agent)) == before


async def test_a_newer_serial_replaces_the_key(make: Make) -> None:
    rig, agent = await sealed_rig(make)
    mine = reader(rig, agent)
    await asked(rig, agent, "log-key", statement(rig, agent, serial=2, key=OWNER))
    other = os.urandom(32)
    said = LogKey(agent, address_of(OWNER), other, 3)
    body = {"statement": said.to_json(), "signature": to_hex(sign_digest(OWNER, said.digest(rig.world.network.id)))}
    assert (await asked(rig, agent, "log-key", body)).code == ""
    rig.placed(agent).host.log(None, "info", "for the new key")
    await turn(rig, agent)
    assert texts(await read(rig, agent, mine)) == ["-- 1 lines are sealed to another key"]


async def test_after_a_transfer_nothing_new_is_sealed_to_the_old_owner(make: Make) -> None:
    rig, agent = await sealed_rig(make)
    rig.placed(agent).host.log(None, "info", "said under the first owner")
    await turn(rig, agent)
    rig.placed(agent).host.log(None, "info", "said under the first owner, never sealed")
    rig.world.set_agent(1, owner=address_of(NEXT), epoch=2)
    await rig.follow(1)
    rig.placed(agent).host.log(None, "info", "said before the new owner has a key")
    await turn(rig, agent)
    assert (await asked(rig, agent, "logs", {})).code == "worker.not_owner"
    assert await rig.book.key(rig.placed(agent)) is None
    assert (await asked(rig, agent, "log-key", statement(rig, agent, NEXT), NEXT)).code == ""
    rig.placed(agent).host.log(None, "info", "said to the new owner")
    await turn(rig, agent)
    said = texts(await read(rig, agent, reader(rig, agent, NEXT), NEXT))
    assert said == [
        "-- 1 lines are sealed to another key",
        "-- 2 lines were not kept by the worker",
        "said to the new owner",
    ]


async def test_a_statement_of_the_old_owner_does_not_count_even_if_it_lies_in_the_state(make: Make) -> None:
    rig, agent = await sealed_rig(make)
    placed = rig.placed(agent)
    object.__setattr__(placed.record, "owner", address_of(NEXT))
    assert await rig.book.key(placed) is None


async def test_what_waits_is_capped(make: Make) -> None:
    rig, agent = await sealed_rig(make)
    log = rig.book.of(agent)
    for _ in range(40):
        log._left = 1e9
        log.line("info", "x" * 4000)
    await turn(rig, agent)
    lines = [e for e in await read(rig, agent, reader(rig, agent)) if isinstance(e, Line)]
    assert MAX_PENDING - 8000 < sum(len(line.text) for line in lines) <= MAX_PENDING
    log.line("info", "after")
    await turn(rig, agent)
    assert texts(await read(rig, agent, reader(rig, agent)))[-2:] == [
        f"-- {40 - len(lines)} lines were not kept by the worker",
        "after",
    ]


async def test_the_oldest_pages_go_first(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "MAX_PAGES", 8)
    rig, agent = await sealed_rig(make)
    for n in range(PRUNE_EVERY + 2):
        rig.world.now += 1
        rig.placed(agent).host.log(None, "info", str(n))
        await turn(rig, agent)
    kept = await rig.fabric.state.scan(f"{agent.hex()}.log", "")
    assert len(kept) == 9
    events = await read(rig, agent, reader(rig, agent))
    assert texts(events)[0] == "-- 25 older pages are kept no more"
    assert isinstance(events[0], Gap)
    assert not events[0].lost
    assert texts(events)[1:] == [str(n) for n in range(25, 34)]


async def test_a_page_that_could_not_be_kept_is_missed_by_the_reader(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, agent = await sealed_rig(make)
    host, commit = rig.placed(agent).host, rig.fabric.state.commit

    async def refuse(name: str, tx: Tx) -> Any:
        raise UNKNOWN_OUTCOME(expected="a commit", found="none")

    for n, broken in enumerate((False, True, False)):
        host.log(None, "info", str(n))
        monkeypatch.setattr(rig.fabric.state, "commit", refuse if broken else commit)
        if broken:
            with pytest.raises(CloisterError):
                await turn(rig, agent)
            continue
        await turn(rig, agent)
    said = texts(await read(rig, agent, reader(rig, agent)))
    assert said == ["0", "-- 1 pages are missing from the store", "2"]


async def test_the_last_page_says_so(make: Make) -> None:
    rig, agent = await sealed_rig(make)
    mine = reader(rig, agent)
    rig.placed(agent).host.log(None, "info", "one")
    await turn(rig, agent)
    await read(rig, agent, mine)
    assert texts(mine.unfinished(set())) == ["-- no last word of this worker: later lines may be missing"]
    mine = reader(rig, agent)
    await turn(rig, agent, last=True)
    await read(rig, agent, mine)
    assert mine.unfinished(set()) == []


async def test_a_long_log_comes_in_several_answers(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "MAX_ANSWER", 5000)
    rig, agent = await sealed_rig(make)
    for n in range(10):
        rig.placed(agent).host.log(None, "info", str(n))
        await turn(rig, agent)
    mine, said, rounds, more = reader(rig, agent), [], 0, True
    while more:
        answer = json.loads((await asked(rig, agent, "logs", {"have": mine.have()})).body)
        more, rounds = answer["more"], rounds + 1
        said += [t for page in answer["pages"] for t in texts(mine.take(base64.b64decode(page)))]
    assert said == [str(n) for n in range(10)]
    assert rounds > 2


# --- owners that are contracts ---

SAFE, WORD = b"\xa7" * 20, b"\x5a" * 32


async def contract_rig(make: Make, word: bytes = WORD) -> tuple[Rig, bytes, X25519PrivateKey]:
    """A worker, an agent of a contract account that takes signatures that begin with ``word``, a reader's key."""
    rig = await make(chatty)
    rig.sealed = True
    rig.world.others[SAFE] = Other(hooks.SIGNER, {0: int.from_bytes(word, "big")})
    agent = await rig.deploy(owner=SAFE)
    return rig, agent, log_key(Wallet(NEXT), rig.world.network.id, agent)


async def as_contract(rig: Rig, agent: bytes, what: str, body: Any) -> Got:
    session = rig.session(agent)
    session.authenticate(SAFE, int(rig.world.now) + 3600, lambda digest: WORD, kind="contract")
    path = f"/.well-known/cloister/owner/{what}"
    return await rig.call(agent, json.dumps(body).encode(), session=session, path=path)


def of_contract(agent: bytes, key: X25519PrivateKey, word: bytes = WORD, serial: int = 1) -> dict[str, Any]:
    said = LogKey(agent, SAFE, key.public_key().public_bytes_raw(), serial)
    return {"statement": said.to_json(), "signature": to_hex(word)}


async def kept(rig: Rig, agent: bytes, text: str) -> bool:
    """Whether a line is kept that is logged now."""
    before = await rig.fabric.state.scan(f"{agent.hex()}.log", "")
    rig.placed(agent).host.log(None, "info", text)
    await turn(rig, agent)
    return len(await rig.fabric.state.scan(f"{agent.hex()}.log", "")) > len(before)


async def test_a_contract_that_owns_an_agent_says_who_reads_its_log(make: Make) -> None:
    rig, agent, key = await contract_rig(make)
    assert not await kept(rig, agent, "too early")
    assert (await as_contract(rig, agent, "log-key", of_contract(agent, key))).code == ""
    assert await kept(rig, agent, "one")
    answer = json.loads((await as_contract(rig, agent, "logs", {"have": {}})).body)
    mine = LogReader(rig.world.network.id, agent, key)
    events = [event for page in answer["pages"] for event in mine.take(base64.b64decode(page))]
    assert texts(events) == ["-- 1 lines were not kept by the worker", "one"]


async def test_a_word_that_the_contract_does_not_take_publishes_nothing(make: Make) -> None:
    rig, agent, key = await contract_rig(make)
    for word in (b"\x5b" * 32, b"", b"\x5b" * 65, WORD[:31]):
        assert (await as_contract(rig, agent, "log-key", of_contract(agent, key, word))).code == "worker.log_key"
    long = await as_contract(rig, agent, "log-key", of_contract(agent, key, WORD + bytes(work.MAX_SIGNATURE)))
    assert long.code == "worker.log_key"
    assert not await kept(rig, agent, "nobody's")


async def test_a_contract_that_takes_its_word_back_gets_no_more_lines(make: Make) -> None:
    rig, agent, key = await contract_rig(make)
    await as_contract(rig, agent, "log-key", of_contract(agent, key))
    assert await kept(rig, agent, "one")
    rig.world.others[SAFE] = Other(hooks.SIGNER, {0: 1})
    await rig.follow(1)
    assert not await kept(rig, agent, "two"), "from the next checkpoint on"
    rig.world.others[SAFE] = Other(hooks.SIGNER, {0: int.from_bytes(WORD, "big")})
    await rig.follow(1)
    assert await kept(rig, agent, "three")


async def test_a_contract_is_asked_once_per_checkpoint(make: Make) -> None:
    rig, agent, key = await contract_rig(make)
    await as_contract(rig, agent, "log-key", of_contract(agent, key))
    asked: list[bytes] = []

    async def counting(account: bytes, digest: bytes, signature: bytes) -> None:
        asked.append(account)

    rig.book._signed = counting
    await rig.follow(1)
    for number in range(3):
        assert await kept(rig, agent, str(number))
    assert asked == [SAFE]


async def test_a_contract_that_cannot_be_asked_loses_no_line_and_holds_up_no_other_agent(make: Make) -> None:
    rig, agent, key = await contract_rig(make)
    other = await rig.deploy(2, owner=address_of(OWNER))
    await asked(rig, other, "log-key", statement(rig, other))
    await as_contract(rig, agent, "log-key", of_contract(agent, key))

    async def down(account: bytes, digest: bytes, signature: bytes) -> None:
        raise UNKNOWN_OUTCOME(expected="an answer", found="none")

    real, rig.book._signed = rig.book._signed, down
    await rig.follow(1)
    for name in (agent, other):
        rig.placed(name).host.log(None, "info", "waits")
    with pytest.raises(CloisterError):
        await rig.book.turn([rig.placed(agent), rig.placed(other)])
    assert len(await rig.fabric.state.scan(f"{other.hex()}.log", "")) == 1
    assert await rig.fabric.state.scan(f"{agent.hex()}.log", "") == []
    rig.book._signed = real
    await turn(rig, agent)
    assert len(await rig.fabric.state.scan(f"{agent.hex()}.log", "")) == 1


async def test_a_wallets_word_is_none_of_a_contracts(make: Make) -> None:
    rig, agent, key = await contract_rig(make)
    said = LogKey(agent, SAFE, key.public_key().public_bytes_raw(), 1)
    forged = to_hex(sign_digest(NEXT, said.digest(rig.world.network.id)))
    got = await as_contract(rig, agent, "log-key", {"statement": said.to_json(), "signature": forged})
    assert got.code == "worker.log_key"

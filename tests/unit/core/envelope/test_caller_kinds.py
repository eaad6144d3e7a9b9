"""Callers of every kind at the envelope: forms, what is bound, what is left for the worker (spec/sealed-http.md 9)."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest

from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.encoding.statements import CallerSession
from cloister.core.envelope.apikey import ApiKey
from cloister.core.envelope.client import ClientSession
from cloister.core.envelope.model import MAX_SIGNATURE, AgentProof, Caller
from cloister.core.envelope.server import OpenRequest, SealedRefusalError
from cloister.core.errors import CloisterError
from support.sealed import AGENT, BOOT, NETWORK, NOW, World, answer, head, key

WALLET = key(55)
ACCOUNT = b"\xac" * 20
SOON = NOW // 1000 + 60
HEX20, HEX32, HEX65 = ("0x" + "ab" * n for n in (20, 32, 65))


def as_contract(session: ClientSession, word: bytes = b"word", expiry: int = SOON) -> ClientSession:
    session.authenticate(ACCOUNT, expiry, lambda digest: word, kind="contract")
    return session


def as_key(session: ClientSession, api_key: ApiKey, expiry: int = SOON) -> ClientSession:
    session.authenticate(api_key.address, expiry, api_key.sign, kind=api_key.kind)
    return session


def opened(world: World, **changes: Any) -> OpenRequest:
    return world.open(world.seal(**changes).data)


def session_digest(world: World, expiry: int = SOON) -> bytes:
    return CallerSession(AGENT, BOOT, world.client.exporter, expiry).digest(NETWORK)


def test_a_contracts_word_reaches_the_worker_with_the_digest_of_this_session() -> None:
    world = World()
    as_contract(world.client)
    caller = opened(world).caller
    assert caller is not None
    assert (caller.kind, caller.address, caller.expiry, caller.agent) == ("contract", ACCOUNT, SOON, None)
    assert caller.claim is not None
    assert (caller.claim.digest, caller.claim.word) == (session_digest(world), b"word")


def test_an_api_keys_mac_reaches_the_worker_and_its_secret_does_not() -> None:
    world, api_key = World(), ApiKey(os.urandom(32))
    as_key(world.client, api_key)
    request = opened(world)
    assert request.caller is not None
    assert request.caller.claim is not None
    assert (request.caller.kind, request.caller.address) == ("apikey", api_key.address)
    assert request.caller.claim.word == api_key.sign(session_digest(world))
    assert api_key.text[5:].encode() not in request.head_bytes
    assert api_key.mac.hex().encode() not in request.head_bytes


def test_a_wallet_leaves_nothing_to_verify() -> None:
    world = World()
    world.client.authenticate(address_of(WALLET), SOON, lambda digest: sign_digest(WALLET, digest))
    request = opened(world)
    assert request.caller is not None
    assert (request.caller.kind, request.caller.claim) == ("wallet", None)
    assert b'"kind"' not in request.head_bytes, "a wallet's head is as it was before there were kinds"


def test_later_requests_inherit_the_claim() -> None:
    """So the worker asks again at every request: nothing that was true once is believed for ever."""
    world = World()
    as_contract(world.client)
    first = world.seal()
    request = world.open(first.data)
    first.opener.feed(answer(request))
    later = opened(world)
    assert later.head.caller is None
    assert later.caller == request.caller


def test_a_newer_word_replaces_the_older_one() -> None:
    world = World()
    as_contract(world.client, b"one")
    opened(world)
    as_contract(world.client, b"two", SOON + 5)
    caller = opened(world).caller
    assert caller is not None
    assert caller.claim is not None
    assert (caller.claim.word, caller.expiry) == (b"two", SOON + 5)
    assert caller.claim.digest == session_digest(world, SOON + 5)


@pytest.mark.parametrize("kind", ["contract", "apikey"])
def test_a_claim_ends_at_its_expiry(kind: str) -> None:
    world = World()
    if kind == "contract":
        as_contract(world.client, expiry=NOW // 1000 + 10)
    else:
        as_key(world.client, ApiKey(os.urandom(32)), NOW // 1000 + 10)
    record = world.seal(deadline_ms=NOW + 60_000).data
    with pytest.raises(CloisterError, match=r"envelope\.caller"):
        world.open(record, NOW + 10_000)


@pytest.mark.parametrize("second", ["contract", "wallet", "apikey"])
@pytest.mark.parametrize("first", ["contract", "wallet", "apikey"])
def test_a_session_keeps_the_kind_and_address_that_it_began_with(first: str, second: str) -> None:
    """The same 20 bytes as a wallet, a contract or a key are three callers."""
    world = World()

    def join(kind: Any) -> None:
        words = {"wallet": lambda d: sign_digest(WALLET, d), "contract": lambda d: b"w", "apikey": lambda d: bytes(32)}
        world.client.authenticate(address_of(WALLET), SOON, words[kind], kind=kind)

    join(first)
    opened(world)
    join(second)
    if first == second:
        assert opened(world).caller is not None
        return
    with pytest.raises(SealedRefusalError, match=r"envelope\.caller"):
        opened(world)


@pytest.mark.parametrize(
    ("why", "caller", "code"),
    [
        ("a wallet's signature is 65 bytes", Caller(HEX20, SOON, HEX32), "encoding.hex"),
        ("a key's MAC is 32 bytes", Caller(HEX20, SOON, HEX65, kind="apikey"), "encoding.hex"),
        ("a key's id is 20 bytes", Caller(HEX32, SOON, HEX32, kind="apikey"), "encoding.hex"),
        ("an account is 20 bytes", Caller(HEX32, SOON, HEX65, kind="contract"), "encoding.hex"),
        ("a signature is hex", Caller(HEX20, SOON, "0xz", kind="contract"), "encoding.hex"),
        (
            "a contract's signature has a cap",
            Caller(HEX20, SOON, "0x" + "00" * (MAX_SIGNATURE + 1), kind="contract"),
            "encoding.hex",
        ),
        (
            "an agent calls by its wallet",
            Caller(HEX20, SOON, HEX65, AgentProof({}, HEX65), kind="contract"),
            "envelope.caller",
        ),
        ("nor by a key", Caller(HEX20, SOON, HEX32, AgentProof({}, HEX65), kind="apikey"), "envelope.caller"),
        ("another address's signature", Caller(HEX20, SOON, HEX65), "envelope.caller"),
        ("an expiry that is past", Caller(HEX20, NOW // 1000, HEX65, kind="contract"), "envelope.caller"),
    ],
)
def test_what_is_out_of_form_is_refused_inside_the_seal(why: str, caller: Caller, code: str) -> None:
    world = World()
    with pytest.raises(SealedRefusalError) as caught:
        opened(world, caller=caller)
    assert caught.value.code == code, why


@pytest.mark.parametrize("size", [0, 1, 65, MAX_SIGNATURE])
def test_a_contracts_signature_has_any_size_up_to_the_cap(size: int) -> None:
    world = World()
    as_contract(world.client, bytes(size))
    caller = opened(world).caller
    assert caller is not None
    assert caller.claim is not None
    assert len(caller.claim.word) == size


@pytest.mark.parametrize("kind", ["Wallet", "", "nobody", 1, None])
def test_another_kind_is_no_head(kind: object) -> None:
    raw = msgspec.to_builtins(head(caller=Caller(HEX20, SOON, HEX65)))
    raw["c"]["kind"] = kind
    from cloister.core.envelope.model import decode_request_head

    with pytest.raises(CloisterError, match=r"envelope\.head"):
        decode_request_head(msgspec.json.encode(raw))


def test_a_claim_does_not_show_its_word() -> None:
    world = World()
    as_contract(world.client, b"\x5e\xc7" * 16)
    assert "5ec7" not in repr(opened(world).caller)
    assert "\\x5e" not in repr(opened(world).caller)

"""What a broken worker that kept its keys, and a host that owns the store, can do after a bump: nothing that counts."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.core.encoding.identity import Purpose
from cloister.core.errors import CloisterError
from cloister.core.policy.identities import granted_identities
from cloister.core.state.heads import HEAD_SLOT, HeadRecord
from cloister.core.state.index import Bucket, Item, bucket_of, bucket_slot
from cloister.core.threshold.groups import hash_identity, to_bytes
from cloister.core.threshold.ibe import DerivedKey, decrypt, encrypt
from cloister.fabric.embedded import open_fabric
from cloister.fabric.ports import Expect, Put, Tx
from support.fake_world import MPK, ROOT
from support.reseal_kit import ONE, TWO, Shop, state_keys, version
from support.state_kit import AGENT, counter_rng


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    fabric = await open_fabric(tmp_path / "fabric")
    shop = Shop(fabric)
    state = await shop.state(ONE)
    await shop.write(state, balance=b"100", other=b"1")
    await shop.endorsed(state, ONE)
    yield shop
    await fabric.close()


async def host_writes(shop: Shop, name: str, blobs: dict[str, bytes]) -> None:
    puts = {key: Put(value, Expect.ANY) for key, value in blobs.items()}
    await shop.store.commit(AGENT.hex(), Tx(name, puts))


async def forged(shop: Shop, value: bytes) -> dict[str, bytes]:
    """What a holder of the old key makes: another value, its bucket, and a record of the very head that is endorsed."""
    old, rng = state_keys(ONE), counter_rng(b"thief")
    entry = await shop.head_blob()
    assert entry is not None
    record = HeadRecord.parse(old.open_at(HEAD_SLOT, entry.value).value)
    stored = old.name("balance")
    number = bucket_of(stored)
    kept = await shop.store.get(AGENT.hex(), bucket_slot(number))
    assert kept is not None
    blob = old.seal("balance", value, record.height, rng)
    bucket = Bucket.parse(old.open_at(bucket_slot(number), kept.value).value)
    bucket = bucket.with_item("balance", Item(len(value), hashlib.sha256(blob).digest()))
    sealed = old.seal_at(bucket_slot(number), "", bytes(bucket), record.height, rng)
    fake = replace(record, index={**record.index, number: hashlib.sha256(sealed).digest()})
    head = old.seal_at(HEAD_SLOT, "", bytes(fake), record.height, rng)
    return {stored: blob, bucket_slot(number): sealed, HEAD_SLOT: head}


async def code_of(work: object) -> str:
    with pytest.raises(CloisterError) as caught:
        await work  # type: ignore[misc]
    return caught.value.code


async def test_values_forged_under_a_kept_key_are_not_moved_to_the_new_epochs(shop: Shop) -> None:
    """The endorsed head pins the index: a record of it with another index is no record."""
    await host_writes(shop, "thief", await forged(shop, b"999"))
    assert await code_of(shop.reseal(TWO)) == "state.tampered"
    assert shop.sealed() == ONE


async def test_a_value_alone_is_not_either(shop: Shop) -> None:
    blobs = await forged(shop, b"999")
    value = {key: blob for key, blob in blobs.items() if key == state_keys(ONE).name("balance")}
    await host_writes(shop, "thief", value)
    await shop.reseal(TWO)
    assert (await shop.contents(TWO))["balance"] == b"100", "the store's history still has the true one"


async def test_a_head_made_with_kept_keys_after_the_bump_is_endorsed_by_nobody(shop: Shop) -> None:
    await shop.reseal(TWO)
    record = (await (await shop.state(TWO)).snapshot()).record
    from cloister.core.state.heads import Link

    for height, parent in ((record.height + 1, record.head), (record.height, record.parent)):
        link = Link(height, parent, b"\x66" * 32)
        assert await code_of(shop.endorse(ONE, [link])) == "state.rolled_back"


async def test_a_store_written_with_kept_keys_after_the_bump_is_refused(shop: Shop) -> None:
    old = await forged(shop, b"999")
    await shop.reseal(TWO)
    await host_writes(shop, "thief", old)
    assert await code_of(shop.state(TWO)) == "state.tampered"


async def test_kept_keys_open_nothing_that_is_written_after_the_move(shop: Shop) -> None:
    await shop.reseal(TWO)
    state = await shop.state(TWO)
    await shop.write(state, secret=b"new")
    old = state_keys(ONE)
    for key, entry in await shop.store.scan(AGENT.hex(), "", 10_000):
        for place in (key, HEAD_SLOT):
            with pytest.raises(CloisterError):
                old.open_at(place, entry.value)


def test_kept_call_keys_open_no_call_of_a_later_period_or_epoch() -> None:
    """A worker keeps what a lease gave it: call keys of two periods. A caller seals to the period and epochs of now."""
    kept = {bytes(i): DerivedKey(to_bytes(hash_identity(bytes(i)) * ROOT)) for i in granted_identities(version(ONE), 7)}
    later = [version(ONE).key(Purpose.CALL, 9), version(TWO).key(Purpose.CALL, 7), version(TWO).key(Purpose.CALL, 8)]
    for identity in later:
        assert bytes(identity) not in kept
        sealed = encrypt(MPK, bytes(identity), b"pre-shared key", b"aad", counter_rng(b"caller"))
        for known, key in kept.items():
            for claimed in (bytes(identity), known):
                with pytest.raises(CloisterError):
                    decrypt(key, MPK, claimed, sealed, b"aad")

"""Receipts that the client keeps: private, append only, torn lines left out."""

from __future__ import annotations

import json
import stat
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.client.receipts import NOT_KEPT, Kept, Ledger
from cloister.core.errors import CloisterError


async def made(net: Any, count: int = 3, **options: Any) -> list[Any]:
    async with net.client(**options) as client:
        agent = await client.agent(net.agent)
        return [await agent.get(f"/{i}") for i in range(count)]


async def test_receipts_are_kept_newest_first(net: Any) -> None:
    replies = await made(net)
    ledger = Ledger(net.client().home)
    assert [k.receipt.id for k in ledger.newest()] == [r.receipt.id for r in reversed(replies)]
    assert [k.receipt.id for k in ledger.newest(1)] == [replies[-1].receipt.id]
    assert list(ledger.newest(agent=bytes(32))) == []
    path = next((net.home / "receipts").iterdir())
    assert path.name == "2027-01-15.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_receipt_is_found_by_id_or_prefix(net: Any) -> None:
    reply = (await made(net))[1]
    ledger = Ledger(net.client().home)
    assert ledger.load(reply.receipt.id).receipt == reply.receipt
    assert ledger.load(reply.receipt.id[:6]).raw == reply.receipt.encoded
    for wrong in (b"", reply.receipt.id[:3], bytes(32)):
        with pytest.raises(CloisterError) as caught:
            ledger.load(wrong)
        assert caught.value.code == NOT_KEPT.code


async def test_what_is_kept_names_no_path_and_no_body(net: Any) -> None:
    async with net.client() as client:
        await (await client.agent(net.agent)).post("/diary?of=alice", body=b"dear diary")
    text = next((net.home / "receipts").iterdir()).read_text()
    assert "diary" not in text
    assert "alice" not in text


async def test_keeping_can_be_turned_off(net: Any) -> None:
    await made(net, keep_receipts=False)
    assert not (net.home / "receipts").exists()


async def test_a_torn_line_is_left_out(net: Any) -> None:
    await made(net)
    path = next((net.home / "receipts").iterdir())
    path.write_bytes(path.read_bytes() + b'{"receipt": "torn')
    assert len(list(Ledger(net.client().home).newest())) == 3


async def test_a_kept_receipt_travels_as_json(net: Any) -> None:
    await made(net, 1)
    kept = next(Ledger(net.client().home).newest())
    assert Kept.parse(json.dumps(kept.to_json()).encode()) == kept
    for name in ("receipt", "signature", "salt", "seat", "at"):
        broken = {k: v for k, v in kept.to_json().items() if k != name}
        with pytest.raises(CloisterError):
            Kept.from_json(broken)


@given(st.binary(max_size=200))
def test_garbage_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(CloisterError):
        Kept.parse(data)

"""The embedded chain: pinned program, clock mining, state over restarts, nothing left behind."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from cloister.chain.anvil import PACKAGE, VERSION, Anvil, command, ensure_anvil, free_port
from cloister.chain.headers import fetch_header
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.core.encoding.signatures import address_of
from cloister.core.errors import ChainError
from support.anvil import CACHE, TestChain, test_key


def test_the_program_is_the_pinned_one(tmp_path: Path) -> None:
    binary = ensure_anvil(CACHE)
    copy = tmp_path / "npm" / "registry" / PACKAGE / VERSION / "bin" / "anvil"
    copy.parent.mkdir(parents=True)
    shutil.copy(binary, copy)
    assert ensure_anvil(tmp_path) == copy
    with copy.open("r+b") as file:
        file.write(b"#!/bin/sh")
    with pytest.raises(ChainError) as caught:
        ensure_anvil(tmp_path)
    assert caught.value.code == "chain.no_anvil"


def test_without_deno_and_without_a_copy_the_refusal_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ChainError) as caught:
        ensure_anvil(tmp_path)
    assert caught.value.code == "chain.no_anvil"


def test_the_flags_that_the_measurements_ask_for(tmp_path: Path) -> None:
    line = command(Path("anvil"), 5, 7, tmp_path / "s.json")
    text = " ".join(line)
    for flag in (
        "--hardfork osaka", "--slots-in-an-epoch 1", "--prune-history 64", "--block-time 1", "--host 127.0.0.1",
        "--state-interval 10", "--chain-id 7", "--port 5", "--quiet",
    ):  # fmt: skip
        assert flag in text
    assert "--no-mining" not in text


async def test_state_survives_a_restart_and_block_zero_stays(tmp_path: Path) -> None:
    key = test_key("restart")
    first = Anvil(ensure_anvil(CACHE), tmp_path / "chain.json", block_time=0.2).start()
    try:
        pid = first.pid
        first.fund(address_of(key))
        async with Rpc(first.url) as rpc:
            await Sender(rpc, key, first.chain_id).send(b"\x61" * 20, value=5)
            genesis = await fetch_header(rpc, 0)
    finally:
        first.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    first.stop()  # a second time does nothing
    with Anvil(first.binary, first.state, first.chain_id, block_time=0.2) as again:
        async with Rpc(again.url) as rpc:
            assert await rpc.call("eth_getBalance", "0x" + "61" * 20, "latest") == "0x5"
            assert await fetch_header(rpc, 0) == genesis
    with pytest.raises(RuntimeError):
        _ = again.pid


async def test_blocks_come_by_the_clock_and_finality_trails(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        before = await fetch_header(rpc, "latest")
        for _ in range(100):
            after = await fetch_header(rpc, "latest")
            if after.number >= before.number + 3:
                break
            await asyncio.sleep(0.05)
        assert after.number >= before.number + 3, "blocks without transactions"
        final = await fetch_header(rpc, "finalized")
        assert 0 < final.number < (await fetch_header(rpc, "latest")).number


def test_two_chains_have_two_ids(tmp_path: Path, chain: TestChain) -> None:
    with Anvil(ensure_anvil(CACHE), tmp_path / "chain.json") as other:
        assert other.chain_id != chain.chain_id
        assert other.rpc("eth_chainId") == hex(other.chain_id)


def test_a_program_that_ends_at_once_is_named(tmp_path: Path) -> None:
    with pytest.raises(ChainError) as caught:
        Anvil(Path(shutil.which("false") or "/bin/false"), tmp_path / "chain.json").start()
    assert caught.value.code == "chain.anvil_died"


def test_a_program_that_never_answers_is_stopped(tmp_path: Path) -> None:
    script = tmp_path / "mute"
    script.write_text("#!/bin/sh\nexec sleep 60\n", encoding="utf-8")
    script.chmod(0o755)
    mute = Anvil(script, tmp_path / "chain.json")
    with pytest.raises(ChainError) as caught:
        mute.start(timeout=0.2)
    assert caught.value.code == "chain.anvil_died"
    with pytest.raises(RuntimeError):
        _ = mute.pid


def test_free_ports_are_ports() -> None:
    assert 1024 <= free_port() < 65536

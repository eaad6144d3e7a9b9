"""Wallets: keystore files that never show their key."""

from __future__ import annotations

import json
import pickle
import stat
from pathlib import Path
from typing import Any

import pytest

from cloister.client.home import BAD_NAME
from cloister.client.wallet import BAD_KEY, EXISTS, UNKNOWN, Wallet, list_wallets, shown
from cloister.core.encoding.signatures import verify_signer
from cloister.core.errors import CloisterError
from cloister.core.keys.keystore import BAD_DOCUMENT, WRONG_PASSPHRASE

FAST = 1 << 8
KEY = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
ADDRESS = "0x2c7536E3605D9C16a7a3D7b1898e529396a65c23"


def code_of(work: Any) -> str:
    with pytest.raises(CloisterError) as caught:
        work()
    return caught.value.code


def test_a_new_wallet_opens_with_its_passphrase_only(tmp_path: Path) -> None:
    made = Wallet.create("alice", "correct horse", home=tmp_path, cost=FAST)
    assert Wallet.load("alice", "correct horse", home=tmp_path).address == made.address
    assert code_of(lambda: Wallet.load("alice", "wrong", home=tmp_path)) == WRONG_PASSPHRASE.code
    assert stat.S_IMODE(Wallet.file("alice", home=tmp_path).stat().st_mode) == 0o600


def test_a_known_key_has_its_known_address(tmp_path: Path) -> None:
    for i, text in enumerate((KEY, "0x" + KEY, f" {KEY}\n", bytes.fromhex(KEY))):
        wallet = Wallet.restore(f"w{i}", text, "p", home=tmp_path, cost=FAST)
        assert shown(wallet.address) == ADDRESS
    assert list_wallets(tmp_path) == [{"name": f"w{i}", "address": ADDRESS} for i in range(4)]


@pytest.mark.parametrize("bad", ["", "zz", KEY[:-2], "00" * 32, "ff" * 32, b"short"])
def test_what_is_no_key_is_refused(bad: Any, tmp_path: Path) -> None:
    assert code_of(lambda: Wallet.restore("x", bad, "p", home=tmp_path, cost=FAST)) == BAD_KEY.code


def test_a_wallet_is_never_overwritten(tmp_path: Path) -> None:
    first = Wallet.create("alice", "p", home=tmp_path, cost=FAST)
    assert code_of(lambda: Wallet.create("alice", "p", home=tmp_path, cost=FAST)) == EXISTS.code
    assert Wallet.load("alice", "p", home=tmp_path).address == first.address


def test_unknown_and_strange_names(tmp_path: Path) -> None:
    assert code_of(lambda: Wallet.load("nobody", "p", home=tmp_path)) == UNKNOWN.code
    assert code_of(lambda: Wallet.load("../nobody", "p", home=tmp_path)) == BAD_NAME.code


def test_files_that_are_no_keystores(tmp_path: Path) -> None:
    for i, data in enumerate((b"", b"[]", b"\xff", b"{}", json.dumps({"version": 4}).encode())):
        path = tmp_path / f"{i}.json"
        path.write_bytes(data)
        assert code_of(lambda p=path: Wallet.open(p, "p")) == BAD_DOCUMENT.code


def test_the_key_is_not_shown_and_not_pickled(tmp_path: Path) -> None:
    wallet = Wallet.restore("alice", KEY, "p", home=tmp_path, cost=FAST)
    assert repr(wallet) == f"Wallet(alice, {ADDRESS})"
    assert KEY not in repr(vars(type(wallet)))
    with pytest.raises(TypeError):
        pickle.dumps(wallet)


def test_a_wallet_signs(tmp_path: Path) -> None:
    wallet = Wallet.create("alice", "p", home=tmp_path, cost=FAST)
    verify_signer(b"\x01" * 32, wallet.sign(b"\x01" * 32), wallet.address)


def test_a_list_survives_a_file_without_an_address(tmp_path: Path) -> None:
    Wallet.create("alice", "p", home=tmp_path, cost=FAST)
    path = Wallet.file("alice", home=tmp_path)
    for address in (None, "0xzz", "0x12"):
        document = json.loads(path.read_text())
        document["address"] = address
        path.write_text(json.dumps(document))
        assert list_wallets(tmp_path)[0]["address"] == "not said"

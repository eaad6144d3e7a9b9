"""Named wallets: Web3 keystore files (version 3) in ``HOME/wallets``, which other Ethereum tools open too.

A passphrase comes from a prompt or a file descriptor; the SDK takes it as an argument and never reads it from the
command line or the environment. The key stays in this process and is in no repr and no error text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coincurve import PrivateKey

from cloister.client.home import Home, read_file, write_private
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.keccak import to_checksum
from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.envelope.model import CallerKind
from cloister.core.errors import ConfigError, define
from cloister.core.keys.keystore import BAD_DOCUMENT, DEFAULT_N, decrypt_key, encrypt_key

MAX_KEYSTORE = 64 << 10
FOLDER = "wallets"

EXISTS = define(
    "client.wallet_exists",
    ConfigError,
    check="no wallet has this name yet",
    remedy="choose another name; a wallet is never overwritten",
)
UNKNOWN = define(
    "client.wallet_unknown",
    ConfigError,
    check="a wallet of this name exists",
    remedy="see `cloister wallet list`, or make one with `cloister wallet new NAME`",
)
BAD_KEY = define(
    "client.wallet_key",
    ConfigError,
    check="a private key is 32 bytes in hex and a valid secp256k1 scalar",
    remedy="export the key again from the wallet that made it",
)


class Wallet:
    """A person's or program's secp256k1 key. ``address``: 20 bytes. Sends transactions and opens caller sessions."""

    __slots__ = ("_key", "address", "name")

    def __init__(self, key: PrivateKey, name: str = "") -> None:
        self._key = key
        self.name = name
        self.address = address_of(key)

    def __repr__(self) -> str:
        return f"Wallet({self.name or 'unnamed'}, {to_checksum(self.address)})"

    def __reduce__(self) -> Any:
        raise TypeError("a wallet is not pickled: its key stays in this process")

    @property
    def key(self) -> PrivateKey:
        """The key itself, for code that builds transactions. Do not log it."""
        return self._key

    @property
    def agent(self) -> None:
        """A person's wallet is no agent's key."""

    @property
    def kind(self) -> CallerKind:
        """A wallet signs for itself."""
        return "wallet"

    def sign(self, digest: bytes) -> bytes:
        """65-byte signature over a 32-byte digest."""
        return sign_digest(self._key, digest)

    @classmethod
    def load(cls, name: str, passphrase: str, *, home: Home | str | Path | None = None) -> Wallet:
        """Open ``HOME/wallets/NAME.json``. Raises ConfigError (client.wallet_unknown) or SealError (passphrase)."""
        return cls.open(cls.file(name, home=home), passphrase)

    @classmethod
    def open(cls, path: Path, passphrase: str) -> Wallet:
        """Open a keystore file anywhere. Raises ConfigError or SealError."""
        document = _document(path)
        return cls(PrivateKey(decrypt_key(document, passphrase)), path.stem)

    @classmethod
    def create(
        cls,
        name: str,
        passphrase: str,
        *,
        home: Home | str | Path | None = None,
        rng: Callable[[int], bytes] = os.urandom,
        cost: int = DEFAULT_N,
    ) -> Wallet:
        """A new key, saved under ``name``. ``cost`` is scrypt's n. Raises ConfigError (client.wallet_exists)."""
        while True:
            secret = rng(32)
            if _valid(secret):
                return cls.restore(name, secret, passphrase, home=home, rng=rng, cost=cost)

    @classmethod
    def restore(
        cls,
        name: str,
        secret: bytes | str,
        passphrase: str,
        *,
        home: Home | str | Path | None = None,
        rng: Callable[[int], bytes] = os.urandom,
        cost: int = DEFAULT_N,
    ) -> Wallet:
        """Save an existing 32-byte private key (bytes or hex) under ``name``. Raises ConfigError."""
        path = _path(name, home)
        if path.exists():
            raise EXISTS(expected=f"no {name} yet", found=str(path))
        raw = secret if isinstance(secret, bytes) else _from_hex(secret)
        if not _valid(raw):
            raise BAD_KEY(expected="32 bytes that are a key", found=f"{len(raw)} bytes that are none")
        write_private(path, json.dumps(encrypt_key(raw, passphrase, rng, cost), indent=1).encode())
        return cls(PrivateKey(raw), name)

    @classmethod
    def file(cls, name: str, *, home: Home | str | Path | None = None) -> Path:
        """The keystore file of a named wallet. Raises ConfigError (client.wallet_unknown)."""
        path = _path(name, home)
        if not path.exists():
            raise UNKNOWN(
                expected=f"a wallet named {name}", found=", ".join(_home(home).names(FOLDER, ".json")) or "none"
            )
        return path


def list_wallets(home: Home | str | Path | None = None) -> list[dict[str, str]]:
    """[{name, address}] of every wallet, without opening one: addresses are what the files say, not proof."""
    where = _home(home)
    found = []
    for name in where.names(FOLDER, ".json"):
        address = _document(_path(name, where)).get("address")
        text = str(address).removeprefix("0x") if address else ""
        found.append({"name": name, "address": _shown(text)})
    return found


def _shown(text: str) -> str:
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        return "not said"
    return to_checksum(raw) if len(raw) == 20 else "not said"


def _document(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_file(path, MAX_KEYSTORE))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BAD_DOCUMENT(expected=f"a keystore in {path}", found="something else")
    return value


def _home(home: Home | str | Path | None) -> Home:
    return home if isinstance(home, Home) else Home.at(home)


def _path(name: str, home: Home | str | Path | None) -> Path:
    return _home(home).file(FOLDER, f"{name}.json")


def _from_hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text.strip().removeprefix("0x"))
    except ValueError:
        raise BAD_KEY(expected="64 hex digits", found=f"{len(text)} characters of another form") from None


def _valid(secret: bytes) -> bool:
    if len(secret) != 32:
        return False
    try:
        PrivateKey(secret)
    except ValueError:
        return False
    return True


def shown(address: bytes) -> str:
    """An address as people know it: EIP-55 for 20 bytes, plain hex for anything else."""
    return to_checksum(address) if len(address) == 20 else to_hex(address)

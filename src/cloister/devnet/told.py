"""What a running network leaves in its folder for other programs and for people: devnet.json, and its owner's key."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from coincurve import PrivateKey

from cloister.core.encoding.keccak import keccak256
from cloister.core.keys.keystore import encrypt_key
from cloister.devnet.layout import Layout, write_json, write_private

API_KEY_FILE: Final = "api-key"


def keep_owner(layout: Layout, owner: PrivateKey) -> dict[str, str]:
    """The owner's keystore and its passphrase as files, once; where they are. Test money is all that it holds."""
    passphrase, keystore = layout.home / "owner.passphrase", layout.home / "owner.keystore.json"
    if not keystore.exists():
        phrase = secrets.token_urlsafe(24)
        write_private(passphrase, phrase.encode())
        write_json(keystore, encrypt_key(owner.secret, phrase, secrets.token_bytes, n=1 << 13))
    return {"owner_keystore": str(keystore), "owner_passphrase_file": str(passphrase)}


def read_devnet_file(home: Path) -> Mapping[str, Any] | None:
    """devnet.json of a running network, or None."""
    try:
        value = json.loads((home / "devnet.json").read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def operator_address(name: str) -> bytes:
    """A devnet operator: an address that nobody holds the key of, different for every name."""
    return keccak256(b"cloister devnet ", name.encode())[-20:]

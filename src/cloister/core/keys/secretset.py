"""An agent's secrets, each sealed for itself, so that one is set or removed without the others (spec/secrets.md).

The document names each secret and holds its ciphertext. Its hash stands on chain: nobody but the owner changes the set.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from cloister.core.encoding import jcs
from cloister.core.encoding.contexts import Context, frame
from cloister.core.encoding.hexes import need_bytes
from cloister.core.encoding.identity import AgentVersion, Purpose
from cloister.core.errors import CloisterError, SealError, define
from cloister.core.threshold.ibe import DerivedKey, decrypt, encrypt

MAX_SECRETS: Final = 128
MAX_VALUE: Final = 64 << 10
MAX_SET: Final = 1 << 20
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_OPEN: Final = b'{"secrets":'

BAD_SET = define(
    "seal.secret_set",
    SealError,
    check="a set of secrets is a canonical document of at most 128 names with a ciphertext each, 1 MiB in all",
    remedy="set the secrets again with `cloister agent secrets set --replace`",
)


def good_name(name: str) -> bool:
    """Whether a secret may be called so: like a variable, at most 128 characters."""
    return _NAME.fullmatch(name) is not None


def is_set(data: bytes) -> bool:
    """Whether a blob says that it is such a document: a ciphertext begins with its version, 1."""
    return data.startswith(_OPEN)


@dataclass(frozen=True, slots=True)
class SecretSet:
    """Ciphertexts by name."""

    sealed: Mapping[str, bytes]

    def encode(self) -> bytes:
        """The document. Raises SealError (seal.secret_set) beyond its caps."""
        values = {name: base64.b64encode(data).decode() for name, data in self.sealed.items()}
        data = jcs.encode({"secrets": values, "v": 2})
        if len(data) > MAX_SET or len(self.sealed) > MAX_SECRETS or not all(map(good_name, self.sealed)):
            raise BAD_SET(expected=f"at most {MAX_SECRETS} secrets, {MAX_SET} bytes", found=f"{len(data)} bytes")
        return data

    @classmethod
    def decode(cls, data: bytes) -> SecretSet:
        """Parse. Raises SealError (seal.secret_set), without any text of the document."""
        refused = BAD_SET(expected="a set of secrets", found="another document")
        if len(data) > MAX_SET:
            raise refused
        try:
            value = jcs.decode(data)
            if not isinstance(value, dict) or set(value) != {"secrets", "v"} or value["v"] != 2:
                raise refused
            found = value["secrets"]
            if not isinstance(found, dict) or len(found) > MAX_SECRETS or not all(map(good_name, found)):
                raise refused
            sealed = {name: base64.b64decode(text, validate=True) for name, text in found.items()}
        except (CloisterError, binascii.Error, ValueError, TypeError):
            raise refused from None
        made = cls(sealed)
        if made.encode() != data:
            raise refused
        return made

    def open(self, at: AgentVersion, key: DerivedKey, mpk: bytes, setter: bytes) -> dict[str, str]:
        """Every value. ``key``: the agent's `secrets` key at its epochs. Raises SealError (seal.secret_set)."""
        identity = bytes(at.key(Purpose.SECRETS))
        try:
            return {
                name: decrypt(key, mpk, identity, data, secret_aad(at, setter, name)).decode()
                for name, data in self.sealed.items()
            }
        except (CloisterError, UnicodeDecodeError):
            raise BAD_SET(expected="ciphertexts for this agent, setter and name", found="others") from None


def seal_one(mpk: bytes, at: AgentVersion, setter: bytes, name: str, value: str, rng: Callable[[int], bytes]) -> bytes:
    """One secret's ciphertext, for an agent at its epochs."""
    return encrypt(mpk, bytes(at.key(Purpose.SECRETS)), value.encode(), secret_aad(at, setter, name), rng)


def secret_aad(at: AgentVersion, setter: bytes, name: str) -> bytes:
    """frame(SECRETS, "one", network, agent, setter, name): what one ciphertext is bound to."""
    return frame(Context.SECRETS, b"one", at.network, at.agent, need_bytes("setter", setter, 20), name.encode())

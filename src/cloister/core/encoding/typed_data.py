"""Digests that wallets sign: EIP-191 texts, EIP-712 typed data of any form, and AgentAccount's wrapping of both.

Typed data comes from agents and is hostile: it has caps, every value must fit its type exactly, and struct types may
not contain themselves. Sources: EIP-191, EIP-712, contracts/src/AgentAccount.sol.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from cloister.core.encoding.hexes import need_bytes, need_uint
from cloister.core.encoding.keccak import keccak256
from cloister.core.errors import CloisterError, EncodingError, define

MAX_TYPES: Final = 32
MAX_FIELDS: Final = 64
MAX_VALUES: Final = 4096
MAX_DEPTH: Final = 16
MAX_DATA: Final = 64 << 10
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_ARRAY = re.compile(r"(.+)\[([0-9]{0,4})\]")
_INTEGER = re.compile(r"(u?)int([0-9]{1,3})")
_BYTES = re.compile(r"bytes([0-9]{1,2})")
_HEX = re.compile(r"0x(?:[0-9a-fA-F]{2})*")
_DECIMAL = re.compile(r"-?[0-9]{1,78}")
_DOMAIN: Final = {
    "name": "string",
    "version": "string",
    "chainId": "uint256",
    "verifyingContract": "address",
    "salt": "bytes32",
}
_ACCOUNT_DOMAIN: Final = keccak256(
    b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
_ACCOUNT_MESSAGE: Final = keccak256(b"AgentMessage(bytes32 hash)")
_ACCOUNT_CALL: Final = keccak256(b"AgentCall(address target,uint256 value,bytes data,uint256 nonce,uint256 deadline)")

BAD_TYPED = define(
    "encoding.typed_data",
    EncodingError,
    check="typed data is {domain, types, primaryType, message} of EIP-712, and every value fits its type",
    remedy="compare it with EIP-712; numbers beyond 2**53 are decimal texts, bytes are 0x-hex",
)

Types = Mapping[str, Mapping[str, str]]


def message_digest(message: bytes) -> bytes:
    """What a wallet signs for a text or bytes (EIP-191, version 0x45). 32 bytes."""
    return keccak256(b"\x19Ethereum Signed Message:\n", str(len(message)).encode(), message)


def account_digest(digest: bytes, chain_id: int, account: bytes) -> bytes:
    """What the signer of an AgentAccount signs so that EIP-1271 accepts ``digest`` (AgentAccount.messageDigest)."""
    struct = keccak256(_ACCOUNT_MESSAGE, need_bytes("digest", digest, 32))
    return keccak256(b"\x19\x01", _account_domain(chain_id, account), struct)


def account_call_digest(
    chain_id: int, account: bytes, target: bytes, value: int, data: bytes, nonce: int, deadline: int
) -> bytes:
    """What the signer of an AgentAccount signs so that anybody may bring its call (AgentAccount.callDigest)."""
    words = [need_uint(name, number, 256).to_bytes(32, "big") for name, number in (("value", value), ("nonce", nonce))]
    until = need_uint("deadline", deadline, 256).to_bytes(32, "big")
    where = bytes(12) + need_bytes("target", target, 20)
    struct = keccak256(_ACCOUNT_CALL, where, words[0], keccak256(data), words[1], until)
    return keccak256(b"\x19\x01", _account_domain(chain_id, account), struct)


def _account_domain(chain_id: int, account: bytes) -> bytes:
    names = keccak256(b"CloisterAgentAccount"), keccak256(b"1")
    where = need_uint("chain id", chain_id, 256).to_bytes(32, "big") + bytes(12) + need_bytes("account", account, 20)
    return keccak256(_ACCOUNT_DOMAIN, *names, where)


def typed_digest(typed: object) -> bytes:
    """The EIP-712 digest of {domain, types, primaryType, message}. 32 bytes. Raises EncodingError (typed_data).

    1. the form and the types; 2. the domain, of the fields that EIP-712 knows; 3. the message."""
    if not isinstance(typed, Mapping) or not {"domain", "types", "primaryType", "message"} == set(typed):
        raise _bad("domain, types, primaryType and message, no more")
    types, primary, domain = _types(typed["types"]), typed["primaryType"], typed["domain"]  # 1
    if not isinstance(primary, str) or primary not in types or primary == "EIP712Domain":
        raise _bad("a primaryType that types defines")
    if not isinstance(domain, Mapping) or not domain or not set(domain) <= set(_DOMAIN):
        raise _bad(f"a domain of {', '.join(_DOMAIN)}")
    fields = {name: kind for name, kind in _DOMAIN.items() if name in domain}
    if types.get("EIP712Domain", fields) != fields:
        raise _bad("the domain's fields in EIP-712's order, as its type says")
    coder = _Coder({**types, "EIP712Domain": fields})
    separator = coder.struct("EIP712Domain", domain, 0)  # 2
    return keccak256(b"\x19\x01", separator, coder.struct(primary, typed["message"], 0))  # 3


def _types(value: object) -> dict[str, dict[str, str]]:
    if not isinstance(value, Mapping) or not 0 < len(value) <= MAX_TYPES:
        raise _bad(f"1 to {MAX_TYPES} types")
    found: dict[str, dict[str, str]] = {}
    for name, members in value.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name) or _is_plain(name):
            raise _bad("types whose names are no built-in ones")
        if not isinstance(members, list) or len(members) > MAX_FIELDS:
            raise _bad(f"at most {MAX_FIELDS} members of a type")
        found[name] = dict(_member(member) for member in members)
        if len(found[name]) != len(members):
            raise _bad("members of different names")
    return found


def _member(value: object) -> tuple[str, str]:
    if not isinstance(value, Mapping) or set(value) != {"name", "type"}:
        raise _bad("members of a name and a type")
    name, kind = value["name"], value["type"]
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not isinstance(kind, str) or len(kind) > 128:
        raise _bad("members of a name and a type")
    return name, kind


def _is_plain(kind: str) -> bool:
    """Whether a type is one of Solidity's that EIP-712 encodes in one word."""
    if kind in ("bool", "address", "string", "bytes"):
        return True
    if found := _INTEGER.fullmatch(kind):
        return found[2][0] != "0" and int(found[2]) % 8 == 0 and 8 <= int(found[2]) <= 256
    if found := _BYTES.fullmatch(kind):
        return found[1][0] != "0" and 1 <= int(found[1]) <= 32
    return False


class _Coder:
    """Encodes values of one set of types, within the caps."""

    def __init__(self, types: Types) -> None:
        self._types, self._left = types, MAX_VALUES
        self._hashes: dict[str, bytes] = {}

    def struct(self, kind: str, value: object, depth: int) -> bytes:
        """hashStruct: 32 bytes."""
        fields = self._types[kind]
        if not isinstance(value, Mapping) or set(value) != set(fields) or depth > MAX_DEPTH:
            raise _bad(f"{kind} with exactly its members, at most {MAX_DEPTH} deep")
        words = [self._value(of, value[name], depth + 1) for name, of in fields.items()]
        return keccak256(self._type_hash(kind), *words)

    def _value(self, kind: str, value: object, depth: int) -> bytes:
        """One word."""
        self._left -= 1
        if self._left < 0 or depth > MAX_DEPTH:
            raise _bad(f"at most {MAX_VALUES} values, {MAX_DEPTH} deep")
        if found := _ARRAY.fullmatch(kind):
            if not isinstance(value, list) or (found[2] and len(value) != int(found[2])):
                raise _bad(f"a list for {kind}")
            return keccak256(*(self._value(found[1], item, depth + 1) for item in value))
        if kind in self._types:
            return self.struct(kind, value, depth)
        if not _is_plain(kind):
            raise _bad("types that are built in or defined")
        return _word(kind, value)

    def _type_hash(self, kind: str) -> bytes:
        if kind not in self._hashes:
            others = sorted(self._needed(kind, set()) - {kind})
            text = "".join(self._written(name) for name in (kind, *others))
            self._hashes[kind] = keccak256(text.encode())
        return self._hashes[kind]

    def _written(self, kind: str) -> str:
        return f"{kind}({','.join(f'{of} {name}' for name, of in self._types[kind].items())})"

    def _needed(self, kind: str, seen: set[str]) -> set[str]:
        seen.add(kind)
        for of in self._types[kind].values():
            base = of.partition("[")[0]
            if base in self._types and base not in seen:
                self._needed(base, seen)
        return seen


def _word(kind: str, value: object) -> bytes:
    if kind == "bool":
        if not isinstance(value, bool):
            raise _bad("true or false for bool")
        return int(value).to_bytes(32, "big")
    if kind == "string":
        if not isinstance(value, str) or len(value) > MAX_DATA:
            raise _bad("a text for string")
        return keccak256(_utf8(value))
    if found := _INTEGER.fullmatch(kind):
        return _integer(value, signed=not found[1], bits=int(found[2]))
    data = _data(value)
    if kind == "bytes":
        return keccak256(data)
    size = 20 if kind == "address" else int(kind[5:])
    if len(data) != size:
        raise _bad(f"{size} bytes for {kind}")
    return bytes(12) + data if kind == "address" else data.ljust(32, b"\0")


def _integer(value: object, *, signed: bool, bits: int) -> bytes:
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _bad("whole numbers for integers")
    least, most = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    if not least <= value <= most:
        raise _bad("integers within their types")
    return (value % (1 << 256)).to_bytes(32, "big")


def _data(value: object) -> bytes:
    if not isinstance(value, str) or len(value) > 2 * MAX_DATA or not _HEX.fullmatch(value):
        raise _bad("0x-hex for bytes and addresses")
    return bytes.fromhex(value[2:])


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise _bad("Unicode text") from None


def _bad(expected: str) -> CloisterError:
    return BAD_TYPED(expected=expected, found="something else")

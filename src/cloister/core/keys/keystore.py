"""Encrypted secp256k1 wallet keys: Web3 Secret Storage version 3 (the Ethereum keystore file). No I/O.

scrypt stretches the passphrase (NFKC, UTF-8) to 32 bytes: AES-128-CTR key, then MAC key; the MAC is
keccak256(MAC key || ciphertext). Parameters read from a document are capped before any work is done.
"""

from __future__ import annotations

import hmac
import re
import unicodedata
from collections.abc import Callable
from typing import Any, Final

from coincurve import PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from cloister.core.encoding.hexes import need_bytes
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.signatures import address_of
from cloister.core.errors import SealError, define

DEFAULT_N: Final = 1 << 17
MAX_N_R: Final = 1 << 22  # scrypt memory is 128 * n * r bytes: 512 MiB
MAX_N_R_P: Final = 1 << 23
_R, _P = 8, 1
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})*")
_ADDRESS = re.compile(r"(?:0x)?[0-9a-fA-F]{40}")

BAD_DOCUMENT = define(
    "seal.keystore",
    SealError,
    check="a wallet file is Web3 Secret Storage version 3 with scrypt and aes-128-ctr",
    remedy="export the wallet again in that format",
)
TOO_COSTLY = define(
    "seal.keystore_cost",
    SealError,
    check="the scrypt parameters of a wallet file stay below 512 MiB and a few seconds",
    remedy="a file that asks for more is hostile or broken; export the wallet again with n = 131072, r = 8, p = 1",
)
WRONG_PASSPHRASE = define(
    "seal.passphrase",
    SealError,
    check="the passphrase opens the wallet",
    remedy="type it again; there is no way to recover a forgotten one",
)
NOT_THE_ADDRESS = define(
    "seal.keystore_address",
    SealError,
    check="the wallet's key has the address that the file names",
    remedy="the file was edited; do not send anything to the address that it names",
)
BAD_PRIVATE_KEY = define(
    "seal.private_key",
    SealError,
    check="a wallet key is 32 bytes in [1, n) of secp256k1",
    remedy="make a new key",
)


def encrypt_key(private: bytes, passphrase: str, rng: Callable[[int], bytes], n: int = DEFAULT_N) -> dict[str, Any]:
    """The keystore document (JSON-ready) of a 32-byte private key. Raises EncodingError, SealError.

    ``n``: scrypt cost, a power of two, at most 2**19; RuntimeError otherwise.
    """
    if n < 2 or n & (n - 1) or n * _R > MAX_N_R:
        raise RuntimeError("scrypt n is a power of two from 2 to 2**19")
    address = _address(need_bytes("private key", private, 32))
    salt, iv, uid = rng(32), rng(16), bytearray(rng(16))
    uid[6], uid[8] = uid[6] & 0x0F | 0x40, uid[8] & 0x3F | 0x80  # UUID version 4
    stretched = _stretch(passphrase, salt, n, _R, _P)
    text = _ctr(stretched, iv, private)
    return {
        "version": 3,
        "id": "-".join(bytes(uid[a:b]).hex() for a, b in ((0, 4), (4, 6), (6, 8), (8, 10), (10, 16))),
        "address": address.hex(),
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": iv.hex()},
            "ciphertext": text.hex(),
            "kdf": "scrypt",
            "kdfparams": {"dklen": 32, "n": n, "r": _R, "p": _P, "salt": salt.hex()},
            "mac": keccak256(stretched[16:], text).hex(),
        },
    }


def decrypt_key(document: object, passphrase: str) -> bytes:
    """The 32-byte private key. Raises SealError.

    1. the document's form; 2. cost caps; 3. MAC (a wrong passphrase fails here); 4. the key is valid and, where the
    file names an address, has it. Top-level members named ``x-...`` (other wallets' extensions) are left unread.
    """
    crypto, named = _parse(document)  # 1
    n, r, p, salt = _cost(crypto["kdfparams"])  # 2
    text, iv, mac = _hex(crypto, "ciphertext", 32), _hex(crypto["cipherparams"], "iv", 16), _hex(crypto, "mac", 32)
    stretched = _stretch(passphrase, salt, n, r, p)
    if not hmac.compare_digest(keccak256(stretched[16:], text), mac):  # 3
        raise WRONG_PASSPHRASE(expected="the passphrase of this wallet", found="another")
    private = _ctr(stretched, iv, text)
    if named is not None and _address(private) != named:  # 4
        raise NOT_THE_ADDRESS(expected=f"0x{named.hex()}", found="a key with another address")
    _address(private)
    return private


def _parse(document: object) -> tuple[dict[str, Any], bytes | None]:
    top = _object(document, "the file", {"version", "crypto"}, {"id", "address"})
    crypto = _object(top["crypto"], "crypto", {"cipher", "cipherparams", "ciphertext", "kdf", "kdfparams", "mac"})
    _object(crypto["cipherparams"], "cipherparams", {"iv"})
    _object(crypto["kdfparams"], "kdfparams", {"dklen", "n", "r", "p", "salt"})
    wanted = (3, "aes-128-ctr", "scrypt")
    if (top["version"], crypto["cipher"], crypto["kdf"]) != wanted or type(top["version"]) is not int:
        raise BAD_DOCUMENT(expected="version 3, aes-128-ctr, scrypt", found="something else")
    address = top.get("address")
    if address is None:
        return crypto, None
    if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
        raise BAD_DOCUMENT(expected="address as 40 hex digits", found="something else")
    return crypto, bytes.fromhex(address.removeprefix("0x"))


def _object(value: object, name: str, needed: set[str], optional: set[str] | None = None) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > 32 or not all(isinstance(key, str) for key in value):
        raise BAD_DOCUMENT(expected=f"{name} as an object", found=type(value).__name__)
    keys = {key for key in value if optional is None or not key.startswith("x-")}
    if not needed <= keys <= needed | (optional or set()):
        raise BAD_DOCUMENT(expected=f"{name} with {sorted(needed)}", found=f"{sorted(keys)}")
    return value


def _hex(fields: dict[str, Any], name: str, size: int) -> bytes:
    text = fields[name]
    if not isinstance(text, str) or len(text) != 2 * size or not _HEX.fullmatch(text):
        raise BAD_DOCUMENT(expected=f"{name} as {2 * size} hex digits", found="something else")
    return bytes.fromhex(text)


def _cost(params: dict[str, Any]) -> tuple[int, int, int, bytes]:
    numbers = [params[name] for name in ("n", "r", "p", "dklen")]
    if not all(type(value) is int and 0 < value <= MAX_N_R_P for value in numbers):
        raise TOO_COSTLY(expected="small positive integers", found=str(numbers)[:80])
    n, r, p, dklen = numbers
    if n < 2 or n & (n - 1) or n.bit_length() > 16 * r or dklen != 32:  # RFC 7914 section 2
        raise BAD_DOCUMENT(expected="n a power of two below 2^(16 r), dklen 32", found=f"n {n}, r {r}, dklen {dklen}")
    if n * r > MAX_N_R or n * r * p > MAX_N_R_P:
        raise TOO_COSTLY(expected=f"n * r <= {MAX_N_R}, n * r * p <= {MAX_N_R_P}", found=f"n {n}, r {r}, p {p}")
    salt = params["salt"]
    if not isinstance(salt, str) or not 16 <= len(salt) <= 128 or not _HEX.fullmatch(salt):
        raise BAD_DOCUMENT(expected="salt of 8 to 64 bytes in hex", found="something else")
    return n, r, p, bytes.fromhex(salt)


def _stretch(passphrase: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    if not isinstance(passphrase, str):
        raise TypeError("a passphrase is text")
    try:
        secret = unicodedata.normalize("NFKC", passphrase).encode()
    except UnicodeEncodeError:
        raise WRONG_PASSPHRASE(expected="Unicode text", found="a lone surrogate") from None
    try:
        return Scrypt(salt=salt, length=32, n=n, r=r, p=p).derive(secret)
    except MemoryError:
        raise TOO_COSTLY(expected="memory for scrypt", found=f"less than {128 * n * r} bytes free") from None


def _ctr(stretched: bytes, iv: bytes, data: bytes) -> bytes:
    worker = Cipher(AES(stretched[:16]), CTR(iv)).encryptor()
    return worker.update(data) + worker.finalize()


def _address(private: bytes) -> bytes:
    try:
        return address_of(PrivateKey(private))
    except ValueError:
        raise BAD_PRIVATE_KEY(expected="a number in [1, n)", found="a number outside") from None

"""Keys and certificates of the pretend vendors, kept in the work folder (0700, files 0600) so that roots stay."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only this user reads, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


class Store:
    """Named keys, certificates and secrets in one folder: made once, then read."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder

    def rsa_key(self, name: str) -> rsa.RSAPrivateKey:
        """An RSA-4096 key (about a second to make)."""
        key = self._key(name, lambda: rsa.generate_private_key(65537, 4096))
        if not isinstance(key, rsa.RSAPrivateKey):
            raise RuntimeError(f"{name} in {self._folder} is no RSA key")
        return key

    def ec_key(self, name: str, curve: ec.EllipticCurve) -> ec.EllipticCurvePrivateKey:
        """A key on this curve."""
        key = self._key(name, lambda: ec.generate_private_key(curve))
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != curve.name:
            raise RuntimeError(f"{name} in {self._folder} is no {curve.name} key")
        return key

    def certificate(self, name: str, make: Callable[[], x509.Certificate]) -> x509.Certificate:
        """The stored certificate, or a new one."""
        path = self._folder / f"{name}.crt"
        if path.exists():
            return x509.load_der_x509_certificate(path.read_bytes())
        certificate = make()
        write_private(path, certificate.public_bytes(Encoding.DER))
        return certificate

    def secret(self, name: str, size: int) -> bytes:
        """Random bytes, the same each time."""
        path = self._folder / f"{name}.secret"
        if not path.exists():
            write_private(path, secrets.token_bytes(size))
        data = path.read_bytes()
        if len(data) != size:
            raise RuntimeError(f"{path} does not hold {size} bytes")
        return data

    def _key(self, name: str, make: Callable[[], PrivateKey]) -> object:
        path = self._folder / f"{name}.key"
        if path.exists():
            # Our own file, written whole: checking RSA-4096 again would cost half a second each start.
            return load_pem_private_key(path.read_bytes(), None, unsafe_skip_rsa_key_validation=True)
        key = make()
        write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return key

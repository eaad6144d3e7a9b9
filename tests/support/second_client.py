"""A second sealed-HTTP client, written from spec/sealed-http.md alone, over pyhpke: none of core/envelope.

``Draft`` is a request before it is sealed: every field of the record can be set to anything.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey

from support.sealed import NOW, World

SUITE = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.AES256_GCM)


def framed(name: str, *parts: bytes) -> bytes:
    """``frame`` of spec/encoding.md 3, read anew."""
    out = f"cloister/v1/{name}".encode() + b"\0"
    for part in parts:
        out += len(part).to_bytes(4, "big") + part
    return out


class SecondClient:
    """One HPKE context to the worker of ``world``."""

    def __init__(self, world: World, secret: bytes | None = None, ciphertext: bytes | None = None) -> None:
        certificate = json.dumps(world.certificate.to_json(), sort_keys=True, separators=(",", ":")).encode()
        self.ibe = world.psk.ciphertext if ciphertext is None else ciphertext
        self.psk_id = hashlib.sha256(self.ibe).digest()
        public = KEMKey.from_pyca_cryptography_key(
            X25519PublicKey.from_public_bytes(bytes.fromhex(world.certificate.to_json()["hpke_key"][2:]))
        )
        self.enc, self.context = SUITE.create_sender_context(
            public,
            framed("sealed/info", certificate),
            psk=world.psk.secret if secret is None else secret,
            psk_id=self.psk_id,
        )
        self.boot, self.agent = world.certificate.boot, world.certificate.agent
        self.certificate_id = hashlib.sha256(framed("key-certificate", certificate)).digest()

    def draft(self, seq: int = 0, **changes: Any) -> Draft:
        """A good request; ``changes`` to its fields."""
        draft = Draft(self, seq=seq, boot=self.boot, certificate_id=self.certificate_id, psk_id=self.psk_id)
        draft.ibe = self.ibe
        for name, value in changes.items():
            setattr(draft, name, value)
        return draft

    def chunks(self, seq: int, request_id: bytes, stream: bytes) -> list[tuple[int, bytes]]:
        """(final flag, plaintext) of every chunk of an answer; raises InvalidTag for what does not open."""
        out: list[tuple[int, bytes]] = []
        number, rand, at = seq.to_bytes(8, "big"), stream[:32], 32
        key = AESGCM(self.context.export(framed("sealed/response", number, rand), 32))
        while at < len(stream):
            size, last = int.from_bytes(stream[at : at + 4], "big"), stream[at + 4]
            index = len(out)
            aad = framed("sealed/response", number, request_id, index.to_bytes(8, "big"), bytes([last]))
            out.append((last, key.decrypt(index.to_bytes(12, "big"), stream[at + 5 : at + 5 + size], aad)))
            at += 5 + size
        return out


@dataclass
class Draft:
    """The fields of a request record (spec/sealed-http.md 4, 5), and what is done to its bytes at last."""

    client: SecondClient
    seq: int
    boot: bytes
    certificate_id: bytes
    psk_id: bytes
    ibe: bytes = b""
    kind: int = 1
    magic: bytes = b"CLS1"
    body: bytes = b"body"
    head: dict[str, Any] = field(default_factory=dict)
    head_bytes: bytes | None = None
    head_length: int | None = None
    flip_last: bool = False
    padding: int = 0

    def __post_init__(self) -> None:
        self.head = {
            "v": 1, "id": "0x" + "0a" * 16, "m": "POST", "p": "/ask", "h": [["a", "b"]], "d": NOW + 30_000,
            "idem": None, "c": None,
        }  # fmt: skip

    def plaintext(self) -> bytes:
        """u32 head length | head | body."""
        head = json.dumps(self.head).encode() if self.head_bytes is None else self.head_bytes
        length = len(head) if self.head_length is None else self.head_length
        return length.to_bytes(4, "big") + head + self.body

    def seal(self) -> bytes:
        """The record's bytes."""
        flags = 1 if self.ibe else 0
        header = struct.pack(
            ">4sBB32s32s32s32sQ", self.magic, self.kind, flags, self.boot, self.certificate_id, self.client.enc,
            self.psk_id, self.seq,
        )  # fmt: skip
        context: Any = self.client.context
        context._seq = self.seq  # pyhpke counts by itself
        sealed = context.seal(self.plaintext(), framed("sealed/request", header, self.client.agent))
        data = header + len(self.ibe).to_bytes(2, "big") + self.ibe + bytes(sealed) + b"\0" * self.padding
        return data[:-1] + bytes([data[-1] ^ 1]) if self.flip_last else data

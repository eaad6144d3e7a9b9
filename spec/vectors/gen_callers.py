"""Writes callers.json: known answers for spec/sealed-http.md 11, 12 and 14. Every secret in it is a test value.

Run it from the repository root: ``python spec/vectors/gen_callers.py``. The part on X-Wing cannot come from a fixed
random source, for the library draws ML-KEM's randomness by itself: it is kept as it stands, and made anew only if the
file has none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.statements import CallerSession, Lease
from cloister.core.envelope.apikey import ApiKey
from cloister.core.envelope.certificate import KeyCertificate
from cloister.core.envelope.client import ClientSession, Psk
from cloister.core.envelope.model import Caller, RequestHead, encode_json
from cloister.core.keys.hpke import private_key
from cloister.core.keys.xwing import XWingKey

PATH = Path(__file__).with_name("callers.json")
NETWORK, AGENT, BOOT, WORKER = b"\x11" * 32, b"\x22" * 32, b"\x33" * 32, b"\x77" * 20
NOW = 1_700_000_000_000
EXPIRY = NOW // 1000 + 60
EXPORTER = bytes(range(32))
ACCOUNT, SIGNATURE = b"\xac" * 20, b"\x5a" * 97
SEED, CLASSIC = b"\x01" * 32, b"\x02" * 32
PSK = Psk(b"", b"\x03" * 32, b"the place of an IBE ciphertext", b"")


def stream(seed: str) -> Callable[[int], bytes]:
    """SHAKE-256 of seed and call number."""
    calls = 0

    def read(size: int) -> bytes:
        nonlocal calls
        calls += 1
        return hashlib.shake_256(f"{seed}/{calls}".encode()).digest(size)

    return read


def head(caller: Caller | None = None) -> RequestHead:
    """A request head."""
    return RequestHead(request_id="0x" + "07" * 16, method="GET", path="/", deadline_ms=NOW + 30_000, caller=caller)


def certificate() -> KeyCertificate:
    """A certificate of suite 2."""
    lease = Lease(1, AGENT, b"\x44" * 32, b"\x55" * 32, b"\x66" * 32, 1, 2, 3, 4, WORKER, BOOT, 90, 200)
    classic = private_key(CLASSIC).public_key().public_bytes_raw()
    return KeyCertificate.under(lease, network=NETWORK, hpke_key=classic, xwing_key=XWingKey(SEED).public)


def callers() -> dict[str, Any]:
    """An API key and a contract account over one session: everything that is derived, and the heads that carry it."""
    key = ApiKey(hashlib.sha256(b"an API key of the vectors").digest())
    digest = CallerSession(AGENT, BOOT, EXPORTER, EXPIRY).digest(NETWORK)
    by_key = Caller(to_hex(key.address), EXPIRY, to_hex(key.sign(digest)), kind="apikey")
    by_contract = Caller(to_hex(ACCOUNT), EXPIRY, to_hex(SIGNATURE), kind="contract")
    return {
        "network": to_hex(NETWORK),
        "agent": to_hex(AGENT),
        "boot": to_hex(BOOT),
        "exporter": to_hex(EXPORTER),
        "expiry": EXPIRY,
        "digest": to_hex(digest),
        "api_key": {"text": key.text, "mac_key": to_hex(key.mac), "id": to_hex(key.address)},
        "mac": to_hex(key.sign(digest)),
        "head_by_key": encode_json(head(by_key)).decode(),
        "head_by_contract": encode_json(head(by_contract)).decode(),
    }


def xwing() -> dict[str, Any]:
    """One record under X-Wing. Another one each time."""
    cert = certificate()
    psk = Psk(cert.id, PSK.secret, PSK.ciphertext, hashlib.sha256(PSK.ciphertext).digest())
    session = ClientSession(cert, psk, stream("xwing"))
    sealed = session.seal(head(), b"post-quantum")
    return {
        "seed": to_hex(SEED),
        "hpke_private_key": to_hex(CLASSIC),
        "certificate": cert.encoded.decode(),
        "certificate_id": to_hex(cert.id),
        "psk": to_hex(psk.secret),
        "record": to_hex(sealed.data),
        "body": "post-quantum",
        "exporter": to_hex(session.exporter),
        "salt": to_hex(sealed.salt),
        "request_commitment": to_hex(sealed.commitment),
    }


def build(kept: dict[str, Any] | None) -> dict[str, Any]:
    """Everything, as JSON-ready values. ``kept``: the part on X-Wing that there is."""
    note = "Known answers for spec/sealed-http.md 11, 12 and 14. Every secret is a test value."
    return {"note": note, "callers": callers(), "xwing": kept or xwing()}


def main() -> None:
    """Write the file."""
    kept = json.loads(PATH.read_text()).get("xwing") if PATH.exists() else None
    PATH.write_text(json.dumps(build(kept), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

"""The formats of spec/state.md, written a second time from its text, against the code and fixed values."""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cloister.core.state.heads import commit_digest, genesis_head, index_root, job_digest, next_head
from support.state_kit import IDENTITY, STATE_KEY, counter_rng, keys

REQUEST = "00112233445566778899aabbccddeeff"
STORED = "90f56caf6eb32c063af5b05e0015d77b"
TAG = "42037d835bb34a045f8a57dc9274d58f"
BLOB = (
    "010000000000000007119141dce89807096095d9729b0da80481a492498e235346efc58aa73335a3513bcbc26d8a388287608281ddf97ae7b0"
    "88c74af74be29b79a8e25ee8e93503e744e6ae1ebed0548e2f4f199064ee2c2f7dfb6a84ca89c40dc403760744779a51ff82f65dd9d54e269b"
    "2ed60c"
)
GENESIS = "affc75824bae1bda9def880c2baf31e3daa168a95f2c4de1366d5028c404696f"
JOB = "be5d94dc2052673b66819198ad1252a08ef6cf35dbd527f2af759a4c552aef21"
ROOT = "f86aca6120d8a89d3b85b96d98ecdf462d4755577e66c3146fc433ade347ce45"
COMMIT = "6d4fd8e2254e3f1bd1b33f3ba6966e975000b55da9d0d8a9e31b568dbaa6a91d"
HEAD = "c3e621a1461a856e348019514538d1c3d997214af01f2f1a091c6a05fa001226"


def frame(context: str, *parts: bytes) -> bytes:
    out = f"cloister/v1/{context}".encode() + b"\0"
    for part in parts:
        out += len(part).to_bytes(4, "big") + part
    return out


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def mac(data: bytes) -> bytes:
    return hmac.new(STATE_KEY, data, "sha256").digest()


def test_1_a_stored_key_and_a_request_tag() -> None:
    assert keys().name("balance") == STORED == mac(frame("state/key-name", b"balance"))[:16].hex()
    tag_key = mac(frame("state/key-name", b"request key"))
    expected = hmac.new(tag_key, frame("state/key-name", b"request", REQUEST.encode()), "sha256").digest()[:16]
    assert keys().request_tag(REQUEST) == bytes.fromhex(TAG) == expected
    assert keys(key=bytes(32)).request_tag(REQUEST, keys().tag_key()) == expected, "a re-seal carries the key of tags"


def test_1_a_blob_opens_by_the_text_of_the_spec() -> None:
    blob = keys().seal("balance", b"100", 7, counter_rng())
    assert blob.hex() == BLOB
    version, height, salt, wrapped, body = blob[:1], blob[1:9], blob[9:41], blob[41:89], blob[89:]
    aad = frame("state/data-key", IDENTITY, STORED.encode(), height)
    data_key = AESGCM(mac(frame("state/data-key", b"wrap", salt))).decrypt(bytes(12), wrapped, aad)
    plain = AESGCM(data_key).decrypt(bytes(12), body, aad)
    assert (version, int.from_bytes(height, "big"), len(data_key)) == (b"\1", 7, 32)
    assert plain == b"\0\7balance100"


def test_4_a_job_digest_and_an_index_root() -> None:
    job = sha(frame("state/head", b"job", b"commands", (1_900_000_000).to_bytes(8, "big"), b"body"))
    assert job_digest("commands", b"body", 1_900_000_000) == job == bytes.fromhex(JOB)
    one, two = bytes([1]) * 32, bytes([2]) * 32
    index = b"\2" + b"\0" + one + b"\x3f" + two
    root = sha(frame("state/head", b"index", index, (5).to_bytes(4, "big"), (600).to_bytes(8, "big")))
    assert index_root({63: two, 0: one}, 5, 600) == root == bytes.fromhex(ROOT)


def test_4_a_commit_digest_and_the_heads() -> None:
    blob = bytes.fromhex(BLOB)
    pairs = b"\0\x20" + STORED.encode() + sha(blob) + b"\0\4b.04" + bytes(32)
    writes = sha(frame("state/head", b"writes", pairs, bytes.fromhex(JOB), bytes.fromhex(TAG)))
    commit = sha(frame("state/head", b"commit", writes, bytes.fromhex(ROOT)))
    made = commit_digest({"b.04": None, STORED: blob}, [bytes.fromhex(JOB)], bytes.fromhex(ROOT), bytes.fromhex(TAG))
    assert made == commit == bytes.fromhex(COMMIT)
    genesis = sha(frame("state/head", IDENTITY))
    assert genesis_head(IDENTITY) == genesis == bytes.fromhex(GENESIS)
    head = sha(frame("state/head", genesis, (1).to_bytes(8, "big"), commit))
    assert next_head(genesis, 1, commit) == head == bytes.fromhex(HEAD)

"""spec/vectors/receipts.json against a second reader: hashlib, AES-GCM and secp256k1, none of our receipts' code."""

from __future__ import annotations

import hashlib
import json
import runpy
from pathlib import Path
from typing import Any

from coincurve import PublicKey
from Crypto.Hash import keccak
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VECTORS = Path(__file__).parents[4] / "spec/vectors"
DATA: dict[str, Any] = json.loads((VECTORS / "receipts.json").read_text())


def raw(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def hashed(name: str, *parts: bytes) -> bytes:
    out = f"cloister/v1/{name}".encode() + b"\0"
    for part in parts:
        out += len(part).to_bytes(4, "big") + part
    return hashlib.sha256(out).digest()


def leaf(entry: bytes) -> bytes:
    return hashlib.sha256(b"\0" + entry).digest()


def tree(entries: list[bytes]) -> bytes:
    """RFC 6962 2.1, as it is written."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return leaf(entries[0])
    k = 1 << ((len(entries) - 1).bit_length() - 1)
    return hashlib.sha256(b"\1" + tree(entries[:k]) + tree(entries[k:])).digest()


def path(index: int, entries: list[bytes]) -> list[bytes]:
    """RFC 6962 2.1.1."""
    if len(entries) == 1:
        return []
    k = 1 << ((len(entries) - 1).bit_length() - 1)
    if index < k:
        return [*path(index, entries[:k]), tree(entries[k:])]
    return [*path(index - k, entries[k:]), tree(entries[:k])]


def subproof(old: int, entries: list[bytes], *, whole: bool) -> list[bytes]:
    """RFC 6962 2.1.2."""
    if old == len(entries):
        return [] if whole else [tree(entries)]
    k = 1 << ((len(entries) - 1).bit_length() - 1)
    if old <= k:
        return [*subproof(old, entries[:k], whole=whole), tree(entries[k:])]
    return [*subproof(old - k, entries[k:], whole=False), tree(entries[:k])]


def signer(digest: bytes, signature: bytes) -> str:
    public = PublicKey.from_signature_and_message(signature[:64] + bytes([signature[64] - 27]), digest, hasher=None)
    return "0x" + keccak.new(digest_bits=256, data=public.format(compressed=False)[1:]).digest()[-20:].hex()


def k256(data: bytes) -> bytes:
    return keccak.new(digest_bits=256, data=data).digest()


IDS = [hashed("receipt", text.encode()) for text in DATA["receipts"]]


def test_the_file_is_what_the_generator_writes() -> None:
    assert runpy.run_path(str(VECTORS / "gen_receipts.py"))["build"]() == DATA


def test_trees() -> None:
    for one in DATA["trees"]:
        entries = [bytes([n]) for n in range(one["size"])]
        assert raw(one["root"]) == tree(entries)
        assert [[raw(h) for h in p] for p in one["inclusion"]] == [path(i, entries) for i in range(one["size"])]
        older = range(1, one["size"] + 1)
        assert [raw(root) for root in one["older_roots"]] == [tree(entries[:n]) for n in older]
        wanted = [subproof(n, entries, whole=True) for n in older]
        assert [[raw(h) for h in p] for p in one["consistency"]] == wanted


def test_ids_and_signatures() -> None:
    assert [raw(one) for one in DATA["ids"]] == IDS
    assert signer(IDS[0], raw(DATA["lone_signature"])) == DATA["worker"]
    batch = DATA["batch"]
    root = tree(IDS[1:])
    assert raw(batch["root"]) == root
    parts = (raw(DATA["boot"]), (1).to_bytes(8, "big"), (5).to_bytes(8, "big"), root)
    assert raw(batch["digest"]) == hashed("receipt/batch", *parts)
    assert signer(raw(batch["digest"]), raw(batch["signature"])) == DATA["worker"]
    for index, shown in enumerate(batch["paths"]):
        assert raw(shown["path"]) == b"".join(path(index, IDS[1:]))
        assert (shown["first"], shown["size"]) == (1, 5)


def test_the_kept_form() -> None:
    kept, given = raw(DATA["kept"]["kept"]), DATA["kept"]
    receipt_id, seq = IDS[given["number"]], given["number"]
    key = hashed("receipt/kept", b"caller", raw(given["salt"]))
    owner = hashed("receipt/kept", b"owner", raw(given["log_key"]), raw(DATA["boot"]))
    assert kept[0] == 1
    assert AESGCM(owner).decrypt(seq.to_bytes(12, "big"), kept[1:49], receipt_id) == key
    assert AESGCM(key).decrypt(bytes(12), kept[49:], receipt_id).decode() == DATA["receipts"][seq]


def test_heads_are_typed_data() -> None:
    domain_type = k256(b"EIP712Domain(string name,string version,bytes32 salt)")
    domain = k256(domain_type + k256(b"Cloister") + k256(b"1") + raw(DATA["network"]))
    types = {
        "worker_log": b"WorkerLog(address worker,bytes32 boot,uint64 size,bytes32 root)",
        "log_head": b"LogHead(uint64 term,address worker,bytes32 boot,uint64 size,bytes32 root)",
    }
    for name, kind in types.items():
        said = DATA[name]
        words = [raw(said["worker"]).rjust(32, b"\0"), raw(said["boot"]), said["size"].to_bytes(32, "big")]
        lead = [said["term"].to_bytes(32, "big")] if "term" in said else []
        struct = k256(k256(kind) + b"".join([*lead, *words, raw(said["root"])]))
        assert raw(said["digest"]) == k256(b"\x19\x01" + domain + struct)
        assert raw(said["root"]) == tree(IDS)


def test_the_proof_is_signed_by_four_members_and_leads_to_the_root() -> None:
    proof, digest = DATA["proof"], raw(DATA["log_head"]["digest"])
    signers = [signer(digest, raw(s)) for s in proof["head"]["signatures"]]
    assert signers == DATA["committee"]["members"][:4]
    assert raw(proof["path"]) == b"".join(path(proof["index"], IDS))

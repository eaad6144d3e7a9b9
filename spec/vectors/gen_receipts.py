"""Writes receipts.json: known answers for spec/receipts.md 8 to 14. Every secret in it is a test value.

Run it from the repository root: ``python spec/vectors/gen_receipts.py``; with ``--check`` it only compares.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from coincurve import PrivateKey

from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.log_statements import LogHead, WorkerLog
from cloister.core.encoding.signatures import Signed, address_of, sign_digest
from cloister.core.receipts.batch import batch_digest, sign_together
from cloister.core.receipts.kept import OwnerKey, seal_kept
from cloister.core.receipts.log import LogProof
from cloister.core.receipts.merkle import consistency_path, inclusion_path, leaf_hash, part_of, paths_of, root_of
from cloister.core.receipts.receipt import ZERO, Receipt, StateChange, Usage

PATH = Path(__file__).with_name("receipts.json")
NETWORK, BOOT = b"\x11" * 32, b"\x33" * 32
LOG_KEY, SALT = b"\x52" * 32, b"\x51" * 32
SIZES = (1, 2, 3, 7, 8, 13)


def key(number: int) -> PrivateKey:
    """A test key."""
    return PrivateKey(number.to_bytes(32, "big"))


WORKER = key(7)


def receipts(count: int) -> list[Receipt]:
    """Consecutive receipts of one boot."""
    made: list[Receipt] = []
    for seq in range(count):
        base = Receipt(
            network=NETWORK,
            agent=b"\x22" * 32,
            code_hash=b"\x44" * 32,
            manifest_hash=b"\x55" * 32,
            master_epoch=1,
            cluster_epoch=2,
            agent_epoch=3,
            worker=address_of(WORKER),
            boot=BOOT,
            seq=seq,
            prev=made[-1].id if made else ZERO,
            request_id=seq.to_bytes(16, "big"),
            request=hashlib.sha256(b"request %d" % seq).digest(),
            response=hashlib.sha256(b"response %d" % seq).digest(),
            status=200,
            checkpoint=123,
            host_time_ms=1_700_000_000_000,
        )
        made.append(
            replace(base, state=StateChange(b"\x01" * 32, b"\x02" * 32, "local"), usage=Usage(1, 2, 3, 4, 5, 6, 7))
        )
    return made


def hexes(path: list[bytes]) -> list[str]:
    """Hashes as hex."""
    return [to_hex(one) for one in path]


def trees() -> list[dict[str, Any]]:
    """Trees over the entries 0x00, 0x01, …: roots, every inclusion path, every consistency path."""
    leaves = [leaf_hash(bytes([n])) for n in range(max(SIZES))]
    part = part_of(leaves)
    return [
        {
            "size": size,
            "root": to_hex(root_of(leaves[:size])),
            "inclusion": [hexes(inclusion_path(index, size, part)) for index in range(size)],
            "consistency": [hexes(consistency_path(old, size, part)) for old in range(1, size + 1)],
            "older_roots": [to_hex(root_of(leaves[:old])) for old in range(1, size + 1)],
        }
        for size in SIZES
    ]


def build() -> dict[str, Any]:
    """Everything, as JSON-ready values."""
    made = receipts(6)
    batch = made[1:]
    signature, paths = sign_together(batch, lambda d: sign_digest(WORKER, d))
    top, _ = paths_of([leaf_hash(r.id) for r in batch])
    leaves = [leaf_hash(r.id) for r in made]
    log = WorkerLog(address_of(WORKER), BOOT, 6, root_of(leaves))
    said = LogHead(1, log.worker, log.boot, log.size, log.root)
    members = [key(100 + n) for n in range(5)]
    head = Signed(said, tuple(sign_digest(m, said.digest(NETWORK)) for m in members[:4]))
    proof = LogProof(2, tuple(inclusion_path(2, 6, part_of(leaves))), head)
    return {
        "network": to_hex(NETWORK),
        "worker": to_hex(address_of(WORKER)),
        "boot": to_hex(BOOT),
        "trees": trees(),
        "receipts": [r.encoded.decode() for r in made],
        "ids": [to_hex(r.id) for r in made],
        "lone_signature": to_hex(sign_digest(WORKER, made[0].id)),
        "batch": {
            "first": 1,
            "size": 5,
            "root": to_hex(top),
            "digest": to_hex(batch_digest(BOOT, 1, 5, top)),
            "signature": to_hex(signature),
            "paths": [path.to_json() for path in paths if path is not None],
        },
        "kept": {
            "number": 2,
            "salt": to_hex(SALT),
            "log_key": to_hex(LOG_KEY),
            "kept": to_hex(seal_kept(made[2], SALT, OwnerKey(LOG_KEY, BOOT))),
        },
        "worker_log": {**log.to_json(), "digest": to_hex(log.digest(NETWORK))},
        "log_head": {**said.to_json(), "digest": to_hex(said.digest(NETWORK))},
        "committee": {"term": 1, "threshold": 3, "members": [to_hex(address_of(m)) for m in members]},
        "proof": proof.to_json(),
    }


def main() -> int:
    """Write the file, or compare."""
    text = json.dumps(build(), indent=1) + "\n"
    if "--check" in sys.argv:
        same = PATH.read_text() == text
        print("receipts.json is up to date" if same else "receipts.json differs: run spec/vectors/gen_receipts.py")
        return 0 if same else 1
    PATH.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

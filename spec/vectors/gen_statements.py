"""Write spec/vectors/statements.json: one value of every statement, hashed and signed (spec/statements.md).

    python spec/vectors/gen_statements.py           write the file
    python spec/vectors/gen_statements.py --check   exit 1 if the file differs

Second checkers: contracts/test/Statements.t.sol, and the TypeScript SDK.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from coincurve import PrivateKey

from cloister.core.encoding import contract_statements, handover, statements
from cloister.core.encoding.contexts import Context, digest
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.encoding.statements import ADDRESS, B32, Statement

FILE = Path(__file__).with_name("statements.json")
TERM, THRESHOLD, SIZE = 1, 3, 5


def seed(*parts: str) -> bytes:
    """32 bytes that anybody can make again."""
    return hashlib.sha256("/".join(("cloister vectors", *parts)).encode()).digest()


def sample(kind: type[Statement]) -> Statement:
    """A value of a statement class with a different value in every field; the term is 1."""
    values: dict[str, Any] = {}
    for name, type_name in kind.TYPES.items():
        raw = seed(kind.NAME, name)
        if name == "term":
            values[name] = TERM
        elif type_name in (B32, ADDRESS):
            values[name] = raw if type_name == B32 else raw[:20]
        else:
            bits = int(type_name.removeprefix("uint"))
            values[name] = int.from_bytes(raw[: 6 if bits == 64 else 32], "big")
    return kind(**values)


def build() -> dict[str, Any]:
    """The whole file as plain data."""
    genesis, transcript = seed("genesis"), seed("transcript")
    network = digest(Context.NETWORK_ID, b"network", genesis, transcript)
    keys = [PrivateKey(seed("member", str(i))) for i in range(SIZE)]
    both = {**vars(statements), **vars(contract_statements), **vars(handover)}.values()
    named = {v for v in both if isinstance(v, type) and issubclass(v, Statement)}
    kinds = sorted(named - {Statement}, key=lambda k: k.NAME)
    shown = {}
    for kind in kinds:
        value = sample(kind)
        shown[kind.NAME] = {
            "type": kind.type_string(),
            "fields": value.to_json(),
            "struct_hash": to_hex(value.struct_hash()),
            "digest": to_hex(value.digest(network)),
            "signatures": [to_hex(sign_digest(key, value.digest(network))) for key in keys],
        }
    return {
        "genesis": to_hex(genesis),
        "transcript": to_hex(transcript),
        "network": to_hex(network),
        "domain_separator": to_hex(statements.domain_separator(network)),
        "term": TERM,
        "threshold": THRESHOLD,
        "members": [to_hex(address_of(key)) for key in keys],
        "statements": shown,
    }


def main(arguments: list[str]) -> int:
    """The command line."""
    text = json.dumps(build(), indent=1) + "\n"
    if arguments == ["--check"]:
        same = FILE.read_text(encoding="utf-8") == text
        print("statements.json matches" if same else "statements.json differs; run this without --check")
        return 0 if same else 1
    FILE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

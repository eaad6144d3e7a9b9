"""The walls of the house: who may import whom, with a reason each (DESIGN section 4)."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.tcb_tool import image

SRC = Path(__file__).parents[2] / "src" / "cloister"

# part -> parts it may import from our own code. A part not listed here has no wall yet and the first test fails.
ALLOWED: dict[str, set[str]] = {
    "core": {"core"},  # every trust decision, and nothing that could do I/O behind its back
    "wire": {"core", "wire"},
    "node": {"core", "node", "wire"},
    "chain": {"core", "chain"},
    "fabric": {"core", "fabric"},
    "sandbox": {"core", "sandbox"},  # keys and receipts stay on the worker's side
    "evidence": {"core", "evidence"},  # never devnet: production has no pretend hardware
    "client": {"core", "chain", "wire", "client"},
    "worker": {"core", "chain", "fabric", "wire", "node", "evidence", "sandbox", "client", "worker"},
    "gatekeeper": {"core", "chain", "fabric", "wire", "node", "evidence", "gatekeeper"},
    "gateway": {"core", "chain", "fabric", "wire", "node", "gateway"},
    "cli": {"core", "chain", "wire", "client", "cli"},
    "devnet": {
        "core",
        "chain",
        "wire",
        "node",
        "client",
        "evidence",
        "sandbox",
        "devnet",
    },  # spawns services, imports none
    # A worker's sandbox and state on the developer's machine; no service loads it.
    "local": {"core", "client", "sandbox", "fabric", "worker", "devnet", "local"},
    "relay": {"core", "wire", "relay"},  # between callers and a gateway, and part of neither
    "attestation": {"core"},
    "__init__": {"core", "client"},
}
# Imports inside functions are allowed where the reason is start-up cost or a command that needs a bigger part.
LAZY: dict[str, set[str]] = {"cli": {"devnet", "sandbox", "evidence", "local", "relay"}}


def part_of(path: Path) -> str:
    """The first folder (or module) under src/cloister."""
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def our_imports(path: Path) -> list[tuple[str, bool]]:
    """(part, at module level) of every import of our own code in a file."""
    tree = ast.parse(path.read_text())
    top = {id(node) for node in tree.body}
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "cloister" else [f"cloister.{a.name}" for a in node.names]
        for name in names:
            if name.startswith("cloister.") and not name.startswith("cloister.__"):
                found.append((name.split(".")[1], id(node) in top))
    return found


FILES = sorted(p for p in SRC.rglob("*.py") if "__pycache__" not in p.parts and "templates" not in p.parts)


def test_every_part_has_a_wall() -> None:
    assert {part_of(p) for p in FILES} <= set(ALLOWED)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_imports_stay_inside_the_walls(path: Path) -> None:
    part = part_of(path)
    for target, at_top in our_imports(path):
        allowed = ALLOWED[part] | (set() if at_top else LAZY.get(part, set()))
        assert target in allowed, f"{path.relative_to(SRC)} imports cloister.{target}"


@pytest.mark.parametrize(
    ("service", "forbidden"),
    [
        ("cloister.gatekeeper", {"cloister.client", "cloister.sandbox", "cloister.worker", "cloister.devnet", "typer"}),
        ("cloister.worker", {"cloister.gatekeeper", "cloister.gateway", "cloister.devnet", "typer"}),
        ("cloister.gateway", {"cloister.gatekeeper", "cloister.worker", "cloister.sandbox", "cloister.devnet"}),
        ("cloister.core", {"cloister.client", "aiohttp", "asyncio"}),
    ],
)
def test_a_fresh_interpreter_loads_only_what_the_service_needs(service: str, forbidden: set[str]) -> None:
    main = f"import {service}.__main__" if service != "cloister.core" else f"import {service}, cloister.core.errors"
    code = f"import sys, json; {main}; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    parts = {name for name in loaded for f in forbidden if name == f or name.startswith(f + ".")}
    assert parts == set()


# What a service may load of others' code, with the reason. Whatever comes new is noticed here.
HTTP = {
    "aiohttp": "control-path HTTP: chain endpoints, the committee",
    "aiohappyeyeballs": "of aiohttp: which address of a host answers first",
    "aiosignal": "of aiohttp",
    "attrs": "of aiohttp",
    "frozenlist": "of aiohttp",
    "idna": "of yarl: names of hosts",
    "multidict": "of aiohttp: headers",
    "propcache": "of yarl",
    "typing-extensions": "of aiosignal, on this Python",
    "yarl": "of aiohttp: URLs",
}
CRYPTO = {
    "cffi": "of cryptography, coincurve and pycryptodome: how they reach C",
    "coincurve": "secp256k1: node keys, statements, transactions",
    "cryptography": "AES-GCM, X25519, HKDF, X.509",
    "pycparser": "of cffi, for pycryptodome",
    "pycryptodome": "Keccak-256",
}
BASE = {"msgspec": "JSON of peers, typed", "uvloop": "the event loop"}
EVIDENCE = {"cbor2": "Nitro documents"}
BLS = {"py-arkworks-bls12381": "BLS12-381: shares and key derivation"}
SQLITE = {"apsw": "SQLite: what a service remembers"}
PACKAGES: dict[str, dict[str, str]] = {
    "worker": HTTP | CRYPTO | BASE | EVIDENCE | BLS | SQLITE,
    "gatekeeper": HTTP
    | CRYPTO
    | BASE
    | EVIDENCE
    | BLS
    | SQLITE
    | {
        "certifi": "of signxml",
        "dcap-qvl": "Intel quotes",
        "lxml": "golden measurements of GPUs are XML; loaded on first use",
        "signxml": "their signatures; loaded on first use",
    },
    "gateway": HTTP
    | CRYPTO
    | BASE
    | SQLITE
    | BLS  # hand-overs are asked of the committee by the code that everybody has for it
    | {"httptools": "the public door's HTTP parser", "prometheus-client": "numbers for its operator"},
}


@pytest.mark.parametrize("service", PACKAGES)
def test_a_service_loads_these_packages_and_no_other(service: str) -> None:
    assert set(image(service).packages) == set(PACKAGES[service])
    assert all(PACKAGES[service].values()), "every package has a reason"

"""Rebuild the contract artifacts, or check that they match the sources. Also runs the forge tests.

    python contracts/build.py            compile and write src/cloister/chain/artifacts/*.json
    python contracts/build.py --check    compile and compare bytes with the committed artifacts; exit 1 on a difference
    python contracts/build.py --test     run the forge tests offline (further arguments go to forge); gas figures that
                                         differ from contracts/gas/Cloister.json fail
    python contracts/build.py --gas      write the gas figures anew

Compiler, libraries and forge are exact versions from npm, fetched by Deno and pinned by contracts/deno.lock. No Node,
no native compiler. Caches live under .build/ at the repository root.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from Crypto.Hash import keccak

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = ROOT / ".build"
ARTIFACTS = ROOT / "src" / "cloister" / "chain" / "artifacts"
# A contract that hands calls which it does not know to another one's code: its ABI holds both.
HALVES = {"Gatekeepers": "Seats"}
# Contracts that ship: everything deployable. Libraries and interfaces do not.
SHIPPED = (
    "AgentAccount",
    "AgentAccounts",
    "Agents",
    "Anchor",
    "Clusters",
    "Directory",
    "Election",
    "Gatekeepers",
    "Policies",
    "Receipts",
    "RemoteAgents",
    "Reputation",
    "Reseals",
    "Seats",
    "Stakes",
    "Timelock",
    "Token",
    "Validation",
    "Workers",
)
PACKAGES = ("@foundry-rs/forge-linux-amd64@1.7.1", "@openzeppelin/contracts@5.7.0", "solc@0.8.37")
OPENZEPPELIN = "@openzeppelin/contracts"
SETTINGS: dict[str, Any] = {
    "optimizer": {"enabled": True, "runs": 200},
    "viaIR": False,
    "evmVersion": "cancun",
    # No metadata hash in the code: comments and paths do not change the bytes.
    "metadata": {"bytecodeHash": "none", "appendCBOR": False},
}
_IMPORT = re.compile(r'^import\s[^;]*?"([^"]+)";', re.MULTILINE)
_MAX_CODE = 24_576


def deno() -> str:
    """The Deno beside this Python, else the one on PATH."""
    beside = Path(sys.executable).parent / "deno"
    return str(beside) if beside.exists() else "deno"


def environment() -> dict[str, str]:
    """Environment of the tools: caches under .build/, quiet."""
    return {**os.environ, "DENO_DIR": str(BUILD / "deno"), "DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"}


def fetch() -> None:
    """Fetch the pinned packages; Deno checks them against the lock file."""
    names = [f"npm:{name}" for name in PACKAGES]
    command = [deno(), "cache", "--quiet", "--config", str(HERE / "deno.json"), *names, str(HERE / "solc.mjs")]
    subprocess.run(command, check=True, env=environment())


def package(name: str, version: str) -> Path:
    """Folder of a fetched npm package."""
    found = sorted((BUILD / "deno" / "npm").glob(f"*/{name}/{version}"))
    if len(found) != 1:
        raise SystemExit(f"{name} {version}: expected one fetched copy, found {len(found)}")
    return found[0]


def gather() -> dict[str, dict[str, str]]:
    """Every source that the shipped contracts need, by import path."""
    library = package(OPENZEPPELIN, "5.7.0")
    sources: dict[str, dict[str, str]] = {}
    todo = [f"src/{path.relative_to(HERE / 'src')}" for path in sorted((HERE / "src").rglob("*.sol"))]
    while todo:
        name = todo.pop()
        if name in sources:
            continue
        inside = name.startswith(OPENZEPPELIN)
        path = library / name[len(OPENZEPPELIN) + 1 :] if inside else HERE / name
        text = path.read_text(encoding="utf-8")
        sources[name] = {"content": text}
        todo += [resolve(name, target) for target in _IMPORT.findall(text)]
    return dict(sorted(sources.items()))


def resolve(importer: str, target: str) -> str:
    """Absolute name of an import."""
    if not target.startswith("."):
        return target
    return os.path.normpath(os.path.join(os.path.dirname(importer), target))  # noqa: PTH118, PTH120


def compile_all() -> dict[str, Any]:
    """Run the compiler over everything; stop at errors and at our own warnings."""
    wanted = ["abi", "evm.bytecode.object", "evm.deployedBytecode", "storageLayout"]
    request = {
        "language": "Solidity",
        "sources": gather(),
        "settings": {**SETTINGS, "outputSelection": {"src/*": {"*": wanted}}},
    }
    selection = {name: {"*": wanted} for name in request["sources"] if name.startswith("src/")}
    request["settings"]["outputSelection"] = selection
    done = subprocess.run(
        [deno(), "run", "--allow-all", "--quiet", "--config", str(HERE / "deno.json"), str(HERE / "solc.mjs"),
         "--standard-json"],
        input=json.dumps(request), text=True, capture_output=True, check=False, env=environment(),
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout)
    problems = [e for e in answer.get("errors", []) if e["severity"] == "error" or _ours(e)]
    if problems:
        raise SystemExit("\n".join(e["formattedMessage"] for e in problems))
    return answer


def _ours(problem: dict[str, Any]) -> bool:
    """Whether a warning is about our own sources."""
    where = problem.get("sourceLocation") or {}
    return problem["severity"] == "warning" and str(where.get("file", "src/")).startswith("src/")


def keccak256(data: bytes) -> str:
    """Keccak-256 as 0x hex."""
    return "0x" + keccak.new(digest_bits=256, data=data).hexdigest()


def artifact(name: str, output: dict[str, Any]) -> dict[str, Any]:
    """What ships of one contract."""
    code = output["evm"]["deployedBytecode"]
    runtime = bytes.fromhex(code["object"])
    if len(runtime) > _MAX_CODE:
        raise SystemExit(f"{name}: {len(runtime)} bytes, over the limit of {_MAX_CODE}")
    spans = [[p["start"], p["length"]] for group in code["immutableReferences"].values() for p in group]
    layout = output["storageLayout"]
    return {
        "name": name,
        "compiler": {"solc": "0.8.37", "openzeppelin": "5.7.0", "settings": SETTINGS},
        "abi": output["abi"],
        "bytecode": "0x" + output["evm"]["bytecode"]["object"],
        # keccak256 of the runtime code with every immutable span zeroed.
        "deployed": {"hash": keccak256(runtime), "size": len(runtime), "immutables": sorted(spans)},
        "layout": {"storage": slots(layout), "types": types(layout)},
    }


def slots(layout: dict[str, Any]) -> list[dict[str, Any]]:
    """Storage variables without compiler-internal ids."""
    return [
        {"label": s["label"], "slot": int(s["slot"]), "offset": s["offset"], "type": plain(s["type"])}
        for s in layout["storage"]
    ]


def types(layout: dict[str, Any]) -> dict[str, Any]:
    """Types of the layout, ids stripped, so that unrelated edits do not change the artifact."""
    shown: dict[str, Any] = {}
    for key, value in sorted((layout["types"] or {}).items()):
        entry: dict[str, Any] = {"encoding": value["encoding"], "bytes": int(value["numberOfBytes"])}
        for field in ("base", "key", "value"):
            if field in value:
                entry[field] = plain(value[field])
        if "members" in value:
            entry["members"] = slots({"storage": value["members"]})
        shown[plain(key)] = entry
    return shown


def plain(name: str) -> str:
    """A type name without the number of its declaration: t_struct(Agent)1_storage -> t_struct(Agent)_storage."""
    return re.sub(r"(t_(?:struct|contract|enum)\([A-Za-z0-9_]+\))\d+", r"\1", name)


def render() -> dict[str, bytes]:
    """File name -> bytes of every artifact."""
    answer = compile_all()
    outputs = {name: answer["contracts"][f"src/{name}.sol"][name] for name in SHIPPED}
    files = {}
    for name in SHIPPED:
        value = artifact(name, outputs[name])
        if name in HALVES:
            value["abi"] = joined(value["abi"], outputs[HALVES[name]]["abi"])
            if value["layout"] != artifact(HALVES[name], outputs[HALVES[name]])["layout"]:
                raise SystemExit(f"{name} and {HALVES[name]}: two storage layouts")
        files[f"{name}.json"] = (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
    return files


def joined(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two ABIs as one: the first one's constructor, no entry twice."""
    return [*first, *(e for e in second if e not in first and e["type"] != "constructor")]


def check(files: dict[str, bytes]) -> int:
    """Compare with what is committed. Returns the exit status."""
    present = {path.name: path.read_bytes() for path in ARTIFACTS.glob("*.json")}
    wrong = sorted(name for name in files.keys() | present.keys() if files.get(name) != present.get(name))
    for name in wrong:
        print(f"{name}: differs from the sources; run contracts/build.py")
    if not wrong:
        total = hashlib.sha256(b"".join(files[name] for name in sorted(files))).hexdigest()
        print(f"{len(files)} artifacts match the sources (sha256 {total})")
    return 1 if wrong else 0


def write(files: dict[str, bytes]) -> None:
    """Replace the committed artifacts."""
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    for path in ARTIFACTS.glob("*.json"):
        if path.name not in files:
            path.unlink()
    for name, data in files.items():
        (ARTIFACTS / name).write_bytes(data)
        size = json.loads(data)["deployed"]["size"]
        print(f"{name}: {size} bytes of code")


def forge_binary() -> Path:
    """Forge, as fetched."""
    return package("@foundry-rs/forge-linux-amd64", "1.7.1") / "bin" / "forge"


def forge_environment() -> dict[str, str]:
    """Forge's environment: the pinned compiler, outputs under .build/."""
    folder = BUILD / "forge"
    folder.mkdir(parents=True, exist_ok=True)
    wrapper = folder / "solc"
    line = f'exec "{deno()}" run --allow-all --quiet --config "{HERE / "deno.json"}" "{HERE / "solc.mjs"}" "$@"'
    wrapper.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
    wrapper.chmod(0o755)
    return environment() | {
        "FOUNDRY_SOLC": str(wrapper),
        "FOUNDRY_OUT": str(folder / "out"),
        "FOUNDRY_CACHE_PATH": str(folder / "cache"),
        "FOUNDRY_REMAPPINGS": f"{OPENZEPPELIN}/={package(OPENZEPPELIN, '5.7.0')}/",
    }


def forge(arguments: list[str], *, check_gas: bool = True) -> int:
    """Run the forge tests, offline, with the pinned compiler."""
    env = forge_environment() | {"FORGE_SNAPSHOT_CHECK": str(check_gas).lower()}
    command = [str(forge_binary()), "test", "--offline", "--root", str(HERE), *arguments]
    return subprocess.run(command, check=False, env=env, cwd=HERE).returncode


def main(arguments: list[str]) -> int:
    """The command line."""
    fetch()
    if arguments[:1] == ["--test"]:
        return forge(arguments[1:])
    if arguments == ["--gas"]:
        return forge(["--match-contract", "GasTest"], check_gas=False)
    files = render()
    if arguments == ["--check"]:
        return check(files)
    if arguments:
        print(__doc__)
        return 2
    write(files)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

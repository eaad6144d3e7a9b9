"""Files of a deployment: the plan that a person writes, the record that makes it resumable, and what came out.

::

    plan        {"v": 1, "chain_id", "policy_hash", "measurements": [...], "policy_delay", "seats", "rules": {...},
                 "timelock_delay", "proposers": [...], "treasury": address or null}
    record      {"v": 1, "for": {what it belongs to}, "nonces": {contract: nonce}}: written before anything is sent
    deployment  {"v": 1, "chain_id", "directory", "contracts": {name: {"address", "version", "code_hash", "abi"}}}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from cloister.chain import rollout
from cloister.chain.contracts import artifact
from cloister.chain.rollout import OTHER_CHAIN, Plan, Record, Upgrade
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.client.home import read_file, write_private
from cloister.client.wallet import Wallet
from cloister.core.chainview.seats import RulesRecord
from cloister.core.encoding.hexes import from_hex, need_fields, need_uint, need_version, to_hex
from cloister.core.errors import ConfigError, define

MAX_PLAN: Final = 256 << 10
MAX_DEPLOYMENT: Final = 4 << 20
MAX_LIST: Final = 256
_PLAN: Final = {"v", "chain_id", "policy_hash", "measurements", "policy_delay", "seats", "rules", "timelock_delay"}
_NOBODY: Final = bytes(20)

BAD_FILE = define(
    "client.deployment_file",
    ConfigError,
    check="a file of a deployment is a JSON object of its form",
    remedy="correct the field that is named; docs/operate/chain.md has an example of a plan",
)


@dataclass(frozen=True, slots=True)
class Deployment:
    """What came out: a chain, its Directory, and name -> address (20 bytes)."""

    chain_id: int
    directory: bytes
    contracts: Mapping[str, bytes]


# --- reading ---


def read_plan(path: Path) -> Plan:
    """The plan in a file. Raises ConfigError (client.deployment_file, client.file), EncodingError."""
    data = need_fields("plan", _json(path, MAX_PLAN), _PLAN | {"proposers", "treasury"})
    need_version("plan", data["v"], 1)
    sizes = {f.name: 128 if f.name in ("min_stake", "absence_slash") else 64 for f in fields(RulesRecord)}
    rules = need_fields("rules", data["rules"], set(sizes))
    numbers = {n: need_uint(n, data[n], 64) for n in ("chain_id", "policy_delay", "seats", "timelock_delay")}
    treasury = data["treasury"]
    proposers = _hexes("proposers", data["proposers"], 20)
    if not proposers:
        raise BAD_FILE(expected="at least one proposer, or nobody ever changes anything", found="none")
    return Plan(
        policy_hash=from_hex(data["policy_hash"], 32, name="policy hash"),
        measurements=_hexes("measurements", data["measurements"], 32),
        rules=RulesRecord(**{n: need_uint(n, rules[n], bits) for n, bits in sizes.items()}),
        proposers=proposers,
        treasury=_NOBODY if treasury is None else _address("treasury", treasury),
        **numbers,
    )


def read_deployment(path: Path) -> Deployment:
    """What ``write_deployment`` wrote. Raises ConfigError, EncodingError."""
    data = need_fields("deployment", _json(path, MAX_DEPLOYMENT), {"v", "chain_id", "directory", "contracts"})
    need_version("deployment", data["v"], 1)
    contracts = data["contracts"]
    if not isinstance(contracts, dict) or not all(isinstance(one, dict) for one in contracts.values()):
        raise BAD_FILE(expected="contracts as an object of objects", found=type(contracts).__name__)
    found = {str(n): _address(f"address of {n}", one.get("address")) for n, one in contracts.items()}
    return Deployment(need_uint("chain_id", data["chain_id"], 64), _address("directory", data["directory"]), found)


def open_record(path: Path, belongs: Mapping[str, Any]) -> Record:
    """The record in a file, or a new one. Raises chain.other_chain for one that belongs to something else.

    ``belongs``: what makes a deployment this one; JSON-ready."""

    def save(record: Record) -> None:
        document = {"v": 1, "for": dict(belongs), "nonces": record.nonces}
        write_private(path, json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")

    if not path.exists():
        return Record(save)
    data = need_fields("record", _json(path, MAX_PLAN), {"v", "for", "nonces"})
    need_version("record", data["v"], 1)
    if data["for"] != dict(belongs):
        raise OTHER_CHAIN(expected=f"the record of {json.dumps(dict(belongs), sort_keys=True)}", found="another one's")
    nonces = data["nonces"]
    if not isinstance(nonces, dict) or len(nonces) > MAX_LIST:
        raise BAD_FILE(expected="nonces as an object", found=type(nonces).__name__)
    return Record(save, {str(n): need_uint(f"nonce of {n}", value, 64) for n, value in nonces.items()})


# --- doing ---


async def deploy(
    rpc: Rpc, wallet: Wallet, plan: Plan, record: Path, out: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """Deploy or resume, then write addresses and ABIs to ``out``. Returns the document without ABIs.

    Raises chain.dev_key, chain.other_chain, ChainError; run it again after any of them is put right."""
    rollout.require_own_keys(plan.chain_id, (wallet.address, *plan.proposers, plan.treasury))
    sender = Sender(rpc, wallet.key, plan.chain_id, timeout=300)
    kept = open_record(record, {"chain_id": plan.chain_id, "deployer": to_hex(wallet.address), "plan": _digest(plan)})
    at = await rollout.deploy(sender, plan, kept, say)
    return await _write(rpc, plan.chain_id, at["Directory"], out)


async def verify(rpc: Rpc, deployment: Deployment) -> list[dict[str, Any]]:
    """Rows {contract, version, address, artifact}: what the Directory has now, against this build. Unproven.

    Raises chain.other_chain, chain.wrong_wiring."""
    await rollout.require_chain(rpc, deployment.chain_id)
    known = await rollout.current(rpc, deployment.directory)
    rows = [
        {
            "contract": name,
            "version": version,
            "address": to_hex(address),
            "file": deployment.contracts.get(name) == address,
            "artifact": await rollout.is_built(rpc, name, address),
        }
        for name, (version, address) in known.items()
    ]
    if all(row["artifact"] for row in rows):
        await rollout.verify_wiring(rpc, {name: address for name, (_, address) in known.items()})
    return rows


async def upgrade(
    rpc: Rpc, wallet: Wallet, name: str, file: Path, record: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """The next steps of replacing a contract; the deployment's file follows once it is published. JSON-ready.

    ``order``: what proposers of the Timelock send, where this wallet is none of them."""
    deployment = read_deployment(file)
    await rollout.require_chain(rpc, deployment.chain_id)
    sender = Sender(rpc, wallet.key, deployment.chain_id, timeout=300)
    belongs = {
        "chain_id": deployment.chain_id,
        "deployer": to_hex(wallet.address),
        "directory": to_hex(deployment.directory),
    }
    done = await rollout.upgrade(sender, name, deployment.directory, open_record(record, belongs), say)
    if done.state == "published":
        await _write(rpc, deployment.chain_id, deployment.directory, file)
    return _shown(done)


# --- inside ---


async def _write(rpc: Rpc, chain_id: int, directory: bytes, out: Path) -> dict[str, Any]:
    known = await rollout.current(rpc, directory)
    contracts = {
        name: {
            "address": to_hex(address),
            "version": version,
            "code_hash": to_hex(await rollout.code_hash(rpc, address)),
        }
        for name, (version, address) in sorted(known.items())
    }
    document = {"v": 1, "chain_id": chain_id, "directory": to_hex(directory), "contracts": contracts}
    full = {name: {**facts, "abi": list(artifact(name).abi)} for name, facts in contracts.items()}
    write_private(out, json.dumps({**document, "contracts": full}, indent=1).encode() + b"\n")
    return document


def _shown(done: Upgrade) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "contract": done.name,
        "version": done.version,
        "address": to_hex(done.address),
        "state": done.state,
        "ready_at": done.ready_at or None,
    }
    if done.order is not None:
        facts["order"] = {"to": to_hex(done.order[0]), "data": to_hex(done.order[1])}
    return facts


def _digest(plan: Plan) -> str:
    said = asdict(plan)
    text = json.dumps(said, sort_keys=True, default=lambda value: to_hex(value))
    return hashlib.sha256(text.encode()).hexdigest()


def _json(path: Path, limit: int) -> Any:
    try:
        return json.loads(read_file(path, limit))
    except (ValueError, RecursionError):
        raise BAD_FILE(expected=f"JSON in {path.name}", found="another text") from None


def _hexes(name: str, value: object, size: int) -> tuple[bytes, ...]:
    if not isinstance(value, list) or len(value) > MAX_LIST:
        raise BAD_FILE(expected=f"{name} as a list of at most {MAX_LIST}", found=type(value).__name__)
    return tuple(from_hex(one.lower() if isinstance(one, str) else one, size, name=name) for one in value)


def _address(name: str, value: object) -> bytes:
    return from_hex(value.lower() if isinstance(value, str) else value, 20, name=name)

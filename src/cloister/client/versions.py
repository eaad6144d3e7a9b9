"""Versions of an agent's code: update, apply, take back, roll back (DESIGN section 9).

The chain knows the present code and at most one announced change. Which versions there were before, the owner keeps in
``cloister.versions.json`` beside the source: hashes and blocks, nothing secret. Bundles stay in the blob store under
their hashes; a rollback names one again, and it waits as long as every other change.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cloister.chain.contracts import call, encode
from cloister.chain.events import decode_event, topic
from cloister.chain.tx import Receipt
from cloister.client.home import read_file
from cloister.core.chainview.records import AgentRecord, UpgradeMode
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.errors import ChainError, CloisterError, ConfigError, define
from cloister.core.policy.manifest import Manifest, code_hash, parse

if TYPE_CHECKING:
    from cloister.client.client import Client

VERSIONS_FILE: Final = "cloister.versions.json"
MAX_VERSIONS: Final = 200

RULE_CHANGED = define(
    "client.rule_changed",
    ConfigError,
    check="an update's manifest has the upgrade rule that the chain holds for the agent",
    remedy="put the chain's rule into cloister.json; `cloister agent show` says it",
)
FROZEN_CODE = define(
    "client.frozen",
    ConfigError,
    check="the agent's code may change",
    remedy="none: its owner froze it for ever; deploy a new agent",
)
SAME_CODE = define(
    "client.same_code",
    ConfigError,
    check="an update brings other code or another manifest",
    remedy="nothing to do: the agent runs this version, or it is announced already",
)
NOTHING_WAITS = define(
    "client.nothing_waits",
    ConfigError,
    check="an announced change waits for the agent, and its delay is over",
    remedy="wait for the block that `cloister agent update` named, or announce a change with it",
)
NO_VERSION = define(
    "client.no_version",
    ConfigError,
    check=f"{VERSIONS_FILE} knows an earlier version of the agent",
    remedy="name one with --to, or check the folder: only updates made from it are written there",
)
BAD_VERSIONS = define(
    "client.versions_file",
    ConfigError,
    check=f"{VERSIONS_FILE} is what deploy and update wrote",
    remedy="take it back from version control, or move it away: a new one begins with the next update",
)
NOT_SET = define(
    "client.code_not_set",
    ChainError,
    check="the transaction set or announced the agent's code",
    remedy="look the transaction up; the chain endpoint left out a log, or the contract is another one",
    status=502,
)


@dataclass(frozen=True, slots=True)
class Version:
    """One version: agent (32 bytes), hashes (32 bytes each), the block of its transaction; ``ready_at``: the block
    from which an announced change may be applied, None for one that is in force at once."""

    agent: bytes
    code_hash: bytes
    manifest_hash: bytes
    block: int
    ready_at: int | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "agent": to_hex(self.agent),
            "code_hash": to_hex(self.code_hash),
            "manifest_hash": to_hex(self.manifest_hash),
            "block": self.block,
            "ready_at": self.ready_at,
        }


def read_versions(folder: Path) -> list[Version]:
    """What the file of a folder says, oldest first; empty without a file. Raises ConfigError (client.versions_file)."""
    path = folder / VERSIONS_FILE
    if not path.exists():
        return []
    try:
        rows = json.loads(read_file(path, 1 << 20))
        return [_parse(row) for row in rows["versions"]]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise BAD_VERSIONS(expected="a list of versions", found="another form") from None
    except CloisterError as error:
        raise BAD_VERSIONS(expected="a list of versions", found=error.code) from None


def remember(folder: Path, version: Version) -> None:
    """Add a version to the file of a folder. Raises ConfigError (client.versions_file)."""
    known = [*read_versions(folder), version][-MAX_VERSIONS:]
    text = json.dumps({"versions": [one.to_json() for one in known]}, indent=2) + "\n"
    draft = folder / f".{VERSIONS_FILE}.new"
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(folder / VERSIONS_FILE)
    except OSError as error:
        raise BAD_VERSIONS(expected="a file that can be written", found=type(error).__name__) from None


async def update(client: Client, agent: bytes, bundle: bytes, manifest: Manifest) -> Version:
    """Upload and set or announce new code. Raises ConfigError (client.frozen, client.rule_changed, client.same_code),
    the chain's reason, TransportError.

    1. the rule allows it and stays; 2. it is another version; 3. upload; 4. the transaction; 5. what the chain took.
    """
    record = await client.resolver.record(agent)
    _require_rule(record, manifest)  # 1
    encoded = bytes(manifest)
    code, digest = code_hash(bundle), hashlib.sha256(encoded).digest()
    await _require_other(client, record, code, digest)  # 2
    await client.gateway.put_blob(bundle)  # 3
    await client.gateway.put_blob(encoded)
    return await _set(client, record, code, digest)  # 4, 5


async def roll_back(client: Client, agent: bytes, code: bytes, manifest: bytes) -> Version:
    """Set or announce a version by its hashes. Raises as ``update`` does, and where the store has lost its bytes.

    1. both blobs are still there and hash to their names; 2. as an update from there on."""
    await client.gateway.get_blob(code)  # 1
    found = parse(await client.gateway.get_blob(manifest))
    record = await client.resolver.record(agent)
    _require_rule(record, found)  # 2
    await _require_other(client, record, code, manifest)
    return await _set(client, record, code, manifest)


async def set_canary(client: Client, agent: bytes, bundle: bytes, manifest: Manifest, share: int) -> Version:
    """Upload a version and let it run beside the one in force, for ``share`` percent of the callers (0 to 100).

    As ``update``, and it may be the canary already: then only its share changes. ``ready_at`` of the result: the block
    from which it may run, None if it may now."""
    if not 0 <= share <= 100:
        raise ValueError("a share is 0 to 100 percent")
    record = await client.resolver.record(agent)
    _require_rule(record, manifest)
    encoded = bytes(manifest)
    code, digest = code_hash(bundle), hashlib.sha256(encoded).digest()
    if code == record.code_hash:
        raise SAME_CODE(expected="another version", found=to_hex(code)[:18])
    await client.gateway.put_blob(bundle)
    await client.gateway.put_blob(encoded)
    receipt = await client.send("Agents", encode("Agents", "setCanary", record.token_id, code, digest, share))
    version = _taken(client, agent, receipt, ("CanarySet",))
    if (version.code_hash, version.manifest_hash) != (code, digest):
        raise NOT_SET(expected=to_hex(code), found=to_hex(version.code_hash))
    return version


async def promote(client: Client, agent: bytes) -> Version:
    """Put the canary in force for all calls. Raises ConfigError (client.nothing_waits), the chain's reason."""
    record = await client.resolver.record(agent)
    ready_at = await canary_ready_at(client, agent)
    now = await _height(client)
    if ready_at is None or now < ready_at:
        found = "no canary" if ready_at is None else f"block {now}; it may run from block {ready_at}"
        raise NOTHING_WAITS(expected="a canary whose delay is over", found=found)
    receipt = await client.send("Agents", encode("Agents", "promoteCanary", record.token_id))
    return _taken(client, agent, receipt)


async def drop_canary(client: Client, agent: bytes) -> Receipt:
    """End the canary. Raises ConfigError (client.nothing_waits), the chain's reason."""
    record = await client.resolver.record(agent)
    if await canary_ready_at(client, agent) is None:
        raise NOTHING_WAITS(expected="a canary", found="none")
    return await client.send("Agents", encode("Agents", "dropCanary", record.token_id))


async def canary_ready_at(client: Client, agent: bytes) -> int | None:
    """The block from which the agent's canary may run; None without one. Read as ``pending``."""
    found = await call(client.rpc, client.address("Agents"), "Agents", "canary", agent)
    return int(found["readyAt"]) if any(bytes(found["codeHash"])) else None


async def apply_code(client: Client, agent: bytes) -> Version:
    """Put the announced change in force. Raises ConfigError (client.nothing_waits), the chain's reason."""
    record = await client.resolver.record(agent)
    waiting, ready_at = await pending(client, agent)
    now = await _height(client)
    if waiting is None or now < ready_at:
        found = "nothing announced" if waiting is None else f"block {now}; ready from block {ready_at}"
        raise NOTHING_WAITS(expected="a change whose delay is over", found=found)
    receipt = await client.send("Agents", encode("Agents", "applyCode", record.token_id))
    return _taken(client, agent, receipt)


async def cancel_code(client: Client, agent: bytes) -> Receipt:
    """Take the announced change back. Raises ConfigError (client.nothing_waits), the chain's reason."""
    record = await client.resolver.record(agent)
    if (await pending(client, agent))[0] is None:
        raise NOTHING_WAITS(expected="an announced change", found="none")
    return await client.send("Agents", encode("Agents", "cancelCode", record.token_id))


async def pending(client: Client, agent: bytes) -> tuple[tuple[bytes, bytes] | None, int]:
    """((code hash, manifest hash) of the announced change or None, block from which it may be applied).

    Read from the newest block without a proof: the owner's own tool asks, and the contract decides."""
    found = await call(client.rpc, client.address("Agents"), "Agents", "pendingCode", agent)
    code = bytes(found["codeHash"])
    return ((code, bytes(found["manifestHash"])) if any(code) else None), int(found["readyAt"])


def earlier(versions: list[Version], agent: bytes, present: tuple[bytes, bytes], to: bytes | None) -> Version:
    """The version to go back to: that with code hash ``to``, else the newest before the present one that was in force.

    Raises ConfigError (client.no_version)."""
    mine = [one for one in reversed(versions) if one.agent == agent]
    for one in mine:
        in_force = one.ready_at is None and (one.code_hash, one.manifest_hash) != present
        if in_force if to is None else one.code_hash == to:
            return one
    raise NO_VERSION(expected=to_hex(to) if to else "a version before this one", found=f"{len(mine)} versions")


def _require_rule(record: AgentRecord, manifest: Manifest) -> None:
    if record.upgrade_mode is UpgradeMode.FROZEN:
        raise FROZEN_CODE(expected="instant or delay", found="frozen")
    wanted = manifest.upgrade_delay
    held = 0 if record.upgrade_mode is UpgradeMode.INSTANT else record.upgrade_delay
    if wanted != held:
        raise RULE_CHANGED(expected=_rule(held), found=_rule(wanted))


async def _require_other(client: Client, record: AgentRecord, code: bytes, manifest: bytes) -> None:
    waiting, _ = await pending(client, record.agent)
    if (code, manifest) in ((record.code_hash, record.manifest_hash), waiting):
        raise SAME_CODE(expected="another version", found=to_hex(code)[:18])


async def _set(client: Client, record: AgentRecord, code: bytes, manifest: bytes) -> Version:
    receipt = await client.send("Agents", encode("Agents", "setCode", record.token_id, code, manifest))
    version = _taken(client, record.agent, receipt)
    if (version.code_hash, version.manifest_hash) != (code, manifest):
        raise NOT_SET(expected=to_hex(code), found=to_hex(version.code_hash))
    return version


async def _height(client: Client) -> int:
    """The newest block's number, as the endpoint says: to explain a refusal early; the contract decides."""
    said = await client.rpc.call("eth_blockNumber")
    try:
        return int(str(said), 16)
    except ValueError:
        raise NOT_SET(expected="a block number", found="another form") from None


def _taken(
    client: Client, agent: bytes, receipt: Receipt, events: tuple[str, ...] = ("CodeSet", "CodeProposed")
) -> Version:
    """What the transaction's own log says of this agent's code."""
    address = to_hex(client.address("Agents"))
    for log in receipt.logs:
        name = next((n for n in events if (log.get("topics") or [None])[0] == _topic(n)), None)
        if name is None or str(log.get("address")).lower() != address:
            continue
        fields = decode_event("Agents", log)[1]
        if bytes(fields["agent"]) == agent:
            ready = None if name == "CodeSet" else int(fields["readyAt"])
            if name == "CanarySet" and ready is not None and ready <= receipt.block_number:
                ready = None
            return Version(agent, bytes(fields["codeHash"]), bytes(fields["manifestHash"]), receipt.block_number, ready)
    raise NOT_SET(expected=f"a {' or '.join(events)} log", found=f"{len(receipt.logs)} other logs")


def _topic(name: str) -> str:
    return to_hex(topic("Agents", name))


def _rule(delay: int | None) -> str:
    if delay is None:
        return "frozen"
    return f"delay {delay} blocks" if delay else "instant"


def _parse(row: dict[str, Any]) -> Version:
    block, ready = row["block"], row["ready_at"]
    if not isinstance(block, int) or not (ready is None or isinstance(ready, int)):
        raise BAD_VERSIONS(expected="block numbers", found="another type")
    names = ("agent", "code_hash", "manifest_hash")
    agent, code, manifest = (from_hex(row[name], 32, name=name) for name in names)
    return Version(agent, code, manifest, block, ready)

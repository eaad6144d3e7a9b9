"""Secrets of an agent: sealed to its `secrets` key by identity-based encryption (DESIGN section 5).

Nobody's server is asked: MPK and the agent's epochs are read by proof. The ciphertext goes to the blob store, its
hash and version on chain in a transaction of the owner: workers load nothing else. The associated data binds network,
agent, version and setter, so that a host cannot put back an older set or plant its own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cloister.chain.contracts import call, encode
from cloister.chain.events import decode_event, topic
from cloister.chain.tx import Receipt
from cloister.core.chainview.records import AgentRecord
from cloister.core.encoding import jcs
from cloister.core.encoding.contexts import Context, frame
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.identity import AgentVersion, Purpose
from cloister.core.errors import ChainError, ConfigError, define
from cloister.core.keys.secretset import MAX_SECRETS, MAX_VALUE, SecretSet, good_name, is_set, seal_one
from cloister.core.policy.manifest import parse
from cloister.core.threshold import ibe

if TYPE_CHECKING:
    from cloister.client.client import Client

POLL_S, SETTLE_S = 0.25, 60.0
FOLDER = "secrets"

NOT_FINAL = define(
    "client.secrets_pending",
    ChainError,
    check="no earlier change of the agent's secrets or epoch waits for finality",
    remedy="wait a few blocks and set them again",
    status=503,
)
RACED = define(
    "client.secrets_raced",
    ChainError,
    check="the chain gave the secrets the version that they were sealed for",
    remedy="set them again: another transaction came between, and workers cannot open these",
    status=409,
)
SEALED_TOGETHER = define(
    "client.secrets_sealed_together",
    ConfigError,
    check="the agent's other secrets were sealed one by one, to its present keys",
    remedy="set all of them again: `cloister agent secrets set AGENT NAME … --replace`",
    status=409,
)
BAD_SECRET = define(
    "client.secret_name",
    ConfigError,
    check="secrets are at most 128 names of letters, digits and underscores, with values of at most 64 KiB",
    remedy="name it like a variable, such as OPENAI_API_KEY",
)


@dataclass(frozen=True, slots=True)
class SecretsSet:
    """What was committed: agent id, sha256 of the ciphertext (32 bytes), version, block of the transaction."""

    agent: bytes
    hash: bytes
    version: int
    block: int

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"agent": to_hex(self.agent), "hash": to_hex(self.hash), "version": self.version, "block": self.block}


def secrets_aad(network: bytes, agent: bytes, version: int, setter: bytes) -> bytes:
    """frame(SECRETS, network, agent, u64 version, setter address): what the ciphertext is bound to."""
    return frame(Context.SECRETS, network, agent, version.to_bytes(8, "big"), setter)


def seal_secrets(
    client: Client, at: AgentVersion, mpk: bytes, version: int, setter: bytes, values: Mapping[str, str]
) -> bytes:
    """The ciphertext of JCS {name: value} for an agent at its epochs. Raises ConfigError (client.secret_name)."""
    _require_good(values)
    aad = secrets_aad(at.network, at.agent, version, setter)
    return ibe.encrypt(mpk, bytes(at.key(Purpose.SECRETS)), jcs.encode(dict(values)), aad, client.rng)


async def set_secrets(client: Client, agent: bytes, values: Mapping[str, str]) -> SecretsSet:
    """Seal together, upload, commit on chain. Replaces every secret set before. Raises CloisterError.

    1. record and epochs by proof, once no change of them waits for finality; 2. the next version; 3. seal; 4. upload;
    5. the owner's transaction; 6. the chain gave it the version that was sealed.
    """
    record, at, mpk = await _ready(client, agent)  # 1
    version = record.secrets_version + 1  # 2
    ciphertext = seal_secrets(client, at, mpk, version, client.need_wallet().address, values)  # 3
    return await _commit(client, record, ciphertext, sorted(values))  # 4, 5, 6


async def change_secrets(
    client: Client, agent: bytes, values: Mapping[str, str], remove: Iterable[str] = (), *, replace: bool = False
) -> SecretsSet:
    """Set these and remove those; the others stay as they were sealed. ``replace``: there are no others.

    Raises client.secrets_sealed_together where the others cannot stay, client.secret_name, and as ``set_secrets``.
    1. as there; 2. what is kept, by the hash on chain; 3. each value is sealed for itself; 4. as there."""
    _require_good(values)
    record, at, mpk = await _ready(client, agent)  # 1
    kept = {} if replace else await _kept(client, record, at)  # 2
    gone = set(remove) - set(kept)
    if gone:
        raise BAD_SECRET(expected=f"one of {', '.join(sorted(kept)) or 'no secrets'}", found=", ".join(sorted(gone)))
    setter = client.need_wallet().address
    fresh = {name: seal_one(mpk, at, setter, name, value, client.rng) for name, value in values.items()}  # 3
    sealed = {name: data for name, data in {**kept, **fresh}.items() if name not in set(remove) - set(values)}
    return await _commit(client, record, SecretSet(sealed).encode(), sorted(sealed))  # 4


async def _ready(client: Client, agent: bytes) -> tuple[AgentRecord, AgentVersion, bytes]:
    record = await _settled(client, agent)
    at = await client.resolver.version(record)
    await _require_no_rotation(client, at)
    return record, at, client.resolver.mpk(at.master_epoch)


async def _kept(client: Client, record: AgentRecord, at: AgentVersion) -> dict[str, bytes]:
    """Ciphertexts of the set on chain, which count under the agent's present keys and for this wallet alone."""
    if record.secrets_at is None:
        return {}
    data = await client.gateway.get_blob(record.secrets_hash)
    if record.secrets_at != at.epochs or record.secrets_setter != client.need_wallet().address or not is_set(data):
        raise SEALED_TOGETHER(expected="secrets sealed one by one to the present keys", found="others")
    return dict(SecretSet.decode(data).sealed)


async def _commit(client: Client, record: AgentRecord, document: bytes, names: list[str]) -> SecretsSet:
    version = record.secrets_version + 1
    digest = await client.gateway.put_blob(document)
    data = encode("Agents", "setSecrets", record.token_id, digest)
    receipt = await client.send("Agents", data)
    given = _version_given(client, receipt)
    if given != version:
        raise RACED(expected=f"version {version}", found=f"version {given}")
    _remember(client, record.agent, version, names)
    return SecretsSet(record.agent, digest, version, receipt.block_number)


def _require_good(values: Mapping[str, str]) -> None:
    for name, value in values.items():
        if not good_name(name) or len(value.encode()) > MAX_VALUE or len(values) > MAX_SECRETS:
            raise BAD_SECRET(expected="a good name and size", found=f"name {name[:64]!r}, {len(values)} secrets")


async def undeclared(client: Client, agent: bytes, names: Iterable[str]) -> list[str]:
    """Names that the agent's present manifest does not declare: its code would not see them. Raises CloisterError."""
    record = await client.resolver.record(agent)
    manifest = parse(await client.gateway.get_blob(record.manifest_hash))
    return sorted(set(names) - set(manifest.secrets))


async def describe_secrets(client: Client, agent: bytes) -> dict[str, Any]:
    """What the chain says by proof, and the names: of a set, or as this client set them last. No values."""
    record: AgentRecord = await client.resolver.record(agent)
    data = client.home.read(FOLDER, f"{agent.hex()}.json")
    known = json.loads(data) if data else {}
    mine = known.get("names") if known.get("version") == record.secrets_version else None
    if any(record.secrets_hash):
        document = await client.gateway.get_blob(record.secrets_hash)
        mine = sorted(SecretSet.decode(document).sealed) if is_set(document) else mine
    return {
        "agent": to_hex(agent),
        "hash": to_hex(record.secrets_hash) if any(record.secrets_hash) else None,
        "version": record.secrets_version,
        "setter": to_hex(record.secrets_setter),
        "current": record.secrets_epoch == record.epoch,
        "names": mine if mine is not None else "set elsewhere",
    }


async def _settled(client: Client, agent: bytes) -> AgentRecord:
    """The proven record, when the newest block says the same of epoch and version. The newest block only delays."""
    address = client.address("Agents")
    for _ in range(int(SETTLE_S / POLL_S)):
        record = await client.resolver.record(agent)
        newest = await call(client.rpc, address, "Agents", "agent", agent)
        if (newest["secretsVersion"], newest["epoch"]) == (record.secrets_version, record.epoch):
            return record
        await asyncio.sleep(POLL_S)
    raise NOT_FINAL(expected=f"finality within {SETTLE_S:g} s", found=f"version {newest['secretsVersion']} waits")


async def _require_no_rotation(client: Client, at: AgentVersion) -> None:
    """The chain records the newest master epoch with the secrets: while that waits for its resume, they wait too."""
    newest = (await (await client.resolver.view()).state.committee()).master_epoch
    said = await call(client.rpc, client.address("Gatekeepers"), "Gatekeepers", "masterEpoch")
    if {newest, said} != {at.master_epoch}:
        raise NOT_FINAL(expected=f"master epoch {at.master_epoch} in office", found=f"epoch {max(newest, said)} waits")


def _version_given(client: Client, receipt: Receipt) -> int:
    wanted, address = to_hex(topic("Agents", "SecretsSet")), to_hex(client.address("Agents"))
    for log in receipt.logs:
        if str(log.get("address")).lower() == address and (log.get("topics") or [None])[0] == wanted:
            return int(decode_event("Agents", log)[1]["version"])
    raise RACED(expected="a SecretsSet log", found=f"{len(receipt.logs)} other logs")


def _remember(client: Client, agent: bytes, version: int, names: list[str]) -> None:
    client.home.write(FOLDER, f"{agent.hex()}.json", json.dumps({"version": version, "names": names}).encode())

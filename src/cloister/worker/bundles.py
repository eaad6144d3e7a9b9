"""What a leased agent's process is started with: code, manifest, secrets, each as finalised state says (DESIGN 9).

The store is not trusted: bytes count by their hash. Secrets count only as the ciphertext that the owner's transaction
committed to, under the epoch of the lease, for the setter and version on chain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hmac import compare_digest

from cloister.core.chainview.records import AgentRecord
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.identity import Epochs, Purpose
from cloister.core.errors import PolicyError, define
from cloister.core.policy.manifest import MAX_BUNDLE, MAX_MANIFEST, Manifest
from cloister.fabric.ports import Blobs
from cloister.sandbox.ports import AgentSpec, Also, Limits
from cloister.worker.carried import named, open_carried, open_owners, texts
from cloister.worker.leases import AgentKeys
from cloister.worker.state import SECRETS_NAME, AgentState

WRONG_CODE = define(
    "worker.wrong_code",
    PolicyError,
    check="code and manifest hash to what finalised state says",
    remedy="deploy the agent again; the store lost or changed its bundle",
    status=503,
)


@dataclass(frozen=True, slots=True)
class Outside:
    """A devnet's stand-ins for outside hosts: host -> (ip, port), and a PEM that agents trust besides."""

    map_host: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    extra_ca: bytes | None = None


async def agent_spec(
    blobs: Blobs,
    keys: AgentKeys,
    record: AgentRecord,
    state: AgentState,
    outside: Outside,
    *,
    also: Also,
    bind: Callable[[Manifest], None],
) -> AgentSpec:
    """What the sandbox starts. ``also``: hosts that lists on chain leave at any moment. ``bind`` raises for a manifest
    that uses what lists on chain leave out.

    Raises worker.wrong_code, worker.wrong_secrets, FabricError, ConfigError (manifest.*).

    1. bundle and manifest by the lease's hashes; 2. the manifest parses, and no list is against it; 3. secrets, as
    declared in it.
    """
    terms = keys.terms
    bundle = await exact(blobs, terms.code_hash, MAX_BUNDLE)  # 1
    manifest = Manifest.parse(await exact(blobs, terms.manifest_hash, MAX_MANIFEST))  # 2
    bind(manifest)
    secrets = await open_secrets(blobs, keys, record, state)  # 3
    return AgentSpec(
        agent=terms.agent,
        code_hash=terms.code_hash,
        bundle=bundle,
        env=manifest.environment(secrets),
        secrets=manifest.handles(secrets),
        egress=manifest.egress,
        also=also,
        limits=Limits(**manifest.limits),
        map_host=outside.map_host,
        extra_ca=outside.extra_ca,
        entry=manifest.entry,
        runtime=manifest.runtime,
        processes=manifest.processes,
    )


async def open_secrets(blobs: Blobs, keys: AgentKeys, record: AgentRecord, state: AgentState) -> dict[str, str]:
    """The agent's secrets by name. Raises worker.wrong_secrets, FabricError, StateError, without any text of theirs.

    1. none set; 2. set under the lease's epochs: the ciphertext of the record's hash, for this network, agent, version
    and setter; 3. set under earlier ones: the copy that a re-seal carried, for these very secrets, or none.
    """
    if record.secrets_at is None:  # 1
        return {}
    key = keys.key(Purpose.SECRETS)
    if record.secrets_at == keys.version.epochs:  # 2
        data = await named(blobs, record.secrets_hash)
        return texts(open_owners(data, keys.version, key, keys.mpk, record))
    name = await state.peek(SECRETS_NAME)  # 3
    return {} if name is None else texts(open_carried(await named(blobs, name), keys.version, key, record))


def secret_facts(record: AgentRecord) -> tuple[bytes, int, bytes, Epochs | None]:
    """What of a record decides which secrets an agent has."""
    return record.secrets_hash, record.secrets_version, record.secrets_setter, record.secrets_at


async def exact(blobs: Blobs, digest: bytes, cap: int) -> bytes:
    """The store's bytes of this hash. Raises worker.wrong_code, FabricError."""
    data = await blobs.get(digest)
    if len(data) > cap or not _hashes_to(data, digest):
        raise WRONG_CODE(expected=to_hex(digest), found="other bytes")
    return data


def _hashes_to(data: bytes, digest: bytes) -> bool:
    return compare_digest(hashlib.sha256(data).digest(), digest)

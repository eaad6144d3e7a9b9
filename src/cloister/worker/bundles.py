"""What a leased agent's process is started with: code, manifest, secrets, each as finalised state says (DESIGN 9).

The store is not trusted: bytes count by their hash. Secrets count only as the ciphertext that the owner's transaction
committed to, under the epoch of the lease, for the setter and version on chain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from hmac import compare_digest

from cloister.core.chainview.records import AgentRecord
from cloister.core.encoding import jcs
from cloister.core.encoding.contexts import Context, frame
from cloister.core.encoding.hexes import need_bytes, to_hex
from cloister.core.encoding.identity import Purpose
from cloister.core.errors import CloisterError, PolicyError, SealError, define
from cloister.core.policy.manifest import MAX_BUNDLE, MAX_MANIFEST, Manifest
from cloister.core.threshold.ibe import MAX_MESSAGE, decrypt
from cloister.fabric.ports import Blobs
from cloister.sandbox.ports import AgentSpec, Also, Limits
from cloister.worker.leases import AgentKeys

WRONG_CODE = define(
    "worker.wrong_code",
    PolicyError,
    check="code and manifest hash to what finalised state says",
    remedy="deploy the agent again; the store lost or changed its bundle",
    status=503,
)
WRONG_SECRETS = define(
    "worker.wrong_secrets",
    SealError,
    check="the secrets are the ciphertext that the owner's transaction committed to, for its setter and version",
    remedy="set the secrets again with `cloister agent secrets set`",
    status=503,
)


@dataclass(frozen=True, slots=True)
class Outside:
    """A devnet's stand-ins for outside hosts: host -> (ip, port), and a PEM that agents trust besides."""

    map_host: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    extra_ca: bytes | None = None


def secrets_aad(network: bytes, agent: bytes, version: int, setter: bytes) -> bytes:
    """Associated data of an agent's secrets: network, agent, version, and who set them (spec/keys.md)."""
    number = version.to_bytes(8, "big")
    return frame(Context.SECRETS, network, need_bytes("agent", agent, 32), number, need_bytes("setter", setter, 20))


async def agent_spec(blobs: Blobs, keys: AgentKeys, record: AgentRecord, outside: Outside, *, also: Also) -> AgentSpec:
    """What the sandbox starts. ``also``: hosts that lists on chain leave at any moment.

    Raises worker.wrong_code, worker.wrong_secrets, FabricError, ConfigError (manifest.*).

    1. bundle and manifest by the lease's hashes; 2. the manifest parses; 3. secrets, as declared in it.
    """
    terms = keys.terms
    bundle = await _exact(blobs, terms.code_hash, MAX_BUNDLE)  # 1
    manifest = Manifest.parse(await _exact(blobs, terms.manifest_hash, MAX_MANIFEST))  # 2
    secrets = await open_secrets(blobs, keys, record)  # 3
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
    )


async def open_secrets(blobs: Blobs, keys: AgentKeys, record: AgentRecord) -> dict[str, str]:
    """The agent's secrets by name. Raises worker.wrong_secrets, FabricError; no text of theirs is in an error.

    1. none set, or set under an epoch that is closed: none, until the owner sets them again; 2. the ciphertext of the
    record's hash; 3. it opens for this network, agent, version and setter; 4. a JSON object of texts.
    """
    if record.secrets_hash == bytes(32) or record.secrets_epoch != keys.version.agent_epoch:  # 1
        return {}
    ciphertext = await blobs.get(record.secrets_hash)  # 2
    if len(ciphertext) > 2 * MAX_MESSAGE or not _hashes_to(ciphertext, record.secrets_hash):
        raise WRONG_SECRETS(expected=to_hex(record.secrets_hash), found="other bytes")
    aad = secrets_aad(keys.version.network, keys.version.agent, record.secrets_version, record.secrets_setter)
    identity = bytes(keys.version.key(Purpose.SECRETS))
    try:
        plain = decrypt(keys.key(Purpose.SECRETS), keys.mpk, identity, ciphertext, aad)  # 3
    except CloisterError:
        found = "one made for another epoch, version or setter"
        raise WRONG_SECRETS(expected="a ciphertext for this agent", found=found) from None
    try:
        values = jcs.decode(plain)  # 4
    except CloisterError:
        raise WRONG_SECRETS(expected="a canonical JSON object of texts", found="another form") from None
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise WRONG_SECRETS(expected="a canonical JSON object of texts", found="another form")
    return values


def secret_facts(record: AgentRecord) -> tuple[bytes, int, bytes, int]:
    """What of a record decides which secrets an agent has."""
    return record.secrets_hash, record.secrets_version, record.secrets_setter, record.secrets_epoch


async def _exact(blobs: Blobs, digest: bytes, cap: int) -> bytes:
    data = await blobs.get(digest)
    if len(data) > cap or not _hashes_to(data, digest):
        raise WRONG_CODE(expected=to_hex(digest), found="other bytes")
    return data


def _hashes_to(data: bytes, digest: bytes) -> bool:
    return compare_digest(hashlib.sha256(data).digest(), digest)

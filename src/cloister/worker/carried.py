"""Secrets that a re-seal carries to new epochs, so that their owner types nothing again (spec/epochs.md 8).

The owner's ciphertext opens under the epochs that it was set under, and never changes. What a re-seal carries is a
copy under the `secrets` key of the new epochs, bound to the hash, version and setter on chain; the state names it by
its hash, and so does every head. After a transfer the chain names no secrets: no copy opens, and none is carried on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from hmac import compare_digest

from cloister.core.chainview.records import AgentRecord
from cloister.core.encoding import jcs
from cloister.core.encoding.contexts import Context, frame
from cloister.core.encoding.hexes import need_bytes, to_hex
from cloister.core.encoding.identity import AgentVersion, Purpose
from cloister.core.errors import CloisterError, SealError, define
from cloister.core.keys.seal import open_sealed, seal
from cloister.core.keys.secretset import SecretSet, is_set
from cloister.core.threshold.ibe import MAX_MESSAGE, DerivedKey, decrypt
from cloister.fabric.ports import Blobs
from cloister.worker.leases import AgentKeys

WRONG_SECRETS = define(
    "worker.wrong_secrets",
    SealError,
    check="the secrets are the ciphertext that the owner's transaction committed to, for its setter and version",
    remedy="set the secrets again with `cloister agent secrets set`",
    status=503,
)
Rng = Callable[[int], bytes]


def secrets_aad(network: bytes, agent: bytes, version: int, setter: bytes) -> bytes:
    """Associated data of an agent's secrets: network, agent, version, and who set them (spec/secrets.md 5)."""
    number = version.to_bytes(8, "big")
    return frame(Context.SECRETS, network, need_bytes("agent", agent, 32), number, need_bytes("setter", setter, 20))


async def named(blobs: Blobs, name: bytes) -> bytes:
    """The bytes that hash to ``name``. Raises worker.wrong_secrets when the store gives others, FabricError."""
    data = await blobs.get(need_bytes("blob name", name, 32))
    if len(data) > 2 * MAX_MESSAGE or not compare_digest(hashlib.sha256(data).digest(), name):
        raise WRONG_SECRETS(expected=to_hex(name), found="other bytes")
    return data


def open_owners(data: bytes, at: AgentVersion, key: DerivedKey, mpk: bytes, record: AgentRecord) -> bytes:
    """The plain JSON of the owner's secrets, made for these epochs and the record's setter: one ciphertext, which names
    the record's version too, or a set of them (spec/secrets.md).

    Raises worker.wrong_secrets; no text of the secrets is in an error."""
    if is_set(data):
        try:
            return jcs.encode(SecretSet.decode(data).open(at, key, mpk, record.secrets_setter))
        except CloisterError:
            raise WRONG_SECRETS(expected="a set for this agent", found="one for another epoch or setter") from None
    aad = secrets_aad(at.network, at.agent, record.secrets_version, record.secrets_setter)
    try:
        return decrypt(key, mpk, bytes(at.key(Purpose.SECRETS)), data, aad)
    except CloisterError:
        found = "one made for another epoch, version or setter"
        raise WRONG_SECRETS(expected="a ciphertext for this agent", found=found) from None


def open_carried(data: bytes, at: AgentVersion, key: DerivedKey, record: AgentRecord) -> bytes:
    """The plain JSON of a carried copy, made for these epochs and the secrets on chain. Raises worker.wrong_secrets."""
    try:
        return open_sealed(*_place(at, key, record), data)
    except CloisterError:
        raise WRONG_SECRETS(expected="a copy of the secrets on chain", found="one of others") from None


async def carry(blobs: Blobs, keys: AgentKeys, record: AgentRecord, name: bytes | None, rng: Rng) -> bytes | None:
    """Take the agent's secrets along to the epochs of ``keys``; returns the new copy's hash, None when there is none.

    ``name``: the copy that the old state names, if it does. 1. the chain names secrets of earlier epochs, and members
    released the key that they, or the copy, are under; 2. bytes that the store lost stop the re-seal; 3. what does not
    open is not carried: the owner sets it again. Raises worker.wrong_secrets, FabricError."""
    at, old = record.secrets_at, keys.old.get(Purpose.SECRETS)
    if at is None or at >= keys.version.epochs or old is None:  # 1
        return None
    theirs = old.version.epochs == at
    source = record.secrets_hash if theirs else name
    if source is None:
        return None
    data = await named(blobs, source)  # 2
    try:
        plain = (
            open_owners(data, old.version, old.key, old.mpk, record)
            if theirs
            else open_carried(data, old.version, old.key, record)
        )
    except SealError:  # 3
        return None
    return await blobs.put(seal(*_place(keys.version, keys.key(Purpose.SECRETS), record), plain, rng))


def texts(plain: bytes) -> dict[str, str]:
    """Secrets by name. Raises worker.wrong_secrets for anything but a canonical JSON object of texts."""
    try:
        values = jcs.decode(plain)
    except CloisterError:
        raise WRONG_SECRETS(expected="a canonical JSON object of texts", found="another form") from None
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise WRONG_SECRETS(expected="a canonical JSON object of texts", found="another form")
    return values


def _place(at: AgentVersion, key: DerivedKey, record: AgentRecord) -> tuple[bytes, Context, bytes]:
    identity = bytes(at.key(Purpose.SECRETS))
    aad = secrets_aad(at.network, at.agent, record.secrets_version, record.secrets_setter)
    bound = frame(Context.SECRETS, b"carried", identity, aad, record.secrets_hash)
    return key.symmetric(Context.SECRETS, identity), Context.SECRETS, bound

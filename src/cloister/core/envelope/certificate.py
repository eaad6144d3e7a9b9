"""Key certificates and seats: which worker may open calls to an agent (spec/sealed-http.md 1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Final

from cloister.core.encoding import jcs
from cloister.core.encoding.contexts import Context, digest, frame
from cloister.core.encoding.hexes import from_hex, need_bytes, need_fields, need_uint, to_hex
from cloister.core.encoding.identity import AgentVersion, KeyIdentity, Purpose
from cloister.core.encoding.signatures import MAX_MEMBERS, Signed, SignerSet, verify_signer
from cloister.core.encoding.statements import Lease
from cloister.core.errors import EnvelopeError, define

SUITE: Final = 1
XWING_SUITE: Final = 2  # the certificate has an X-Wing key besides; the client chooses
MAX_CERTIFICATE: Final = 4096
XWING_KEY: Final = 1216
_SIZES: Final = {
    "network": 32,
    "agent": 32,
    "code_hash": 32,
    "manifest_hash": 32,
    "cluster": 32,
    "worker": 20,
    "boot": 32,
    "hpke_key": 32,
    "xwing_key": XWING_KEY,
}
_LEASED: Final = (
    "agent",
    "code_hash",
    "manifest_hash",
    "cluster",
    "master_epoch",
    "cluster_epoch",
    "agent_epoch",
    "period",
    "worker",
    "boot",
)

WRONG_NETWORK = define(
    "envelope.wrong_network",
    EnvelopeError,
    check="the certificate is of the network that this client pins",
    remedy="compare the fingerprint of network.json with the one that the operator publishes",
)
WRONG_SUITE = define(
    "envelope.suite",
    EnvelopeError,
    check="the certificate names a cipher suite that this build speaks",
    remedy="update this software",
)
NOT_LEASED = define(
    "envelope.not_leased",
    EnvelopeError,
    check="a committee lease covers every field of the certificate",
    remedy="take another seat of the agent; this worker offers a key that nobody leased to it",
    status=403,
)
CERTIFICATE_EXPIRED = define(
    "envelope.certificate_expired",
    EnvelopeError,
    check="the certificate's expiry height is ahead of the newest checkpoint",
    remedy="fetch the agent's seats again",
)


@dataclass(frozen=True)
class KeyCertificate:
    """A worker's HPKE keys for one agent, at one code, one set of epochs, one period and one boot.

    Hashes and ids are 32 bytes, ``worker`` 20, ``hpke_key`` an X25519 public key; ``expiry`` is a block height.
    ``xwing_key``: an X-Wing public key (1216 bytes) if and only if ``suite`` is 2, else empty and not in the JSON.
    """

    network: bytes
    agent: bytes
    code_hash: bytes
    manifest_hash: bytes
    cluster: bytes
    master_epoch: int
    cluster_epoch: int
    agent_epoch: int
    period: int
    worker: bytes
    boot: bytes
    hpke_key: bytes
    expiry: int
    suite: int = SUITE
    xwing_key: bytes = b""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "xwing_key" and self.suite != XWING_SUITE:
                need_bytes(field.name, value, 0)
            elif field.name in _SIZES:
                need_bytes(field.name, value, _SIZES[field.name])
            else:
                need_uint(field.name, value, 53)

    @cached_property
    def encoded(self) -> bytes:
        """The canonical bytes that are signed and sealed to."""
        return jcs.encode(self.to_json())

    @cached_property
    def id(self) -> bytes:
        """digest(KEY_CERTIFICATE, bytes): what the worker signs and what records name. 32 bytes."""
        return digest(Context.KEY_CERTIFICATE, self.encoded)

    @cached_property
    def info(self) -> bytes:
        """The HPKE info of every context under this certificate."""
        return frame(Context.SEALED_INFO, self.encoded)

    @property
    def psk_aad(self) -> bytes:
        """The associated data of a PSK's IBE ciphertext. 32 bytes."""
        return digest(Context.SEALED_INFO, self.encoded)

    @property
    def version(self) -> AgentVersion:
        """The agent at the epochs of the certificate."""
        return AgentVersion(
            self.network, self.master_epoch, self.cluster, self.cluster_epoch, self.agent, self.agent_epoch
        )

    @property
    def call_identity(self) -> KeyIdentity:
        """The `call` key of the certificate's period, to which PSKs are encrypted."""
        return self.version.key(Purpose.CALL, self.period)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready fields, bytes as hex."""
        plain = {name: getattr(self, name) for name in sorted(_fields(self.suite))}
        return {name: to_hex(value) if isinstance(value, bytes) else value for name, value in plain.items()}

    @classmethod
    def from_json(cls, value: object) -> KeyCertificate:
        """Parse ``to_json`` output. Raises EncodingError; unknown fields are refused."""
        suite = value.get("suite") if isinstance(value, dict) else None
        data = need_fields("key certificate", value, _fields(suite))
        values: dict[str, Any] = {n: from_hex(v, _SIZES[n], name=n) if n in _SIZES else v for n, v in data.items()}
        return cls(**values)

    @classmethod
    def decode(cls, data: bytes) -> KeyCertificate:
        """Parse canonical bytes. Raises EncodingError."""
        return cls.from_json(jcs.decode(data, max_size=MAX_CERTIFICATE))

    @classmethod
    def under(cls, lease: Lease, *, network: bytes, hpke_key: bytes, xwing_key: bytes = b"") -> KeyCertificate:
        """The certificate that a worker issues under its lease: suite 2 if it has an X-Wing key, else 1."""
        copied = {name: getattr(lease, name) for name in _LEASED}
        suite = XWING_SUITE if xwing_key else SUITE
        return cls(network=network, hpke_key=hpke_key, expiry=lease.expiry, suite=suite, xwing_key=xwing_key, **copied)

    def sign(self, sign: Callable[[bytes], bytes]) -> bytes:
        """65-byte signature by ``sign(digest 32) -> 65``, the worker's attested key."""
        return sign(self.id)


def _fields(suite: object) -> set[str]:
    """The fields of a certificate in JSON."""
    names = {f.name for f in fields(KeyCertificate)}
    return names if type(suite) is int and suite == XWING_SUITE else names - {"xwing_key"}


def verify_certificate(
    certificate: KeyCertificate, signature: bytes, lease: Signed, signers: SignerSet, network: bytes, now_height: int
) -> None:
    """Raise unless the worker may open calls with this key at ``now_height`` (spec/sealed-http.md 1).

    1. the pinned network; 2. a known suite; 3. the lease says the same in every field; 4. neither has expired;
    5. the worker signed the certificate; 6. t members signed the lease.

    Raises:
        EnvelopeError: steps 1 to 4. EncodingError: a signature or the quorum (5, 6).
    """
    if certificate.network != network:  # 1
        raise WRONG_NETWORK(expected=to_hex(network), found=to_hex(certificate.network))
    if certificate.suite not in (SUITE, XWING_SUITE):  # 2
        raise WRONG_SUITE(expected=f"suite {SUITE} or {XWING_SUITE}", found=f"suite {certificate.suite}")
    _same_as_lease(certificate, lease.statement)  # 3
    if now_height >= certificate.expiry:  # 4
        raise CERTIFICATE_EXPIRED(expected=f"an expiry above block {now_height}", found=f"block {certificate.expiry}")
    verify_signer(certificate.id, signature, certificate.worker)  # 5
    lease.verify(signers, network)  # 6


def _same_as_lease(certificate: KeyCertificate, lease: object) -> None:
    if not isinstance(lease, Lease):
        raise NOT_LEASED(expected="a Lease statement", found=type(lease).__name__)
    differing = [name for name in _LEASED if getattr(certificate, name) != getattr(lease, name)]
    if differing:
        raise NOT_LEASED(expected="the lease's fields", found=f"other {', '.join(differing)}")
    if certificate.expiry > lease.expiry:
        raise NOT_LEASED(expected=f"an expiry of at most block {lease.expiry}", found=f"block {certificate.expiry}")


@dataclass(frozen=True)
class Seat:
    """One worker's offer for one agent, as gateways list it. Nothing in it counts before ``verify``."""

    certificate: KeyCertificate
    signature: bytes
    lease: Signed

    def verify(self, signers: SignerSet, network: bytes, now_height: int) -> None:
        """``verify_certificate`` on the triple."""
        verify_certificate(self.certificate, self.signature, self.lease, signers, network, now_height)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: {certificate, certificate_signature, lease: {statement, signatures}}."""
        lease = {
            "statement": self.lease.statement.to_json(),
            "signatures": [to_hex(s) for s in self.lease.signatures],
        }
        return {
            "certificate": self.certificate.to_json(),
            "certificate_signature": to_hex(self.signature),
            "lease": lease,
        }

    @classmethod
    def from_json(cls, value: object) -> Seat:
        """Parse ``to_json`` output. Raises EncodingError."""
        data = need_fields("seat", value, {"certificate", "certificate_signature", "lease"})
        lease = need_fields("lease", data["lease"], {"statement", "signatures"})
        signatures = lease["signatures"]
        if not isinstance(signatures, list) or len(signatures) > MAX_MEMBERS:
            raise NOT_LEASED(expected=f"a list of at most {MAX_MEMBERS} signatures", found=type(signatures).__name__)
        return cls(
            KeyCertificate.from_json(data["certificate"]),
            from_hex(data["certificate_signature"], 65, name="certificate signature"),
            Signed(
                Lease.from_json(lease["statement"]),
                tuple(from_hex(s, 65, name="lease signature") for s in signatures),
            ),
        )

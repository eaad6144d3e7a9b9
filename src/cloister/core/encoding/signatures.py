"""secp256k1 signatures over statements: one signer, or t distinct members of a committee (spec/statements.md 3).

Signatures are 65 bytes r || s || v with v in {27, 28} and low s, as ecrecover in contracts takes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from coincurve import PrivateKey, PublicKey

from cloister.core.encoding.hexes import need_bytes, need_uint
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.statements import Statement
from cloister.core.errors import EncodingError, define

_HALF_N = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
MAX_MEMBERS = 64

BAD_SIGNATURE = define(
    "encoding.signature",
    EncodingError,
    check="a signature is r || s || v, low s, and recovers to the named signer",
    remedy="ask the signer again; if it repeats, the signer or the path to it is broken",
    status=403,
)
TOO_FEW_SIGNERS = define(
    "encoding.too_few_signers",
    EncodingError,
    check="t distinct members of the committee signed the statement",
    remedy="ask more gatekeepers; with fewer than t alive the network refuses on purpose",
    status=503,
)
WRONG_TERM = define(
    "encoding.wrong_term",
    EncodingError,
    check="the statement names the term of the committee that signs it",
    remedy="fetch the current committee by proof and ask again",
)


@dataclass(frozen=True, slots=True)
class SignerSet:
    """A committee of one term: member addresses (20 bytes each, distinct) and the threshold t."""

    term: int
    threshold: int
    members: tuple[bytes, ...]

    def __post_init__(self) -> None:
        need_uint("term", self.term, 64)
        for member in self.members:
            need_bytes("member address", member, 20)
        if len(set(self.members)) != len(self.members) or not 1 <= len(self.members) <= MAX_MEMBERS:
            raise TOO_FEW_SIGNERS(expected="1 to 64 distinct members", found=f"{len(self.members)} entries")
        if not 1 <= self.threshold <= len(self.members):
            raise TOO_FEW_SIGNERS(expected="1 <= t <= n", found=f"t = {self.threshold}")


def address_of(key: PrivateKey | PublicKey) -> bytes:
    """The 20-byte EVM address of a key."""
    public = key.public_key if isinstance(key, PrivateKey) else key
    return keccak256(public.format(compressed=False)[1:])[-20:]


def sign_digest(key: PrivateKey, digest: bytes) -> bytes:
    """65-byte signature over 32 bytes that are already a hash."""
    raw = key.sign_recoverable(need_bytes("digest", digest, 32), hasher=None)
    return raw[:64] + bytes([raw[64] + 27])


@lru_cache(maxsize=4096)
def recover(digest: bytes, signature: bytes) -> bytes:
    """The signer's address. Raises EncodingError for a malformed or malleable signature.

    Both are public, and the answer never changes: what was recovered lately is kept. One checkpoint comes with the same
    signatures in every request of its second."""
    if len(signature) != 65 or signature[64] not in (27, 28):
        raise BAD_SIGNATURE(expected="65 bytes with v 27 or 28", found=f"{len(signature)} bytes")
    if int.from_bytes(signature[32:64], "big") > _HALF_N:
        raise BAD_SIGNATURE(expected="low s", found="high s")
    try:
        raw = signature[:64] + bytes([signature[64] - 27])
        public = PublicKey.from_signature_and_message(raw, digest, hasher=None)
    except Exception:
        raise BAD_SIGNATURE(expected="a point on the curve", found="none") from None
    return address_of(public)


def verify_signer(digest: bytes, signature: bytes, signer: bytes) -> None:
    """Raise EncodingError unless ``signer`` (20 bytes) made the signature."""
    found = recover(digest, signature)
    if found != signer:
        raise BAD_SIGNATURE(expected=f"signer 0x{signer.hex()}", found=f"0x{found.hex()}")


def verify_committee(statement: Statement, signatures: Sequence[bytes], signers: SignerSet, network: bytes) -> None:
    """Raise EncodingError unless t distinct members of ``signers`` signed the statement under this network.

    1. the statement names the committee's term; 2. at most n signatures; 3. each recovers to a member;
    4. no member counts twice; 5. at least t remain.
    """
    term = getattr(statement, "term", None)
    if term != signers.term:  # 1
        raise WRONG_TERM(expected=f"term {signers.term}", found=f"term {term}")
    if len(signatures) > len(signers.members):  # 2
        raise TOO_FEW_SIGNERS(expected=f"at most {len(signers.members)}", found=f"{len(signatures)} signatures")
    digest = statement.digest(network)
    seen = {recover(digest, s) for s in signatures}  # 3, 4
    strangers = seen - set(signers.members)
    if strangers:
        raise BAD_SIGNATURE(expected="only members", found=f"signer 0x{sorted(strangers)[0].hex()}")
    if len(seen) < signers.threshold:  # 5
        raise TOO_FEW_SIGNERS(expected=f"{signers.threshold} distinct signers", found=str(len(seen)))


@dataclass(frozen=True, slots=True)
class Signed:
    """A statement with committee signatures, as it travels."""

    statement: Statement
    signatures: tuple[bytes, ...]

    def verify(self, signers: SignerSet, network: bytes) -> None:
        """``verify_committee`` on the pair."""
        verify_committee(self.statement, self.signatures, signers, network)

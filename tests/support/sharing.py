"""Whole small networks for tests, dealt with a seeded random source."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cloister.core.threshold.dkg import Ceremony, Dealing, KeyShare, Member, PublicShares, deal, finish


def stream(seed: str) -> Callable[[int], bytes]:
    """A repeatable random source: SHA-256 of seed and counter."""
    counter = 0

    def read(size: int) -> bytes:
        nonlocal counter
        counter += 1
        return hashlib.shake_256(f"{seed}/{counter}".encode()).digest(size)

    return read


@dataclass(frozen=True)
class Network:
    """A ceremony with everything that its members know. ``privates`` and ``shares`` are in member order."""

    ceremony: Ceremony
    privates: tuple[bytes, ...]
    dealings: dict[int, Dealing]
    committed: dict[int, bytes]
    shares: tuple[KeyShare, ...]

    @property
    def public(self) -> PublicShares:
        """What everybody knows afterwards."""
        return self.shares[0].public

    def finish(self, index: int, dealings: dict[int, Dealing] | None = None) -> KeyShare:
        """Member ``index`` finishes with these dealings, whose digests were committed."""
        used = self.dealings if dealings is None else dealings
        committed = {i: d.digest(self.ceremony) for i, d in used.items()}
        return finish(self.ceremony, used, committed, index, self.privates[index - 1])


def ceremony_of(n: int, t: int, seed: str) -> tuple[Ceremony, tuple[bytes, ...]]:
    """A ceremony and the transport private keys of its members."""
    rng = stream(f"ceremony/{seed}/{n}/{t}")
    keys = [X25519PrivateKey.from_private_bytes(rng(32)) for _ in range(n)]
    members = tuple(Member(i + 1, rng(20), key.public_key().public_bytes_raw()) for i, key in enumerate(keys))
    return Ceremony(rng(32), t, members), tuple(key.private_bytes_raw() for key in keys)


@lru_cache(maxsize=32)
def network(n: int, t: int, seed: str = "first") -> Network:
    """A finished network of n members with threshold t."""
    ceremony, privates = ceremony_of(n, t, seed)
    rng = stream(f"deal/{seed}/{n}/{t}")
    dealings = {m.index: deal(ceremony, m.index, rng) for m in ceremony.members}
    committed = {i: d.digest(ceremony) for i, d in dealings.items()}
    shares = tuple(finish(ceremony, dealings, committed, i + 1, privates[i]) for i in range(n))
    return Network(ceremony, privates, dealings, committed, shares)

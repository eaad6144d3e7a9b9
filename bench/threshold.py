"""Ceremonies of the threshold key: CPU, bytes and messages per node at n = 4, 7, 16, 31 with t = floor(2n/3) + 1.

``python -m bench.threshold [rounds]``, or ``make bench-threshold``. An honest run: nobody complains. CPU is that of one
member: its dealing, the others' dealings checked with its share in each, its new share and all share keys.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from bench.keys import ceremony_of
from bench.measure import Row, fact, finish, median
from cloister.core.encoding import jcs
from cloister.core.threshold.complaints import judge
from cloister.core.threshold.dealing import Ceremony, Dealing, commitments_of
from cloister.core.threshold.dkg import KeyShare, deal_kept, finish_over
from cloister.core.threshold.partial import TransportKey, evaluate, recover
from cloister.core.threshold.reshare import Resharing, deal_again

SIZES = (4, 7, 16, 31)
CHAIN_MESSAGES = 3  # commit, content, confirm


def threshold_of(size: int) -> int:
    """t for n members."""
    return 2 * size // 3 + 1


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU milliseconds of one member to deal, and to check everything and finish; bytes of one dealing on the wire."""

    deal: float
    receive: float
    dealing: int


class Clock:
    """CPU milliseconds since the last look."""

    def __init__(self) -> None:
        self._last = time.process_time_ns()

    def lap(self) -> float:
        now = time.process_time_ns()
        passed, self._last = (now - self._last) / 1e6, now
        return passed


def received(ceremony: Ceremony, dealings: Mapping[int, Dealing], me: int, private: bytes) -> tuple[KeyShare, float]:
    """One receiver's share and its CPU milliseconds: every dealing judged, then the share over all of them."""
    commitments_of.cache_clear()
    committed = {index: dealing.digest(ceremony) for index, dealing in dealings.items()}
    key, clock = X25519PrivateKey.from_private_bytes(private), Clock()
    for index, dealing in dealings.items():
        if judge(ceremony, index, committed[index], dealing, me, key) is not None:
            raise RuntimeError("an honest dealing was judged bad")
    share = finish_over(ceremony, dealings, committed, {}, me, private)
    return share, clock.lap()


def founding(size: int) -> tuple[Cost, list[KeyShare]]:
    """A key generation: its cost per member, and t + 1 of its shares."""
    ceremony, privates = ceremony_of(size, threshold_of(size))
    clock = Clock()
    dealings = {1: deal_kept(ceremony, 1, os.urandom).dealing}
    cost = clock.lap()
    for index in range(2, size + 1):
        dealings[index] = deal_kept(ceremony, index, os.urandom).dealing
    ended = [received(ceremony, dealings, i, privates[i - 1]) for i in range(1, threshold_of(size) + 1)]
    bytes_ = len(jcs.encode(dealings[1].to_json()))
    return Cost(cost, median(ms for _, ms in ended), bytes_), [share for share, _ in ended]


def resharing(size: int, shares: Sequence[KeyShare]) -> Cost:
    """The same key dealt again to as many members by t dealers of the old committee."""
    base, privates = ceremony_of(size, threshold_of(size))
    old = shares[0].public
    ceremony = Resharing(
        base.id,
        base.threshold,
        base.members,
        old.term + 1,
        old=old,
        old_threshold=threshold_of(size),
        old_members=tuple(os.urandom(20) for _ in range(size)),
    )
    clock = Clock()
    dealings = {1: deal_again(ceremony, shares[0], os.urandom).dealing}
    cost = clock.lap()
    dealings |= {share.index: deal_again(ceremony, share, os.urandom).dealing for share in shares[1:]}
    _, ms = received(ceremony, dealings, size, privates[size - 1])
    return Cost(cost, ms, len(jcs.encode(dealings[1].to_json())))


def derivation(shares: Sequence[KeyShare]) -> tuple[float, float]:
    """CPU milliseconds of (one member's partial, the asker's key from t of them)."""
    identity, transport, clock = os.urandom(40), TransportKey.generate(os.urandom), Clock()
    partials = [evaluate(share, identity, transport.public, os.urandom) for share in shares]
    partial = clock.lap() / len(shares)
    recover(partials, len(shares), shares[0].public, identity, transport)
    return partial, clock.lap()


def rows(*, rounds: int = 3, sizes: Sequence[int] = SIZES) -> list[Row]:
    """All rows, none of which needs a network."""
    found: list[Row] = []
    for size in sizes:
        runs = [founding(size) for _ in range(rounds)]
        shares = runs[-1][1]
        again = [resharing(size, shares) for _ in range(rounds)]
        derived = [derivation(shares) for _ in range(3 * rounds)]
        t = threshold_of(size)
        found += _ceremony_rows(f"DKG {t} of {size}", size, size, [cost for cost, _ in runs])
        found += _ceremony_rows(f"resharing {t} of {size}, t dealers", size, t, again)
        found += [
            fact(f"partial key, t = {t} (CPU)", median(p for p, _ in derived), "ms"),
            fact(f"key from {t} partials: combine, open, check (CPU)", median(c for _, c in derived), "ms"),
        ]
    return found


def _ceremony_rows(name: str, size: int, dealers: int, costs: Sequence[Cost]) -> list[Row]:
    dealing = costs[0].dealing
    return [
        fact(f"{name}: CPU per node", median(cost.deal + cost.receive for cost in costs), "ms"),
        fact(f"{name}: of which its own dealing", median(cost.deal for cost in costs), "ms"),
        fact(f"{name}: a dealing on the wire", dealing, "bytes"),
        fact(f"{name}: received by a node", dealing * (dealers - 1) / 1024, "KiB"),
        fact(f"{name}: dealings in and out of a node", dealers - 1 + size - 1, "msgs"),
        fact(f"{name}: transactions of a node", CHAIN_MESSAGES, "txs"),
    ]


def main(arguments: Sequence[str]) -> int:
    """The rows of this module."""
    return finish(rows(rounds=int(arguments[0]) if arguments else 3))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

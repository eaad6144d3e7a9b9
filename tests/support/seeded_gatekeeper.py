"""``python -m support.seeded_gatekeeper --config FILE``: a gatekeeper whose polynomials the test knows.

Everything is the product's own, but the scalars of its dealings: they come from a stream whose seed the test gave. So
the test, and nobody else, can compute the secret that no gatekeeper ever has.
"""

from __future__ import annotations

import os
import sys

from py_arkworks_bls12381 import Scalar

from cloister.core.threshold import dealing
from cloister.core.threshold.groups import Rng, random_scalar
from support.sharing import stream

SEED = "CLOISTER_TEST_SEED"


def polynomial(seed: str, threshold: int) -> list[int]:
    """The coefficients of the first dealing that a gatekeeper with this seed makes, lowest first."""
    source = stream(seed)
    return [int.from_bytes(bytes(random_scalar(source).to_be_bytes()), "big") for _ in range(threshold)]


def seed_dealings(seed: str) -> None:
    """From now on the scalars of this process's dealings follow from the seed."""
    source = stream(seed)

    def seeded(_rng: Rng) -> Scalar:
        return random_scalar(source)

    vars(dealing)["random_scalar"] = seeded


if __name__ == "__main__":
    seed_dealings(os.environ.pop(SEED))
    from cloister.gatekeeper.__main__ import main

    sys.exit(main())

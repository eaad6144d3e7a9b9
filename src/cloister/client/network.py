"""Which network this client talks to: network.json pinned by its fingerprint (spec/encoding.md 8).

Everything a client believes hangs on these bytes: chain, contracts, founding committee, MPK, vendor roots. So they
are pinned (the person gives the fingerprint), remembered (``HOME/networks``), or refused. Trust on first use happens
only where the person asks for it in words. What the bytes mean is decided in ``core/encoding/network.py``.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from cloister.client.gateway import Gateway
from cloister.client.home import Home, read_file
from cloister.core.encoding.network import MAX_FILE, WRONG_FINGERPRINT, Network
from cloister.core.errors import ConfigError, define

NOT_PINNED = define(
    "client.not_pinned",
    ConfigError,
    check="the network is pinned by a fingerprint",
    remedy="give --fingerprint, or accept this one with --trust-on-first-use after comparing it with its source",
    status=403,
)
BAD_FINGERPRINT = define(
    "client.fingerprint",
    ConfigError,
    check="a fingerprint is 64 hexadecimal digits",
    remedy="copy the whole fingerprint that the network's operators publish",
)


def fingerprint_of(text: str) -> str:
    """A fingerprint as people write it (spaces, colons, 0x, capitals) as 64 hex digits. Raises client.fingerprint."""
    clean = text.strip().lower().removeprefix("0x").replace(":", "").replace(" ", "")
    if len(clean) != 64 or any(c not in "0123456789abcdef" for c in clean):
        raise BAD_FINGERPRINT(expected="64 hex digits", found=f"{len(clean)} characters")
    return clean


def pin(raw: bytes, *, fingerprint: str | None, home: Home, where: str, first_use: bool = False) -> Network:
    """The network of these bytes, if they are the pinned ones.

    1. An explicit fingerprint decides alone. 2. Else the fingerprint remembered for ``where`` (the gateway's address)
    decides. 3. Else, with ``first_use``, these bytes are remembered from now on. 4. Else refused.
    Raises EncodingError (encoding.fingerprint, encoding.network, ...) or ConfigError (client.not_pinned).
    """
    actual = hashlib.sha256(raw).hexdigest()
    wanted = fingerprint_of(fingerprint) if fingerprint else remembered(home, where)  # 1, 2
    if wanted is None and not first_use:  # 4
        raise NOT_PINNED(expected=f"a fingerprint for {where}", found=f"none; it serves {actual}")
    if wanted is not None and not hmac.compare_digest(wanted, actual):
        raise WRONG_FINGERPRINT(expected=wanted, found=actual)
    network = Network.parse(raw)
    if wanted is None:  # 3
        remember(home, where, actual)
    return network


async def load(
    gateway: Gateway,
    home: Home,
    *,
    network_file: Path | None = None,
    fingerprint: str | None = None,
    first_use: bool = False,
) -> Network:
    """The pinned network: from a local file (which the person vouches for) or from the gateway.

    A local file without a fingerprint counts as pinned: the person named it. Raises as ``pin`` does.
    """
    if network_file is None:
        raw = await gateway.network()
        return pin(raw, fingerprint=fingerprint, home=home, where=gateway.url, first_use=first_use)
    raw = read_file(network_file, MAX_FILE)
    own = fingerprint or hashlib.sha256(raw).hexdigest()
    return pin(raw, fingerprint=own, home=home, where=gateway.url)


def remembered(home: Home, where: str) -> str | None:
    """The fingerprint that was accepted earlier for a gateway address, or None."""
    data = home.read("networks", _slot(where))
    return fingerprint_of(data.decode("ascii", "replace").split("\n")[0]) if data else None


def remember(home: Home, where: str, fingerprint: str) -> None:
    """Accept a fingerprint for a gateway address from now on."""
    home.write("networks", _slot(where), f"{fingerprint}\n{where}\n".encode())


def _slot(where: str) -> str:
    return hashlib.sha256(where.rstrip("/").encode()).hexdigest()[:32]

"""What docs/audit/malleability.md allows to change in evidence, read from its tables, and how to judge a change.

A cell of the column "may change" is "none", or ranges of bytes ("816 to 1183"), or begins with a form in bold: then two
texts are alike if they say the same in that form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as x509_ocsp

from cloister.core.attestation import dstack, eventlog, ocsp
from support.vectors import REPOSITORY, quiet_der

DOCUMENT = REPOSITORY / "docs" / "audit" / "malleability.md"
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True)
class Allowed:
    """What may change in one part: ``places`` (byte offsets), or nothing but what ``form`` does not say."""

    places: frozenset[int]
    form: str

    def covers(self, honest: bytes, shown: bytes, place: int) -> bool:
        """Whether the document explains that ``shown``, which differs from ``honest`` at ``place``, still passes."""
        return place in self.places or (bool(self.form) and FORMS[self.form](honest, shown))


@lru_cache(maxsize=1)
def table() -> dict[tuple[str, str], Allowed]:
    """(kind, part) -> what may change; the part of the blob is ""."""
    found: dict[tuple[str, str], Allowed] = {}
    for line in DOCUMENT.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("| `") or len(cells) != 4:
            continue
        allowed = _allowed(cells[2])
        for kind in re.findall(r"`([a-z-]+)`", cells[0]):
            for part in re.findall(r"`([a-z_]+)`", cells[1]):
                assert (kind, part) not in found, f"{kind} {part} stands there twice"
                found[kind, "" if part == "blob" else part] = allowed
    return found


def _allowed(cell: str) -> Allowed:
    form = re.match(r"\*\*([A-Za-z ]+)\*\*", cell)
    ranges = re.findall(r"(\d+) to (\d+)", cell)
    assert form or ranges or cell.startswith("none"), cell
    places = frozenset(place for first, last in ranges for place in range(int(first), int(last) + 1))
    return Allowed(places, form[1] if form else "")


def allowed(kind: str, part: str = "") -> Allowed:
    """What the document allows in this part of this kind. KeyError if it says nothing."""
    return table()[kind, part]


def _plain(der: bytes) -> bytes:
    """DER without the count of unused bits in front of the last signature: the library does not look at it."""
    try:
        signature = x509.load_der_x509_certificate(der).signature
    except ValueError:
        signature = x509.load_der_x509_crl(der).signature
    at = der.rindex(signature)
    return der[: at - 1] + b"\0" + der[at:]


def _same_der(honest: bytes, shown: bytes) -> bool:
    with quiet_der():
        return _plain(honest) == _plain(shown)


def _blocks(text: bytes) -> list[bytes]:
    whole = [b"-----BEGIN CERTIFICATE-----" + one + b"-----END CERTIFICATE-----" for one in _PEM.findall(text)]
    return [_plain(quiet_load(one)) for one in whole]


def quiet_load(pem: bytes) -> bytes:
    """DER of one certificate in PEM."""
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


def _same_pem(honest: bytes, shown: bytes) -> bool:
    return _blocks(honest) == _blocks(shown)


def _same_json(honest: bytes, shown: bytes) -> bool:
    return bool(json.loads(honest) == json.loads(shown))


def _same_collateral(honest: bytes, shown: bytes) -> bool:
    one, other = json.loads(honest), json.loads(shown)
    return set(one) == set(other) and all(_same_field(name, one[name], other[name]) for name in one)


def _same_field(name: str, one: Any, other: Any) -> bool:
    if name.endswith("_chain"):
        return _same_pem(one.encode(), other.encode())
    if name in ("tcb_info", "qe_identity"):
        return bool(one == other)
    return bytes.fromhex(one) == bytes.fromhex(other) or _same_der(bytes.fromhex(one), bytes.fromhex(other))


def _same_boot_log(honest: bytes, shown: bytes) -> bool:
    return _extends(honest) == _extends(shown)


def _extends(log: bytes) -> list[tuple[int, dict[int, bytes]]]:
    return [(e.index, dict(e.digests)) for e in eventlog.parse(log) if e.kind != eventlog.EV_NO_ACTION]


def _same_machine_log(honest: bytes, shown: bytes) -> bool:
    return [e for e in _extends(honest) if e[0] < 8] == [e for e in _extends(shown) if e[0] < 8]


def _same_guest_log(honest: bytes, shown: bytes) -> bool:
    return _told(honest) == _told(shown)


def _told(log: bytes) -> list[dstack.Event]:
    return [e if e.runtime else replace(e, kind=0, name="", payload=b"") for e in dstack.parse(log)]


def _same_answers(honest: bytes, shown: bytes) -> bool:
    return _answers(honest) == _answers(shown)


def _answers(data: bytes) -> set[tuple[bytes, ...]]:
    loaded = [x509_ocsp.load_der_ocsp_response(one) for one in ocsp.split(data)]
    return {
        (one.tbs_response_bytes, one.signature, *(_plain(c.public_bytes(Encoding.DER)) for c in one.certificates))
        for one in loaded
    }


FORMS: dict[str, Callable[[bytes, bytes], bool]] = {
    "DER": _same_der,
    "PEM": _same_pem,
    "JSON": _same_json,
    "Collateral": _same_collateral,
    "Boot log": _same_boot_log,
    "Guest log": _same_guest_log,
    "Machine log": _same_machine_log,
    "OCSP": _same_answers,
    "XML": lambda honest, shown: True,  # canonical XML is the library's work: equal claims are the judge
}

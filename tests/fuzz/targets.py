"""Fuzz targets: one function per parser of outside bytes. A target returns, or raises what is a bug.

A refusal (CloisterError) is a good answer. ``seeds`` are good inputs to start from. ``drive.py`` runs one target under
atheris; the tests beside it run all of them, with and without.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from cloister.core.attestation import (
    certificates,
    credential,
    dcap,
    dstack,
    eventlog,
    hcl,
    intake,
    kinds,
    nvidia,
    parts,
    rim,
    spdm,
    tpm_structures,
)
from cloister.core.attestation import nitro as nitro_kind
from cloister.core.attestation.model import Binding, Evidence
from cloister.core.attestation.policy import Policy
from cloister.core.attestation.roots import Roots
from cloister.core.errors import CloisterError
from cloister.evidence import collateral as tables
from cloister.evidence import ioctls, nitro
from support.hardware import NOW, binding, chip, policy, roots
from support.intel_kit import ccel
from support.malleability import table
from support.nvidia_kit import nvidia_roots
from support.samples import pretended
from support.tpm_kit import EK_USAGE, keys, machine, public_area, tpm_roots, vendor

Target = Callable[[bytes], object]
MAX_SIZE: Final = 65536


def _part(kind: str, name: str) -> Target:
    """Whole evidence, one part of it outside bytes; "" is the blob."""

    def target(data: bytes) -> object:
        honest = pretended(kind)
        return kinds.verify(honest.with_part(name, data), honest.roots, honest.now)

    return target


def place_of(kind: str, part: str) -> str:
    """The name of the target of a part of a kind; "" is the blob."""
    return f"{kind}_{part or 'blob'}".replace("-", "_")


PLACES: Final = {place_of(*place): place for place in sorted(table()) if place[1] != "ek_chain"}


def _json(read: Callable[[Any], object]) -> Target:
    def target(data: bytes) -> object:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return None
        return read(value)

    return target


def _chain(data: bytes) -> object:
    return [certificates.need_valid_at(one, NOW) for one in certificates.load_pem_chain(data, "a chain")]


def _linked(data: bytes) -> object:
    return certificates.linked((chip().certificates["ark"], data))


def _collateral(data: bytes) -> object:
    return dcap.need_chains(data)


def _revoked(data: bytes) -> object:
    chain = [certificates.load(chip().certificates[name], name) for name in ("ark", "intermediate", "vek")]
    return certificates.need_not_revoked(data, chain, NOW)


def _challenge(data: bytes) -> object:
    return credential.challenge(data, public_area(machine().ak), tpm_roots(), NOW, lambda size: bytes(range(size)))


def _closed(target: Target) -> Target:
    """Under ``fail_closed``, as every verifier calls it."""
    from cloister.core.attestation.refusals import fail_closed

    return fail_closed(target)


TARGETS: Final[dict[str, Target]] = {
    **{name: _part(*place) for name, place in PLACES.items()},
    "dstack_parse": dstack.parse,
    "collateral": _closed(_collateral),
    "boot_log": eventlog.replay_rtmrs,
    "tpm_boot_log": eventlog.replay_pcrs,
    "certificate": _closed(_linked),
    "pem_chain": _closed(_chain),
    "intake": intake.read,
    "intake_beside": lambda data: intake.read(pretended("tdx").evidence.blob, [data]),
    "parts": lambda data: parts.add(parts.Parts(), data),
    "pcs_reply": lambda data: parts.pcs_reply(data.decode("latin-1")),
    "evidence_json": _json(Evidence.from_json),
    "binding_json": _json(Binding.from_json),
    "policy": Policy.decode,
    "hcl_report_snp": _closed(lambda data: hcl.parse(data, hcl.SNP)),
    "hcl_report_tdx": _closed(lambda data: hcl.parse(data, hcl.TDX)),
    "cbor": nitro_kind.decode,
    "revocation_list": _closed(_revoked),
    "credential_chain": _closed(_challenge),
    "gpu_mode": _closed(nvidia._mode),
    "roots_json": _json(Roots.from_json),
    "tpm_quote": tpm_structures.parse_quote,
    "tpm_public": tpm_structures.parse_public,
    "spdm": spdm.parse,
    "manifest": lambda data: rim.read(data, nvidia_roots(), NOW),
    "certificate_table": tables.parse_certificate_table,
    "quoting_service": ioctls.read_quote,
    "nsm_answer": nitro._attestation,
}


@lru_cache(maxsize=1)
def seeds() -> dict[str, tuple[bytes, ...]]:
    """Good inputs by target; a target without its own begins with those of all."""
    good = {name: pretended(kind).part(part) for name, (kind, part) in PLACES.items()}
    shown = {kind: pretended(kind).evidence for kind in kinds.KINDS}
    bundle = json.dumps({"evidence": shown["snp"].to_json(), "binding": binding().to_json()}).encode()
    log = ccel([(1, 4, b"firmware"), (3, 13, b"kernel")])
    pem = parts.pem_chain([certificates.load(chip().certificates["ark"], "ark")])
    endorsed = vendor().leaf(keys("p256-ek").public_key(), EK_USAGE).encode()
    return {name: (one,) for name, one in good.items()} | {
        "dstack_parse": (good["dstack_event_log"],),
        "boot_log": (log,),
        "tpm_boot_log": (good["tpm_event_log"], log),
        "certificate": (good["snp_vek"],),
        "collateral": (good["tdx_collateral"],),
        "revocation_list": (good["snp_crl"],),
        "pem_chain": (pem,),
        "credential_chain": (endorsed,),
        "intake": (bundle, good["tdx_blob"], good["nitro_blob"]),
        "intake_beside": (good["tdx_collateral"], pem, log, good["snp_vek"], good["snp_crl"]),
        "parts": (good["tdx_collateral"], pem, log, good["snp_vek"], good["snp_crl"]),
        "evidence_json": (json.dumps(shown["snp"].to_json()).encode(),),
        "binding_json": (json.dumps(binding().to_json()).encode(),),
        "roots_json": (json.dumps(roots().to_json()).encode(),),
        "policy": (policy().encode(),),
        "certificate_table": (chip().table(),),
        "hcl_report_snp": (good["azure_snp_blob"],),
        "hcl_report_tdx": (good["azure_tdx_blob"],),
        "cbor": (good["nitro_blob"],),
        "gpu_mode": (good["nvidia_gpu_mode"],),
        "tpm_quote": (good["tpm_blob"],),
        "tpm_public": (good["tpm_ak"],),
        "spdm": (good["nvidia_gpu_blob"],),
        "manifest": (good["nvidia_gpu_driver_rim"], good["nvidia_switch_vbios_rim"]),
    }


def bombs() -> dict[str, bytes]:
    """Small inputs that cost a careless parser much: nesting, huge counts, endless searches, entities."""
    entities = b"".join(b'<!ENTITY a%d "&a%d;&a%d;">' % (i + 1, i, i) for i in range(40))
    return {
        "brackets": b"[" * MAX_SIZE,
        "objects": b'{"a":' * 13000,
        "many objects": b"[" + b"{}," * 21000 + b"{}]",
        "digits": b"1" * MAX_SIZE,
        "exponent": b"1e" + b"9" * 65000,
        "escapes": b'"' + b"\\u0041" * 10900 + b'"',
        "spaces": b" " * MAX_SIZE,
        "hex": b"0x" + b"ab" * 32767,
        "nested arrays in CBOR": b"\x81" * MAX_SIZE,
        "open arrays in CBOR": b"\x9f" * MAX_SIZE,
        "nested maps in CBOR": b"\xa1\x61a" * 21000,
        "nested tags in CBOR": b"\xc1" * MAX_SIZE,
        "a huge array in CBOR": b"\x9b\x00\x00\x00\x00\xff\xff\xff\xff",
        "a huge text in CBOR": b"\x5b\x00\x00\x00\x00\xff\xff\xff\xff",
        "PEM that never ends": b"-----BEGIN CERTIFICATE-----\n" * 2300,
        "lists that never end": b"-----BEGIN X509 CRL-----\n" * 2600,
        "empty PEM": b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----" * 1200,
        "dashes": b"-" * MAX_SIZE,
        "nested DER": b"\x30\x80" * 32768,
        "long DER": b"\x30\x83\x00\xff\xff" * 13000,
        "nested XML": b"<a>" * 21000,
        "entities in XML": b'<!DOCTYPE a [<!ENTITY a0 "x">' + entities + b"]><a>&a40;</a>",
        "attributes in XML": b"<a " + b" ".join(b'x%d="1"' % i for i in range(5000)) + b"/>",
        "ones": b"\xff" * MAX_SIZE,
        "zeros": bytes(MAX_SIZE),
    }


def run(name: str, data: bytes) -> None:
    """One input of one target. A refusal is fine; whatever else comes out is a bug."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            TARGETS[name](data[:MAX_SIZE])
    except CloisterError:
        pass

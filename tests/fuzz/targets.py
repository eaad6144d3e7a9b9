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
    dcap,
    dstack,
    eventlog,
    hcl,
    intake,
    kinds,
    parts,
    rim,
    spdm,
    tpm_structures,
)
from cloister.core.attestation.model import Binding, Evidence
from cloister.core.attestation.policy import Policy
from cloister.core.errors import CloisterError
from cloister.evidence import collateral as tables
from cloister.evidence import ioctls, nitro
from support.hardware import NOW, binding, chip, evidence, policy, roots
from support.intel_kit import ccel, dstack_evidence, runtime_event, sgx_evidence

Target = Callable[[bytes], object]
MAX_SIZE: Final = 65536


@lru_cache(maxsize=1)
def _shown() -> dict[str, Evidence]:
    names = [("app-id", b"a" * 20), ("compose-hash", b"c" * 32), ("boot-mr-done", b"")]
    guest = dstack_evidence([runtime_event(name, payload) for name, payload in names])
    return {"sgx": sgx_evidence(), "dstack": guest} | {kind: evidence(kind) for kind in ("tdx", "snp", "nitro")}


def _blob(kind: str) -> Target:
    def target(data: bytes) -> object:
        return kinds.verify(Evidence(kind, data, _shown()[kind].aux), roots(), NOW)

    return target


def _part(kind: str, name: str) -> Target:
    def target(data: bytes) -> object:
        honest = _shown()[kind]
        return kinds.verify(Evidence(kind, honest.blob, {**honest.aux, name: data}), roots(), NOW)

    return target


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
    return dcap.open_collateral(data)


def _closed(target: Target) -> Target:
    """Under ``fail_closed``, as every verifier calls it."""
    from cloister.core.attestation.refusals import fail_closed

    return fail_closed(target)


TARGETS: Final[dict[str, Target]] = {
    "tdx_quote": _blob("tdx"),
    "sgx_quote": _blob("sgx"),
    "snp_report": _blob("snp"),
    "nitro_document": _blob("nitro"),
    "dstack_log": _part("dstack", "event_log"),
    "dstack_parse": dstack.parse,
    "tdx_boot_log": _part("tdx", "event_log"),
    "snp_key": _part("snp", "vek"),
    "snp_crl": _part("snp", "crl"),
    "collateral": _closed(_collateral),
    "boot_log": eventlog.replay_rtmrs,
    "tpm_boot_log": eventlog.replay_pcrs,
    "certificate": _closed(_linked),
    "pem_chain": _closed(_chain),
    "intake": intake.read,
    "intake_beside": lambda data: intake.read(_shown()["tdx"].blob, [data]),
    "parts": lambda data: parts.add(parts.Parts(), data),
    "pcs_reply": lambda data: parts.pcs_reply(data.decode("latin-1")),
    "evidence_json": _json(Evidence.from_json),
    "binding_json": _json(Binding.from_json),
    "policy": Policy.decode,
    "hcl_report": _closed(lambda data: hcl.parse(data, hcl.SNP)),
    "tpm_quote": tpm_structures.parse_quote,
    "tpm_public": tpm_structures.parse_public,
    "spdm": spdm.parse,
    "manifest": lambda data: rim.read(data, roots(), NOW),
    "certificate_table": tables.parse_certificate_table,
    "quoting_service": ioctls.read_quote,
    "nsm_answer": nitro._attestation,
}


@lru_cache(maxsize=1)
def seeds() -> dict[str, tuple[bytes, ...]]:
    """Good inputs by target; a target without its own begins with those of all."""
    shown = _shown()
    bundle = json.dumps({"evidence": shown["snp"].to_json(), "binding": binding().to_json()}).encode()
    log = ccel([(1, 4, b"firmware"), (3, 13, b"kernel")])
    ark = certificates.load(chip().certificates["ark"], "ark")
    pem = parts.pem_chain([ark])
    found: dict[str, tuple[bytes, ...]] = {f"{kind}_quote": (shown[kind].blob,) for kind in ("tdx", "sgx")}
    found |= {
        "snp_report": (shown["snp"].blob,),
        "nitro_document": (shown["nitro"].blob,),
        "dstack_log": (shown["dstack"].aux["event_log"],),
        "dstack_parse": (shown["dstack"].aux["event_log"],),
        "tdx_boot_log": (log,),
        "boot_log": (log,),
        "tpm_boot_log": (log,),
        "snp_key": (shown["snp"].aux["vek"],),
        "certificate": (shown["snp"].aux["vek"],),
        "collateral": (shown["tdx"].aux["collateral"],),
        "pem_chain": (pem,),
        "intake": (bundle, shown["tdx"].blob, shown["nitro"].blob),
        "intake_beside": (shown["tdx"].aux["collateral"], pem, log),
        "parts": (shown["tdx"].aux["collateral"], pem, log),
        "evidence_json": (json.dumps(shown["snp"].to_json()).encode(),),
        "binding_json": (json.dumps(binding().to_json()).encode(),),
        "policy": (policy().encode(),),
        "certificate_table": (chip().table(),),
    }
    return found


def run(name: str, data: bytes) -> None:
    """One input of one target. A refusal is fine; whatever else comes out is a bug."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            TARGETS[name](data[:MAX_SIZE])
    except CloisterError:
        pass

"""TPM 2.0 quotes under an attestation key (TCG "TPM 2.0 Library"; spec/attestation.md 9).

A TPM says what was measured on a machine. It hides nothing from the machine's owner: no memory is encrypted. So the
kind counts for workers only if a policy says so, and never for a committee.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cloister.core.attestation import eventlog
from cloister.core.attestation.certificates import COMMON, linked, load_pem_chain, need_valid_at
from cloister.core.attestation.model import Claims, Evidence
from cloister.core.attestation.refusals import BAD_CERTIFICATE, BAD_SIGNATURE, MALFORMED, NOT_THIS_CHIP, fail_closed
from cloister.core.attestation.roots import Roots
from cloister.core.attestation.tpm_structures import (
    ALG_RSAPSS,
    DECRYPT,
    FIXED_PARENT,
    FIXED_TPM,
    HASHES,
    MAX_PCRS,
    RESTRICTED,
    SENSITIVE_ORIGIN,
    SIGN,
    Public,
    Quote,
    parse_public,
    parse_quote,
    split_pcrs,
)
from cloister.core.errors import AttestationError, define

VENDOR: Final = "tpm"
STATIC_PCRS: Final = 16  # 16 and 23 are reset by anyone, 17 to 22 by a late launch
FIRMWARE_PCRS: Final = 8  # 0 to 7 belong to the firmware, which writes the log
EK_PURPOSE, AK_PURPOSE = x509.ObjectIdentifier("2.23.133.8.1"), x509.ObjectIdentifier("2.23.133.8.3")
_OPTIONAL: Final = {"ak", "report_data", "event_log"}
Key = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
Pcrs = Mapping[tuple[int, int], bytes]

PCR_DIGEST = define(
    "attestation.pcr_digest",
    AttestationError,
    check="the PCR values are those that the TPM quoted",
    remedy="read the PCR values and the quote together, and send both unchanged",
)
NONCE_DIGEST = define(
    "attestation.tpm_nonce",
    AttestationError,
    check="the TPM's extra data commits to the report data",
    remedy="quote with SHA-256 of the report data as qualifying data",
)
AK_KIND = define(
    "attestation.tpm_key",
    AttestationError,
    check="the attestation key is a restricted signing key that never leaves its TPM",
    remedy="create the attestation key with fixedTPM, fixedParent, sensitiveDataOrigin, restricted and sign",
)
NOT_ACTIVATED = define(
    "attestation.tpm_activation",
    AttestationError,
    check="this verifier activated the attestation key against the endorsement certificate",
    remedy="answer the verifier's credential challenge first, or send a certificate of the attestation key",
    status=403,
)


@dataclass(frozen=True, slots=True)
class Activation:
    """The TPM with this endorsement certificate holds the key with this name: ``credential.finish`` makes it.

    ek: SHA-256 of the certificate's DER. ak_name: the TPM's name of the attestation key.
    """

    ek: bytes
    ak_name: bytes


@fail_closed
def verify(evidence: Evidence, roots: Roots, now: int, activations: Collection[Activation] = ()) -> Claims:
    """Claims of an authentic quote.

    Args: evidence (blob: TPMS_ATTEST; aux: "signature", "pcrs", one of "ak_chain" and "ek_chain", and optionally
    "ak" (TPMT_PUBLIC), "report_data" (64 bytes), "event_log"), roots (uses "tpm"), now (Unix seconds), activations
    (what this verifier found out itself; needed with "ek_chain"). Raises AttestationError.
    """
    # 1. Names and sizes.
    chain_name = _shape(evidence)
    # 2. The key: certified as an attestation key, or activated by this verifier.
    leaf, fresh_until = trusted_leaf(evidence.aux[chain_name], chain_name, roots, now)
    public = parse_public(evidence.aux["ak"]) if "ak" in evidence.aux else None
    key = _certified(leaf, public) if chain_name == "ak_chain" else _activated(leaf, public, activations)
    # 3 to 5. Quote, signature, PCR values.
    quote, pcrs = check_quote(evidence.blob, evidence.aux["signature"], evidence.aux["pcrs"], key, public)
    # 6. The log explains the values.
    events = check_log(evidence.aux.get("event_log"), pcrs)
    # 7. Report data.
    report_data = report_data_of(quote, evidence.aux.get("report_data"))
    # 8. Claims.
    return Claims(
        kind="tpm",
        vendor_class=VENDOR,
        generation="TPM 2.0",
        platform_id=_fingerprint(leaf.public_key()),
        measurements=named(pcrs),
        debug=False,
        tcb_status="Unrated",
        advisories=(),
        report_data=report_data,
        fresh_until=fresh_until,
        details={**quote_details(quote), "events": events, "confidential": False, "key_trust": chain_name},
    )


def launch_measurement(claims: Claims) -> bytes:
    """SHA-384 over bank, index and value of every quoted PCR from 0 to 15. Raises AttestationError if there is none."""
    return hashlib.sha384(static_pcrs(claims)).digest()


def check_platform(claims: Claims, rules: Mapping[str, Any]) -> None:
    """Nothing to switch: the policy's "roles" say what a TPM may serve as, and ``appraise`` reads them."""
    del claims, rules


def check_quote(
    message: bytes, signature: bytes, values: bytes, key: Key, public: Public | None = None
) -> tuple[Quote, dict[tuple[int, int], bytes]]:
    """The quote and its PCR values, if ``key`` signed the one and the one covers the others.

    Args: message (TPMS_ATTEST), signature (DER for ECDSA; the bare block for RSA), values (PCR values in the order
    of the selection), public (the key's TPMT_PUBLIC, if known: it names scheme and hash). Raises AttestationError.
    """
    # 3. The quote's layout.
    quote = parse_quote(message)
    # 4. The key signed it.
    digest = _need_signature(message, signature, key, public)
    # 5. The values are those quoted.
    pcrs = split_pcrs(values, quote.selection)
    found = hashlib.new(digest, values).digest()
    if not hmac.compare_digest(found, quote.digest):
        raise PCR_DIGEST(expected=quote.digest.hex()[:32], found=found.hex()[:32])
    return quote, pcrs


def report_data_of(quote: Quote, committed: bytes | None) -> bytes:
    """The extra data, or the 64 bytes whose SHA-256 it is. Raises AttestationError (attestation.tpm_nonce)."""
    if committed is None:
        return quote.extra
    found = hashlib.sha256(committed).digest()
    if len(committed) != 64 or not hmac.compare_digest(found, quote.extra):
        raise NONCE_DIGEST(expected=found.hex()[:32], found=quote.extra.hex()[:32] or "nothing")
    return committed


def check_log(log: bytes | None, pcrs: Pcrs) -> int:
    """Replay a measured-boot log to the quoted values; returns how many events it holds, 0 without a log.

    A quoted PCR of the firmware (0 to 7) that the log leaves out must be zero; the others may have been extended later.
    Raises AttestationError if a quoted PCR differs from its replay, or if the log extends no quoted PCR.
    """
    if log is None:
        return 0
    replayed, count = eventlog.replay_pcrs(log)
    if not set(pcrs) & set(replayed):
        raise eventlog.BAD_REPLAY(expected="a log of quoted PCRs", found="none of them")
    banks = {bank for bank, _ in replayed}
    for (bank, index), value in pcrs.items():
        ours = replayed.get((bank, index), bytes(len(value)) if index < FIRMWARE_PCRS and bank in banks else value)
        if not hmac.compare_digest(value, ours):
            raise eventlog.BAD_REPLAY(
                expected=f"PCR {index} {value.hex()[:16]}", found=f"PCR {index} {ours.hex()[:16]}"
            )
    return count


def named(pcrs: Pcrs) -> dict[str, bytes]:
    """PCR values by name: "pcr4" in the SHA-256 bank, "sha384_pcr4" in the other."""
    return {f"pcr{i}" if HASHES[bank] == "sha256" else f"{HASHES[bank]}_pcr{i}": v for (bank, i), v in pcrs.items()}


def quote_details(quote: Quote) -> dict[str, Any]:
    """What a quote says besides PCR values."""
    return {
        "selection": quote.selection,
        "qualified_signer": quote.signer.hex(),
        "clock_ms": quote.clock,
        "resets": quote.resets,
        "restarts": quote.restarts,
        "clock_safe": quote.safe,
        "tpm_firmware": f"{quote.firmware:016x}",
    }


def static_pcrs(claims: Claims) -> bytes:
    """Bank, index and value of every quoted PCR from 0 to 15, joined. Raises AttestationError if there is none."""
    chosen = sorted(place for place in claims.details["selection"] if place[1] < STATIC_PCRS)
    if not chosen:
        raise MALFORMED(expected="a quote of PCRs from 0 to 15", found="others only: they are reset at will")
    values = [next(iter(named({place: b""}))) for place in chosen]
    parts = zip(chosen, values, strict=True)
    return b"".join(bank.to_bytes(2, "big") + bytes([index]) + claims.measurements[n] for (bank, index), n in parts)


def trusted_leaf(pem: bytes, name: str, roots: Roots, now: int) -> tuple[x509.Certificate, int]:
    """The first certificate of a PEM chain to a root pinned for "tpm", and the chain's end in Unix seconds.

    Raises AttestationError: no such chain, root, links, dates.
    """
    ders = tuple(one.public_bytes(Encoding.DER) for one in load_pem_chain(pem, name)[::-1])
    roots.require(VENDOR, ders[0])
    chain = linked(ders, COMMON)
    return chain[-1], min(need_valid_at(certificate, now) for certificate in chain)


def _shape(evidence: Evidence) -> str:
    names = set(evidence.aux)
    chains = names & {"ak_chain", "ek_chain"}
    if len(chains) != 1 or names - chains - _OPTIONAL != {"signature", "pcrs"}:
        found = ", ".join(sorted(names))[:128] or "nothing"
        raise MALFORMED(expected="signature, pcrs, and one of ak_chain and ek_chain", found=found)
    if len(evidence.aux["signature"]) > 512 or len(evidence.aux["pcrs"]) > MAX_PCRS:
        raise MALFORMED(expected=f"a signature of 512 and PCR values of {MAX_PCRS} bytes at most", found="more")
    return chains.pop()


def _certified(leaf: x509.Certificate, public: Public | None) -> Key:
    purposes = purposes_of(leaf)
    usage = [e.value for e in leaf.extensions if isinstance(e.value, x509.KeyUsage)]
    if (purposes and AK_PURPOSE not in purposes) or any(not u.digital_signature for u in usage):
        raise BAD_CERTIFICATE(expected="a certificate of an attestation key", found="one for another purpose")
    key = _supported(leaf.public_key())
    if public is not None and _fingerprint(public.key) != _fingerprint(key):
        raise NOT_THIS_CHIP(expected="the certified key", found="the public area of another")
    return key


def _activated(leaf: x509.Certificate, public: Public | None, activations: Collection[Activation]) -> Key:
    if public is None:
        raise MALFORMED(expected="the attestation key's public area with an endorsement chain", found="none")
    need_attestation_key(public)
    if Activation(hashlib.sha256(leaf.public_bytes(Encoding.DER)).digest(), public.name) not in activations:
        raise NOT_ACTIVATED(expected="an activation by this verifier", found=f"none of {public.name.hex()[:16]}")
    return public.key


def need_attestation_key(public: Public) -> None:
    """Refuse a key that could sign forged quotes or leave its TPM. Raises AttestationError (attestation.tpm_key)."""
    wanted = FIXED_TPM | FIXED_PARENT | SENSITIVE_ORIGIN | RESTRICTED | SIGN
    if public.attributes & (wanted | DECRYPT) != wanted:
        raise AK_KIND(expected=f"attributes {wanted:08x}, not {DECRYPT:08x}", found=f"{public.attributes:08x}")


def purposes_of(leaf: x509.Certificate) -> list[x509.ObjectIdentifier]:
    """The extended key usages of a certificate, or none."""
    found = [e.value for e in leaf.extensions if isinstance(e.value, x509.ExtendedKeyUsage)]
    return [purpose for usage in found for purpose in usage]


def _supported(key: object) -> Key:
    if isinstance(key, rsa.RSAPublicKey) and 2048 <= key.key_size <= 4096:
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, (ec.SECP256R1, ec.SECP384R1)):
        return key
    raise BAD_CERTIFICATE(expected="an RSA key from 2048 bits, or a key on P-256 or P-384", found=type(key).__name__)


def _need_signature(message: bytes, signature: bytes, key: Key, public: Public | None) -> str:
    digest = HASHES.get(public.scheme_hash) if public else None
    curve = key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else ""
    digest = digest or ("sha384" if curve == "secp384r1" else "sha256")
    algorithm = hashes.SHA384() if digest == "sha384" else hashes.SHA256()
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, message, ec.ECDSA(algorithm))
        elif public is not None and public.scheme == ALG_RSAPSS:
            key.verify(signature, message, padding.PSS(padding.MGF1(algorithm), padding.PSS.AUTO), algorithm)
        else:
            key.verify(signature, message, padding.PKCS1v15(), algorithm)
    except (InvalidSignature, ValueError):
        raise BAD_SIGNATURE(expected="the attestation key's signature over the quote", found="none") from None
    return digest


def _fingerprint(key: Any) -> bytes:
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()

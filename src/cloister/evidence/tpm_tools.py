"""What a machine with a TPM 2.0 is asked: an attestation key, quotes, activation, a hash under its boot chain."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from cloister.core.errors import EvidenceError
from cloister.evidence.tee import BAD_QUOTE
from cloister.evidence.tpm_bench import Bench, TpmBenches, selection

AK_HANDLE: Final = 0x81010002
EK_CERTIFICATES: Final = {"ecc": 0x01C0000A, "rsa": 0x01C00002}  # TCG EK Credential Profile 2.2.1.4: P-256, RSA-2048
MAX_POLICY_PCRS: Final = 8  # what tpm2_policypcr takes at once
_CREDENTIAL: Final = bytes.fromhex("badcc0de00000001")  # tpm2-tools' own head of a credential file
_MAC: Final = b"cloister TPM sealing 1\0"


class TpmTools(TpmBenches):
    """One TPM. Methods block for tens of milliseconds, one at a time, and raise EvidenceError."""

    def manufacturer(self) -> str:
        """Four letters from the TPM: it answers."""
        with self.bench() as bench:
            said = bench.run("tpm2_getcap", "properties-fixed")
        found = re.search(rb"TPM2_PT_MANUFACTURER:\s+raw: 0x([0-9A-Fa-f]{1,8})\b", said)
        if found is None:
            raise BAD_QUOTE(expected="a TPM 2.0 with a manufacturer", found="none")
        letters = bytes.fromhex(found[1].decode().rjust(8, "0")).strip(b"\0 ")
        return "".join(chr(c) if 32 < c < 127 else "?" for c in letters)

    def attestation_key(self) -> bytes | None:
        """TPMT_PUBLIC of the attestation key, or None if this TPM has none yet."""
        with self.bench() as bench:
            held = bench.run("tpm2_getcap", "handles-persistent").decode("ascii", "replace")
            if f"0x{AK_HANDLE:08x}" not in held.lower().split():
                return None
            return bench.public(hex(AK_HANDLE))

    def create_attestation_key(self) -> bytes:
        """Make the attestation key under the endorsement key, once and for ever. Returns its TPMT_PUBLIC.

        A restricted P-256 signing key that never leaves the TPM: ECDSA, SHA-256.
        """
        if (known := self.attestation_key()) is not None:
            return known
        algorithm = self.endorsement_certificate()[0]
        with self.bench() as bench:
            endorsement_key(bench, algorithm)
            key = ("-G", "ecc", "-g", "sha256", "-s", "ecdsa")
            bench.loading("tpm2_createak", "-C", "ek.ctx", "-c", "ak.ctx", *key)
            bench.loading("tpm2_evictcontrol", "-C", "o", "-c", "ak.ctx", hex(AK_HANDLE))
            return bench.public(hex(AK_HANDLE))

    def quote(self, qualifying: bytes, pcrs: Sequence[int]) -> tuple[bytes, bytes, bytes]:
        """(TPMS_ATTEST, signature, PCR values) over SHA-256 PCRs, with at most 64 bytes of qualifying data."""
        with self.bench() as bench:
            wanted = ("-l", selection(pcrs), "-q", qualifying.hex(), "-g", "sha256")
            out = ("-m", "quote", "-s", "signature", "-f", "plain", "-o", "pcrs", "-F", "values")
            bench.run("tpm2_quote", "-c", hex(AK_HANDLE), *wanted, *out)
            return bench.read("quote"), bench.read("signature"), bench.read("pcrs")

    def endorsement_certificate(self) -> tuple[str, bytes]:
        """("ecc" or "rsa", the endorsement certificate in DER) as the maker stored it, without the padding behind."""
        refusals = []
        for algorithm, index in EK_CERTIFICATES.items():
            try:
                with self.bench() as bench:
                    bench.run("tpm2_nvread", hex(index), "-o", "certificate")
                    return algorithm, trimmed(bench.read("certificate"))
            except EvidenceError as error:
                refusals.append(error.found)
        raise BAD_QUOTE(expected="an endorsement certificate in the TPM", found="; ".join(refusals)[:120])

    def activate(self, credential: bytes, encrypted_seed: bytes) -> bytes:
        """TPM2_ActivateCredential for the attestation key: the secret of a verifier's challenge.

        Args: credential (TPM2B_ID_OBJECT), encrypted_seed (TPM2B_ENCRYPTED_SECRET), at most 1 KiB each.
        """
        if len(credential) > 1024 or len(encrypted_seed) > 1024:
            raise BAD_QUOTE(expected="a challenge of at most 1 KiB and 1 KiB", found="more")
        algorithm = self.endorsement_certificate()[0]
        with self.bench() as bench:
            bench.write("credential", _CREDENTIAL + credential + encrypted_seed)
            endorsement_key(bench, algorithm)
            with policy_session(bench) as session:
                bench.run("tpm2_policysecret", "-S", session, "-c", "e")
                keys = ("-c", hex(AK_HANDLE), "-C", "ek.ctx", "-P", f"session:{session}")
                bench.loading("tpm2_activatecredential", *keys, "-i", "credential", "-o", "secret")
            return bench.read("secret")

    def keyed_hash(self, data: bytes, pcrs: Sequence[int]) -> bytes:
        """32 bytes that this TPM computes over ``data`` while these PCRs hold what they hold now.

        HMAC-SHA-256 over its hash, because a TPM takes 1 KiB at once. The key is a primary of the owner hierarchy, and
        its only authorisation is a policy over the PCRs: after another boot chain it is another key. Clearing the TPM's
        owner ends it.
        """
        with self.bench() as bench:
            bench.write("data", hashlib.sha256(_MAC + data).digest())
            with policy_session(bench, trial=True) as session:
                pcr_policy(bench, session, pcrs, "-L", "policy")
            attributes = "fixedtpm|fixedparent|sensitivedataorigin|sign|noda"
            made = ("-G", "hmac", "-g", "sha256", "-L", "policy", "-a", attributes, "-c", "key.ctx")
            bench.loading("tpm2_createprimary", "-C", "o", *made)
            with policy_session(bench) as session:
                pcr_policy(bench, session, pcrs)
                bench.loading("tpm2_hmac", "-c", "key.ctx", "-p", f"session:{session}", "-o", "mac", "data")
            found = bench.read("mac")
        if len(found) != 32:
            raise BAD_QUOTE(expected="a keyed hash of 32 bytes", found=f"{len(found)}")
        return found


def trimmed(stored: bytes) -> bytes:
    """One DER value without what follows it: makers fill the rest of the index. Raises EvidenceError."""
    size, start = (stored[1], 2) if len(stored) > 4 else (0, 0)
    if size & 0x80:
        width = size & 0x7F
        size, start = int.from_bytes(stored[2 : 2 + width], "big"), 2 + width
        size = size if 0 < width <= 2 else 0
    if stored[:1] != b"\x30" or not size or start + size > len(stored):
        raise BAD_QUOTE(expected="a certificate in the TPM", found=f"{len(stored)} bytes of something else")
    return stored[: start + size]


def endorsement_key(bench: Bench, algorithm: str) -> None:
    """The endorsement key of the TCG's default template, as ek.ctx: the same one each time."""
    bench.loading("tpm2_createek", "-G", algorithm, "-c", "ek.ctx", "-u", "ek.pub", "-f", "tss")


@contextmanager
def policy_session(bench: Bench, *, trial: bool = False) -> Iterator[str]:
    """A policy session's file, for policies to be made (``trial``) or met."""
    name = "trial.session" if trial else "policy.session"
    bench.run("tpm2_startauthsession", "-S", name, *([] if trial else ["--policy-session"]))
    try:
        yield name
    finally:
        bench.run("tpm2_flushcontext", name)


def pcr_policy(bench: Bench, session: str, pcrs: Sequence[int], *more: str) -> None:
    """TPM2_PolicyPCR over the SHA-256 bank, in as many steps as the program needs."""
    for start in range(0, len(pcrs), MAX_POLICY_PCRS):
        chosen = selection(pcrs[start : start + MAX_POLICY_PCRS])
        bench.run("tpm2_policypcr", "-S", session, "-l", chosen, *more)

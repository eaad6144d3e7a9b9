"""The genesis file and the network file: what a network is, in bytes that are pinned (spec/encoding.md 7-8).

The genesis file exists before the first committee; its hash is the *genesis id*. The network file adds the founding
committee and the key-generation transcript; the *network id* is in every key identity and statement. Both parse
strictly, and parsing recomputes both ids: a file whose id does not follow from its contents is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cloister.core.encoding import jcs
from cloister.core.encoding.contexts import Context, digest
from cloister.core.encoding.hexes import from_hex, need_bytes, need_fields, need_uint, need_version, to_hex
from cloister.core.encoding.signatures import SignerSet
from cloister.core.errors import EncodingError, define

MODES = ("devnet", "production")
MAX_FILE = 1 << 20
_PRINT = re.compile(r"0x[0-9a-f]{64}")
_WORD = re.compile(r"[a-z0-9-]{1,64}")
_OWN = ("founding", "transcript", "mpk", "share_keys", "master_epoch", "network_id")

BAD_NETWORK = define(
    "encoding.network",
    EncodingError,
    check="the network file is complete and its ids follow from its contents",
    remedy="take the file from the network's operators again and compare its fingerprint",
)
WRONG_FINGERPRINT = define(
    "encoding.fingerprint",
    EncodingError,
    check="the network file has the fingerprint that you pinned",
    remedy="stop: somebody serves you another network; compare fingerprints over a second channel",
    status=403,
)


@dataclass(frozen=True, slots=True)
class ContractRef:
    """A contract of the network: 20-byte address and keccak256 of its code."""

    address: bytes
    code_hash: bytes

    def to_json(self) -> dict[str, str]:
        """JSON-ready."""
        return {"address": to_hex(self.address), "code_hash": to_hex(self.code_hash)}

    @classmethod
    def from_json(cls, value: object) -> ContractRef:
        """Parse. Raises EncodingError."""
        data = need_fields("contract", value, {"address", "code_hash"})
        return cls(from_hex(data["address"], 20, name="address"), from_hex(data["code_hash"], 32, name="code_hash"))


@dataclass(frozen=True, slots=True)
class Genesis:
    """Everything that is fixed before the founding committee deals.

    ``policy`` is the policy document (JSON object), ``roots`` maps a vendor to the sha256 fingerprints (hex) of its
    accepted roots, ``mode`` is "devnet" or "production", ``header_verifier`` names how gatekeepers judge headers.
    """

    mode: str
    chain_id: int
    genesis_hash: bytes
    contracts: Mapping[str, ContractRef]
    policy: Mapping[str, Any]
    roots: Mapping[str, tuple[str, ...]]
    header_verifier: str

    def __post_init__(self) -> None:
        need_uint("chain id", self.chain_id, 53)
        need_bytes("genesis hash", self.genesis_hash, 32)
        if self.mode not in MODES:
            raise BAD_NETWORK(expected=f"mode in {MODES}", found=self.mode)

    def policy_hash(self) -> bytes:
        """digest(POLICY, JCS policy): what the Policies contract holds."""
        return digest(Context.POLICY, jcs.encode(dict(self.policy)))

    def genesis_id(self) -> bytes:
        """32 bytes; what founding gatekeepers attest under."""
        body = {
            "mode": self.mode,
            "chain_id": self.chain_id,
            "genesis_hash": to_hex(self.genesis_hash),
            "contracts": {name: ref.to_json() for name, ref in self.contracts.items()},
            "policy_hash": to_hex(self.policy_hash()),
            "roots": {vendor: sorted(prints) for vendor, prints in self.roots.items()},
            "header_verifier": self.header_verifier,
        }
        return digest(Context.NETWORK_ID, b"genesis", jcs.encode(body))

    def to_json(self) -> dict[str, Any]:
        """JSON-ready fields of the genesis file."""
        return {
            "version": 1,
            "mode": self.mode,
            "chain_id": self.chain_id,
            "genesis_hash": to_hex(self.genesis_hash),
            "contracts": {name: ref.to_json() for name, ref in self.contracts.items()},
            "policy": dict(self.policy),
            "roots": {vendor: sorted(prints) for vendor, prints in self.roots.items()},
            "header_verifier": self.header_verifier,
        }

    @classmethod
    def from_json(cls, value: object) -> Genesis:
        """Parse the object of a genesis file. Raises EncodingError."""
        names = {"version", "mode", "chain_id", "genesis_hash", "contracts", "policy", "roots", "header_verifier"}
        data = need_fields("genesis", value, names)
        for name in ("contracts", "policy", "roots"):
            if not isinstance(data[name], dict):
                raise BAD_NETWORK(expected=f"{name} as an object", found=type(data[name]).__name__)
        need_version("genesis", data["version"], 1)
        return cls(
            mode=_word("mode", data["mode"]),
            chain_id=need_uint("chain_id", data["chain_id"], 53),
            genesis_hash=from_hex(data["genesis_hash"], 32, name="genesis_hash"),
            contracts={k: ContractRef.from_json(v) for k, v in data["contracts"].items()},
            policy=data["policy"],
            roots={_word("vendor", k): _prints(k, v) for k, v in data["roots"].items()},
            header_verifier=_word("header_verifier", data["header_verifier"]),
        )

    @classmethod
    def parse(cls, data: bytes) -> Genesis:
        """Parse the canonical bytes of a genesis file. Raises EncodingError for any that ``to_json`` does not give."""
        genesis = cls.from_json(jcs.decode(data, max_size=MAX_FILE))
        _same_again(jcs.encode(genesis.to_json()), data)
        return genesis

    def address(self, name: str) -> bytes:
        """A contract's address. Raises EncodingError for a name that the file does not have."""
        if name not in self.contracts:
            raise BAD_NETWORK(expected=f"contract {name}", found="none of that name")
        return self.contracts[name].address


def _word(name: str, value: object) -> str:
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise BAD_NETWORK(expected=f"{name} as a word", found=repr(value)[:40])
    return value


def _prints(vendor: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(p, str) and _PRINT.fullmatch(p) for p in value):
        raise BAD_NETWORK(expected=f"roots of {vendor[:40]} as a list of SHA-256 in hex", found=repr(value)[:40])
    return tuple(value)


def _same_again(encoded: bytes, data: bytes) -> None:
    if encoded != data:
        raise BAD_NETWORK(expected="the file as this build writes it", found="another spelling, as of unsorted roots")


def network_id(genesis_id: bytes, transcript: bytes) -> bytes:
    """digest(NETWORK_ID, "network", genesis id, DKG transcript hash)."""
    return digest(
        Context.NETWORK_ID,
        b"network",
        need_bytes("genesis id", genesis_id, 32),
        need_bytes("transcript", transcript, 32),
    )


@dataclass(frozen=True, slots=True)
class Network:
    """The network file: genesis, founding committee (term 1), transcript, master public key.

    ``share_keys`` are g2^share of each member in order (96 bytes each): they serve to name a member that answers wrong.
    ``id`` is the network id, 32 bytes: it follows from the others, and every call needs it.
    """

    genesis: Genesis
    founding: SignerSet
    transcript: bytes
    mpk: bytes
    share_keys: tuple[bytes, ...]
    master_epoch: int
    id: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        need_bytes("mpk", self.mpk, 96)
        if len(self.share_keys) != len(self.founding.members):
            raise BAD_NETWORK(expected="one share key per member", found=f"{len(self.share_keys)} share keys")
        object.__setattr__(self, "id", network_id(self.genesis.genesis_id(), self.transcript))

    def encode(self) -> bytes:
        """The canonical bytes of network.json."""
        return jcs.encode(
            {
                **self.genesis.to_json(),
                "founding": {
                    "term": self.founding.term,
                    "threshold": self.founding.threshold,
                    "members": [to_hex(m) for m in self.founding.members],
                },
                "transcript": to_hex(self.transcript),
                "mpk": to_hex(self.mpk),
                "share_keys": [to_hex(k) for k in self.share_keys],
                "master_epoch": self.master_epoch,
                "network_id": to_hex(self.id),
            }
        )

    def fingerprint(self) -> str:
        """SHA-256 of the bytes, hex: what clients pin."""
        return hashlib.sha256(self.encode()).hexdigest()

    @classmethod
    def parse(cls, data: bytes, *, fingerprint: str | None = None) -> Network:
        """Parse network.json. Raises EncodingError: malformed, other fingerprint, ids that do not follow.

        1. the fingerprint, before anything is parsed; 2. canonical form and fields; 3. the network id; 4. the file says
        nothing that it would not say again. The network id commits to the genesis and the transcript hash, not to
        committee, mpk and share keys: what a file without a pinned fingerprint says of those is a claim.
        """
        found = hashlib.sha256(data).hexdigest()
        if fingerprint is not None and found != fingerprint.lower().removeprefix("0x"):  # 1
            raise WRONG_FINGERPRINT(expected=fingerprint, found=found)
        value = jcs.decode(data, max_size=MAX_FILE)  # 2
        if not isinstance(value, dict):
            raise BAD_NETWORK(expected="an object", found=type(value).__name__)
        own = {name: value.pop(name, None) for name in _OWN}
        founding = need_fields("founding", own["founding"], {"term", "threshold", "members"})
        members = founding["members"] if isinstance(founding["members"], list) else []
        share_keys = own["share_keys"] if isinstance(own["share_keys"], list) else []
        network = cls(
            genesis=Genesis.from_json(value),
            founding=SignerSet(
                need_uint("term", founding["term"], 64),
                need_uint("threshold", founding["threshold"], 8),
                tuple(from_hex(m, 20, name="member") for m in members),
            ),
            transcript=from_hex(own["transcript"], 32, name="transcript"),
            mpk=from_hex(own["mpk"], 96, name="mpk"),
            share_keys=tuple(from_hex(k, 96, name="share key") for k in share_keys),
            master_epoch=need_uint("master_epoch", own["master_epoch"], 64),
        )
        if to_hex(network.id) != own["network_id"]:  # 3
            raise BAD_NETWORK(expected=to_hex(network.id), found=str(own["network_id"])[:80])
        _same_again(network.encode(), data)  # 4
        return network

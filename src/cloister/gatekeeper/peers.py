"""Is a peer what it says on chain? Fresh evidence over our nonce, compared with its record."""

from __future__ import annotations

from collections.abc import Sequence

import aiohttp

from cloister.core.attestation.policy import Policy
from cloister.core.chainview.founding import CandidateRecord
from cloister.core.chainview.header import Header
from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import AttestationError, define
from cloister.core.policy.rest import machine_of
from cloister.gatekeeper.attest import attest
from cloister.gatekeeper.ports import Snapshot
from cloister.wire.ask import ask
from cloister.wire.messages import Shown

EVIDENCE_TIMEOUT_S = 10.0

BAD_PEER = define(
    "gatekeeper.peer",
    AttestationError,
    check="a peer's evidence is of the member, ceremony key and vendor class that stand on chain",
    remedy="do not deal with this peer; found the committee without it",
    status=403,
)


async def verify_peer(
    session: aiohttp.ClientSession,
    candidate: CandidateRecord,
    at: Snapshot,
    *,
    policy: Policy,
    networks: Sequence[bytes],
    head: Header,
    nonce: bytes,
) -> bytes:
    """The machine that the peer runs on, empty if its evidence names none; CloisterError unless it proves itself.

    ``networks``: ids it may attest under: the genesis id, which members have before they are in office, and the network
    id once there is one.

    1. it answers our nonce with evidence that policy accepts, in the role gatekeeper; 2. the attested node is the
    member; 3. the attested ceremony key is the one on chain; 4. so is the vendor class, on which the seat rule rests.
    """
    url = f"{candidate.endpoint.rstrip('/')}/v1/evidence?nonce={to_hex(nonce)}"
    shown = Shown.from_json(await ask(session, "GET", url, timeout_s=EVIDENCE_TIMEOUT_S))
    claimed = shown.binding.network
    claims, peer = await attest(  # 1
        shown,
        at,
        policy=policy,
        role="gatekeeper",
        network=claimed if claimed in networks else networks[0],
        number=head.number,
        now=head.timestamp,
        checkpoints=None,
        nonce=nonce,
    )
    if peer.worker != candidate.member:  # 2
        raise BAD_PEER(expected=f"member {to_hex(candidate.member)}", found=to_hex(peer.worker))
    if shown.binding.keys.get("dkg") != candidate.dkg_key:  # 3
        raise BAD_PEER(expected=f"the ceremony key of {to_hex(candidate.member)}", found="another key")
    if peer.vendor_class != candidate.vendor_class:  # 4
        raise BAD_PEER(expected=f"the vendor class of {to_hex(candidate.member)}", found="another vendor")
    return machine_of(claims)

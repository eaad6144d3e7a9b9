"""GET /v1/chains/{chain}/signers/{term}: a member's word on an Anchor's next signer set (spec/chains.md 21-24)."""

from __future__ import annotations

import asyncio

from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import ChainViewError, define
from cloister.core.policy.signer_set import may_sign_handover, signer_handover
from cloister.gatekeeper.chains import ConnectedChains
from cloister.gatekeeper.ports import Snapshot
from cloister.gatekeeper.store import Store
from cloister.node.identity import NodeKeys

NO_SUCCESSOR = define(
    "gatekeeper.no_successor",
    ChainViewError,
    check="the term that is asked about handed over to another one, at a final block",
    remedy="wait until the next term is in office and final; its number is on chain",
    status=404,
)
ANOTHER_SET = define(
    "gatekeeper.another_set",
    ChainViewError,
    check="this member signs one successor of a term at an Anchor",
    remedy="finality broke, or an endpoint lies: compare endpoints; nothing is signed",
    status=409,
)


class SignerSetDesk:
    """Answers whoever carries signer sets to connected chains: what it signs follows from proven records."""

    def __init__(self, store: Store, keys: NodeKeys, chains: ConnectedChains) -> None:
        self._store, self._keys, self._chains = store, keys, chains

    async def answer(self, at: Snapshot, network: bytes, chain_id: int, term: int) -> dict[str, object]:
        """{statement, members, signature}, JSON-ready. ``at``: proven state of the network's own chain.

        1. the chain is connected; 2. the term after ``term`` is in office, or was; 3. this member sat in ``term``;
        4. it signed no other successor; 5. remembered, then signed. Raises CloisterError."""
        place = self._chains.at(chain_id)
        place.checkpoints.require_running()  # 1
        if not 1 <= term < (await at.committee()).term:  # 2
            raise NO_SUCCESSOR(expected="a term that is over", found=f"term {term}")
        old, new = await asyncio.gather(at.term_record(term), at.term_record(term + 1))
        may_sign_handover(old, self._keys.address)  # 3
        statement = signer_handover(old, new, chain_id, place.record.anchor.address)
        digest, name = statement.digest(network), f"signers/{chain_id}/{to_hex(place.record.anchor.address)}/{term}"
        known = self._store.get(name)
        if known is not None and known != digest:  # 4
            raise ANOTHER_SET(expected=to_hex(known)[:18], found=to_hex(digest)[:18])
        self._store.put(name, digest)  # 5
        signature = self._keys.sign(digest)
        members = [to_hex(member) for member in new.members]
        return {"statement": statement.to_json(), "members": members, "signature": to_hex(signature)}

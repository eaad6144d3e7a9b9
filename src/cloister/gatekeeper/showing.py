"""This gatekeeper's own evidence: fresh quotes over a binding (spec/attestation.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from cloister.core.attestation.model import Binding
from cloister.evidence.tee import Tee
from cloister.wire.messages import Shown


class Showing:
    """Makes evidence. ``node``: 20-byte address. ``boot``: 32 random bytes per start. ``config``: settings' hash."""

    def __init__(self, tee: Tee, node: bytes, boot: bytes, config: bytes) -> None:
        self._tee, self._node, self._boot, self._config = tee, node, boot, config
        self._lock = asyncio.Lock()

    async def show(self, network: bytes, block: bytes, nonce: bytes, dkg: bytes | None) -> Shown:
        """Evidence over (network or genesis id, recent block hash, nonce, ceremony key). Raises EvidenceError.

        One quote at a time: hardware is slow, and a crowd of askers must not stack up inside it."""
        return await self.show_keys(network, block, nonce, {} if dkg is None else {"dkg": dkg})

    async def show_keys(self, network: bytes, block: bytes, nonce: bytes, keys: Mapping[str, bytes]) -> Shown:
        """The same over any keys, by name. Raises EvidenceError."""
        binding = Binding(
            network=network,
            role="gatekeeper",
            node=self._node,
            boot=self._boot,
            config=self._config,
            checkpoint=block,
            nonce=nonce,
            keys=keys,
        )
        async with self._lock:
            return Shown(await self._tee.quote(binding.report_data()), binding)

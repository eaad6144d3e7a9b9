"""What the Directory says, by proof: the newest address under a name, and so which chains count (spec/chains.md 2)."""

from __future__ import annotations

from cloister.core.chainview.layout import Layout, add, data_slot, mapping_slot
from cloister.core.chainview.words import Slots, address_of_word
from cloister.core.encoding.hexes import need_bytes
from cloister.core.errors import ChainViewError, define

NOT_CONNECTED = define(
    "chainview.chain_not_connected",
    ChainViewError,
    check="the network's Directory names its own Anchor under the key of the chain's record, in the newest version",
    remedy="the owner of the Directory publishes the record's key, or the chain was disconnected: use another chain",
    status=503,
)


def read_newest(slots: Slots, layout: Layout, name: bytes) -> bytes | None:
    """The address (20 bytes) of the newest version of a name (32 bytes); None if it has none."""
    place = mapping_slot(layout.variable("_versions").slot, need_bytes("name", name, 32))
    count = slots.get([place])[0]
    if count == 0:
        return None
    return address_of_word(slots.get([add(data_slot(place), count - 1)])[0])


def require_connected(newest: bytes | None, anchor: bytes) -> None:
    """Raise ChainViewError unless what the Directory holds under a record's key is the network's own Anchor."""
    if newest != anchor:
        raise NOT_CONNECTED(expected="the network's Anchor under the record's key", found="nothing, or another")

"""Views of any contract over proven state: the machine runs here, the endpoint brings proofs (spec/chainview.md 23).

An endpoint can withhold a proof, and then the view has no answer. It cannot make the view answer something else.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from cloister.chain.abi import BAD_ANSWER
from cloister.chain.proven import nodes_of, proven_word
from cloister.chain.rpc import Rpc
from cloister.core.chainview.evm import MAX_GAS, AccountFacts, Block, NeedState, Outcome, ProvenWorld, view
from cloister.core.chainview.evm_machine import MAX_CODE
from cloister.core.chainview.proofs import BAD_PROOF, EMPTY_CODE, Account, verify_account
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import ChainViewError, define

MAX_ROUNDS: Final = 64
# Words and accounts kept for one checkpoint.
MAX_KEPT: Final = 4096

TOO_MUCH = define(
    "chainview.evm_rounds",
    ChainViewError,
    check=f"a view reads at most {MAX_ROUNDS} accounts and words that are not proven yet",
    remedy="write the access hook so that it reads less",
    status=403,
)


class ProvenCalls:
    """Runs views at one checkpoint and keeps what was proven for them. One object per checkpoint is worth keeping."""

    def __init__(self, rpc: Rpc, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._rpc, self._world = rpc, ProvenWorld()

    async def view(self, to: bytes, data: bytes, *, caller: bytes = bytes(20), gas: int = MAX_GAS) -> Outcome:
        """The outcome of calling ``to`` with ``data`` at the checkpoint, changing nothing.

        Raises ChainError (the endpoint fails), ChainViewError (it lies; the view cannot be proven, reads too much)."""
        at = self.checkpoint
        block = Block(at.number, at.timestamp, at.chain_id)
        for _ in range(MAX_ROUNDS):
            try:
                # A view may take a good part of a second: requests are served beside it.
                return await asyncio.to_thread(view, self._world, block, to, data, caller=caller, gas=gas)
            except NeedState as need:
                await self._prove(need)
        raise TOO_MUCH(expected=f"at most {MAX_ROUNDS}", found="more")

    async def word(self, address: bytes, slot: int) -> int:
        """One word of a contract's storage at the checkpoint; 0 where there is none. Raises as ``view`` does."""
        if (address, slot) not in self._world.words:
            return (await self._prove(NeedState(address, slot))).words[address, slot]
        return self._world.words[address, slot]

    async def _prove(self, need: NeedState) -> ProvenWorld:
        """1. the account by proof; 2. one word under its storage root, or its code by the proven hash. Gives where it
        is kept."""
        if len(self._world.words) + len(self._world.accounts) >= MAX_KEPT:
            self._world = ProvenWorld()
        world, slots = self._world, [] if need.slot is None else [need.slot]
        answer = await self._ask(need.address, slots)
        found = verify_account(self.checkpoint.state_root, need.address, nodes_of(answer.get("accountProof")))  # 1
        if need.slot is not None:  # 2
            word = 0 if found is None else proven_word(found.storage_root, need.slot, _only(answer.get("storageProof")))
            world.words[need.address, need.slot] = word
        elif found is None:
            world.accounts[need.address] = AccountFacts()
        else:
            code = b"" if found.code_hash == EMPTY_CODE else await self._code(need.address, found)
            world.accounts[need.address] = AccountFacts(found.balance, found.code_hash, code)
        return world

    async def _code(self, address: bytes, account: Account) -> bytes:
        answer = await self._rpc.call("eth_getCode", to_hex(address), hex(self.checkpoint.number))
        code = from_hex(answer, name="code", max_size=MAX_CODE)
        if keccak256(code) != account.code_hash:
            raise BAD_PROOF(expected=f"code with hash {to_hex(account.code_hash)}", found="other code")
        return code

    async def _ask(self, address: bytes, slots: list[int]) -> dict[str, Any]:
        words = [f"0x{slot:064x}" for slot in slots]
        answer = await self._rpc.call("eth_getProof", to_hex(address), words, hex(self.checkpoint.number))
        if not isinstance(answer, dict):
            raise BAD_ANSWER(expected="a proof", found=type(answer).__name__)
        return answer


def _only(entries: Any) -> Any:
    if not isinstance(entries, list) or len(entries) != 1:
        raise BAD_ANSWER(expected="one storage proof", found="another number")
    return entries[0]

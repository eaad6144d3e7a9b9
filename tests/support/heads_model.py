"""A model of five members, one of which lies or was rolled back. Whatever is proposed, restarted and merged, in
whatever order: heads that four members signed stay on one chain, and no loader accepts a store that leaves one out.

Members keep their tables as the gatekeeper does: written out after every change, read back after a crash.
"""

from __future__ import annotations

import hashlib
from itertools import combinations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cloister.core.encoding.identity import Epochs
from cloister.core.errors import StateError
from cloister.core.state.rows import Head
from cloister.core.state.table import HeadTable

AGENT, GENESIS = b"\xaa" * 32, b"\x00" * 32
HONEST, LIAR = ("A", "B", "C", "D"), "E"
ENDORSE, LOAD = 4, 3
EPOCHS = Epochs(1, 1, 1, b"\xc2" * 32)
FAR = Head(EPOCHS, 1 << 50, b"\xfe" * 32, b"\xff" * 32)


class Committee(RuleBasedStateMachine):
    """A tree of heads that hosts and workers make up; ``signers`` says who signed which."""

    def __init__(self) -> None:
        super().__init__()
        self.tree: list[Head] = [Head(EPOCHS, 0, GENESIS, GENESIS)]
        self.paths: dict[bytes, tuple[bytes, ...]] = {GENESIS: (GENESIS,)}
        self.tables = {name: HeadTable(merged=True) for name in HONEST}
        self.signers: dict[bytes, set[str]] = {}

    # --- what workers and hosts do ---

    @initialize(length=st.integers(1, 6))
    def begin(self, length: int) -> None:
        """An agent that everybody has known for a while."""
        for _ in range(length):
            self._grow(self.tree[-1])
        self.send(len(self.tree) - 1, {*HONEST})

    @rule(parent=st.integers(0, 1000), length=st.integers(1, 3))
    def commit(self, parent: int, length: int) -> None:
        """A store (one of several, if its host forked it) commits on a head; mostly on one of the newest."""
        node = self.tree[max(0, len(self.tree) - 1 - parent % 5)]
        for _ in range(length):
            node = self._grow(node)

    @rule(which=st.integers(0, 1000), to=st.sets(st.sampled_from(HONEST), min_size=1))
    def endorse(self, which: int, to: set[str]) -> None:
        """A worker sends everything up to a head to some members; who is reached signs what it may."""
        self.send(max(0, len(self.tree) - 1 - which % 6), to)

    def send(self, index: int, to: set[str]) -> None:
        path = [h for h in self.tree if h.head in self.paths[self.tree[index].head] and h.height]
        for name in to:
            for head in path:
                try:
                    self.tables[name].propose(AGENT, head, genesis=GENESIS)
                except StateError:
                    continue
                self.signers[head.head].add(name)

    @rule(name=st.sampled_from(HONEST))
    def show_proof(self, name: str) -> None:
        """A worker shows a member the newest head with enough signatures."""
        proven = [h for h in self.tree if h.height and len(self.signers[h.head]) >= ENDORSE]
        if proven:
            newest = max(proven, key=lambda h: h.height)
            try:
                self.tables[name].adopt(AGENT, newest)
            except StateError:
                return

    # --- what happens to members ---

    @rule(name=st.sampled_from(HONEST), lie=st.integers(0, 1000), away=st.sampled_from([None, *HONEST, LIAR]))
    def restart(self, name: str, lie: int, away: str | None) -> None:
        """A crash: what was written is read back, then the others are asked; one of them may be away."""
        self.tables[name] = HeadTable.from_json(self.tables[name].to_json())
        self._merge(name, lie, away)

    @rule(name=st.sampled_from(HONEST), lie=st.integers(0, 1000), away=st.sampled_from([None, *HONEST, LIAR]))
    def ask_again(self, name: str, lie: int, away: str | None) -> None:
        """While something is in doubt."""
        self._merge(name, lie, away)

    def _merge(self, name: str, lie: int, away: str | None) -> None:
        others = [self.tables[n] for n in HONEST if n not in (name, away)]
        if away != LIAR:
            others.append(self._lie(lie))
        if len(others) >= LOAD:
            self.tables[name].merge(others, LOAD)

    # --- what must hold ---

    @invariant()
    def endorsed_heads_are_one_chain(self) -> None:
        """Of any two, one stands on the other."""
        for one, other in combinations(self._endorsed(), 2):
            low, high = sorted((one, other), key=lambda h: h.height)
            assert low.head in self.paths[high.head], "two endorsed heads on two chains"

    @invariant()
    def no_loader_accepts_a_store_that_leaves_an_endorsed_head_out(self) -> None:
        """Any three answers, the liar's among them ("I know nothing"): two honest ones decide."""
        endorsed = self._endorsed()
        for store in self.tree:
            path = self.paths[store.head]
            for pair in combinations(HONEST, LOAD - 1):
                known = [self.tables[n].get(AGENT) for n in pair]
                if all(k is None or k.head in path for k in known):
                    assert all(e.head in path for e in endorsed), (pair, store.height)

    def _endorsed(self) -> list[Head]:
        return [h for h in self.tree if h.height and len(self.signers[h.head]) >= ENDORSE]

    def _grow(self, parent: Head) -> Head:
        name = hashlib.sha256(parent.head + len(self.tree).to_bytes(4, "big")).digest()
        node = Head(EPOCHS, parent.height + 1, parent.head, name)
        self.tree.append(node)
        self.paths[name] = (*self.paths[parent.head], name)
        self.signers[name] = {LIAR}
        return node

    def _lie(self, number: int) -> HeadTable:
        """Any head of the tree, a height of its own making, or nothing."""
        table = HeadTable(merged=True)
        choices: list[Head | None] = [None, FAR, *self.tree[1:]]
        said = choices[number % len(choices)]
        if said is not None:
            table.adopt(AGENT, said)
        return table

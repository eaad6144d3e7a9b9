"""Gatekeepers whose folders the other members hold the key of (spec/gatekeepers.md D1-D6), over a chain in memory."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from cloister.core.attestation.model import Evidence
from cloister.core.errors import EvidenceError
from cloister.evidence.tee import NO_SEALING
from cloister.gatekeeper.config import GatekeeperConfig
from cloister.gatekeeper.rest import Locked
from cloister.gatekeeper.showing import Showing
from cloister.gatekeeper.store import Store
from cloister.node.identity import NodeKeys
from support import hardware
from support.gatekeepers import CHAIN_ID, PretendTee, Seat, World, WorldChain, secrets_of


class BareTee(PretendTee):
    """A machine without a sealing key; ``other``: not the machine that this kind of hardware is everywhere else."""

    other: bool = False

    async def sealing_key(self, context: bytes) -> bytes:
        error = NO_SEALING(expected="a sealing key", found="none on this hardware")
        assert isinstance(error, EvidenceError)
        raise error

    async def quote(self, report_data: bytes) -> Evidence:
        if not self.machine.startswith("other"):
            return await super().quote(report_data)
        factory, image = hardware.factory(), self.image
        if self.kind == "tdx":
            quote = factory.intel.platform("two", hardware.NOW).quote(image, report_data)
            return Evidence("tdx", quote, {"collateral": hardware.collateral()})
        if self.kind == "snp":
            chip = factory.amd.chip("two", hardware.NOW)
            return Evidence("snp", chip.report(image, report_data), dict(chip.certificates))
        instance = factory.aws.instance("two", hardware.NOW)
        document = instance.document({0: image, 4: b"\x04" * 48}, hardware.NOW, user_data=report_data)
        return Evidence("nitro", document)


class Resting(Seat):
    """A member with ``at_rest = members``. Its first life makes its keys; every later one asks the others."""

    def __init__(self, world: World, folder: Path, number: int, port: int) -> None:
        super().__init__(world, folder, number, port)
        (folder / "node.key").unlink()
        self.tee = BareTee(self.tee.kind, self.tee.image, self.tee.machine)
        rng = secrets_of(f"resting {number}")
        self.keys = NodeKeys.fresh("gatekeeper", rng(32), rng)
        self.lives = 0

    @property
    def config(self) -> GatekeeperConfig:
        return replace(super().config, at_rest="members")

    async def unsealed(self) -> NodeKeys:
        self.lives += 1
        return self.keys if self.lives == 1 else await self.unlock()

    async def unlock(self, folder: Path | None = None, tee: PretendTee | None = None, node: bytes = b"") -> NodeKeys:
        """What a start makes of a folder (default: ours). ``node``: the address to claim, if not the folder's."""
        where, machine = folder or self.folder, tee or self.tee
        store = Store(where / "state.db")

        def showing(member: bytes) -> Showing:
            return Showing(machine, node or member, b"\xb1" * 32, b"\xc1" * 32)

        try:
            locked = Locked(where, store, None, WorldChain(self.world, self.keys.address), CHAIN_ID, showing)
            return locked.first() or await locked.open()
        finally:
            store.close()

    def copy(self, to: Path) -> Path:
        """The folder as it is on the disk now."""
        to.mkdir(mode=0o700)
        for file in self.folder.iterdir():
            shutil.copy(file, to / file.name)
        return to


def kept(folder: Path) -> dict[str, Any]:
    """Every blob of a folder, by name."""
    store = Store(folder / "state.db")
    try:
        return {name: store.get(name) for name in store.names("")}
    finally:
        store.close()

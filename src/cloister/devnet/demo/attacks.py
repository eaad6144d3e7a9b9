"""Five attacks, each through the real doors, each expected to be refused by one named code."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
from coincurve import PrivateKey

import cloister
from cloister.chain.contracts import encode
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.client.client import Client
from cloister.client.resolve import Sitting
from cloister.core.attestation.model import Binding
from cloister.core.chainview.records import WorkerRecord
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.signatures import Signed, address_of
from cloister.core.encoding.statements import Checkpoint, WorkerAdmission
from cloister.core.envelope.client import ClientSession, Psk
from cloister.core.envelope.model import RequestHead
from cloister.core.errors import CloisterError, from_wire
from cloister.core.policy.placement import place
from cloister.core.threshold.partial import TransportKey
from cloister.devnet.demo.screen import EXPECTATION
from cloister.devnet.network import Devnet
from cloister.devnet.tee.client import TeeControl
from cloister.devnet.told import operator_address
from cloister.evidence.detect import MachineConfig, open_tee
from cloister.evidence.tee import Tee
from cloister.wire.committee import Committee
from cloister.wire.messages import AdmissionRequest, KeysRequest, Shown


async def refusal(attempt: Awaitable[Any]) -> CloisterError:
    """The refusal that an attack meets. Raises demo.expectation if it succeeds."""
    try:
        await attempt
    except CloisterError as error:
        return error
    raise EXPECTATION(expected="a refusal", found="the attack succeeded")


class SealedAttacker:
    """Somebody on the wire: records sealed bytes, changes them, sends them again or elsewhere."""

    def __init__(self, client: Client, agent: bytes) -> None:
        self._client, self._agent = client, agent

    async def seat(self, number: int = 0) -> Sitting:
        """One verified seat of the agent."""
        return (await self._client.resolver.resolve(self._agent, again=True)).sittings[number]

    def session(self, sitting: Sitting) -> ClientSession:
        """A sealed session to a seat."""
        certificate = sitting.seat.certificate
        psk = Psk.encapsulate(certificate, self._client.resolver.mpk(certificate.master_epoch), os.urandom)
        return ClientSession(certificate, psk, os.urandom)

    def request(self) -> RequestHead:
        """A harmless request."""
        deadline = int(time.time() * 1000) + 20_000
        return RequestHead(request_id="0x" + secrets.token_hex(16), method="GET", path="/notes", deadline_ms=deadline)

    async def send(self, record: bytes, boot: bytes) -> bytes:
        """POST a record; returns the sealed answer. Raises the refusal."""
        url = f"{self._client.gateway.url}/v1/call/{to_hex(self._agent)}?boot={to_hex(boot)}"
        headers = {"content-type": "application/cloister-sealed"}
        async with aiohttp.ClientSession() as http, http.post(url, data=record, headers=headers) as answer:
            body = await answer.read()
            if answer.status != 200:
                raise from_wire((await answer.json()).get("error"), status=answer.status)
            return body

    async def tampered_answer(self) -> None:
        """One bit of the sealed answer changes on its way."""
        sitting = await self.seat()
        sealed = self.session(sitting).seal(self.request(), b"")
        answer = bytearray(await self.send(bytes(sealed), sitting.worker.boot))
        answer[len(answer) // 2] ^= 1
        sealed.opener.feed(bytes(answer))
        sealed.opener.close()

    async def replayed_request(self) -> None:
        """The same sealed request a second time, to the same worker."""
        sitting = await self.seat()
        sealed = self.session(sitting).seal(self.request(), b"")
        await self.send(bytes(sealed), sitting.worker.boot)
        await self.send(bytes(sealed), sitting.worker.boot)

    async def moved_request(self) -> None:
        """A sealed request for one worker, handed to the other worker that holds the agent too."""
        sitting, other = await self.seat(0), await self.seat(1)
        sealed = self.session(sitting).seal(self.request(), b"")
        await self.send(bytes(sealed), other.worker.boot)


class RogueNode:
    """A machine under the attacker's control that talks to gatekeepers itself."""

    def __init__(self, devnet: Devnet, client: Client, committee: Committee) -> None:
        self._devnet, self._client, self._committee = devnet, client, committee
        self._boot = secrets.token_bytes(32)

    async def unlisted_measurement(self, agent: bytes) -> None:
        """Code that differs by one line runs on good hardware and asks for the agent's keys."""
        copy = self._devnet.layout.home / "tampered" / "cloister"
        await self._changed_copy(copy)
        tee = await self._machine("tampered", copy)
        await self._ask(tee, PrivateKey(), agent, await self._committee.checkpoint())

    async def not_placed(self, agent: bytes) -> None:
        """A worker with good code, admitted and registered, asks for an agent that is placed on others."""
        tee = await self._machine("greedy", None)
        key = await self._unplaced_key(agent)
        await self._register(tee, key)
        try:
            await self._ask(tee, key, agent, await self._when_final(address_of(key)))
        finally:
            await self._transact(key, encode("Workers", "depart", address_of(key)))

    async def _machine(self, name: str, package: Path | None) -> Tee:
        control = TeeControl(self._devnet.layout.tee)
        made = await control.create_machine(name, "snp", "worker", package)
        return open_tee(MachineConfig.from_json(made["machine"]))

    async def _changed_copy(self, copy: Path) -> None:
        shutil.rmtree(copy.parent, ignore_errors=True)
        source = Path(cloister.__file__).parent
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        target = copy / "core" / "policy" / "placement.py"
        target.write_text(target.read_text() + "\n# every agent is mine\n")

    def _binding(self, key: PrivateKey, checkpoint: Checkpoint, keys: dict[str, bytes]) -> Binding:
        return Binding(
            network=self._client.network.id,
            role="worker",
            node=address_of(key),
            boot=self._boot,
            config=bytes(32),
            checkpoint=checkpoint.block_hash,
            nonce=bytes(32),
            keys=keys,
        )

    async def _show(self, tee: Tee, binding: Binding) -> Shown:
        return Shown(await tee.quote(binding.report_data()), binding)

    async def _ask(self, tee: Tee, key: PrivateKey, agent: bytes, signed: Signed) -> None:
        transport = TransportKey.generate(secrets.token_bytes)
        shown = await self._show(tee, self._binding(key, _at(signed), {"transport": transport.public}))
        await self._committee.keys(KeysRequest(shown, agent, signed))

    async def _unplaced_key(self, agent: bytes) -> PrivateKey:
        """A node key that rendezvous hashing does not prefer: the honest outcome for most."""
        view = await self._client.resolver.view()
        committee, workers = await view.state.committee(), await view.state.workers()
        live = [w.worker for w in workers if w.live_at(view.checkpoint.number)]
        while True:
            key = PrivateKey()
            if address_of(key) not in place(committee.term_seed, agent, [*live, address_of(key)], 2):
                return key

    async def _register(self, tee: Tee, key: PrivateKey) -> None:
        signed = await self._committee.checkpoint()
        operator = operator_address("operator of greedy")
        shown = await self._show(tee, self._binding(key, _at(signed), {"operator": operator}))
        admitted = await self._committee.admission(AdmissionRequest(shown, operator, signed))
        admission = admitted.statement
        assert isinstance(admission, WorkerAdmission)  # noqa: S101 - the committee answers with admissions
        fields = [getattr(admission, name) for name in admission.TYPES]
        data = encode("Workers", "register", fields, list(admitted.signatures), "unix:greedy")
        await self._transact(key, data)

    async def _transact(self, key: PrivateKey, data: bytes) -> None:
        await self._devnet.fund(address_of(key))
        genesis = self._client.network.genesis
        async with Rpc(f"{self._client.gateway.url}/v1/rpc") as rpc:
            await Sender(rpc, key, genesis.chain_id).send(genesis.address("Workers"), data)

    async def _when_final(self, worker: bytes) -> Signed:
        async def final() -> tuple[WorkerRecord | None, Signed]:
            signed = await self._committee.checkpoint()
            view = await self._client.resolver.view()
            return await view.state.worker(worker), signed

        return await _until(final)


def _at(signed: Signed) -> Checkpoint:
    assert isinstance(signed.statement, Checkpoint)  # noqa: S101 - Committee.checkpoint returns nothing else
    return signed.statement


async def _until(ask: Callable[[], Awaitable[tuple[WorkerRecord | None, Signed]]]) -> Signed:
    for _ in range(100):
        record, signed = await ask()
        if record is not None:
            return signed
        await asyncio.sleep(0.2)
    raise EXPECTATION(expected="the registration final within 20 s", found="not yet")

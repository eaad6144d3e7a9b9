"""The devnet's chain side: deploy the contracts, write the genesis file, found the committee, write network.json."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from coincurve import PrivateKey

from cloister.chain.contracts import call, encode
from cloister.chain.deploy import FREE_SEATS, deploy_all, verify_deployed
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.core.attestation.policy import devnet as devnet_policy
from cloister.core.attestation.roots import Roots
from cloister.core.chainview.seats import RulesRecord
from cloister.core.encoding import jcs
from cloister.core.encoding.hexes import from_hex
from cloister.core.encoding.network import ContractRef, Genesis, Network
from cloister.core.encoding.signatures import SignerSet
from cloister.core.errors import CloisterError, ConfigError, define
from cloister.core.threshold.transcript import Transcript
from cloister.devnet.layout import Layout, write_private
from cloister.wire.ask import new_session
from cloister.wire.transcripts import ask_transcript

FOUNDING_TIMEOUT_S = 60.0

NEVER = 50_000_000
ONE_TERM = replace(FREE_SEATS, term_blocks=NEVER, refresh_blocks=NEVER, rotation_blocks=NEVER)
"""Nothing of the committee changes unasked: for tests that drive it by hand."""

ELECTING = replace(FREE_SEATS, rotation_blocks=NEVER)
"""Elections and refreshes come by themselves. At a block a second the first is due after more than an hour, so that a
demonstration is quiet. A new master key waits for the DAO or t members: agents pause while their state moves to it."""

NO_FOUNDING = define(
    "devnet.founding",
    ConfigError,
    check="five gatekeepers register, deal and confirm one master key",
    remedy="read the gatekeepers' logs with `cloister logs gk-1`",
    status=500,
)


async def deploy(
    layout: Layout,
    rpc: Rpc,
    deployer: PrivateKey,
    chain_id: int,
    measurements: Sequence[bytes],
    roots: Mapping[str, Any],
    parameters: Mapping[str, int],
    rules: RulesRecord = ELECTING,
) -> Genesis:
    """Deploy every contract and write genesis.json.

    ``measurements``: founding measurement ids. ``parameters``: network parameters that differ from the devnet's.
    ``rules``: of candidates, ceremonies and terms."""
    policy = devnet_policy(Roots.from_json(dict(roots)), **parameters)
    document = policy.to_json()
    sender = Sender(rpc, deployer, chain_id)
    contracts = await deploy_all(sender, policy.hash(), measurements, default_seats=policy.network.seats, rules=rules)
    hashes = await verify_deployed(rpc, contracts)
    first = await rpc.call("eth_getBlockByNumber", "0x0", False)
    genesis = Genesis(
        mode="devnet",
        chain_id=chain_id,
        genesis_hash=from_hex(first["hash"], 32, name="genesis hash"),
        contracts={name: ContractRef(address, hashes[name]) for name, address in contracts.items()},
        policy=document,
        roots={vendor: tuple(prints) for vendor, prints in roots.items()},
        header_verifier="rpc-quorum",
    )
    if genesis.policy_hash() != policy.hash():
        raise RuntimeError("the genesis file and the policy disagree about the policy's hash")
    write_private(layout.genesis, jcs.encode(genesis.to_json()))
    return genesis


async def found(rpc: Rpc, deployer: PrivateKey, genesis: Genesis, members: Sequence[bytes], threshold: int) -> None:
    """Wait until every member stands as a candidate, then name the founding committee."""
    gatekeepers = genesis.address("Gatekeepers")

    async def registered() -> bool:
        known = await call(rpc, gatekeepers, "Gatekeepers", "candidates")
        return set(members) <= set(known)

    await _until(registered, f"{len(members)} candidates on chain")
    sender = Sender(rpc, deployer, genesis.chain_id)
    await sender.send(
        gatekeepers, encode("Gatekeepers", "openFounding", list(members), threshold, genesis.genesis_id())
    )


async def in_office(rpc: Rpc, genesis: Genesis) -> Mapping[str, Any]:
    """Wait until the committee confirmed; returns the contract's record of it."""
    gatekeepers = genesis.address("Gatekeepers")

    async def confirmed() -> bool:
        return int(await call(rpc, gatekeepers, "Gatekeepers", "term")) > 0

    await _until(confirmed, "a confirmed master key on chain")
    record: Mapping[str, Any] = await call(rpc, gatekeepers, "Gatekeepers", "committee")
    return record


async def adopt(rpc: Rpc, payer: PrivateKey, genesis: Genesis) -> None:
    """The Anchor takes over the signers of the committee in office: contracts may ask agents from now on.

    Does nothing if it did before. Anybody may send this; the contract reads the committee itself (spec/anchor.md)."""
    anchor = genesis.address("Anchor")
    if (await call(rpc, anchor, "Anchor", "signerSet"))["term"] == 0:
        await Sender(rpc, payer, genesis.chain_id).send(anchor, encode("Anchor", "adopt"))


async def network_file(layout: Layout, rpc: Rpc, genesis: Genesis, endpoints: Sequence[str]) -> Network:
    """Replay the public transcript of the key generation and write network.json.

    The share keys follow from the dealings, whose digests stand on chain; nothing that a gatekeeper says is believed.
    """
    committee = await in_office(rpc, genesis)
    transcript, mpk = committee["transcript"], b"".join(committee["mpk"])
    record = await _record(endpoints, transcript, int(committee["term"]))
    public, members = record.public_shares(transcript, mpk), tuple(m.address for m in record.ceremony.members)
    said = (tuple(committee["members"]), int(committee["threshold"]))
    if said != (members, record.ceremony.threshold):
        raise NO_FOUNDING(expected="the chain's members and threshold", found="others after replaying the transcript")
    network = Network(
        genesis=genesis,
        founding=SignerSet(int(committee["term"]), record.ceremony.threshold, members),
        transcript=public.transcript,
        mpk=public.mpk,
        share_keys=public.share_keys,
        master_epoch=int(committee["masterEpoch"]),
    )
    if network.id != committee["networkId"]:
        raise NO_FOUNDING(expected="the chain's network id", found="another after replaying the transcript")
    write_private(layout.network, network.encode())
    return network


async def _record(endpoints: Sequence[str], transcript: bytes, term: int) -> Transcript:
    """The founding's public record, from the first gatekeeper that has it; its hash says that it is the right one."""
    found: list[Transcript] = []

    async def served() -> bool:
        for url in endpoints:
            with contextlib.suppress(CloisterError):
                found.append(await ask_transcript(session, url, transcript, term))
                return True
        return False

    async with new_session() as session:
        await _until(served, "the public record of the founding")
    return found[0]


async def _until(condition: Any, what: str) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + FOUNDING_TIMEOUT_S
    while not await condition():
        if loop.time() > end:
            raise NO_FOUNDING(expected=f"{what} within {FOUNDING_TIMEOUT_S:.0f} s", found="not yet")
        await asyncio.sleep(0.2)

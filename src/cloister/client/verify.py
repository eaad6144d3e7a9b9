"""Verification as a list of numbered steps, for people and for ``cloister verify`` (DESIGN section 1, the auditor).

Every step says what was checked, what was expected and what was found. A report is accepted only if every step is ok;
it stops at the first step without which the following ones mean nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from cloister.client import checks
from cloister.client.anchored import NOT_ANCHORED, Bundle
from cloister.client.checks import (
    BUNDLE,
    CONTRACT_CODE,
    GENESIS_BLOCK,
    MANIFEST,
    PIN_AGREES,
    POLICY_IN_FORCE,
    UPGRADE_RULE,
    WRONG_CHAIN,
    Found,
)
from cloister.client.receipts import Kept
from cloister.client.resolve import NOT_ADMITTED, OTHER_COMMITTEE
from cloister.core.attestation.appraise import MEASUREMENT, UNAUTHENTIC
from cloister.core.attestation.model import Check
from cloister.core.attestation.policy import Policy
from cloister.core.chainview.logged import RootRecord
from cloister.core.chainview.refusals import STALE
from cloister.core.chainview.terms import HANDOVER_FORK, Terms, pinned
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.network import Network
from cloister.core.envelope.certificate import NOT_LEASED
from cloister.core.errors import CloisterError, Refusal, from_wire
from cloister.core.policy.committee import BAD_POLICY, NOT_DIVERSE
from cloister.core.policy.refusals import AGENT_UNKNOWN, PAUSED, WORKER_UNKNOWN
from cloister.core.receipts.log import LogProof
from cloister.core.receipts.merkle import NOT_CONSISTENT, NOT_INCLUDED
from cloister.core.receipts.receipt import MALFORMED, Receipt
from cloister.core.receipts.verify import BAD_SIGNATURE

if TYPE_CHECKING:
    from cloister.client.client import Client

T = TypeVar("T")


class _Stop(Exception):  # noqa: N818 - the report ends here; its last step says why
    pass


@dataclass(slots=True)
class Report:
    """Numbered steps about one subject. ``facts``: JSON-ready results. ``notes``: what the steps do not prove."""

    subject: str
    steps: list[Check] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there are steps and all are ok. For display and exit codes; code calls ``require``."""
        return bool(self.steps) and all(step.ok for step in self.steps)

    def require(self) -> None:
        """Raise the first failing step as a CloisterError of its code."""
        for step in self.steps:
            if not step.ok:
                raise _error(step)
        if not self.steps:
            raise RuntimeError("a report without steps")

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        steps = [step.to_json() for step in self.steps]
        return {"subject": self.subject, "ok": self.ok, "steps": steps, "facts": self.facts, "notes": self.notes}

    async def step(self, refusal: Refusal, expected: str, work: Callable[[], Awaitable[Found[T]]]) -> T:
        """Run one check; note it. Raises _Stop if it fails: use ``tried`` where the next steps still mean something."""
        number = len(self.steps) + 1
        try:
            value, found = await work()
        except CloisterError as error:
            self.steps.append(
                Check(number, error.code, refusal.check, error.expected, error.found, error.remedy, ok=False)
            )
            raise _Stop from None
        self.steps.append(Check(number, refusal.code, refusal.check, expected, found, "", ok=True))
        return value

    async def tried(self, refusal: Refusal, expected: str, work: Callable[[], Awaitable[Found[T]]]) -> T | None:
        """``step``, but a failure does not end the report."""
        try:
            return await self.step(refusal, expected, work)
        except _Stop:
            return None

    def append(self, checks: tuple[Check, ...]) -> None:
        """Take over the checks of an appraisal, renumbered."""
        for check in checks:
            number = len(self.steps) + 1
            text = (check.code, check.check, check.expected, check.found, check.remedy)
            self.steps.append(Check(number, *text, ok=check.ok))


async def verify_network(client: Client) -> Report:
    """The network: 1 file served equals file pinned; 2 policy; 3, 4 chain and genesis block; 5 checkpoint;
    6 contracts' code by proof; 7 policy hash by proof; 8 committee and MPK by proof; 9 the vendors behind it."""
    net = client.network
    report = Report(f"network {to_hex(net.id)}")
    report.facts = {"network": to_hex(net.id), "fingerprint": net.fingerprint(), "mode": net.genesis.mode}
    if net.genesis.mode != "production":
        report.notes.append("a devnet: its hardware is pretended and its roots are its own")
    if net.genesis.header_verifier == "rpc-quorum":
        report.notes.append("finality is judged by a quorum of RPC endpoints, not by a light client")
    try:
        await report.step(PIN_AGREES, net.fingerprint(), lambda: checks.served(client))
        await report.tried(BAD_POLICY, "vendor roots in production", lambda: checks.policy(net))
        await report.step(WRONG_CHAIN, f"chain {net.genesis.chain_id}", lambda: checks.chain_id(client))
        await report.step(GENESIS_BLOCK, to_hex(net.genesis.genesis_hash), lambda: checks.genesis_block(client))
        view = await report.step(STALE, "t signatures, fresh", lambda: checks.checkpoint(client))
        for name in sorted(net.genesis.contracts):
            await report.tried(CONTRACT_CODE, f"{name} with the pinned code", checks.each_contract(client, view, name))
        await report.tried(POLICY_IN_FORCE, to_hex(net.genesis.policy_hash()), lambda: checks.policy_hash(client, view))
        await report.tried(OTHER_COMMITTEE, "along hand-overs, and the MPK", lambda: checks.committee(client, view))
        await report.tried(NOT_DIVERSE, "vendors as policy demands", lambda: checks.vendors(client, view))
    except _Stop:
        return report
    report.facts |= {"checkpoint": view.checkpoint.number, "block": to_hex(view.checkpoint.block_hash)}
    return report


async def verify_agent(client: Client, agent: bytes) -> Report:
    """An agent: 1 checkpoint; 2 record by proof; 3 not paused; 4, 5 code and manifest behind their hashes;
    6 the manifest's upgrade rule is the chain's; 7 seats under leases, on admitted workers."""
    report = Report(f"agent {to_hex(agent)}")
    try:
        view = await report.step(STALE, "t signatures, fresh", lambda: checks.checkpoint(client))
        record = await report.step(AGENT_UNKNOWN, "a record", lambda: checks.record(view, agent))
        await report.tried(PAUSED, "running", lambda: checks.running(view, record))
        await report.tried(BUNDLE, to_hex(record.code_hash), lambda: checks.bundle(client, record))
        manifest = await report.tried(MANIFEST, to_hex(record.manifest_hash), lambda: checks.manifest(client, record))
        if manifest is not None:
            await report.tried(UPGRADE_RULE, "one rule", lambda: checks.upgrade(manifest, record))
        found = await report.tried(NOT_LEASED, "at least one seat", lambda: checks.seats(client, agent))
        report.facts["seats"] = [{"worker": to_hex(s.worker.worker), "vendor": s.vendor} for s in found or ()]
    except _Stop:
        return report
    report.facts |= {"owner": to_hex(record.owner), "epoch": record.epoch, "upgrade": record.upgrade_mode.name.lower()}
    if record.upgrade_mode.name == "INSTANT":
        report.notes.append("the owner may swap the code at once")
    return report


async def verify_worker(client: Client, worker: bytes) -> Report:
    """A worker: 1 checkpoint; 2 admission by proof; 3 measurement listed; then fresh evidence over our nonce."""
    report = Report(f"worker {to_hex(worker)}")
    try:
        view = await report.step(STALE, "t signatures, fresh", lambda: checks.checkpoint(client))
        record = await report.step(WORKER_UNKNOWN, "a live worker", lambda: checks.admitted(view, worker))
        await report.tried(MEASUREMENT, "listed", lambda: checks.listed(client, view, record.measurement))
        nonce = client.rng(32)
        shown = await report.step(UNAUTHENTIC, "evidence", lambda: checks.asked(client, worker, nonce))
        listed = await checks.measurements(client, view, record.measurement)
        report.append(checks.verdict(client, shown, listed, "worker", nonce).checks)
        await report.tried(NOT_ADMITTED, "the registered boot and address", lambda: checks.same_node(shown[1], record))
    except _Stop:
        return report
    report.facts |= {"vendor": checks.vendor(record), "boot": to_hex(record.boot), "expiry": record.expiry}
    report.notes.append("it shows genuine hardware running listed code; assume that any one quote can be forged")
    return report


async def verify_kept_receipt(client: Client, kept: Kept) -> Report:
    """A receipt: 1 form; 2 certificate under a lease; 3 fields and signature; its place in a witnessed log, if it has a
    proof; then checkpoint, and admission by proof."""
    report = Report("receipt")
    try:
        receipt = await _alone(report, client.network, await _terms(client, kept), kept)
        view = await report.step(STALE, "t signatures, fresh", lambda: checks.checkpoint(client))
        await report.tried(NOT_ADMITTED, "a worker with this boot", lambda: checks.receipt_admission(view, receipt))
    except _Stop:
        return report
    _said(report, receipt)
    return report


async def verify_saved_receipt(network: Network, kept: Kept, terms: Terms | None = None) -> Report:
    """A receipt by what was saved with it, without asking anybody: form, lease, signature, and the saved proof.

    ``terms``: those that this client remembers (``client.terms.remembered``); else the pinned one alone.

    Whether the worker was removed since, only the chain can say: ``verify_kept_receipt``."""
    report = Report("receipt")
    try:
        receipt = await _alone(report, network, terms or pinned(network, 0), kept)
    except _Stop:
        return report
    _said(report, receipt)
    report.notes.append("checked offline: a worker that was removed since is not noticed")
    return report


async def verify_anchored_receipt(client: Client, kept: Kept) -> tuple[Report, Bundle | None]:
    """A receipt against the chain: 1 form; 2 certificate under a lease; 3 fields and signature; 4 its place in a log
    that q members witnessed; 5 checkpoint; 6 a root in the Receipts contract by proof; 7 the root and the witnessed
    head are of one log; 8 the worker was not removed. And the file that shows it to others, if all of it holds.

    ``kept`` needs its proof (``with_proof``)."""
    report = Report("receipt")
    try:
        receipt = await _alone(report, client.network, await _terms(client, kept), kept, demand=True)
        view = await report.step(STALE, "t signatures, fresh", lambda: checks.checkpoint(client))
        found, root = await report.step(
            NOT_ANCHORED, "a root over it, by proof", lambda: checks.anchored(client, view, kept)
        )
        await report.step(NOT_CONSISTENT, "one log", lambda: checks.one_log(kept, found, root))
        await report.tried(NOT_ADMITTED, "not removed", lambda: checks.recorded_admission(view, receipt))
    except _Stop:
        return report, None
    _said(report, receipt)
    _on_chain(report, root)
    told = client.resolver.walk.terms.told
    return report, Bundle(client.network.encode(), told, kept, found) if report.ok else None


async def verify_receipt_bundle(bundle: Bundle, network: Network, terms: Terms | None = None) -> Report:
    """The same from a file alone: 1 its hand-overs; 2 to 5 as 1 to 4 there; 6 the root by the file's proofs; 7 one log.

    ``terms``: those that this client remembers; the file's hand-overs lead on from there. Whether the worker was
    removed after the file's checkpoint, only the chain can say."""
    report, kept, found = Report("receipt"), bundle.kept, bundle.anchor
    try:
        terms = await report.step(HANDOVER_FORK, "one line", lambda: checks.led(terms or pinned(network, 0), bundle))
        receipt = await _alone(report, network, terms, kept, demand=True)
        _, root = await report.step(
            NOT_ANCHORED, "a root over it, by proof", lambda: checks.shown_root(network, terms, kept, found)
        )
        await report.step(NOT_CONSISTENT, "one log", lambda: checks.one_log(kept, found, root))
    except _Stop:
        return report
    _said(report, receipt)
    _on_chain(report, root)
    report.notes.append("checked offline: a worker that was removed since is not noticed")
    return report


def _on_chain(report: Report, root: RootRecord) -> None:
    report.facts |= {"root": to_hex(root.root), "size": root.size, "at_block": root.at_block}
    report.notes.append("whoever changed or hid this receipt would need another log than the one on chain")


async def _alone(report: Report, network: Network, terms: Terms, kept: Kept, *, demand: bool = False) -> Receipt:
    period = Policy.from_json(dict(network.genesis.policy)).network.period_blocks
    receipt = await report.step(MALFORMED, "canonical JSON", lambda: checks.parsed(kept))
    report.subject = f"receipt {to_hex(receipt.id)}"
    await report.step(NOT_LEASED, "t signatures over the lease", lambda: checks.leased(terms, period, kept))
    await report.step(BAD_SIGNATURE, "the seat's fields, the worker's signature", lambda: checks.signed(kept))
    if kept.proof is None and not demand:
        report.notes.append("without a proof that the committee saw it in its worker's log")
    else:
        await report.step(NOT_INCLUDED, "a log signed by q members", lambda: checks.logged(terms, kept))
    return receipt


async def _terms(client: Client, kept: Kept) -> Terms:
    """The terms that the client knows, after a look at newer ones if the receipt names one (spec/gatekeepers.md H3).

    What is wrong with hand-overs is said by the step that needs them."""
    named = [kept.seat.lease.statement, *([kept.proof.statement] if kept.proof else [])]
    with contextlib.suppress(CloisterError):
        await client.resolver.walk.knows(max(getattr(one, "term", 0) for one in named))
    return client.resolver.walk.terms


def _said(report: Report, receipt: Receipt) -> None:
    report.facts |= {"agent": to_hex(receipt.agent), "worker": to_hex(receipt.worker), "status": receipt.status}
    report.notes.append("it proves who signed, on which code and epoch; it does not prove that the answer is true")


async def with_proof(client: Client, kept: Kept) -> Kept:
    """The kept receipt with a proof from the gateway, if a worker has one and it holds; else as it was.

    A gateway may hold a proof back: that is no lie about the receipt. A proof that does not hold is left out too."""
    try:
        proof = LogProof.from_json(await client.gateway.receipt_proof(kept.receipt.id))
        terms = await _terms(client, kept.with_proof(proof))
        proof.verify(kept.receipt, terms.members_of(proof.statement), terms.network)
    except CloisterError:
        return kept
    return kept.with_proof(proof)


def _error(step: Check) -> CloisterError:
    return from_wire({n: getattr(step, n) for n in ("code", "check", "expected", "found", "remedy")})

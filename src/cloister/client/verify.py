"""Verification as a list of numbered steps, for people and for ``cloister verify`` (DESIGN section 1, the auditor).

Every step says what was checked, what was expected and what was found. A report is accepted only if every step is ok;
it stops at the first step without which the following ones mean nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from cloister.chain.abi import BAD_ANSWER
from cloister.chain.headers import fetch_header
from cloister.chain.rpc import quantity
from cloister.client.receipts import Kept
from cloister.client.resolve import NOT_ADMITTED, OTHER_COMMITTEE, View
from cloister.core.attestation.appraise import MEASUREMENT, UNAUTHENTIC, appraise
from cloister.core.attestation.model import Binding, Check, Evidence
from cloister.core.attestation.policy import BAD_POLICY, Policy
from cloister.core.chainview.checkpoints import STALE
from cloister.core.chainview.proofs import MAX_NODE, MAX_NODES, verify_account
from cloister.core.chainview.records import AgentRecord, WorkerRecord
from cloister.core.encoding.hexes import from_hex, need_fields, to_hex
from cloister.core.encoding.network import BAD_NETWORK, Network
from cloister.core.encoding.statements import Lease
from cloister.core.envelope.certificate import NOT_LEASED
from cloister.core.errors import CloisterError, ConfigError, Refusal, define
from cloister.core.policy import manifest as manifests
from cloister.core.policy.release import AGENT_UNKNOWN, PAUSED, WORKER_UNKNOWN
from cloister.core.receipts.receipt import MALFORMED, Admission, Receipt, verify_receipt
from cloister.wire.messages import parse_json

if TYPE_CHECKING:
    from cloister.client.client import Client

T = TypeVar("T")
Found = tuple[T, str]

WRONG_CHAIN = define(
    "client.wrong_chain",
    ConfigError,
    check="the gateway relays to the chain of the pinned network",
    remedy="the gateway belongs to another network: use another one, or another network file",
)
PIN_AGREES = define(
    "client.pin",
    ConfigError,
    check="the gateway serves the network file that is pinned here",
    remedy="the gateway belongs to another network: use another one, or compare fingerprints",
)


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
    6 contracts' code by proof; 7 policy hash by proof; 8 committee and MPK by proof."""
    net = client.network
    report = Report(f"network {to_hex(net.id)}")
    report.facts = {"network": to_hex(net.id), "fingerprint": net.fingerprint(), "mode": net.genesis.mode}
    if net.genesis.mode != "production":
        report.notes.append("a devnet: its hardware is pretended and its roots are its own")
    if net.genesis.header_verifier == "rpc-quorum":
        report.notes.append("finality is judged by a quorum of RPC endpoints, not by a light client")
    try:
        await report.step(PIN_AGREES, net.fingerprint(), lambda: _served(client))
        await report.tried(BAD_POLICY, "vendor roots in production", lambda: _policy(net))
        await report.step(WRONG_CHAIN, f"chain {net.genesis.chain_id}", lambda: _chain_id(client))
        await report.step(WRONG_CHAIN, to_hex(net.genesis.genesis_hash), lambda: _genesis_block(client))
        view = await report.step(STALE, f"{net.founding.threshold} signatures, fresh", lambda: _checkpoint(client))
        for name in sorted(net.genesis.contracts):
            await report.tried(BAD_NETWORK, f"{name} with the pinned code", _each_contract(client, view, name))
        await report.tried(BAD_POLICY, to_hex(net.genesis.policy_hash()), lambda: _policy_hash(client, view))
        await report.tried(OTHER_COMMITTEE, "the pinned committee and MPK", lambda: _committee(client, view))
    except _Stop:
        return report
    report.facts |= {"checkpoint": view.checkpoint.number, "block": to_hex(view.checkpoint.block_hash)}
    return report


async def verify_agent(client: Client, agent: bytes) -> Report:
    """An agent: 1 checkpoint; 2 record by proof; 3 not paused; 4, 5 code and manifest behind their hashes;
    6 the manifest's upgrade rule is the chain's; 7 seats under leases, on admitted workers."""
    report = Report(f"agent {to_hex(agent)}")
    try:
        view = await report.step(STALE, "t signatures, fresh", lambda: _checkpoint(client))
        record = await report.step(AGENT_UNKNOWN, "a record", lambda: _record(view, agent))
        await report.tried(PAUSED, "running", lambda: _running(view, record))
        await report.tried(manifests.BAD_BUNDLE, to_hex(record.code_hash), lambda: _bundle(client, record))
        manifest = await report.tried(
            manifests.BAD_FIELDS, to_hex(record.manifest_hash), lambda: _manifest(client, record)
        )
        if manifest is not None:
            await report.tried(manifests.BAD_UPGRADE, "one rule", lambda: _upgrade(manifest, record))
        await report.tried(NOT_LEASED, "at least one seat", lambda: _seats(client, report, agent))
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
        view = await report.step(STALE, "t signatures, fresh", lambda: _checkpoint(client))
        record = await report.step(WORKER_UNKNOWN, "a live worker", lambda: _admitted(view, worker))
        await report.tried(MEASUREMENT, "listed", lambda: _listed(client, view, record.measurement))
        nonce = client.rng(32)
        shown = await report.step(UNAUTHENTIC, "evidence", lambda: _asked(client, worker, nonce))
        _appraised(client, report, shown, await _measurements(client, view, record.measurement), "worker", nonce)
        await report.tried(NOT_ADMITTED, "the registered boot and address", lambda: _same_node(shown[1], record))
    except _Stop:
        return report
    report.facts |= {"vendor": _vendor(record), "boot": to_hex(record.boot), "expiry": record.expiry}
    report.notes.append("it shows genuine hardware running listed code; assume that any one quote can be forged")
    return report


async def verify_evidence(client: Client, data: bytes, *, role: str = "worker") -> Report:
    """Evidence from a file, under this network's policy; the nonce and the checkpoint in it are not asked for."""
    report = Report("evidence")
    try:
        shown = await report.step(UNAUTHENTIC, "a JSON object {evidence, binding}", lambda: _shown(data))
        view = await report.step(STALE, "t signatures, fresh", lambda: _checkpoint(client))
        listed = await _claimed_measurements(client, view, shown, role)
        _appraised(client, report, shown, listed, role, None)
    except _Stop:
        return report
    report.facts |= {"kind": shown[0].kind, "node": to_hex(shown[1].node), "boot": to_hex(shown[1].boot)}
    return report


async def verify_kept_receipt(client: Client, kept: Kept) -> Report:
    """A receipt: 1 form; 2 certificate under a lease; 3 fields and signature; 4 checkpoint; 5 admission by proof."""
    report = Report("receipt")
    try:
        receipt = await report.step(MALFORMED, "canonical JSON", lambda: _parsed(kept))
        report.subject = f"receipt {to_hex(receipt.id)}"
        await report.step(NOT_LEASED, "t signatures over the lease", lambda: _leased(client, kept))
        await report.step(MALFORMED, "the certificate's fields, the worker's signature", lambda: _signed(kept))
        view = await report.step(STALE, "t signatures, fresh", lambda: _checkpoint(client))
        await report.tried(NOT_ADMITTED, "a worker with this boot", lambda: _receipt_admission(view, receipt))
    except _Stop:
        return report
    report.facts |= {"agent": to_hex(receipt.agent), "worker": to_hex(receipt.worker), "status": receipt.status}
    report.notes.append("it proves who signed, on which code and epoch; it does not prove that the answer is true")
    return report


# --- steps ---


async def _served(client: Client) -> Found[None]:
    served = await client.gateway.network()
    found = Network.parse(served, fingerprint=client.network.fingerprint())
    return None, found.fingerprint()


async def _policy(net: Network) -> Found[Policy]:
    policy = Policy.from_json(dict(net.genesis.policy))
    if policy.mode != net.genesis.mode:
        raise BAD_POLICY(expected=f"a policy for {net.genesis.mode}", found=policy.mode)
    return policy, f"{policy.name} ({policy.mode})"


async def _chain_id(client: Client) -> Found[None]:
    found = quantity(await client.rpc.call("eth_chainId"), "chain id")
    if found != client.network.genesis.chain_id:
        raise WRONG_CHAIN(expected=f"chain {client.network.genesis.chain_id}", found=f"chain {found}")
    return None, f"chain {found}"


async def _genesis_block(client: Client) -> Found[None]:
    header = await fetch_header(client.rpc, 0)
    if header.hash != client.network.genesis.genesis_hash:
        raise WRONG_CHAIN(expected=to_hex(client.network.genesis.genesis_hash), found=to_hex(header.hash))
    return None, to_hex(header.hash)


async def _checkpoint(client: Client) -> Found[View]:
    view = await client.resolver.view()
    age = int(client.clock()) - view.checkpoint.timestamp
    return view, f"block {view.checkpoint.number}, {age} s old"


async def _contract(client: Client, view: View, name: str) -> Found[None]:
    pinned = client.network.genesis.contracts[name]
    answer = await client.rpc.call("eth_getProof", to_hex(pinned.address), [], hex(view.checkpoint.number))
    nodes = answer.get("accountProof") if isinstance(answer, dict) else None
    if not isinstance(nodes, list) or len(nodes) > MAX_NODES:
        raise BAD_ANSWER(expected=f"an account proof of {name}", found=type(nodes).__name__)
    proof = [from_hex(node, name="proof node", max_size=MAX_NODE) for node in nodes]
    account = verify_account(view.checkpoint.state_root, pinned.address, proof)
    if account is None or account.code_hash != pinned.code_hash:
        found = "no account" if account is None else to_hex(account.code_hash)
        raise BAD_NETWORK(expected=f"{name} with {to_hex(pinned.code_hash)}", found=found)
    return None, to_hex(account.code_hash)


def _each_contract(client: Client, view: View, name: str) -> Callable[[], Awaitable[Found[None]]]:
    return lambda: _contract(client, view, name)


async def _policy_hash(client: Client, view: View) -> Found[None]:
    found, pinned = await view.state.policy_hash(), client.network.genesis.policy_hash()
    if found != pinned:
        raise BAD_POLICY(expected=to_hex(pinned), found=to_hex(found))
    return None, to_hex(found)


async def _committee(client: Client, view: View) -> Found[None]:
    committee = await view.state.committee()
    client.resolver.require_same_committee(committee)
    return None, f"term {committee.term}, {committee.threshold} of {len(committee.members)}"


async def _record(view: View, agent: bytes) -> Found[AgentRecord]:
    record = await view.state.agent(agent)
    if record is None:
        raise AGENT_UNKNOWN(expected=f"an agent at block {view.checkpoint.number}", found="none")
    return record, f"token {record.token_id}, epoch {record.epoch}"


async def _running(view: View, record: AgentRecord) -> Found[None]:
    if record.paused or await view.state.newest_paused(record.agent):
        raise PAUSED(expected="a running agent", found="paused")
    return None, "running"


async def _bundle(client: Client, record: AgentRecord) -> Found[None]:
    data = await client.gateway.get_blob(record.code_hash)
    manifests.code_hash(data)
    return None, f"{len(data)} bytes of that hash"


async def _manifest(client: Client, record: AgentRecord) -> Found[manifests.Manifest]:
    data = await client.gateway.get_blob(record.manifest_hash)
    manifest = manifests.parse(data)
    return manifest, f"entry {manifest.entry}, {len(manifest.egress)} hosts, {len(manifest.secrets)} secrets"


async def _upgrade(manifest: manifests.Manifest, record: AgentRecord) -> Found[None]:
    rules = {0: 0, 1: record.upgrade_delay, 2: None}
    on_chain = rules[int(record.upgrade_mode)]
    if manifest.upgrade_delay != on_chain:
        raise manifests.BAD_UPGRADE(expected=f"{on_chain} blocks, as on chain", found=f"{manifest.upgrade_delay}")
    return None, record.upgrade_mode.name.lower()


async def _seats(client: Client, report: Report, agent: bytes) -> Found[None]:
    found = (await client.resolver.resolve(agent, again=True)).sittings
    report.facts["seats"] = [{"worker": to_hex(s.worker.worker), "vendor": s.vendor} for s in found]
    return None, ", ".join(f"{s.vendor} {to_hex(s.worker.worker)}" for s in found)


async def _admitted(view: View, worker: bytes) -> Found[WorkerRecord]:
    record = await view.state.worker(worker)
    if record is None or not record.live_at(view.checkpoint.number):
        found = "never registered" if record is None else f"registered until block {record.expiry}, or gone"
        raise WORKER_UNKNOWN(expected=f"a live worker at block {view.checkpoint.number}", found=found)
    return record, f"{_vendor(record)}, until block {record.expiry}"


async def _listed(client: Client, view: View, measurement: bytes) -> Found[None]:
    policy, listed = await view.state.policy(), await view.state.listed_at(measurement)
    if not policy.counts(listed, client.resolver.parameters.measurement_delay, view.checkpoint.number):
        raise MEASUREMENT(expected="a listed measurement whose delay is over", found=to_hex(measurement))
    return None, f"listed at block {listed}"


async def _measurements(client: Client, view: View, measurement: bytes) -> frozenset[bytes]:
    policy, listed = await view.state.policy(), await view.state.listed_at(measurement)
    delay = client.resolver.parameters.measurement_delay
    return frozenset({measurement} if policy.counts(listed, delay, view.checkpoint.number) else ())


async def _claimed_measurements(
    client: Client, view: View, shown: tuple[Evidence, Binding], role: str
) -> frozenset[bytes]:
    """Of the measurement that this evidence claims: listed or not. Asked by a first appraisal that only collects it."""
    seen: list[bytes] = []
    _verdict(client, shown, seen.append, role, None)
    return await _measurements(client, view, seen[0]) if seen else frozenset()


async def _asked(client: Client, worker: bytes, nonce: bytes) -> Found[tuple[Evidence, Binding]]:
    answer = await client.gateway.evidence(worker, nonce)
    data = need_fields("evidence answer", answer, {"evidence", "binding"})
    evidence = Evidence.from_json(data["evidence"])
    return (evidence, Binding.from_json(data["binding"])), f"{evidence.kind}, {len(evidence.blob)} bytes"


async def _shown(data: bytes) -> Found[tuple[Evidence, Binding]]:
    value = need_fields("evidence file", parse_json(data), {"evidence", "binding"})
    evidence = Evidence.from_json(value["evidence"])
    return (evidence, Binding.from_json(value["binding"])), f"{evidence.kind}, {len(evidence.blob)} bytes"


async def _same_node(binding: Binding, record: WorkerRecord) -> Found[None]:
    if (binding.node, binding.boot) != (record.worker, record.boot):
        raise NOT_ADMITTED(
            expected=f"{to_hex(record.worker)}, its boot", found=f"{to_hex(binding.node)} or another boot"
        )
    return None, to_hex(binding.node)


async def _parsed(kept: Kept) -> Found[Receipt]:
    receipt = kept.receipt
    return receipt, f"receipt {receipt.seq} of its boot, status {receipt.status}"


async def _leased(client: Client, kept: Kept) -> Found[None]:
    """The seat as it was when the answer came: expiry is judged at the receipt's height, not now."""
    receipt = kept.receipt
    kept.seat.verify(client.network.founding, client.network.id, receipt.checkpoint)
    return None, f"lease until block {kept.seat.certificate.expiry}"


async def _signed(kept: Kept) -> Found[None]:
    lease = kept.seat.lease.statement
    if not isinstance(lease, Lease):
        raise NOT_LEASED(expected="a lease", found=lease.NAME)
    receipt = verify_receipt(kept.raw, kept.signature, kept.seat.certificate, Admission.of_lease(lease), None)
    return None, f"signed by {to_hex(receipt.worker)}"


async def _receipt_admission(view: View, receipt: Receipt) -> Found[None]:
    record = await view.state.worker(receipt.worker)
    if record is None:
        raise WORKER_UNKNOWN(expected="a registered worker", found="never registered")
    admission = Admission(record.worker, record.boot, record.expiry, record.removed)
    if admission.removed or admission.boot != receipt.boot or receipt.checkpoint >= admission.expiry:
        raise NOT_ADMITTED(
            expected=f"boot {to_hex(receipt.boot)[:18]}… at block {receipt.checkpoint}",
            found="removed" if admission.removed else f"boot {to_hex(admission.boot)[:18]}…, until {admission.expiry}",
        )
    return None, f"{_vendor(record)}, until block {record.expiry}"


def _appraised(
    client: Client,
    report: Report,
    shown: tuple[Evidence, Binding],
    listed: frozenset[bytes],
    role: str,
    nonce: bytes | None,
) -> None:
    report.append(_verdict(client, shown, listed, role, nonce).checks)


def _verdict(client: Client, shown: tuple[Evidence, Binding], listed: Any, role: str, nonce: bytes | None) -> Any:
    return appraise(
        shown[0],
        shown[1],
        policy=client.resolver.policy,
        now=int(client.clock()),
        network=client.network.id,
        role=role,
        measurements=listed,
        checkpoints=None,
        nonce=nonce,
    )


def _vendor(record: WorkerRecord) -> str:
    return record.vendor_class.rstrip(b"\0").decode("ascii", "replace")


def _error(step: Check) -> CloisterError:
    from cloister.core.errors import from_wire

    return from_wire({n: getattr(step, n) for n in ("code", "check", "expected", "found", "remedy")})

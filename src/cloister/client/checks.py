"""The single checks behind ``cloister verify``: each returns (value, what was found) or raises the refusal.

``verify.py`` puts them in order. They use the same resolver as calls do: what is checked here is what calls rely on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from cloister.chain.abi import BAD_ANSWER
from cloister.chain.headers import fetch_header
from cloister.chain.rpc import quantity
from cloister.client.anchored import Anchor, Bundle, anchor, require_one_log
from cloister.client.receipts import Kept
from cloister.client.resolve import NOT_ADMITTED, Sitting, View
from cloister.core.attestation.appraise import MEASUREMENT, Listed, appraise
from cloister.core.attestation.model import Binding, Evidence, Verdict
from cloister.core.attestation.policy import Policy
from cloister.core.chainview.logged import RootRecord
from cloister.core.chainview.proofs import MAX_NODE, MAX_NODES, verify_account
from cloister.core.chainview.records import AgentRecord, WorkerRecord
from cloister.core.chainview.terms import Terms, follow
from cloister.core.encoding.hexes import from_hex, need_fields, to_hex
from cloister.core.encoding.network import Network
from cloister.core.encoding.statements import Lease
from cloister.core.envelope.certificate import NOT_LEASED
from cloister.core.errors import ChainViewError, ConfigError, PolicyError, define
from cloister.core.policy import manifest as manifests
from cloister.core.policy.committee import BAD_POLICY
from cloister.core.policy.refusals import AGENT_UNKNOWN, PAUSED, WORKER_UNKNOWN
from cloister.core.receipts.merkle import NOT_INCLUDED
from cloister.core.receipts.receipt import Receipt
from cloister.core.receipts.verify import Admission, verify_receipt

if TYPE_CHECKING:
    from cloister.client.client import Client

T = TypeVar("T")
Found = tuple[T, str]
Shown = tuple[Evidence, Binding]
_EVER = 1 << 53

WRONG_CHAIN = define(
    "client.wrong_chain",
    ConfigError,
    check="the gateway relays to the chain of the pinned network",
    remedy="the gateway belongs to another network: use another one, or another network file",
)
GENESIS_BLOCK = define(
    "client.genesis_block",
    ConfigError,
    check="the chain's first block is the one that the network file names",
    remedy="the gateway belongs to another network: use another one, or another network file",
)
CONTRACT_CODE = define(
    "client.contract_code",
    ChainViewError,
    check="a contract has the pinned code, by proof",
    remedy="compare network.json with the network that you mean",
)
POLICY_IN_FORCE = define(
    "client.policy_in_force",
    ChainViewError,
    check="the policy in force is the one in the network file, by proof",
    remedy="the network changed its policy; read the new one before you go on",
)
BUNDLE = define(
    "client.bundle",
    PolicyError,
    check="the code behind the agent's code hash is there",
    remedy="ask the agent's owner for the bundle, or another gateway",
)
MANIFEST = define(
    "client.manifest",
    PolicyError,
    check="the manifest behind the agent's manifest hash is there and valid",
    remedy="ask the agent's owner for the manifest, or another gateway",
)
UPGRADE_RULE = define(
    "client.upgrade_rule",
    PolicyError,
    check="the manifest says the upgrade rule that the chain enforces",
    remedy="the chain's rule counts; the owner made it stricter after the manifest was written, or misleads",
)
PIN_AGREES = define(
    "client.pin",
    ConfigError,
    check="the gateway serves the network file that is pinned here",
    remedy="the gateway belongs to another network: use another one, or compare fingerprints",
)


async def served(client: Client) -> Found[None]:
    """The gateway serves the pinned file."""
    served = await client.gateway.network()
    found = Network.parse(served, fingerprint=client.network.fingerprint())
    return None, found.fingerprint()


async def policy(net: Network) -> Found[Policy]:
    """The pinned policy parses and fits the network's mode; in production it holds vendor roots only."""
    policy = Policy.from_json(dict(net.genesis.policy))
    if policy.mode != net.genesis.mode:
        raise BAD_POLICY(expected=f"a policy for {net.genesis.mode}", found=policy.mode)
    return policy, f"{policy.name} ({policy.mode})"


async def chain_id(client: Client) -> Found[None]:
    """The relay answers for the pinned chain id."""
    found = quantity(await client.rpc.call("eth_chainId"), "chain id")
    if found != client.network.genesis.chain_id:
        raise WRONG_CHAIN(expected=f"chain {client.network.genesis.chain_id}", found=f"chain {found}")
    return None, f"chain {found}"


async def genesis_block(client: Client) -> Found[None]:
    """The relay's block 0 has the pinned hash, and its header hashes to it."""
    header = await fetch_header(client.rpc, 0)
    if header.hash != client.network.genesis.genesis_hash:
        raise GENESIS_BLOCK(expected=to_hex(client.network.genesis.genesis_hash), found=to_hex(header.hash))
    return None, to_hex(header.hash)


async def checkpoint(client: Client) -> Found[View]:
    """A checkpoint that counts now."""
    view = await client.resolver.view()
    age = int(client.clock()) - view.checkpoint.timestamp
    return view, f"block {view.checkpoint.number}, {age} s old"


async def contract(client: Client, view: View, name: str) -> Found[None]:
    """One contract's code hash by account proof."""
    pinned = client.network.genesis.contracts[name]
    answer = await client.rpc.call("eth_getProof", to_hex(pinned.address), [], hex(view.checkpoint.number))
    nodes = answer.get("accountProof") if isinstance(answer, dict) else None
    if not isinstance(nodes, list) or len(nodes) > MAX_NODES:
        raise BAD_ANSWER(expected=f"an account proof of {name}", found=type(nodes).__name__)
    proof = [from_hex(node, name="proof node", max_size=MAX_NODE) for node in nodes]
    account = verify_account(view.checkpoint.state_root, pinned.address, proof)
    if account is None or account.code_hash != pinned.code_hash:
        found = "no account" if account is None else to_hex(account.code_hash)
        raise CONTRACT_CODE(expected=f"{name} with {to_hex(pinned.code_hash)}", found=found)
    return None, f"{name} {to_hex(pinned.address)}"


def each_contract(client: Client, view: View, name: str) -> Callable[[], Awaitable[Found[None]]]:
    """``contract`` with its name bound, for a loop."""
    return lambda: contract(client, view, name)


async def policy_hash(client: Client, view: View) -> Found[None]:
    """The hash of the policy in force by storage proof."""
    found, pinned = await view.state.policy_hash(), client.network.genesis.policy_hash()
    if found != pinned:
        raise POLICY_IN_FORCE(expected=to_hex(pinned), found=to_hex(found))
    return None, to_hex(found)


async def committee(client: Client, view: View) -> Found[None]:
    """The committee and MPK in office by storage proof."""
    committee, master = await client.resolver.committee(view)
    size = f"{committee.threshold} of {len(committee.members)}"
    return None, f"term {committee.term}, {size}, master epoch {master.epoch}"


async def vendors(client: Client, view: View) -> Found[None]:
    """The vendors behind the committee's seats by storage proof, under the pinned policy."""
    rules = client.resolver.policy.committee
    await view.state.require_diverse(rules)
    return None, f"at least {rules.min_vendors}, none with a share that policy refuses"


async def record(view: View, agent: bytes) -> Found[AgentRecord]:
    """An agent's record by storage proof."""
    record = await view.state.agent(agent)
    if record is None:
        raise AGENT_UNKNOWN(expected=f"an agent at block {view.checkpoint.number}", found="none")
    return record, f"token {record.token_id}, epoch {record.epoch}"


async def running(view: View, record: AgentRecord) -> Found[None]:
    """Not paused at the checkpoint, nor at the newest block."""
    if record.paused or await view.state.newest_paused(record.agent):
        raise PAUSED(expected="a running agent", found="paused")
    return None, "running"


async def bundle(client: Client, record: AgentRecord) -> Found[None]:
    """The bundle behind the code hash."""
    data = await client.gateway.get_blob(record.code_hash)
    manifests.code_hash(data)
    return None, f"{len(data)} bytes of that hash"


async def manifest(client: Client, record: AgentRecord) -> Found[manifests.Manifest]:
    """The manifest behind its hash, parsed."""
    data = await client.gateway.get_blob(record.manifest_hash)
    manifest = manifests.parse(data)
    return manifest, f"entry {manifest.entry}, {len(manifest.egress)} hosts, {len(manifest.secrets)} secrets"


async def upgrade(manifest: manifests.Manifest, record: AgentRecord) -> Found[None]:
    """The manifest and the chain have one upgrade rule."""
    rules = {0: 0, 1: record.upgrade_delay, 2: None}
    on_chain = rules[int(record.upgrade_mode)]
    if manifest.upgrade_delay != on_chain:
        raise UPGRADE_RULE(expected=f"{on_chain} blocks, as on chain", found=f"{manifest.upgrade_delay}")
    return None, record.upgrade_mode.name.lower()


async def seats(client: Client, agent: bytes) -> Found[tuple[Sitting, ...]]:
    """Verified seats of an agent."""
    found = (await client.resolver.resolve(agent, again=True)).sittings
    return found, ", ".join(f"{s.vendor} {to_hex(s.worker.worker)}" for s in found)


async def admitted(view: View, worker: bytes) -> Found[WorkerRecord]:
    """A worker's record by storage proof, live."""
    record = await view.state.worker(worker)
    if record is None or not record.live_at(view.checkpoint.number):
        found = "never registered" if record is None else f"registered until block {record.expiry}, or gone"
        raise WORKER_UNKNOWN(expected=f"a live worker at block {view.checkpoint.number}", found=found)
    return record, f"{vendor(record)}, until block {record.expiry}"


async def listed(client: Client, view: View, measurement: bytes) -> Found[None]:
    """A measurement is listed and its delay is over."""
    policy, listed = await view.state.policy(), await view.state.listed_at(measurement)
    if not policy.counts(listed, client.resolver.parameters.measurement_delay, view.checkpoint.number):
        raise MEASUREMENT(expected="a listed measurement whose delay is over", found=to_hex(measurement))
    return None, f"listed at block {listed}"


async def measurements(client: Client, view: View, measurement: bytes) -> frozenset[bytes]:
    """The measurement as a set if it counts now, else the empty set."""
    policy, listed = await view.state.policy(), await view.state.listed_at(measurement)
    delay = client.resolver.parameters.measurement_delay
    return frozenset({measurement} if policy.counts(listed, delay, view.checkpoint.number) else ())


async def asked(client: Client, worker: bytes, nonce: bytes) -> Found[Shown]:
    """Fresh evidence of a worker over our nonce, unverified."""
    answer = await client.gateway.evidence(worker, nonce)
    data = need_fields("evidence answer", answer, {"evidence", "binding"})
    evidence = Evidence.from_json(data["evidence"])
    return (evidence, Binding.from_json(data["binding"])), f"{evidence.kind}, {len(evidence.blob)} bytes"


async def same_node(binding: Binding, record: WorkerRecord) -> Found[None]:
    """The evidence is of the registered worker and boot."""
    if (binding.node, binding.boot) != (record.worker, record.boot):
        raise NOT_ADMITTED(
            expected=f"{to_hex(record.worker)}, its boot", found=f"{to_hex(binding.node)} or another boot"
        )
    return None, to_hex(binding.node)


async def parsed(kept: Kept) -> Found[Receipt]:
    """A kept receipt in canonical form."""
    receipt = kept.receipt
    return receipt, f"receipt {receipt.seq} of its boot, status {receipt.status}"


async def leased(terms: Terms, period_blocks: int, kept: Kept) -> Found[None]:
    """The seat as it was when the answer came: expiry is judged at the receipt's height, not now."""
    signers = terms.lessors(kept.seat.lease.statement, period_blocks)
    kept.seat.verify(signers, terms.network, kept.receipt.checkpoint)
    return None, f"lease until block {kept.seat.certificate.expiry}"


async def signed(kept: Kept) -> Found[None]:
    """The receipt's fields are the certificate's, and the worker signed it."""
    lease = kept.seat.lease.statement
    if not isinstance(lease, Lease):
        raise NOT_LEASED(expected="a lease", found=lease.NAME)
    receipt = verify_receipt(
        kept.raw, kept.signature, kept.seat.certificate, Admission.of_lease(lease), None, kept.batch
    )
    return None, f"signed by {to_hex(receipt.worker)}"


async def logged(terms: Terms, kept: Kept) -> Found[None]:
    """The saved proof: the committee saw the receipt in its worker's log."""
    if kept.proof is None:
        raise NOT_INCLUDED(expected="a saved proof", found="none")
    kept.proof.verify(kept.receipt, terms.members_of(kept.proof.statement), terms.network)
    return None, f"number {kept.proof.index} in a log of {kept.proof.statement.size}"


async def anchored(client: Client, view: View, kept: Kept) -> Found[tuple[Anchor, RootRecord]]:
    """A root of the receipt's log in the Receipts contract, by proof. What was recorded is proven once more by itself,
    as whoever gets the file will do."""
    found = await anchor(client, view, kept)
    return await shown_root(client.network, client.resolver.walk.terms, kept, found)


async def shown_root(network: Network, terms: Terms, kept: Kept, found: Anchor) -> Found[tuple[Anchor, RootRecord]]:
    """The root that an anchor's proofs lead to."""
    root = await found.root(network, terms, kept.receipt.worker)
    number = getattr(found.checkpoint.statement, "number", 0)
    return (found, root), f"root {found.index} of {root.size} receipts, since block {root.at_block}, at block {number}"


async def led(terms: Terms, bundle: Bundle) -> Found[Terms]:
    """The terms that a file's hand-overs lead to, from those that are known. Their age does not matter here: what is
    proven is that something was so, not that it is."""
    said = int(getattr(bundle.anchor.checkpoint.statement, "timestamp", 0))
    found = follow(terms, bundle.handovers, max(terms.in_office.seen, said), _EVER)
    return found, f"term {found.in_office.signers.term}"


async def one_log(kept: Kept, found: Anchor, root: RootRecord) -> Found[None]:
    """The root and the witnessed head are of one log, and the root covers the receipt."""
    if kept.proof is None:
        raise NOT_INCLUDED(expected="a saved proof", found="none")
    require_one_log(kept.proof, root, found.path)
    return None, f"{kept.proof.statement.size} receipts witnessed, {root.size} on chain"


async def recorded_admission(view: View, receipt: Receipt) -> Found[None]:
    """Not removed, by storage proof. That it had this boot, the contract saw when it took the root."""
    record = await view.state.worker(receipt.worker)
    if record is None:
        raise WORKER_UNKNOWN(expected="a registered worker", found="never registered")
    if record.boot == receipt.boot:
        return await receipt_admission(view, receipt)
    if record.removed:
        raise NOT_ADMITTED(expected="a worker that was not removed", found="removed")
    return None, f"{vendor(record)}, an earlier boot"


async def receipt_admission(view: View, receipt: Receipt) -> Found[None]:
    """The receipt's worker by storage proof: this boot, not removed, not expired at the receipt's height."""
    record = await view.state.worker(receipt.worker)
    if record is None:
        raise WORKER_UNKNOWN(expected="a registered worker", found="never registered")
    admission = Admission(record.worker, record.boot, record.expiry, record.removed)
    if admission.removed or admission.boot != receipt.boot or receipt.checkpoint >= admission.expiry:
        raise NOT_ADMITTED(
            expected=f"boot {to_hex(receipt.boot)[:18]}… at block {receipt.checkpoint}",
            found="removed" if admission.removed else f"boot {to_hex(admission.boot)[:18]}…, until {admission.expiry}",
        )
    return None, f"{vendor(record)}, until block {record.expiry}"


def verdict(client: Client, shown: Shown, measurements: Listed, role: str, nonce: bytes | None) -> Verdict:
    """The appraisal's verdict under this network's policy."""
    return appraise(
        shown[0],
        shown[1],
        policy=client.resolver.policy,
        now=int(client.clock()),
        network=client.network.id,
        role=role,
        measurements=measurements,
        checkpoints=None,
        nonce=nonce,
    )


def vendor(record: WorkerRecord) -> str:
    """Vendor class of a worker for people."""
    return record.vendor_class.rstrip(b"\0").decode("ascii", "replace")

"""``cloister verify evidence`` and ``cloister evidence detect | collect``: hardware evidence, with no network needed.

Exit codes of ``verify evidence``: 0 accepted, 1 rejected, 2 nothing to judge (no such file, no known form).
"""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloister.cli.options import AsJson
from cloister.cli.output import print_error, print_facts, print_json, print_rows, print_steps, progress, say
from cloister.cli.running import REFUSED, command
from cloister.cli.settings import Settings, settings_of
from cloister.core.errors import CloisterError, ConfigError, define

if TYPE_CHECKING:
    from cloister.core.attestation.intake import Intake
    from cloister.core.attestation.model import Verdict
    from cloister.core.attestation.policy import Policy

app = typer.Typer(help="This machine's own hardware evidence.", no_args_is_help=True)
UNUSABLE = 2
MAX_FILE = 2 << 20
DEFAULT_POLICY = "cloud"

BAD_OPTION = define(
    "cli.evidence_option",
    ConfigError,
    check="the options of the command say what to expect in a form that it reads",
    remedy="give times as 2026-01-31T12:00:00Z, bytes as hex, and a policy as a name or a JSON file",
)


def register(verify: typer.Typer) -> None:
    """Add ``evidence`` to the verify commands."""
    command(verify, "evidence")(evidence)


async def evidence(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Raw bytes, hex, base64 or JSON.")],
    kind: Annotated[str | None, typer.Option(help="Kind of the evidence; told by content without it.")] = None,
    collateral: Annotated[
        list[Path] | None, typer.Option(help="Collateral, certificate, CRL, log or manifest; repeatable.")
    ] = None,
    policy: Annotated[str, typer.Option(help="strict, cloud, devnet, or a policy or network file.")] = DEFAULT_POLICY,
    at: Annotated[str | None, typer.Option(help="Judge as of this time (ISO 8601), not now.", metavar="TIME")] = None,
    nonce: Annotated[str | None, typer.Option(help="Nonce that the evidence must answer.", metavar="HEX")] = None,
    expect_report_data: Annotated[
        str | None, typer.Option(help="Report data that the evidence must hold.", metavar="HEX")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Evidence from a file against a policy: authentic, fresh, patched, without debug; no network is asked."""
    from cloister.core.attestation.examine import examine_bundle

    try:
        taken = _read(file, collateral or [], kind)
        chosen, now = _policy(policy, settings_of(context)), _time(at)
        expected = {"report_data": _hex("report data", expect_report_data), "nonce": _hex("nonce", nonce)}
        verdict = examine_bundle(
            taken.evidence, taken.devices, policy=chosen, now=now, binding=taken.binding, **expected
        )
    except CloisterError as error:
        print_error(error)
        raise typer.Exit(UNUSABLE) from None
    _show(taken, verdict, as_json)
    if not verdict.accepted:
        raise typer.Exit(REFUSED)


@command(app, "detect")
async def detect(as_json: AsJson = False) -> None:
    """Every kind of TEE that this machine could have: found, or why not."""
    from cloister.evidence.detect import MachineConfig, survey

    with progress("looking for hardware"):
        findings = survey(MachineConfig.everywhere())
    rows = [
        {"place": f.place, "kind": f.tee.kind if f.tee else None, "found": f.tee is not None, "reason": f.reason}
        for f in findings
    ]
    print_rows(rows, ("place", "kind", "reason"), as_json=as_json, empty="no places to look at")
    if not any(row["found"] for row in rows):
        raise typer.Exit(REFUSED)


@command(app, "collect")
async def collect(
    out: Annotated[Path, typer.Option(help="File to write; it must not exist.")],
    report_data: Annotated[str | None, typer.Option(help="64 bytes to commit to; zeros without it.")] = None,
    machine: Annotated[Path | None, typer.Option(help="JSON file with the places of the hardware.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no vendor service for collateral.")] = False,
    pccs: Annotated[str | None, typer.Option(help="Address of a PCCS instead of Intel's PCS.", metavar="URL")] = None,
    devices: Annotated[
        list[str] | None, typer.Option("--device", help="Devices beside the CPU: gpu, nvswitch; repeatable.")
    ] = None,
    nonce: Annotated[
        str | None, typer.Option(help="With --device: the verifier's nonce, 32 bytes.", metavar="HEX")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fresh evidence of this machine with all that a later check without a network needs, in one file."""
    from cloister.client.home import read_file
    from cloister.evidence.collect import collect as gather
    from cloister.evidence.collect import collect_bound, own_binding
    from cloister.evidence.detect import MachineConfig

    config = MachineConfig.everywhere()
    if machine:
        config = MachineConfig.from_json(_json(read_file(machine), "places of hardware"))
    sorts = _sorts(devices or [], report_data, nonce)
    data = (_hex("report data", report_data) or b"").ljust(64, b"\0")
    with progress("asking the hardware, then the vendor"):
        if sorts:
            binding = own_binding(_hex("nonce", nonce) or bytes(32))
            bundle = await collect_bound(config, binding, sorts, offline=offline, pccs=pccs)
        else:
            bundle = await gather(config, data, offline=offline, pccs=pccs)
    try:
        with out.open("xb") as file:
            file.write(bundle.encode())
    except OSError as error:
        raise BAD_OPTION(expected=f"{out} to be a new file", found=error.strerror or "an error") from None
    facts: dict[str, Any] = {"file": str(out), "kind": bundle.evidence.kind, "parts": sorted(bundle.evidence.aux)}
    facts |= {"devices": len(bundle.devices)} if bundle.devices else {}
    print_facts({**facts, "collected_at": bundle.collected_at}, as_json=as_json)


def _sorts(devices: list[str], report_data: str | None, nonce: str | None) -> list[str]:
    """The sorts of devices, each once: their binding takes the report data's place, and carries the nonce."""
    if not set(devices) <= {"gpu", "nvswitch"}:
        raise BAD_OPTION(expected="--device gpu or nvswitch", found=", ".join(devices)[:64])
    if devices and report_data is not None:
        raise BAD_OPTION(expected="--nonce beside --device: the report data names the devices", found="--report-data")
    if nonce is not None and not devices:
        raise BAD_OPTION(expected="--report-data to commit to something without --device", found="--nonce")
    return list(dict.fromkeys(devices))


def _read(file: Path, collateral: list[Path], kind: str | None) -> Intake:
    from cloister.client.home import read_file
    from cloister.core.attestation.intake import read

    return read(read_file(file, MAX_FILE), [read_file(one, MAX_FILE) for one in collateral], kind)


def _policy(name: str, settings: Settings) -> Policy:
    """A shipped policy, a policy file, or the policy of a network file; "devnet" is the network of this machine."""
    from cloister.client.home import read_file
    from cloister.core.attestation.policy import SHIPPED, Policy, shipped

    if name in SHIPPED:
        return shipped(name)
    if name == "devnet":
        own = settings.devnet.get("network_file")
        if not isinstance(own, str):
            raise BAD_OPTION(expected="a devnet that runs on this machine", found="none")
        name = own
    value = _json(read_file(Path(name)), "a policy")
    inner = value.get("genesis", value) if isinstance(value, dict) else value
    return Policy.from_json(inner.get("policy", inner) if isinstance(inner, dict) else inner)


def _json(data: bytes, what: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise BAD_OPTION(expected=f"{what} in JSON", found="something else") from None


def _time(text: str | None) -> int:
    if text is None:
        return int(time.time())
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise BAD_OPTION(expected="a time in ISO 8601", found=text[:64]) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp())


def _hex(name: str, text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise BAD_OPTION(expected=f"{name} in hex", found=text[:32]) from None


def _show(taken: Intake, verdict: Verdict, as_json: bool) -> None:
    from cloister.core.attestation.intake import claims_json

    claims: dict[str, Any] = claims_json(verdict.claims) if verdict.claims else {}
    checks = [check.to_json() for check in verdict.checks]
    word = "accept" if verdict.accepted else "reject"
    if as_json:
        print_json({"verdict": word, "kind": taken.evidence.kind, "claims": claims, "checks": checks})
        return
    print_steps(checks, as_json=False)
    short = {name: value for name, value in claims.items() if name not in ("measurements", "details")}
    facts = {"verdict": word, "kind": taken.evidence.kind, **short, **claims.get("measurements", {})}
    print_facts(facts, as_json=False)
    if first := next((check for check in verdict.checks if not check.ok), None):
        say(f"hint: {first.remedy}")

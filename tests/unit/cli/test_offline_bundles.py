"""One file per machine: collected against emulations, judged with the network cut, refused by name if it is not whole.

The producers are the real ones; below them stand a kernel interface, a socket or a program that this file plays.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cbor2
import pytest
from typer.testing import Result

from cloister.core.attestation import dstack as dstack_kind
from cloister.core.attestation.policy import Policy, devnet
from cloister.core.attestation.roots import Roots
from cloister.evidence import dstack, gramine
from cloister.evidence.azure import AzureVm
from cloister.evidence.collateral import CollateralSource
from cloister.evidence.collect import Bundle, collect, collect_bound, own_binding
from cloister.evidence.configfs_tsm import ConfigfsTsm
from cloister.evidence.detect import MachineConfig
from cloister.evidence.gramine import Gramine
from cloister.evidence.nitro import Nitro
from cloister.evidence.nvidia import NvidiaDevices
from cloister.evidence.tee import Tee
from cloister.evidence.tpm2 import PCRS, Tpm2
from support.azure_kit import azure_evidence
from support.azure_vm import Imds, vtpm_of
from support.hardware import MEASUREMENT, NOW, chip, collateral, instance, platform, roots
from support.intel_kit import dstack_evidence, runtime_event, sgx_body, sgx_collateral, sgx_quote, tdx_quote
from support.nvidia_kit import Device, nvidia_roots, printed_by
from support.ocsp_kit import answers, pairs_of
from support.tpm_kit import machine as soft_tpm
from support.tpm_kit import public_area, tpm_evidence, tpm_roots

Run = Callable[..., Result]
AT = "2025-06-15T15:06:40Z"  # NOW
REPORT = bytes(range(64))
KINDS = ("tdx", "snp", "nitro", "sgx", "dstack", "azure-snp", "azure-tdx", "tpm")


class Vendors:
    """Every vendor's services, pretended."""

    async def aux(self, kind: str, blob: bytes) -> dict[str, bytes]:
        """Collateral by kind."""
        if kind in ("tdx", "dstack"):
            return {"collateral": collateral()}
        known: dict[str, dict[str, bytes]] = {
            "sgx": {"collateral": sgx_collateral()},
            "snp": dict(chip().certificates),
            "tpm": {"ak_chain": tpm_evidence().aux["ak_chain"]},
        }
        return known.get(kind, {})


class Reports:
    """configfs-tsm of one machine."""

    def __init__(self, kind: str) -> None:
        self.kind, self.data, self.generation = kind, b"", 0

    def mkdir(self, name: str) -> None:
        self.data = b""

    def rmdir(self, name: str) -> None:
        self.data = b""

    def write(self, name: str, attribute: str, data: bytes) -> None:
        self.data, self.generation = data, self.generation + 1

    def read(self, name: str, attribute: str) -> bytes:
        if attribute == "outblob":
            machine = platform() if self.kind == "tdx" else chip()
            return (
                machine.quote(MEASUREMENT, self.data) if self.kind == "tdx" else chip().report(MEASUREMENT, self.data)
            )
        provider = {"tdx": b"tdx_guest", "snp": b"sev_guest"}[self.kind]
        return {"generation": str(self.generation).encode(), "provider": provider, "auxblob": b""}[attribute]


class Tools:
    """tpm2-tools' answers, by the pretend TPM whose key has a certificate."""

    def create_attestation_key(self) -> bytes:
        return public_area(soft_tpm().ak)

    def quote(self, qualifying: bytes, pcrs: tuple[int, ...]) -> tuple[bytes, bytes, bytes]:
        tpm = soft_tpm()
        message = tpm.message(qualifying, pcrs)
        return message, tpm.sign(message), tpm.values(pcrs)


def _nsm(raw: bytes) -> bytes:
    data = cbor2.loads(raw)["Attestation"]["user_data"]
    document = instance().document({0: MEASUREMENT, 4: b"\x04" * 48}, NOW, user_data=data)
    return cbor2.dumps({"Attestation": {"document": document}})


def _agent(path: Path, method: str, request: dict[str, Any]) -> dict[str, Any]:
    names = [("app-id", b"a" * 20), ("compose-hash", b"c" * 32), ("boot-mr-done", b"")]
    made = dstack_evidence([runtime_event(name, payload) for name, payload in names])
    rtmrs = dstack_kind.replay(dstack_kind.parse(made.aux["event_log"]))
    quote = tdx_quote(rtmrs, bytes.fromhex(request["report_data"]))
    return {"quote": quote.hex(), "event_log": made.aux["event_log"].decode()}


def _enclave(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = folder / "attestation"
    root.mkdir()
    for name, text in (("attestation_type", "dcap\n"), ("user_report_data", "")):
        (root / name).write_text(text)
    write = gramine._write

    def written(path: Path, data: bytes) -> None:
        write(path, data)
        (root / "quote").write_bytes(sgx_quote(sgx_body(path.read_bytes())))

    monkeypatch.setattr(gramine, "_write", written)
    return root


@contextmanager
def opened(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Tee]]:
    """Opens the machine of a kind, as ``detect.open_tee`` would."""
    if kind.startswith("azure-"):
        model = azure_evidence(kind)
        with Imds.of(model).serving() as imds:
            yield lambda _, source: AzureVm(kind, vtpm_of(model), imds.metadata(), source)
        return
    monkeypatch.setattr(dstack, "ask", _agent)
    made: dict[str, Callable[[CollateralSource], Tee]] = {
        "tdx": lambda source: ConfigfsTsm("tdx", Reports("tdx"), source),
        "snp": lambda source: ConfigfsTsm("snp", Reports("snp"), source),
        "nitro": lambda _: Nitro(_nsm),
        "sgx": lambda source: Gramine(_enclave(folder, monkeypatch), source),
        "dstack": lambda source: dstack.Dstack(folder, source),
        "tpm": lambda source: Tpm2(Tools(), source, pcrs=PCRS),  # type: ignore[arg-type]
    }
    yield lambda _, source: made[kind](source)


def bundle_of(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch, report: bytes = REPORT) -> Bundle:
    with opened(kind, folder, monkeypatch) as opener, monkeypatch.context() as patch:
        patch.setattr("cloister.evidence.collect.open_tee", opener)
        return asyncio.run(collect(MachineConfig(), report, vendor=Vendors(), log=folder / "none", clock=lambda: NOW))


def policy_file(folder: Path) -> str:
    """A devnet's policy under every pretend root."""
    prints = {**roots().fingerprints, **nvidia_roots().fingerprints, **tpm_roots().fingerprints}
    path = folder / "policy.json"
    path.write_text(json.dumps(_lenient(devnet(Roots(prints))).to_json()))
    return str(path)


def _lenient(policy: Policy) -> Policy:
    """Pretend machines of every generation."""
    return Policy.from_json(policy.to_json() | {"refused_generations": []})


@pytest.fixture
def judge(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Judges a bundle's JSON with the network cut: exit code, and the code of what was refused ("" if nothing)."""
    rules = policy_file(tmp_path)

    def judged(value: dict[str, Any], report: bytes | None = REPORT, *more: str) -> tuple[int, str]:
        path = tmp_path / "bundle.json"
        path.write_text(json.dumps(value))
        words = ["verify", "evidence", str(path), "--policy", rules, "--at", AT, "--json", *more]
        words += [] if report is None else ["--expect-report-data", report.hex()]
        with monkeypatch.context() as patch:
            _cut(patch)
            result = run(*words)
        if result.exit_code == 2:
            return 2, result.stderr[result.stderr.index("(") + 1 : result.stderr.index(")")]
        bad = [check["code"] for check in json.loads(result.stdout)["checks"] if not check["ok"]]
        return result.exit_code, bad[0] if bad else ""

    return judged


def _cut(patch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a check of a file went to the network")

    for name in ("connect", "connect_ex", "sendto", "bind"):
        patch.setattr(socket.socket, name, refuse)
    patch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_needs_nothing_else(kind: str, judge: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value = json.loads(bundle_of(kind, tmp_path, monkeypatch).encode())
    assert value["evidence"]["kind"] == kind
    assert judge(value) == (0, "")
    assert judge(value, bytes(64)) == (1, "attestation.report_data")


MISSING = {
    "tdx": {"collateral": "attestation.malformed"},
    "snp": {"vek": "attestation.malformed", "intermediate": "attestation.malformed", "ark": "attestation.malformed"},
    "sgx": {"collateral": "attestation.malformed"},
    "dstack": {"collateral": "attestation.malformed", "event_log": "attestation.malformed"},
    "azure-snp": dict.fromkeys(("vek", "intermediate", "ark", "quote", "signature", "pcrs"), "attestation.malformed"),
    "azure-tdx": dict.fromkeys(("td_quote", "collateral", "quote", "signature", "pcrs"), "attestation.malformed"),
    "tpm": dict.fromkeys(("signature", "pcrs", "ak_chain"), "attestation.malformed"),
}


@pytest.mark.parametrize("kind", MISSING)
def test_a_bundle_without_a_part(kind: str, judge: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value = json.loads(bundle_of(kind, tmp_path, monkeypatch).encode())
    for part, code in MISSING[kind].items():
        parts = {name: data for name, data in value["evidence"]["aux"].items() if name != part}
        assert judge({**value, "evidence": {**value["evidence"], "aux": parts}}) == (1, code), part


SWAPS = {
    "tdx": {"collateral": "attestation.tdx_quote"},
    "snp": {"vek": "attestation.certificate", "ark": "attestation.root"},
    "azure-snp": {
        "quote": "attestation.signature",
        "signature": "attestation.signature",
        "vek": "attestation.certificate",
    },
    "azure-tdx": {"quote": "attestation.signature", "report_data": "attestation.tpm_nonce"},
    "tpm": {"signature": "attestation.signature", "report_data": "attestation.tpm_nonce"},
    "dstack": {"event_log": "attestation.event_log"},
}


def _another(kind: str, part: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same part of another bundle: another report's, another role's, another vendor's."""
    if part == "collateral":
        return "0x" + sgx_collateral().hex()
    if part in ("vek", "ark"):
        return "0x" + chip().certificates["intermediate"].hex()
    if part == "event_log":
        names = [("app-id", b"b" * 20), ("compose-hash", b"c" * 32), ("boot-mr-done", b"")]
        return "0x" + dstack_evidence([runtime_event(n, p) for n, p in names]).aux["event_log"].hex()
    other = json.loads(bundle_of(kind, folder, monkeypatch, REPORT[::-1]).encode())
    return str(other["evidence"]["aux"][part])


@pytest.mark.parametrize("kind", SWAPS)
def test_a_bundle_with_a_swapped_part(kind: str, judge: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value = json.loads(bundle_of(kind, tmp_path, monkeypatch).encode())
    for part, code in SWAPS[kind].items():
        swapped = {**value["evidence"]["aux"], part: _another(kind, part, tmp_path, monkeypatch)}
        assert judge({**value, "evidence": {**value["evidence"], "aux": swapped}}) == (1, code), part


@pytest.mark.parametrize("kind", [k for k in KINDS if not k.startswith("azure-")])  # theirs is an aux part: above
def test_a_swapped_quote(kind: str, judge: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The evidence of another moment beside the parts of this one."""
    value = json.loads(bundle_of(kind, tmp_path, monkeypatch).encode())
    (tmp_path / "other").mkdir()
    other = json.loads(bundle_of(kind, tmp_path / "other", monkeypatch, REPORT[::-1]).encode())
    blob = {**value["evidence"], "blob": other["evidence"]["blob"]}
    exit_code, code = judge({**value, "evidence": blob})
    assert exit_code == 1
    assert code in ("attestation.report_data", "attestation.signature")


# --- GPUs beside a CPU ---


class DeviceVendor:
    """Manifests and OCSP answers."""

    async def aux(self, kind: str, blob: bytes) -> dict[str, bytes]:
        """For the one pretend GPU."""
        made = Device().evidence()
        return {n: made.aux[n] for n in ("driver_rim", "vbios_rim")} | {"ocsp": answers(pairs_of(made))}


def gpu_bundle(folder: Path, monkeypatch: pytest.MonkeyPatch, nonce: bytes) -> dict[str, Any]:
    devices = NvidiaDevices(DeviceVendor(), printed_by(Device()))
    with opened("tdx", folder, monkeypatch) as opener, monkeypatch.context() as patch:
        patch.setattr("cloister.evidence.collect.open_tee", opener)
        work = collect_bound(
            MachineConfig(), own_binding(nonce), ["gpu"], devices=devices, vendor=Vendors(), log=folder / "none"
        )
        return dict(json.loads(asyncio.run(work).encode()))


def test_a_gpu_beside_its_cpu(judge: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nonce = b"\x5a" * 32
    value = gpu_bundle(tmp_path, monkeypatch, nonce)
    assert [one["kind"] for one in value["devices"]] == ["nvidia-gpu"]
    assert judge(value, None, "--nonce", nonce.hex()) == (0, "")
    assert judge(value, None, "--nonce", bytes(32).hex()) == (1, "attestation.nonce")


def _without(value: dict[str, Any], part: str) -> dict[str, Any]:
    (one,) = value["devices"]
    return {**value, "devices": [{**one, "aux": {n: d for n, d in one["aux"].items() if n != part}}]}


GPU_CHANGES: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]], tuple[int, str]]] = {
    "no devices": (lambda v, _: {**v, "devices": []}, (1, "attestation.device_binding")),
    "devices left out": (
        lambda v, _: {n: d for n, d in v.items() if n != "devices"}, (1, "attestation.device_binding")),
    "no binding": (lambda v, _: {n: d for n, d in v.items() if n != "binding"}, (2, "attestation.input")),
    "the device twice": (lambda v, _: {**v, "devices": v["devices"] * 2}, (1, "attestation.device_binding")),
    "the device of another bundle": (lambda v, o: {**v, "devices": o["devices"]}, (1, "attestation.device_binding")),
    "the binding of another bundle": (lambda v, o: {**v, "binding": o["binding"]}, (1, "attestation.report_data")),
    "the CPU of another bundle": (lambda v, o: {**v, "evidence": o["evidence"]}, (1, "attestation.report_data")),
    "no chain": (lambda v, _: _without(v, "chain"), (1, "attestation.malformed")),
    "no mode": (lambda v, _: _without(v, "mode"), (1, "attestation.device_binding")),
    "no manifest of the driver": (lambda v, _: _without(v, "driver_rim"), (1, "attestation.ocsp")),
    "too many devices": (lambda v, _: {**v, "devices": [{}] * 25}, (2, "attestation.input")),
}  # fmt: skip


@pytest.mark.parametrize("what", GPU_CHANGES)
def test_a_bundle_with_a_gpu_that_is_not_whole(
    what: str, judge: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, expected = GPU_CHANGES[what]
    (tmp_path / "other").mkdir()
    value = gpu_bundle(tmp_path, monkeypatch, bytes(32))
    other = gpu_bundle(tmp_path / "other", monkeypatch, bytes(32))
    assert judge(change(value, other), None) == expected


@pytest.mark.parametrize(
    "options",
    [("--device", "tpu"), ("--device", "gpu", "--report-data", "00"), ("--nonce", "00" * 32)],
)
def test_options_that_do_not_go_together(options: tuple[str, ...], run: Run, tmp_path: Path) -> None:
    result = run("evidence", "collect", "--out", str(tmp_path / "out"), *options)
    assert result.exit_code == 1
    assert "cli.evidence_option" in result.output
    assert not (tmp_path / "out").exists()

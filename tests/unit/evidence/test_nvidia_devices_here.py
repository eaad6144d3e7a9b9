"""Evidence of GPUs through the vendor's programs: argv in, output out, bound to the CPU; nothing runs on a GPU."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.attestation.appraise import appraise, require
from cloister.core.attestation.devices import appraise_devices, device_nonce, require_devices
from cloister.core.attestation.model import Evidence, measurement_id
from cloister.core.attestation.policy import Policy, devnet, shipped
from cloister.core.attestation.roots import Roots
from cloister.core.errors import CloisterError, EvidenceError
from cloister.evidence import nvidia
from cloister.evidence.collateral import NO_COLLATERAL
from cloister.evidence.nvidia import MAX_OUTPUT, NvidiaDevices, parse_evidences, run_program
from support.hardware import MEASUREMENT, NETWORK, NOW, binding, evidence, roots
from support.nvidia_kit import NONCE, Device, nvidia_roots
from support.ocsp_kit import answers, pairs_of
from support.vectors import vectors


class Programs:
    """nvattest and nvidia-smi of a machine with these devices."""

    def __init__(self, *devices: Device, cc: str = "ON", devtools: str = "OFF") -> None:
        self.devices, self.said = devices, {"-f": f"CC status: {cc}\n", "-d": f"DevTools Mode: {devtools}\n"}
        self.calls: list[tuple[str, ...]] = []

    def __call__(self, arguments: Sequence[str]) -> bytes:
        self.calls.append(tuple(arguments))
        if arguments[:2] == ("nvidia-smi", "conf-compute"):
            return self.said[arguments[2]].encode()
        assert arguments[:5] == ("nvattest", "--format", "json", "collect-evidence", "--device")
        assert arguments[6] == "--nonce"
        letter = {"gpu": "G", "nvswitch": "L"}[arguments[5]]
        nonce = bytes.fromhex(arguments[7])
        return printed(
            *(one.exchange(nonce) for one in self.devices if one.chip.startswith(letter)), of=self.devices[0]
        )


def printed(*exchanges: bytes, of: Device | None = None, **changes: Any) -> bytes:
    """What nvattest prints, as its manual has it."""
    chain = base64.b64encode(b"".join((of or Device()).chain())).decode()
    rows = [{"arch": "HOPPER", "nonce": "00", "evidence": base64.b64encode(e).decode(), "certificate": chain}
            for e in exchanges]  # fmt: skip
    return json.dumps({"result_code": 0, "result_message": "Ok", "evidences": rows} | changes).encode()


class Vendor:
    """Manifests and OCSP answers of the pretend vendor."""

    def __init__(self, device: Device) -> None:
        self.device = device

    async def aux(self, kind: str, blob: bytes) -> dict[str, bytes]:
        """As ``fetch_nvidia`` gives them."""
        made = self.device.evidence()
        assert kind == made.kind
        assert blob.endswith(b"".join(self.device.chain())[-40:])
        names = {"driver_rim", "vbios_rim"} & set(made.aux)
        return {**{n: made.aux[n] for n in names}, "ocsp": answers(pairs_of(made))}


def all_roots() -> Roots:
    return Roots({**roots().fingerprints, **nvidia_roots().fingerprints})


def policy() -> Policy:
    """A devnet's, with the strict rules for GPUs."""
    one = devnet(all_roots())
    strict = shipped("strict").kinds
    return Policy.from_json(
        one.to_json() | {"kinds": {**one.to_json()["kinds"], "nvidia-gpu": _plain(strict["nvidia-gpu"])}}
    )


def _plain(rules: Any) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in rules.items()}


# --- the whole way ---


async def test_a_gpu_bound_to_its_cpu_passes_the_strict_rules() -> None:
    device = Device()
    programs = Programs(device)
    bound, found = await NvidiaDevices(Vendor(device), programs).bind(binding())
    cpu = evidence("tdx", bound.report_data())
    verdict = appraise(
        cpu,
        bound,
        policy=policy(),
        now=NOW,
        network=NETWORK,
        role="worker",
        measurements=frozenset({measurement_id("worker", MEASUREMENT)}),
        checkpoints=None,
        nonce=None,
    )
    require(verdict)
    (claims,) = require_devices(appraise_devices(found, bound, policy=policy(), now=NOW))
    assert claims.report_data == device_nonce(binding())
    assert (claims.details["cc"], claims.details["devtools"], claims.details["revocation"]) == ("on", "off", "good")
    assert claims.tcb_status == "Golden"
    assert programs.calls[0][-1] == device_nonce(binding()).hex()


async def test_switches_come_with_the_gpus() -> None:
    gpu, switch = Device(), Device("LS10")
    programs = Programs(gpu, switch)
    found = await NvidiaDevices(None, programs).collect(NONCE, ("gpu", "nvswitch"))
    assert [one.kind for one in found] == ["nvidia-gpu", "nvidia-switch"]
    assert set(found[0].aux) == {"chain", "mode"}
    assert set(found[1].aux) == {"chain"}


async def test_the_nonce_follows_from_the_binding_and_the_binding_names_the_devices() -> None:
    device = Device()
    first, one = await NvidiaDevices(None, Programs(device)).bind(binding())
    other, _ = await NvidiaDevices(None, Programs(device)).bind(binding(boot=b"\x77" * 32))
    assert first.keys["devices"] != other.keys["devices"]
    swapped = appraise_devices(one, other, policy=policy(), now=NOW)
    assert [c.code for c in swapped.checks] == ["attestation.device_binding"]


def test_a_real_gpus_evidence_is_read() -> None:
    """The vendor's own recorded evidence, in the wrapping that its program prints."""
    rows = json.loads((vectors() / "nvidia-gpu/attestation-sdk/hopper_evidence.json").read_text())
    output = json.dumps({"result_code": 0, "result_message": "Ok", "evidences": rows}).encode()
    nonce = bytes.fromhex(rows[0]["nonce"])
    (found,) = parse_evidences(output, "nvidia-gpu", nonce)
    assert found.blob == base64.b64decode(rows[0]["evidence"])
    assert found.aux["chain"].count(b"BEGIN CERTIFICATE") == 5


# --- the mode ---


@pytest.mark.parametrize(("cc", "devtools"), [("ON", "OFF"), ("OFF", "OFF"), ("ON", "ON")])
async def test_the_mode_is_what_the_driver_says(cc: str, devtools: str) -> None:
    found = await NvidiaDevices(None, Programs(Device(), cc=cc, devtools=devtools)).collect(NONCE)
    assert json.loads(found[0].aux["mode"]) == {"cc": cc.lower(), "devtools": devtools.lower()}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "CC status: MAYBE\n",
        "CC status: ON\nCC status: OFF\n",
        "CC status: ONE\n",
        "status: ON",
        "No devices were found",
    ],
)
async def test_a_driver_that_says_something_else_is_refused(text: str) -> None:
    programs = Programs(Device())
    programs.said["-f"] = text
    with pytest.raises(EvidenceError) as caught:
        await NvidiaDevices(None, programs).collect(NONCE)
    assert caught.value.code == "evidence.nvidia_tools"


# --- what nvattest prints ---

BAD: dict[str, Callable[[], bytes]] = {
    "no JSON": lambda: b"Evidence collection failed",
    "nothing": lambda: b"",
    "a list": lambda: b"[]",
    "deep": lambda: b"[" * 100_000,
    "a failure": lambda: printed(Device().exchange(), result_code=900),
    "a result that is true": lambda: printed(Device().exchange(), result_code=False),
    "no result": lambda: json.dumps({"evidences": []}).encode(),
    "no device": lambda: printed(),
    "no list": lambda: printed(evidences=None),
    "25 devices": lambda: printed(evidences=[{}] * 25),
    "a device that is a text": lambda: printed(evidences=["x"]),
    "no evidence": lambda: printed(evidences=[{"certificate": "AAAA"}]),
    "evidence that is no base64": lambda: printed(evidences=[{"evidence": "*", "certificate": "AAAA"}]),
    "evidence that is no exchange": lambda: printed(b"\x11\xe0" + bytes(300)),
    "another nonce": lambda: printed(Device().exchange(bytes(32))),
    "a chain that is none": lambda: printed(
        evidences=[{"evidence": base64.b64encode(Device().exchange()).decode(), "certificate": "AAAA"}]
    ),
    "an evidence of a megabyte": lambda: printed(evidences=[{"evidence": "A" * 1_000_000, "certificate": "AAAA"}]),
    "over 4 MiB": lambda: b" " * (MAX_OUTPUT + 1),
}


@pytest.mark.parametrize("what", BAD)
def test_other_output_is_refused(what: str) -> None:
    with pytest.raises(EvidenceError) as caught:
        parse_evidences(BAD[what](), "nvidia-gpu", NONCE)
    assert caught.value.code == "evidence.quote"


@settings(max_examples=100)
@given(st.binary(max_size=400) | st.text(max_size=200).map(str.encode))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(EvidenceError):
        parse_evidences(data, "nvidia-gpu", NONCE)


@settings(max_examples=100)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_any_json_in_place_of_devices_is_refused(value: Any) -> None:
    with pytest.raises(EvidenceError):
        parse_evidences(json.dumps({"result_code": 0, "evidences": [value]}).encode(), "nvidia-gpu", NONCE)


# --- sources and arguments ---


async def test_a_source_that_fails_is_named() -> None:
    class Silent:
        async def aux(self, kind: str, blob: bytes) -> dict[str, bytes]:
            raise NO_COLLATERAL(expected=kind, found=f"{len(blob)}")

    with pytest.raises(CloisterError) as caught:
        await NvidiaDevices(Silent(), Programs(Device())).collect(NONCE)
    assert caught.value.code == "evidence.collateral"


async def test_arguments_of_our_own_are_checked() -> None:
    for nonce, which in ((b"short", ("gpu",)), (NONCE, ("tpu",))):
        with pytest.raises(TypeError):
            await NvidiaDevices(None, Programs(Device())).collect(nonce, which)
    with pytest.raises(EvidenceError):
        await NvidiaDevices(None, Programs(Device())).collect(NONCE, ())


# --- programs ---


def _program(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def test_programs_run_with_their_arguments_and_nothing_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CLOISTER_SECRET", "a secret")
    _program(tmp_path, "nvattest", 'echo "$@"; env')
    said = run_program(("nvattest", "--format", "json")).decode()
    assert said.splitlines()[0] == "--format json"
    assert "a secret" not in said


@pytest.mark.parametrize(
    ("body", "found"),
    [("exit 3", "exit code 3"), ("head -c 5000000 /dev/zero", "5000000 bytes"), ("sleep 5", "still running")],
)
def test_programs_that_fail_are_named(body: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(nvidia, "TIMEOUT_S", 0.5)
    _program(tmp_path, "nvattest", f"exec {body}" if body.startswith("sleep") else body)
    with pytest.raises(EvidenceError) as caught:
        run_program(("nvattest",))
    assert caught.value.code == "evidence.nvidia_tools"
    assert found in caught.value.found


def test_a_program_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EvidenceError) as caught:
        run_program(("nvattest",))
    assert "nvattest" in caught.value.expected
    assert isinstance(Evidence, type)

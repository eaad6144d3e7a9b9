"""GPUs and switches beside a CPU: bound to its binding, each genuine, together complete (spec/attestation.md 11.1).

The nonce that every device signs is a digest of the CPU's binding, and the binding names a digest of all that the
devices said. So the evidence of a device elsewhere, of another boot, or of another node does not fit.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cloister.core.attestation import kinds, spdm
from cloister.core.attestation.appraise import appraise_device, require_checks
from cloister.core.attestation.model import Binding, Check, Claims, Evidence
from cloister.core.attestation.policy import Policy
from cloister.core.attestation.refusals import fail_closed
from cloister.core.encoding import jcs
from cloister.core.encoding.contexts import Context, digest
from cloister.core.errors import AttestationError, CloisterError, Refusal, define

NAME: Final = "devices"
MAX_DEVICES: Final = 24
_PDI_SIZE: Final = 8

UNBOUND = define(
    "attestation.device_binding",
    AttestationError,
    check="the CPU's binding names exactly these devices, and each signed the nonce of that binding",
    remedy="collect device evidence for this binding's nonce, then CPU evidence over the completed binding",
    status=403,
)
REPEATED = define(
    "attestation.device_repeated",
    AttestationError,
    check="each device is another one",
    remedy="collect evidence of every device once",
    status=403,
)
TOPOLOGY = define(
    "attestation.device_topology",
    AttestationError,
    check="every switch that a GPU names in protected PCIe mode shows evidence",
    remedy="collect evidence of all NVSwitches together with that of the GPUs",
    status=403,
)


@dataclass(frozen=True, slots=True)
class DevicesVerdict:
    """Numbered checks of all devices, and their claims in the order of the evidence. See ``require_devices``."""

    checks: tuple[Check, ...]
    claims: tuple[Claims, ...]

    @property
    def accepted(self) -> bool:
        """True when there is a claim and every check is ok. For display; code uses ``require_devices``."""
        return bool(self.claims) and all(check.ok for check in self.checks)


def device_nonce(binding: Binding) -> bytes:
    """The 32 bytes that each device signs: digest(DEVICE_NONCE, JCS(the binding without its "devices"))."""
    keys = {name: key for name, key in binding.keys.items() if name != NAME}
    return digest(Context.DEVICE_NONCE, jcs.encode(replace(binding, keys=keys).to_json()))


def device_digest(devices: Sequence[Evidence]) -> bytes:
    """The 32 bytes under which a binding names devices: digest(DEVICE_EVIDENCE, kind, blob, mode of each in order).

    Certificates and reference manifests are left out: they prove themselves, and manifests are renewed.
    """
    parts = [part for d in devices for part in (d.kind.encode(), d.blob, d.aux.get("mode", b""))]
    return digest(Context.DEVICE_EVIDENCE, *parts)


def bind_devices(binding: Binding, devices: Sequence[Evidence]) -> Binding:
    """The binding that the CPU's evidence must be over, once the devices answered ``device_nonce(binding)``."""
    return replace(binding, keys={**binding.keys, NAME: device_digest(devices)})


@fail_closed
def gpu_bound(cpu_binding: Binding, gpu_evidence: Sequence[Evidence]) -> None:
    """Check that this binding, which the CPU's report data commits to, is that of these devices.

    The caller appraises the CPU's evidence over ``cpu_binding`` and each device: this is the link between them.
    Raises AttestationError (attestation.device_binding, attestation.malformed).
    """
    if not 0 < len(gpu_evidence) <= MAX_DEVICES:
        raise UNBOUND(expected=f"1 to {MAX_DEVICES} devices", found=str(len(gpu_evidence)))
    # 1. The binding names them.
    named, found = cpu_binding.keys.get(NAME, b""), device_digest(gpu_evidence)
    if not hmac.compare_digest(named, found):
        raise UNBOUND(expected=found.hex()[:32], found=named.hex()[:32] or "a binding without devices")
    # 2. They are devices, and each signed the binding's nonce.
    nonce = device_nonce(cpu_binding)
    for device in gpu_evidence:
        if device.kind not in kinds.DEVICES:
            raise UNBOUND(expected=" or ".join(sorted(kinds.DEVICES)), found=device.kind[:32])
        signed = spdm.parse(device.blob).nonce
        if not hmac.compare_digest(signed, nonce):
            raise UNBOUND(expected=f"nonce {nonce.hex()[:32]}", found=f"nonce {signed.hex()[:32]}")


def appraise_devices(devices: Sequence[Evidence], binding: Binding, *, policy: Policy, now: int) -> DevicesVerdict:
    """Devices beside CPU evidence: bound, each by checks 1 to 8 of section 6, different, and with all switches.

    ``binding`` is the one that the CPU's evidence was accepted for. It never raises for hostile input: it reports.
    """
    checks = [_run(1, UNBOUND, lambda: gpu_bound(binding, devices))]
    claims: list[Claims] = []
    for device in devices if checks[0].ok else ():
        verdict = appraise_device(device, policy=policy, now=now)
        checks += [replace(check, number=len(checks) + place) for place, check in enumerate(verdict.checks, start=1)]
        claims += [verdict.claims] if verdict.claims else []
    if checks[0].ok and len(claims) == len(devices):
        checks.append(_run(len(checks) + 1, REPEATED, lambda: _need_different(claims)))
        checks.append(_run(len(checks) + 1, TOPOLOGY, lambda: _need_switches(claims)))
    return DevicesVerdict(tuple(checks), tuple(claims))


def require_devices(verdict: DevicesVerdict) -> tuple[Claims, ...]:
    """The claims of an accepted verdict. Raises AttestationError with the first failing check's code."""
    require_checks(verdict.checks)
    if not verdict.claims or len(verdict.checks) != 3 + 8 * len(verdict.claims):
        raise UNBOUND(expected="a verdict of appraise_devices", found=f"{len(verdict.checks)} checks")
    return verdict.claims


def _need_different(claims: Sequence[Claims]) -> None:
    ids = [one.platform_id for one in claims]
    if len(set(ids)) != len(ids):
        raise REPEATED(expected=f"{len(ids)} devices", found=f"{len(set(ids))}")


def _need_switches(claims: Sequence[Claims]) -> None:
    # GPUs write a switch's id in the other byte order than the switch itself does.
    shown = {pdi[::-1] for one in claims if one.kind == "nvidia-switch" for pdi in _pdis(one)}
    for one in claims:
        if one.kind == "nvidia-gpu" and one.details["feature"] == "PPCIE":
            named = _pdis(one)
            if not named or not named <= shown:
                expected = f"the {len(named)} switches that a GPU names"
                raise TOPOLOGY(expected=expected, found=f"{len(named & shown)} of them")


def _pdis(claims: Claims) -> set[bytes]:
    raw = bytes.fromhex(claims.details["pdi"])
    return {raw[at : at + _PDI_SIZE] for at in range(0, len(raw), _PDI_SIZE)} - {bytes(_PDI_SIZE)}


def _run(number: int, refusal: Refusal, step: Callable[[], None]) -> Check:
    try:
        step()
    except CloisterError as error:
        return Check(number, error.code, error.check, error.expected, error.found, error.remedy, ok=False)
    return Check(number, refusal.code, refusal.check, "as demanded", "as demanded", "", ok=True)

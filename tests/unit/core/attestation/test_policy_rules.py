"""Rules that the policy learned with the further kinds: grace periods, lists of machines, signers."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.attestation import tdx
from cloister.core.attestation.examine import examine
from cloister.core.attestation.model import Evidence, Verdict
from cloister.core.attestation.policy import Policy, shipped
from cloister.core.errors import CloisterError, PolicyError
from support.hardware import MEASUREMENT, NOW, platform, policy, roots
from support.intel_kit import changed, sgx_collateral, sgx_evidence

DAY = 86400


def _with(kind: str, **rules: Any) -> Policy:
    own = policy()
    kinds = {**own.kinds, kind: {**own.kinds[kind], **rules}}
    return dataclasses.replace(own, kinds=kinds, refused_generations=())


def _level(status: str, date: str) -> Any:
    def change(fields: dict[str, Any]) -> None:
        fields["tcbLevels"][0].update(tcbStatus=status, tcbDate=date)
        for module in fields.get("tdxModuleIdentities", ()):  # the older date of platform and module counts
            module["tcbLevels"][0].update(tcbDate=date)

    return change


def _old(status: str = "OutOfDate", date: str = "2025-06-01T00:00:00Z") -> Evidence:
    aux = changed(tcb_info=_level(status, date))
    return Evidence("tdx", platform().quote(MEASUREMENT, bytes(64)), {"collateral": aux})


def _codes(verdict: Verdict) -> list[str]:
    return [check.code for check in verdict.checks if not check.ok]


START = 1748736000  # 2025-06-01


def test_an_old_platform_passes_in_its_grace_and_not_a_second_later() -> None:
    rules = _with("tdx", grace={"OutOfDate": 16})
    end = START + 16 * DAY
    assert end > NOW
    assert examine(_old(), policy=rules, now=end).accepted
    assert _codes(examine(_old(), policy=rules, now=end + 1)) == ["attestation.tcb_status"]
    assert _codes(examine(_old(), policy=_with("tdx"), now=NOW)) == ["attestation.tcb_status"]


def test_a_grace_is_for_its_own_status() -> None:
    rules = _with("tdx", grace={"OutOfDate": 3650})
    assert examine(_old(), policy=rules, now=NOW).accepted
    for status in ("Revoked", "OutOfDateConfigurationNeeded", "ConfigurationNeeded"):
        codes = _codes(examine(_old(status), policy=rules, now=NOW))
        assert codes in (["attestation.tcb_status"], ["attestation.tdx_quote"]), status


def test_the_older_of_platform_and_quoting_enclave_counts() -> None:
    aux = changed(
        tcb_info=_level("OutOfDate", "2025-06-10T00:00:00Z"), qe_identity=_level("OutOfDate", "2025-05-01T00:00:00Z")
    )
    shown = Evidence("tdx", platform().quote(MEASUREMENT, bytes(64)), {"collateral": aux})
    assert _codes(examine(shown, policy=_with("tdx", grace={"OutOfDate": 30}), now=NOW)) == ["attestation.tcb_status"]
    assert examine(shown, policy=_with("tdx", grace={"OutOfDate": 60}), now=NOW).accepted


def test_enclaves_have_graces_too() -> None:
    old = sgx_evidence(aux=sgx_collateral(tcb=_level("OutOfDate", "2025-06-01T00:00:00Z")))
    assert _codes(examine(old, policy=_with("sgx"), now=NOW)) == ["attestation.tcb_status"]
    assert examine(old, policy=_with("sgx", grace={"OutOfDate": 20}), now=NOW).accepted


def test_kinds_without_a_date_have_no_grace() -> None:
    from support.hardware import chip

    shown = Evidence("snp", chip().report(MEASUREMENT, bytes(64)), dict(chip().certificates))
    own = policy()
    rules = {**own.kinds["snp"], "tcb": ("Provisional",), "grace": {"Committed": 3650}}
    strict = dataclasses.replace(own)
    object.__setattr__(strict, "kinds", {**own.kinds, "snp": rules})
    assert _codes(examine(shown, policy=strict, now=NOW)) == ["attestation.tcb_status"]


def test_a_quote_of_an_unlisted_machine_is_refused() -> None:
    own = Evidence("tdx", platform().quote(MEASUREMENT, bytes(64)), {"collateral": changed()})
    ppid = tdx.verify(own, roots(), NOW).platform_id.hex()
    assert examine(own, policy=_with("tdx", platforms=(ppid,)), now=NOW).accepted
    assert _codes(examine(own, policy=_with("tdx", platforms=("00" * 16,)), now=NOW)) == ["attestation.platform"]
    assert _codes(examine(own, policy=_with("tdx", owners=("00" * 16,)), now=NOW)) == ["attestation.platform"]


def test_the_lower_evaluation_number_counts() -> None:
    def number(value: int) -> Any:
        return lambda fields: fields.update(tcbEvaluationDataNumber=value)

    for tcb, enclave, good in ((18, 18, True), (18, 16, False), (16, 18, False), (17, 17, True)):
        aux = changed(tcb_info=number(tcb), qe_identity=number(enclave))
        shown = Evidence("tdx", platform().quote(MEASUREMENT, bytes(64)), {"collateral": aux})
        assert examine(shown, policy=_with("tdx"), now=NOW).accepted is good, (tcb, enclave)


SIGNER = {"isv_prod_id": 1, "min_isv_svn": 2}
BAD: dict[str, tuple[str, str, Any]] = {
    "a grace for a revoked platform": ("tdx", "grace", {"Revoked": 1}),
    "a grace of no days": ("tdx", "grace", {"OutOfDate": 0}),
    "a grace of eleven years": ("tdx", "grace", {"OutOfDate": 4000}),
    "a grace that is a number": ("tdx", "grace", 30),
    "a grace in a list": ("tdx", "grace", ["OutOfDate"]),
    "a grace of a nameless status": ("tdx", "grace", {"": 1}),
    "a platform of another size": ("tdx", "platforms", ["00" * 15]),
    "a platform in capitals": ("tdx", "platforms", ["AB" * 16]),
    "a platform with 0x": ("tdx", "platforms", ["0x" + "00" * 16]),
    "a platform twice": ("tdx", "platforms", ["00" * 16] * 2),
    "a platform that is a number": ("tdx", "platforms", [7]),
    "platforms in a text": ("tdx", "platforms", "00" * 16),
    "too many platforms": ("tdx", "platforms", [f"{n:032x}" for n in range(257)]),
    "a chip of nine bytes": ("snp", "chips", ["00" * 9]),
    "an id key of 32 bytes": ("snp", "id_keys", ["00" * 32]),
    "a demand that is a text": ("snp", "require_crl", "yes"),
    "signers in a list": ("sgx", "signers", ["00" * 32]),
    "a signer of 31 bytes": ("sgx", "signers", {"00" * 31: SIGNER}),
    "a signer without a version": ("sgx", "signers", {"00" * 32: {"isv_prod_id": 1}}),
    "a signer with more": ("sgx", "signers", {"00" * 32: {**SIGNER, "debug": 1}}),
    "a product beyond 16 bits": ("sgx", "signers", {"00" * 32: {**SIGNER, "isv_prod_id": 65536}}),
    "a compose hash of 20 bytes": ("dstack", "compose_hashes", ["00" * 20]),
    "an app of 32 bytes": ("dstack", "apps", ["00" * 32]),
}


@pytest.mark.parametrize("sentence", BAD)
def test_a_rule_outside_its_format_is_refused(sentence: str) -> None:
    kind, name, value = BAD[sentence]
    document = copy.deepcopy(policy().to_json())
    document["kinds"][kind][name] = value
    with pytest.raises(PolicyError):
        Policy.from_json(document)


GOOD: dict[str, tuple[str, str, Any]] = {
    "two graces": ("tdx", "grace", {"OutOfDate": 30, "ConfigurationNeeded": 90}),
    "two platforms": ("dstack", "platforms", ["00" * 16, "01" * 16]),
    "chips of both sizes": ("snp", "chips", ["00" * 8, "00" * 64]),
    "a signer": ("sgx", "signers", {"00" * 32: SIGNER}),
}


@pytest.mark.parametrize("sentence", GOOD)
def test_a_good_rule_goes_there_and_back(sentence: str) -> None:
    kind, name, value = GOOD[sentence]
    document = copy.deepcopy(policy().to_json())
    document["kinds"][kind][name] = value
    again = Policy.from_json(document)
    assert again.to_json() == document
    assert Policy.decode(again.encode()).hash() == again.hash() != policy().hash()


def test_every_rule_of_every_kind_is_required() -> None:
    for kind, rules in policy().to_json()["kinds"].items():
        for name in rules:
            document = copy.deepcopy(policy().to_json())
            del document["kinds"][kind][name]
            with pytest.raises(PolicyError):
                Policy.from_json(document)


def test_shipped_policies_grant_no_grace() -> None:
    for name in ("strict", "cloud"):
        for kind in ("tdx", "sgx", "dstack"):
            assert shipped(name).kinds[kind]["grace"] == {}


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["grace", "platforms", "owners", "signers", "compose_hashes", "apps", "chips", "id_keys"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("00" * 32),
        lambda c: st.lists(c, max_size=3) | st.dictionaries(st.sampled_from(["OutOfDate", "00" * 32]), c, max_size=2),
    ),
)
def test_any_value_in_any_rule_is_read_or_refused(name: str, value: Any) -> None:
    document = copy.deepcopy(policy().to_json())
    for rules in document["kinds"].values():
        if name in rules:
            rules[name] = value
    try:
        again = Policy.from_json(document)
    except CloisterError:
        return
    assert again.to_json() == document

"""What the keys of the network promise (security review items 1, 5, 16 and 18), attacked from outside.

Script: a network of five with threshold three; an agent at epoch 7 in period 40; a worker that breaks later.
"""

from __future__ import annotations

import ast
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from py_arkworks_bls12381 import G1Point, G2Point

import cloister.core.threshold as threshold
from cloister.core.encoding.contexts import Context
from cloister.core.encoding.identity import AgentVersion, KeyIdentity, Purpose
from cloister.core.errors import SealError, ThresholdError
from cloister.core.keys.seal import open_sealed, seal
from cloister.core.threshold import groups as g
from cloister.core.threshold.dkg import deal, replay
from cloister.core.threshold.ibe import DerivedKey, decrypt, encrypt
from cloister.core.threshold.partial import TransportKey, evaluate, recover
from support.sharing import ceremony_of, network, stream

NET = network(5, 3)
MPK = NET.public.mpk
AGENT = AgentVersion(b"\x0a" * 32, 1, b"\x0b" * 32, 0, b"\x0c" * 32, 7)
HELD = [AGENT.key(Purpose.CALL, 40), AGENT.key(Purpose.STATE), AGENT.key(Purpose.SECRETS)]
LATER = [
    AGENT.key(Purpose.CALL, 41),
    AGENT.key(Purpose.CALL, 39),
    AGENT.bumped().key(Purpose.CALL, 40),
    AGENT.bumped().key(Purpose.STATE),
    AGENT.bumped().key(Purpose.SECRETS),
    replace(AGENT, cluster_epoch=1).key(Purpose.STATE),
    replace(AGENT, master_epoch=2).key(Purpose.STATE),
    replace(AGENT, agent=b"\x0d" * 32).key(Purpose.CALL, 40),
]


def lease(identity: KeyIdentity) -> DerivedKey:
    """Three gatekeepers answer one worker."""
    rng = stream(f"lease {bytes(identity).hex()}")
    transport = TransportKey.generate(rng)
    partials = [evaluate(share, bytes(identity), transport.public, rng) for share in NET.shares[:3]]
    return recover(partials, 3, NET.public, bytes(identity), transport)


@pytest.mark.parametrize("later", LATER, ids=lambda i: f"{i.purpose.name}-{i.period}-{i.version.agent_epoch}")
def test_kept_keys_open_nothing_of_a_later_period_epoch_or_agent(later: KeyIdentity) -> None:
    """Item 1: the broken worker keeps every key that it ever held, and tries them all."""
    sealed = encrypt(MPK, bytes(later), b"a later call", b"", stream("caller"))
    for kept in HELD:
        key = lease(kept)
        for claimed in (kept, later):
            with pytest.raises(ThresholdError) as caught:
                decrypt(key, MPK, bytes(claimed), sealed, b"")
            assert caught.value.code == "threshold.ibe_not_opened"
    assert decrypt(lease(later), MPK, bytes(later), sealed, b"") == b"a later call"


def test_kept_state_keys_open_no_write_after_the_bump() -> None:
    before, after = lease(AGENT.key(Purpose.STATE)), lease(AGENT.bumped().key(Purpose.STATE))
    key = after.symmetric(Context.STATE_DATA_KEY, b"")
    blob = seal(key, Context.STATE_DATA_KEY, b"k", b"new value", stream("write"))
    with pytest.raises(SealError, match=r"seal\.wrong_key"):
        open_sealed(before.symmetric(Context.STATE_DATA_KEY, b""), Context.STATE_DATA_KEY, b"k", blob)


def test_keys_of_one_epoch_say_nothing_about_those_of_the_next() -> None:
    """No sum or difference of two kept points is a third one: h(id) are independent points."""
    kept = [g.g1_from_bytes(lease(i).point) for i in HELD]
    wanted = {lease(i).point for i in LATER}
    for a, b in combinations(kept, 2):
        for guess in (a + b, a - b, b - a, a + a - b, b + b - a):
            assert bytes(guess.to_compressed_bytes()) not in wanted


def test_the_master_secret_has_no_way_to_sign_or_to_be_put_together() -> None:
    """Item 5: the package offers no signature and no function that returns a master secret."""
    names = set()
    for path in Path(threshold.__path__[0]).glob("*.py"):
        tree = ast.parse(path.read_text())
        names |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    assert not [n for n in names if "sign" in n.lower() or "master" in n.lower() or "reconstruct" in n.lower()]


def test_statements_are_hashed_into_another_group_than_keys() -> None:
    """Item 5: no 32-byte digest that a committee signs is a key identity, which is longer and framed."""
    for identity in HELD + LATER:
        assert bytes(identity).startswith(b"cloister/v1/key-point\0")
        assert len(bytes(identity)) > 100


@pytest.mark.parametrize("aad", [b"slot 2", b"slot 1 ", b"", b"slot 1\0"])
def test_a_host_moves_no_secret_to_another_slot(aad: bytes) -> None:
    """Item 16: ciphertexts are bound to network, agent, epochs (identity) and slot, version, setter (data)."""
    identity = AGENT.key(Purpose.SECRETS)
    sealed = encrypt(MPK, bytes(identity), b"api key", b"slot 1", stream("owner"))
    with pytest.raises(ThresholdError):
        decrypt(lease(identity), MPK, bytes(identity), sealed, aad)


def test_a_host_can_make_a_ciphertext_of_its_own_so_its_hash_must_be_on_chain() -> None:
    """Item 16, the honest limit: anybody can encrypt to an agent. Nothing here authenticates the sender."""
    identity = AGENT.key(Purpose.SECRETS)
    planted = encrypt(MPK, bytes(identity), b"the host's key", b"slot 1", stream("host"))
    assert decrypt(lease(identity), MPK, bytes(identity), planted, b"slot 1") == b"the host's key"


def test_two_corrupt_members_with_everything_public_do_not_open() -> None:
    """Item 18 and C3: t - 1 shares, all dealings, MPK and share keys; every way to combine them gives another point."""
    identity = bytes(AGENT.key(Purpose.STATE))
    h = g.hash_identity(identity)
    key = g.g1_from_bytes(lease(AGENT.key(Purpose.STATE)).point)
    for pair in combinations(NET.shares, 2):
        points = [h * g.scalar_from_bytes(share.secret) for share in pair]
        for chosen in ([s.index for s in pair], [1, 2], [4, 5]):
            weights = g.lagrange_at_zero(chosen)
            assert points[0] * weights[0] + points[1] * weights[1] != key
        assert points[0] + points[1] != key


def test_what_goes_on_chain_holds_no_share() -> None:
    """Item 18: digests, MPK and transcript only. Nothing there is a ciphertext that a later key theft could open."""
    on_chain = b"".join(NET.committed.values()) + MPK + NET.public.transcript
    for dealing in NET.dealings.values():
        for sealed in dealing.shares:
            assert sealed not in on_chain
    for share in NET.shares:
        assert share.secret not in on_chain


def test_a_last_dealer_cannot_choose_the_key_after_seeing_the_others() -> None:
    """Item 18: the rushing dealer tries many dealings after the reveal. Its digest was on chain before."""
    for attempt in range(5):
        late = deal(NET.ceremony, 5, stream(f"attempt {attempt}"))
        with pytest.raises(ThresholdError) as caught:
            replay(NET.ceremony, {**NET.dealings, 5: late}, NET.committed)
        assert caught.value.code == "threshold.dealing_changed"


def test_a_member_that_stays_away_stops_part_a_but_changes_nothing() -> None:
    dealings = {i: d for i, d in NET.dealings.items() if i != 4}
    with pytest.raises(ThresholdError) as caught:
        replay(NET.ceremony, dealings, NET.committed)
    assert caught.value.code == "threshold.dealings_missing"
    assert "[4]" in caught.value.found


def test_transport_keys_belong_to_one_ceremony() -> None:
    """Item 18: the same member keys under another id give other sealed shares, digests and keys."""
    again = replace(NET.ceremony, id=b"\x44" * 32)
    rng = stream("second ceremony")
    dealings = {m.index: deal(again, m.index, rng) for m in again.members}
    committed = {i: d.digest(again) for i, d in dealings.items()}
    assert replay(again, dealings, committed).mpk != MPK
    with pytest.raises(ThresholdError):
        replay(again, NET.dealings, NET.committed)
    with pytest.raises(ThresholdError):
        replay(NET.ceremony, dealings, committed)


def test_a_worker_gets_no_answer_for_keys_in_a_small_group() -> None:
    """A transport key outside the prime-order group could leak bits of a share. None is evaluated."""
    share = NET.shares[0]
    low_order = []
    for x in range(1, 120):
        try:
            point = G1Point.from_compressed_bytes_unchecked((x | 0x80 << 376).to_bytes(48, "big"))
        except ValueError:
            continue
        if not point.is_in_subgroup():
            low_order.append(bytes(point.to_compressed_bytes()))
    assert len(low_order) > 5
    for transport in low_order:
        with pytest.raises(ThresholdError) as caught:
            evaluate(share, bytes(HELD[0]), transport, stream("x"))
        assert caught.value.code == "threshold.point"


def test_a_ceremony_of_other_members_cannot_be_passed_off() -> None:
    """A carrier that serves dealings of a committee it controls: digests, binding and transcript all differ."""
    fake = network(5, 3, "fake")
    assert fake.ceremony.binding != NET.ceremony.binding
    assert fake.public.transcript != NET.public.transcript
    with pytest.raises(ThresholdError):
        replay(NET.ceremony, fake.dealings, fake.committed)
    assert ceremony_of(5, 3, "fake")[0] == fake.ceremony


def test_master_keys_are_never_the_identity() -> None:
    """Under MPK = identity every derived key would be the identity, known to all."""
    for key in (MPK, *NET.public.share_keys):
        assert g.g2_from_bytes(key) != G2Point.identity()
    with pytest.raises(ThresholdError):
        encrypt(bytes(G2Point.identity().to_compressed_bytes()), b"id", b"m", b"", stream("x"))

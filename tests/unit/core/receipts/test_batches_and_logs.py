"""Batches, logs, proofs and the kept form: good ones verify, and every lie about them is refused by name."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.encoding.log_statements import LogHead, WorkerLog
from cloister.core.encoding.signatures import Signed, address_of, sign_digest, verify_signer
from cloister.core.errors import CloisterError, ReceiptError
from cloister.core.receipts.batch import MAX_BATCH, BatchPath, batch_digest, sign_together
from cloister.core.receipts.kept import MAX_KEPT, OwnerKey, open_as_caller, open_as_owner, seal_kept
from cloister.core.receipts.log import TILE, Log, LogProof
from cloister.core.receipts.merkle import (
    consistency_path,
    inclusion_path,
    leaf_hash,
    part_of,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from cloister.core.receipts.receipt import Exchange, Receipt, ReceiptChain
from cloister.core.receipts.verify import Admission, verify_receipt, verify_signed
from support.sealed import BOOT, MEMBERS, NETWORK, NOW, SIGNERS, WORKER, lease, make_seat

CERT = make_seat(b"\x09" * 32).certificate
EXCHANGE = Exchange(b"\x0a" * 16, 200, b"\x0b" * 32, b"\x0c" * 32)
ADMISSION = Admission.of_lease(lease())
SALT, LOG_KEY = b"\x51" * 32, b"\x52" * 32


def sign(digest: bytes) -> bytes:
    return sign_digest(WORKER, digest)


def receipts(count: int, chain: ReceiptChain | None = None) -> list[Receipt]:
    chain = chain or ReceiptChain(address_of(WORKER), BOOT, sign)
    return [chain.add(CERT, EXCHANGE, checkpoint=123, host_time_ms=NOW) for _ in range(count)]


RECEIPTS = receipts(6)
SIGNATURE, PATHS = sign_together(RECEIPTS, sign)


def path_of(number: int) -> BatchPath:
    found = PATHS[number]
    assert found is not None
    return found


def test_one_signature_serves_all_receipts_of_a_tick() -> None:
    for count in (2, 3, 7, 32, 33):
        made = receipts(count + 5)[5:]
        signature, paths = sign_together(made, sign)
        for receipt, path in zip(made, paths, strict=True):
            assert verify_receipt(receipt.encoded, signature, CERT, ADMISSION, EXCHANGE, path) == receipt
            assert path is not None
            assert BatchPath.from_json(path.to_json()) == path


def test_a_lone_receipt_is_signed_by_its_id() -> None:
    (one,) = receipts(1)
    signature, paths = sign_together([one], sign)
    assert paths == [None]
    assert verify_receipt(one.encoded, signature, CERT, ADMISSION, EXCHANGE) == one


def refused(code: str, receipt: Receipt, signature: bytes, path: BatchPath | None) -> None:
    with pytest.raises(ReceiptError) as caught:
        verify_signed(receipt, signature, path)
    assert caught.value.code == code


def test_a_path_for_another_receipt_is_refused() -> None:
    refused("receipt.signature", RECEIPTS[1], SIGNATURE, path_of(2))
    refused("receipt.signature", replace(RECEIPTS[1], status=500), SIGNATURE, path_of(1))
    refused("receipt.signature", replace(RECEIPTS[1], seq=2), SIGNATURE, path_of(1))
    refused("receipt.batch", replace(RECEIPTS[1], seq=6), SIGNATURE, path_of(1))
    refused("receipt.signature", replace(RECEIPTS[1], boot=b"\x77" * 32), SIGNATURE, path_of(1))


def test_a_batch_of_another_size_or_start_is_refused() -> None:
    path = path_of(1)
    refused("receipt.signature", RECEIPTS[1], SIGNATURE, replace(path, size=5))  # the path fits, the size is signed
    refused("receipt.not_included", RECEIPTS[1], SIGNATURE, replace(path, size=2))
    refused("receipt.not_included", RECEIPTS[1], SIGNATURE, replace(path, size=100))
    refused("receipt.signature", RECEIPTS[1], SIGNATURE, replace(path, first=1))
    refused("receipt.batch", RECEIPTS[1], SIGNATURE, replace(path, first=2))


def test_a_signature_over_a_leaf_is_none_over_a_root_and_the_other_way_round() -> None:
    """Domains: an id alone, a batch's root, a log's root. None passes for another."""
    alone = sign(RECEIPTS[1].id)
    refused("receipt.signature", RECEIPTS[1], alone, path_of(1))
    refused("receipt.signature", RECEIPTS[1], SIGNATURE, None)
    over_leaf = sign(leaf_hash(RECEIPTS[1].id))
    over_root = sign(root_of([leaf_hash(r.id) for r in RECEIPTS]))
    log = sign(WorkerLog(address_of(WORKER), BOOT, 6, root_of([leaf_hash(r.id) for r in RECEIPTS])).digest(NETWORK))
    for signature in (over_leaf, over_root, log):
        refused("receipt.signature", RECEIPTS[1], signature, None)
        refused("receipt.signature", RECEIPTS[1], signature, path_of(1))
    of_one = sign(batch_digest(BOOT, 1, 1, leaf_hash(RECEIPTS[1].id)))
    refused("receipt.signature", RECEIPTS[1], of_one, None)


def test_a_batch_of_one_has_no_form() -> None:
    for size in (0, 1, MAX_BATCH + 1):
        with pytest.raises(ReceiptError):
            BatchPath(0, size, ())
    with pytest.raises(ReceiptError):
        BatchPath(0, 4, (bytes(32),) * 11)


def test_our_own_mistakes_are_not_refusals() -> None:
    with pytest.raises(ValueError, match="consecutive"):
        sign_together([RECEIPTS[0], RECEIPTS[2]], sign)
    with pytest.raises(ValueError, match="consecutive"):
        sign_together(receipts(MAX_BATCH + 1), sign)


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 5), st.data())
def test_a_changed_byte_of_path_or_signature_is_refused(number: int, data: st.DataObject) -> None:
    path, signature = path_of(number), bytearray(SIGNATURE)
    hashes = [bytearray(one) for one in path.path]
    whole = [signature, *hashes]
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at][data.draw(st.integers(0, len(whole[at]) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    changed = replace(path, path=tuple(bytes(one) for one in hashes))
    with pytest.raises(ReceiptError):
        verify_signed(RECEIPTS[number], bytes(signature), changed)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.just("0x" + "ab" * 32),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["first", "path", "size", "head", "index", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_garbage_is_refused_by_name(value: Any) -> None:
    readers: tuple[Callable[[object], object], ...] = (BatchPath.from_json, LogProof.from_json)
    for read in readers:
        try:
            read(value)
        except CloisterError:
            continue
        assert read is BatchPath.from_json
        assert set(value) == {"first", "path", "size"}


# --- the log ---


IDS = [bytes([n & 255, n >> 8]) * 16 for n in range(3 * TILE + 90)]
LOG = Log()
for _one in IDS:
    LOG.append(_one)
LEAVES = [leaf_hash(one) for one in IDS]


def tiles(*positions: int) -> dict[int, list[bytes]]:
    return {n: IDS[n * TILE : (n + 1) * TILE] for n in LOG.tiles_of(*positions)}


def test_a_log_of_tiles_proves_what_the_whole_tree_proves() -> None:
    rng = random.Random(7)
    edges = [1, 2, TILE - 1, TILE, TILE + 1, 2 * TILE, 3 * TILE, len(IDS)]
    for size in edges + [rng.randint(1, len(IDS)) for _ in range(60)]:
        index, old = rng.randrange(size), rng.randint(0, size)
        root = LOG.root(size, tiles(size))
        assert root == root_of(LEAVES[:size])
        path = LOG.inclusion(index, size, tiles(index, size))
        assert path == inclusion_path(index, size, part_of(LEAVES))
        verify_inclusion(LEAVES[index], index, size, path, root)
        between = LOG.consistency(old, size, tiles(old, size))
        assert between == consistency_path(old, size, part_of(LEAVES))
        verify_consistency(old, root_of(LEAVES[:old]), size, root, between)


def test_proofs_need_at_most_two_tiles() -> None:
    assert LOG.tiles_of(3, 3 * TILE + 5) == {0}
    assert LOG.tiles_of(3, TILE + 5) == {0, 1}
    assert LOG.tiles_of(len(IDS)) == set()


def test_a_store_that_changed_or_lost_receipts_is_found_out() -> None:
    for spoilt in (IDS[: TILE - 1], [*IDS[: TILE - 1], bytes(32)], IDS[TILE : 2 * TILE]):
        with pytest.raises(ReceiptError) as caught:
            LOG.inclusion(3, len(IDS), {0: spoilt})
        assert caught.value.code == "receipt.log_damaged"


def test_a_log_does_not_speak_of_receipts_that_it_does_not_have() -> None:
    with pytest.raises(ValueError, match="shorter"):
        LOG.root(len(IDS) + 1, {})


# --- proofs ---


def head_of(size: int, leaves: list[bytes], *, members: int = 3, **changes: Any) -> Signed:
    said = replace(LogHead(1, address_of(WORKER), BOOT, size, root_of(leaves[:size])), **changes)
    return Signed(said, tuple(sign_digest(k, said.digest(NETWORK)) for k in MEMBERS[:members]))


OWN = [leaf_hash(r.id) for r in RECEIPTS]
PROOF = LogProof(2, tuple(inclusion_path(2, 6, part_of(OWN))), head_of(6, OWN))


def test_a_receipt_is_proven_by_a_saved_file_alone() -> None:
    LogProof.from_json(PROOF.to_json()).verify(RECEIPTS[2], SIGNERS, NETWORK)


REFUSED: dict[str, tuple[LogProof, str]] = {
    "one signature too few": (replace(PROOF, head=head_of(6, OWN, members=2)), "encoding.too_few_signers"),
    "another term": (replace(PROOF, head=head_of(6, OWN, term=2)), "encoding.wrong_term"),
    "another worker's log": (replace(PROOF, head=head_of(6, OWN, worker=bytes(20))), "receipt.other_log"),
    "a replayed head of an older boot": (replace(PROOF, head=head_of(6, OWN, boot=b"\1" * 32)), "receipt.other_log"),
    "another number": (replace(PROOF, index=3), "receipt.other_log"),
    "a log that ends before it": (replace(PROOF, head=head_of(2, OWN)), "receipt.other_log"),
    "a log without it": (
        replace(PROOF, head=head_of(6, [*OWN[:2], leaf_hash(b"x" * 32), *OWN[3:]])),
        "receipt.not_included",
    ),
    "a path too short": (replace(PROOF, path=PROOF.path[:-1]), "receipt.not_included"),
    "a path too long": (replace(PROOF, path=(*PROOF.path, bytes(32))), "receipt.not_included"),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_a_proof_is_refused_with(sentence: str) -> None:
    proof, code = REFUSED[sentence]
    with pytest.raises(CloisterError) as caught:
        proof.verify(RECEIPTS[2], SIGNERS, NETWORK)
    assert caught.value.code == code


def test_a_worker_s_word_about_its_log_is_not_the_committee_s() -> None:
    said = WorkerLog(address_of(WORKER), BOOT, 6, root_of(OWN))
    assert said.digest(NETWORK) != LogHead(1, said.worker, said.boot, said.size, said.root).digest(NETWORK)
    verify_signer(said.digest(NETWORK), sign(said.digest(NETWORK)), address_of(WORKER))


# --- the kept form ---


OWNER = OwnerKey(LOG_KEY, BOOT)
KEPT = seal_kept(RECEIPTS[2], SALT, OWNER)


def test_caller_and_owner_open_a_kept_receipt_and_nobody_reads_it() -> None:
    receipt = RECEIPTS[2]
    assert open_as_caller(KEPT, receipt.id, SALT) == receipt
    assert open_as_owner(KEPT, receipt.id, 2, OwnerKey(LOG_KEY, BOOT)) == receipt
    assert len(KEPT) <= MAX_KEPT
    for secret in (receipt.request_id, receipt.request_id.hex().encode(), b"request", SALT, LOG_KEY):
        assert secret not in KEPT
    assert "52" not in repr(OWNER)


OPENINGS: dict[str, Callable[[], object]] = {
    "another call's salt": lambda: open_as_caller(KEPT, RECEIPTS[2].id, bytes(32)),
    "another id": lambda: open_as_caller(KEPT, RECEIPTS[3].id, SALT),
    "another agent's owner": lambda: open_as_owner(KEPT, RECEIPTS[2].id, 2, OwnerKey(bytes(32), BOOT)),
    "another boot": lambda: open_as_owner(KEPT, RECEIPTS[2].id, 2, OwnerKey(LOG_KEY, bytes(32))),
    "another number": lambda: open_as_owner(KEPT, RECEIPTS[2].id, 3, OWNER),
    "another owner's id": lambda: open_as_owner(KEPT, RECEIPTS[3].id, 2, OWNER),
    "another version": lambda: open_as_caller(b"\2" + KEPT[1:], RECEIPTS[2].id, SALT),
    "nothing": lambda: open_as_owner(b"", RECEIPTS[2].id, 2, OWNER),
    "too much": lambda: open_as_caller(b"\1" * (MAX_KEPT + 1), RECEIPTS[2].id, SALT),
    "a cut one": lambda: open_as_caller(KEPT[:-1], RECEIPTS[2].id, SALT),
}


@pytest.mark.parametrize("sentence", OPENINGS)
def test_a_kept_receipt_does_not_open_with(sentence: str) -> None:
    with pytest.raises(ReceiptError) as caught:
        OPENINGS[sentence]()
    assert caught.value.code == "receipt.kept"


def test_every_flipped_byte_of_a_kept_receipt_shuts_it_for_somebody() -> None:
    receipt = RECEIPTS[2]
    for at in range(0, len(KEPT), 7):
        spoilt = KEPT[:at] + bytes([KEPT[at] ^ 1]) + KEPT[at + 1 :]
        with pytest.raises(ReceiptError):
            open_as_owner(spoilt, receipt.id, 2, OWNER)
        if not 1 <= at < 49:  # the wrapped key is the owner's alone
            with pytest.raises(ReceiptError):
                open_as_caller(spoilt, receipt.id, SALT)


def test_keys_of_two_receipts_differ() -> None:
    one, two = seal_kept(RECEIPTS[2], SALT, OWNER), seal_kept(RECEIPTS[3], os.urandom(32), OWNER)
    assert one[1:49] != two[1:49]

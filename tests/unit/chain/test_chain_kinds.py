"""Endpoints that differ from Ethereum's: fees, gas, nonces, receipts, logs, finality; as documented, scripted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from cloister.chain.finality import Finality, RpcQuorum
from cloister.chain.kinds import KINDS, ChainKind, kind_of
from cloister.chain.logs import get_logs
from cloister.chain.rpc import TOO_LARGE, UNREACHABLE
from cloister.chain.tx import Sender
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.signatures import address_of
from cloister.core.errors import CloisterError
from support.anvil import test_key
from support.scripted_rpc import AS_USUAL, ScriptedRpc, block_of, opened, refuse

CHAIN = 4242
TO = b"\x77" * 20
KEY = test_key("kinds")


def sender(rpc: ScriptedRpc, kind: str = "ethereum", timeout: float = 5.0) -> Sender:
    return Sender(rpc, KEY, CHAIN, timeout=timeout, kind=kind_of(kind))


# --- fees and gas ---

FEES = {
    "ethereum: twice the base fee and a tip; half the estimate and room on top": (
        "ethereum",
        {"typed": 1, "price": 3 * 10**9, "tip": 10**9, "gas": 375_000},
    ),
    "legacy: one price, half above what is asked": ("legacy", {"typed": 0, "price": 3 * 10**9, "gas": 375_000}),
    "op-stack: tips are small": ("op-stack", {"typed": 1, "price": 2 * 10**9 + 10**6, "tip": 10**6, "gas": 375_000}),
    "polygon: tips are large": ("polygon", {"typed": 1, "price": 32 * 10**9, "tip": 30 * 10**9, "gas": 375_000}),
    "polkadot hub: estimates are high already": ("polkadot-hub", {"typed": 0, "price": 3 * 10**9, "gas": 55_000}),
}


@pytest.mark.parametrize("sentence", FEES)
async def test_fees_and_gas(sentence: str) -> None:
    kind, wanted = FEES[sentence]

    def manner(method: str, params: list[Any]) -> Any:
        return "0x" + "00" * 32 if method == "eth_call" else AS_USUAL

    rpc = ScriptedRpc(manner)
    await sender(rpc, kind).send(TO, b"\x01", value=5)
    found = opened(rpc.sent[0])
    assert {name: found[name] for name in wanted} == wanted
    assert found["chain_id"] == CHAIN
    assert found["sender"].to_bytes(20, "big") == address_of(KEY)


async def test_a_legacy_chain_is_never_asked_for_a_base_fee() -> None:
    rpc = ScriptedRpc()
    await sender(rpc, "legacy").send(TO)
    assert "eth_getBlockByNumber" not in rpc.methods()


async def test_a_chain_without_base_fee_is_named_and_not_guessed() -> None:
    rpc = ScriptedRpc(lambda m, p: {} if m == "eth_getBlockByNumber" else AS_USUAL)
    with pytest.raises(CloisterError):
        await sender(rpc).send(TO)
    assert rpc.sent == []


@pytest.mark.parametrize(("fee", "sent"), [(0, 1), (10**15, 1), (10**18, 0), (2**255, 0)])
async def test_data_fees_count_before_anything_is_sent(fee: int, sent: int) -> None:
    rpc = ScriptedRpc(lambda m, p: f"0x{fee:064x}" if m == "eth_call" else AS_USUAL)
    if sent:
        await sender(rpc, "op-stack").send(TO)
    else:
        with pytest.raises(CloisterError) as caught:
            await sender(rpc, "op-stack").send(TO)
        assert caught.value.code == "chain.no_funds"
    assert len(rpc.sent) == sent


async def test_the_oracle_is_asked_about_the_very_bytes_that_are_sent() -> None:
    asked: list[bytes] = []

    def manner(method: str, params: list[Any]) -> Any:
        if method != "eth_call":
            return AS_USUAL
        asked.append(bytes.fromhex(params[0]["data"][2:]))
        return "0x" + "00" * 32

    rpc = ScriptedRpc(manner)
    await sender(rpc, "op-stack").send(TO)
    assert asked[0][:4] == keccak256(b"getL1Fee(bytes)")[:4]
    size = int.from_bytes(asked[0][36:68], "big")
    assert asked[0][68 : 68 + size] == rpc.sent[0]


POOR = {
    "geth": "insufficient funds for gas * price + value: balance 0, tx cost 9, overshot 9",
    "anvil": "Insufficient funds for gas * price + value",
    "erigon, reth": "gas required exceeds allowance (0)",
    "besu": "Upfront cost exceeds account balance: insufficient balance",
    "substrate": "1010: Invalid Transaction: Inability to pay some fees (e.g. account balance too low)",
}


@pytest.mark.parametrize("words", POOR)
@pytest.mark.parametrize("where", ["eth_estimateGas", "eth_sendRawTransaction"])
async def test_an_account_that_cannot_pay_is_named(words: str, where: str) -> None:
    rpc = ScriptedRpc(lambda m, p: refuse(POOR[words]) if m == where else AS_USUAL)
    with pytest.raises(CloisterError) as caught:
        await sender(rpc).send(TO)
    assert caught.value.code == "chain.no_funds"


async def test_other_refusals_keep_their_name() -> None:
    rpc = ScriptedRpc(lambda m, p: refuse("max fee per gas less than block base fee") if "Raw" in m else AS_USUAL)
    with pytest.raises(CloisterError) as caught:
        await sender(rpc).send(TO)
    assert caught.value.code == "chain.rpc_error"


# --- nonces and pools ---


class Hub(ScriptedRpc):
    """Polkadot Hub's way: counts know no pool, nothing is found by hash before its block, blocks come late."""

    def __init__(self) -> None:
        super().__init__()
        self.pool: list[bytes] = []

    def _eth_sendRawTransaction(self, raw: str) -> str:
        data = bytes.fromhex(raw[2:])
        if data in self.pool:
            raise refuse("1013: Transaction Already Imported")
        if opened(data)["nonce"] < self.nonce:
            raise refuse("1010: Invalid Transaction: Transaction is outdated")
        self.pool.append(data)
        return "0x" + keccak256(data).hex()

    def make_block(self) -> None:
        self.sent, self.pool = self.sent + self.pool, []
        self.nonce = len(self.sent)


async def test_transactions_that_wait_count_although_no_count_knows_them() -> None:
    rpc = Hub()
    hub = sender(rpc, "polkadot-hub")
    first = await hub.submit(TO)
    hub._waiting.add(first.nonce)
    hub._nonce = None  # what a refusal of the endpoint leaves
    second = await hub.submit(TO, value=1)
    assert (first.nonce, second.nonce) == (0, 1)
    rpc.make_block()
    assert (await hub.wait(first)).block_number == (await hub.wait(second)).block_number == 7


async def test_the_same_bytes_again_are_no_error_although_they_are_not_found() -> None:
    rpc = Hub()
    hub = sender(rpc, "polkadot-hub")
    sent = await hub.submit(TO)
    await hub._broadcast(sent.raw)
    assert len(rpc.pool) == 1


async def test_nonces_that_others_used_up_are_passed_over() -> None:
    rpc = Hub()
    hub = sender(rpc, "polkadot-hub")
    hub._nonce, rpc.nonce = 0, 3
    assert (await hub.submit(TO)).nonce == 3


async def test_a_nonce_that_others_take_in_the_same_moment_is_refused_and_asked_for_anew() -> None:
    rpc = Hub()
    hub = sender(rpc, "polkadot-hub")
    taken = rpc._eth_sendRawTransaction

    def take_first(raw: str) -> str:
        rpc.nonce, rpc._eth_sendRawTransaction = 3, taken  # type: ignore[method-assign]
        return taken(raw)

    rpc._eth_sendRawTransaction = take_first  # type: ignore[method-assign]
    with pytest.raises(CloisterError):
        await hub.submit(TO)
    assert (await hub.submit(TO)).nonce == 3


KNOWN = ["already known", "ALREADY_EXISTS: already known", "Known transaction: 0xab", "tx already in mempool"]


@pytest.mark.parametrize("words", KNOWN)
async def test_every_way_of_saying_i_have_it(words: str) -> None:
    rpc = ScriptedRpc(lambda m, p: refuse(words) if m == "eth_sendRawTransaction" else AS_USUAL)
    await sender(rpc).submit(TO)


# --- receipts ---


@pytest.mark.parametrize("words", ["transaction indexing is in progress", "header not found", None])
async def test_a_receipt_that_comes_late_is_waited_for(words: str | None) -> None:
    left = [3]

    def manner(method: str, params: list[Any]) -> Any:
        if method != "eth_getTransactionReceipt" or not left[0]:
            return AS_USUAL
        left[0] -= 1
        return None if words is None else refuse(words)

    rpc = ScriptedRpc(manner)
    assert (await sender(rpc).send(TO)).block_number == 7
    assert len(rpc.sent) == 1, "nothing was sent twice"


async def test_an_endpoint_that_never_has_the_receipt_ends_by_name() -> None:
    rpc = ScriptedRpc(lambda m, p: refuse("not indexed") if m == "eth_getTransactionReceipt" else AS_USUAL)
    with pytest.raises(CloisterError) as caught:
        await sender(rpc, timeout=0.25).send(TO)
    assert caught.value.code == "chain.not_included"


# --- logs ---


class Logs(ScriptedRpc):
    """One log per block; a question for more than ``most`` blocks is refused as ``error`` says."""

    def __init__(self, most: int, error: CloisterError) -> None:
        super().__init__()
        self.most, self.error, self.asked = most, error, list[tuple[int, int]]()

    def _eth_getLogs(self, wanted: dict[str, Any]) -> Any:
        start, end = int(wanted["fromBlock"], 16), int(wanted["toBlock"], 16)
        if end - start + 1 > self.most:
            raise self.error
        self.asked.append((start, end))
        return [{"blockNumber": hex(n)} for n in range(start, end + 1)]


LIMITS = {
    "a cap on blocks": refuse("query exceeds max block range 2000"),
    "a cap on results": refuse("query returned more than 10000 results"),
    "an answer beyond our own cap": TOO_LARGE(expected="less", found="more"),
    "a connection that is cut": UNREACHABLE(expected="an answer", found="TimeoutError"),
}


@pytest.mark.parametrize("sentence", LIMITS)
@pytest.mark.parametrize("most", [1, 7, 1000])
async def test_logs_come_complete_and_in_order_whatever_the_cap(sentence: str, most: int) -> None:
    rpc = Logs(most, LIMITS[sentence])
    found = await get_logs(rpc, TO, ["0x"], 5, 104, span=64, most=1000)
    assert [int(one["blockNumber"], 16) for one in found] == list(range(5, 105))
    assert all(end < start for (_, end), (start, _) in zip(rpc.asked, rpc.asked[1:], strict=False))


async def test_one_block_that_is_refused_is_an_error() -> None:
    with pytest.raises(CloisterError) as caught:
        await get_logs(Logs(0, refuse("no")), TO, [], 1, 9, span=4, most=10)
    assert caught.value.code == "chain.rpc_error"


async def test_more_logs_than_the_cap_are_refused() -> None:
    with pytest.raises(CloisterError):
        await get_logs(Logs(100, refuse("no")), TO, [], 1, 50, span=10, most=49)


async def test_no_blocks_no_question() -> None:
    rpc = Logs(100, refuse("no"))
    assert await get_logs(rpc, TO, [], 9, 8, span=10, most=49) == []
    assert rpc.calls == []


# --- finality ---


def endpoint(latest: int, final: int | None) -> ScriptedRpc:
    """An endpoint at a height; ``final`` None: it does not know the tag."""

    def manner(method: str, params: list[Any]) -> Any:
        if params[0] == "finalized":
            return refuse("unknown block tag") if final is None else block_of(final)
        number = latest if params[0] == "latest" else int(params[0], 16)
        return block_of(number) if number <= latest else None

    return ScriptedRpc(manner)


FINAL = {
    "by the tag": (Finality(), [(100, 64), (100, 64), (100, 64)], 64),
    "one endpoint lags": (Finality(), [(100, 64), (100, 64), (80, 40)], 64),
    "one endpoint runs ahead": (Finality(), [(100, 64), (100, 64), (100, 99)], 64),
    "no tag: by depth": (Finality(tag=False, depth=10), [(100, None), (100, None), (95, None)], 90),
    "a tag that means little: by the smaller": (Finality(depth=20), [(100, 99), (100, 99), (100, 99)], 80),
    "a tag that lags: by the smaller": (Finality(depth=2), [(100, 30), (100, 30), (100, 30)], 30),
    "a chain younger than the depth: its first block": (Finality(tag=False, depth=10), [(3, None)] * 3, 0),
}


@pytest.mark.parametrize("sentence", FINAL)
async def test_what_is_final(sentence: str) -> None:
    rule, heights, wanted = FINAL[sentence]
    quorum = RpcQuorum([endpoint(*h) for h in heights], 2, rule)
    if any(latest < wanted for latest, _ in heights):
        pytest.fail("the table asks for a block that an endpoint does not have")
    assert (await quorum.finalized()).number == wanted


async def test_a_missing_tag_is_an_error_where_the_rule_wants_it() -> None:
    with pytest.raises(CloisterError) as caught:
        await RpcQuorum([endpoint(9, None)], 1).finalized()
    assert caught.value.code == "chain.no_quorum"


@pytest.mark.parametrize("rule", [Finality(tag=False), Finality(tag=False, depth=0)])
def test_a_rule_that_decides_nothing_is_a_mistake(rule: Finality) -> None:
    with pytest.raises(RuntimeError):
        RpcQuorum([endpoint(9, 8)], 1, rule)


# --- names ---


def test_kinds_have_names() -> None:
    kinds: Sequence[ChainKind] = [kind_of(name) for name in KINDS]
    assert len(kinds) == 5
    with pytest.raises(CloisterError) as caught:
        kind_of("etherium")
    assert caught.value.code == "chain.unknown_kind"

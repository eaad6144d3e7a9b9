"""Small contracts for tests of access hooks, as bytes: what they do stands beside them."""

from __future__ import annotations

from cloister.core.encoding.keccak import keccak256

# isAllowed: return storage[caller]. A call of 64 bytes stores (slot, word), so that tests can change its mind.
BY_LIST = bytes.fromhex(
    "36604014601657"  # calldatasize == 64: jump to 0x16
    "602435"  # the second argument: caller
    "54600052"  # its word
    "60206000f3"  # return it
    "000000"
    "5b6020356000355500"  # 0x16: sstore(first word, second word)
)
# isAllowed: true for everybody / false / reverts / two words / never ends.
YES = bytes.fromhex("600160005260206000f3")
NO = bytes.fromhex("600060005260206000f3")
REVERTS = bytes.fromhex("60006000fd")
TWO_WORDS = bytes.fromhex("600160005260406000f3")
ENDLESS = bytes.fromhex("5b600056")
TRUE_LIKE = bytes.fromhex("600260005260206000f3")
RANDOM = bytes.fromhex("4460005260206000f3")
WRITES = bytes.fromhex("6001600055600160005260206000f3")
# isValidSignature: magic iff the word at slot 0 is the first 32 bytes of the signature.
SIGNER = bytes.fromhex("6064356000541460245760006000fd" + "5b" * 0x15 + "5b631626ba7e60e01b60005260206000f3")


def creation(runtime: bytes) -> bytes:
    """Code that deploys a runtime."""
    size = len(runtime).to_bytes(2, "big")
    return b"\x61" + size + bytes.fromhex("80600c6000396000f3") + runtime


def _assembled(*parts: bytes | str | tuple[str]) -> bytes:
    """Bytes and hex as they are; ("name",) is a jump target; "@name" pushes it."""
    sizes = [1 if isinstance(p, tuple) else 3 if isinstance(p, str) and p[0] == "@" else len(_raw(p)) for p in parts]
    places = {p[0]: sum(sizes[:i]) for i, p in enumerate(parts) if isinstance(p, tuple)}
    out = b""
    for part in parts:
        if isinstance(part, tuple):
            out += b"\x5b"
        elif isinstance(part, str) and part[0] == "@":
            out += b"\x61" + places[part[1:]].to_bytes(2, "big")
        else:
            out += _raw(part)
    return out


def _raw(part: bytes | str | tuple[str]) -> bytes:
    return part if isinstance(part, bytes) else bytes.fromhex(str(part))


# A contract that asks: 20 bytes address and call data: it makes that call with the value it got; 32 bytes: whether it
# fails callbacks from now on; onAgentReply: counts (word 0) and keeps the reply's first word (word 2).
CONSUMER = _assembled(
    "5f3560e01c63", keccak256(b"onAgentReply(bytes32,uint64,uint8,bytes)")[:4], "14", "@reply", "57",
    "36602014", "@flag", "57",
    "601436038060145f37",  # copy what follows the address; its size stays on the stack
    "5f5f825f345f3560601c5af115", "@fail", "5700",
    ("reply",), "600154", "@fail", "575f546001015f5560a43560025500",
    ("flag",), "5f3560015500",
    ("fail",), "5f5ffd",
)  # fmt: skip

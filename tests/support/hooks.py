"""Small contracts for tests of access hooks, as bytes: what they do stands beside them."""

from __future__ import annotations

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

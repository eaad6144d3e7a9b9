// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title What is signed about receipt logs, as EIP-712 struct hashes: the domain is that of `Statements`.
/// @notice The Solidity face of `core/encoding/log_statements.py`. Both are tested against `spec/vectors/receipts.json`.
library LogStatements {
    struct LogHead {
        uint64 term;
        address worker;
        bytes32 boot;
        uint64 size;
        bytes32 root;
    }

    bytes32 internal constant LOG_HEAD =
        keccak256("LogHead(uint64 term,address worker,bytes32 boot,uint64 size,bytes32 root)");

    function hash(LogHead memory s) internal pure returns (bytes32) {
        return keccak256(abi.encode(LOG_HEAD, s.term, s.worker, s.boot, s.size, s.root));
    }
}

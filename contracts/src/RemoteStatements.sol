// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title What the committee says of an agent to a chain where it does not live, as an EIP-712 struct hash.
/// @notice The domain is that of `Statements`. The Solidity face of `RemoteAgent` in `core/encoding/contract_statements.py`.
library RemoteStatements {
    struct RemoteAgent {
        uint64 term;
        uint256 chainId;
        address anchor;
        bytes32 agent;
        uint64 agentEpoch;
        address owner;
        address guardian;
        address payer;
        uint64 height;
        uint64 expiry;
    }

    bytes32 internal constant REMOTE_AGENT = keccak256(
        "RemoteAgent(uint64 term,uint256 chainId,address anchor,bytes32 agent,uint64 agentEpoch,address owner,"
        "address guardian,address payer,uint64 height,uint64 expiry)"
    );

    /// @dev Every field is one word, so the struct encodes to its words in order.
    function hash(RemoteAgent memory s) internal pure returns (bytes32) {
        return keccak256(bytes.concat(REMOTE_AGENT, abi.encode(s)));
    }
}

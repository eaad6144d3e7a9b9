// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @notice What consumers and workers say to an Anchor (spec/anchor.md).
interface IAnchor {
    /// @notice What a requester chooses.
    struct Ask {
        bytes32 agent;
        /// Code that must answer; 0: whatever the agent runs.
        bytes32 codeHash;
        /// Gas for the callback.
        uint64 gasLimit;
        /// Unix seconds; answers count until then, refunds after it.
        uint64 deadline;
        /// Equal answers wanted. Two or more must come from workers of at least two vendor classes.
        uint8 copies;
        /// 1: the payload is sealed to the agent; 2: the reply must be sealed to the requester. Other bits: 0.
        uint8 flags;
    }

    /// @notice A request as its commitment names it: keccak256(abi.encode(Request)).
    struct Request {
        bytes32 agent;
        uint64 index;
        address requester;
        uint128 fee;
        bytes32 codeHash;
        uint64 gasLimit;
        uint64 deadline;
        uint8 copies;
        uint8 flags;
        bytes32 payloadHash;
    }

    /// @notice A worker's signature over AnchorAnswer. Several are in rising order of their workers.
    struct Signed {
        address worker;
        bytes signature;
    }

    struct Reply {
        Request request;
        bytes reply;
        Signed[] by;
    }

    struct Condition {
        bytes32 key;
        uint64 version;
    }

    /// @notice Set a key whose version is `version`; the new version is one more. An empty value deletes.
    struct Update {
        bytes32 key;
        uint64 version;
        bytes value;
    }

    struct Commit {
        Condition[] conditions;
        Update[] updates;
    }

    event Requested(
        bytes32 indexed agent,
        uint64 indexed index,
        address indexed requester,
        uint128 fee,
        bytes32 codeHash,
        uint64 gasLimit,
        uint64 deadline,
        uint8 copies,
        uint8 flags,
        bytes payload
    );
    event Answered(bytes32 indexed agent, uint64 indexed index, bool callbackOk, bytes reply);
    event Refunded(bytes32 indexed agent, uint64 indexed index, address indexed requester, uint128 fee);
    event Updated(bytes32 indexed agent, bytes32 indexed key, uint64 version, bytes value);
    event Credited(address indexed account, uint256 amount);
    event Withdrawn(address indexed account, address indexed to, uint256 amount);

    function request(Ask calldata ask, bytes calldata payload) external payable returns (uint64 index);

    /// @notice As `request`, paid from the credit of the agent's fee payer, if that agreed to it (Sponsors).
    function requestSponsored(Ask calldata ask, uint128 fee, bytes calldata payload) external returns (uint64 index);
    function respond(Request calldata r, bytes calldata reply, Signed[] calldata by) external;
    function respondAndCommit(Request calldata r, bytes calldata reply, Commit calldata c, Signed[] calldata by)
        external;
    function refund(Request calldata r) external;
    function withdrawFor(address account) external;
    function isOpen(Request calldata r) external view returns (bool);
    function read(bytes32 agent, bytes32 key) external view returns (uint64 version, bytes memory value);
}

/// @notice What an Anchor calls with an answer, exactly once per request.
interface IAgentConsumer {
    function onAgentReply(bytes32 agent, uint64 index, uint8 flags, bytes calldata reply) external;
}

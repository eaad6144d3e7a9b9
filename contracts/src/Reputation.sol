// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAgents} from "./interfaces/IAgents.sol";
import {IReputationRegistry} from "./interfaces/IReputationRegistry.sol";

/// @title ERC-8004 reputation: what clients say of agents. Anybody may speak, so a summary is over named clients only.
contract Reputation is IReputationRegistry {
    struct Feedback {
        int128 value;
        uint8 valueDecimals;
        bool isRevoked;
        string tag1;
        string tag2;
    }

    struct Filter {
        uint256 agentId;
        address[] clients;
        bytes32 tag1;
        bytes32 tag2;
        bool includeRevoked;
    }

    struct Found {
        address[] clients;
        uint64[] indexes;
        int128[] values;
        uint8[] decimals;
        string[] tag1s;
        string[] tag2s;
        bool[] revoked;
    }

    uint8 public constant MAX_DECIMALS = 18;
    int128 public constant MAX_VALUE = 1e38;
    uint256 public constant MAX_TAG = 64;
    bytes32 private constant NO_TAG = keccak256("");

    mapping(uint256 agentId => mapping(address client => Feedback[])) private _feedback;
    mapping(uint256 agentId => address[]) private _clients;
    mapping(bytes32 feedback => mapping(address responder => uint64)) private _responses;
    mapping(bytes32 feedback => address[]) private _responders;

    IAgents public immutable agents;

    error SelfFeedback(address client);
    error BadValue();
    error BadDecimals(uint8 decimals);
    error TagTooLong();
    error NoSuchFeedback(uint64 index);
    error AlreadyRevoked(uint64 index);
    error EmptyURI();
    error ClientsRequired();

    constructor(IAgents agents_) {
        agents = agents_;
    }

    function getIdentityRegistry() external view returns (address) {
        return address(agents);
    }

    /// @notice Owners and operators do not praise their own agents. Indexes start at 1.
    function giveFeedback(
        uint256 agentId,
        int128 value,
        uint8 valueDecimals,
        string memory tag1,
        string memory tag2,
        string memory endpoint,
        string memory feedbackURI,
        bytes32 feedbackHash
    ) external {
        Feedback memory f = Feedback(value, valueDecimals, false, tag1, tag2);
        _add(agentId, f);
        _announce(agentId, f, endpoint, feedbackURI, feedbackHash);
    }

    function revokeFeedback(uint256 agentId, uint64 feedbackIndex) external {
        Feedback storage f = _at(agentId, msg.sender, feedbackIndex);
        if (f.isRevoked) revert AlreadyRevoked(feedbackIndex);
        f.isRevoked = true;
        emit FeedbackRevoked(agentId, msg.sender, feedbackIndex);
    }

    /// @notice Anybody may answer feedback; readers choose whose answers count.
    function appendResponse(
        uint256 agentId,
        address clientAddress,
        uint64 feedbackIndex,
        string calldata responseURI,
        bytes32 responseHash
    ) external {
        if (bytes(responseURI).length == 0) revert EmptyURI();
        _at(agentId, clientAddress, feedbackIndex);
        bytes32 key = _key(agentId, clientAddress, feedbackIndex);
        if (_responses[key][msg.sender]++ == 0) _responders[key].push(msg.sender);
        emit ResponseAppended(agentId, clientAddress, feedbackIndex, msg.sender, responseURI, responseHash);
    }

    // --- views ---

    /// @notice Mean of what the named clients said, rounded towards zero, with the decimals of the most precise one.
    function getSummary(uint256 agentId, address[] memory clientAddresses, string memory tag1, string memory tag2)
        external
        view
        returns (uint64 count, int128 summaryValue, uint8 summaryValueDecimals)
    {
        if (clientAddresses.length == 0) revert ClientsRequired();
        Found memory f = _find(Filter(agentId, clientAddresses, _tag(tag1), _tag(tag2), false));
        count = uint64(f.values.length);
        if (count == 0) return (0, 0, 0);
        for (uint256 i = 0; i < count; ++i) {
            if (f.decimals[i] > summaryValueDecimals) summaryValueDecimals = f.decimals[i];
        }
        int256 sum;
        for (uint256 i = 0; i < count; ++i) {
            sum += int256(f.values[i]) * int256(10 ** uint256(summaryValueDecimals - f.decimals[i]));
        }
        return (count, _fit(sum / int256(uint256(count))), summaryValueDecimals);
    }

    function readFeedback(uint256 agentId, address clientAddress, uint64 feedbackIndex)
        external
        view
        returns (int128 value, uint8 valueDecimals, string memory tag1, string memory tag2, bool isRevoked)
    {
        Feedback storage f = _at(agentId, clientAddress, feedbackIndex);
        return (f.value, f.valueDecimals, f.tag1, f.tag2, f.isRevoked);
    }

    /// @notice Feedback by client and tags; no clients named: all of them.
    function readAllFeedback(
        uint256 agentId,
        address[] memory clientAddresses,
        string memory tag1,
        string memory tag2,
        bool includeRevoked
    )
        external
        view
        returns (
            address[] memory clients,
            uint64[] memory feedbackIndexes,
            int128[] memory values,
            uint8[] memory valueDecimals,
            string[] memory tag1s,
            string[] memory tag2s,
            bool[] memory revokedStatuses
        )
    {
        Found memory f = _find(Filter(agentId, clientAddresses, _tag(tag1), _tag(tag2), includeRevoked));
        clients = f.clients;
        feedbackIndexes = f.indexes;
        values = f.values;
        valueDecimals = f.decimals;
        tag1s = f.tag1s;
        tag2s = f.tag2s;
        revokedStatuses = f.revoked;
    }

    /// @notice Answers to feedback. Client 0: of all clients; index 0: to all of a client's; no responders: by anybody.
    function getResponseCount(
        uint256 agentId,
        address clientAddress,
        uint64 feedbackIndex,
        address[] memory responders
    ) external view returns (uint64 count) {
        address[] memory who = new address[](1);
        who[0] = clientAddress;
        if (clientAddress == address(0)) who = _clients[agentId];
        bool all = clientAddress == address(0) || feedbackIndex == 0;
        for (uint256 i = 0; i < who.length; ++i) {
            uint64 from = all ? 1 : feedbackIndex;
            uint64 to = all ? getLastIndex(agentId, who[i]) : feedbackIndex;
            for (uint64 j = from; j <= to; ++j) count += _answers(_key(agentId, who[i], j), responders);
        }
    }

    function getClients(uint256 agentId) external view returns (address[] memory) {
        return _clients[agentId];
    }

    function getLastIndex(uint256 agentId, address clientAddress) public view returns (uint64) {
        return uint64(_feedback[agentId][clientAddress].length);
    }

    // --- inside ---

    function _add(uint256 agentId, Feedback memory f) private {
        if (agents.isAuthorizedOrOwner(msg.sender, agentId)) revert SelfFeedback(msg.sender);
        if (f.value > MAX_VALUE || f.value < -MAX_VALUE) revert BadValue();
        if (f.valueDecimals > MAX_DECIMALS) revert BadDecimals(f.valueDecimals);
        if (bytes(f.tag1).length > MAX_TAG || bytes(f.tag2).length > MAX_TAG) revert TagTooLong();
        Feedback[] storage given = _feedback[agentId][msg.sender];
        if (given.length == 0) _clients[agentId].push(msg.sender);
        given.push(f);
    }

    function _announce(
        uint256 agentId,
        Feedback memory f,
        string memory endpoint,
        string memory feedbackURI,
        bytes32 feedbackHash
    ) private {
        emit NewFeedback(
            agentId,
            msg.sender,
            getLastIndex(agentId, msg.sender),
            f.value,
            f.valueDecimals,
            f.tag1,
            f.tag1,
            f.tag2,
            endpoint,
            feedbackURI,
            feedbackHash
        );
    }

    function _find(Filter memory filter) private view returns (Found memory f) {
        if (filter.clients.length == 0) filter.clients = _clients[filter.agentId];
        uint256 size;
        for (uint256 i = 0; i < filter.clients.length; ++i) size += _scan(filter, filter.clients[i], f, size, false);
        f.clients = new address[](size);
        f.indexes = new uint64[](size);
        f.values = new int128[](size);
        f.decimals = new uint8[](size);
        f.tag1s = new string[](size);
        f.tag2s = new string[](size);
        f.revoked = new bool[](size);
        size = 0;
        for (uint256 i = 0; i < filter.clients.length; ++i) size += _scan(filter, filter.clients[i], f, size, true);
    }

    /// @dev How many entries of a client pass; with `write`, they are put into `f` from `at`.
    function _scan(Filter memory filter, address client, Found memory f, uint256 place, bool write)
        private
        view
        returns (uint256 passed)
    {
        Feedback[] storage given = _feedback[filter.agentId][client];
        uint256 length = given.length;
        for (uint256 i = 0; i < length; ++i) {
            if (!_passes(filter, given[i])) continue;
            if (write) _put(f, place + passed, client, uint64(i + 1), given[i]);
            ++passed;
        }
    }

    function _put(Found memory f, uint256 place, address client, uint64 index, Feedback storage given) private view {
        f.clients[place] = client;
        f.indexes[place] = index;
        f.values[place] = given.value;
        f.decimals[place] = given.valueDecimals;
        f.tag1s[place] = given.tag1;
        f.tag2s[place] = given.tag2;
        f.revoked[place] = given.isRevoked;
    }

    function _passes(Filter memory filter, Feedback storage f) private view returns (bool) {
        if (f.isRevoked && !filter.includeRevoked) return false;
        if (filter.tag1 != NO_TAG && filter.tag1 != keccak256(bytes(f.tag1))) return false;
        return filter.tag2 == NO_TAG || filter.tag2 == keccak256(bytes(f.tag2));
    }

    function _answers(bytes32 key, address[] memory responders) private view returns (uint64 count) {
        if (responders.length == 0) responders = _responders[key];
        for (uint256 i = 0; i < responders.length; ++i) count += _responses[key][responders[i]];
    }

    function _at(uint256 agentId, address client, uint64 index) private view returns (Feedback storage) {
        if (index == 0 || index > _feedback[agentId][client].length) revert NoSuchFeedback(index);
        return _feedback[agentId][client][index - 1];
    }

    function _key(uint256 agentId, address client, uint64 index) private pure returns (bytes32) {
        return keccak256(abi.encode(agentId, client, index));
    }

    function _tag(string memory tag) private pure returns (bytes32) {
        return keccak256(bytes(tag));
    }

    /// @dev Values of few decimals scaled up may leave 128 bits: then the summary is the bound.
    function _fit(int256 value) private pure returns (int128) {
        if (value > type(int128).max) return type(int128).max;
        if (value < type(int128).min) return type(int128).min;
        return int128(value);
    }
}

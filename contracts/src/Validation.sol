// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAgents} from "./interfaces/IAgents.sol";
import {IGatekeepers} from "./interfaces/IGatekeepers.sol";
import {IValidationRegistry} from "./interfaces/IValidationRegistry.sol";
import {Statements} from "./Statements.sol";

/// @title ERC-8004 validation, with the committee as the validator of TEE attestations.
/// @notice The committee's validations have this contract as validator, one request hash per agent (`teeRequest`) and the
/// tag "tee-attestation". They read as 0 after their expiry, after a revocation, and when the agent's epoch has moved on.
contract Validation is IValidationRegistry {
    using Statements for Statements.TeeValidation;

    struct Status {
        address validator;
        uint8 response;
        bool responded;
        uint64 lastUpdate;
        uint256 agentId;
        bytes32 responseHash;
        string tag;
    }

    /// @dev What a committee's validation says beyond the standard.
    struct Tee {
        uint64 serial;
        uint64 agentEpoch;
        uint64 expiry;
    }

    uint8 public constant MAX_RESPONSE = 100;
    uint256 public constant MAX_TAG = 64;
    string public constant TEE_TAG = "tee-attestation";

    mapping(bytes32 requestHash => Status) private _status;
    mapping(bytes32 requestHash => Tee) private _tee;
    mapping(uint256 agentId => bytes32[]) private _ofAgent;
    mapping(address validator => bytes32[]) private _ofValidator;

    IAgents public immutable agents;
    IGatekeepers public immutable gatekeepers;

    event TeeValidated(
        bytes32 indexed agent, uint64 indexed agentEpoch, uint64 serial, uint8 response, bytes32 evidence, uint64 expiry
    );

    error NotAuthorized(uint256 agentId, address caller);
    error BadValidator(address validator);
    error RequestExists(bytes32 requestHash);
    error UnknownRequest(bytes32 requestHash);
    error NotValidator(bytes32 requestHash, address caller);
    error BadResponse(uint256 response);
    error TagTooLong();
    error WrongAgent(bytes32 given, bytes32 expected);
    error WrongEpoch(uint64 given, uint64 current);
    error StaleSerial(uint64 given, uint64 held);
    error ValidationExpired(uint64 expiry, uint256 now_);

    constructor(IAgents agents_, IGatekeepers gatekeepers_) {
        (agents, gatekeepers) = (agents_, gatekeepers_);
    }

    function getIdentityRegistry() external view returns (address) {
        return address(agents);
    }

    // --- the committee ---

    /// @notice The request hash under which the committee validates an agent.
    function teeRequest(uint256 agentId) public view returns (bytes32) {
        return keccak256(abi.encode(block.chainid, address(this), agentId, TEE_TAG));
    }

    /// @notice Write, renew or (response 0) revoke the committee's validation. Sent by anybody, signed by t members.
    /// A serial counts once and only upwards, so that no older statement comes back.
    function validate(
        uint256 agentId,
        Statements.TeeValidation calldata v,
        string calldata responseURI,
        bytes[] calldata sigs
    ) external {
        bytes32 request = teeRequest(agentId);
        _requireFresh(agentId, _tee[request].serial, v);
        gatekeepers.requireStatement(v.term, v.hash(), sigs);
        Status storage s = _status[request];
        // A stranger may have taken this hash for a request of its own: the committee's place is the committee's.
        if (_tee[request].serial == 0) {
            _open(s, address(this), agentId, request);
            emit ValidationRequest(address(this), agentId, "", request);
        }
        _tee[request] = Tee(v.serial, v.agentEpoch, v.expiry);
        (s.response, s.responded, s.lastUpdate) = (uint8(v.response), true, uint64(block.timestamp));
        (s.responseHash, s.tag) = (v.evidence, TEE_TAG);
        emit ValidationResponse(address(this), agentId, request, s.response, responseURI, v.evidence, TEE_TAG);
        emit TeeValidated(v.agent, v.agentEpoch, v.serial, s.response, v.evidence, v.expiry);
    }

    // --- ERC-8004 ---

    function validationRequest(
        address validatorAddress,
        uint256 agentId,
        string calldata requestURI,
        bytes32 requestHash
    ) external {
        if (!agents.isAuthorizedOrOwner(msg.sender, agentId)) revert NotAuthorized(agentId, msg.sender);
        if (validatorAddress == address(0) || validatorAddress == address(this)) revert BadValidator(validatorAddress);
        Status storage s = _status[requestHash];
        if (s.validator != address(0)) revert RequestExists(requestHash);
        _open(s, validatorAddress, agentId, requestHash);
        emit ValidationRequest(validatorAddress, agentId, requestURI, requestHash);
    }

    function validationResponse(
        bytes32 requestHash,
        uint8 response,
        string calldata responseURI,
        bytes32 responseHash,
        string calldata tag
    ) external {
        Status storage s = _existing(requestHash);
        if (s.validator != msg.sender) revert NotValidator(requestHash, msg.sender);
        if (response > MAX_RESPONSE) revert BadResponse(response);
        if (bytes(tag).length > MAX_TAG) revert TagTooLong();
        (s.response, s.responded, s.lastUpdate) = (response, true, uint64(block.timestamp));
        (s.responseHash, s.tag) = (responseHash, tag);
        emit ValidationResponse(msg.sender, s.agentId, requestHash, response, responseURI, responseHash, tag);
    }

    // --- views ---

    function getValidationStatus(bytes32 requestHash)
        external
        view
        returns (
            address validatorAddress,
            uint256 agentId,
            uint8 response,
            bytes32 responseHash,
            string memory tag,
            uint256 lastUpdate
        )
    {
        Status storage s = _existing(requestHash);
        response = _counts(requestHash) ? s.response : 0;
        return (s.validator, s.agentId, response, s.responseHash, s.tag, s.lastUpdate);
    }

    /// @notice Mean of the responses that count now. No validators named: all of them. No tag: any.
    function getSummary(uint256 agentId, address[] calldata validatorAddresses, string calldata tag)
        external
        view
        returns (uint64 count, uint8 averageResponse)
    {
        bytes32[] storage requests = _ofAgent[agentId];
        uint256 total;
        for (uint256 i = 0; i < requests.length; ++i) {
            Status storage s = _status[requests[i]];
            if (!s.responded || s.agentId != agentId || !_counts(requests[i])) continue;
            if (bytes(tag).length != 0 && keccak256(bytes(tag)) != keccak256(bytes(s.tag))) continue;
            if (!_named(s.validator, validatorAddresses)) continue;
            ++count;
            total += s.response;
        }
        if (count != 0) averageResponse = uint8(total / count);
    }

    function getAgentValidations(uint256 agentId) external view returns (bytes32[] memory) {
        return _ofAgent[agentId];
    }

    function getValidatorRequests(address validatorAddress) external view returns (bytes32[] memory) {
        return _ofValidator[validatorAddress];
    }

    /// @notice Serial, agent epoch and expiry (a block number) of the committee's validation of an agent.
    function teeValidation(uint256 agentId) external view returns (Tee memory) {
        return _tee[teeRequest(agentId)];
    }

    // --- inside ---

    function _requireFresh(uint256 agentId, uint64 held, Statements.TeeValidation calldata v) private view {
        bytes32 id = agents.agentIdOf(agentId);
        if (v.agent != id) revert WrongAgent(v.agent, id);
        (uint64 epoch,) = agents.live(id);
        if (v.agentEpoch != epoch || epoch == 0) revert WrongEpoch(v.agentEpoch, epoch);
        if (v.serial <= held) revert StaleSerial(v.serial, held);
        if (v.response > MAX_RESPONSE) revert BadResponse(v.response);
        if (v.expiry <= block.number) revert ValidationExpired(v.expiry, block.number);
    }

    /// @dev Others' validations stand until they answer anew; the committee's end by themselves.
    function _counts(bytes32 requestHash) private view returns (bool) {
        Tee storage t = _tee[requestHash];
        if (t.serial == 0) return true;
        (uint64 epoch,) = agents.live(agents.agentIdOf(_status[requestHash].agentId));
        return block.number < t.expiry && t.agentEpoch == epoch;
    }

    function _open(Status storage s, address validator, uint256 agentId, bytes32 requestHash) private {
        (s.validator, s.response, s.responded, s.lastUpdate) = (validator, 0, false, uint64(block.timestamp));
        s.agentId = agentId;
        _ofAgent[agentId].push(requestHash);
        _ofValidator[validator].push(requestHash);
    }

    function _existing(bytes32 requestHash) private view returns (Status storage s) {
        s = _status[requestHash];
        if (s.validator == address(0)) revert UnknownRequest(requestHash);
    }

    function _named(address validator, address[] calldata list) private pure returns (bool) {
        for (uint256 i = 0; i < list.length; ++i) {
            if (list[i] == validator) return true;
        }
        return list.length == 0;
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {IGatekeepers} from "./interfaces/IGatekeepers.sol";
import {Statements} from "./Statements.sol";

/// @title Gatekeepers: candidates, the founding key ceremony, and the committee in office.
/// @notice Part one: the founding committee. A committee is in office only after all its members confirmed the same
/// master public key and transcript. What the committee says, t distinct members sign (`requireSigned`).
contract Gatekeepers is IGatekeepers {
    struct Candidate {
        address operator;
        bytes32 vendorClass;
        bytes32 dkgKey;
        bytes32 evidenceHash;
        string endpoint;
    }

    struct Committee {
        uint64 term;
        uint64 masterEpoch;
        uint16 threshold;
        bytes32 networkId;
        bytes32 transcript;
        bytes32 termSeed;
        bytes32[3] mpk;
        address[] members;
    }

    struct Ceremony {
        bytes32 id;
        bytes32 genesisId;
        bytes32 agreed;
        uint16 committed;
        uint16 confirmed;
    }

    uint256 public constant MAX_MEMBERS = 64;
    uint256 public constant MAX_ENDPOINT = 256;

    Committee private _committee;
    Ceremony private _ceremony;
    address[] private _candidateList;
    mapping(address member => Candidate) private _candidates;
    /// @dev Position + 1 in the committee's list; 0 for strangers.
    mapping(address member => uint256) private _seat;
    mapping(bytes32 ceremony => mapping(address member => bytes32)) private _dealings;
    mapping(bytes32 ceremony => mapping(address member => bool)) private _confirmed;

    /// @notice Opens the founding ceremony, once; has no power after it.
    address public immutable founder;

    event CandidateSet(
        address indexed member,
        address indexed operator,
        bytes32 vendorClass,
        bytes32 dkgKey,
        bytes32 evidenceHash,
        string endpoint
    );
    event FoundingOpened(bytes32 indexed ceremony, bytes32 indexed genesisId, address[] members, uint16 threshold);
    event DealingCommitted(bytes32 indexed ceremony, address indexed member, bytes32 digest);
    event Confirmed(bytes32 indexed ceremony, address indexed member, bytes mpk, bytes32 transcript);
    event CommitteeInOffice(uint64 indexed term, bytes32 indexed networkId, bytes mpk, bytes32 transcript);

    error NotFounder(address caller);
    error FoundingAlreadyOpen();
    error NoCandidate(address member);
    error FrozenCandidate(address member);
    error BadCandidate();
    error DuplicateMember(address member);
    error BadThreshold(uint256 threshold, uint256 members);
    error TooManySeatsOfVendor(bytes32 vendorClass, uint256 seats, uint256 allowed);
    error TooManySeatsOfOperator(address operator, uint256 seats, uint256 allowed);
    error WrongCeremony(bytes32 given, bytes32 open);
    error NotAMember(address caller);
    error AlreadyCommitted(address member);
    error EmptyDigest();
    error DealingsMissing(uint256 committed, uint256 members);
    error AlreadyConfirmed(address member);
    error BadKeyLength(uint256 length);
    error ConflictingConfirmation(bytes32 agreed, bytes32 given);
    error NoCommitteeInOffice();
    error WrongTerm(uint64 given, uint64 inOffice);
    error TooManySignatures(uint256 given, uint256 members);
    error BadSignature(uint256 index);
    error TooFewSigners(uint256 found, uint256 needed);

    constructor(address founder_) {
        founder = founder_;
    }

    // --- candidates ---

    /// @notice A gatekeeper describes itself. Its claims count only as far as its evidence goes.
    /// A member of the ceremony can no longer change what the others already verified.
    function setCandidate(
        address operator,
        bytes32 vendorClass,
        bytes32 dkgKey,
        bytes32 evidenceHash,
        string calldata endpoint
    ) external {
        if (_seat[msg.sender] != 0) revert FrozenCandidate(msg.sender);
        if (operator == address(0) || vendorClass == 0 || dkgKey == 0 || evidenceHash == 0) revert BadCandidate();
        if (bytes(endpoint).length == 0 || bytes(endpoint).length > MAX_ENDPOINT) revert BadCandidate();
        if (_candidates[msg.sender].operator == address(0)) _candidateList.push(msg.sender);
        _candidates[msg.sender] = Candidate(operator, vendorClass, dkgKey, evidenceHash, endpoint);
        emit CandidateSet(msg.sender, operator, vendorClass, dkgKey, evidenceHash, endpoint);
    }

    // --- founding ---

    /// @notice Name the founding committee, once. Seats per vendor class and per operator <= min(t - 1, n - t):
    /// no vendor and no operator alone can read, and none can stop the others.
    function openFounding(address[] calldata chosen, uint16 needed, bytes32 genesisId) external {
        if (msg.sender != founder) revert NotFounder(msg.sender);
        if (_ceremony.id != 0) revert FoundingAlreadyOpen();
        if (genesisId == 0) revert EmptyDigest();
        _requireSeatRule(chosen, needed);
        for (uint256 i = 0; i < chosen.length; ++i) {
            if (_seat[chosen[i]] != 0) revert DuplicateMember(chosen[i]);
            _seat[chosen[i]] = i + 1;
        }
        _committee.members = chosen;
        _committee.threshold = needed;
        _ceremony.id = keccak256(abi.encode(genesisId, address(this), uint64(1)));
        _ceremony.genesisId = genesisId;
        emit FoundingOpened(_ceremony.id, genesisId, chosen, needed);
    }

    /// @notice A member commits to its dealing before anybody sees one.
    function commitDealing(bytes32 ceremonyId, bytes32 digest) external {
        _requireMember(ceremonyId);
        if (digest == 0) revert EmptyDigest();
        if (_dealings[ceremonyId][msg.sender] != 0) revert AlreadyCommitted(msg.sender);
        _dealings[ceremonyId][msg.sender] = digest;
        ++_ceremony.committed;
        emit DealingCommitted(ceremonyId, msg.sender, digest);
    }

    /// @notice A member confirms what it computed. When all n confirmed the same, the committee is in office.
    /// @param mpk master public key, 96 bytes, compressed G2.
    function confirm(bytes32 ceremonyId, bytes calldata mpk, bytes32 transcript) external {
        _requireMember(ceremonyId);
        uint256 n = _committee.members.length;
        if (_ceremony.committed != n) revert DealingsMissing(_ceremony.committed, n);
        if (_confirmed[ceremonyId][msg.sender]) revert AlreadyConfirmed(msg.sender);
        if (mpk.length != 96) revert BadKeyLength(mpk.length);
        if (transcript == 0) revert EmptyDigest();
        bytes32 value = keccak256(abi.encode(mpk, transcript));
        if (_ceremony.agreed == 0) _ceremony.agreed = value;
        else if (_ceremony.agreed != value) revert ConflictingConfirmation(_ceremony.agreed, value);
        _confirmed[ceremonyId][msg.sender] = true;
        emit Confirmed(ceremonyId, msg.sender, mpk, transcript);
        if (++_ceremony.confirmed == n) _takeOffice(mpk, transcript);
    }

    // --- signatures ---

    /// @inheritdoc IGatekeepers
    function requireStatement(uint64 term_, bytes32 structHash, bytes[] calldata sigs) external view {
        if (term_ != _committee.term || term_ == 0) revert WrongTerm(term_, _committee.term);
        requireSigned(structHash, sigs);
    }

    /// @inheritdoc IGatekeepers
    /// @dev 1. a committee is in office; 2. at most n signatures; 3. each recovers to a member, low s;
    /// 4. no member counts twice; 5. at least t remain. The same steps as `verify_committee` in Python.
    function requireSigned(bytes32 structHash, bytes[] calldata sigs) public view {
        if (_committee.term == 0) revert NoCommitteeInOffice(); // 1
        uint256 n = _committee.members.length;
        if (sigs.length > n) revert TooManySignatures(sigs.length, n); // 2
        bytes32 digest = Statements.digest(_committee.networkId, structHash);
        uint256 seen;
        uint256 found;
        for (uint256 i = 0; i < sigs.length; ++i) {
            (address signer, ECDSA.RecoverError problem,) = ECDSA.tryRecoverCalldata(digest, sigs[i]); // 3
            if (problem != ECDSA.RecoverError.NoError) revert BadSignature(i);
            uint256 seat = _seat[signer];
            if (seat == 0) revert NotAMember(signer);
            if (seen & (1 << seat) == 0) ++found; // 4
            seen |= 1 << seat;
        }
        if (found < _committee.threshold) revert TooFewSigners(found, _committee.threshold); // 5
    }

    // --- views ---

    /// @notice The committee; `term` is 0 until it is in office.
    function committee() external view returns (Committee memory) {
        return _committee;
    }

    function ceremony() external view returns (Ceremony memory) {
        return _ceremony;
    }

    function candidate(address member) external view returns (Candidate memory) {
        return _candidates[member];
    }

    function candidates() external view returns (address[] memory) {
        return _candidateList;
    }

    /// @notice A member's dealing digest; 0 if it has not committed.
    function dealing(bytes32 ceremonyId, address member) external view returns (bytes32) {
        return _dealings[ceremonyId][member];
    }

    function hasConfirmed(bytes32 ceremonyId, address member) external view returns (bool) {
        return _confirmed[ceremonyId][member];
    }

    function members() external view returns (address[] memory) {
        return _committee.members;
    }

    function threshold() external view returns (uint16) {
        return _committee.threshold;
    }

    function term() external view returns (uint64) {
        return _committee.term;
    }

    function masterEpoch() external view returns (uint64) {
        return _committee.masterEpoch;
    }

    function networkId() external view returns (bytes32) {
        return _committee.networkId;
    }

    function masterPublicKey() external view returns (bytes memory) {
        return abi.encodePacked(_committee.mpk);
    }

    // --- inside ---

    function _requireMember(bytes32 ceremonyId) private view {
        if (_ceremony.id == 0 || ceremonyId != _ceremony.id) revert WrongCeremony(ceremonyId, _ceremony.id);
        if (_seat[msg.sender] == 0) revert NotAMember(msg.sender);
    }

    function _requireSeatRule(address[] calldata chosen, uint256 t) private view {
        uint256 n = chosen.length;
        if (n > MAX_MEMBERS || t < 2 || t >= n) revert BadThreshold(t, n);
        uint256 allowed = t - 1 < n - t ? t - 1 : n - t;
        for (uint256 i = 0; i < n; ++i) {
            Candidate storage c = _candidates[chosen[i]];
            if (c.operator == address(0)) revert NoCandidate(chosen[i]);
            uint256 sameVendor;
            uint256 sameOperator;
            for (uint256 j = 0; j < n; ++j) {
                Candidate storage other = _candidates[chosen[j]];
                if (other.vendorClass == c.vendorClass) ++sameVendor;
                if (other.operator == c.operator) ++sameOperator;
            }
            if (sameVendor > allowed) revert TooManySeatsOfVendor(c.vendorClass, sameVendor, allowed);
            if (sameOperator > allowed) revert TooManySeatsOfOperator(c.operator, sameOperator, allowed);
        }
    }

    /// @dev networkId = sha256(frame(NETWORK_ID, "network", genesisId, transcript)), spec/encoding.md 3 and 7.
    function _takeOffice(bytes calldata mpk, bytes32 transcript) private {
        bytes32 id = sha256(
            abi.encodePacked(
                "cloister/v1/network-id",
                uint8(0),
                uint32(7),
                "network",
                uint32(32),
                _ceremony.genesisId,
                uint32(32),
                transcript
            )
        );
        Committee storage c = _committee;
        c.term = 1;
        c.masterEpoch = 1;
        c.networkId = id;
        c.transcript = transcript;
        c.mpk = [bytes32(mpk[0:32]), bytes32(mpk[32:64]), bytes32(mpk[64:96])];
        c.termSeed = keccak256(abi.encode(blockhash(block.number - 1), id, uint64(1)));
        emit CommitteeInOffice(1, id, mpk, transcript);
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {Statements} from "./Statements.sol";

/// @title The committee in office, the terms before it, what t distinct members signed (spec/gatekeepers.md H1-H3).
/// @notice Storage and rules that both halves of Gatekeepers share.
abstract contract Office {
    /// @notice The committee in office, with the newest master epoch's key.
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

    /// @notice `ceremony` made the term: its receivers are the members. `mpkHash`: of the key with which it began.
    /// `revoked`: seats that count in nothing, bit i - 1 for seat i.
    struct Term {
        uint64 ceremony;
        uint64 height;
        uint64 timestamp;
        uint64 masterEpoch;
        bytes32 mpkHash;
        uint64 revoked;
        uint16 threshold;
        uint16 size;
    }

    Committee internal _committee;
    mapping(uint64 term => Term) internal _terms;
    /// @dev Signatures of t members of a term under its hand-over, 65 bytes each.
    mapping(uint64 term => bytes) internal _handovers;
    /// @dev Position + 1 among the receivers of a ceremony; 0 for strangers.
    mapping(uint64 ceremony => mapping(address member => uint256)) internal _seats;

    event CommitteeInOffice(uint64 indexed term, bytes32 indexed networkId, bytes mpk, bytes32 transcript);
    event HandedOver(uint64 indexed term, bytes32 structHash);

    error NotAMember(address caller);
    error NoCommitteeInOffice();
    error WrongTerm(uint64 given, uint64 inOffice);
    error TooManySignatures(uint256 given, uint256 members);
    error BadSignature(uint256 index);
    error TooFewSigners(uint256 found, uint256 needed);
    error AlreadyHandedOver(uint64 term);

    // --- inside ---

    function _grace() internal view virtual returns (uint256);

    function _membersOf(uint64 ceremony) internal view virtual returns (address[] memory);

    /// @dev Seat of a member in a term, from 1; 0 for strangers.
    function _seatIn(uint64 term_, address member) internal view returns (uint256) {
        return term_ == 0 ? 0 : _seats[_terms[term_].ceremony][member];
    }

    function _isSeated(address member) internal view returns (bool) {
        return _seatIn(_committee.term, member) != 0;
    }

    /// @dev The term before speaks for `eraseDelay` blocks more: what it signed is on its way.
    function _requireStatement(uint64 term_, bytes32 structHash, bytes[] calldata sigs) internal view {
        uint64 now_ = _committee.term;
        bool before = term_ + 1 == now_ && block.number <= _terms[now_].height + _grace();
        if (term_ == 0 || (term_ != now_ && !before)) revert WrongTerm(term_, now_);
        _requireSignedBy(term_, structHash, sigs);
    }

    /// @dev 1. at most n signatures; 2. each recovers to a member, low s; 3. a revoked seat counts in nothing; 4. no member
    /// counts twice; 5. at least t remain. The same steps as `verify_committee` in Python.
    function _requireSignedBy(uint64 term_, bytes32 structHash, bytes[] calldata sigs) internal view {
        Term memory t = _terms[term_];
        if (sigs.length > t.size) revert TooManySignatures(sigs.length, t.size); // 1
        bytes32 digest = Statements.digest(_committee.networkId, structHash);
        uint256 seen = uint256(t.revoked) << 1; // 3
        uint256 found;
        for (uint256 i = 0; i < sigs.length; ++i) {
            (address signer, ECDSA.RecoverError problem,) = ECDSA.tryRecoverCalldata(digest, sigs[i]); // 2
            if (problem != ECDSA.RecoverError.NoError) revert BadSignature(i);
            uint256 seat = _seats[t.ceremony][signer];
            if (seat == 0) revert NotAMember(signer);
            if (seen & (1 << seat) == 0) ++found; // 4
            seen |= 1 << seat;
        }
        if (found < t.threshold) revert TooFewSigners(found, t.threshold); // 5
    }
}

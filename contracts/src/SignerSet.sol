// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {Gatekeepers} from "./Gatekeepers.sol";
import {Statements} from "./Statements.sol";

/// @title The committee as a contract on any chain knows it: one signer set per term, handed over, expiring.
/// @notice On the network's own chain anybody copies the committee in office (`adopt`). On another chain a founder names
/// the first set once, and from then on each set names the next (`handOver`). An expired set can do nothing, not even
/// hand over: a new contract is published in the Directory.
abstract contract SignerSet {
    using Statements for Statements.SignerHandover;

    struct Set {
        uint64 term;
        uint64 expiry;
        uint16 threshold;
        uint16 size;
    }

    uint64 public constant MAX_TERM = 90 days;
    uint256 public constant MAX_SIGNERS = 64;

    Set internal _set;
    bytes32 public networkId;
    /// @dev Seat + 1 of a signer in a term; 0 for strangers.
    mapping(uint64 term => mapping(address signer => uint256)) private _seat;

    /// @notice The Gatekeepers contract of this chain; 0 on a chain that is not the network's own.
    Gatekeepers public immutable committee;
    /// @notice Names the first set where there is no Gatekeepers contract; has no power after it.
    address public immutable founder;

    event SignerSetChanged(uint64 indexed term, bytes32 indexed networkId, address[] members, uint16 threshold, uint64 expiry);

    error NotFounder(address caller);
    error NotHere();
    error AlreadyInstalled();
    error BadSet();
    error WrongTerm(uint64 given, uint64 inOffice);
    error SetExpired(uint64 expiry, uint256 now_);
    error WrongPlace(uint256 chainId, address anchor);
    error TermNotNewer(uint64 given, uint64 held);
    error WrongMembers(bytes32 given);
    error TooManySignatures(uint256 given, uint256 members);
    error BadSignature(uint256 index);
    error NotASigner(address signer);
    error TooFewSigners(uint256 found, uint256 needed);

    constructor(Gatekeepers committee_, address founder_) {
        (committee, founder) = (committee_, founder_);
    }

    /// @notice Copy the committee in office of this chain's Gatekeepers contract; again to extend its time.
    function adopt() external {
        if (address(committee) == address(0)) revert NotHere();
        Gatekeepers.Committee memory c = committee.committee();
        if (c.term == 0 || c.term < _set.term) revert TermNotNewer(c.term, _set.term);
        networkId = c.networkId;
        _install(c.term, c.members, c.threshold, uint64(block.timestamp) + MAX_TERM);
    }

    /// @notice The first set of a chain that has no Gatekeepers contract, by the founder, once.
    function install(bytes32 network, uint64 term, address[] calldata members, uint16 threshold, uint64 expiry)
        external
    {
        if (address(committee) != address(0)) revert NotHere();
        if (msg.sender != founder) revert NotFounder(msg.sender);
        if (_set.term != 0) revert AlreadyInstalled();
        if (network == 0 || term == 0) revert BadSet();
        networkId = network;
        _install(term, members, threshold, expiry);
    }

    /// @notice The next set, named by t signers of the current one.
    function handOver(Statements.SignerHandover calldata h, address[] calldata members, bytes[] calldata sigs) external {
        if (address(committee) != address(0)) revert NotHere();
        _requirePlace(h.chainId, h.anchor);
        if (h.nextTerm <= _set.term) revert TermNotNewer(h.nextTerm, _set.term);
        if (keccak256(abi.encode(members)) != h.members) revert WrongMembers(h.members);
        if (h.threshold > MAX_SIGNERS) revert BadSet();
        _requireSigned(h.term, h.hash(), sigs);
        _install(h.nextTerm, members, uint16(h.threshold), h.expiry);
    }

    /// @notice Term, expiry (Unix seconds), threshold and size of the current set.
    function signerSet() external view returns (Set memory) {
        return _set;
    }

    function isSigner(address who) external view returns (bool) {
        return _seat[_set.term][who] != 0;
    }

    /// @notice Reverts unless t distinct signers of the current set, which is that of `term`, signed the struct hash.
    function requireStatement(uint64 term, bytes32 structHash, bytes[] calldata sigs) external view {
        _requireSigned(term, structHash, sigs);
    }

    /// @dev 1. the term is the current one; 2. the set has not expired; 3. at most n signatures; 4. each recovers to a
    /// signer, low s; 5. none counts twice; 6. at least t remain. The same steps as in Gatekeepers and in Python.
    function _requireSigned(uint64 term, bytes32 structHash, bytes[] calldata sigs) internal view {
        Set memory s = _set;
        if (term != s.term || term == 0) revert WrongTerm(term, s.term); // 1
        if (block.timestamp >= s.expiry) revert SetExpired(s.expiry, block.timestamp); // 2
        if (sigs.length > s.size) revert TooManySignatures(sigs.length, s.size); // 3
        bytes32 digest = Statements.digest(networkId, structHash);
        uint256 seen;
        uint256 found;
        for (uint256 i = 0; i < sigs.length; ++i) {
            (address signer, ECDSA.RecoverError problem,) = ECDSA.tryRecoverCalldata(digest, sigs[i]); // 4
            if (problem != ECDSA.RecoverError.NoError) revert BadSignature(i);
            uint256 seat = _seat[term][signer];
            if (seat == 0) revert NotASigner(signer);
            if (seen & (1 << seat) == 0) ++found; // 5
            seen |= 1 << seat;
        }
        if (found < s.threshold) revert TooFewSigners(found, s.threshold); // 6
    }

    function _requirePlace(uint256 chainId, address anchor) internal view {
        if (chainId != block.chainid || anchor != address(this)) revert WrongPlace(chainId, anchor);
    }

    function _install(uint64 term, address[] memory members, uint16 threshold, uint64 expiry) private {
        uint256 n = members.length;
        if (n > MAX_SIGNERS || threshold < 2 || threshold > n) revert BadSet();
        if (expiry <= block.timestamp || expiry > block.timestamp + MAX_TERM) revert BadSet();
        bool known = _set.term == term;
        for (uint256 i = 0; !known && i < n; ++i) {
            if (members[i] == address(0) || _seat[term][members[i]] != 0) revert BadSet();
            _seat[term][members[i]] = i + 1;
        }
        _set = Set(term, expiry, threshold, uint16(n));
        emit SignerSetChanged(term, networkId, members, threshold, expiry);
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Candidates} from "../src/Candidates.sol";
import {CommitteeStatements} from "../src/CommitteeStatements.sol";
import {Gatekeepers} from "../src/Gatekeepers.sol";
import {Seats} from "../src/Seats.sol";
import {Token} from "../src/Token.sol";
import {Statements} from "../src/Statements.sol";
import {Checks} from "./Vm.sol";

/// @notice A committee of five in office: 3 of 5 over three vendor classes and five operators.
abstract contract Founded is Checks {
    uint16 internal constant T = 3;
    uint256 internal constant N = 5;

    Gatekeepers internal gatekeepers;
    /// @dev The other half, at the same address.
    Seats internal seats;
    Token internal pha;
    uint256 private keysMade;
    uint256[] internal memberKeys;
    bytes32 internal constant GENESIS = keccak256("genesis");
    bytes32 internal constant TRANSCRIPT = keccak256("transcript");

    function mpk() internal pure returns (bytes memory) {
        return abi.encodePacked(keccak256("a"), keccak256("b"), keccak256("c"));
    }

    function vendor(uint256 i) internal pure returns (bytes32) {
        return bytes32(i / 2 + 1);
    }

    /// @dev Windows of ten blocks, free seats.
    function quick() internal pure returns (Candidates.Rules memory) {
        return Candidates.Rules(10, 1000, 200, 5000, 64, 50, 0, 0);
    }

    /// @dev A new contract with nobody in office; this test is DAO and founder, and has all tokens.
    function fresh(Candidates.Rules memory rules) internal {
        pha = new Token(address(this));
        gatekeepers = new Gatekeepers(address(this), new Seats(address(this), pha), rules);
        seats = Seats(address(gatekeepers));
    }

    function found() internal {
        fresh(quick());
        run(open(candidates(), T));
    }

    function open(address[] memory chosen, uint16 needed) internal returns (bytes32) {
        seats.openFounding(chosen, needed, GENESIS);
        return gatekeepers.ceremony().id;
    }

    /// @dev Everybody takes part and agrees, without a complaint.
    function run(bytes32 id) internal {
        run(id, mpk(), TRANSCRIPT);
    }

    function run(bytes32 id, bytes memory key, bytes32 transcript) internal {
        address[] memory receivers = gatekeepers.ceremonyOf(id).receivers;
        address[] memory dealers = dealersOf(id);
        for (uint256 i = 0; i < dealers.length; ++i) commitAs(id, dealers[i]);
        for (uint256 i = 0; i < receivers.length; ++i) contentAs(id, receivers[i], 1);
        for (uint256 i = 0; i < receivers.length; ++i) {
            confirmAs(id, receivers[i], key, transcript, uint64((1 << dealers.length) - 1));
        }
    }

    function dealersOf(bytes32 id) internal view returns (address[] memory) {
        uint64 term = gatekeepers.ceremonyOf(id).dealerTerm;
        return term == 0 ? gatekeepers.ceremonyOf(id).receivers : gatekeepers.members();
    }

    function commitAs(bytes32 id, address who) internal {
        bytes32 digest = sha256(frameOf(who)); // a call of its own: it would use up the prank
        vm.prank(who);
        gatekeepers.commitDealing(id, digest);
    }

    function frameOf(address who) internal pure returns (bytes memory) {
        return abi.encode("dealing", who);
    }

    function contentAs(bytes32 id, address who, uint8 round) internal {
        vm.prank(who);
        gatekeepers.content(id, round);
    }

    function confirmAs(bytes32 id, address who, bytes memory key, bytes32 transcript, uint64 qualified) internal {
        vm.prank(who);
        gatekeepers.confirm(id, key, transcript, qualified);
    }

    /// @dev Five candidates, one per key; fills `memberKeys`.
    function candidates() internal returns (address[] memory members) {
        members = new address[](N);
        delete memberKeys;
        for (uint256 i = 0; i < N; ++i) {
            memberKeys.push(uint256(keccak256(abi.encode("member", i))));
            members[i] = vm.addr(memberKeys[i]);
            setCandidate(members[i], address(uint160(0x1000 + i)), vendor(i));
        }
    }

    /// @dev With a ceremony key that nobody registered before.
    function setCandidate(address member, address operator, bytes32 class) internal {
        bytes32 key = newKey();
        vm.prank(member);
        seats.setCandidate(operator, class, key, bytes32(uint256(8)), "http://127.0.0.1:1");
    }

    function admissionOf(address member, uint64 expiry)
        internal
        view
        returns (CommitteeStatements.CandidateAdmission memory)
    {
        Candidates.Candidate memory c = seats.candidate(member);
        bytes32 endpoint = keccak256(bytes(c.endpoint));
        return CommitteeStatements.CandidateAdmission(
            gatekeepers.term(), member, c.operator, c.vendorClass, c.dkgKey, endpoint, expiry
        );
    }

    /// @dev t members admit a candidate for as long as they may (E9).
    function admit(address member) internal {
        CommitteeStatements.CandidateAdmission memory s = admissionOf(member, uint64(block.number) + 4096);
        seats.admit(s, signAll(CommitteeStatements.hash(s), memberKeys.length));
    }

    function newKey() internal returns (bytes32) {
        return keccak256(abi.encode("key", address(this), ++keysMade));
    }

    /// @dev Everybody in office registers a key for the next ceremony.
    function newKeys() internal {
        address[] memory members = gatekeepers.members();
        for (uint256 i = 0; i < members.length; ++i) {
            bytes32 key = newKey();
            vm.prank(members[i]);
            seats.setKey(key, bytes32(uint256(9)));
        }
    }

    function signOne(uint256 key, bytes32 structHash) internal view returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, Statements.digest(gatekeepers.networkId(), structHash));
        return abi.encodePacked(r, s, v);
    }

    /// @dev Signatures of the first `count` members.
    function signAll(bytes32 structHash, uint256 count) internal view returns (bytes[] memory sigs) {
        sigs = new bytes[](count);
        for (uint256 i = 0; i < count; ++i) sigs[i] = signOne(memberKeys[i], structHash);
    }
}

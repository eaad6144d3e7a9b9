// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Gatekeepers} from "../src/Gatekeepers.sol";
import {Statements} from "../src/Statements.sol";
import {Checks} from "./Vm.sol";

/// @notice A committee of five in office: 3 of 5 over three vendor classes and five operators.
abstract contract Founded is Checks {
    uint16 internal constant T = 3;
    uint256 internal constant N = 5;

    Gatekeepers internal gatekeepers;
    uint256[] internal memberKeys;
    bytes32 internal constant GENESIS = keccak256("genesis");
    bytes32 internal constant TRANSCRIPT = keccak256("transcript");

    function mpk() internal pure returns (bytes memory) {
        return abi.encodePacked(keccak256("a"), keccak256("b"), keccak256("c"));
    }

    function vendor(uint256 i) internal pure returns (bytes32) {
        return bytes32(i / 2 + 1);
    }

    function found() internal {
        gatekeepers = new Gatekeepers(address(this));
        address[] memory members = candidates();
        gatekeepers.openFounding(members, T, GENESIS);
        bytes32 id = gatekeepers.ceremony().id;
        for (uint256 i = 0; i < N; ++i) {
            vm.prank(members[i]);
            gatekeepers.commitDealing(id, keccak256(abi.encode("dealing", i)));
        }
        for (uint256 i = 0; i < N; ++i) {
            vm.prank(members[i]);
            gatekeepers.confirm(id, mpk(), TRANSCRIPT);
        }
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

    function setCandidate(address member, address operator, bytes32 class) internal {
        vm.prank(member);
        gatekeepers.setCandidate(operator, class, bytes32(uint256(7)), bytes32(uint256(8)), "http://127.0.0.1:1");
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

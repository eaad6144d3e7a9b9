// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @notice The cheat codes that these tests use; forge answers them at this fixed address.
interface Vm {
    function prank(address sender) external;
    function startPrank(address sender) external;
    function stopPrank() external;
    function roll(uint256 number) external;
    function warp(uint256 timestamp) external;
    function deal(address who, uint256 balance) external;
    function addr(uint256 key) external pure returns (address);
    function sign(uint256 key, bytes32 digest) external pure returns (uint8 v, bytes32 r, bytes32 s);
    function expectRevert(bytes calldata reason) external;
    function expectRevert(bytes4 reason) external;
    function expectEmit() external;
    function assume(bool condition) external pure;
    function readFile(string calldata path) external view returns (string memory);
    function parseJsonBytes32(string calldata json, string calldata key) external pure returns (bytes32);
    function parseJsonBytes(string calldata json, string calldata key) external pure returns (bytes memory);
    function parseJsonBytesArray(string calldata json, string calldata key) external pure returns (bytes[] memory);
    function parseJsonAddress(string calldata json, string calldata key) external pure returns (address);
    function parseJsonAddressArray(string calldata json, string calldata key) external pure returns (address[] memory);
    function parseJsonUint(string calldata json, string calldata key) external pure returns (uint256);
    function parseJsonUintArray(string calldata json, string calldata key) external pure returns (uint256[] memory);
    function toString(uint256 value) external pure returns (string memory);
    function parseJsonString(string calldata json, string calldata key) external pure returns (string memory);
}

/// @notice Base of all tests: the cheat codes and comparisons with both values in the failure.
abstract contract Checks {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    error Different(uint256 found, uint256 expected);
    error DifferentBytes(bytes found, bytes expected);

    function equal(uint256 found, uint256 expected) internal pure {
        if (found != expected) revert Different(found, expected);
    }

    function equal(bytes32 found, bytes32 expected) internal pure {
        equal(uint256(found), uint256(expected));
    }

    function equal(address found, address expected) internal pure {
        equal(uint160(found), uint160(expected));
    }

    function equal(bool found, bool expected) internal pure {
        equal(found ? 1 : 0, expected ? 1 : 0);
    }

    function equal(bytes memory found, bytes memory expected) internal pure {
        if (keccak256(found) != keccak256(expected)) revert DifferentBytes(found, expected);
    }

    function bound(uint256 value, uint256 low, uint256 high) internal pure returns (uint256) {
        return low + value % (high - low + 1);
    }

    function named(string memory name) internal pure returns (address) {
        return address(uint160(uint256(keccak256(bytes(name)))));
    }
}

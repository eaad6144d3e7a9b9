// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Directory} from "../src/Directory.sol";
import {Checks} from "./Vm.sol";

contract DirectoryTest is Checks {
    bytes32 internal constant NAME = keccak256("Agents");
    Directory internal directory;

    function setUp() public {
        directory = new Directory(address(this));
    }

    function test_versions_are_appended_and_stay() public {
        directory.publish(NAME, 1, address(directory));
        directory.publish(NAME, 2, address(this));
        equal(directory.get(NAME, 1), address(directory));
        equal(directory.get(NAME, 2), address(this));
        (uint256 version, address target) = directory.latest(NAME);
        equal(version, 2);
        equal(target, address(this));
    }

    function test_fuzz_only_the_next_version(uint256 version) public {
        directory.publish(NAME, 1, address(this));
        vm.assume(version != 2);
        vm.expectRevert(abi.encodeWithSelector(Directory.WrongVersion.selector, 2, version));
        directory.publish(NAME, version, address(this));
    }

    function test_unknown_names_and_versions() public {
        vm.expectRevert(abi.encodeWithSelector(Directory.UnknownVersion.selector, NAME, 0));
        directory.latest(NAME);
        directory.publish(NAME, 1, address(this));
        vm.expectRevert(abi.encodeWithSelector(Directory.UnknownVersion.selector, NAME, 0));
        directory.get(NAME, 0);
        vm.expectRevert(abi.encodeWithSelector(Directory.UnknownVersion.selector, NAME, 2));
        directory.get(NAME, 2);
    }

    function test_only_contracts_are_listed() public {
        vm.expectRevert(abi.encodeWithSelector(Directory.NotAContract.selector, address(0x55)));
        directory.publish(NAME, 1, address(0x55));
    }

    function test_fuzz_only_the_owner(address who) public {
        vm.assume(who != address(this));
        vm.prank(who);
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, who));
        directory.publish(NAME, 1, address(this));
    }

    function test_ownership_moves_in_two_steps() public {
        address heir = named("heir");
        directory.transferOwnership(heir);
        equal(directory.owner(), address(this));
        vm.prank(heir);
        directory.acceptOwnership();
        equal(directory.owner(), heir);
    }
}

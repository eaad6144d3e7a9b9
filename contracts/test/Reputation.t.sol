// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Agents} from "../src/Agents.sol";
import {Clusters} from "../src/Clusters.sol";
import {Reputation} from "../src/Reputation.sol";
import {IReputationRegistry} from "../src/interfaces/IReputationRegistry.sol";
import {Founded} from "./Founded.sol";

contract ReputationTest is Founded {
    Agents internal agents;
    Reputation internal reputation;
    address internal owner = named("owner");
    address internal alice = named("alice");
    address internal bob = named("bob");
    uint256 internal id;

    function setUp() public {
        found();
        agents = new Agents(gatekeepers, new Clusters(address(this), 3));
        reputation = new Reputation(agents);
        vm.prank(owner);
        id = agents.register();
    }

    function give(address who, int128 value, uint8 decimals, string memory tag) internal {
        vm.prank(who);
        reputation.giveFeedback(id, value, decimals, tag, "", "", "", 0);
    }

    function pair() internal view returns (address[] memory list) {
        list = new address[](2);
        (list[0], list[1]) = (alice, bob);
    }

    function test_the_event_is_the_standards() public {
        vm.expectEmit();
        emit IReputationRegistry.NewFeedback(id, alice, 1, -5, 1, "a", "a", "b", "c", "d", bytes32(uint256(9)));
        vm.prank(alice);
        reputation.giveFeedback(id, -5, 1, "a", "b", "c", "d", bytes32(uint256(9)));
        equal(reputation.getLastIndex(id, alice), 1);
        equal(reputation.getClients(id).length, 1);
        equal(reputation.getIdentityRegistry(), address(agents));
    }

    function test_nobody_praises_its_own_agent() public {
        vm.prank(owner);
        agents.approve(bob, id);
        address[2] memory own = [owner, bob];
        for (uint256 i = 0; i < 2; ++i) {
            vm.expectRevert(abi.encodeWithSelector(Reputation.SelfFeedback.selector, own[i]));
            give(own[i], 100, 0, "");
        }
    }

    function test_values_have_bounds() public {
        vm.startPrank(alice);
        vm.expectRevert(Reputation.BadValue.selector);
        reputation.giveFeedback(id, 1e38 + 1, 0, "", "", "", "", 0);
        vm.expectRevert(Reputation.BadValue.selector);
        reputation.giveFeedback(id, -1e38 - 1, 0, "", "", "", "", 0);
        vm.expectRevert(abi.encodeWithSelector(Reputation.BadDecimals.selector, 19));
        reputation.giveFeedback(id, 1, 19, "", "", "", "", 0);
        vm.expectRevert(Reputation.TagTooLong.selector);
        reputation.giveFeedback(id, 1, 0, string(new bytes(65)), "", "", "", 0);
        vm.expectRevert(abi.encodeWithSignature("ERC721NonexistentToken(uint256)", 99));
        reputation.giveFeedback(99, 1, 0, "", "", "", "", 0);
        vm.stopPrank();
    }

    function test_the_summary_is_over_named_clients_and_skips_the_revoked() public {
        give(alice, 80, 0, "speed");
        give(bob, 905, 1, "speed");
        give(bob, 10, 0, "price");
        give(named("sybil"), 0, 0, "speed");
        (uint64 count, int128 value, uint8 decimals) = reputation.getSummary(id, pair(), "speed", "");
        equal(count, 2);
        equal(decimals, 1);
        equal(uint256(int256(value)), 852);
        vm.prank(bob);
        reputation.revokeFeedback(id, 1);
        (count, value, decimals) = reputation.getSummary(id, pair(), "speed", "");
        equal(count, 1);
        equal(uint256(int256(value)), 80);
        vm.expectRevert(Reputation.ClientsRequired.selector);
        reputation.getSummary(id, new address[](0), "", "");
    }

    function test_fuzz_the_mean_lies_between_least_and_most(int128[8] memory values) public {
        int128 least = type(int128).max;
        int128 most = type(int128).min;
        for (uint256 i = 0; i < 8; ++i) {
            int128 v = values[i] % 1e38;
            if (v < least) least = v;
            if (v > most) most = v;
            give(i % 2 == 0 ? alice : bob, v, 0, "");
        }
        (uint64 count, int128 mean,) = reputation.getSummary(id, pair(), "", "");
        equal(count, 8);
        equal(mean >= least && mean <= most, true);
    }

    function test_reading_one_and_all() public {
        give(alice, 1, 0, "x");
        give(alice, 2, 0, "y");
        give(bob, 3, 0, "x");
        vm.prank(alice);
        reputation.revokeFeedback(id, 1);
        (int128 value,, string memory tag1,, bool revoked) = reputation.readFeedback(id, alice, 1);
        equal(uint256(int256(value)), 1);
        equal(bytes(tag1), "x");
        equal(revoked, true);
        (address[] memory clients, uint64[] memory indexes, int128[] memory values,,,,) =
            reputation.readAllFeedback(id, new address[](0), "", "", false);
        equal(clients.length, 2);
        equal(clients[0], alice);
        equal(indexes[0], 2);
        equal(uint256(int256(values[1])), 3);
        (clients,,,,,,) = reputation.readAllFeedback(id, pair(), "x", "", true);
        equal(clients.length, 2);
    }

    function test_only_what_exists_is_revoked_once() public {
        vm.startPrank(alice);
        vm.expectRevert(abi.encodeWithSelector(Reputation.NoSuchFeedback.selector, 1));
        reputation.revokeFeedback(id, 1);
        vm.stopPrank();
        give(alice, 1, 0, "");
        vm.startPrank(alice);
        reputation.revokeFeedback(id, 1);
        vm.expectRevert(abi.encodeWithSelector(Reputation.AlreadyRevoked.selector, 1));
        reputation.revokeFeedback(id, 1);
        vm.expectRevert(abi.encodeWithSelector(Reputation.NoSuchFeedback.selector, 0));
        reputation.revokeFeedback(id, 0);
        vm.stopPrank();
    }

    function test_answers_are_counted_by_responder() public {
        give(alice, 1, 0, "");
        give(bob, 1, 0, "");
        vm.expectEmit();
        emit IReputationRegistry.ResponseAppended(id, alice, 1, owner, "ipfs://r", bytes32(uint256(4)));
        vm.startPrank(owner);
        reputation.appendResponse(id, alice, 1, "ipfs://r", bytes32(uint256(4)));
        reputation.appendResponse(id, alice, 1, "ipfs://r", 0);
        vm.expectRevert(Reputation.EmptyURI.selector);
        reputation.appendResponse(id, alice, 1, "", 0);
        vm.stopPrank();
        vm.prank(named("other"));
        reputation.appendResponse(id, bob, 1, "x", 0);
        address[] memory who = new address[](1);
        who[0] = owner;
        equal(reputation.getResponseCount(id, alice, 1, who), 2);
        equal(reputation.getResponseCount(id, alice, 0, new address[](0)), 2);
        equal(reputation.getResponseCount(id, address(0), 0, new address[](0)), 3);
        equal(reputation.getResponseCount(id, address(0), 0, who), 2);
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Clusters} from "../src/Clusters.sol";
import {Checks} from "./Vm.sol";

contract ClustersTest is Checks {
    Clusters internal clusters;
    address internal dao = named("dao");

    function setUp() public {
        clusters = new Clusters(dao, 3);
    }

    function test_the_default_cluster_is_the_daos() public view {
        Clusters.Cluster memory c = clusters.cluster(clusters.defaultCluster());
        equal(c.owner, dao);
        equal(c.epoch, 1);
        equal(c.seats, 3);
        equal(clusters.count(), 1);
        equal(clusters.defaultCluster(), keccak256(abi.encode(block.chainid, address(clusters), uint256(1))));
    }

    function test_fuzz_create(address who, uint16 seats) public {
        vm.prank(who);
        if (seats == 0 || seats > 64) vm.expectRevert(abi.encodeWithSelector(Clusters.BadSeats.selector, seats));
        bytes32 id = clusters.create(seats);
        if (seats == 0 || seats > 64) return;
        equal(clusters.cluster(id).owner, who);
        equal(clusters.exists(id), true);
        equal(id == clusters.defaultCluster(), false);
    }

    function test_owner_and_dao_bump_others_do_not() public {
        bytes32 id = clusters.create(1);
        equal(clusters.bumpEpoch(id), 2);
        vm.prank(dao);
        equal(clusters.bumpEpoch(id), 3);
        vm.prank(named("stranger"));
        vm.expectRevert(abi.encodeWithSelector(Clusters.NotClusterOwner.selector, id, named("stranger")));
        clusters.bumpEpoch(id);
    }

    function test_only_the_owner_sets_seats() public {
        bytes32 id = clusters.create(1);
        clusters.setSeats(id, 5);
        equal(clusters.cluster(id).seats, 5);
        vm.expectRevert(abi.encodeWithSelector(Clusters.BadSeats.selector, 65));
        clusters.setSeats(id, 65);
        vm.prank(dao);
        vm.expectRevert(abi.encodeWithSelector(Clusters.NotClusterOwner.selector, id, dao));
        clusters.setSeats(id, 6);
    }

    function test_ownership_is_offered_and_taken() public {
        bytes32 id = clusters.create(1);
        address heir = named("heir");
        clusters.offerOwnership(id, heir);
        vm.expectRevert(abi.encodeWithSelector(Clusters.NotClusterOwner.selector, id, address(this)));
        clusters.takeOwnership(id);
        vm.prank(heir);
        clusters.takeOwnership(id);
        equal(clusters.cluster(id).owner, heir);
        vm.prank(heir);
        vm.expectRevert(abi.encodeWithSelector(Clusters.NotClusterOwner.selector, id, heir));
        clusters.takeOwnership(id);
    }

    function test_fuzz_unknown_clusters(bytes32 id) public {
        vm.assume(id != clusters.defaultCluster());
        equal(clusters.exists(id), false);
        vm.expectRevert(abi.encodeWithSelector(Clusters.UnknownCluster.selector, id));
        clusters.cluster(id);
        vm.expectRevert(abi.encodeWithSelector(Clusters.UnknownCluster.selector, id));
        clusters.bumpEpoch(id);
        vm.expectRevert(abi.encodeWithSelector(Clusters.UnknownCluster.selector, id));
        clusters.offerOwnership(id, address(this));
    }
}

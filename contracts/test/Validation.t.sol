// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Agents} from "../src/Agents.sol";
import {Clusters} from "../src/Clusters.sol";
import {Gatekeepers} from "../src/Gatekeepers.sol";
import {Office} from "../src/Office.sol";
import {Statements} from "../src/Statements.sol";
import {Validation} from "../src/Validation.sol";
import {IValidationRegistry} from "../src/interfaces/IValidationRegistry.sol";
import {Founded} from "./Founded.sol";

contract ValidationTest is Founded {
    Agents internal agents;
    Validation internal validation;
    address internal owner = named("owner");
    address internal auditor = named("auditor");
    uint256 internal id;
    bytes32 internal agentId;
    bytes32 internal tee;

    function setUp() public {
        found();
        agents = new Agents(gatekeepers, new Clusters(address(this), 3));
        validation = new Validation(agents, gatekeepers);
        vm.prank(owner);
        id = agents.register();
        agentId = agents.agentIdOf(id);
        tee = validation.teeRequest(id);
    }

    function statement(uint64 serial, uint64 response) internal view returns (Statements.TeeValidation memory) {
        return Statements.TeeValidation(1, agentId, 1, serial, response, keccak256("evidence"), uint64(block.number) + 50);
    }

    function write(Statements.TeeValidation memory v) internal {
        validation.validate(id, v, "", signAll(Statements.hash(v), T));
    }

    function refuses(Statements.TeeValidation memory v, bytes memory reason) internal {
        bytes[] memory sigs = signAll(Statements.hash(v), T);
        vm.expectRevert(reason);
        validation.validate(id, v, "", sigs);
    }

    function status() internal view returns (uint8 response) {
        (,, response,,,) = validation.getValidationStatus(tee);
    }

    function summary(string memory tag) internal view returns (uint64 count, uint8 average) {
        return validation.getSummary(id, new address[](0), tag);
    }

    function test_the_committee_validates_with_the_standards_events() public {
        Statements.TeeValidation memory v = statement(1, 100);
        bytes[] memory sigs = signAll(Statements.hash(v), T);
        vm.expectEmit();
        emit IValidationRegistry.ValidationRequest(address(validation), id, "", tee);
        vm.expectEmit();
        emit IValidationRegistry.ValidationResponse(
            address(validation), id, tee, 100, "ipfs://e", keccak256("evidence"), "tee-attestation"
        );
        validation.validate(id, v, "ipfs://e", sigs);
        (address validator, uint256 agent, uint8 response, bytes32 hash, string memory tag, uint256 at_) =
            validation.getValidationStatus(tee);
        equal(validator, address(validation));
        equal(agent, id);
        equal(response, 100);
        equal(hash, keccak256("evidence"));
        equal(bytes(tag), "tee-attestation");
        equal(at_, block.timestamp);
        equal(validation.getAgentValidations(id)[0], tee);
        equal(validation.getValidatorRequests(address(validation))[0], tee);
    }

    function test_fuzz_it_reads_as_zero_from_its_expiry_on(uint64 wait) public {
        wait = uint64(bound(wait, 0, 200));
        write(statement(1, 90));
        vm.roll(block.number + wait);
        equal(status(), wait < 50 ? 90 : 0);
        (uint64 count, uint8 average) = summary("tee-attestation");
        equal(count, wait < 50 ? 1 : 0);
        equal(average, wait < 50 ? 90 : 0);
    }

    function test_a_new_epoch_ends_it() public {
        write(statement(1, 90));
        vm.prank(owner);
        agents.transferFrom(owner, named("buyer"), id);
        equal(status(), 0);
        refuses(statement(2, 90), abi.encodeWithSelector(Validation.WrongEpoch.selector, 1, 2));
    }

    function test_a_revocation_counts_and_the_old_statement_does_not_come_back() public {
        Statements.TeeValidation memory first = statement(1, 90);
        write(first);
        write(statement(2, 0));
        equal(status(), 0);
        refuses(first, abi.encodeWithSelector(Validation.StaleSerial.selector, 1, 2));
        equal(validation.getAgentValidations(id).length, 1);
    }

    function test_without_t_signatures_or_for_another_agent_nothing_is_written() public {
        Statements.TeeValidation memory v = statement(1, 90);
        bytes[] memory sigs = signAll(Statements.hash(v), T - 1);
        vm.expectRevert(abi.encodeWithSelector(Office.TooFewSigners.selector, T - 1, T));
        validation.validate(id, v, "", sigs);
        v.agent = keccak256("other");
        refuses(v, abi.encodeWithSelector(Validation.WrongAgent.selector, v.agent, agentId));
        v = statement(1, 101);
        refuses(v, abi.encodeWithSelector(Validation.BadResponse.selector, 101));
        v = statement(1, 90);
        v.expiry = uint64(block.number);
        refuses(v, abi.encodeWithSelector(Validation.ValidationExpired.selector, block.number, block.number));
        v = statement(1, 90);
        v.term = 2;
        refuses(v, abi.encodeWithSelector(Office.WrongTerm.selector, 2, 1));
        vm.expectRevert(abi.encodeWithSelector(Validation.UnknownRequest.selector, tee));
        validation.getValidationStatus(tee);
    }

    function test_a_squatter_cannot_hold_the_committees_place() public {
        vm.prank(auditor);
        uint256 own = agents.register();
        vm.startPrank(auditor);
        validation.validationRequest(auditor, own, "", tee);
        validation.validationResponse(tee, 100, "", 0, "tee-attestation");
        vm.stopPrank();
        write(statement(1, 70));
        equal(status(), 70);
        (uint64 count,) = validation.getSummary(own, new address[](0), "");
        equal(count, 0);
        vm.prank(auditor);
        vm.expectRevert(abi.encodeWithSelector(Validation.NotValidator.selector, tee, auditor));
        validation.validationResponse(tee, 100, "", 0, "");
    }

    function test_nobody_asks_in_the_committees_name() public {
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(Validation.BadValidator.selector, address(validation)));
        validation.validationRequest(address(validation), id, "", "x");
    }

    function test_other_validators_answer_what_owners_ask() public {
        vm.prank(auditor);
        vm.expectRevert(abi.encodeWithSelector(Validation.NotAuthorized.selector, id, auditor));
        validation.validationRequest(auditor, id, "", "x");
        vm.prank(owner);
        validation.validationRequest(auditor, id, "ipfs://q", "x");
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(Validation.RequestExists.selector, bytes32("x")));
        validation.validationRequest(auditor, id, "", "x");
        (uint64 count,) = summary("");
        equal(count, 0);
        vm.startPrank(auditor);
        validation.validationResponse("x", 40, "", 0, "audit");
        validation.validationResponse("x", 60, "", 0, "audit");
        vm.expectRevert(abi.encodeWithSelector(Validation.BadResponse.selector, 101));
        validation.validationResponse("x", 101, "", 0, "audit");
        vm.stopPrank();
        write(statement(1, 100));
        (uint64 all, uint8 average) = summary("");
        equal(all, 2);
        equal(average, 80);
        address[] memory who = new address[](1);
        who[0] = auditor;
        (all, average) = validation.getSummary(id, who, "audit");
        equal(all, 1);
        equal(average, 60);
    }
}

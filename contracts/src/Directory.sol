// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";

/// @title Addresses of the network's contracts by name and version.
/// @notice Append only: an address, once written, stays. Contracts are never upgraded in place; a new version is a new
/// entry, and whoever reads decides which version to trust.
contract Directory is Ownable2Step {
    mapping(bytes32 name => address[] versions) private _versions;

    event Published(bytes32 indexed name, uint256 indexed version, address target);

    error NotAContract(address target);
    error UnknownVersion(bytes32 name, uint256 version);
    error WrongVersion(uint256 expected, uint256 given);

    constructor(address owner) Ownable(owner) {}

    /// @notice Publish the next version of a name. `version` must be the next one, so that a repeat is refused.
    function publish(bytes32 name, uint256 version, address target) external onlyOwner {
        address[] storage list = _versions[name];
        if (version != list.length + 1) revert WrongVersion(list.length + 1, version);
        if (target.code.length == 0) revert NotAContract(target);
        list.push(target);
        emit Published(name, version, target);
    }

    /// @notice The address of one version. Versions start at 1.
    function get(bytes32 name, uint256 version) external view returns (address) {
        address[] storage list = _versions[name];
        if (version == 0 || version > list.length) revert UnknownVersion(name, version);
        return list[version - 1];
    }

    /// @notice The newest version of a name and its address.
    function latest(bytes32 name) external view returns (uint256 version, address target) {
        address[] storage list = _versions[name];
        version = list.length;
        if (version == 0) revert UnknownVersion(name, 0);
        target = list[version - 1];
    }
}

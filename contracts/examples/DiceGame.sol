// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AgentConsumer} from "../src/AgentConsumer.sol";
import {IAnchor} from "../src/interfaces/IAnchor.sol";

/// @title A dice game whose number comes from the player's secret and an agent's randomness together.
/// @notice The player commits before the agent speaks, and the agent speaks before the player reveals: neither chooses the
/// number. A player that does not reveal in time has lost; one whose agent stays silent gets the stake back.
contract DiceGame is AgentConsumer {
    struct Game {
        address player;
        uint64 deadline;
        uint8 guess;
        bool answered;
        uint96 stake;
        bytes32 committed;
        bytes32 random;
    }

    uint64 private constant GAS = 80_000;
    uint64 private constant REVEAL_TIME = 1 hours;
    uint256 private constant PRIZE = 5;

    mapping(uint64 index => Game) public games;
    /// @notice Stakes and prizes that open games may still claim.
    uint256 public reserved;
    uint256 public immutable fee;

    event Rolled(uint64 indexed index, uint8 number, bool won);

    error BadBet();
    error HouseTooPoor();
    error NotYours();
    error NotReady();
    error WrongSecret();
    error TooLate();
    error PayFailed();

    constructor(IAnchor anchor_, bytes32 agent_, uint256 fee_) payable AgentConsumer(anchor_, agent_) {
        fee = fee_;
    }

    /// @param committed keccak256(abi.encode(secret, player)).
    function play(uint8 guess, bytes32 committed) external payable returns (uint64 index) {
        if (guess == 0 || guess > 6 || msg.value <= fee || msg.value - fee > type(uint96).max) revert BadBet();
        uint96 stake = uint96(msg.value - fee);
        if (address(this).balance - fee < reserved + PRIZE * stake) revert HouseTooPoor();
        reserved += PRIZE * stake;
        index = _ask(abi.encode("random", committed), fee, GAS, 2, uint64(block.timestamp) + 10 minutes);
        games[index] = Game(msg.sender, uint64(block.timestamp) + 10 minutes, guess, false, stake, committed, 0);
    }

    function reveal(uint64 index, bytes32 secret) external returns (uint8 number) {
        Game memory g = games[index];
        if (msg.sender != g.player) revert NotYours();
        if (!g.answered) revert NotReady();
        if (block.timestamp > g.deadline) revert TooLate();
        if (keccak256(abi.encode(secret, msg.sender)) != g.committed) revert WrongSecret();
        number = uint8(uint256(keccak256(abi.encode(secret, g.random))) % 6) + 1;
        bool won = number == g.guess;
        emit Rolled(index, number, won);
        _end(index, won ? PRIZE * g.stake : 0);
    }

    /// @notice The agent did not answer in time: the stake goes back. The player did not reveal in time: it stays.
    function close(uint64 index) external {
        Game memory g = games[index];
        if (g.player == address(0) || block.timestamp <= g.deadline) revert NotReady();
        _end(index, g.answered ? 0 : g.stake);
    }

    function _onReply(uint64 index, bytes calldata reply) internal override {
        Game storage g = games[index];
        if (g.player == address(0) || g.answered) revert NotReady();
        (g.random, g.answered) = (abi.decode(reply, (bytes32)), true);
        g.deadline = uint64(block.timestamp) + REVEAL_TIME;
    }

    function _end(uint64 index, uint256 pay) private {
        Game memory g = games[index];
        delete games[index];
        reserved -= PRIZE * g.stake;
        if (pay == 0) return;
        (bool sent,) = g.player.call{value: pay}("");
        if (!sent) revert PayFailed();
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title The phases of a ceremony as a function of facts and the block number alone (spec/gatekeepers.md G4-G12).
/// @notice The Solidity face of `core/threshold/phases.py`; both are tested against `spec/vectors/ceremonies.json`.
library Phases {
    enum Phase {
        None,
        Commit,
        Show,
        Publish,
        Object,
        Answer,
        Confirm,
        Done,
        Failed
    }

    /// @dev Sets of seats are bits, bit i - 1 for seat i. late: receivers that complained of "not shown" of a dealer that
    /// published. waiting: receivers of a published dealer's shares that were called bad and are not open.
    struct Facts {
        uint64 openedAt;
        uint64 window;
        uint256 dealers;
        uint256 receivers;
        uint256 quorum;
        uint64 committed;
        uint64 content;
        uint64 settled;
        uint64 accused;
        uint64 published;
        uint64 late;
        uint64 waiting;
        bool unanimous;
        bool agreed;
        bool cancelled;
    }

    /// @notice Counts in one published dealer: who complained, who called a share bad, whose share is open.
    function fold(Facts memory f, uint64 by, uint64 bad, uint64 opened) internal pure {
        f.late |= by & ~bad;
        f.waiting |= bad & ~opened;
    }

    /// @notice The phase after block `number`, whose state says these facts.
    function walk(Facts memory f, uint256 number) internal pure returns (Phase) {
        for (uint256 p = uint256(Phase.Commit); p <= uint256(Phase.Confirm); ++p) {
            if (_settled(f, Phase(p))) continue;
            if (f.cancelled) return Phase.Failed;
            if (number < uint256(f.openedAt) + uint256(f.window) * p) return Phase(p);
            if (Phase(p) == Phase.Commit && count(f.committed) < f.quorum) return Phase.Failed;
            if (Phase(p) == Phase.Confirm && !f.agreed) return Phase.Failed;
        }
        return Phase.Done;
    }

    /// @notice How many bits are set.
    function count(uint64 bits) internal pure returns (uint256 total) {
        for (; bits != 0; bits &= bits - 1) ++total;
    }

    /// @notice The lowest `n` bits.
    function all(uint256 n) internal pure returns (uint64) {
        return uint64((uint256(1) << n) - 1);
    }

    /// @notice The bit of seat `index`, from 1.
    function bit(uint256 index) internal pure returns (uint64) {
        return uint64(1) << uint64(index - 1);
    }

    function _settled(Facts memory f, Phase p) private pure returns (bool) {
        if (p == Phase.Commit) return f.committed == all(f.dealers);
        if (p == Phase.Show) return f.content == all(f.receivers);
        if (p == Phase.Publish) return f.accused & ~f.published == 0;
        if (p == Phase.Object) return f.late & ~f.settled == 0;
        if (p == Phase.Answer) return f.waiting == 0;
        return f.unanimous;
    }
}

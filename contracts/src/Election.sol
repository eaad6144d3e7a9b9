// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Who sits in the next term (spec/gatekeepers.md E1-E5). No storage: everything comes in, the seats go out.
/// @notice Deployed by Gatekeepers. At most 64 sitting members and 128 candidates are asked about.
contract Election {
    enum Status {
        Stays,
        Leaves,
        Revoked
    }

    struct Standing {
        address member;
        address operator;
        bytes32 vendorClass;
        uint256 stake;
        uint64 since;
        Status status;
    }

    error NothingToElect();

    /// @notice The next committee. Newcomers take the places of those whom they replace; the others keep their order.
    /// Reverts if too few candidates stand and the seats of revoked members cannot stay empty.
    /// @param sitting the committee in office. @param others candidates, none of them sitting.
    /// @param t threshold, of this term and the next. @param target how many seats a full committee has.
    function elect(Standing[] memory sitting, Standing[] memory others, uint256 t, uint256 target)
        external
        pure
        returns (address[] memory)
    {
        uint256 n = sitting.length;
        uint256 budget = spare(t, n);
        _rank(others);
        Standing[] memory seats = new Standing[](target > n ? target : n);
        for (uint256 i = 0; i < n; ++i) seats[i] = sitting[i];
        // E3: seats fall vacant, of the revoked first, at most as many as may change.
        budget = _vacate(seats, n, Status.Revoked, budget);
        budget = _vacate(seats, n, Status.Leaves, budget);
        uint256 allowed = spare(t, seats.length);
        bool[] memory taken = new bool[](others.length);
        _fill(seats, others, taken, allowed);
        _restore(seats, sitting, allowed); // E5
        _challenge(seats, sitting, others, taken, budget, allowed);
        return _compact(seats, t);
    }

    /// @notice How many seats one vendor class or operator may hold, and how many may change: min(t - 1, n - t).
    function spare(uint256 t, uint256 n) public pure returns (uint256) {
        return t - 1 < n - t ? t - 1 : n - t;
    }

    /// @notice E1: more stake, then who came first, then the lower address.
    function better(Standing memory a, Standing memory b) public pure returns (bool) {
        if (a.stake != b.stake) return a.stake > b.stake;
        if (a.since != b.since) return a.since < b.since;
        return a.member < b.member;
    }

    function _rank(Standing[] memory list) private pure {
        for (uint256 i = 1; i < list.length; ++i) {
            Standing memory one = list[i];
            uint256 j = i;
            for (; j > 0 && better(one, list[j - 1]); --j) list[j] = list[j - 1];
            list[j] = one;
        }
    }

    function _vacate(Standing[] memory seats, uint256 n, Status status, uint256 budget)
        private
        pure
        returns (uint256)
    {
        Standing memory empty;
        for (uint256 i = 0; i < n && budget > 0; ++i) {
            if (seats[i].member == address(0) || seats[i].status != status) continue;
            seats[i] = empty;
            --budget;
        }
        return budget;
    }

    function _fill(Standing[] memory seats, Standing[] memory others, bool[] memory taken, uint256 allowed)
        private
        pure
    {
        uint256 next;
        for (uint256 i = 0; i < seats.length; ++i) {
            if (seats[i].member != address(0)) continue;
            for (; next < others.length && !_fits(seats, others[next], allowed, seats.length); ++next) {}
            if (next == others.length) return;
            taken[next] = true;
            seats[i] = others[next++];
        }
    }

    /// @dev A sitting member for whom nobody stands in stays, unless it was revoked.
    function _restore(Standing[] memory seats, Standing[] memory sitting, uint256 allowed) private pure {
        for (uint256 i = 0; i < sitting.length; ++i) {
            if (seats[i].member != address(0) || sitting[i].status != Status.Leaves) continue;
            if (!_fits(seats, sitting[i], allowed, seats.length)) revert NothingToElect();
            seats[i] = sitting[i];
        }
    }

    /// @dev A better candidate takes the seat of the worst sitting member.
    function _challenge(
        Standing[] memory seats,
        Standing[] memory sitting,
        Standing[] memory others,
        bool[] memory taken,
        uint256 budget,
        uint256 allowed
    ) private pure {
        for (uint256 k = 0; k < others.length && budget > 0; ++k) {
            if (taken[k]) continue;
            uint256 worst = _worst(seats, sitting);
            if (worst == sitting.length || !better(others[k], sitting[worst])) return;
            if (!_fits(seats, others[k], allowed, worst)) continue; // E4
            seats[worst] = others[k];
            --budget;
        }
    }

    function _worst(Standing[] memory seats, Standing[] memory sitting) private pure returns (uint256 worst) {
        worst = sitting.length;
        for (uint256 i = 0; i < sitting.length; ++i) {
            if (seats[i].member != sitting[i].member || sitting[i].status == Status.Revoked) continue;
            if (worst == sitting.length || better(sitting[worst], sitting[i])) worst = i;
        }
    }

    /// @dev E4, with seat `without` thought empty.
    function _fits(Standing[] memory seats, Standing memory one, uint256 allowed, uint256 without)
        private
        pure
        returns (bool)
    {
        uint256 vendors = 1;
        uint256 operators = 1;
        for (uint256 i = 0; i < seats.length; ++i) {
            if (i == without || seats[i].member == address(0)) continue;
            if (seats[i].vendorClass == one.vendorClass) ++vendors;
            if (seats[i].operator == one.operator) ++operators;
        }
        return vendors <= allowed && operators <= allowed;
    }

    function _compact(Standing[] memory seats, uint256 t) private pure returns (address[] memory next) {
        uint256 size;
        for (uint256 i = 0; i < seats.length; ++i) if (seats[i].member != address(0)) ++size;
        if (size < t + 1) revert NothingToElect();
        uint256 allowed = spare(t, size);
        next = new address[](size);
        uint256 k;
        for (uint256 i = 0; i < seats.length; ++i) {
            if (seats[i].member == address(0)) continue;
            if (size < seats.length && !_fits(seats, seats[i], allowed, i)) revert NothingToElect();
            next[k++] = seats[i].member;
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IAgents} from "./interfaces/IAgents.sol";
import {IAgentConsumer, IAnchor} from "./interfaces/IAnchor.sol";
import {Gatekeepers} from "./Gatekeepers.sol";
import {Leases} from "./Leases.sol";
import {Sponsors} from "./Sponsors.sol";
import {Statements} from "./Statements.sol";

/// @title Anchor: contracts ask agents here, and agents answer exactly once (spec/anchor.md).
/// @notice An open request is one word of storage: its commitment. Answers are signed by leased workers, so anybody may
/// bring them. Money is owed, never pushed: fees and refunds are credits that their owner, or anybody for it, collects.
contract Anchor is IAnchor, Leases, Sponsors, ReentrancyGuardTransient, EIP712 {
    using Statements for Statements.AnchorAnswer;
    using Statements for Statements.AnchorCommit;

    /// @dev One slot: a second one would cost every request 5000 gas. 24 bytes of a hash chain are collision-free for
    /// anybody who can do fewer than 2^96 steps.
    struct Queue {
        uint64 count;
        bytes24 head;
    }

    /// @dev Commitment of an open request; 0 or CLOSED: free.
    struct Slot {
        bytes32 commitment;
    }

    /// @dev What an answer is checked against.
    struct Office {
        uint64 term;
        uint64 epoch;
        bytes32 digest;
    }

    struct Entry {
        uint64 version;
        bytes value;
    }

    uint256 public constant MAX_PAYLOAD = 16_384;
    uint256 public constant MAX_VALUE = 1_024;
    uint256 public constant MAX_UPDATES = 32;
    uint64 public constant MAX_GAS = 5_000_000;
    uint64 public constant MAX_WAIT = 30 days;
    uint8 public constant MAX_COPIES = 8;
    uint8 public constant MAX_FLAGS = 3;
    uint64 public constant RING = 16;
    bytes32 private constant CLOSED = bytes32(uint256(1));
    /// @dev Gas that the callback's own call instruction and what leads to it may take.
    uint256 private constant CALL_GAS = 5_000;
    bytes32 private constant REQUEST_TYPE = keccak256(
        "AgentRequest(address requester,bytes32 agent,bytes32 codeHash,uint64 gasLimit,uint64 deadline,uint8 copies,"
        "uint8 flags,bytes32 payloadHash,uint128 fee,uint256 nonce)"
    );

    mapping(bytes32 agent => Queue) private _queues;
    /// @dev Places that requests of an agent take in turn. Writing over a used word costs a quarter of a new one.
    mapping(bytes32 agent => mapping(uint64 place => Slot)) private _ring;
    /// @dev Requests whose place was taken by one that is still open.
    mapping(bytes32 agent => mapping(uint64 index => Slot)) private _extra;
    mapping(bytes32 agent => mapping(bytes32 key => Entry)) private _store;
    /// @notice What an account can withdraw, or spend on relayed requests.
    mapping(address account => uint256) public credits;
    /// @notice Nonces of relayed requests, in any order.
    mapping(address requester => mapping(uint256 nonce => bool)) public used;

    error BadAsk();
    error PayloadTooLong(uint256 length);
    error NotOpen(bytes32 agent, uint64 index);
    error DeadlinePassed(uint64 deadline, uint256 now_);
    error TooEarly(uint64 deadline, uint256 now_);
    error WrongAnswers(uint256 given, uint256 wanted);
    error NotInOrder(address worker);
    error NotSignedBy(address worker);
    error OneVendorClass(bytes32 vendorClass);
    error NotEnoughGas(uint256 left, uint256 wanted);
    error WrongVersion(bytes32 key, uint64 wanted, uint64 found);
    error BadCommit();
    error NothingOwed(address account);
    error NotEnoughCredit(uint256 credit, uint256 wanted);
    error BadRequestSignature();
    error NonceUsed(uint256 nonce);
    error SendFailed(address to);

    /// @param agents_ and committee_: of this chain, or 0 on a chain that is not the network's own; founder_: see SignerSet.
    constructor(IAgents agents_, Gatekeepers committee_, address founder_)
        Leases(agents_, committee_, founder_)
        EIP712("CloisterAnchor", "1")
    {}

    // --- asking ---

    /// @inheritdoc IAnchor
    function request(Ask calldata ask, bytes calldata payload) external payable returns (uint64 index) {
        if (msg.value > type(uint128).max) revert BadAsk();
        (index,) = _enqueue(ask, msg.sender, uint128(msg.value), payload);
    }

    /// @inheritdoc IAnchor
    function requestSponsored(Ask calldata ask, uint128 fee, bytes calldata payload) external returns (uint64 index) {
        if (fee == 0) revert BadAsk();
        address payer = _agreed(ask.agent, msg.sender, fee);
        _spend(payer, fee);
        bytes32 c;
        (index, c) = _enqueue(ask, msg.sender, fee, payload);
        _payers[c] = payer;
        emit Sponsored(ask.agent, index, payer, fee);
    }

    /// @notice A request signed by its requester (EIP-712 or EIP-1271), brought by anybody who pays the gas. The fee comes
    /// from the requester's credit; the request's deadline is the signature's.
    function requestFor(
        address requester,
        Ask calldata ask,
        bytes calldata payload,
        uint128 fee,
        uint256 nonce,
        bytes calldata signature
    ) external returns (uint64 index) {
        if (used[requester][nonce]) revert NonceUsed(nonce);
        bytes32 digest = requestDigest(requester, ask, keccak256(payload), fee, nonce);
        if (!SignatureChecker.isValidSignatureNow(requester, digest, signature)) revert BadRequestSignature();
        used[requester][nonce] = true;
        _spend(requester, fee);
        (index,) = _enqueue(ask, requester, fee, payload);
    }

    // --- answering ---

    /// @inheritdoc IAnchor
    function respond(Request calldata r, bytes calldata reply, Signed[] calldata by) external nonReentrant {
        _verify(r, _answerHash(_close(r), reply, 0), by);
        _callBack(r, reply);
    }

    /// @inheritdoc IAnchor
    function respondAndCommit(Request calldata r, bytes calldata reply, Commit calldata c, Signed[] calldata by)
        external
        nonReentrant
    {
        _verify(r, _answerHash(_close(r), reply, keccak256(abi.encode(c))), by);
        _apply(r.agent, c);
        _callBack(r, reply);
    }

    /// @notice Many answers. One that somebody else brought first, or that is too late, is passed over.
    function respondBatch(Reply[] calldata replies) external nonReentrant returns (uint256 answered) {
        for (uint256 i = 0; i < replies.length; ++i) {
            Reply calldata one = replies[i];
            if (!isOpen(one.request) || block.timestamp > one.request.deadline) continue;
            _verify(one.request, _answerHash(_close(one.request), one.reply, 0), one.by);
            _callBack(one.request, one.reply);
            ++answered;
        }
    }

    /// @notice Write to an agent's store without a request. Versions make a second sending of the same commit fail.
    function commit(bytes32 agent, Commit calldata c, uint64 deadline, Signed calldata by) external nonReentrant {
        if (block.timestamp > deadline) revert DeadlinePassed(deadline, block.timestamp);
        if (c.updates.length == 0) revert BadCommit();
        Statements.AnchorCommit memory s = Statements.AnchorCommit(
            block.chainid, address(this), agent, keccak256(abi.encode(c)), deadline
        );
        (uint64 term, uint64 epoch) = _inOffice(agent);
        _liveLease(term, epoch, agent, by.worker, 0);
        _requireSignedBy(Statements.digest(networkId, s.hash()), by);
        _apply(agent, c);
    }

    // --- money ---

    /// @inheritdoc IAnchor
    function refund(Request calldata r) external nonReentrant {
        if (!isOpen(r)) revert NotOpen(r.agent, r.index);
        if (block.timestamp <= r.deadline) revert TooEarly(r.deadline, block.timestamp);
        bytes32 c = commitment(r);
        _free(r.agent, r.index, c);
        address payer = _payers[c];
        _credit(payer == address(0) ? r.requester : payer, r.fee);
        emit Refunded(r.agent, r.index, r.requester, r.fee);
    }

    /// @notice Credit for somebody's relayed requests.
    function deposit(address account) external payable {
        _credit(account, msg.value);
    }

    function withdraw(address to) external nonReentrant {
        _pay(msg.sender, to);
    }

    /// @inheritdoc IAnchor
    function withdrawFor(address account) external nonReentrant {
        _pay(account, account);
    }

    // --- views ---

    /// @inheritdoc IAnchor
    function isOpen(Request calldata r) public view returns (bool) {
        bytes32 c = commitment(r);
        return _ring[r.agent][r.index % RING].commitment == c || _extra[r.agent][r.index].commitment == c;
    }

    /// @notice keccak256(abi.encode(r)).
    function commitment(Request calldata r) public pure returns (bytes32 c) {
        // Ten words, in calldata as abi.encode lays them out. A word with dirty upper bits names no request.
        assembly ("memory-safe") {
            let at_ := mload(0x40)
            calldatacopy(at_, r, 320)
            c := keccak256(at_, 320)
        }
    }

    /// @notice How many requests an agent had, and the head of their hash chain: the first 24 bytes of
    /// keccak256(head, commitment) each.
    function queue(bytes32 agent) external view returns (uint64 count, bytes24 head) {
        return (_queues[agent].count, _queues[agent].head);
    }

    /// @inheritdoc IAnchor
    function read(bytes32 agent, bytes32 key) external view returns (uint64 version, bytes memory value) {
        Entry storage e = _store[agent][key];
        return (e.version, e.value);
    }

    /// @notice What a requester signs for `requestFor`.
    function requestDigest(address requester, Ask calldata ask, bytes32 payloadHash, uint128 fee, uint256 nonce)
        public
        view
        returns (bytes32)
    {
        bytes memory first = abi.encode(
            REQUEST_TYPE, requester, ask.agent, ask.codeHash, ask.gasLimit, ask.deadline, ask.copies, ask.flags
        );
        return _hashTypedDataV4(keccak256(bytes.concat(first, abi.encode(payloadHash, fee, nonce))));
    }

    // --- inside ---

    function _enqueue(Ask calldata ask, address requester, uint128 fee, bytes calldata payload)
        private
        returns (uint64 index, bytes32 c)
    {
        if (payload.length > MAX_PAYLOAD) revert PayloadTooLong(payload.length);
        if (ask.copies == 0 || ask.copies > MAX_COPIES || ask.flags > MAX_FLAGS) revert BadAsk();
        if (ask.gasLimit > MAX_GAS || ask.agent == 0) revert BadAsk();
        if (ask.deadline <= block.timestamp || ask.deadline > block.timestamp + MAX_WAIT) revert BadAsk();
        Queue storage q = _queues[ask.agent];
        index = q.count + 1;
        Request memory r = Request(
            ask.agent,
            index,
            requester,
            fee,
            ask.codeHash,
            ask.gasLimit,
            ask.deadline,
            ask.copies,
            ask.flags,
            keccak256(payload)
        );
        // A struct of words lies in memory as abi.encode lays it out.
        assembly ("memory-safe") {
            c := keccak256(r, 320)
        }
        Slot storage slot = _ring[ask.agent][index % RING];
        if (uint256(slot.commitment) > uint256(CLOSED)) slot = _extra[ask.agent][index];
        slot.commitment = c;
        (q.count, q.head) = (index, bytes24(keccak256(abi.encodePacked(q.head, c))));
        _announce(r, payload);
    }

    function _announce(Request memory r, bytes calldata payload) private {
        emit Requested(
            r.agent, r.index, r.requester, r.fee, r.codeHash, r.gasLimit, r.deadline, r.copies, r.flags, payload
        );
    }

    /// @dev Before anything else happens the request is gone: whatever follows, it cannot be answered twice.
    function _close(Request calldata r) private returns (bytes32 c) {
        c = commitment(r);
        _free(r.agent, r.index, c);
        if (block.timestamp > r.deadline) revert DeadlinePassed(r.deadline, block.timestamp);
    }

    function _free(bytes32 agent, uint64 index, bytes32 c) private {
        Slot storage slot = _ring[agent][index % RING];
        if (slot.commitment == c) {
            slot.commitment = CLOSED;
            return;
        }
        if (_extra[agent][index].commitment != c) revert NotOpen(agent, index);
        delete _extra[agent][index];
    }

    /// @dev 1. as many answers as asked; 2. each under a live lease of this term and epoch, with the code asked for;
    /// 3. each signed over this request and this reply; 4. no worker twice; 5. for several: two vendor classes. Then each
    /// payee is owed its share, the first one also the remainder.
    function _verify(Request calldata r, bytes32 answer, Signed[] calldata by) private {
        if (by.length != r.copies) revert WrongAnswers(by.length, r.copies); // 1
        Office memory o;
        o.digest = Statements.digest(networkId, answer);
        (o.term, o.epoch) = _inOffice(r.agent);
        bytes32 firstClass;
        bool mixed = by.length == 1;
        for (uint256 i = 0; i < by.length; ++i) {
            Lease storage held = _liveLease(o.term, o.epoch, r.agent, by[i].worker, r.codeHash); // 2
            _requireSignedBy(o.digest, by[i]); // 3
            if (i != 0 && by[i].worker <= by[i - 1].worker) revert NotInOrder(by[i].worker); // 4
            if (i == 0 && !mixed) firstClass = held.vendorClass;
            if (!mixed) mixed = held.vendorClass != firstClass;
            _owe(held.payee, r.fee, by.length, i);
        }
        if (!mixed) revert OneVendorClass(firstClass); // 5
    }

    function _answerHash(bytes32 request_, bytes calldata reply, bytes32 commit_) private view returns (bytes32) {
        return Statements.AnchorAnswer(block.chainid, address(this), request_, keccak256(reply), commit_).hash();
    }

    function _owe(address payee, uint256 fee, uint256 copies, uint256 i) private {
        uint256 share = fee / copies;
        if (i == 0) share = fee - share * (copies - 1);
        if (share != 0) credits[payee] += share;
    }

    function _requireSignedBy(bytes32 digest, Signed calldata by) private pure {
        (address found, ECDSA.RecoverError problem,) = ECDSA.tryRecoverCalldata(digest, by.signature);
        if (problem != ECDSA.RecoverError.NoError || found != by.worker) revert NotSignedBy(by.worker);
    }

    /// @dev EIP-150 hands on at most 63/64 of what is left: too little gas fails the whole answer, never the callback
    /// alone. No byte of what the callback returns is copied. Its failure is recorded; the work is done and paid.
    function _callBack(Request calldata r, bytes calldata reply) private {
        bool ok;
        address to = r.requester;
        if (to.code.length != 0) {
            bytes memory data = abi.encodeCall(IAgentConsumer.onAgentReply, (r.agent, r.index, r.flags, reply));
            uint256 limit = r.gasLimit;
            if ((gasleft() * 63) / 64 < limit + CALL_GAS) revert NotEnoughGas(gasleft(), limit);
            assembly ("memory-safe") {
                ok := call(limit, to, 0, add(data, 32), mload(data), 0, 0)
            }
        }
        // Whoever has the reply needs no second copy of it in the log.
        if (ok) emit Answered(r.agent, r.index, true, "");
        else emit Answered(r.agent, r.index, false, reply);
    }

    function _apply(bytes32 agent, Commit calldata c) private {
        if (c.conditions.length > MAX_UPDATES || c.updates.length > MAX_UPDATES) revert BadCommit();
        for (uint256 i = 0; i < c.conditions.length; ++i) {
            uint64 found = _store[agent][c.conditions[i].key].version;
            if (found != c.conditions[i].version) {
                revert WrongVersion(c.conditions[i].key, c.conditions[i].version, found);
            }
        }
        for (uint256 i = 0; i < c.updates.length; ++i) _update(agent, c.updates[i]);
    }

    function _update(bytes32 agent, Update calldata u) private {
        Entry storage e = _store[agent][u.key];
        if (e.version != u.version) revert WrongVersion(u.key, u.version, e.version);
        if (u.value.length > MAX_VALUE) revert BadCommit();
        e.version = u.version + 1;
        e.value = u.value;
        emit Updated(agent, u.key, u.version + 1, u.value);
    }

    function _registry() internal view override returns (IAgents) {
        return agents;
    }

    function _spend(address account, uint128 fee) private {
        uint256 held = credits[account];
        if (held < fee) revert NotEnoughCredit(held, fee);
        credits[account] = held - fee;
    }

    function _credit(address account, uint256 amount) private {
        credits[account] += amount;
        emit Credited(account, amount);
    }

    function _pay(address account, address to) private {
        uint256 amount = credits[account];
        if (amount == 0) revert NothingOwed(account);
        credits[account] = 0;
        emit Withdrawn(account, to, amount);
        (bool sent,) = to.call{value: amount}("");
        if (!sent) revert SendFailed(to);
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAccount, PackedUserOperation} from "@openzeppelin/contracts/interfaces/IERC4337.sol";
import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {ERC721Holder} from "@openzeppelin/contracts/token/ERC721/utils/ERC721Holder.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {IAgents} from "./interfaces/IAgents.sol";
import {IGatekeepers} from "./interfaces/IGatekeepers.sol";
import {Statements} from "./Statements.sol";

/// @title The contract account of one agent.
/// @notice The signer is an epoch key that the committee registered. Caps, the allow-list and the freeze bind the
/// signer here, on chain, so that a broken worker that holds the key cannot exceed them. The agent's owner owns the money.
contract AgentAccount is IAccount, IERC1271, ERC721Holder {
    using Statements for Statements.SetSigner;

    struct Cap {
        uint128 perPeriod;
        uint128 spent;
        uint64 period;
    }

    /// @dev Tokens are capped by what these calls move or allow to move.
    bytes4 private constant TRANSFER = 0xa9059cbb;
    bytes4 private constant APPROVE = 0x095ea7b3;
    bytes4 private constant INCREASE_ALLOWANCE = 0x39509351;
    bytes4 private constant TRANSFER_FROM = 0x23b872dd;
    /// @notice Under this name `setCap` limits what is paid back, per period, to whoever brings the signer's calls.
    address public constant GAS = address(1);
    /// @dev Above the base fee no more than this is paid back: a tip is the bringer's own choice.
    uint256 private constant MAX_TIP = 2 gwei;
    /// @dev Gas of a transaction that `gasleft` does not see: its start, and the paying back.
    uint256 private constant UNSEEN_GAS = 36_000;
    /// @dev Call data beside the call's own: selector, words and the signature, in bytes.
    uint256 private constant FRAME = 420;
    bytes32 private constant DOMAIN_TYPE =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 private constant MESSAGE_TYPE = keccak256("AgentMessage(bytes32 hash)");
    bytes32 private constant CALL_TYPE =
        keccak256("AgentCall(address target,uint256 value,bytes data,uint256 nonce,uint256 deadline)");

    address public signer;
    uint64 public signerEpoch;
    bool public frozen;
    /// @notice Whether EIP-1271 signatures count. Off by default: a signature can move tokens past the caps.
    bool public signaturesEnabled;
    uint64 public periodBlocks = 7200;
    mapping(address asset => Cap) private _caps;
    mapping(address target => mapping(bytes4 selector => bool)) public allowed;
    /// @notice Nonces of relayed calls that were made; in any order, so that a nonce can be an idempotency key.
    mapping(uint256 nonce => bool) public used;
    /// @notice ERC-4337 entry point that the owner chose; 0: none.
    address public entryPoint;

    IAgents public immutable agents;
    IGatekeepers public immutable gatekeepers;
    uint256 public immutable tokenId;
    bytes32 public immutable agentId;

    event SignerSet(address indexed signer, uint64 indexed epoch);
    event FrozenSet(bool frozen, address indexed by);
    event CapSet(address indexed asset, uint128 perPeriod);
    event PeriodSet(uint64 blocks);
    event AllowedSet(address indexed target, bytes4 indexed selector, bool allowed);
    event SignaturesEnabledSet(bool enabled);
    event EntryPointSet(address indexed entryPoint);
    event Relayed(uint256 indexed nonce, address indexed by);
    event Repaid(address indexed to, uint256 amount);
    event Executed(address indexed by, address indexed target, uint256 value, bytes4 selector);

    error NotOwner(address caller);
    error NotSigner(address caller);
    error WrongAgent(bytes32 given);
    error WrongEpoch(uint64 given, uint64 current);
    error SignerAlreadySet(uint64 epoch);
    error AccountFrozen();
    error AgentPaused();
    error NotAllowed(address target, bytes4 selector);
    error CapExceeded(address asset, uint256 wanted, uint256 left);
    error BadPeriod();
    error BadSignature();
    error NonceUsed(uint256 nonce);
    error DeadlinePassed(uint256 deadline);
    error NotEntryPoint(address caller);
    error AccountPaysNoGas(uint256 missing);
    error BadCall();
    error CallFailed(bytes reason);

    constructor(IAgents agents_, IGatekeepers gatekeepers_, uint256 tokenId_, bytes32 agentId_) {
        (agents, gatekeepers, tokenId, agentId) = (agents_, gatekeepers_, tokenId_, agentId_);
    }

    modifier onlyOwner() {
        if (msg.sender != agents.ownerOf(tokenId)) revert NotOwner(msg.sender);
        _;
    }

    receive() external payable {}

    // --- the committee ---

    /// @notice Register the key of the current agent epoch: one per epoch, so that no older statement replays. Whoever
    /// brings it is paid back.
    function setSigner(Statements.SetSigner calldata s, bytes[] calldata sigs) external {
        uint256 gas_ = gasleft();
        if (s.agent != agentId) revert WrongAgent(s.agent);
        (uint64 epoch,,) = agents.status(tokenId);
        if (s.agentEpoch != epoch) revert WrongEpoch(s.agentEpoch, epoch);
        if (signerEpoch == epoch) revert SignerAlreadySet(epoch);
        gatekeepers.requireStatement(s.term, s.hash(), sigs);
        (signer, signerEpoch) = (s.signer, epoch);
        emit SignerSet(s.signer, epoch);
        _repay(gas_, FRAME);
    }

    // --- the owner ---

    /// @notice Most of an asset (address 0: the chain's coin) that the signer may move per period. 0: none. For the asset
    /// `GAS`: most that is paid back for gas, in the chain's coin, beside the cap of address 0.
    function setCap(address asset, uint128 perPeriod) external onlyOwner {
        _caps[asset].perPeriod = perPeriod;
        emit CapSet(asset, perPeriod);
    }

    function setPeriod(uint64 blocks) external onlyOwner {
        if (blocks == 0) revert BadPeriod();
        periodBlocks = blocks;
        emit PeriodSet(blocks);
    }

    /// @notice Let the signer call one function of one contract. Selector 0 is a plain transfer of the coin.
    function setAllowed(address target, bytes4 selector, bool allowed_) external onlyOwner {
        allowed[target][selector] = allowed_;
        emit AllowedSet(target, selector, allowed_);
    }

    function setSignaturesEnabled(bool enabled) external onlyOwner {
        signaturesEnabled = enabled;
        emit SignaturesEnabledSet(enabled);
    }

    /// @notice Let an ERC-4337 entry point bring the signer's calls. It is trusted to check them with `validateUserOp`.
    function setEntryPoint(address entryPoint_) external onlyOwner {
        entryPoint = entryPoint_;
        emit EntryPointSet(entryPoint_);
    }

    /// @notice Stop the signer at once. Owner or guardian.
    function freeze() external {
        (,, address guardian) = agents.status(tokenId);
        if (msg.sender != agents.ownerOf(tokenId) && msg.sender != guardian) revert NotOwner(msg.sender);
        frozen = true;
        emit FrozenSet(true, msg.sender);
    }

    function unfreeze() external onlyOwner {
        frozen = false;
        emit FrozenSet(false, msg.sender);
    }

    /// @notice The owner moves what is its own, without caps, even while frozen.
    function ownerExecute(address target, uint256 value, bytes calldata data)
        external
        payable
        onlyOwner
        returns (bytes memory)
    {
        return _call(target, value, data);
    }

    // --- the signer ---

    /// @notice The agent acts: live signer, not frozen, not paused, call on the allow-list, within every cap.
    function execute(address target, uint256 value, bytes calldata data) external returns (bytes memory) {
        bool relayed = entryPoint != address(0) && msg.sender == entryPoint;
        return _act(relayed ? signer : msg.sender, target, value, data);
    }

    /// @notice The agent acts through anybody who pays the gas: an AgentCall signed by the signer, once per nonce. The
    /// account pays the gas back as far as the owner's cap on `GAS` allows, and its balance. A call that fails pays none.
    function executeSigned(
        address target,
        uint256 value,
        bytes calldata data,
        uint256 nonce,
        uint256 deadline,
        bytes calldata signature
    ) external returns (bytes memory answer) {
        uint256 gas_ = gasleft();
        if (block.timestamp > deadline) revert DeadlinePassed(deadline);
        if (used[nonce]) revert NonceUsed(nonce);
        bytes32 digest = callDigest(target, value, data, nonce, deadline);
        (address found, ECDSA.RecoverError problem,) = ECDSA.tryRecoverCalldata(digest, signature);
        if (problem != ECDSA.RecoverError.NoError) revert BadSignature();
        used[nonce] = true;
        emit Relayed(nonce, msg.sender);
        answer = _act(found, target, value, data);
        _repay(gas_, FRAME + data.length);
    }

    /// @inheritdoc IAccount
    /// @dev The account itself pays no gas, which no cap would count: a deposit at the entry point or a paymaster does.
    /// Epoch, pause, freeze, allow-list and caps are checked when `execute` runs.
    function validateUserOp(PackedUserOperation calldata op, bytes32 opHash, uint256 missing)
        external
        view
        returns (uint256)
    {
        if (msg.sender != entryPoint || msg.sender == address(0)) revert NotEntryPoint(msg.sender);
        if (missing != 0) revert AccountPaysNoGas(missing);
        if (op.callData.length < 4 || bytes4(op.callData[0:4]) != AgentAccount.execute.selector) return 1;
        (address found, ECDSA.RecoverError problem,) = ECDSA.tryRecoverCalldata(opHash, op.signature);
        return problem == ECDSA.RecoverError.NoError && found == signer ? 0 : 1;
    }

    /// @notice EIP-1271. The signed message is AgentMessage(hash) under this account's own domain, so that one
    /// signature never counts for two accounts of the same key.
    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        (uint64 epoch, bool paused,) = agents.status(tokenId);
        if (frozen || paused || !signaturesEnabled || signerEpoch != epoch) return 0xffffffff;
        (address found, ECDSA.RecoverError problem,) = ECDSA.tryRecoverCalldata(messageDigest(hash), signature);
        bool good = problem == ECDSA.RecoverError.NoError && found == signer;
        return good ? IERC1271.isValidSignature.selector : bytes4(0xffffffff);
    }

    // --- views ---

    /// @notice What the signer signs for EIP-1271 over `hash`.
    function messageDigest(bytes32 hash) public view returns (bytes32) {
        return _digest(keccak256(abi.encode(MESSAGE_TYPE, hash)));
    }

    /// @notice What the signer signs for `executeSigned`.
    function callDigest(address target, uint256 value, bytes calldata data, uint256 nonce, uint256 deadline)
        public
        view
        returns (bytes32)
    {
        return _digest(keccak256(abi.encode(CALL_TYPE, target, value, keccak256(data), nonce, deadline)));
    }

    function _digest(bytes32 structHash) private view returns (bytes32) {
        bytes32 domain = keccak256(
            abi.encode(DOMAIN_TYPE, keccak256("CloisterAgentAccount"), keccak256("1"), block.chainid, address(this))
        );
        return keccak256(abi.encodePacked(hex"1901", domain, structHash));
    }

    /// @notice The cap of an asset and what is left of it in this period.
    function cap(address asset) external view returns (uint128 perPeriod, uint128 left) {
        Cap memory c = _caps[asset];
        uint128 spent = c.period == block.number / periodBlocks ? c.spent : 0;
        return (c.perPeriod, c.perPeriod > spent ? c.perPeriod - spent : 0);
    }

    // --- inside ---

    function _act(address who, address target, uint256 value, bytes calldata data) private returns (bytes memory) {
        _requireLive(who);
        bytes4 selector = _selector(data);
        if (target == address(this) || target == GAS || !allowed[target][selector]) revert NotAllowed(target, selector);
        if (value != 0) _spend(address(0), value);
        uint256 moved = _tokensMoved(selector, data);
        if (moved != 0) _spend(target, moved);
        return _call(target, value, data);
    }

    function _requireLive(address caller) private view {
        if (frozen) revert AccountFrozen();
        (uint64 epoch, bool paused,) = agents.status(tokenId);
        if (paused) revert AgentPaused();
        if (caller != signer) revert NotSigner(caller);
        if (signerEpoch != epoch) revert WrongEpoch(signerEpoch, epoch);
    }

    function _spend(address asset, uint256 amount) private {
        Cap storage c = _caps[asset];
        uint64 period = uint64(block.number / periodBlocks);
        if (c.period != period) (c.period, c.spent) = (period, 0);
        uint256 left = c.perPeriod > c.spent ? c.perPeriod - c.spent : 0;
        if (amount > left) revert CapExceeded(asset, amount, left);
        c.spent += uint128(amount);
    }

    /// @dev Last of all, so that nothing depends on the receiver. Price: base fee and a tip up to MAX_TIP, never more than
    /// was paid. Less is paid where the cap or the balance ends; what the receiver refuses stays here.
    function _repay(uint256 gas_, uint256 bytes_) private {
        uint256 price = block.basefee + MAX_TIP;
        if (tx.gasprice < price) price = tx.gasprice;
        uint256 amount = (gas_ - gasleft() + UNSEEN_GAS + 16 * bytes_) * price;
        Cap storage c = _caps[GAS];
        uint64 period = uint64(block.number / periodBlocks);
        uint256 left = c.perPeriod;
        if (c.period == period) left = left > c.spent ? left - c.spent : 0;
        if (amount > left) amount = left;
        if (amount > address(this).balance) amount = address(this).balance;
        if (amount == 0) return;
        _spend(GAS, amount);
        (bool sent,) = msg.sender.call{value: amount, gas: 10_000}("");
        if (sent) emit Repaid(msg.sender, amount);
    }

    function _tokensMoved(bytes4 selector, bytes calldata data) private pure returns (uint256) {
        if (selector == TRANSFER || selector == APPROVE || selector == INCREASE_ALLOWANCE) return _word(data, 1);
        if (selector == TRANSFER_FROM) return _word(data, 2);
        return 0;
    }

    function _word(bytes calldata data, uint256 index) private pure returns (uint256) {
        uint256 start = 4 + 32 * index;
        if (data.length < start + 32) revert BadCall();
        return uint256(bytes32(data[start:start + 32]));
    }

    function _selector(bytes calldata data) private pure returns (bytes4) {
        if (data.length == 0) return 0;
        if (data.length < 4) revert BadCall();
        bytes4 selector = bytes4(data[0:4]);
        if (selector == 0) revert BadCall();
        return selector;
    }

    function _call(address target, uint256 value, bytes calldata data) private returns (bytes memory) {
        (bool ok, bytes memory answer) = target.call{value: value}(data);
        if (!ok) revert CallFailed(answer);
        emit Executed(msg.sender, target, value, data.length < 4 ? bytes4(0) : bytes4(data[0:4]));
        return answer;
    }
}

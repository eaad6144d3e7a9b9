// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ERC721} from "@openzeppelin/contracts/token/ERC721/ERC721.sol";
import {IERC721} from "@openzeppelin/contracts/token/ERC721/IERC721.sol";
import {ERC721URIStorage} from "@openzeppelin/contracts/token/ERC721/extensions/ERC721URIStorage.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {AgentAccounts} from "./AgentAccounts.sol";
import {Clusters} from "./Clusters.sol";
import {IAgents} from "./interfaces/IAgents.sol";
import {IGatekeepers} from "./interfaces/IGatekeepers.sol";
import {IIdentityRegistry} from "./interfaces/IIdentityRegistry.sol";
import {Statements} from "./Statements.sol";

/// @title Agents: an ERC-721 token per agent with the ERC-8004 identity interface, and what its workers must obey.
/// @notice Events of ERC-8004 name the token id `agentId`; events of this project use the 32-byte agent id =
/// keccak256(abi.encode(chain id, this contract, token id)).
contract Agents is IAgents, IIdentityRegistry, ERC721URIStorage, EIP712 {
    using Statements for Statements.EpochBump;
    using Statements for Statements.WorkerBumps;

    /// @dev In rising strictness: a rule may only become stricter.
    enum UpgradeMode {
        Instant,
        Delayed,
        Frozen
    }

    /// @dev `owner` repeats ERC-721's, so that one storage proof of one record is enough. The four secrets epochs name
    /// the keys that the owner's secrets are sealed to. State sealed under an epoch below `wipedBelow` is left behind.
    /// `canary`: 0 without a second version, else 1 + its share of the calls in percent.
    struct Agent {
        address owner;
        uint64 epoch;
        bool paused;
        UpgradeMode upgradeMode;
        uint8 canary;
        address guardian;
        uint64 upgradeDelay;
        address account;
        uint64 secretsVersion;
        address secretsSetter;
        uint64 secretsEpoch;
        uint256 tokenId;
        bytes32 codeHash;
        bytes32 manifestHash;
        bytes32 cluster;
        bytes32 secretsHash;
        bytes32 secretsCluster;
        uint64 secretsClusterEpoch;
        uint64 secretsMasterEpoch;
        uint64 wipedBelow;
        uint64 bumpedAt;
    }

    struct PendingCode {
        bytes32 codeHash;
        bytes32 manifestHash;
        uint64 readyAt;
    }

    /// @notice A second version beside the one in force; workers may run it from block `readyAt` on.
    struct Canary {
        bytes32 codeHash;
        bytes32 manifestHash;
        uint64 readyAt;
    }

    /// @notice What further limits an agent. Lists only narrow what the manifest allows; 0: the manifest alone binds.
    struct Rules {
        address accessHook;
        uint64 emergencyUntil;
        address feePayer;
        uint64 version;
        bytes32 egressHash;
        bytes32 toolsHash;
        bytes32 modelsHash;
    }

    /// @notice Who is the owner on another chain, as the owner of this tenure said; of an older tenure it means nothing.
    struct Speaker {
        address who;
        uint64 tenure;
    }

    struct Deployment {
        bytes32 codeHash;
        bytes32 manifestHash;
        bytes32 cluster;
        UpgradeMode upgradeMode;
        uint64 upgradeDelay;
        string agentURI;
    }

    bytes32 private constant WALLET_TYPE =
        keccak256("AgentWalletSet(uint256 agentId,address newWallet,address owner,uint256 deadline)");
    bytes32 private constant WALLET_KEY = keccak256("agentWallet");
    uint256 private constant MAX_WALLET_DEADLINE = 5 minutes;
    /// @notice Longest pause that the DAO can order at once: about a week of 12-second blocks.
    uint64 public constant MAX_EMERGENCY = 50_400;
    /// @notice Agents in one statement that bumps epochs for cause.
    uint256 public constant MAX_BATCH = 256;

    /// @notice How many agents exist; token ids are 1 to `count`.
    uint256 public count;
    mapping(bytes32 agentId => Agent) private _agents;
    mapping(bytes32 agentId => PendingCode) private _pendingCode;
    mapping(uint256 tokenId => mapping(string key => bytes)) private _metadata;
    mapping(uint256 tokenId => address) private _wallets;
    mapping(bytes32 agentId => Rules) private _rules;
    mapping(uint64 masterEpoch => uint256) public bornUnder;
    mapping(uint256 tokenId => uint64) public bornIn;
    mapping(bytes32 agentId => Canary) private _canaries;
    /// @dev Counts the transfers of an agent.
    mapping(bytes32 agentId => uint64) private _tenures;
    mapping(bytes32 agentId => mapping(uint256 chainId => Speaker)) private _speakers;

    IGatekeepers public immutable gatekeepers;
    Clusters public immutable clusters;
    AgentAccounts public immutable accounts;

    event AgentCreated(bytes32 indexed agent, uint256 indexed tokenId, bytes32 indexed cluster, address account);
    event CodeSet(bytes32 indexed agent, bytes32 codeHash, bytes32 manifestHash);
    event CodeProposed(bytes32 indexed agent, bytes32 codeHash, bytes32 manifestHash, uint64 readyAt);
    event CodeCancelled(bytes32 indexed agent);
    event CanarySet(bytes32 indexed agent, bytes32 codeHash, bytes32 manifestHash, uint8 share, uint64 readyAt);
    event CanaryDropped(bytes32 indexed agent);
    event UpgradeRuleSet(bytes32 indexed agent, UpgradeMode mode, uint64 delay);
    event SecretsSet(bytes32 indexed agent, bytes32 secretsHash, uint64 version, address indexed setter);
    event PausedSet(bytes32 indexed agent, bool paused, address indexed by);
    event GuardianSet(bytes32 indexed agent, address indexed guardian);
    event AccessHookSet(bytes32 indexed agent, address indexed hook);
    event FeePayerSet(bytes32 indexed agent, address indexed payer);
    event SpeakerSet(bytes32 indexed agent, uint256 indexed chainId, address indexed speaker);
    event ListsSet(bytes32 indexed agent, bytes32 egressHash, bytes32 toolsHash, bytes32 modelsHash);
    event ClusterSet(bytes32 indexed agent, bytes32 indexed cluster);
    event EmergencySet(bytes32 indexed agent, uint64 until);
    event EpochBumped(bytes32 indexed agent, uint64 epoch, address indexed by);
    event StateWiped(bytes32 indexed agent, uint64 below);
    /// @notice A worker removed for cause held the secrets of this version: replace the credentials in them.
    event SecretsExposed(bytes32 indexed agent, address indexed worker, uint64 version);

    error NotOwner(uint256 tokenId, address caller);
    error NotDao(address caller);
    error InEmergency(uint64 until, uint256 now_);
    error BadEmergency(uint64 blocks);
    error NotAHook(address hook);
    error SameCluster(bytes32 cluster);
    error NotOwnerOrGuardian(uint256 tokenId, address caller);
    error NotAuthorized(uint256 tokenId, address caller);
    error UnknownAgent(bytes32 agent);
    error EmptyHash();
    error UnknownCluster(bytes32 cluster);
    error BadUpgradeRule();
    error UpgradeRuleLoosened();
    error CodeFrozen();
    error BadShare(uint8 percent);
    error SameCode();
    error NothingPending();
    error TooEarly(uint64 readyAt, uint256 now_);
    error WrongEpoch(uint64 given, uint64 current);
    error NotDue(uint64 dueAt, uint256 now_);
    error BadBatch(uint256 agents, uint256 epochs);
    error ReservedKey();
    error DeadlinePassed(uint256 deadline);
    error DeadlineTooFar(uint256 deadline);
    error BadWalletSignature();

    constructor(IGatekeepers gatekeepers_, Clusters clusters_)
        ERC721("Cloister Agent", "AGENT")
        EIP712("ERC8004IdentityRegistry", "1")
    {
        gatekeepers = gatekeepers_;
        clusters = clusters_;
        accounts = new AgentAccounts(gatekeepers_);
    }

    modifier onlyTokenOwner(uint256 tokenId) {
        if (ownerOf(tokenId) != msg.sender) revert NotOwner(tokenId, msg.sender);
        _;
    }

    modifier onlyOwnerOrGuardian(uint256 tokenId) {
        if (msg.sender != ownerOf(tokenId) && msg.sender != _agentOf(tokenId).guardian) {
            revert NotOwnerOrGuardian(tokenId, msg.sender);
        }
        _;
    }

    modifier onlyDao() {
        if (msg.sender != clusters.dao()) revert NotDao(msg.sender);
        _;
    }

    modifier onlyAuthorized(uint256 tokenId) {
        if (!isAuthorizedOrOwner(msg.sender, tokenId)) revert NotAuthorized(tokenId, msg.sender);
        _;
    }

    // --- deploying ---

    /// @notice A new agent with its code and rule, in one transaction.
    function deploy(Deployment calldata d) external returns (uint256 tokenId) {
        if (d.codeHash == 0 || d.manifestHash == 0) revert EmptyHash();
        if (!clusters.exists(d.cluster)) revert UnknownCluster(d.cluster);
        _requireRule(d.upgradeMode, d.upgradeDelay);
        tokenId = _create(d.agentURI, d.cluster);
        Agent storage a = _agentOf(tokenId);
        (a.upgradeMode, a.upgradeDelay) = (d.upgradeMode, d.upgradeDelay);
        bytes32 id = agentIdOf(tokenId);
        emit UpgradeRuleSet(id, d.upgradeMode, d.upgradeDelay);
        _applyCode(id, d.codeHash, d.manifestHash);
    }

    // --- code ---

    /// @notice New code: at once under Instant and for an agent that has none, after the delay under Delayed.
    function setCode(uint256 tokenId, bytes32 codeHash, bytes32 manifestHash) external onlyTokenOwner(tokenId) {
        if (codeHash == 0 || manifestHash == 0) revert EmptyHash();
        Agent storage a = _agentOf(tokenId);
        bytes32 id = agentIdOf(tokenId);
        if (a.upgradeMode == UpgradeMode.Frozen) revert CodeFrozen();
        if (a.upgradeMode == UpgradeMode.Instant || a.codeHash == 0) return _applyCode(id, codeHash, manifestHash);
        uint64 readyAt = uint64(block.number) + a.upgradeDelay;
        _pendingCode[id] = PendingCode(codeHash, manifestHash, readyAt);
        emit CodeProposed(id, codeHash, manifestHash, readyAt);
    }

    /// @notice Put announced code in force once its delay is over.
    function applyCode(uint256 tokenId) external onlyTokenOwner(tokenId) {
        bytes32 id = agentIdOf(tokenId);
        PendingCode memory p = _pendingCode[id];
        if (p.codeHash == 0) revert NothingPending();
        if (block.number < p.readyAt) revert TooEarly(p.readyAt, block.number);
        _applyCode(id, p.codeHash, p.manifestHash);
    }

    /// @notice The owner takes a waiting change back, or the guardian vetoes it.
    function cancelCode(uint256 tokenId) external onlyOwnerOrGuardian(tokenId) {
        bytes32 id = agentIdOf(tokenId);
        if (_pendingCode[id].codeHash == 0) revert NothingPending();
        _dropPending(id);
    }

    /// @notice Make the upgrade rule stricter. It never becomes looser. A change that waits under the old rule is dropped, and a canary.
    function setUpgradeRule(uint256 tokenId, UpgradeMode mode, uint64 delay) public onlyTokenOwner(tokenId) {
        _requireRule(mode, delay);
        Agent storage a = _agentOf(tokenId);
        bool stricter = mode > a.upgradeMode || (mode == UpgradeMode.Delayed && mode == a.upgradeMode && delay > a.upgradeDelay);
        if (!stricter) revert UpgradeRuleLoosened();
        if (mode == UpgradeMode.Frozen && a.codeHash == 0) revert EmptyHash();
        (a.upgradeMode, a.upgradeDelay) = (mode, delay);
        bytes32 id = agentIdOf(tokenId);
        _dropChanges(id);
        emit UpgradeRuleSet(id, mode, delay);
    }

    /// @notice No more code changes, for ever.
    function freeze(uint256 tokenId) external {
        setUpgradeRule(tokenId, UpgradeMode.Frozen, 0);
    }

    // --- canary ---

    /// @notice Let a second version run beside the one in force, for `share` percent of the calls; 0: for those only who
    /// ask for it. It waits as long as the upgrade rule says. Another share of the same version waits no more.
    function setCanary(uint256 tokenId, bytes32 codeHash, bytes32 manifestHash, uint8 share)
        external
        onlyTokenOwner(tokenId)
    {
        if (share > 100) revert BadShare(share);
        Agent storage a = _agentOf(tokenId);
        if (codeHash == 0 || manifestHash == 0 || a.codeHash == 0) revert EmptyHash();
        if (a.upgradeMode == UpgradeMode.Frozen) revert CodeFrozen();
        if (codeHash == a.codeHash) revert SameCode();
        bytes32 id = agentIdOf(tokenId);
        Canary storage c = _canaries[id];
        if (c.codeHash != codeHash || c.manifestHash != manifestHash) {
            (c.codeHash, c.manifestHash, c.readyAt) =
                (codeHash, manifestHash, uint64(block.number) + a.upgradeDelay);
        }
        a.canary = share + 1;
        emit CanarySet(id, codeHash, manifestHash, share, c.readyAt);
    }

    /// @notice Put the canary in force for all calls. It has waited as long as any change.
    function promoteCanary(uint256 tokenId) external onlyTokenOwner(tokenId) {
        bytes32 id = agentIdOf(tokenId);
        Canary memory c = _canaries[id];
        if (c.codeHash == 0) revert NothingPending();
        if (block.number < c.readyAt) revert TooEarly(c.readyAt, block.number);
        _applyCode(id, c.codeHash, c.manifestHash);
    }

    /// @notice The owner takes the canary back, or the guardian stops it.
    function dropCanary(uint256 tokenId) external onlyOwnerOrGuardian(tokenId) {
        bytes32 id = agentIdOf(tokenId);
        if (_agents[id].canary == 0) revert NothingPending();
        _dropCanary(id);
    }

    // --- secrets ---

    /// @notice Commit to the sealed secrets. Workers load nothing else. Bound to the setter and the current epoch.
    function setSecrets(uint256 tokenId, bytes32 secretsHash) external onlyTokenOwner(tokenId) {
        Agent storage a = _agentOf(tokenId);
        a.secretsHash = secretsHash;
        a.secretsSetter = msg.sender;
        a.secretsEpoch = a.epoch;
        a.secretsCluster = a.cluster;
        a.secretsClusterEpoch = clusters.epochOf(a.cluster);
        a.secretsMasterEpoch = gatekeepers.masterEpoch();
        uint64 version = ++a.secretsVersion;
        emit SecretsSet(agentIdOf(tokenId), secretsHash, version, msg.sender);
    }

    // --- limits ---

    /// @notice A contract that decides who may call (`IAgentAccess`); 0: the manifest alone decides.
    function setAccessHook(uint256 tokenId, address hook) external onlyTokenOwner(tokenId) {
        if (hook != address(0) && hook.code.length == 0) revert NotAHook(hook);
        Rules storage r = _touchedRules(tokenId);
        r.accessHook = hook;
        emit AccessHookSet(agentIdOf(tokenId), hook);
    }

    /// @notice Who is asked to pay for requests. Naming somebody takes nothing: the Anchor asks for the payer's consent.
    function setFeePayer(uint256 tokenId, address payer) external onlyTokenOwner(tokenId) {
        Rules storage r = _touchedRules(tokenId);
        r.feePayer = payer;
        emit FeePayerSet(agentIdOf(tokenId), payer);
    }

    /// @notice Commit to lists of egress hosts, tools and models. Workers obey list and manifest both, so that no list
    /// grants what the code's manifest does not.
    function setLists(uint256 tokenId, bytes32 egressHash, bytes32 toolsHash, bytes32 modelsHash)
        external
        onlyTokenOwner(tokenId)
    {
        Rules storage r = _touchedRules(tokenId);
        (r.egressHash, r.toolsHash, r.modelsHash) = (egressHash, toolsHash, modelsHash);
        emit ListsSet(agentIdOf(tokenId), egressHash, toolsHash, modelsHash);
    }

    /// @notice Name the address that is this owner on another chain, where its own may be somebody else's; 0 takes it back.
    /// A transfer of the agent ends it.
    function setSpeaker(uint256 tokenId, uint256 chainId, address speaker) external onlyTokenOwner(tokenId) {
        bytes32 id = agentIdOf(tokenId);
        _speakers[id][chainId] = Speaker(speaker, _tenures[id]);
        emit SpeakerSet(id, chainId, speaker);
    }

    /// @notice Move to another cluster, under new keys.
    function setCluster(uint256 tokenId, bytes32 cluster) external onlyTokenOwner(tokenId) {
        if (!clusters.exists(cluster)) revert UnknownCluster(cluster);
        Agent storage a = _agentOf(tokenId);
        if (a.cluster == cluster) revert SameCluster(cluster);
        a.cluster = cluster;
        emit ClusterSet(agentIdOf(tokenId), cluster);
        _bump(tokenId);
    }

    // --- stopping ---

    /// @notice Stop the agent: workers and gatekeepers obey from any block seen. Owner or guardian.
    function pause(uint256 tokenId) external onlyOwnerOrGuardian(tokenId) {
        _setPaused(tokenId, true);
    }

    /// @notice Only the owner lets it run again: a guardian can stop, never loosen. Not during an emergency.
    function resume(uint256 tokenId) external onlyTokenOwner(tokenId) {
        uint64 until = _rules[agentIdOf(tokenId)].emergencyUntil;
        if (block.number < until) revert InEmergency(until, block.number);
        _setPaused(tokenId, false);
    }

    /// @notice The DAO stops an agent for a limited time; not even the owner resumes before. It may be ordered anew.
    function emergencyPause(uint256 tokenId, uint64 blocks) external onlyDao {
        if (blocks == 0 || blocks > MAX_EMERGENCY) revert BadEmergency(blocks);
        _setEmergency(tokenId, uint64(block.number) + blocks);
        _setPaused(tokenId, true);
    }

    /// @notice The DAO ends its order. The agent stays paused until its owner resumes it.
    function emergencyLift(uint256 tokenId) external onlyDao {
        _setEmergency(tokenId, 0);
    }

    /// @notice Name who may pause and veto. A change that waits is dropped, and a canary: nobody loses a veto under it.
    function setGuardian(uint256 tokenId, address guardian) external onlyTokenOwner(tokenId) {
        _agentOf(tokenId).guardian = guardian;
        bytes32 id = agentIdOf(tokenId);
        _dropChanges(id);
        emit GuardianSet(id, guardian);
    }

    /// @notice New keys for the agent.
    function bumpEpoch(uint256 tokenId) external onlyTokenOwner(tokenId) {
        _bump(tokenId);
    }

    /// @notice New keys for cause, by the committee. Names the epoch that ends, so that it counts once.
    function bumpEpochByCommittee(uint256 tokenId, Statements.EpochBump calldata bump, bytes[] calldata sigs) external {
        bytes32 id = agentIdOf(tokenId);
        if (bump.agent != id) revert UnknownAgent(bump.agent);
        uint64 epoch = _agentOf(tokenId).epoch;
        if (bump.agentEpoch != epoch) revert WrongEpoch(bump.agentEpoch, epoch);
        gatekeepers.requireStatement(bump.term, bump.hash(), sigs);
        _bump(tokenId);
    }

    /// @notice New keys, and the state under the old ones is left behind for good; so are secrets that it carries.
    function wipeState(uint256 tokenId) external onlyTokenOwner(tokenId) {
        _bump(tokenId);
        Agent storage a = _agentOf(tokenId);
        a.wipedBelow = a.epoch;
        emit StateWiped(agentIdOf(tokenId), a.epoch);
    }

    /// @notice New keys on schedule: anybody, once the present ones are older than the cluster allows.
    function bumpEpochScheduled(uint256 tokenId) external {
        Agent storage a = _agentOf(tokenId);
        uint64 age = clusters.maxEpochAge(a.cluster);
        uint64 dueAt = age == 0 ? type(uint64).max : a.bumpedAt + age;
        if (block.number < dueAt) revert NotDue(dueAt, block.number);
        _bump(tokenId);
    }

    /// @notice New keys for every agent that a removed worker held, by one statement of the committee. An agent whose
    /// epoch was left meanwhile is passed over, so that no single owner holds the others up.
    function bumpEpochsByCommittee(
        Statements.WorkerBumps calldata bumps,
        uint256[] calldata tokenIds,
        uint64[] calldata epochs,
        bytes[] calldata sigs
    ) external {
        if (tokenIds.length == 0 || tokenIds.length > MAX_BATCH || tokenIds.length != epochs.length) {
            revert BadBatch(tokenIds.length, epochs.length);
        }
        if (bumps.agents != keccak256(abi.encode(tokenIds, epochs))) revert UnknownAgent(bumps.agents);
        gatekeepers.requireStatement(bumps.term, bumps.hash(), sigs);
        for (uint256 i = 0; i < tokenIds.length; ++i) {
            Agent storage a = _agentOf(tokenIds[i]);
            if (a.epoch != epochs[i]) continue;
            _bump(tokenIds[i]);
            if (a.secretsHash != 0) emit SecretsExposed(agentIdOf(tokenIds[i]), bumps.worker, a.secretsVersion);
        }
    }

    // --- ERC-8004 ---

    function register(string memory agentURI, MetadataEntry[] memory metadata) external returns (uint256 tokenId) {
        tokenId = _create(agentURI, clusters.defaultCluster());
        for (uint256 i = 0; i < metadata.length; ++i) {
            _setMetadata(tokenId, metadata[i].metadataKey, metadata[i].metadataValue);
        }
    }

    function register(string memory agentURI) external returns (uint256) {
        return _create(agentURI, clusters.defaultCluster());
    }

    function register() external returns (uint256) {
        return _create("", clusters.defaultCluster());
    }

    function setAgentURI(uint256 tokenId, string calldata newURI) external onlyAuthorized(tokenId) {
        _setTokenURI(tokenId, newURI);
        emit URIUpdated(tokenId, newURI, msg.sender);
    }

    function getMetadata(uint256 tokenId, string memory key) external view returns (bytes memory) {
        if (keccak256(bytes(key)) == WALLET_KEY) {
            address wallet = _wallets[tokenId];
            return wallet == address(0) ? bytes("") : abi.encodePacked(wallet);
        }
        return _metadata[tokenId][key];
    }

    function setMetadata(uint256 tokenId, string memory key, bytes memory value) external onlyAuthorized(tokenId) {
        _setMetadata(tokenId, key, value);
    }

    /// @notice Where the agent is paid. The new wallet agrees by EIP-712 signature or EIP-1271.
    function setAgentWallet(uint256 tokenId, address newWallet, uint256 deadline, bytes calldata signature)
        external
        onlyAuthorized(tokenId)
    {
        if (block.timestamp > deadline) revert DeadlinePassed(deadline);
        if (deadline > block.timestamp + MAX_WALLET_DEADLINE) revert DeadlineTooFar(deadline);
        bytes32 structHash = keccak256(abi.encode(WALLET_TYPE, tokenId, newWallet, ownerOf(tokenId), deadline));
        bool agreed = SignatureChecker.isValidSignatureNow(newWallet, _hashTypedDataV4(structHash), signature);
        if (newWallet == address(0) || !agreed) revert BadWalletSignature();
        _setWallet(tokenId, newWallet);
    }

    function getAgentWallet(uint256 tokenId) external view returns (address) {
        return _wallets[tokenId];
    }

    function unsetAgentWallet(uint256 tokenId) external onlyAuthorized(tokenId) {
        _setWallet(tokenId, address(0));
    }

    /// @notice Owner, approved address or operator of a token, as ERC-721 knows them.
    function isAuthorizedOrOwner(address spender, uint256 tokenId) public view returns (bool) {
        return _isAuthorized(_requireOwned(tokenId), spender, tokenId);
    }

    // --- views ---

    function agentIdOf(uint256 tokenId) public view returns (bytes32) {
        return keccak256(abi.encode(block.chainid, address(this), tokenId));
    }

    function agent(bytes32 agentId) external view returns (Agent memory) {
        Agent memory a = _agents[agentId];
        if (a.epoch == 0) revert UnknownAgent(agentId);
        return a;
    }

    function pendingCode(bytes32 agentId) external view returns (PendingCode memory) {
        return _pendingCode[agentId];
    }

    function canary(bytes32 agentId) external view returns (Canary memory) {
        return _canaries[agentId];
    }

    function rules(bytes32 agentId) external view returns (Rules memory) {
        return _rules[agentId];
    }

    /// @notice Who is the agent's owner on another chain, by its present owner's word; 0: nobody was named.
    function speakerOf(bytes32 agentId, uint256 chainId) external view returns (address) {
        Speaker memory s = _speakers[agentId][chainId];
        return s.tenure == _tenures[agentId] ? s.who : address(0);
    }

    /// @inheritdoc IAgents
    function live(bytes32 agentId) external view returns (uint64 epoch, bool paused) {
        Agent storage a = _agents[agentId];
        return (a.epoch, a.paused);
    }

    /// @inheritdoc IAgents
    function payerOf(bytes32 agentId) external view returns (address payer, address owner) {
        return (_rules[agentId].feePayer, _agents[agentId].owner);
    }

    /// @inheritdoc IAgents
    function status(uint256 tokenId) external view returns (uint64 epoch, bool paused, address guardian) {
        Agent storage a = _agentOf(tokenId);
        return (a.epoch, a.paused, a.guardian);
    }

    function ownerOf(uint256 tokenId) public view override(ERC721, IERC721, IAgents) returns (address) {
        return super.ownerOf(tokenId);
    }

    // --- inside ---

    function _create(string memory agentURI, bytes32 cluster) private returns (uint256 tokenId) {
        tokenId = ++count;
        bytes32 id = agentIdOf(tokenId);
        Agent storage a = _agents[id];
        a.epoch = 1;
        a.bumpedAt = uint64(block.number);
        uint64 master = gatekeepers.masterEpoch();
        bornIn[tokenId] = master;
        ++bornUnder[master];
        a.tokenId = tokenId;
        a.cluster = cluster;
        a.account = accounts.addressOf(tokenId);
        _mint(msg.sender, tokenId);
        if (bytes(agentURI).length != 0) _setTokenURI(tokenId, agentURI);
        emit Registered(tokenId, agentURI, msg.sender);
        emit AgentCreated(id, tokenId, cluster, a.account);
        _setWallet(tokenId, msg.sender);
    }

    /// @dev A transfer bumps the epoch and takes away what the old owner set: secrets, guardian, pending code, canary, wallet,
    /// speakers.
    function _update(address to, uint256 tokenId, address auth) internal override returns (address from) {
        from = super._update(to, tokenId, auth);
        Agent storage a = _agentOf(tokenId);
        a.owner = to;
        if (from == address(0)) return from;
        bytes32 id = agentIdOf(tokenId);
        ++_tenures[id];
        (a.secretsHash, a.secretsSetter, a.secretsEpoch) = (0, address(0), 0);
        uint64 version = ++a.secretsVersion;
        a.guardian = address(0);
        _dropChanges(id);
        emit SecretsSet(id, 0, version, address(0));
        emit GuardianSet(id, address(0));
        _setWallet(tokenId, address(0));
        _dropRules(tokenId, id);
        _bump(tokenId);
    }

    /// @dev The seller's hook and payer end. An agent that had a hook waits, paused, for the buyer's own: it was never
    /// open to everybody. Lists and emergency stay.
    function _dropRules(uint256 tokenId, bytes32 id) private {
        Rules storage r = _rules[id];
        if (r.feePayer != address(0)) {
            _touchedRules(tokenId).feePayer = address(0);
            emit FeePayerSet(id, address(0));
        }
        if (r.accessHook != address(0)) {
            _touchedRules(tokenId).accessHook = address(0);
            emit AccessHookSet(id, address(0));
            _setPaused(tokenId, true);
        }
    }

    function _touchedRules(uint256 tokenId) private returns (Rules storage r) {
        r = _rules[agentIdOf(tokenId)];
        ++r.version;
    }

    function _setPaused(uint256 tokenId, bool paused) private {
        _agentOf(tokenId).paused = paused;
        emit PausedSet(agentIdOf(tokenId), paused, msg.sender);
    }

    function _setEmergency(uint256 tokenId, uint64 until) private {
        _agentOf(tokenId);
        _touchedRules(tokenId).emergencyUntil = until;
        emit EmergencySet(agentIdOf(tokenId), until);
    }

    function _bump(uint256 tokenId) private {
        Agent storage a = _agentOf(tokenId);
        uint64 epoch = ++a.epoch;
        a.bumpedAt = uint64(block.number);
        emit EpochBumped(agentIdOf(tokenId), epoch, msg.sender);
    }

    function _applyCode(bytes32 id, bytes32 codeHash, bytes32 manifestHash) private {
        (_agents[id].codeHash, _agents[id].manifestHash) = (codeHash, manifestHash);
        delete _pendingCode[id];
        _dropCanary(id);
        emit CodeSet(id, codeHash, manifestHash);
    }

    /// @dev What waits or runs beside the version in force, under an older rule or guardian.
    function _dropChanges(bytes32 id) private {
        if (_pendingCode[id].codeHash != 0) _dropPending(id);
        _dropCanary(id);
    }

    function _dropCanary(bytes32 id) private {
        if (_agents[id].canary == 0) return;
        _agents[id].canary = 0;
        delete _canaries[id];
        emit CanaryDropped(id);
    }

    function _dropPending(bytes32 id) private {
        delete _pendingCode[id];
        emit CodeCancelled(id);
    }

    function _setMetadata(uint256 tokenId, string memory key, bytes memory value) private {
        if (keccak256(bytes(key)) == WALLET_KEY) revert ReservedKey();
        _metadata[tokenId][key] = value;
        emit MetadataSet(tokenId, key, key, value);
    }

    function _setWallet(uint256 tokenId, address wallet) private {
        _wallets[tokenId] = wallet;
        bytes memory value = wallet == address(0) ? bytes("") : abi.encodePacked(wallet);
        emit MetadataSet(tokenId, "agentWallet", "agentWallet", value);
    }

    function _agentOf(uint256 tokenId) private view returns (Agent storage a) {
        a = _agents[agentIdOf(tokenId)];
        if (a.epoch == 0) revert ERC721NonexistentToken(tokenId);
    }

    function _requireRule(UpgradeMode mode, uint64 delay) private pure {
        if ((mode == UpgradeMode.Delayed) != (delay != 0)) revert BadUpgradeRule();
    }
}

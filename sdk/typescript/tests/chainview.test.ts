import { assert, flipped, refuses, rejects, vectors } from "./support.ts";
import { type Post, quantity, Rpc } from "../src/chain/rpc.ts";
import { ProvenState } from "../src/chain/proven.ts";
import { acceptCheckpoint } from "../src/chainview/checkpoints.ts";
import { GETTERS, UNKNOWN_AGENT } from "../src/chainview/layouts.ts";
import { verifyAccount, verifySlot, verifyTrie } from "../src/chainview/proofs.ts";
import { agentId, liveAt } from "../src/chainview/records.ts";
import { decode, encode, type Item, uint } from "../src/chainview/rlp.ts";
import { BAD_RECORD, type Slots, Struct, textOf } from "../src/chainview/words.ts";
import { concat, uintBytes, utf8 } from "../src/encoding/bytes.ts";
import { fromHex, toHex } from "../src/encoding/hexes.ts";
import { contractAddress, parseNetwork } from "../src/encoding/network.ts";
import { Checkpoint } from "../src/encoding/statements.ts";
import { requireDiverse, vendorsOf } from "../src/policy/committee.ts";
import { readPolicy } from "../src/policy/parameters.ts";

const DATA = vectors("chainview.json");
const NETWORK = parseNetwork(utf8(DATA.network), DATA.fingerprint);
const CHECKPOINT = Checkpoint.fromJson(DATA.checkpoint);
const SIGNATURES: Uint8Array[] = DATA.signatures.map((s: string) => fromHex(s, 65));
const ROOT = CHECKPOINT.state_root;
const AGENT = fromHex(DATA.agent.agent, 32);

function accept(changes: Partial<Checkpoint> = {}, now = DATA.now, some = SIGNATURES) {
  return acceptCheckpoint({ ...CHECKPOINT, ...changes }, some, NETWORK.founding, NETWORK.id, now, 60);
}

Deno.test("a checkpoint counts with t signatures and while it is fresh", () => {
  accept();
  accept({}, DATA.now + 60);
  accept({}, DATA.now - 30, SIGNATURES.slice(0, 3));
  refuses("chainview.stale", () => accept({}, DATA.now + 61));
  refuses("chainview.stale", () => accept({}, DATA.now - 31));
  refuses("encoding.too_few_signers", () => accept({}, DATA.now, SIGNATURES.slice(0, 2)));
  refuses("chainview.unknown_term", () => accept({ term: 2 }));
  for (const change of [{ number: 7 }, { state_root: new Uint8Array(32) }, { timestamp: 1 }, { chain_id: 1n }]) {
    refuses("encoding.signature", () => accept(change));
  }
});

// --- tries ---

Deno.test("proofs of the vectors give the words that stand beside them", () => {
  for (const [name, proof] of Object.entries<ProofAnswer>(DATA.proofs)) {
    const account = verifyAccount(ROOT, contractAddress(NETWORK.genesis, name), nodes(proof.accountProof));
    assert.ok(account);
    proof.storageProof.forEach((entry, i) => {
      assert.equal(verifySlot(account.storageRoot, BigInt(proof.slots[i]!), nodes(entry.proof)), BigInt(entry.value));
    });
  }
  const { address, proof } = DATA.missing_account;
  assert.equal(verifyAccount(ROOT, fromHex(address), nodes(proof)), undefined);
});

interface ProofAnswer {
  accountProof: string[];
  slots: string[];
  storageProof: { value: string; proof: string[] }[];
}

function nodes(list: string[]): Uint8Array[] {
  return list.map((node) => fromHex(node));
}

Deno.test("proofs: no changed byte, missing, extra or exchanged node passes", () => {
  const address = contractAddress(NETWORK.genesis, "Agents");
  const good = nodes(DATA.proofs.Agents.accountProof);
  const check = (list: Uint8Array[], root = ROOT) => () => verifyAccount(root, address, list);
  good.forEach((node, i) => {
    for (let at = 0; at < node.length; at += 3) {
      const changed = good.with(i, flipped(node, at, at % 8));
      assert.throws(check(changed), /chainview\.(proof|rlp)/);
    }
    refuses("chainview.proof", check(good.toSpliced(i, 1)));
    refuses("chainview.proof", check(good.with(i, new Uint8Array(0))));
  });
  refuses("chainview.proof", check([...good, good[0]!]));
  refuses("chainview.proof", check(good.toReversed()));
  refuses("chainview.proof", check(Array(66).fill(good[0])));
  refuses("chainview.proof", check([new Uint8Array(1025)]));
  refuses("chainview.proof", check(good, new Uint8Array(32)));
  refuses("encoding.size", check(good, new Uint8Array(31)));
});

Deno.test("an empty trie has no nodes", () => {
  const root = fromHex("0x56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421");
  assert.equal(verifyTrie(root, new Uint8Array(32), []), undefined);
  assert.equal(verifyTrie(root, new Uint8Array(32), [Uint8Array.of(0x80)]), undefined);
  refuses("chainview.proof", () => verifyTrie(root, new Uint8Array(32), [utf8("x")]));
});

Deno.test("RLP: one spelling for everything", () => {
  const items: Item[] = [utf8(""), utf8("\x01"), utf8("dog"), utf8("x".repeat(60)), [], [utf8("a"), [utf8("b")]], [
    utf8("y".repeat(300)),
  ]];
  for (const item of items) assert.deepEqual(encode(decode(encode(item))), encode(item));
  const bad = [
    "0x",
    "0x8101",
    "0xb801ff",
    "0xb90001",
    "0x83646f",
    "0xc3646f",
    "0x0000",
    "0xc1c1c1c1c1c0",
    "0xbfffffffffffffffff",
  ];
  for (const text of bad) refuses("chainview.rlp", () => decode(fromHex(text)));
  refuses("chainview.rlp", () => decode(new Uint8Array(70_000)));
  refuses("chainview.rlp", () => uint(fromHex("0x00ff"), "n"));
  refuses("chainview.rlp", () => uint([], "n"));
  assert.equal(uint(fromHex("0x0100"), "n"), 256n);
});

// --- records over a relay that may lie ---

type Params = [string | { data: string }, string[]?, string?];
type Change = (answer: ProofAnswer & { storageProof: unknown[] }) => unknown;

/** A relay that serves the vector's proofs; `lie` changes an eth_getProof answer. */
function relay(lie: Change = (answer) => answer, calls: (data: string) => unknown = () => "0x"): Post {
  const answer = ({ id, method, params }: { id: number; method: string; params: Params }) => {
    const result = method === "eth_getProof" ? lie(proofFor(params)) : calls((params[0] as { data: string }).data);
    return { jsonrpc: "2.0", id, ...(result instanceof Error ? { error: JSON.parse(result.message) } : { result }) };
  };
  // deno-lint-ignore no-explicit-any
  return (body: any) => Promise.resolve(Array.isArray(body) ? body.map(answer) : answer(body));
}

function proofFor([address, slots]: Params): ProofAnswer {
  const entries = Object.entries<ProofAnswer>(DATA.proofs);
  const [, proof] = entries.find(([name]) => toHex(contractAddress(NETWORK.genesis, name)) === address)!;
  const unset = proof.storageProof.at(-1)!;
  const storageProof = slots!.map((slot) => structuredClone(proof.storageProof[proof.slots.indexOf(slot)] ?? unset));
  return { accountProof: [...proof.accountProof], slots: slots!, storageProof };
}

function state(post = relay()): ProvenState {
  return new ProvenState(new Rpc(post), NETWORK.genesis.contracts, CHECKPOINT);
}

Deno.test("records of the vectors: agent, workers, cluster, committee, vendors", async () => {
  const found = state();
  const agent = await found.agent(AGENT);
  assert.equal(toHex(agent!.codeHash), DATA.agent.code_hash);
  assert.deepEqual([agent!.epoch, agent!.paused, agent!.upgradeMode, agent!.upgradeDelay], [1, false, 1, 10]);
  assert.equal(
    toHex(agentId(NETWORK.genesis.chainId, contractAddress(NETWORK.genesis, "Agents"), 1n)),
    DATA.agent.agent,
  );
  for (const wanted of DATA.workers) {
    const worker = await found.worker(fromHex(wanted.worker));
    assert.equal(worker!.endpoint, wanted.endpoint);
    assert.equal(toHex(worker!.boot), wanted.boot);
    assert.ok(liveAt(worker!, CHECKPOINT.number) && !liveAt(worker!, worker!.expiry));
  }
  const cluster = await found.cluster(fromHex(DATA.cluster.cluster));
  assert.deepEqual([toHex(cluster!.owner), cluster!.epoch, cluster!.seats], [DATA.cluster.owner, 1, 2]);
  const committee = await found.committee();
  assert.ok(NETWORK.founding.equals(committee.signers));
  assert.equal(toHex(committee.mpk), toHex(NETWORK.mpk));
  await found.requireDiverse(readPolicy(NETWORK.genesis).committee);
});

Deno.test("what the proofs do not show is refused", async () => {
  const lies: [string, Change][] = [
    [
      "chainview.proof",
      (a) => ({ ...a, storageProof: a.storageProof.map((e) => ({ ...(e as object), value: "0x7" })) }),
    ],
    ["chain.bad_answer", (a) => ({ ...a, storageProof: a.storageProof.slice(1) })],
    ["chain.bad_answer", (a) => ({ ...a, storageProof: a.storageProof.map(() => null) })],
    ["chain.bad_answer", () => null],
    ["chain.bad_answer", (a) => ({ ...a, accountProof: "0x" })],
    ["chainview.proof", (a) => ({ ...a, accountProof: [] })],
    ["encoding.hex", (a) => ({ ...a, accountProof: ["zz"] })],
    ["chainview.wrong_contract", (a) => ({ ...a, accountProof: DATA.missing_account.proof })],
    ["chain.rpc_error", () => new Error('{"message":"no"}')],
    ["chain.reverted", () => new Error('{"message":"execution reverted"}')],
  ];
  for (const [code, lie] of lies.filter(([code]) => code !== "chainview.wrong_contract")) {
    await rejects(code, () => state(relay(lie)).agent(AGENT));
  }
  const other = new Map(NETWORK.genesis.contracts);
  other.set("Agents", { address: contractAddress(NETWORK.genesis, "Agents"), codeHash: new Uint8Array(32) });
  await rejects("chainview.wrong_contract", () => new ProvenState(new Rpc(relay()), other, CHECKPOINT).agent(AGENT));
});

Deno.test("the newest block may forbid", async () => {
  const words = (shape: { dynamic: boolean; words: number; members: object }, set: Record<string, bigint>) => {
    const members = Object.keys(shape.members).map((name) => uintBytes(set[name] ?? 0n, 32));
    return toHex(concat(...(shape.dynamic ? [uintBytes(32, 32)] : []), ...members));
  };
  const asked = (answer: unknown) => state(relay(undefined, () => answer));
  assert.equal(await asked(words(GETTERS.Agents, { paused: 1n })).newestPaused(AGENT), true);
  assert.equal(await asked(words(GETTERS.Agents, {})).newestPaused(AGENT), false);
  const unknown = new Error(JSON.stringify({ data: UNKNOWN_AGENT + "00".repeat(32) }));
  assert.equal(await asked(unknown).newestPaused(AGENT), false);
  await rejects("chain.reverted", () => asked(new Error('{"data":"0x12345678"}')).newestPaused(AGENT));
  await rejects("chain.bad_answer", () => asked("0x").newestPaused(AGENT));
  const worker = fromHex(DATA.workers[0].worker);
  assert.equal(await asked(words(GETTERS.Workers, { removed: 1n })).newestRemoved(worker), true);
  assert.equal(await asked(words(GETTERS.Workers, { registeredAt: 1n })).newestRemoved(worker), true);
  assert.equal(await asked(words(GETTERS.Workers, { registeredAt: 1n, listed: 1n })).newestRemoved(worker), false);
  await rejects("chain.bad_answer", () => asked("0x00").newestRemoved(worker));
});

Deno.test("RPC answers have ids, results and quantities", async () => {
  const rpc = (answer: unknown) => new Rpc(() => Promise.resolve(answer));
  for (const bad of [null, [], {}, { id: 2, result: 1 }, { id: 1 }]) {
    await rejects("chain.bad_answer", () => rpc(bad).call("eth_chainId"));
  }
  await rejects("chain.bad_answer", () => rpc([]).batch([["a", []]]));
  assert.deepEqual(await rpc(null).batch([]), []);
  for (const bad of ["0x", "0x01", "1", 1, null, "0xG", "0x" + "f".repeat(65)]) {
    refuses("chain.bad_answer", () => quantity(bad, "n"));
  }
  assert.equal(quantity("0x0", "n"), 0n);
});

Deno.test("words: flags, texts and numbers that no contract writes are refused", () => {
  const table = { slot: 0, words: 2, fields: { flag: [0, 0, 1], text: [1, 0, 32], number: [0, 1, 8] } } as const;
  const slots = (...words: bigint[]): Slots => ({ get: (asked) => asked.map((slot) => words[Number(slot)] ?? 0n) });
  const at = (...words: bigint[]) => new Struct(table, slots(...words), 0n);
  refuses(BAD_RECORD.code, () => at(2n).flag("flag"));
  refuses(BAD_RECORD.code, () => at((2n ** 64n - 1n) << 8n).number("number"));
  refuses(BAD_RECORD.code, () => textOf(slots(), at(0n, 2n * 300n + 1n), "text"));
  refuses(BAD_RECORD.code, () => textOf(slots(), at(0n, 3n), "text"));
  refuses(BAD_RECORD.code, () => textOf(slots(), at(0n, (1n << 200n) | 2n), "text"));
  refuses(BAD_RECORD.code, () => textOf(slots(), at(0n, (0xffn << 248n) | 2n), "text"));
  assert.equal(textOf(slots(), at(0n, (0x61n << 248n) | 2n), "text"), "a");
  assert.throws(() => at().big("none"), TypeError);
});

// --- policy ---

function vendor(name: string): Uint8Array {
  return concat(utf8(name), new Uint8Array(32 - name.length));
}

Deno.test("a committee rests on enough vendors", () => {
  const rules = { min_vendors: 3, vendor_may_read: false, vendor_may_stop: false };
  const check = (...names: string[]) => () => requireDiverse(names.map(vendor), 3, rules);
  check("intel", "intel", "amd", "amd", "aws")();
  const bad = [
    ["intel", "intel", "intel", "amd", "aws"],
    ["intel", "intel", "amd", "amd", "nobody"],
    ["microsoft+amd", "microsoft+intel", "microsoft", "amd", "aws"],
    ["amd+amd", "intel", "intel", "aws", "aws"],
    ["intel", "intel"],
    [],
  ];
  for (const names of bad) refuses("policy.committee_vendors", check(...names));
  const two = { ...rules, vendor_may_read: true, vendor_may_stop: true };
  refuses("policy.committee_vendors", () => requireDiverse(["intel", "intel", "amd"].map(vendor), 2, two));
  assert.deepEqual([...vendorsOf(vendor("microsoft+amd"))], ["microsoft", "amd"]);
});

Deno.test("the policy's numbers are in range, and production pins vendor roots", () => {
  const { genesis } = NETWORK;
  assert.equal(readPolicy(genesis).network.max_checkpoint_age_s, 60);
  const changed = (change: object) => ({ ...genesis, policy: { ...genesis.policy, ...change } });
  const network = genesis.policy["network"] as object;
  const bad: object[] = [
    { mode: "production" },
    { network: { ...network, seats: 65 } },
    { network: { ...network, lease_blocks: 1 } },
    { network: { ...network, extra: 1 } },
    { network: null },
    { committee: { min_vendors: 0, vendor_may_read: false, vendor_may_stop: false } },
    { committee: { min_vendors: 1, vendor_may_read: 0, vendor_may_stop: false } },
  ];
  for (const change of bad) refuses("policy.document", () => readPolicy(changed(change)));
  const production = { ...changed({ mode: "production" }), mode: "production" };
  refuses("attestation.simulated_root", () => readPolicy(production));
  const real = { intel: ["0x44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"] };
  readPolicy({ ...production, policy: { ...production.policy, roots: real } });
});

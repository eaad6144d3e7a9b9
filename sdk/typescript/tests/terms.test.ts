import { assert, refuses, rejects, vectors } from "./support.ts";
import { CloisterError } from "../src/errors.ts";
import { fromHex, toHex } from "../src/encoding/hexes.ts";
import { SignerSet } from "../src/encoding/signatures.ts";
import { Handover, Lease, membersHash } from "../src/encoding/statements.ts";
import type { Network } from "../src/encoding/network.ts";
import { EpochState, inUse } from "../src/chainview/epochs.ts";
import { follow, offers, pinned, SignedHandover, type Terms } from "../src/chainview/terms.ts";
import { UNREACHABLE } from "../src/client/gateway.ts";
import {
  browserTerms,
  fileTerms,
  LOOK_AGAIN_S,
  memoryTerms,
  nameOf,
  remembered,
  TermWalk,
  textOf,
} from "../src/client/terms.ts";

const DATA = vectors("terms.json");
const NOW: number = DATA.seen;
const NETWORK = {
  id: fromHex(DATA.network, 32),
  founding: new SignerSet(1, DATA.pinned.threshold, DATA.pinned.members.map((m: string) => fromHex(m, 20))),
  masterEpoch: DATA.pinned.master_epoch,
  mpk: fromHex(DATA.pinned.mpk, 96),
  fingerprint: "ab".repeat(32),
} as unknown as Network;
const PIN = pinned(NETWORK, NOW);
const read = (list: unknown[]) => list.map((one) => SignedHandover.fromJson(one));
const [ONE, TWO] = read(DATA.handovers) as [SignedHandover, SignedHandover];
const offered = (name: string) => read(DATA.cases.find((c: { name: string }) => c.name === name).offered);
const FORK = offered("two successors of the term in office")[1]!;
const nobody = () => Promise.resolve([]);

/** What comes of it, or the code of the refusal, as the vectors say it. */
function outcome(work: () => unknown): unknown {
  try {
    return work() ?? null;
  } catch (error) {
    if (error instanceof CloisterError) return { refused: error.code };
    throw error;
  }
}

function shown({ inOffice: { signers, masterEpoch, height } }: Terms): unknown {
  return { term: signers.term, members: signers.members.map(toHex), master_epoch: masterEpoch, height };
}

for (const one of DATA.cases) {
  Deno.test(`who is in office: ${one.name}`, () => {
    const known = follow(PIN, read(one.known), NOW, DATA.max_term_age);
    assert.deepEqual(outcome(() => shown(follow(known, read(one.offered), one.now, DATA.max_term_age))), one.outcome);
  });
}

Deno.test("what a term may speak of, whose leases count, which keys were handed on", () => {
  const terms = follow(PIN, [ONE, TWO], NOW);
  for (const { name, term, block, outcome: said } of DATA.speaks) {
    assert.deepEqual(outcome(() => terms.signersOf(term, block).term), said, name);
  }
  for (const { name, lease, outcome: said } of DATA.leases) {
    assert.deepEqual(outcome(() => terms.lessors(Lease.fromJson(lease), DATA.period_blocks).term), said, name);
  }
  for (const { epoch, key, outcome: said } of DATA.keys) {
    assert.deepEqual(outcome(() => terms.requireKey(epoch, fromHex(key, 96))), said);
  }
  assert.equal(terms.membersOf(2).term, 2);
  refuses("chainview.unknown_term", () => terms.membersOf(9));
});

Deno.test("members hash, digest and form of a hand-over are those of the vectors", () => {
  assert.equal(toHex(membersHash(ONE.members)), DATA.members_hash);
  assert.equal(toHex(Handover.digest(ONE.statement, NETWORK.id)), DATA.digest);
  assert.deepEqual(ONE.toJson(), DATA.handovers[0]);
  assert.match(Handover.typeString(), /^Handover\(uint64 term,uint64 nextTerm,uint64 threshold,bytes32 members,/);
});

Deno.test("what is no hand-over is refused, and left out of an answer", () => {
  const good = DATA.handovers[0];
  const many = Array(65).fill(good.signatures[0]);
  for (const bad of [null, [], {}, "x", 5, { statement: {}, members: [], signatures: [] }]) {
    assert.throws(() => SignedHandover.fromJson(bad), CloisterError);
    assert.deepEqual(offers({ handovers: [bad, good], signing: [] }).map((one) => one.said), [ONE.said]);
  }
  for (const name of ["members", "signatures"]) {
    for (const list of [null, [], ["0x"], "0x00", many]) {
      assert.throws(() => SignedHandover.fromJson({ ...good, [name]: list }), CloisterError);
    }
  }
  refuses("encoding.field", () => offers({ handovers: [] }));
  refuses("encoding.field", () => offers([]));
  assert.deepEqual(offers({ handovers: 7, signing: [] }), []);
  assert.equal(offers({ handovers: [...Array(508).fill(null), ...Array(9).fill(good)], signing: [] }).length, 4);
});

Deno.test("no changed character of a hand-over brings another committee", () => {
  const text = JSON.stringify(DATA.handovers[0]);
  const right = shown(follow(PIN, [ONE], NOW));
  for (let at = 0; at < text.length; at += 41) {
    const changed = text.slice(0, at) + (text[at] === "0" ? "1" : "0") + text.slice(at + 1);
    let terms: Terms;
    try {
      terms = follow(PIN, [SignedHandover.fromJson(JSON.parse(changed))], NOW);
    } catch (error) {
      if (error instanceof CloisterError || error instanceof SyntaxError) continue;
      throw error;
    }
    assert.ok([JSON.stringify(shown(PIN)), JSON.stringify(right)].includes(JSON.stringify(shown(terms))), changed);
  }
});

Deno.test("the master epoch in use is the newest one that was released or resumed, or the one before it", () => {
  const at = (epoch: number, state: number) => ({ epoch, state, mpk: new Uint8Array(96) });
  const { RELEASED, PAUSED, RESUMED, DESTROYED, NONE } = EpochState;
  assert.equal(inUse(at(1, RELEASED), undefined).epoch, 1);
  assert.equal(inUse(at(2, RESUMED), at(1, PAUSED)).epoch, 2);
  assert.equal(inUse(at(2, PAUSED), at(1, PAUSED)).epoch, 1);
  for (const before of [undefined, at(1, RELEASED), at(1, RESUMED), at(1, DESTROYED), at(3, PAUSED)]) {
    refuses("chainview.master_epoch", () => inUse(at(2, PAUSED), before));
  }
  for (const state of [NONE, DESTROYED]) refuses("chainview.master_epoch", () => inUse(at(2, state), at(1, PAUSED)));
});

// --- what is remembered ---

const TERMS = follow(PIN, [ONE], NOW);

Deno.test("a memory that knows nothing takes the pin as of now; what was followed is there again", () => {
  assert.equal(remembered(NETWORK, undefined, 17).inOffice.seen, 17);
  const found = remembered(NETWORK, textOf(TERMS.seenAt(NOW + 9)), NOW + 100);
  assert.deepEqual(shown(found), shown(TERMS));
  assert.equal(found.inOffice.seen, NOW + 9);
  const later = NOW + DATA.max_term_age + 10;
  refuses("chainview.term_too_old", () => found.requireFresh(later));
});

Deno.test("a spoilt memory is named, and no changed character brings another committee", () => {
  const text = textOf(TERMS);
  const spoilt = [
    "",
    "no JSON",
    text + " ",
    text.replace('"version":1', '"version":2'),
    text.replace('"version":1', '"version":1,"x":1'),
    text.replace('"term":1', '"term":4'),
    text.replace(ONE.signatures.map(toHex)[0]!.slice(0, 40), ONE.signatures.map(toHex)[1]!.slice(0, 40)),
    '{"handovers":[{}],"seen":1,"version":1}',
    '{"handovers":[],"seen":-1,"version":1}',
  ];
  for (const bad of spoilt) refuses("client.terms", () => remembered(NETWORK, bad, NOW));
  for (let at = 3; at < text.length; at += 127) {
    const changed = text.slice(0, at) + (text[at] === "1" ? "2" : "1") + text.slice(at + 1);
    const result = outcome(() => shown(remembered(NETWORK, changed, NOW)));
    const right = [JSON.stringify(shown(TERMS)), '{"refused":"client.terms"}'];
    assert.ok(right.includes(JSON.stringify(result)), changed);
  }
});

Deno.test("a walk follows what is offered, writes it, and goes on from it", async () => {
  const store = memoryTerms();
  let [now, served] = [NOW, [ONE]];
  const walk = await TermWalk.from(NETWORK, () => Promise.resolve(served), () => now, store);
  await walk.knows(1);
  assert.equal(store.read(nameOf(NETWORK)), undefined);
  await walk.knows(2);
  assert.equal(walk.terms.inOffice.signers.term, 2);
  served = [];
  const again = await TermWalk.from(NETWORK, nobody, () => now, store);
  assert.equal(again.terms.inOffice.signers.term, 2);
  served = [ONE, TWO];
  assert.equal(await walk.look(), false, "at most twice a second");
  now += 1;
  assert.equal(await walk.look(), true);
  assert.equal(walk.terms.inOffice.signers.term, 3);
});

Deno.test("a look that found something wrong is told again, until a later look finds nothing", async () => {
  let [now, served] = [NOW, [ONE, FORK]];
  const walk = new TermWalk(NETWORK, PIN, () => Promise.resolve(served), () => now);
  assert.equal(walk.due, false);
  await rejects("chainview.handover_fork", () => walk.look());
  await rejects("chainview.handover_fork", () => walk.look());
  assert.equal(walk.due, true);
  [now, served] = [now + 1, [ONE]];
  assert.equal(await walk.look(), true);
  assert.equal(walk.due, false);
  now += LOOK_AGAIN_S;
  assert.equal(walk.due, true);
});

Deno.test("a gateway that serves no hand-overs is borne, a mistake of ours is not", async () => {
  const away = new TermWalk(NETWORK, PIN, () => Promise.reject(UNREACHABLE("a connection", "none")), () => NOW);
  assert.equal(await away.look(), false);
  const broken = new TermWalk(NETWORK, PIN, () => Promise.reject(new TypeError("ours")), () => NOW);
  await assert.rejects(() => broken.look(), TypeError);
});

Deno.test("a walk writes once a day, and never over a memory that knows more", async () => {
  const texts = new Map<string, string>();
  let [now, writes] = [NOW, 0];
  const store = {
    ...memoryTerms(texts),
    write: (name: string, text: string) => (writes++, void texts.set(name, text)),
  };
  const walk = await TermWalk.from(NETWORK, nobody, () => now, store);
  await walk.spoke();
  now += 3600;
  await walk.spoke();
  assert.equal(writes, 1);
  now += 24 * 3600;
  await walk.spoke();
  assert.equal(writes, 2);
  texts.set(nameOf(NETWORK), textOf(TERMS)); // another page followed a hand-over meanwhile
  now += 24 * 3600;
  await walk.spoke();
  assert.equal(texts.get(nameOf(NETWORK)), textOf(TERMS));
});

Deno.test("a store that cannot be written remembers nothing", async () => {
  const full = { read: () => undefined, write: () => Promise.reject(new Error("quota")) };
  const walk = await TermWalk.from(NETWORK, nobody, () => NOW, full);
  await walk.spoke();
  assert.equal(walk.terms.inOffice.signers.term, 1);
});

Deno.test("a page's storage keeps texts under names of ours", () => {
  const items = new Map<string, string>();
  const storage = {
    getItem: (key: string) => items.get(key) ?? null,
    setItem: (k: string, v: string) => void items.set(k, v),
  };
  const store = browserTerms(storage);
  assert.equal(store.read("a.json"), undefined);
  store.write("a.json", "text");
  assert.deepEqual([store.read("a.json"), [...items.keys()]], ["text", ["cloister/terms/a.json"]]);
});

Deno.test("a folder keeps one private file per network", async () => {
  const folder = `${Deno.args[0]!}/terms`;
  const store = fileTerms(folder);
  assert.equal(await store.read("a.json"), undefined);
  await store.write("a.json", "first");
  await store.write("a.json", "second");
  assert.equal(await store.read("a.json"), "second");
  assert.deepEqual([...Deno.readDirSync(folder)].map((one) => one.name), ["a.json"]);
  assert.equal(Deno.statSync(`${folder}/a.json`).mode! & 0o777, 0o600);
  await rejects("client.terms", async () => await fileTerms(`${folder}/a.json`).read("b.json"));
  await Deno.remove(folder, { recursive: true });
});

import { assert, flipped, refuses, stream, vectors } from "./support.ts";
import { u64, uintBytes, utf8 } from "../src/encoding/bytes.ts";
import { fromHex, toHex } from "../src/encoding/hexes.ts";
import { signDigest, SignerSet } from "../src/encoding/signatures.ts";
import { CloisterError } from "../src/errors.ts";
import { batchDigest, BatchPath } from "../src/receipts/batch.ts";
import { LogHead, LogProof, witnessQuorum } from "../src/receipts/log.ts";
import { leafHash, nodeHash, rootFromPath, verifyInclusion } from "../src/receipts/merkle.ts";
import { decodeReceipt, type Receipt } from "../src/receipts/receipt.ts";
import { verifySigned } from "../src/receipts/verify.ts";

const DATA = vectors("receipts.json");
const RECEIPTS: Receipt[] = DATA.receipts.map((text: string) => decodeReceipt(utf8(text)));
const SIGNATURE = fromHex(DATA.batch.signature, 65);
const PATHS: BatchPath[] = DATA.batch.paths.map((path: unknown) => BatchPath.fromJson(path));
const NETWORK = fromHex(DATA.network, 32);
const { term, threshold, members } = DATA.committee;
const SIGNERS = new SignerSet(term, threshold, members.map((m: string) => fromHex(m, 20)));
const WORKER_KEY = uintBytes(7, 32);

Deno.test("8: every path of the vectors leads to its root, and to no other place", () => {
  for (const tree of DATA.trees) {
    const root = fromHex(tree.root, 32);
    tree.inclusion.forEach((hexes: string[], index: number) => {
      const path = hexes.map((one) => fromHex(one, 32));
      const leaf = leafHash(Uint8Array.of(index));
      verifyInclusion(leaf, index, tree.size, path, root);
      for (let other = 0; other < tree.size + 2; other++) {
        if (other === index) continue;
        refuses("receipt.not_included", () => verifyInclusion(leaf, other, tree.size, path, root));
      }
      refuses("receipt.not_included", () => rootFromPath(leaf, index, tree.size, [...path, root]));
      if (path.length) refuses("receipt.not_included", () => rootFromPath(leaf, index, tree.size, path.slice(1)));
    });
  }
  assert.notEqual(toHex(leafHash(new Uint8Array(64))), toHex(nodeHash(new Uint8Array(32), new Uint8Array(32))));
});

Deno.test("8: numbers and hashes out of form", () => {
  const leaf = leafHash(new Uint8Array(1));
  for (const [index, size] of [[-1, 2], [0.5, 2], [0, 2 ** 53], [Number.NaN, 2]] as const) {
    assert.throws(() => rootFromPath(leaf, index, size, []), CloisterError);
  }
  assert.throws(() => rootFromPath(leaf, 0, 2, [new Uint8Array(16)]), CloisterError);
  refuses("receipt.not_included", () => rootFromPath(leaf, 0, 2, Array(70).fill(leaf)));
  // Beyond 32 bits the halves must not wrap around.
  refuses("receipt.not_included", () => rootFromPath(leaf, 2 ** 40, 2 ** 40 + 1, Array(40).fill(leaf)));
});

Deno.test("9: one signature for a batch, each receipt by its own path", () => {
  PATHS.forEach((path, i) => verifySigned(RECEIPTS[i + 1]!, SIGNATURE, path));
  verifySigned(RECEIPTS[0]!, fromHex(DATA.lone_signature, 65));
  assert.equal(toHex(PATHS[0]!.digest(RECEIPTS[1]!)), DATA.batch.digest);
  assert.deepEqual(PATHS.map((path) => path.toJson()), DATA.batch.paths);
});

Deno.test("9: a path of another receipt, a batch of another size, another kind of signature", () => {
  const path = PATHS[1]!;
  const receipt = RECEIPTS[2]!;
  refuses("receipt.signature", () => verifySigned(receipt, SIGNATURE, PATHS[2]));
  refuses("receipt.signature", () => verifySigned(receipt, SIGNATURE, new BatchPath(2, 5, path.path)));
  refuses("receipt.batch", () => verifySigned(RECEIPTS[0]!, SIGNATURE, path));
  refuses("receipt.signature", () => verifySigned(receipt, SIGNATURE, new BatchPath(1, 6, path.path)));
  refuses("receipt.not_included", () => verifySigned(receipt, SIGNATURE, new BatchPath(1, 2, path.path)));
  refuses("receipt.signature", () => verifySigned(receipt, SIGNATURE));
  refuses("receipt.signature", () => verifySigned(receipt, signDigest(WORKER_KEY, receipt.id), path));
  const root = fromHex(DATA.batch.root, 32);
  for (const digest of [root, leafHash(receipt.id), batchDigest(receipt.boot, 2, 1, leafHash(receipt.id))]) {
    refuses("receipt.signature", () => verifySigned(receipt, signDigest(WORKER_KEY, digest)));
    refuses("receipt.signature", () => verifySigned(receipt, signDigest(WORKER_KEY, digest), path));
  }
  for (const size of [0, 1, 1025]) refuses("receipt.batch", () => new BatchPath(0, size, []));
});

Deno.test("9: every flipped byte is refused", () => {
  const path = PATHS[1]!;
  for (let at = 0; at < 65; at += 4) {
    refuses("receipt.signature", () => verifySigned(RECEIPTS[2]!, flipped(SIGNATURE, at), path));
  }
  path.path.forEach((one, number) => {
    for (let at = 0; at < 32; at += 5) {
      const spoilt = path.path.map((hash, i) => (i === number ? flipped(one, at) : hash));
      const changed = new BatchPath(path.first, path.size, spoilt);
      refuses("receipt.signature", () => verifySigned(RECEIPTS[2]!, SIGNATURE, changed));
    }
  });
});

Deno.test("14: a saved proof", () => {
  const receipt = RECEIPTS[2]!;
  const proof = LogProof.fromJson(DATA.proof);
  proof.verify(receipt, SIGNERS, NETWORK);
  assert.equal(toHex(LogHead.digest(proof.head, NETWORK)), DATA.log_head.digest);
  assert.deepEqual([1, 2, 3, 4, 5, 7].map((n) => witnessQuorum(n)), [1, 2, 3, 3, 4, 5]);
  const changed = (changes: Record<string, unknown>) => LogProof.fromJson({ ...DATA.proof, ...changes });
  const head = (changes: Record<string, unknown>, count = 4) => ({
    statement: { ...DATA.proof.head.statement, ...changes },
    signatures: DATA.proof.head.signatures.slice(0, count),
  });
  refuses("encoding.too_few_signers", () => changed({ head: head({}, 3) }).verify(receipt, SIGNERS, NETWORK));
  refuses("encoding.wrong_term", () => changed({ head: head({ term: 2 }) }).verify(receipt, SIGNERS, NETWORK));
  refuses("encoding.signature", () => changed({ head: head({ size: 7 }) }).verify(receipt, SIGNERS, NETWORK));
  refuses("encoding.signature", () => proof.verify(receipt, SIGNERS, new Uint8Array(32)));
  refuses("receipt.other_log", () => changed({ index: 3 }).verify(receipt, SIGNERS, NETWORK));
  refuses("receipt.other_log", () => proof.verify({ ...receipt, boot: u64(0) }, SIGNERS, NETWORK));
  refuses("receipt.not_included", () => changed({ path: "0x" }).verify(receipt, SIGNERS, NETWORK));
  refuses("receipt.not_included", () => proof.verify({ ...receipt, id: RECEIPTS[1]!.id }, SIGNERS, NETWORK));
});

Deno.test("garbage in the place of a path or a proof is refused by name", () => {
  const rng = stream("garbage");
  const values: unknown[] = [null, 1, "x", [], {}, { first: 0 }, { first: 0, path: "0x00", size: 2 }];
  values.push({ first: "0", path: "0x", size: 2 }, { first: 0, path: "0x", size: 2, more: 1 });
  values.push({ first: 0, path: toHex(rng(32 * 11)), size: 2 }, { head: {}, index: 0, path: "0x" });
  values.push({ ...DATA.proof, head: { statement: DATA.proof.head.statement, signatures: Array(65).fill("0x") } });
  for (const value of values) {
    assert.throws(() => BatchPath.fromJson(value), CloisterError);
    assert.throws(() => LogProof.fromJson(value), CloisterError);
  }
});

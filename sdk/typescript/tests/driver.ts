/**
 * Drives the client from another program's tests: one JSON command per line on stdin, one JSON result per line on stdout.
 *
 * Commands: {do: "connect", url, fingerprint, now?, memory?, oblivious?, and of key?, apiKey?, contract? one}, {do: "clock", now},
 * {do: "agent", name, demand?}, {do: "resolve"}, {do: "call", path, init?, how}, {do: "agreed", path, options?}.
 * {do: "receipt", kept, onChain}, {do: "saved", kept, network, fingerprint} and {do: "bundle", file, fingerprint} judge receipts.
 * `memory` names a store of terms that lasts as long as this program.
 * {do: "decode", kind, data} reads bytes in hex as one of READERS does. A result is {ok: …} or {error: {code, check, expected, found, remedy}}.
 */

import {
  type Agent,
  type AgreeInit,
  apiKeySigner,
  CloisterError,
  connect,
  contractSigner,
  type Demand,
  json,
  memoryTerms,
  privateKeySigner,
  proofToJson,
  type Shown,
  type Signer,
  toHex,
  verifyBundle,
  verifySaved,
} from "../src/mod.ts";
import * as rlp from "../src/chainview/rlp.ts";
import { fromHex } from "../src/encoding/hexes.ts";
import { decode, encode } from "../src/encoding/jcs.ts";
import { parseNetwork } from "../src/encoding/network.ts";
import { decodeReceipt } from "../src/receipts/receipt.ts";
import type { AgentInit } from "../src/mod.ts";
import type { Client } from "../src/client/client.ts";
import type { Kept } from "../src/mod.ts";

interface Command {
  do: "connect" | "clock" | "agent" | "resolve" | "call" | "agreed" | "receipt" | "saved" | "bundle" | "decode";
  kind: keyof typeof READERS;
  data: string;
  url: string;
  fingerprint: string;
  key?: string;
  apiKey?: string;
  contract?: { address: string; signature: string };
  memory?: string;
  oblivious?: string;
  options?: AgreeInit;
  kept: Kept;
  onChain: boolean;
  network: string;
  file: string;
  now?: number;
  name: string;
  demand?: Demand & { anonymous?: boolean };
  path: string;
  json?: unknown;
  init?: AgentInit;
  how?: "request" | "fetch";
}

const READERS = {
  jcs: (data: Uint8Array) => toHex(encode(decode(data))),
  rlp: (data: Uint8Array) => toHex(rlp.encode(rlp.decode(data))),
  receipt: (data: Uint8Array) => toHex(decodeReceipt(data).id),
  network: (data: Uint8Array) => toHex(parseNetwork(data).id),
};

let client: Client;
let agent: Agent;
let receipts: Kept[] = [];
let clock: number | undefined;
const memories = new Map<string, Map<string, string>>();

async function run(command: Command): Promise<unknown> {
  if (command.do === "connect") return await open(command);
  if (command.do === "agent") {
    agent = await client.agent(command.name, command.demand);
    return { id: toHex(agent.id), epoch: agent.record.epoch };
  }
  if (command.do === "clock") return clock = command.now;
  if (command.do === "resolve") return await resolved();
  if (command.do === "receipt") return told(await client.verifyReceipt(command.kept, { onChain: command.onChain }));
  if (command.do === "saved") return told(verifySaved(JSON.stringify(command.kept), command));
  if (command.do === "bundle") return told(await verifyBundle(command.file, command.fingerprint));
  if (command.do === "agreed") {
    const made = await agent.agreed(command.path, command.options);
    const workers = made.replies.map((reply) => toHex(reply.proof.worker));
    const ids = made.replies.map((reply) => reply.requestId);
    return { status: made.status, text: made.replies[0]!.text, vendors: [...made.vendors].sort(), workers, ids };
  }
  if (command.do === "decode") return READERS[command.kind](fromHex(command.data));
  const init = command.json === undefined ? command.init : json(command.json, command.init);
  return command.how === "fetch" ? await streamed(command.path, init) : await whole(command.path, init);
}

/** What was shown of a receipt. */
function told({ receipt, witnessed, root, block }: Shown): unknown {
  const { index, size } = root ?? {};
  return {
    seq: receipt.seq,
    witnessed: witnessed ?? null,
    index: index ?? null,
    size: size ?? null,
    block: block ?? null,
  };
}

/** The agent, resolved anew. */
async function resolved(): Promise<unknown> {
  const { checkpoint, threshold, sittings } = await client.resolver.resolve(agent.id, { again: true });
  const { inOffice } = client.resolver.walk.terms;
  return { block: checkpoint.number, threshold, seats: sittings.length, term: inOffice.signers.term };
}

function signerOf({ key, apiKey, contract }: Command): Signer | undefined {
  if (contract) return contractSigner(contract.address, () => fromHex(contract.signature));
  if (apiKey !== undefined) return apiKeySigner(apiKey);
  return key === undefined ? undefined : privateKeySigner(key);
}

function memoryOf(name: string): Map<string, string> {
  const found = memories.get(name) ?? new Map();
  memories.set(name, found);
  return found;
}

async function open(command: Command): Promise<unknown> {
  const { url, fingerprint, now, memory, oblivious } = command;
  const signer = signerOf(command);
  clock = now;
  receipts = [];
  client = await connect(url, {
    fingerprint,
    timeoutMs: 5000,
    onReceipt: (one) => receipts.push(one),
    terms: memory === undefined ? null : memoryTerms(memoryOf(memory)),
    ...(signer && { signer }),
    ...(oblivious === undefined ? {} : { oblivious }),
    ...(now === undefined ? {} : { clock: () => clock! }),
  });
  return { network: toHex(client.network.id) };
}

async function whole(path: string, init?: AgentInit): Promise<unknown> {
  const reply = await agent.request(path, init);
  const { status, headers, text, attempts, proof } = reply;
  return { status, headers, text, attempts, proof: proofToJson(proof), kept: receipts.at(-1) };
}

async function streamed(path: string, init?: AgentInit): Promise<unknown> {
  const answer = await agent.fetch(path, init);
  const text = await answer.text();
  const { proof, attempts } = await answer.verified;
  const { status, headers } = answer;
  return { status, headers: [...headers], text, attempts, proof: proofToJson(proof), kept: receipts.at(-1) };
}

async function answered(line: string): Promise<unknown> {
  try {
    return { ok: await run(JSON.parse(line)) };
  } catch (error) {
    if (error instanceof CloisterError) return { error: error.toWire() };
    return { error: { code: "unexpected", found: String(error) } };
  }
}

const lines = Deno.stdin.readable.pipeThrough(new TextDecoderStream()).getReader();
let rest = "";
for (;;) {
  const { done, value } = await lines.read();
  if (done) break;
  rest += value;
  for (let end = rest.indexOf("\n"); end >= 0; end = rest.indexOf("\n")) {
    console.log(JSON.stringify(await answered(rest.slice(0, end))));
    rest = rest.slice(end + 1);
  }
}

/** A thin JSON-RPC client over the gateway's relay. Everything that it says is a claim; `proven.ts` checks claims. */

import { ChainError, define, isObject } from "../errors.ts";
import { fromHex } from "../encoding/hexes.ts";

export const MAX_ANSWER = 32 << 20;

export const BAD_ANSWER = define(
  "chain.bad_answer",
  ChainError,
  "a chain endpoint's answer has the form that the contract's interface gives it",
  "check the contract address and the endpoint; an older contract version answers differently",
  502,
);
export const RPC_ERROR = define(
  "chain.rpc_error",
  ChainError,
  "the endpoint carries out the call",
  "read the endpoint's message; an unknown block is often one that it has pruned",
  502,
);
export const REVERTED = define(
  "chain.reverted",
  ChainError,
  "the contract accepts the call",
  "the contract named its reason; change the call or wait for the state that it asks for",
);

/** Sends a JSON-RPC body and gives the parsed answer. Throws CloisterError. */
export type Post = (body: unknown) => Promise<unknown>;
/** One call: method and parameters. */
export type Call = readonly [method: string, params: readonly unknown[]];

interface Request {
  jsonrpc: "2.0";
  id: number;
  method: string;
  params: readonly unknown[];
}

/** One endpoint. */
export class Rpc {
  #next = 1;

  constructor(readonly post: Post) {}

  /** One call; the `result` field. Throws ChainError. */
  async call(method: string, ...params: readonly unknown[]): Promise<unknown> {
    const request = this.#request([method, params]);
    return result(request, await this.post(request));
  }

  /** Many calls in one round trip; results in order. The first error throws. */
  async batch(calls: readonly Call[]): Promise<unknown[]> {
    if (calls.length === 0) return [];
    const requests = calls.map((call) => this.#request(call));
    const answers = await this.post(requests);
    if (!Array.isArray(answers) || answers.length !== requests.length) {
      throw BAD_ANSWER(`a list of ${requests.length} answers`, typeof answers);
    }
    const byId = new Map(answers.filter(isObject).map((answer) => [answer["id"], answer]));
    return requests.map((request) => result(request, byId.get(request.id)));
  }

  #request([method, params]: Call): Request {
    return { jsonrpc: "2.0", id: this.#next++, method, params };
  }
}

/** A JSON-RPC quantity: 0x + hex without leading zeros. Throws ChainError. */
export function quantity(value: unknown, name: string): bigint {
  if (typeof value !== "string" || !/^0x(?:0|[1-9a-f][0-9a-f]{0,63})$/.test(value)) {
    throw BAD_ANSWER(`${name} as a quantity`, String(value).slice(0, 40));
  }
  return BigInt(value);
}

/** A number as a JSON-RPC quantity. */
export function toQuantity(value: number): string {
  return `0x${value.toString(16)}`;
}

function result(request: Request, answer: unknown): unknown {
  if (!isObject(answer) || answer["id"] !== request.id) {
    throw BAD_ANSWER(`an answer to ${request.method}`, typeof answer);
  }
  const error = answer["error"];
  if (error !== undefined && error !== null) throw refusal(request.method, error);
  if (!("result" in answer)) throw BAD_ANSWER("a result", "neither result nor error");
  return answer["result"];
}

function refusal(method: string, error: unknown): Error {
  const data = isObject(error) ? error["data"] : undefined;
  const message = String(isObject(error) ? (error["message"] ?? "") : error);
  if (typeof data === "string" && data.startsWith("0x")) {
    const raw = fromHex(data.toLowerCase());
    return REVERTED(`${method} to succeed`, raw.length ? `0x${data.slice(2, 10).toLowerCase()}` : "no reason");
  }
  return message.toLowerCase().includes("revert")
    ? REVERTED(`${method} to succeed`, message)
    : RPC_ERROR(`${method} to succeed`, message);
}

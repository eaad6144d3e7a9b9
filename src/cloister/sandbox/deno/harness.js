// The agent's side of the socket (spec/sandbox.md). It is measured with the worker's image, but it shares a realm with
// the agent, so the worker trusts nothing that it says. What is captured below only keeps careless agents from
// breaking it.
const { stringify, parse } = JSON;
const encoder = new TextEncoder(), decoder = new TextDecoder();
const encode = encoder.encode.bind(encoder), decode = decoder.decode.bind(decoder);
const micro = queueMicrotask.bind(globalThis);
const INIT = 1, REQUEST = 2, HOST_RESULT = 3, CANCEL = 4, CREDIT = 5;
const READY = 16, FAILED = 17, HEAD = 18, CHUNK = 19, END = 20, ERROR = 21, HOST_CALL = 22, LOG = 23, PONG = 24, RESPONSE = 25;
const HEADER = 9, PIECE = 65536, HOST_CALLS = 32, LINE = 4000, BACKLOG = 1 << 20;
const AGENT = "/agent/agent.js";
// Commands: the worker lets the agent's owner alone ask the first path; what contracts ask comes by the second.
const COMMAND = "/.well-known/cloister/owner/command", ASKED = "/.well-known/cloister/request";
const NONE = new Uint8Array(0);

// ---- sending: frames queue up and leave in one write per turn

let conn, outgoing = [], queued = 0, writing = false;

function send(type, id, payload = NONE) {
  const frame = new Uint8Array(HEADER + payload.length);
  frame.set(payload, HEADER);
  sendFrame(type, id, frame);
}

// A frame whose payload is in its place already.
function sendFrame(type, id, frame) {
  const view = new DataView(frame.buffer);
  view.setUint32(0, frame.length - HEADER, true);
  view.setUint32(4, id, true);
  frame[8] = type;
  outgoing.push(frame);
  queued += frame.length;
  if (!writing) {
    writing = true;
    micro(flush);
  }
}

const sendJson = (type, id, value) => send(type, id, encode(stringify(value)));

async function flush() {
  while (outgoing.length) {
    const frames = outgoing;
    outgoing = [];
    queued = 0;
    let data = frames[0];
    if (frames.length > 1) {
      data = new Uint8Array(frames.reduce((sum, frame) => sum + frame.length, 0));
      let at = 0;
      for (const frame of frames) data.set(frame, at), at += frame.length;
    }
    for (let at = 0; at < data.length;) at += await conn.write(data.subarray(at));
  }
  writing = false;
}

// ---- logs

const text = (value) => {
  if (typeof value === "string") return value;
  if (value instanceof Error) return value.stack ?? String(value);
  return Deno.inspect(value, { depth: 4, colors: false });
};
// A loop that logs never yields, so nothing leaves: past BACKLOG its lines are lost rather than the process.
const log = (id, level, values) => {
  if (queued < BACKLOG) sendJson(LOG, id, { level, text: values.map(text).join(" ").slice(0, LINE) });
};

for (const [name, level] of [["debug", "debug"], ["log", "info"], ["info", "info"], ["warn", "warn"], ["error", "error"]]) {
  console[name] = (...values) => log(0, level, values);
}

const kindOf = (error) => (error instanceof Error && typeof error.name === "string" ? error.name : typeof error).slice(0, 60);

// ---- host calls: at most HOST_CALLS under way, the rest wait here

const running = new Map(), calls = new Map(), waiting = [];
let nextCall = 1;

class HostError extends Error {
  constructor({ code, check, expected, found, remedy }) {
    super(`${code}: ${check}: expected ${expected}, found ${found}. ${remedy}`);
    Object.assign(this, { name: "HostError", code, check, expected, found, remedy });
  }
}

function host(request, name, args) {
  return new Promise((resolve, reject) => {
    const call = nextCall++;
    const go = () => {
      if (request.over) return reject(new Error("the request of this context is over"));
      calls.set(call, { resolve, reject });
      sendJson(HOST_CALL, request.id, { call, name, args });
    };
    if (calls.size < HOST_CALLS) go();
    else waiting.push(go);
  });
}

function next() {
  while (waiting.length && calls.size < HOST_CALLS) waiting.shift()();
}

function onResult({ call, value, error }) {
  const pending = calls.get(call);
  calls.delete(call);
  if (error) pending?.reject(new HostError(error));
  else pending?.resolve(value);
  next();
}

// ---- what the agent gets as ctx

const toBytes = (value) => {
  if (value instanceof Uint8Array) return value;
  if (value instanceof ArrayBuffer) return new Uint8Array(value);
  if (typeof value === "string") return encode(value);
  throw new TypeError("expected a string, a Uint8Array or an ArrayBuffer");
};
const base64 = (value) => toBytes(value).toBase64();
const unbase64 = (value) => Uint8Array.fromBase64(value);
const name = (key) => {
  if (typeof key !== "string" || !key) throw new TypeError("a state key is a non-empty string");
  return key;
};

const stateOf = (request) => ({
  async get(key) {
    const value = await host(request, "state.get", { key: name(key) });
    return value === null ? null : parse(decode(unbase64(value)));
  },
  async getBytes(key) {
    const value = await host(request, "state.get", { key: name(key) });
    return value === null ? null : unbase64(value);
  },
  async put(key, value) {
    const json = stringify(value);
    if (json === undefined) throw new TypeError("a state value is anything that JSON can say");
    await host(request, "state.put", { key: name(key), value: base64(json) });
  },
  async putBytes(key, value) {
    await host(request, "state.put", { key: name(key), value: base64(value) });
  },
  async delete(key) {
    await host(request, "state.delete", { key: name(key) });
  },
  async list(prefix = "", { after = null, limit = 1000 } = {}) {
    return await host(request, "state.list", { prefix: String(prefix), after, limit });
  },
});

// Integers beyond 2**53 travel as decimal texts.
const plain = (value) => parse(stringify(value, (_, item) => typeof item === "bigint" ? String(item) : item));

const keysOf = (request) => ({
  address: () => host(request, "keys.address", {}),
  account: () => host(request, "keys.account", {}),
  signMessage: (message) => host(request, "keys.sign_message", { message: base64(message) }),
  signTypedData: (typed) => host(request, "keys.sign_typed_data", { typed: plain(typed) }),
  ed25519Key: () => host(request, "keys.ed25519_key", {}),
  signEd25519: (message) => host(request, "keys.sign_ed25519", { message: base64(message) }),
  send: ({ to, value = 0, data = "0x", key = null, withinS = 600, chain = null }) =>
    host(request, "keys.send", { to, value: String(value), data, key, within_s: withinS, chain }),
  sent: (nonce) => host(request, "keys.sent", { nonce }),
});

const agentsOf = (request) => ({
  async fetch(agent, input = "/", { budget = null, deadline = null, idempotencyKey = null, ...init } = {}) {
    const sent = input instanceof Request ? input : new Request(new URL(input, "https://agent"), init);
    const { pathname, search } = new URL(sent.url);
    const args = { agent, method: sent.method, path: pathname + search, headers: [...sent.headers], budget, deadline };
    const body = base64(await sent.arrayBuffer());
    const answer = await host(request, "agents.fetch", { ...args, body, idempotency_key: idempotencyKey });
    const empty = [101, 204, 205, 304].includes(answer.status);
    return new Response(empty ? null : unbase64(answer.body), { status: answer.status, headers: answer.headers });
  },
});

const chainOf = (request, id) => {
  const chain = Number(id);
  const ask = (what, args = {}) => host(request, `chain.${what}`, { chain, ...args });
  return {
    at: () => ask("at"),
    storage: (address, slot) => ask("word", { address, slot: `0x${BigInt(slot).toString(16).padStart(64, "0")}` }),
    call: (to, data = "0x") => ask("call", { to, data }),
    get: (key) => ask("get", { key }),
    put: async (key, value, { version = 0 } = {}) => {
      await ask("put", { key, value: base64(value), version });
    },
  };
};

const loggerOf = (id) => {
  const info = (...values) => log(id, "info", values);
  return Object.assign(info, {
    debug: (...values) => log(id, "debug", values),
    info,
    warn: (...values) => log(id, "warn", values),
    error: (...values) => log(id, "error", values),
  });
};

// Made when asked for: most requests use few of these, and thirty closures per request are work for the collector.
const contextOf = (request, head) => {
  let state, keys, agents, log;
  return {
    agent: settings.agent,
    caller: head.caller,
    requestId: head.id,
    secrets,
    settings: open,
    deadline: head.deadline,
    attest: (nonce) => host(request, "attest", { nonce: base64(nonce) }),
    lists: () => host(request, "lists", {}),
    get state() {
      return state ??= stateOf(request);
    },
    get keys() {
      return keys ??= keysOf(request);
    },
    get agents() {
      return agents ??= agentsOf(request);
    },
    chain: (id) => chainOf(request, id),
    get log() {
      return log ??= loggerOf(request.id);
    },
    get signal() {
      return (request.abort ??= new AbortController()).signal;
    },
  };
};

// ---- serving

let settings, secrets, open, handler, command;

function handlerOf(module) {
  const { default: exported } = module;
  const bare = typeof exported === "function";
  if (bare && (settings.entry === "main" || exported.name === "main")) return (request, ctx) => callMain(exported, request, ctx);
  if (bare) return (request, ctx) => exported(request, ctx);
  if (typeof exported?.fetch === "function") return (request, ctx) => exported.fetch(request, ctx);
  throw new TypeError("the default export is neither a function nor an object with a fetch function");
}

const isCommand = ({ path, caller }) => path === COMMAND || (path === ASKED && command && caller?.kind === "contract");

async function runCommand(request, ctx) {
  if (!command) return new Response("this agent has no command", { status: 501 });
  const value = await command(request, ctx);
  return value instanceof Response ? value : Response.json(value ?? null);
}

async function callMain(main, request, ctx) {
  const url = new URL(request.url), queries = {};
  for (const key of new Set(url.searchParams.keys())) queries[key] = url.searchParams.getAll(key);
  const answer = await main(stringify({
    method: request.method,
    path: url.pathname,
    queries,
    headers: Object.fromEntries(request.headers),
    body: await request.text(),
    secret: { ...ctx.secrets },
  }));
  const out = typeof answer === "string" ? parse(answer) : answer;
  const body = typeof out.body === "string" ? out.body : stringify(out.body);
  return new Response(body || null, { status: out.status ?? 200, headers: out.headers ?? {} });
}

async function serve(id, payload) {
  const length = new DataView(payload.buffer, payload.byteOffset).getUint32(0, true);
  const head = parse(decode(payload.subarray(4, 4 + length)));
  const body = payload.length > 4 + length ? payload.slice(4 + length) : undefined;
  const entry = { id, over: false, credit: settings.window, wake: null, abort: null, reader: null };
  running.set(id, entry);
  try {
    const request = new Request("https://agent" + head.path, { method: head.method, headers: head.headers, body });
    const given = (isCommand(head) ? runCommand : handler)(request, contextOf(entry, head));
    const response = given instanceof Response ? given : await given;
    if (!(response instanceof Response)) throw new TypeError("the agent answered with something that is no Response");
    if (entry.over) send(END, id);
    else if (!whole(id, response)) await answer(entry, response);
  } catch (error) {
    if (!entry.over) log(id, "error", [error]);
    sendJson(ERROR, id, { kind: kindOf(error) });
  } finally {
    entry.over = true;
    running.delete(id);
  }
}

async function answer(entry, response) {
  sendJson(HEAD, entry.id, { status: response.status, headers: [...response.headers] });
  if (response.body) await stream(entry, response.body.getReader());
  send(END, entry.id);
}

// Reading a body through its stream costs more than all the rest, so texts given to `new Response` are remembered:
// such an answer is one frame. The prototype stays the native one.
const texts = new WeakMap();
const remember = (response, body) => (typeof body === "string" && body.length < PIECE / 4 && texts.set(response, body), response);
const JSON_TYPE = [["content-type", "application/json"]];
const NativeResponse = Response, nativeJson = Response.json;
globalThis.Response = NativeResponse.prototype.constructor = new Proxy(NativeResponse, {
  construct: (target, args, as) => remember(Reflect.construct(target, args, as), args[0]),
});
Response.json = (value, init) => {
  if (init?.headers) return remember(nativeJson.call(NativeResponse, value, init), stringify(value));
  const body = stringify(value);
  if (body === undefined) return nativeJson.call(NativeResponse, value, init);
  return remember(new NativeResponse(body, { ...init, headers: JSON_TYPE }), body);
};

function whole(id, response) {
  const body = texts.get(response);
  if (body === undefined || response.bodyUsed) return false;
  const head = encode(stringify({ status: response.status, headers: [...response.headers] }));
  if (head.length > PIECE) return false;
  const content = encode(body), at = HEADER + 4 + head.length, frame = new Uint8Array(at + content.length);
  new DataView(frame.buffer).setUint32(HEADER, head.length, true);
  frame.set(head, HEADER + 4);
  frame.set(content, at);
  sendFrame(RESPONSE, id, frame);
  return true;
}

async function stream(entry, reader) {
  entry.reader = reader;
  for (;;) {
    const { done, value } = await reader.read();
    if (done || entry.over) return;
    const bytes = toBytes(value);
    for (let at = 0; at < bytes.length; at += PIECE) {
      const piece = bytes.subarray(at, at + PIECE);
      while (entry.credit < piece.length && !entry.over) await new Promise((resolve) => entry.wake = resolve);
      if (entry.over) return;
      entry.credit -= piece.length;
      send(CHUNK, entry.id, piece);
    }
  }
}

function cancel(id) {
  send(PONG, id);
  const entry = running.get(id);
  if (!entry) return;
  entry.over = true;
  entry.abort?.abort(new DOMException("the caller's time is over", "TimeoutError"));
  entry.reader?.cancel().catch(() => {});
  entry.wake?.();
}

function credit(id, payload) {
  const entry = running.get(id);
  if (!entry) return;
  entry.credit += new DataView(payload.buffer, payload.byteOffset).getUint32(0, true);
  entry.wake?.();
}

async function init(payload) {
  settings = parse(decode(payload));
  for (const [key, value] of Object.entries(settings.env)) Deno.env.set(key, value);
  secrets = Object.assign(Object.create(null), settings.secrets);
  Object.defineProperty(secrets, "get", { value: (key) => settings.secrets[key] });
  Object.freeze(secrets);
  open = Object.freeze(Object.fromEntries(Object.entries(settings.env).filter(([key]) => !(key in settings.secrets))));
  if (settings.bridge) bridge();
  try {
    const module = await import(AGENT);
    handler = handlerOf(module);
    if (typeof module.default?.command === "function") command = (request, ctx) => module.default.command(request, ctx);
    send(READY, 0);
  } catch (error) {
    log(0, "error", [error]);
    sendJson(FAILED, 0, { kind: kindOf(error) });
  }
}

function onFrame(type, id, payload) {
  if (type === REQUEST) serve(id, payload);
  else if (type === HOST_RESULT) onResult(parse(decode(payload)));
  else if (type === CREDIT) credit(id, payload);
  else if (type === CANCEL) cancel(id);
  else if (type === INIT) init(payload);
}

async function receive() {
  let buffer = new Uint8Array(PIECE), view = new DataView(buffer.buffer), start = 0, end = 0;
  for (;;) {
    while (end - start >= HEADER) {
      const size = HEADER + view.getUint32(start, true);
      if (size > end - start) {
        if (size > buffer.length) [buffer, view, start, end] = moved(new Uint8Array(size), buffer, start, end);
        break;
      }
      onFrame(buffer[start + 8], view.getUint32(start + 4, true), buffer.slice(start + HEADER, start + size));
      start += size;
    }
    if (start === end) start = end = 0;
    else if (end === buffer.length) [buffer, view, start, end] = moved(buffer, buffer, start, end);
    const count = await conn.read(buffer.subarray(end));
    if (count === null) Deno.exit(0);
    end += count;
  }
}

function moved(target, buffer, start, end) {
  target.set(buffer.subarray(start, end));
  return [target, new DataView(target.buffer), 0, end - start];
}

// Without root the network namespace is empty: proxy connections travel over a second unix socket.
async function bridge() {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 3128 });
  for await (const inner of listener) {
    Deno.connect({ transport: "unix", path: "/run/a/p.sock" }).then((outer) => {
      inner.readable.pipeTo(outer.writable).catch(() => {});
      outer.readable.pipeTo(inner.writable).catch(() => {});
    }, () => inner.close());
  }
}

addEventListener("unhandledrejection", (event) => {
  event.preventDefault();
  log(0, "error", ["unhandled rejection:", event.reason]);
});
addEventListener("error", (event) => {
  event.preventDefault();
  log(0, "error", ["uncaught:", event.error]);
});

if (Deno.args[0] === "warm") {
  // Leaving at once keeps the database of compiled code in the one form that a read-only reader can open.
  await import(AGENT).catch(() => {});
  Deno.exit(0);
} else {
  conn = await Deno.connect({ transport: "unix", path: "/run/a/s.sock" });
  receive();
}

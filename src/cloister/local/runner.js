// Runs one agent.test.ts beside the agent, in the developer's Deno: one JSON line per message on stdin and stdout.
// The agent itself runs in its sandbox; this file only asks it, and plays the hosts that it would reach.
const [file] = Deno.args;
const { stdout } = Deno, encoder = new TextEncoder();
const say = (message) => stdout.writeSync(encoder.encode(JSON.stringify(message) + "\n"));
const lines = Deno.stdin.readable.pipeThrough(new TextDecoderStream())[Symbol.asyncIterator]();
let pending = "";

async function hear() {
  while (!pending.includes("\n")) {
    const { done, value } = await lines.next();
    if (done) Deno.exit(3);
    pending += value;
  }
  const at = pending.indexOf("\n"), line = pending.slice(0, at);
  pending = pending.slice(at + 1);
  return JSON.parse(line);
}

// What tests print goes to stderr: stdout is the protocol's.
console.log = console.info = console.debug = console.error;
const suite = await import(file);
const tests = Object.entries(suite.default ?? {}).filter(([, test]) => typeof test === "function");
const hosts = suite.hosts ?? {}, others = suite.agents ?? {};
say({
  tests: tests.map(([name]) => name),
  hosts: Object.keys(hosts),
  agents: Object.keys(others),
  secrets: suite.secrets ?? {},
});

const { cert, key } = await hear();
let server;
if (cert) {
  const answer = (request) => {
    const host = hosts[new URL(request.url).hostname];
    return host ? host(request) : new Response("no such host in the test", { status: 502 });
  };
  server = Deno.serve({ hostname: "127.0.0.1", port: 0, cert, key, onListen() {} }, answer);
}
let door;
if (Object.keys(others).length) {
  const byId = Object.fromEntries(Object.entries(others).map(([id, answer]) => [id.toLowerCase(), answer]));
  const answer = (request) => byId[request.headers.get("x-cloister-agent")](request);
  door = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, answer);
}
say({ port: server ? server.addr.port : null, agents: door ? door.addr.port : null });

const { url } = await hear();
const agent = {
  url,
  fetch(path, { caller, json, ...init } = {}) {
    const headers = new Headers(init.headers);
    if (caller) headers.set("x-cloister-caller", caller);
    if (json !== undefined) {
      init = { method: "POST", ...init, body: JSON.stringify(json) };
      headers.set("content-type", "application/json");
    }
    return fetch(url + path, { ...init, headers, redirect: "manual" });
  },
};

for (const [name, test] of tests) {
  say({ begin: name });
  await hear();
  const started = performance.now();
  let error = null;
  try {
    await test(agent);
  } catch (thrown) {
    error = String(thrown?.stack ?? thrown).slice(0, 4000);
  }
  say({ end: name, error, ms: Math.round(performance.now() - started) });
}
say({ done: true });
Deno.exit(0);

// Hostile code, one function per attack. Shared by tests/security/test_hostile_agent.py and `make attack`.
const PAGE = new Uint8Array(65536).fill(65);
const read = (path) => Deno.readTextFile(path);
const write = async (path) => { await Deno.writeTextFile(path, "x"); return "written"; };
const connect = async (hostname, port) => { (await Deno.connect({ hostname, port })).close(); return "connected"; };
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const spin = (ms) => { const end = performance.now() + ms; while (performance.now() < end); };
const spinning = URL.createObjectURL(new Blob(["for (;;);"], { type: "text/javascript" }));

// Frames: the harness hands what it sends to `subarray`, which the agent owns too. So it can say anything.
const encode = (value) => new TextEncoder().encode(typeof value === "string" ? value : JSON.stringify(value));
function frame(type, id, payload = new Uint8Array(0), length = payload.length) {
  const out = new Uint8Array(9 + payload.length), view = new DataView(out.buffer);
  view.setUint32(0, length, true), view.setUint32(4, id, true), out[8] = type, out.set(payload, 9);
  return out;
}
const join = (...parts) => {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) out.set(part, at), at += part.length;
  return out;
};
function instead(make) {
  const real = Uint8Array.prototype.subarray;
  let forged, at = 0;
  Uint8Array.prototype.subarray = function (...a) {
    if (a.length !== 1 || a[0] !== 0 || this.length > 60000 || this[8] < 16) return real.apply(this, a);
    forged ??= make(new DataView(this.buffer, this.byteOffset).getUint32(4, true));
    at += 50000;
    if (at >= forged.length) Uint8Array.prototype.subarray = real;
    else setTimeout(() => console.log("the next piece, please"));
    return real.call(forged, at - 50000, at);
  };
  return "forged";
}
const HEAD = encode({ status: 200, headers: [] });
const many = (count, part) => join(...Array.from({ length: count }, () => part));
const stateGet = (id, call) => frame(22, id, encode({ call, name: "state.get", args: { key: "big" } }));

const libc = () => Deno.dlopen("libc.so.6", {
  syscall: { parameters: ["i64", "i64", "i64", "i64", "i64", "i64", "i64"], result: "i64" },
  mmap: { parameters: ["i64", "i64", "i32", "i32", "i32", "i64"], result: "i64" },
  __errno_location: { parameters: [], result: "pointer" },
}).symbols;

const attacks = {
  hello: () => "hello",
  // ---- time
  loop() { for (;;); },
  async asyncLoop() { for (;;) await null; },
  redos: () => String(/^(a+)+$/.test("a".repeat(60) + "b")),
  async slices() { for (;;) { spin(20); await sleep(0); } },
  background() { setTimeout(async () => { for (;;) { spin(20); await sleep(0); } }, 1); return "answered"; },
  loopAfter() { setTimeout(() => { for (;;); }, 5); return "answered"; },
  // ---- memory
  heap() { const all = []; for (;;) all.push(new Array(100000).fill(Math.random())); },
  arrayBuffer() { const all = []; for (;;) all.push(new Uint8Array(16 << 20).fill(1)); },
  wasm() {
    const all = [];
    for (;;) { const m = new WebAssembly.Memory({ initial: 256 }); new Uint8Array(m.buffer).fill(1); all.push(m); }
  },
  async workers() {
    for (let i = 0; i < 200; i++) new Worker(spinning, { type: "module" });
    await sleep(5000);
    return "workers run";
  },
  stack() { const f = () => f() + 1; return f() + ""; },
  // ---- processes
  fork: async () => (await new Deno.Command("/bin/sh", { args: ["-c", "id"] }).output()).code + "",
  forkSelf: async () => (await new Deno.Command("/deno", { args: ["--version"] }).output()).code + "",
  nodeFork: async () => (await import("node:child_process")).execFileSync("/bin/sh", ["-c", "id"]) + "",
  processes: () => [...Deno.readDirSync("/proc")].map((e) => e.name).filter((n) => +n).join(),
  killOthers() { // within its own pid namespace these are its own threads, and process 1 ignores itself
    for (let p = 2; p < 400; p++) {
      try { Deno.kill(p, "SIGKILL"); } catch (error) { if (error.name === "NotCapable") throw error; }
    }
    return "still here";
  },
  // ---- files and environment
  passwd: () => read("/etc/passwd"),
  workerFile: (ctx, url) => read(url.searchParams.get("file")),
  listRoot: () => [...Deno.readDirSync("/")].map((e) => e.name).sort().join(),
  writeTmp: () => write("/tmp/x"),
  writeShm: () => write("/dev/shm/x"),
  writeSelf: () => write("/agent/agent.js"),
  writeCache: () => write("/cache/x"),
  writeHarness: () => write("/h/harness.js"),
  writeKernel: () => write("/proc/sys/kernel/core_pattern"),
  rawMemory: async () => (await Deno.open("/proc/1/mem")).close() ?? "opened",
  environ: () => read("/proc/self/environ"),
  environ1: () => read("/proc/1/environ"),
  environParent: (ctx, url) => read(`/proc/${url.searchParams.get("pid")}/environ`),
  environAll: () => Object.keys(Deno.env.toObject()).sort().join(),
  // ---- network
  forbiddenHost: async () => (await fetch("https://evil.example/")).status + "",
  plainHttp: async () => (await fetch("http://allowed.example/")).status + "",
  address: () => connect("1.1.1.1", 443),
  addressByFetch: async () => (await fetch("https://1.1.1.1/")).status + "",
  redirect: async (ctx, url) => (await fetch(url.searchParams.get("redirect"))).status + "",
  rebinding: async () => (await fetch("https://rebind.example/")).status + "",
  rebindingLater: async () => (await fetch("https://flips.example/")).status + "",
  ipv6: () => connect("::1", 443),
  ipv6Address: async () => (await fetch("https://[::ffff:127.0.0.1]/")).status + "",
  ipv6Name: async () => (await fetch("https://v6.example/")).status + "",
  metadata: () => connect("169.254.169.254", 80),
  metadataName: async () => (await fetch("https://metadata.example/")).status + "",
  privateNames: async () => {
    const names = Array.from({ length: 8 }, (_, i) => `https://p${i}.private.example/`);
    const ended = await Promise.allSettled(names.map((name) => fetch(name)));
    return ended.filter((one) => one.status === "fulfilled").length + " reached";
  },
  workerPort: (ctx, url) => connect("127.0.0.1", +url.searchParams.get("port")),
  dns: async () => JSON.stringify(await Deno.resolveDns("example.org", "A")),
  // The worker listens on this port: nothing may arrive, whatever the callback says.
  udp: async (ctx, url) => {
    const socket = (await import("node:dgram")).createSocket("udp4");
    socket.on("error", () => {});
    socket.send("x", +url.searchParams.get("udp"), "127.0.0.1", () => {});
    await sleep(100);
    return "still here";
  },
  secondSocket: async () => { await Deno.connect({ transport: "unix", path: "/run/a/s.sock" }); return "connected"; },
  knock: () => connect("127.0.0.1", 7777),
  async proxyFlood() {
    const open = [];
    for (let i = 0; i < 200; i++) {
      const one = await Deno.connect({ hostname: "127.0.0.1", port: 3128 });
      await one.write(encode("CONNECT allowed.ex")).catch(() => {});
      open.push(one);
    }
    return "still here";
  },
  slowUpstream: async (ctx, url) => (await (await fetch(url.searchParams.get("drip"))).text()).length + "",
  async upload() {
    const body = new Uint8Array(1 << 20);
    for (let i = 0; i < 64; i++) await (await fetch("https://allowed.example/ok", { method: "POST", body })).text();
    return "sent";
  },
  async download() {
    for (let i = 0; i < 64; i++) await (await fetch("https://allowed.example/page")).arrayBuffer();
    return "received";
  },
  // ---- foreign functions
  ffi: () => { libc(); return "loaded"; },
  sharedMemory: () => libc().mmap(0n, 4096n, 3, 0x21, -1, 0n) + "",
  syscalls(ctx, url) {
    const c = libc();
    const call = (n, ...a) => {
      const result = c.syscall(BigInt(n), ...Array.from({ length: 6 }, (_, i) => BigInt(a[i] ?? 0)));
      return Number(result) < 0 ? new Deno.UnsafePointerView(c.__errno_location()).getInt32() : 0;
    };
    const fates = JSON.parse(url.searchParams.get("calls")).map((parts) => call(...parts));
    return JSON.stringify([...new Set(fates)]);
  },
  // ---- output
  stdout() { for (let i = 0; i < 400; i++) Deno.stdout.writeSync(PAGE); return "still here"; },
  stderr() { for (let i = 0; i < 400; i++) Deno.stderr.writeSync(PAGE); return "still here"; },
  logFlood(ctx) { for (let i = 0; i < 50000; i++) ctx.log("x".repeat(3000)); return "still here"; },
  hostCallFlood(ctx) { for (let i = 0; i < 20000; i++) ctx.state.get("k"); return "still here"; },
  hugeReply: () => new Uint8Array(40 << 20),
  endlessReply: () => new ReadableStream({ pull: (c) => c.enqueue(new Uint8Array(1 << 20)) }),
  hugeHeader: () => new Response("x", { headers: { a: "b".repeat(40000) } }),
  notAResponse: () => ({ then: undefined }),
  // ---- its own end
  exit: () => Deno.exit(3),
  processExit: () => globalThis.process.exit(4),
  killSelf: async () => { Deno.kill(Deno.pid, "SIGKILL"); await sleep(50); return "still here"; },
  stopSelf: () => { Deno.kill(Deno.pid, "SIGSTOP"); return "still here"; },
  rejection() { Promise.reject(new Error("late rejection")); return "still here"; },
  async lateThrow() { setTimeout(() => { throw new Error("late throw"); }, 1); await sleep(30); return "still here"; },
  throwSecret() { throw new Error("secret-" + Deno.env.get("SECRET")); },
  // ---- the shared realm
  pollute() {
    Object.prototype.status = 999;
    Object.prototype.method = "GET";
    Array.prototype.map = null;
    globalThis.seen = "seen";
    JSON.stringify = () => "{}";
    return "polluted";
  },
  polluted: () => (globalThis.seen ?? "clean") + ({}.status ?? ""),
  // ---- forged frames
  frameLength: () => instead((id) => frame(17 + 1, id, HEAD, 0xffffffff)),
  frameType: () => instead((id) => frame(99, id)),
  frameToAgent: () => instead((id) => frame(2, id, HEAD)),
  frameOther: () => instead(() => frame(25, 4000000000, join(new Uint8Array([HEAD.length, 0, 0, 0]), HEAD))),
  frameTwoHeads: () => instead((id) => join(frame(18, id, HEAD), frame(18, id, HEAD))),
  frameNoHead: () => instead((id) => frame(19, id, new Uint8Array(9))),
  frameWindow: () => instead((id) => join(frame(18, id, HEAD), frame(19, id, new Uint8Array(65537)))),
  frameCrumbs: () => instead((id) => join(frame(18, id, HEAD), many(70000, frame(19, id, new Uint8Array(1))))),
  frameEmpty: () => instead((id) => join(frame(18, id, HEAD), many(1000, frame(19, id)))),
  frameReady: () => instead(() => frame(16, 0)),
  frameFailed: () => instead(() => frame(17, 0, encode({ kind: "x" }))),
  framePong: () => instead((id) => frame(24, id)),
  frameNoJson: () => instead((id) => frame(18, id, encode("[".repeat(60000)))),
  frameBadHead: () => instead((id) => frame(18, id, encode({ status: 99, headers: [["a\r\nb", "c"]] }))),
  frameLog: () => instead((id) => frame(23, id, encode({ level: "root", text: "x" }))),
  frameManyParts: () => instead((id) =>
    frame(22, id, encode(`{"call":1,"name":"state.get","args":{"a":[${"[],".repeat(1000000)}1]}}`))),
  frameManyCalls: () => instead((id) => join(...Array.from({ length: 200 }, (_, i) => stateGet(id, i)))),
  frameHalf: () => instead((id) => frame(18, id, new Uint8Array(10), 1000)),
  // Asks for a big value again and again, and never reads an answer.
  async frameUnread(ctx) {
    await ctx.state.put("big", "v".repeat(2_000_000));
    return instead((id) => { const calls = join(...Array.from({ length: 60 }, (_, i) => stateGet(id, i)));
      setTimeout(() => { for (;;); }, 0); return calls; });
  },
};
export default {
  async fetch(request, ctx) {
    const url = new URL(request.url);
    const name = url.pathname.slice(1);
    try {
      const out = await attacks[name](ctx, url);
      const odd = typeof out === "object" && !(out instanceof Uint8Array) && !(out instanceof ReadableStream);
      return odd ? out : new Response(out);
    } catch (error) {
      if (name === "throwSecret") throw error;
      // node: modules wrap what Deno says.
      const wrapped = error?.name === "Error" && /Requires \w+ access/.test(error.message);
      return new Response("refused " + (wrapped ? "NotCapable" : error?.name ?? typeof error));
    }
  },
};

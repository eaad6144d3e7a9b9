"""Hostile Python: each function tries one thing. Runs inside the sandbox only (support/python_attacks.py)."""
# ruff: noqa
# mypy: ignore-errors

import asyncio
import ctypes
import gc
import json
import mmap
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import urllib.request

from cloister_agent import Response

PAGE = b"x" * 65536
HEAD = b'{"status":200,"headers":[]}'
seen = "clean"


def frame(kind, number, payload=b"", length=None):
    return struct.pack("<IIB", len(payload) if length is None else length, number, kind) + payload


def link():
    return next(o for o in gc.get_objects() if type(o).__name__ == "Link")


async def instead(make):
    """Write forged frames in place of the answer, and wait for the end."""
    there = link()
    there.transport.write(make(max(there.entries)))
    await asyncio.sleep(30)


def libc():
    return ctypes.CDLL("libc.so.6", use_errno=True)


def get(url, **more):
    with urllib.request.urlopen(urllib.request.Request(url, **more), timeout=5) as answer:
        return answer.read()


def tcp(host, port, family=socket.AF_INET):
    with socket.socket(family) as s:
        s.settimeout(1)
        s.connect((host, port))
    return "connected"


# --- time


def hello(q):
    return "hello"


def loop(q):
    while True:
        pass


async def loopAfter(q):
    asyncio.get_running_loop().call_later(0.01, loop, q)
    return "answered"


async def slices(q):
    while True:
        sum(range(20000))
        await asyncio.sleep(0)


def background(q):
    def work():
        while True:
            sum(range(20000))

    threading.Thread(target=work, daemon=True).start()
    return "answered"


def redos(q):
    return str(re.match("(a+)+$", "a" * 64 + "b"))


def threads(q):
    def spin():
        while True:
            pass

    for _ in range(200):
        threading.Thread(target=spin, daemon=True).start()
    return "started"


# --- memory


def heap(q):
    kept = []
    while True:
        kept.append(bytearray(1 << 20))


def objects(q):
    kept = []
    while True:
        kept.append([None] * 100)


def mapped(q):
    kept = []
    while True:
        kept.append(mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        for at in range(0, 64 << 20, 4096):
            kept[-1][at] = 1


def stack(q):
    return stack(q)


def number(q):
    return str(len(str(10 ** (10**9))))


# --- other programs


def fork(q):
    return str(os.fork())


def shell(q):
    return subprocess.run(["/bin/sh", "-c", "id"], capture_output=True).stdout.decode()


def spawn(q):
    return str(os.posix_spawn(sys.executable, ["python"], {}))


def execute(q):
    os.execv("/bin/sh", ["sh"])


def processes(q):
    return str(len([name for name in os.listdir("/proc") if name.isdecimal()]))


def killOthers(q):
    for pid in (int(q["pid"]), -1, 2, 3):
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
    return "still here"


def workerCode(q):
    found = [
        name
        for name in ("cloister", "aiohttp", "cryptography", "pip", "msgspec")
        if __import__("importlib.util").util.find_spec(name)
    ]
    return ",".join(found)


# --- files


def passwd(q):
    return open("/etc/passwd").read()


def workerFile(q):
    return open(q["file"]).read()


def listRoot(q):
    return ",".join(sorted(os.listdir("/")))


def writeTmp(q):
    open("/tmp/x", "w").write("x")
    return "wrote"


def writeShm(q):
    open("/dev/shm/x", "w").write("x")
    return "wrote"


def writeSelf(q):
    open("/agent/source/agent.py", "a").write("x")
    return "wrote"


def writeCache(q):
    open("/cache/x.pyc", "w").write("x")
    return "wrote"


def writeHarness(q):
    open("/h/harness.py", "a").write("x")
    return "wrote"


def writeLibrary(q):
    open(os.__file__, "a").write("x")
    return "wrote"


def writePackages(q):
    library = os.path.dirname(os.__file__)
    open(library + "/site-packages/evil.py", "w").write("x")
    return "wrote"


def writeKernel(q):
    open("/proc/sys/kernel/core_pattern", "w").write("|/x")
    return "wrote"


def remount(q):
    result = libc().mount(b"none", b"/", None, 32 | 4096, None)
    return str(result) if result == 0 else f"refused {os.strerror(ctypes.get_errno())}"


def environ(q):
    return open("/proc/self/environ").read()


def environ1(q):
    return open("/proc/1/environ").read()


def environParent(q):
    return open(f"/proc/{q['pid']}/environ").read()


def environAll(q):
    return ",".join(os.environ)


# --- network


def forbiddenHost(q):
    return get("https://evil.example/ok").decode()


def plainHttp(q):
    try:
        return get("http://allowed.example/ok").decode()
    except urllib.error.HTTPError as error:
        return str(error.code)


def address(q):
    return tcp("1.1.1.1", 443)


def addressByProxy(q):
    return get("https://1.1.1.1/").decode()


def redirect(q):
    return get(q["redirect"]).decode()


def rebinding(q):
    return get("https://rebind.example/").decode()


def rebindingLater(q):
    try:
        get("https://flips.example/")
    except OSError:
        pass
    return get("https://flips.example/").decode()


def ipv6(q):
    return tcp("::1", int(q["port"]), socket.AF_INET6)


def privateNames(q):
    reached = 0
    for i in range(8):
        try:
            get(f"https://p{i}.private.example/")
            reached += 1
        except OSError:
            pass
    return f"{reached} reached"


def metadata(q):
    return tcp("169.254.169.254", 80)


def metadataName(q):
    return get("https://metadata.example/").decode()


def workerPort(q):
    return tcp("127.0.0.1", int(q["port"]))


def knock(q):
    return tcp("127.0.0.1", 7777)


def dns(q):
    return str(socket.getaddrinfo("allowed.example", 443))


def udp(q):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"datagram", ("127.0.0.1", int(q["udp"])))
    return "still here"


def vsock(q):
    socket.socket(socket.AF_VSOCK)
    return "opened"


def netlink(q):
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
    return "opened"


def secondSocket(q):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect("/run/a/s.sock")
    return "connected"


def proxyFlood(q):
    kept = []
    for _ in range(200):
        s = socket.create_connection(("127.0.0.1", 3128), timeout=1)
        s.send(b"CONNECT allowed.exa")
        kept.append(s)
        if len(kept) > 60:
            kept.pop(0).close()
    return "still here"


def upload(q):
    for _ in range(64):
        get("https://allowed.example/ok", data=bytes(1 << 20))
    return "sent"


# --- foreign functions


def syscalls(q):
    c = libc()

    def call(number, *more):
        ctypes.set_errno(0)
        result = c.syscall(ctypes.c_long(number), *(ctypes.c_long(int(value)) for value in (*more, 0, 0, 0, 0)))
        return ctypes.get_errno() if result < 0 else 0

    return json.dumps(sorted({call(*parts) for parts in json.loads(q["calls"])}), separators=(",", ":"))


def sharedMemory(q):
    c = libc()
    c.mmap.restype = ctypes.c_void_p
    return str(ctypes.c_long(c.mmap(None, 4096, 3, 0x21, -1, 0)).value)


def nullPointer(q):
    ctypes.string_at(0)


# --- output


def stdout(q):
    for _ in range(400):
        os.write(1, PAGE)
    return "still here"


def stderr(q):
    for _ in range(400):
        os.write(2, PAGE)
    return "still here"


def printFlood(q):
    for _ in range(50000):
        print("x" * 3000)
    return "still here"


async def hostCallFlood(q):
    for _ in range(20000):
        asyncio.ensure_future(q["ctx"].state.get("k"))
    return "still here"


def hugeReply(q):
    return bytes(40 << 20)


def endlessReply(q):
    def pages():
        while True:
            yield PAGE

    return Response(pages())


def hugeHeader(q):
    return Response("x", 200, {"a": "b" * 40000})


def notAResponse(q):
    return 7


# --- its own end


def exit(q):
    os._exit(3)


def exitPython(q):
    sys.exit(4)


def abort(q):
    os.abort()


def killSelf(q):
    os.kill(os.getpid(), signal.SIGKILL)
    return "still here"


async def lateThrow(q):
    async def late():
        raise RuntimeError("late throw")

    asyncio.ensure_future(late())
    await asyncio.sleep(0.03)
    gc.collect()
    return "still here"


def threadThrow(q):
    def late():
        raise RuntimeError("thread throw")

    thread = threading.Thread(target=late)
    thread.start()
    thread.join()
    return "still here"


def throwSecret(q):
    raise ValueError("secret-" + os.environ["SECRET"])


def closeLink(q):
    link().transport.abort()


# --- forged frames


async def frameLength(q):
    return await instead(lambda n: frame(18, n, HEAD, 0xFFFFFFFF))


async def frameType(q):
    return await instead(lambda n: frame(99, n))


async def frameToAgent(q):
    return await instead(lambda n: frame(2, n, HEAD))


async def frameOther(q):
    return await instead(lambda n: frame(25, 4000000000, len(HEAD).to_bytes(4, "little") + HEAD))


async def frameTwoHeads(q):
    return await instead(lambda n: frame(18, n, HEAD) * 2)


async def frameNoHead(q):
    return await instead(lambda n: frame(19, n, bytes(9)))


async def frameWindow(q):
    return await instead(lambda n: frame(18, n, HEAD) + frame(19, n, bytes(65537)))


async def frameEmpty(q):
    return await instead(lambda n: frame(18, n, HEAD) + frame(19, n) * 1000)


async def frameReady(q):
    return await instead(lambda n: frame(16, 0))


async def frameFailed(q):
    return await instead(lambda n: frame(17, 0, b'{"kind":"x"}'))


async def framePong(q):
    return await instead(lambda n: frame(24, n))


async def frameNoJson(q):
    return await instead(lambda n: frame(18, n, b"[" * 60000))


async def frameBadHead(q):
    return await instead(lambda n: frame(18, n, b'{"status":99,"headers":[["a\\r\\nb","c"]]}'))


async def frameLog(q):
    return await instead(lambda n: frame(23, n, b'{"level":"root","text":"x"}'))


async def frameManyCalls(q):
    body = b'{"call":%d,"name":"state.get","args":{"key":"k"}}'
    return await instead(lambda n: b"".join(frame(22, n, body % i) for i in range(200)))


async def frameHalf(q):
    return await instead(lambda n: frame(18, n, bytes(10), 1000))


async def fetch(request, ctx):
    name = request.path[1:]
    values = {key: value[0] for key, value in request.query.items()} | {"ctx": ctx}
    try:
        out = globals()[name](values)
        if asyncio.iscoroutine(out):
            out = await out
        return out
    except (Exception, SystemExit) as error:
        if name in ("throwSecret", "exitPython"):
            raise
        return f"refused {type(error).__name__}"

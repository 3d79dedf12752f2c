"""Memory that runs out, at one allocation at a time.

In a process of its own each scenario runs again and again, in a forked child each time, and its first allocation
fails, then its second one, and so on to the last. Whatever that is, the process lives, nothing waits for ever, what was
accepted is not lost without a word, no descriptor stays open, and the loop goes on.
"""

import importlib.util
import platform
import subprocess
import sys

import pytest

from ffloop.speed import accelerator

pytestmark = pytest.mark.skipif(
    platform.python_implementation() != "CPython" or importlib.util.find_spec("_testcapi") is None,
    reason="it takes CPython's _testcapi to make allocations fail",
)

PRELUDE = """
import _testcapi, asyncio, contextlib, functools, gc, os, shutil
import signal, socket, sys, tempfile, threading, time, warnings
import ffloop

FACTORY = {"asyncio": asyncio.SelectorEventLoop, "ffloop": ffloop.new_event_loop}[sys.argv[1]]
LIMIT = 2  # seconds, for what takes none

class Scenario:
    def __init__(self):
        self.told = []  # the errors that somebody was told
        self.loop = FACTORY()
        self.loop.set_exception_handler(self.on_error)

    def on_error(self, loop, context):
        self.told.append({"message": context["message"]})  # its exception's traceback keeps what is to go

    def turn(self):
        \"\"\"One turn. Not by run_forever(), which is asyncio's: what it sets it does not always take back.\"\"\"
        try:
            self.loop.call_soon(int)  # so that it does not wait
            self.loop._run_once()
        except MemoryError:
            self.told.append("out of the loop")

    def call(self, function, *args):
        try:
            return function(*args)
        except MemoryError:
            self.told.append("out of a call")
            return None

    def until(self, what, condition):
        end = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < end, what
            self.turn()

class Protocol(asyncio.Protocol):
    transport = lost = None

    def __init__(self, scenario):
        self.told = scenario.told
        self.received = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.received += data

    def is_lost(self):
        return self.lost is not None

    def connection_lost(self, exc):
        self.lost = True
        if exc is not None:
            self.told.append(exc)

class Echo(Protocol):
    def data_received(self, data):
        self.transport.write(data)

class Peer:
    \"\"\"The other end, without a loop.\"\"\"

    def __init__(self, sock):
        sock.setblocking(False)
        self.sock, self.received, self.size, self.ended = sock, b"", 0, False

    def has_all(self):
        try:
            data = self.sock.recv(1 << 20)
            self.received += data
            self.ended = not data
        except BlockingIOError:
            pass
        except OSError:
            self.ended = True
        return self.ended or len(self.received) >= self.size

class Steps:
    \"\"\"A coroutine that goes on when what it waits for is done. No task: CPython loses those, or crashes.\"\"\"

    def __init__(self, scenario, coroutine):
        self.told, self.coroutine, self.waits = scenario.told, self.run(coroutine), None
        self.result, self.ended = None, False

    async def run(self, coroutine):
        self.result = await coroutine

    def step(self):
        if self.ended or (self.waits is not None and not self.waits.done()):
            return self.ended
        try:
            self.waits = self.coroutine.send(None)
        except StopIteration:
            self.ended = True
        except MemoryError:
            self.ended = True
            self.told.append("out of a coroutine")
        return self.ended

def connected(scenario, factory):
    left, right = socket.socketpair()
    right.setblocking(False)
    right.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    _, protocol = scenario.loop.run_until_complete(
        scenario.loop.connect_accepted_socket(lambda: factory(scenario), right))
    return Peer(left), protocol

def all_came(scenario, peer, protocol, pieces, written):
    \"\"\"Closes the connection, and looks at what the peer got of the pieces, of which so many were written.\"\"\"
    if protocol.transport is not None:
        protocol.transport.close()
    peer.size = 1 << 30
    scenario.until("the peer does not get the end", peer.has_all)
    scenario.until("the connection does not end", protocol.is_lost)
    assert b"".join(pieces).startswith(peer.received), "what the peer got is not what was written"
    assert len(peer.received) >= len(b"".join(pieces[:written])) or scenario.told, "bytes are lost without a word"
    peer.sock.close()
    protocol.transport = None

def run(loop):
    asyncio._set_running_loop(loop)
    loop._thread_id = threading.get_ident()

def stop(loop):
    asyncio._set_running_loop(None)
    loop._thread_id = None

def child(number):
    signal.alarm(10)
    before = len(os.listdir("/proc/self/fd"))
    scenario = Scenario()
    begin, check = make(scenario)
    run(scenario.loop)
    _testcapi.set_nomemory(number, number + 1)
    try:
        begin()
    except MemoryError:
        scenario.told.append("out of the scenario")
    left = False
    try:
        for _ in range(100):
            bytearray(1000)  # one of these fails, if there were fewer allocations than that
    except MemoryError:
        left = True
    _testcapi.remove_mem_hooks()
    check()
    seen = []
    scenario.loop.call_later(0, seen.append, 1)
    scenario.until("the loop is dead", lambda: seen)
    stop(scenario.loop)
    scenario.loop.close()
    gc.collect()
    left_open = len(os.listdir("/proc/self/fd")) - before
    assert left_open <= 0, f"{left_open} descriptors are open"
    return left

def main():
    warnings.simplefilter("ignore")
    sys.unraisablehook = lambda unraisable: None
    first = Scenario()  # what the first loop of a process makes stays
    for _ in range(2):
        begin, check = make(first)
        run(first.loop)
        begin()
        check()
        stop(first.loop)
    first.loop.close()
    number, done, failures = 0, False, []
    while not done and number < 1000 and len(failures) < 5:
        pid = os.fork()
        if pid == 0:
            code = 2
            try:
                code = child(number)
            except BaseException as exc:
                _testcapi.remove_mem_hooks()
                print(f"allocation {number}: {exc!r}", flush=True)
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        done = code == 1
        if code not in (0, 1):
            failures.append((number, code))
        number += 1
    assert not failures, failures
    print("done", number)
"""

SCENARIOS = {
    "callbacks_and_timers": """
def make(scenario):
    loop, ran, accepted = scenario.loop, [0] * 15, [False] * 15
    def run(index):
        ran[index] = 1
    soon, later, threadsafe = loop.call_soon, loop.call_later, loop.call_soon_threadsafe
    def begin():
        for index in range(0, 15, 3):
            accepted[index] = scenario.call(soon, run, index) is not None
            accepted[index + 1] = scenario.call(later, 0, run, index + 1) is not None
            accepted[index + 2] = scenario.call(threadsafe, run, index + 2) is not None
        scenario.turn()
        scenario.turn()
    def check():
        scenario.turn()
        scenario.turn()
        lost = sum(map(bool, accepted)) - sum(ran)
        assert lost <= len(scenario.told), f"{lost} callbacks are lost without a word"
    return begin, check
""",
    "timers_that_are_due_when_the_queue_is_full": """
def make(scenario):
    loop, ran = scenario.loop, [0] * 84
    def run(index):
        ran[index] = 1
    for index in range(20):
        loop.call_at(float(index), run, index)
    for index in range(20, 83):  # with the one that stops the loop there are as many as there is room for at first
        loop.call_soon(run, index)
    def begin():
        scenario.turn()
        scenario.turn()
    def check():
        scenario.turn()
        scenario.turn()
        told = [context for context in scenario.told if isinstance(context, dict)]
        lost = 83 - sum(ran)
        assert lost <= len(told), f"{lost} callbacks are lost without a word"
    return begin, check
""",
    "an_echo": """
def make(scenario):
    peer, protocol = connected(scenario, Echo)
    def begin():
        for size in (100, 200, 2000, 2100):
            try:
                peer.sock.send(bytes(size - peer.size))
            except BrokenPipeError:
                break
            peer.size = size
            scenario.turn()
            scenario.turn()
    def check():
        scenario.until("the peer gets neither all nor the end", peer.has_all)
        peer.sock.close()
        scenario.until("the connection does not end", protocol.is_lost)
        protocol.transport = None
    return begin, check
""",
    "large_writes": """
PIECES = [bytes([number]) * (70000 if number % 4 == 0 else 300) for number in range(5)]

def make(scenario):
    peer, protocol = connected(scenario, Protocol)
    written = []
    def begin():
        for piece in PIECES:
            if not protocol.lost:  # a write that raises is the last one
                protocol.transport.write(piece)
                written.append(piece)
                scenario.turn()
        protocol.transport.close()
    def check():
        all_came(scenario, peer, protocol, PIECES, len(written))
    return begin, check
""",
    "many_small_writes": """
PIECES = [b"%3d" % number for number in range(66)]

def make(scenario):
    peer, protocol = connected(scenario, Protocol)
    def begin():
        for piece in PIECES:
            protocol.transport.write(piece)
        scenario.turn()
        protocol.transport.close()
    def check():
        all_came(scenario, peer, protocol, PIECES, len(PIECES))
    return begin, check
""",
    "the_end": """
def make(scenario):
    peer, protocol = connected(scenario, Protocol)
    peer.sock.shutdown(socket.SHUT_WR)
    def begin():
        for _ in range(5):
            scenario.turn()
    def check():
        scenario.until("the connection does not end", protocol.is_lost)
        peer.sock.close()
        protocol.transport = None
    return begin, check
""",
    "a_server": """
class Answer(Protocol):
    def data_received(self, data):
        self.transport.write(data)
        self.transport.close()

def make(scenario):
    server = scenario.loop.run_until_complete(scenario.loop.create_server(lambda: Answer(scenario), "127.0.0.1", 0))
    peers = []
    for _ in range(2):
        peers.append(Peer(socket.create_connection(server.sockets[0].getsockname())))
        peers[-1].sock.send(b"question")
        peers[-1].size = 9  # the end, too
    def begin():
        for _ in range(6):
            scenario.turn()
    def check():
        for peer in peers:
            scenario.until("a client gets neither an answer nor the end", peer.has_all)
            peer.sock.close()
        server.close()
        scenario.until("the server has a connection that is none", lambda: not server._active_count)
    return begin, check
""",
    "clients": """
# Without functions that are made on the way: CPython itself loses those, or crashes.
def make(scenario):
    loop, factory, folder = scenario.loop, functools.partial(Protocol, scenario), tempfile.mkdtemp()
    path = os.path.join(folder, "socket")
    listening = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)]
    listening[1].bind(path)
    listening[1].listen()
    host, port = listening[0].getsockname()
    others = [os.dup(0) for _ in range(64)]  # a number from there on is one that the loop has no room for yet
    steps = [
        Steps(scenario, loop.create_connection(factory, host, port)),
        Steps(scenario, loop.create_unix_connection(factory, path)),
    ]
    def begin():
        for connecting in steps:
            for _ in range(8):
                if connecting.step():
                    break
                scenario.turn()
    def check():
        made = []
        for connecting in steps:
            scenario.until("a connection is neither made nor refused", connecting.step)
            if connecting.result is not None:
                made.append(connecting.result)
                connecting.result = None
        assert len(made) == 2 or scenario.told, "a connection is neither made nor refused"
        for transport, protocol in made:
            transport.close()
            scenario.until("the connection does not end", protocol.is_lost)
        for sock in listening:
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                peer = Peer(sock.accept()[0])
                peer.size = 1
                scenario.until("a connection is open that nobody was told of", peer.has_all)
                peer.sock.close()
            sock.close()
        for fd in others:
            os.close(fd)
        shutil.rmtree(folder)
    return begin, check
""",
    "names": """
def make(scenario):
    loop = scenario.loop
    looking = [Steps(scenario, loop.getaddrinfo("localhost", 80)), Steps(scenario, loop.getnameinfo(("127.0.0.1", 80)))]
    def begin():
        for steps in looking:
            steps.step()
        for _ in range(3):
            time.sleep(0.002)  # another thread looks them up
            scenario.turn()
            for steps in looking:
                steps.step()
    def check():
        for steps in looking:
            scenario.until("a name is neither found nor refused", steps.step)
            assert steps.result or scenario.told
    return begin, check
""",
    "a_pipe": """
def make(scenario):
    reading, writing = os.pipe()
    connecting = scenario.loop.connect_write_pipe(functools.partial(Protocol, scenario), open(writing, "wb", 0))
    transport, protocol = scenario.loop.run_until_complete(connecting)
    transport.close()
    def begin():
        scenario.turn()
        scenario.turn()
    def check():
        scenario.until("the pipe does not end", protocol.is_lost)
        os.close(reading)
        protocol.transport = None
    return begin, check
""",
}

ACCELERATED = {"a_pipe", "a_server", "clients", "the_end"}
"""What only the accelerator passes. The socket module loses the descriptor of what it accepts, asyncio a handle for
whose context there is no memory, and CPython may crash where it makes a coroutine."""

LATER = {"a_pipe"}
"""What needs Python 3.12. Until then super() takes memory, and with it the last that a pipe's transport does."""

COMMON = ["callbacks_and_timers", "timers_that_are_due_when_the_queue_is_full"]
"""What stdlib asyncio passes, too. Of its connections some wait for ever."""


@pytest.mark.parametrize(
    ("kind", "scenario"),
    [
        ("ffloop", name)
        for name in SCENARIOS
        if (accelerator is not None or name not in ACCELERATED) and (sys.version_info >= (3, 12) or name not in LATER)
    ]
    + [("asyncio", name) for name in COMMON],
)
def test_an_allocation_that_fails_costs_what_needed_it_and_nothing_more(kind, scenario):
    text = PRELUDE + SCENARIOS[scenario] + "\nmain()\n"
    done = subprocess.run([sys.executable, "-c", text, kind], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.startswith("done ")  # how many allocations there are is the free lists' business

"""nest_asyncio and nest_asyncio2, its successor: a loop that is run again from inside of its own callbacks.

Several connections have I/O under way meanwhile. The packages patch asyncio for the whole process, so each test has an
interpreter of its own.
"""

import pytest

from . import missing
from .processes import run_python

START = """
import asyncio, importlib, sys, threading
nest_asyncio = importlib.import_module(sys.argv[2])
module, name = sys.argv[1].split(":")
loop = getattr(importlib.import_module(module), name)()
asyncio.set_event_loop(loop)
nest_asyncio.apply(loop)

async def echo(reader, writer):
    while data := await reader.read(100_000):
        writer.write(data)
        await writer.drain()
    writer.close()

async def exchange(address, size):
    reader, writer = await asyncio.open_connection(*address)
    data = bytes(range(256)) * (size // 256)
    writer.write(data)
    back = await reader.readexactly(len(data))
    writer.close()
    await writer.wait_closed()
    return back == data

async def serve(handler=echo):
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()
"""

END = """
loop.run_until_complete(loop.shutdown_asyncgens())
loop.run_until_complete(loop.shutdown_default_executor())
loop.close()
print("end")
"""


@pytest.fixture(params=["nest_asyncio", "nest_asyncio2"])
def names(request, factory):
    """The loop factory and the package, as arguments of the program."""
    if reason := missing(request.param):
        pytest.skip(reason)
    return factory, request.param


def is_ffloop(names):
    return "ffloop" in names[0]


@pytest.mark.parametrize("debug", [False, True])
def test_runs_nest_while_other_connections_go_on(names, debug):
    code = """
async def client(n, address):
    # Synchronous code deep inside of a task, which wants the result of a coroutine now.
    await asyncio.sleep(0)
    inner = loop.run_until_complete(exchange(address, 50_000 * (n + 1)))
    again = loop.run_until_complete(asyncio.gather(exchange(address, 2560), exchange(address, 300_000)))
    return [inner, *again, await exchange(address, 256)]

async def main():
    server, address = await serve()
    results = await asyncio.gather(*(client(n, address) for n in range(10)))
    print(results == [[True] * 4] * 10)
    server.close()
    await server.wait_closed()

asyncio.run(main())
"""
    assert run_python(START + f"loop.set_debug({debug})" + code + END, *names) == "True\nend\n"


def test_a_protocol_may_run_the_loop_from_data_received(names):
    # Each connection's records are in one batch: what is received inside must not overwrite it, nor come before it.
    # asyncio gets there too, after reporting again and again that the transport's context is entered already.
    code = """
import socket
results, depths, depth, made = {}, [], 0, 0

class Server(asyncio.Protocol):
    def connection_made(self, transport):
        global made
        made += 1
        self.transport, self.got = transport, []

    def data_received(self, data):
        global depth
        depth += 1
        depths.append(depth)
        self.got.append(data)
        loop.run_until_complete(exchange(address, 100_000))
        self.transport.write(data)
        depth -= 1

async def main():
    global address
    echoing, address = await serve()
    server = await loop.create_server(Server, "127.0.0.1", 0)
    clients = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(8)]
    while made < 8:
        await asyncio.sleep(0)
    for n, client in enumerate(clients):
        client.sendall(bytes([n]) * 3000)  # all of them are there when the loop polls next
    for n, client in enumerate(clients):
        client.setblocking(False)
        data = b""
        while len(data) < 3000:
            data += await loop.sock_recv(client, 10_000)
        results[n] = data == bytes([n]) * 3000
        client.close()
    server.close()
    echoing.close()

loop.run_until_complete(main())
print(results == {n: True for n in range(8)}, max(depths) > 1)
"""
    assert run_python(START + code + END, *names, quiet=is_ffloop(names)) == "True True\nend\n"


def test_a_nested_run_gets_what_its_own_connection_receives_in_order(names):
    code = """
class Reader(asyncio.Protocol):
    def __init__(self):
        self.got, self.nested, self.lost = b"", 0, loop.create_future()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.got += data
        if self.nested < 5:
            self.nested += 1
            loop.run_until_complete(asyncio.sleep(0.01))  # the next data comes meanwhile, inside

    def connection_lost(self, exc):
        self.lost.set_result(None)

async def feed(reader, writer):
    for n in range(20):
        writer.write(b"%05d" % n * 2000)
        await writer.drain()
        await asyncio.sleep(0.002)
    writer.close()

async def main():
    server, address = await serve(feed)
    transport, protocol = await loop.create_connection(Reader, *address)
    await asyncio.wait_for(protocol.lost, 20)
    print(protocol.got == b"".join(b"%05d" % n * 2000 for n in range(20)), protocol.nested)
    server.close()

loop.run_until_complete(main())
"""
    assert run_python(START + code + END, *names, quiet=is_ffloop(names)) == "True 5\nend\n"


def test_a_paused_writer_may_run_the_loop_from_resume_writing(names):
    code = """
import socket

class Writer(asyncio.Protocol):
    def __init__(self):
        self.left, self.nested, self.writable = 40, 0, True

    def connection_made(self, transport):
        self.transport = transport
        # However much the system would keep for a connection, the protocol is paused many times.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        self.go_on()

    def go_on(self):
        while self.left and self.writable:
            self.left -= 1
            self.transport.write(b"%05d" % self.left * 20_000)
        if not self.left:
            self.transport.write_eof()

    def pause_writing(self):
        self.writable = False

    def resume_writing(self):
        self.writable = True
        if self.left and self.nested < 5:
            self.nested += 1
            self.transport.write(b"")
            loop.run_until_complete(asyncio.sleep(0.01))
        self.go_on()

async def main():
    protocol = Writer()
    server = await loop.create_server(lambda: protocol, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    data = await asyncio.wait_for(reader.read(), 20)
    print(data == b"".join(b"%05d" % n * 20_000 for n in range(39, -1, -1)), protocol.nested)
    writer.close()
    server.close()

loop.run_until_complete(main())
"""
    assert run_python(START + code + END, *names, quiet=is_ffloop(names)) == "True 5\nend\n"


def test_datagrams_that_come_inside_of_datagram_received_are_not_lost(names):
    # How loudly is left open; what counts is that each comes, once and in order.
    code = """
class Receiver(asyncio.DatagramProtocol):
    def __init__(self):
        self.got, self.nested, self.done = [], 0, loop.create_future()

    def datagram_received(self, data, address):
        self.got.append(int(data))
        if self.nested < 5:
            self.nested += 1
            loop.run_until_complete(asyncio.sleep(0.01))
        if len(self.got) == 60 and not self.done.done():
            self.done.set_result(None)

async def main():
    receiving, protocol = await loop.create_datagram_endpoint(Receiver, local_addr=("127.0.0.1", 0))
    sending, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=receiving.get_extra_info("sockname")
    )
    for n in range(60):
        sending.sendto(b"%d" % n)
        if n % 7 == 0:
            await asyncio.sleep(0.001)
    await asyncio.wait_for(protocol.done, 20)
    print(protocol.got == list(range(60)))
    sending.close()
    receiving.close()

loop.run_until_complete(main())
loop.run_until_complete(asyncio.sleep(0))
"""
    assert run_python(START + code + END, *names, quiet=False) == "True\nend\n"


def test_output_of_a_child_that_comes_inside_of_pipe_data_received_is_not_lost(names):
    code = """
class Reader(asyncio.SubprocessProtocol):
    def __init__(self):
        self.got, self.nested, self.done = b"", 0, loop.create_future()

    def pipe_data_received(self, fd, data):
        self.got += data
        if self.nested < 5:
            self.nested += 1
            loop.run_until_complete(asyncio.sleep(0.02))

    def connection_lost(self, exc):
        self.done.set_result(None)

async def main():
    program = "import sys, time\\nfor n in range(40): print('%05d' % n, flush=True); time.sleep(0.002)"
    transport, protocol = await loop.subprocess_exec(Reader, sys.executable, "-c", program, stdin=None, stderr=None)
    await asyncio.wait_for(protocol.done, 20)
    print(protocol.got == b"".join(b"%05d\\n" % n for n in range(40)), transport.get_returncode())
    transport.close()

loop.run_until_complete(main())
"""
    assert run_python(START + code + END, *names, quiet=is_ffloop(names)) == "True 0\nend\n"


def test_threads_timers_and_subprocesses_work_inside(names):
    code = """
def inner():
    fired = []
    loop.call_later(0.01, fired.append, "timer")
    loop.run_until_complete(loop.run_in_executor(None, fired.append, "thread"))
    loop.run_until_complete(asyncio.sleep(0.02))
    process = loop.run_until_complete(asyncio.create_subprocess_exec(sys.executable, "-c", "print(6 * 7)", stdout=-1))
    out, _ = loop.run_until_complete(process.communicate())
    return sorted(fired), out, process.returncode

async def main():
    return inner()

print(loop.run_until_complete(main()))
print(inner())
"""
    expected = "(['thread', 'timer'], b'42\\n', 0)\n"
    assert run_python(START + code + END, *names) == 2 * expected + "end\n"


def test_an_exception_leaves_the_outer_run_intact(names):
    code = """
async def wrong():
    await asyncio.sleep(0)
    raise LookupError("inside")

async def main():
    server, address = await serve()
    other = asyncio.ensure_future(exchange(address, 1_000_000))
    try:
        loop.run_until_complete(wrong())
    except LookupError as error:
        print(error)
    try:
        asyncio.run(asyncio.wait_for(asyncio.sleep(60), 0.01))
    except TimeoutError:
        print("timed out")
    print(await other, asyncio.current_task().get_name())
    server.close()

task = loop.create_task(main(), name="outer")
loop.run_until_complete(task)
"""
    assert run_python(START + code + END, *names) == "inside\ntimed out\nTrue outer\nend\n"


def test_a_loop_that_is_patched_while_it_runs(names):
    code = """
import asyncio, importlib, sys
module, name = sys.argv[1].split(":")

async def main():
    importlib.import_module(sys.argv[2]).apply()
    loop = asyncio.get_running_loop()
    return loop.run_until_complete(asyncio.sleep(0.01, "nested"))

with asyncio.Runner(loop_factory=getattr(importlib.import_module(module), name)) as runner:
    print(runner.run(main()))
"""
    assert run_python(code, *names) == "nested\n"

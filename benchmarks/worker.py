"""One loop at work: serves for an I/O row, or measures itself for a scheduling row.

    python worker.py LOOP ROW

A server prints where it listens (see load.c) and serves until standard input ends. Another row waits for a line on
standard input, runs once, prints operations a second, and waits for the next.
"""

import asyncio
import importlib
import os
import socket
import subprocess
import sys
import tempfile
import time

FACTORIES = {"asyncio": "asyncio:new_event_loop", "uvloop": "uvloop:new_event_loop", "ffloop": "ffloop:new_event_loop"}


def new_event_loop(name):
    module, _, attribute = FACTORIES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)()


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class BufferedEcho(asyncio.BufferedProtocol):
    def connection_made(self, transport):
        self.transport = transport
        self.buffer = bytearray(256 * 1024)

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        self.transport.write(bytes(memoryview(self.buffer)[:nbytes]))


async def echo_streams(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
    except ConnectionError:
        pass  # the client leaves in the middle of an exchange
    writer.close()


async def plaintext(scope, receive, send):
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"13")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"Hello, world!"})


class DatagramEcho(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.transport.sendto(data, addr)


class FileServer(asyncio.Protocol):
    """Answers each request of 64 bytes with a file."""

    file = None
    task = None

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.task = asyncio.get_running_loop().create_task(self.answer())

    async def answer(self):
        try:
            await asyncio.get_running_loop().sendfile(self.transport, self.file)
        except NotImplementedError:  # uvloop has none
            self.file.seek(0)
            self.transport.write(self.file.read())
        except ConnectionError:
            pass  # the client leaves in the middle of an exchange


async def echo_socket(loop, listening):
    async def serve(connection):
        with connection:
            try:
                while data := await loop.sock_recv(connection, 65536):
                    await loop.sock_sendall(connection, data)
            except ConnectionError:
                pass  # the client leaves in the middle of an exchange

    tasks = set()
    while True:
        connection, _ = await loop.sock_accept(listening)
        task = loop.create_task(serve(connection))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def start_server(row):
    loop = asyncio.get_running_loop()
    kind = row.partition("_")[0]
    if kind == "unix":
        path = os.path.join(tempfile.mkdtemp(), "socket")
        await loop.create_unix_server(Echo, path, backlog=4096)
        return f"unix:{path}"
    if kind == "udp":
        transport, _ = await loop.create_datagram_endpoint(DatagramEcho, ("127.0.0.1", 0))
        return f"udp:{transport.get_extra_info('sockname')[1]}"
    if kind == "sock":
        listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
        listening.setblocking(False)
        start_server.task = loop.create_task(echo_socket(loop, listening))
        return f"tcp:{listening.getsockname()[1]}"
    factory = BufferedEcho if kind == "buffered" else Echo
    if kind == "sendfile":
        factory = FileServer
        FileServer.file = tempfile.TemporaryFile()  # noqa: SIM115 - open for as long as it is served
        FileServer.file.truncate(1024 * 1024)
    if kind == "streams":
        server = await asyncio.start_server(echo_streams, "127.0.0.1", 0, backlog=4096)
    else:
        # Ten thousand clients come at once: what does not fit the queue waits a second.
        server = await loop.create_server(factory, "127.0.0.1", 0, backlog=4096)
    return f"{'churn' if kind == 'churn' else 'tcp'}:{server.sockets[0].getsockname()[1]}"


async def start_uvicorn():
    import uvicorn

    config = uvicorn.Config(plaintext, host="127.0.0.1", port=0, http="httptools", access_log=False, lifespan="off")
    config.log_level = "error"
    config.configure_logging()
    server = uvicorn.Server(config)
    start_uvicorn.task = asyncio.get_running_loop().create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    return f"tcp:{server.servers[0].sockets[0].getsockname()[1]}"


def serve(loop, row):
    target = loop.run_until_complete(start_uvicorn() if row.startswith("uvicorn") else start_server(row))
    print(target, flush=True)
    loop.add_reader(sys.stdin, loop.stop)
    loop.run_forever()


def call_soon(loop, count=100_000):
    def nothing():
        pass

    started = time.perf_counter()
    for _ in range(count):
        loop.call_soon(nothing)
    loop.call_soon(loop.stop)
    loop.run_forever()
    return count / (time.perf_counter() - started)


def call_soon_chain(loop, count=50_000):
    left = count

    def step():
        nonlocal left
        left -= 1
        if left:
            loop.call_soon(step)
        else:
            loop.stop()

    started = time.perf_counter()
    loop.call_soon(step)
    loop.run_forever()
    return count / (time.perf_counter() - started)


def timers(loop, count=50_000):
    fired = 0

    def fire():
        nonlocal fired
        fired += 1
        if fired == count:
            loop.stop()

    started = time.perf_counter()
    now = loop.time()
    for index in range(count):
        loop.call_at(now + (index % 100) * 0.0002, fire)
    loop.run_forever()
    return count / (time.perf_counter() - started)


def sleep0(loop, count=30_000):
    async def main():
        for _ in range(count):
            await asyncio.sleep(0)

    started = time.perf_counter()
    loop.run_until_complete(main())
    return count / (time.perf_counter() - started)


def getaddrinfo(loop, count=3000):
    async def main():
        for _ in range(count):
            await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)

    started = time.perf_counter()
    loop.run_until_complete(main())
    return count / (time.perf_counter() - started)


def spawn(loop, count=100):
    async def main():
        for _ in range(count):
            process = await asyncio.create_subprocess_exec("true")
            await process.wait()

    started = time.perf_counter()
    loop.run_until_complete(main())
    return count / (time.perf_counter() - started)


def child_pipe(loop, count=100_000_000):
    """Bytes a second that a child writes and this side reads."""

    async def main():
        process = await asyncio.create_subprocess_exec("head", "-c", str(count), "/dev/zero", stdout=subprocess.PIPE)
        while await process.stdout.read(1 << 18):
            pass
        await process.wait()

    started = time.perf_counter()
    loop.run_until_complete(main())
    return count / (time.perf_counter() - started)


INSIDE = {
    "call_soon": call_soon,
    "call_soon_chain": call_soon_chain,
    "timers": timers,
    "sleep0": sleep0,
    "getaddrinfo": getaddrinfo,
    "spawn": spawn,
    "child_pipe": child_pipe,
}


def main():
    name, row = sys.argv[1:]
    loop = new_event_loop(name)
    asyncio.set_event_loop(loop)
    if row in INSIDE:
        print(0, flush=True)
        for _ in sys.stdin:
            print(INSIDE[row](loop), flush=True)
    else:
        serve(loop, row)


if __name__ == "__main__":
    main()

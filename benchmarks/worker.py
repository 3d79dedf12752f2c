"""One loop at work: serves for an I/O row, or measures itself for a scheduling row.

    python worker.py LOOP ROW

A server prints its port and serves until standard input ends. A scheduling row waits for a line on standard
input, runs once, prints operations a second, and waits for the next.
"""

import asyncio
import importlib
import sys
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


async def start_server(row):
    loop = asyncio.get_running_loop()
    if row.startswith("streams"):
        server = await asyncio.start_server(echo_streams, "127.0.0.1", 0, backlog=4096)
    else:
        factory = BufferedEcho if row.startswith("buffered") else Echo
        # Ten thousand clients come at once: what does not fit the queue waits a second.
        server = await loop.create_server(factory, "127.0.0.1", 0, backlog=4096)
    return server.sockets[0].getsockname()[1]


async def start_uvicorn():
    import uvicorn

    config = uvicorn.Config(plaintext, host="127.0.0.1", port=0, http="httptools", access_log=False, lifespan="off")
    config.log_level = "error"
    config.configure_logging()
    server = uvicorn.Server(config)
    asyncio.get_running_loop().create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    return server.servers[0].sockets[0].getsockname()[1]


def serve(loop, row):
    port = loop.run_until_complete(start_uvicorn() if row.startswith("uvicorn") else start_server(row))
    print(port, flush=True)
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


SCHEDULING = {"call_soon": call_soon, "call_soon_chain": call_soon_chain, "timers": timers, "sleep0": sleep0}


def main():
    name, row = sys.argv[1:]
    loop = new_event_loop(name)
    asyncio.set_event_loop(loop)
    if row in SCHEDULING:
        print(0, flush=True)
        for _ in sys.stdin:
            print(SCHEDULING[row](loop), flush=True)
    else:
        serve(loop, row)


if __name__ == "__main__":
    main()

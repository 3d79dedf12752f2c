"""A standalone echo server and its client, with asyncio's streams.

python examples/echo.py            # both, for one conversation
python examples/echo.py serve 7000 # the server alone, until Ctrl-C
"""

import asyncio
import sys

import ffloop


async def echo(reader, writer):
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def serve(port):
    server = await asyncio.start_server(echo, "127.0.0.1", port)
    print(f"serving on {server.sockets[0].getsockname()}", flush=True)
    async with server:
        await server.serve_forever()


async def converse():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(host, port)
    for line in (b"one\n", b"two\n", b"three\n"):
        writer.write(line)
        print("sent", line, "received", await reader.readline())
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


if __name__ == "__main__":
    try:
        ffloop.run(serve(int(sys.argv[2])) if sys.argv[1:2] == ["serve"] else converse())
    except KeyboardInterrupt:
        print("stopped")

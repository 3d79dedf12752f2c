"""What people run on a loop: servers and clients of HTTP and WebSocket, as their projects ship them."""

from __future__ import annotations

import asyncio
import os
import struct
from typing import Any

from ..row import Loop, Operations, inside, served
from .clients import parse, share
from .tcp import KIB, keep

GROUP = "applications"
GET = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
HELLO = b"Hello, world!"


async def serve_uvicorn(http: str, body: bytes) -> str:
    import uvicorn

    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    config = uvicorn.Config(
        application, host="127.0.0.1", port=0, http=http, access_log=False, lifespan="off", log_level="error"
    )
    server = uvicorn.Server(config)
    keep.append(asyncio.get_running_loop().create_task(server.serve()))
    while not server.started:
        await asyncio.sleep(0.01)
    return f"tcp:{server.servers[0].sockets[0].getsockname()[1]}"


@served(GROUP, GET, None, connections=50, unit="requests/s", quick=True)
async def uvicorn_httptools() -> str:
    """uvicorn, httptools, 13-byte body, 50 connections."""
    return await serve_uvicorn("httptools", HELLO)


@served(GROUP, GET, None, connections=50, unit="requests/s")
async def uvicorn_httptools_10k() -> str:
    """uvicorn, httptools, 10 KiB body, 50 connections."""
    return await serve_uvicorn("httptools", b"x" * 10 * KIB)


@served(GROUP, GET, None, connections=50, unit="requests/s")
async def uvicorn_h11() -> str:
    """uvicorn, h11, 13-byte body, 50 connections."""
    return await serve_uvicorn("h11", HELLO)


@served(GROUP, GET, None, connections=50, unit="requests/s")
async def uvicorn_h11_10k() -> str:
    """uvicorn, h11, 10 KiB body, 50 connections."""
    return await serve_uvicorn("h11", b"x" * 10 * KIB)


@served(GROUP, GET, None, connections=50, unit="requests/s", quick=True)
async def aiohttp_server() -> str:
    """aiohttp.web, 13-byte body, 50 connections."""
    from aiohttp import web

    async def hello(request: web.Request) -> web.Response:
        return web.Response(body=HELLO)

    application = web.Application()
    application.router.add_get("/", hello)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    keep.append(site)
    return f"tcp:{runner.addresses[0][1]}"


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
# A final binary frame, masked as a client's must be; a reply is the same without the mask.
FRAME = struct.pack("!BBH4s", 0x82, 0x80 | 126, KIB, b"mask") + b"x" * KIB


@served(GROUP, FRAME, 4 + KIB, preface=UPGRADE, connections=10, unit="messages/s", quick=True)
async def websockets_echo() -> str:
    """websockets server, echo of a binary message of 1 KiB, 10 connections."""
    from websockets.asyncio.server import ServerConnection, serve
    from websockets.exceptions import ConnectionClosed

    async def echo(connection: ServerConnection) -> None:
        try:
            async for message in connection:
                await connection.send(message)
        except ConnectionClosed:
            pass

    server = await serve(echo, "127.0.0.1", 0, compression=None, ping_interval=None)
    keep.append(server)
    return f"tcp:{next(iter(server.sockets)).getsockname()[1]}"


@inside(GROUP, 200, server="http", unit="requests/s", quick=True)
def aiohttp_client(loop: Loop, address: str) -> Operations:
    """aiohttp client, GET, 10 at a time."""
    os.environ["NO_PROXY"] = "127.0.0.1"
    import aiohttp

    async def start() -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    session = loop.run_until_complete(start())
    host, port = parse(address)

    async def work(number: int, count: int) -> None:
        for _ in range(count):
            async with session.get(f"http://{host}:{port}/") as response:
                await response.read()

    return lambda count: loop.run_until_complete(share(count, 10, work))

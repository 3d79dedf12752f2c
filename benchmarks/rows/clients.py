"""The loop as a client of the C server: connections that stay open, and new ones."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from ..row import Loop, Operations, inside
from .tcp import KIB

GROUP = "clients"


def parse(address: str) -> tuple[str, int]:
    return "127.0.0.1", int(address.removeprefix("tcp:"))


async def share(count: int, workers: int, work: Any) -> None:
    """Run `work(number, count)` in several tasks that do `count` operations together."""
    await asyncio.gather(*(work(number, count // workers) for number in range(workers)))


@inside(GROUP, 2000, server="echo", unit="requests/s", quick=True)
def client_streams_c50(loop: Loop, address: str) -> Operations:
    """Request and response of 1 KiB on 50 open connections, streams."""
    request = b"x" * KIB

    async def connect() -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        return [await asyncio.open_connection(*parse(address)) for _ in range(50)]

    pairs = loop.run_until_complete(connect())

    async def work(number: int, count: int) -> None:
        reader, writer = pairs[number]
        for _ in range(count):
            writer.write(request)
            await reader.readexactly(KIB)

    return lambda count: loop.run_until_complete(share(count, 50, work))


class Client(asyncio.Protocol):
    """Sends the next request when the response is whole, as often as it was told."""

    request = b"x" * KIB

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.received = self.left = 0

    def go(self, count: int) -> asyncio.Future[None]:
        self.left = count
        self.finished = asyncio.get_running_loop().create_future()
        self.transport.write(self.request)
        return self.finished

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if self.received < KIB:
            return
        self.received = 0
        self.left -= 1
        if self.left:
            self.transport.write(self.request)
        else:
            self.finished.set_result(None)


@inside(GROUP, 2500, server="echo", unit="requests/s")
def client_proto_c50(loop: Loop, address: str) -> Operations:
    """Request and response of 1 KiB on 50 open connections, Protocol."""

    async def connect() -> list[Client]:
        return [(await loop.create_connection(Client, *parse(address)))[1] for _ in range(50)]

    clients = loop.run_until_complete(connect())

    async def main(count: int) -> None:
        await asyncio.gather(*(client.go(count // 50) for client in clients))

    return lambda count: loop.run_until_complete(main(count))


@inside(GROUP, 200, server="echo", unit="connections/s", quick=True)
def client_connect(loop: Loop, address: str) -> Operations:
    """open_connection, one exchange of 64 bytes, close; 10 at a time."""

    async def work(number: int, count: int) -> None:
        for _ in range(count):
            reader, writer = await asyncio.open_connection(*parse(address))
            writer.write(b"x" * 64)
            await reader.readexactly(64)
            writer.close()
            await writer.wait_closed()

    return lambda count: loop.run_until_complete(share(count, 10, work))


@inside(GROUP, 1000, server="echo", unit="requests/s")
def client_sock_c10(loop: Loop, address: str) -> Operations:
    """sock_sendall and sock_recv of 1 KiB on 10 connections."""
    request = b"x" * KIB

    async def connect() -> list[socket.socket]:
        made = []
        for _ in range(10):
            sock = socket.socket()
            sock.setblocking(False)
            await loop.sock_connect(sock, parse(address))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.append(sock)
        return made

    socks = loop.run_until_complete(connect())

    async def work(number: int, count: int) -> None:
        sock = socks[number]
        for _ in range(count):
            await loop.sock_sendall(sock, request)
            received = 0
            while received < KIB:
                received += len(await loop.sock_recv(sock, 65536))

    return lambda count: loop.run_until_complete(share(count, 10, work))

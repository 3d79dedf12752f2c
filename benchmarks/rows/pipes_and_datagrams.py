"""Unix sockets, FIFOs and UDP. The runner empties the folder for temporary files."""

from __future__ import annotations

import asyncio
import os
import tempfile
from typing import Any

from ..row import served
from .tcp import BACKLOG, KIB, Echo, keep

GROUP = "pipes and datagrams"


async def serve_unix() -> str:
    path = os.path.join(tempfile.mkdtemp(), "socket")
    keep.append(await asyncio.get_running_loop().create_unix_server(Echo, path, backlog=BACKLOG))
    return f"unix:{path}"


@served(GROUP, b"x" * KIB, KIB, connections=10, unit="requests/s", quick=True)
async def unix_1k_c10() -> str:
    """Unix socket Protocol echo, 1 KiB, 10 connections."""
    return await serve_unix()


@served(GROUP, b"x" * 64, 64, mode="churn", connections=10, unit="connections/s")
async def churn_unix() -> str:
    """Connect to a Unix socket, one 64-byte echo, close; 10 at a time (Protocol)."""
    return await serve_unix()


class PipeEcho(asyncio.Protocol):
    def __init__(self, out: asyncio.WriteTransport):
        self.out = out

    def data_received(self, data: bytes) -> None:
        self.out.write(data)


@served(GROUP, b"x" * KIB, KIB, connections=1, unit="requests/s")
async def fifo_1k() -> str:
    """Echo from connect_read_pipe to connect_write_pipe, 1 KiB."""
    loop = asyncio.get_running_loop()
    path = os.path.join(tempfile.mkdtemp(), "fifo")
    for name in (f"{path}.in", f"{path}.out"):
        os.mkfifo(name)
        # Held open for both directions: a client that leaves is not the end of the FIFO.
        keep.append(os.open(name, os.O_RDWR | os.O_NONBLOCK))
    # Not of `with`: the transports own the files.
    reading = os.fdopen(os.open(f"{path}.in", os.O_RDONLY | os.O_NONBLOCK), "rb", 0)
    writing = os.fdopen(os.open(f"{path}.out", os.O_WRONLY | os.O_NONBLOCK), "wb", 0)
    out, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, writing)
    keep.append(await loop.connect_read_pipe(lambda: PipeEcho(out), reading))
    return f"fifo:{path}"


class DatagramEcho(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data, addr)


@served(GROUP, b"x" * KIB, KIB, connections=10, unit="requests/s", quick=True)
async def udp_1k_c10() -> str:
    """UDP echo, 1 KiB, 10 client sockets."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(DatagramEcho, ("127.0.0.1", 0))
    keep.append(transport)
    return f"udp:{transport.get_extra_info('sockname')[1]}"

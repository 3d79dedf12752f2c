"""TCP servers: echo in every way that asyncio has, answers in pieces, new connections, and bytes one way."""

from __future__ import annotations

import asyncio
import functools
import socket
import tempfile
from collections.abc import Awaitable, Callable
from typing import IO, Any, ClassVar

from ..row import Mode, Served, add

GROUP = "TCP"
KIB = 1024
MIB = 1024 * KIB
BACKLOG = 16384  # thousands of clients come at once: what does not fit the queue waits a second


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class BufferedEcho(asyncio.BufferedProtocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.buffer = bytearray(256 * KIB)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(bytes(memoryview(self.buffer)[:nbytes]))


class Pieces(asyncio.Protocol):
    """Answers each request of 64 bytes with several writes, or with one writelines of all."""

    def __init__(self, pieces: list[bytes | memoryview], lines: bool = False):
        self.pieces = pieces
        self.lines = lines
        self.pending = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.pending += len(data)
        while self.pending >= 64:
            self.pending -= 64
            if self.lines:
                self.transport.writelines(self.pieces)
            else:
                for piece in self.pieces:
                    self.transport.write(piece)


class Sink(asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        pass


class BufferedSink(asyncio.BufferedProtocol):
    def connection_made(self, transport: Any) -> None:
        self.buffer = bytearray(256 * KIB)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        pass


class Source(asyncio.Protocol):
    """Writes 1 MiB at a time, for as long as the flow control lets it."""

    data: ClassVar = b"x" * MIB
    paused = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.loop = asyncio.get_running_loop()
        self.go_on()

    def go_on(self) -> None:
        if not self.paused and not self.transport.is_closing():
            self.transport.write(self.data)
            self.loop.call_soon(self.go_on)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.go_on()


async def echo_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass  # the client resets connections that it is done with
    writer.close()


async def echo_exact(size: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            writer.write(await reader.readexactly(size))
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        writer.close()


async def send_file(file: IO[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with a file: where the loop sends none, as programs do then, piece by piece."""
    loop = asyncio.get_running_loop()
    try:
        while True:
            await reader.readexactly(64)
            try:
                await loop.sendfile(writer.transport, file)
            except NotImplementedError:
                file.seek(0)
                while piece := file.read(256 * KIB):
                    writer.write(piece)
                    await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        writer.close()


async def serve_file() -> str:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the server has it for good
    file.write(b"x" * MIB)
    file.flush()
    return await serve_streams(functools.partial(send_file, file))


async def serve_protocol(factory: Callable[[], asyncio.BaseProtocol]) -> str:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, "127.0.0.1", 0, backlog=BACKLOG)
    return address_of(server)


async def serve_streams(handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> str:
    return address_of(await asyncio.start_server(handler, "127.0.0.1", 0, backlog=BACKLOG))


def address_of(server: asyncio.Server) -> str:
    keep.append(server)
    return f"tcp:{server.sockets[0].getsockname()[1]}"


# A loop holds its servers and tasks weakly.
keep: list[object] = []


async def serve_sock() -> str:
    loop = asyncio.get_running_loop()
    listening = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    listening.setblocking(False)

    async def serve(connection: socket.socket) -> None:
        with connection:
            try:
                while data := await loop.sock_recv(connection, 256 * KIB):
                    await loop.sock_sendall(connection, data)
            except ConnectionError:
                pass  # see echo_streams

    async def accept() -> None:
        tasks = set()
        while True:
            connection, _ = await loop.sock_accept(listening)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = loop.create_task(serve(connection))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    keep.append(loop.create_task(accept()))
    return f"tcp:{listening.getsockname()[1]}"


# name: what it is called in a sentence, and how a server of it is started for a size.
KINDS: dict[str, tuple[str, Callable[[int], Awaitable[str]]]] = {
    "proto": ("Protocol echo", lambda size: serve_protocol(Echo)),
    "buffered": ("BufferedProtocol echo", lambda size: serve_protocol(BufferedEcho)),
    "streams": ("streams echo with read()", lambda size: serve_streams(echo_streams)),
    "streams_exact": (
        "streams echo with readexactly()",
        lambda size: serve_streams(functools.partial(echo_exact, size)),
    ),
    "sock": ("sock_recv and sock_sendall echo", lambda size: serve_sock()),
}
DEFAULT = """proto_1k_c1 proto_1k_c10 proto_1k_c100 proto_1k_c1000 proto_10k_c10 proto_100k_c10
    buffered_1k_c10 buffered_10k_c10 buffered_100k_c10
    streams_1k_c1 streams_1k_c10 streams_1k_c100 streams_10k_c10 streams_100k_c10 streams_exact_1k_c10
    sock_1k_c1 sock_1k_c10 sock_10k_c10 sock_100k_c10""".split()
QUICK = "proto_1k_c10 proto_1k_c100 proto_100k_c10 buffered_1k_c10 streams_1k_c10 sock_1k_c10".split()


def add_row(
    name: str,
    what: str,
    start: Callable[[], Awaitable[str]],
    mode: Mode,
    request: int,
    reply: int,
    connections: int,
    unit: str = "requests/s",
    default: bool = True,
    quick: bool = False,
) -> None:
    add(
        Served(
            name=name,
            group=GROUP,
            what=what,
            start=start,
            mode=mode,
            request=b"x" * request,
            reply=reply,
            connections=connections,
            unit=unit,
            default=default,
            quick=quick,
        )
    )


def add_echo_rows() -> None:
    for kind, (what, start) in KINDS.items():
        for kib in (1, 10, 64, 100):
            for connections in (1, 10, 100, 1000):
                name = f"{kind}_{kib}k_c{connections}"
                size = kib * KIB
                add_row(
                    name,
                    f"{what}, {kib} KiB, {connections:,} connection{'s' * (connections > 1)}",
                    functools.partial(start, size),
                    "exchange",
                    size,
                    size,
                    connections,
                    default=name in DEFAULT,
                    quick=name in QUICK,
                )


def add_other_rows() -> None:
    two: list[bytes | memoryview] = [b"h" * 128, b"b" * 896]
    eight: list[bytes | memoryview] = [b"x" * 128] * 8
    large = b"b" * (100 * KIB)

    def pieces(what: list[bytes | memoryview], lines: bool = False) -> Callable[[], Awaitable[str]]:
        return lambda: serve_protocol(lambda: Pieces(what, lines))

    add_row("twowrites_c10", "64 bytes answered by writes of 128 and 896 bytes", pieces(two), "exchange", 64, 1024, 10)
    add_row(
        "manywrites_c10",
        "64 bytes answered by 8 writes of 128 bytes",
        pieces(eight),
        "exchange",
        64,
        1024,
        10,
        quick=True,
    )
    add_row(
        "writelines_c10",
        "the same answer with one writelines of 8 pieces",
        pieces(eight, lines=True),
        "exchange",
        64,
        1024,
        10,
    )
    add_row(
        "writelines_100k_c10",
        "64 bytes answered with one writelines of 128 bytes and 100 KiB",
        pieces([two[0], large], lines=True),
        "exchange",
        64,
        128 + len(large),
        10,
    )
    add_row(
        "writeview_100k_c10",
        "64 bytes answered with one write of a memoryview of 100 KiB",
        pieces([memoryview(large)]),
        "exchange",
        64,
        len(large),
        10,
    )
    add_row(
        "churn",
        "connect, one 64-byte echo, close; 10 at a time (Protocol)",
        lambda: serve_protocol(Echo),
        "churn",
        64,
        64,
        10,
        unit="connections/s",
        quick=True,
    )
    add_row(
        "churn_streams",
        "the same with streams",
        lambda: serve_streams(echo_streams),
        "churn",
        64,
        64,
        10,
        unit="connections/s",
    )
    add_row(
        "sendfile_1m",
        "64 bytes answered by loop.sendfile() of 1 MiB, or by read and write where a loop has none",
        serve_file,
        "exchange",
        64,
        MIB,
        1,
    )
    add_row(
        "bulk_recv",
        "the client sends, in writes of 1 MiB, a Protocol discards",
        lambda: serve_protocol(Sink),
        "send",
        MIB,
        0,
        1,
        unit="bytes/s",
    )
    add_row(
        "bulk_recv_buffered",
        "the same, a BufferedProtocol discards",
        lambda: serve_protocol(BufferedSink),
        "send",
        MIB,
        0,
        1,
        unit="bytes/s",
    )
    add_row(
        "bulk_send",
        "the server sends, in writes of 1 MiB with flow control",
        lambda: serve_protocol(Source),
        "receive",
        0,
        0,
        1,
        unit="bytes/s",
        quick=True,
    )


add_echo_rows()
add_other_rows()

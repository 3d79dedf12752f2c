import asyncio
import io
import os
import socket
import ssl
import sys

import pytest

from .conftest import ffloop_only

DATA = os.urandom(3_000_000)
LARGE = 40_000_000


@pytest.fixture
def file(tmp_path):
    (tmp_path / "data").write_bytes(DATA)
    with open(tmp_path / "data", "rb") as file:
        yield file


@pytest.fixture
def large(tmp_path):
    """A file of more bytes than the kernel takes at once, all zero."""
    with open(tmp_path / "large", "w+b") as file:
        file.truncate(LARGE)
        yield file


class Collector(asyncio.Protocol):
    def __init__(self):
        self.data = b""
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.data += data

    def connection_lost(self, exc):
        self.lost.set_result(exc)


async def pair(**options):
    loop = asyncio.get_running_loop()
    made = loop.create_future()

    class Server(Collector):
        def connection_made(self, transport):
            super().connection_made(transport)
            made.set_result(self)

    client_options = {}
    if options:
        client_options = {"ssl": options.pop("client"), "server_hostname": "localhost"}
    server = await loop.create_server(Server, "127.0.0.1", 0, **options)
    address = server.sockets[0].getsockname()
    transport, protocol = await loop.create_connection(Collector, *address, **client_options)
    server.close()
    return transport, protocol, await made


async def finish(*protocols):
    for protocol in protocols:
        protocol.transport.close()
    for protocol in protocols:
        await protocol.lost


async def test_a_file_arrives_whole_between_what_is_written_around_it(file, no_leaks):
    transport, protocol, server = await pair()
    transport.write(b"before" * 100_000)
    assert await asyncio.get_running_loop().sendfile(transport, file) == len(DATA)
    assert file.tell() == len(DATA)
    transport.write(b"after")
    transport.close()
    await server.lost
    assert server.data == b"before" * 100_000 + DATA + b"after"
    await finish(protocol, server)


async def test_a_part_of_a_file_is_sent_and_the_position_stands_behind_it(file):
    loop = asyncio.get_running_loop()
    transport, protocol, server = await pair()
    assert await loop.sendfile(transport, file, 1000, 2_000_000) == 2_000_000
    assert file.tell() == 2_001_000
    assert await loop.sendfile(transport, file, len(DATA) - 10, 100) == 10
    assert await loop.sendfile(transport, file, len(DATA) + 10) == 0
    transport.close()
    await server.lost
    assert server.data == DATA[1000:2_001_000] + DATA[-10:]
    await finish(protocol, server)


@pytest.mark.asyncio(loop_factories=["asyncio", "ffloop"] if sys.version_info >= (3, 15) else ["ffloop"])
async def test_the_position_stands_at_the_offset_when_there_was_nothing_to_send(file):
    transport, protocol, server = await pair()
    file.seek(123)
    assert await asyncio.get_running_loop().sendfile(transport, file, len(DATA)) == 0
    assert file.tell() == len(DATA)
    await finish(protocol, server)


async def test_an_empty_file_sends_nothing(tmp_path):
    transport, protocol, server = await pair()
    with open(tmp_path / "empty", "w+b") as file:
        assert await asyncio.get_running_loop().sendfile(transport, file) == 0
    await finish(protocol, server)


async def test_writing_while_a_file_is_sent_is_refused(large):
    loop = asyncio.get_running_loop()
    transport, protocol, server = await pair()
    server.transport.pause_reading()
    sending = asyncio.create_task(loop.sendfile(transport, large))
    await asyncio.sleep(0.01)
    with pytest.raises(RuntimeError, match="unable to write; sendfile is in progress"):
        transport.write(b"x")
    with pytest.raises(RuntimeError, match=r"unable to write(lines)?; sendfile is in progress"):
        transport.writelines([b"x"])
    with pytest.raises((RuntimeError, KeyError)):  # KeyError is stdlib asyncio's
        await loop.sendfile(transport, large)
    server.transport.resume_reading()
    assert await sending == LARGE
    transport.write(b"x")
    await finish(protocol, server)


# stdlib asyncio forgets the position when it is cancelled.
@ffloop_only
async def test_a_cancelled_sendfile_leaves_a_usable_connection(large):
    transport, protocol, server = await pair()
    server.transport.pause_reading()
    sending = asyncio.create_task(asyncio.get_running_loop().sendfile(transport, large))
    await asyncio.sleep(0.01)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    sent = large.tell()
    assert 0 < sent < LARGE
    transport.write(b"after")
    server.transport.resume_reading()
    transport.close()
    await server.lost
    assert server.data == bytes(sent) + b"after"
    await finish(protocol, server)


@ffloop_only
@pytest.mark.parametrize("leave", ["abort", "close"])
async def test_a_connection_that_is_lost_meanwhile_is_an_error(large, leave):
    # stdlib asyncio waits for ever when this side leaves.
    transport, protocol, server = await pair()
    server.transport.pause_reading()
    sending = asyncio.create_task(asyncio.get_running_loop().sendfile(transport, large))
    await asyncio.sleep(0.01)
    getattr(transport, leave)()
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(sending, 10)
    await finish(protocol, server)


async def test_a_peer_that_vanishes_meanwhile_is_an_error(large):
    transport, protocol, server = await pair()
    server.transport.pause_reading()
    sending = asyncio.create_task(asyncio.get_running_loop().sendfile(transport, large))
    await asyncio.sleep(0.01)
    server.transport.abort()
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(sending, 10)
    await finish(protocol, server)


async def test_a_file_that_is_none_is_copied_or_refused():
    loop = asyncio.get_running_loop()
    transport, protocol, server = await pair()
    assert await loop.sendfile(transport, io.BytesIO(DATA)) == len(DATA)
    with pytest.raises(asyncio.SendfileNotAvailableError):
        await loop.sendfile(transport, io.BytesIO(DATA), fallback=False)
    transport.close()
    await server.lost
    assert server.data == DATA
    await finish(protocol, server)


@pytest.mark.parametrize(
    ("arguments", "error"), [((-1,), ValueError), (("1",), TypeError), ((0, 0), ValueError), ((0, -1), ValueError)]
)
async def test_bad_arguments_are_refused(file, arguments, error):
    transport, protocol, server = await pair()
    with pytest.raises(error):
        await asyncio.get_running_loop().sendfile(transport, file, *arguments)
    transport.write(b"still usable")
    await finish(protocol, server)


async def test_a_closing_transport_is_refused(file):
    transport, protocol, server = await pair()
    transport.close()
    with pytest.raises(RuntimeError, match="Transport is closing"):
        await asyncio.get_running_loop().sendfile(transport, file)
    await finish(protocol, server)


async def test_over_tls_the_file_is_copied(file):
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    transport, protocol, server = await pair(ssl=server_context, client=client_context)
    loop = asyncio.get_running_loop()
    with pytest.raises(RuntimeError, match="fallback is disabled"):
        await loop.sendfile(transport, file, fallback=False)
    assert await loop.sendfile(transport, file, 10) == len(DATA) - 10
    transport.close()
    await server.lost
    assert server.data == DATA[10:]
    await finish(protocol, server)


async def test_sock_sendfile_sends_from_file_to_socket(file, no_leaks):
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        sending = asyncio.create_task(loop.sock_sendfile(left, file, 10, 1_000_000, fallback=False))
        received = b""
        while len(received) < 1_000_000:
            received += await loop.sock_recv(right, 1 << 20)
        assert await sending == 1_000_000
        assert received == DATA[10:1_000_010]
        assert file.tell() == 1_000_010
        with pytest.raises(asyncio.SendfileNotAvailableError):
            await loop.sock_sendfile(left, io.BytesIO(b"x"), fallback=False)
        assert await loop.sock_sendfile(left, io.BytesIO(b"copied")) == 6
        assert await loop.sock_recv(right, 100) == b"copied"


# stdlib asyncio forgets the position when it is cancelled.
@ffloop_only
async def test_a_cancelled_sock_sendfile_leaves_the_socket_to_others(large):
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        sending = asyncio.create_task(loop.sock_sendfile(left, large))
        await asyncio.sleep(0.01)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert not loop.remove_writer(left)
        assert 0 < large.tell() < LARGE

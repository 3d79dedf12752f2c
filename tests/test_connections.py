import asyncio
import errno
import gc
import socket
import sys
import weakref

import pytest

from ffloop.connections import interleave_families

from .conftest import free_port

# What the newest Python's asyncio does is tested on ffloop alone where this Python's does not do it yet.
ffloop_only = pytest.mark.asyncio(loop_factories=["ffloop"])


async def listening():
    async def echo(reader, writer):
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    return await asyncio.start_server(echo, "127.0.0.1", 0)


async def test_streams_connect_and_talk(no_leaks):
    async with await listening() as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()
        await writer.wait_closed()
    await asyncio.sleep(0.01)


async def test_a_connection_can_be_made_on_a_socket_of_ones_own():
    server = await listening()
    sock = socket.create_connection(server.sockets[0].getsockname())
    reader, writer = await asyncio.open_connection(sock=sock)
    writer.write(b"x")
    assert await reader.read(10) == b"x"
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def test_a_local_address_is_used():
    server = await listening()
    port = free_port()
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), local_addr=("127.0.0.1", port))
    assert writer.get_extra_info("sockname") == ("127.0.0.1", port)
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def test_a_local_address_in_use_is_an_error_that_names_it(no_leaks):
    server = await listening()
    address = server.sockets[0].getsockname()
    with pytest.raises(OSError, match="error while attempting to bind on address") as caught:
        await asyncio.open_connection(*address, local_addr=address)
    assert caught.value.errno == errno.EADDRINUSE
    server.close()
    await server.wait_closed()


async def test_a_refused_connection_is_refused_and_leaves_nothing_open(no_leaks):
    with pytest.raises(ConnectionRefusedError, match="Connect call failed"):
        await asyncio.open_connection("127.0.0.1", free_port())


async def test_a_host_that_cannot_be_resolved_is_the_resolvers_error(no_leaks):
    with pytest.raises(socket.gaierror):
        await asyncio.open_connection("host.invalid", 80)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "host and port was not specified and no sock specified"),
        ({"host": "127.0.0.1", "server_hostname": "x"}, ValueError, "server_hostname is only meaningful with ssl"),
        ({"ssl": True}, ValueError, "You must set server_hostname when using ssl without a host"),
        ({"host": "h", "ssl_handshake_timeout": 1}, ValueError, "ssl_handshake_timeout is only meaningful with ssl"),
        ({"host": "h", "ssl_shutdown_timeout": 1}, ValueError, "ssl_shutdown_timeout is only meaningful with ssl"),
    ],
)
async def test_arguments_that_do_not_go_together_are_refused(arguments, error, message):
    loop = asyncio.get_running_loop()
    with pytest.raises(error, match=message):
        await loop.create_connection(asyncio.Protocol, **arguments)


async def test_a_socket_and_an_address_are_refused_together():
    loop = asyncio.get_running_loop()
    with socket.socket() as sock, pytest.raises(ValueError, match="can not be specified at the same time"):
        await loop.create_connection(asyncio.Protocol, "127.0.0.1", 1, sock=sock)


async def test_a_datagram_socket_is_refused():
    loop = asyncio.get_running_loop()
    with socket.socket(type=socket.SOCK_DGRAM) as sock, pytest.raises(ValueError, match="A Stream Socket was expected"):
        await loop.create_connection(asyncio.Protocol, sock=sock)


async def test_a_cancelled_connection_leaves_no_descriptor_behind(no_leaks):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        # The queue is full after these: further connections wait.
        waiting = [asyncio.create_task(asyncio.open_connection(*address)) for _ in range(6)]
        await asyncio.sleep(0.05)
        assert not all(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            if isinstance(result, tuple):
                result[1].close()
                await result[1].wait_closed()
    await asyncio.sleep(0.01)


async def test_a_protocol_factory_that_raises_leaves_no_descriptor_behind():
    server = await listening()
    loop = asyncio.get_running_loop()
    with pytest.raises(ZeroDivisionError):
        await loop.create_connection(lambda: 1 / 0, *server.sockets[0].getsockname())
    server.close()
    await server.wait_closed()


def addresses(*ports):
    async def getaddrinfo(host, port, **kwargs):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]

    return getaddrinfo


@ffloop_only
async def test_the_next_address_is_tried_when_one_fails():
    server = await listening()
    loop = asyncio.get_running_loop()
    loop.getaddrinfo = addresses(free_port(), server.sockets[0].getsockname()[1])
    reader, writer = await asyncio.open_connection("two.addresses", 0)
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


@ffloop_only
@pytest.mark.skipif(sys.implementation.name != "cpython", reason="only CPython counts references")
@pytest.mark.parametrize("delay", [None, 0.02])
async def test_the_error_of_a_failed_connection_does_not_keep_itself_alive(delay):
    class Marker:
        """In a frame that the error's traceback leads to."""

    async def attempt(port):
        marker = Marker()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port, happy_eyeballs_delay=delay)
        return weakref.ref(marker)

    gc.disable()
    try:
        left = await attempt(free_port())
        assert left() is None
    finally:
        gc.enable()


@ffloop_only
async def test_happy_eyeballs_connects_and_closes_the_losers(no_leaks):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(silent.getsockname())
        async with await listening() as server:
            loop = asyncio.get_running_loop()
            loop.getaddrinfo = addresses(silent.getsockname()[1], server.sockets[0].getsockname()[1])
            reader, writer = await asyncio.open_connection("two.addresses", 0, happy_eyeballs_delay=0.02)
            assert writer.get_extra_info("peername") == server.sockets[0].getsockname()
            writer.close()
            await writer.wait_closed()
        for filler in fillers:
            filler.close()
    await asyncio.sleep(0.01)


@ffloop_only
@pytest.mark.parametrize("delay", [None, 0.01])
async def test_all_errors_are_given_as_a_group_in_the_order_of_the_addresses(no_leaks, delay):
    loop = asyncio.get_running_loop()
    ports = [free_port(), free_port()]
    loop.getaddrinfo = addresses(*ports)
    with pytest.raises(ExceptionGroup, match="create_connection failed") as caught:
        await loop.create_connection(asyncio.Protocol, "two.addresses", 0, all_errors=True, happy_eyeballs_delay=delay)
    assert [str(ports[i]) in str(error) for i, error in enumerate(caught.value.exceptions)] == [True, True]
    with pytest.raises(OSError, match="Multiple exceptions: "):
        await loop.create_connection(asyncio.Protocol, "two.addresses", 0, happy_eyeballs_delay=delay)


@ffloop_only
async def test_families_alternate_after_the_first():
    infos = [(4, 1), (4, 2), (4, 3), (6, 1), (6, 2)]
    assert interleave_families(infos, 1) == [(4, 1), (6, 1), (4, 2), (6, 2), (4, 3)]
    assert interleave_families(infos, 2) == [(4, 1), (4, 2), (6, 1), (4, 3), (6, 2)]
    assert interleave_families(infos, 9) == infos


async def test_an_accepted_socket_becomes_a_transport(no_leaks):
    left, right = socket.socketpair()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, left)
    transport.write(b"x")
    transport.close()
    await asyncio.sleep(0.01)
    assert right.recv(10) == b"x"
    right.close()


async def test_reading_a_file_to_a_transport_falls_back_where_it_must(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"content" * 1000)
    left, right = socket.socketpair()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, left)
    with file.open("rb") as source:
        assert await loop.sendfile(transport, source, fallback=True) == 7000
    transport.close()
    right.setblocking(False)
    received = b""
    while len(received) < 7000:
        received += await loop.sock_recv(right, 10000)
    assert received == b"content" * 1000
    right.close()


@pytest.mark.parametrize("way", ["create_connection", "sock_connect"])
async def test_a_server_in_the_same_loop_has_accepted_when_connecting_returns(way):
    loop = asyncio.get_running_loop()
    for _ in range(20):
        made = loop.create_future()
        server = await loop.create_server(lambda made=made: Told(made), "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        if way == "create_connection":
            transport, _ = await loop.create_connection(asyncio.Protocol, *address)
            assert made.done()
        else:
            transport = socket.socket()
            transport.setblocking(False)
            await loop.sock_connect(transport, address)
        server.close()
        async with asyncio.timeout(10):
            (await made).close()
        transport.close()


class Told(asyncio.Protocol):
    def __init__(self, made):
        self.made = made

    def connection_made(self, transport):
        self.made.set_result(transport)

import asyncio
import contextvars
import errno
import logging
import resource
import socket
import sys
import warnings

import pytest

from .conftest import collect, ffloop_only


async def exchange(address, data=b"hello"):
    reader, writer = await asyncio.open_connection(*address)
    writer.write(data)
    received = await reader.readexactly(len(data))
    writer.close()
    await writer.wait_closed()
    return received


async def echo(reader, writer):
    try:
        while data := await reader.read(1000):
            writer.write(data)
    finally:
        writer.close()


async def test_a_server_serves_many_connections_at_once(no_leaks):
    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        address = server.sockets[0].getsockname()
        answers = await asyncio.gather(*(exchange(address, b"%d" % number) for number in range(200)))
    assert answers == [b"%d" % number for number in range(200)]
    await asyncio.sleep(0.02)


async def test_many_connections_after_single_ones_are_all_served(no_leaks):
    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        address = server.sockets[0].getsockname()
        for number in range(40):
            assert await exchange(address, b"%d" % number) == b"%d" % number
        for _ in range(2):
            answers = await asyncio.gather(*(exchange(address, b"%d" % number) for number in range(90)))
            assert answers == [b"%d" % number for number in range(90)]
    await asyncio.sleep(0.02)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::"])
async def test_a_connection_knows_both_its_names_as_the_socket_does(no_leaks, host):
    seen = asyncio.get_running_loop().create_future()

    class Asked(asyncio.Protocol):
        def connection_made(self, transport):
            sock = transport.get_extra_info("socket")
            facts = (transport.get_extra_info("sockname"), transport.get_extra_info("peername"))
            seen.set_result((facts, (sock.getsockname(), sock.getpeername()), sock.gettimeout()))

    async with await asyncio.get_running_loop().create_server(Asked, host, 0) as server:
        listening = server.sockets[0].getsockname()
        local = "127.0.0.1" if host in ("127.0.0.1", "0.0.0.0") else "::1"
        with socket.create_connection((local, listening[1])) as client:
            facts, names, timeout = await asyncio.wait_for(seen, 10)
            assert facts == names == (client.getpeername(), client.getsockname())
            assert timeout == 0
    await asyncio.sleep(0.02)


@ffloop_only  # stdlib asyncio lets such a connection wait for ever
async def test_a_factory_that_gives_no_protocol_costs_its_connection_and_no_other(no_leaks):
    class Nameless(asyncio.Protocol):
        @property
        def __class__(self):
            raise ValueError("it does not say what it is")

    useless = [None, object(), Nameless()]

    def factory():
        return useless.pop() if useless else asyncio.StreamReaderProtocol(asyncio.StreamReader(), echo)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        async with await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()
            for _ in range(3):
                with socket.create_connection(address, timeout=10) as client:
                    await asyncio.sleep(0.05)
                    collect()
                    assert client.recv(1) == b""
            assert await exchange(address) == b"hello"
    assert {str(warning.message).partition(" <")[0] for warning in caught} == {"unclosed transport"}
    await asyncio.sleep(0.02)


async def test_a_listening_socket_may_accept_in_its_own_way(no_leaks):
    class Greeting(socket.socket):
        def accept(self):
            connection, address = super().accept()
            connection.send(b"accepted ")
            return connection, ("somebody", 1)

    names = []

    async def tell_name(reader, writer):
        names.append(writer.get_extra_info("peername"))
        await echo(reader, writer)

    sock = Greeting()
    sock.bind(("127.0.0.1", 0))
    async with await asyncio.start_server(tell_name, sock=sock) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello")
        assert await reader.readexactly(14) == b"accepted hello"
        writer.close()
        await writer.wait_closed()
    await asyncio.sleep(0.02)
    assert names == [("somebody", 1)]


@pytest.mark.asyncio(loop_factories=["asyncio", "ffloop"] if sys.version_info >= (3, 15) else ["ffloop"])
async def test_each_connection_has_a_copy_of_the_context_that_its_server_was_made_in():
    variable = contextvars.ContextVar("variable", default="unset")

    async def tell(reader, writer):
        writer.write(variable.get().encode())
        variable.set("another connection")
        writer.close()

    variable.set("creator")
    async with await asyncio.start_server(tell, "127.0.0.1", 0) as server:
        variable.set("later")
        for _ in range(2):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            assert await reader.read() == b"creator"
            writer.close()
            await writer.wait_closed()


async def test_a_server_listens_on_every_host_and_shows_its_sockets():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, ["127.0.0.1", "127.0.0.2"], 0)
    assert isinstance(server, asyncio.AbstractServer)
    assert isinstance(server.sockets, tuple)
    assert {sock.getsockname()[0] for sock in server.sockets} == {"127.0.0.1", "127.0.0.2"}
    assert server.is_serving()
    assert server.get_loop() is loop
    server.close()
    assert server.sockets == ()
    assert not server.is_serving()
    await server.wait_closed()


async def test_a_server_looks_the_same_whoever_made_it():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    assert repr(server).startswith("<Server sockets=")
    server.close()
    assert repr(server).startswith("<Server sockets=")
    await server.wait_closed()


async def test_a_server_starts_when_it_is_told_to():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, start_serving=False)
    assert not server.is_serving()
    await server.start_serving()
    await server.start_serving()
    assert server.is_serving()
    server.close()
    await server.wait_closed()


async def test_a_closed_server_does_not_start():
    server = await asyncio.start_server(echo, "127.0.0.1", 0, start_serving=False)
    server.close()
    with pytest.raises(TypeError):
        await server.start_serving()


async def test_serve_forever_ends_when_it_is_cancelled_and_closes():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    task = asyncio.create_task(server.serve_forever())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="already being awaited"):
        await server.serve_forever()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(RuntimeError, match="is closed"):
        await server.serve_forever()


async def test_a_port_in_use_is_an_error_that_names_the_address(no_leaks):
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(OSError, match="error while attempting to bind on address") as caught:
            await loop.create_server(asyncio.Protocol, *taken.getsockname())
        assert caught.value.errno == errno.EADDRINUSE


async def test_reuse_port_lets_two_servers_share_a_port():
    loop = asyncio.get_running_loop()
    first = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, reuse_port=True)
    second = await loop.create_server(asyncio.Protocol, *first.sockets[0].getsockname(), reuse_port=True)
    for server in (first, second):
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "Neither host/port nor sock were specified"),
        ({"host": "127.0.0.1", "ssl": True}, TypeError, "ssl argument must be an SSLContext or None"),
        ({"host": "h", "ssl_handshake_timeout": 1}, ValueError, "ssl_handshake_timeout is only meaningful with ssl"),
    ],
)
async def test_arguments_that_do_not_go_together_are_refused(arguments, error, message):
    loop = asyncio.get_running_loop()
    with pytest.raises(error, match=message):
        await loop.create_server(asyncio.Protocol, **arguments)


async def test_a_protocol_factory_that_raises_costs_its_connection_only(no_leaks):
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    told = []
    loop.set_exception_handler(lambda loop, context: told.append(context["message"]))
    calls = []

    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.transport.write(data)

    def factory():
        calls.append(1)
        if len(calls) == 1:
            raise ValueError
        return Echo()

    server = await loop.create_server(factory, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    _, writer = await asyncio.open_connection(*address)
    assert await exchange(address) == b"hello"
    assert told == ["Error on transport creation for incoming connection"]
    writer.close()
    server.close()
    with warnings.catch_warnings():
        # asyncio leaves that connection's socket to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        await asyncio.sleep(0.02)
        told.clear()
        loop.set_debug(False)


async def test_out_of_descriptors_is_logged_and_serving_goes_on(monkeypatch, caplog):
    monkeypatch.setattr(asyncio.constants, "ACCEPT_RETRY_DELAY", 0.05)
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    clients = [socket.socket() for _ in range(2)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The lowest free number is the first that is not allowed.
    with socket.socket() as probe:
        lowest = probe.fileno()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        with caplog.at_level(logging.ERROR, "asyncio"):
            for client in clients:
                client.setblocking(False)
                client.connect_ex(address)
            await asyncio.sleep(0.02)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "socket.accept() out of system resource" in caplog.text
    loop = asyncio.get_running_loop()
    for client in clients:
        await loop.sock_sendall(client, b"now")
        async with asyncio.timeout(10):
            assert await loop.sock_recv(client, 10) == b"now"
        client.close()
    server.close()
    await asyncio.sleep(0.02)


@ffloop_only
async def test_wait_closed_waits_for_the_last_connection():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await asyncio.sleep(0.01)
    waiting = asyncio.create_task(server.wait_closed())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    server.close()
    await asyncio.sleep(0.01)
    assert not waiting.done()
    writer.close()
    await writer.wait_closed()
    async with asyncio.timeout(10):
        await waiting
        await server.wait_closed()


@ffloop_only
@pytest.mark.parametrize("how", ["close_clients", "abort_clients"])
async def test_clients_can_be_closed_with_the_server(how):
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    connections = [await asyncio.open_connection(*server.sockets[0].getsockname()) for _ in range(3)]
    await asyncio.sleep(0.01)
    server.close()
    getattr(server, how)()
    async with asyncio.timeout(10):
        await server.wait_closed()
        for reader, writer in connections:
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()


@ffloop_only
async def test_the_clients_of_another_server_stay_connected():
    first = await asyncio.start_server(echo, "127.0.0.1", 0)
    second = await asyncio.start_server(echo, "127.0.0.1", 0)
    closed, closed_writer = await asyncio.open_connection(*first.sockets[0].getsockname())
    kept, kept_writer = await asyncio.open_connection(*second.sockets[0].getsockname())
    await asyncio.sleep(0.01)
    first.close()
    first.abort_clients()
    async with asyncio.timeout(10):
        await first.wait_closed()
        assert await closed.read() == b""
        kept_writer.write(b"x")
        assert await kept.readexactly(1) == b"x"
        second.close()
        kept_writer.close()
        await second.wait_closed()
    closed_writer.close()


@ffloop_only
async def test_a_server_waits_for_no_connection_that_another_thread_has_forgotten():
    transports = []

    class Silent(asyncio.Protocol):
        def connection_made(self, transport):
            transport.pause_reading()  # the loop keeps one that reads
            transports.append(transport)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Silent, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()):
        while not transports:
            await asyncio.sleep(0.001)
        server.close()
        waiting = asyncio.create_task(server.wait_closed())
        await asyncio.sleep(0.001)
        assert not waiting.done()
        with pytest.warns(ResourceWarning, match="unclosed transport"):
            await asyncio.to_thread(lambda: (transports.clear(), collect()))
        async with asyncio.timeout(10):
            await waiting


@ffloop_only
@pytest.mark.parametrize("action", ["ignore", "error"])
async def test_a_server_waits_for_no_connection_that_is_forgotten_whatever_becomes_of_the_warning(action):
    transports = []

    class Silent(asyncio.Protocol):
        def connection_made(self, transport):
            transport.pause_reading()
            transports.append(transport)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Silent, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()), warnings.catch_warnings():
        warnings.simplefilter(action)
        while not transports:
            await asyncio.sleep(0.001)
        server.close()
        unraisable, sys.unraisablehook = sys.unraisablehook, lambda told: None
        try:
            transports.clear()
            collect()
        finally:
            sys.unraisablehook = unraisable
        async with asyncio.timeout(10):
            await server.wait_closed()


@ffloop_only  # asyncio counts such a connection for ever, on 3.12
@pytest.mark.filterwarnings("ignore:unclosed transport")
async def test_a_factory_that_makes_no_protocol_costs_the_connection_and_nothing_else(no_leaks):
    server = await asyncio.get_running_loop().create_server(lambda: None, "127.0.0.1", 0)
    for _ in range(3):
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            client.setblocking(False)
            async with asyncio.timeout(10):
                while True:
                    collect()
                    try:
                        assert client.recv(1) == b""
                        break
                    except BlockingIOError:
                        await asyncio.sleep(0.001)
    server.close()
    async with asyncio.timeout(10):
        await server.wait_closed()


@ffloop_only
async def test_a_cancelled_serve_forever_waits_for_no_client_that_says_nothing():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    task = asyncio.create_task(server.serve_forever())
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"x")
    assert await reader.read(1) == b"x"
    task.cancel()
    async with asyncio.timeout(10):
        await asyncio.wait([task])
        assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


@ffloop_only
async def test_keep_alive_is_set_on_the_listening_socket():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, keep_alive=True)
    assert server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    server.close()
    await server.wait_closed()


@ffloop_only
async def test_the_peers_name_is_known_even_when_the_peer_has_gone():
    import struct

    names = []

    class Looks(asyncio.Protocol):
        def connection_made(self, transport):
            names.append(transport.get_extra_info("peername"))

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Looks, "127.0.0.1", 0)
    client = socket.create_connection(server.sockets[0].getsockname())
    expected = client.getsockname()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    while not names:
        await asyncio.sleep(0.001)
    assert names == [expected]
    server.close()
    await server.wait_closed()

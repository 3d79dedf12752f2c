import asyncio
import contextlib
import contextvars
import errno
import gc
import logging
import os
import resource
import socket
import sys
import weakref

import pytest

import ffloop
from ffloop import connections, uv
from ffloop.connections import interleave_families
from ffloop.speed import accelerator

from .conftest import ffloop_only, free_port, open_descriptors

# What the newest Python's asyncio does is tested on ffloop alone where this Python's does not do it yet.


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


@pytest.fixture(params=["looked up", "a program's own"])
def addresses(request, monkeypatch):
    """Makes every name one of 127.0.0.1 with each of these ports."""

    def found(ports):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]

    def make(*ports):
        loop = asyncio.get_running_loop()

        async def getaddrinfo(host, port, **kwargs):
            return found(ports)

        def look_up(queue, callback, *args):
            loop.call_soon(callback, found(ports))

        if request.param == "looked up":
            monkeypatch.setattr(uv, "getaddrinfo", look_up)
        else:
            loop.getaddrinfo = getaddrinfo

    return make


@ffloop_only
async def test_the_next_address_is_tried_when_one_fails(addresses, no_leaks):
    server = await listening()
    addresses(free_port(), server.sockets[0].getsockname()[1])
    reader, writer = await asyncio.open_connection("two.addresses", 0)
    assert writer.get_extra_info("peername") == server.sockets[0].getsockname()
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


@ffloop_only
@pytest.mark.skipif(sys.implementation.name != "cpython", reason="only CPython counts references")
@pytest.mark.parametrize("delay", [None, 0.02])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_the_error_of_a_failed_connection_does_not_keep_itself_alive(delay, host):
    class Marker:
        """In a frame that the error's traceback leads to."""

    async def attempt(port):
        marker = Marker()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, port, family=socket.AF_INET, happy_eyeballs_delay=delay)
        return weakref.ref(marker)

    gc.disable()
    try:
        left = await attempt(free_port())
        assert left() is None
    finally:
        gc.enable()


@ffloop_only
async def test_happy_eyeballs_connects_and_closes_the_losers(addresses, no_leaks):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(silent.getsockname())
        async with await listening() as server:
            addresses(silent.getsockname()[1], server.sockets[0].getsockname()[1])
            reader, writer = await asyncio.open_connection("two.addresses", 0, happy_eyeballs_delay=0.02)
            assert writer.get_extra_info("peername") == server.sockets[0].getsockname()
            writer.close()
            await writer.wait_closed()
        for filler in fillers:
            filler.close()
    await asyncio.sleep(0.01)


@ffloop_only
@pytest.mark.parametrize("delay", [None, 0.01])
async def test_all_errors_are_given_as_a_group_in_the_order_of_the_addresses(addresses, no_leaks, delay):
    loop = asyncio.get_running_loop()
    ports = [free_port(), free_port()]
    addresses(*ports)
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


# To the address of a literal, which is a shorter way in ffloop


def has_ipv6():
    with socket.socket(socket.AF_INET6) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            return False
    return True


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::0001"])
async def test_a_connection_has_its_names_and_its_socket(no_leaks, host):
    if ":" in host and not has_ipv6():
        pytest.skip("no IPv6 here")
    loop = asyncio.get_running_loop()
    made = loop.create_future()
    server = await loop.create_server(lambda: Told(made), host, 0)
    port = server.sockets[0].getsockname()[1]
    transport, _ = await loop.create_connection(asyncio.Protocol, host, port)
    accepted = await made
    sock = transport.get_extra_info("socket")
    assert transport.get_extra_info("peername") == sock.getpeername() == accepted.get_extra_info("sockname")
    assert transport.get_extra_info("sockname") == sock.getsockname() == accepted.get_extra_info("peername")
    assert sock.family == (socket.AF_INET6 if ":" in host else socket.AF_INET)
    assert (sock.type, sock.proto) == (socket.SOCK_STREAM, socket.IPPROTO_TCP)
    assert not os.get_blocking(sock.fileno())
    assert not os.get_inheritable(sock.fileno())
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    transport.close()
    accepted.close()
    server.close()
    await server.wait_closed()


async def test_the_peers_name_is_whom_it_has_reached_and_not_whom_it_asked_for():
    server = await listening()
    port = server.sockets[0].getsockname()[1]
    _, writer = await asyncio.open_connection("0.0.0.0", port)
    assert writer.get_extra_info("peername") == ("127.0.0.1", port)
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def test_what_connection_made_schedules_runs_before_connecting_returns():
    loop = asyncio.get_running_loop()
    log = []

    class Client(asyncio.Protocol):
        def __init__(self):
            log.append(("made", asyncio.current_task() is task))

        def connection_made(self, transport):
            log.append(("connected", asyncio.current_task()))
            loop.call_soon(log.append, "soon")
            self.task = loop.create_task(later())

    async def later():
        log.append("task")

    async def connect():
        transport, _ = await loop.create_connection(Client, *server.sockets[0].getsockname())
        log.append("returned")
        transport.close()

    server = await listening()
    task = loop.create_task(connect())
    await task
    assert log == [("made", True), ("connected", None), "soon", "task", "returned"]
    server.close()
    await server.wait_closed()


async def test_both_ends_in_one_loop_are_told_in_the_order_that_asyncio_has(no_leaks):
    loop = asyncio.get_running_loop()
    log = []

    class Named(asyncio.Protocol):
        def __init__(self, name):
            self.name = name
            log.append(f"{name} made")

        def connection_made(self, transport):
            self.transport = transport
            log.append(f"{self.name} connected")

        def connection_lost(self, exc):
            self.transport.close()

    server = await loop.create_server(lambda: Named("server"), "127.0.0.1", 0)
    transport, _ = await loop.create_connection(lambda: Named("client"), *server.sockets[0].getsockname())
    assert log == ["server made", "client made", "server connected", "client connected"]
    transport.close()
    server.close()
    await server.wait_closed()
    await asyncio.sleep(0.01)


async def test_the_factory_sets_what_connection_made_sees_as_it_does_in_asyncio(no_leaks):
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []

    class Client(asyncio.Protocol):
        def __init__(self):
            variable.set("factory")

        def connection_made(self, transport):
            seen.append(variable.get())
            variable.set("connected")

        def connection_lost(self, exc):
            seen.append(variable.get())

    async def connect():
        variable.set("task")
        transport, _ = await loop.create_connection(Client, *server.sockets[0].getsockname())
        seen.append(variable.get())
        transport.close()
        await asyncio.sleep(0.01)

    loop = asyncio.get_running_loop()
    server = await listening()
    await loop.create_task(connect())
    assert seen[:2] == ["task" if sys.version_info >= (3, 15) else "factory", "factory"]
    if isinstance(loop, ffloop.Loop):  # one context for all callbacks, as on the newest version
        assert seen[2] == "connected"
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("turns", range(7))
async def test_whoever_is_cancelled_on_the_way_leaves_no_descriptor_behind(no_leaks, turns):
    loop = asyncio.get_running_loop()
    told = []

    class Client(asyncio.Protocol):
        def connection_made(self, transport):
            told.append("made")

        def connection_lost(self, exc):
            told.append(exc)

    async with await listening() as server:
        task = loop.create_task(loop.create_connection(Client, *server.sockets[0].getsockname()))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            assert told == ["made"]
            task.result()[0].close()
        await asyncio.sleep(0.01)
        assert told in ([], ["made", None])


async def test_a_coroutine_that_is_dropped_on_the_way_leaves_no_descriptor_behind(no_leaks):
    loop = asyncio.get_running_loop()
    async with await listening() as server:
        connecting = loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())
        connecting.send(None)
        connecting.close()


async def test_a_factory_that_raises_leaves_nothing_open(no_leaks):
    loop = asyncio.get_running_loop()
    if sys.implementation.name == "pypy" and not isinstance(loop, ffloop.Loop):
        pytest.skip("asyncio leaves the socket to the garbage collector")
    async with await listening() as server:
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await loop.create_connection(lambda: 1 / 0, *server.sockets[0].getsockname())
    await asyncio.sleep(0.01)


async def test_a_factory_that_has_none_left_raises_what_a_coroutine_may_raise(no_leaks):
    loop = asyncio.get_running_loop()
    if sys.implementation.name == "pypy" and not isinstance(loop, ffloop.Loop):
        pytest.skip("asyncio leaves the socket to the garbage collector")
    async with await listening() as server:
        # Whoever awaits a StopIteration takes it for a result.
        with pytest.raises(RuntimeError, match="StopIteration") as caught:
            await loop.create_connection(iter([]).__next__, *server.sockets[0].getsockname())
        assert isinstance(caught.value.__cause__, StopIteration)
        del caught  # its traceback leads to the socket that asyncio leaves open
    await asyncio.sleep(0.01)


@pytest.mark.parametrize("way", ["send", "throw"])
@pytest.mark.parametrize("when", ["from the factory", "afterwards"])
async def test_whoever_goes_on_with_what_is_awaited_in_the_midst_or_at_the_end_takes_nothing_away(no_leaks, way, when):
    loop = asyncio.get_running_loop()
    opened = []

    def go_on():
        with pytest.raises((RuntimeError, ValueError), match="already"):
            getattr(awaited, way)(None if way == "send" else ZeroDivisionError())
        opened.append(os.open(os.devnull, os.O_RDONLY))  # has the number of what was closed

    def factory():
        if when == "from the factory":
            go_on()
        return asyncio.Protocol()

    async with await listening() as server:
        connecting = loop.create_connection(factory, *server.sockets[0].getsockname())
        task = loop.create_task(connecting)
        await asyncio.sleep(0)
        awaited = connecting.cr_await
        transport, _ = await task
        if when == "afterwards":
            go_on()
        assert not transport.is_closing()
        assert transport.get_extra_info("socket").fileno() != opened[0]
        transport.close()
        await asyncio.sleep(0.01)
        os.close(opened[0])  # nobody else has


@ffloop_only
async def test_a_protocol_that_is_taken_away_as_it_is_told_is_missed():
    loop = asyncio.get_running_loop()
    transports = []

    class Client(asyncio.Protocol):
        @property
        def connection_made(self):
            for known in list(loop._transports.values()):
                transport = known()
                if getattr(transport, "_protocol", None) is self:
                    transports.append(transport)
                    del transport._protocol
            return lambda transport: None

    async with await listening() as server:
        with pytest.raises(AttributeError):
            await loop.create_connection(Client, *server.sockets[0].getsockname())
        for transport in transports:
            transport.set_protocol(asyncio.Protocol())  # which is to hear of the end
            transport.abort()
        await asyncio.sleep(0.01)


@contextlib.contextmanager
def full_queue():
    """A listening socket, with so many connections waiting that the next one has to."""
    with socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(2):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        yield full


@ffloop_only
async def test_the_descriptor_is_open_until_nobody_waits_for_its_connection(no_leaks, monkeypatch):
    loop = asyncio.get_running_loop()
    until_named = loop._until_named
    closed = []

    async def watched(fd, info):
        try:
            return await until_named(fd, info)
        finally:
            os.fstat(fd)
            closed.append(fd)

    async def misnamed(fd, info):
        return [None]

    with full_queue() as full:
        address = full.getsockname()
        info = (socket.AF_INET, socket.SOCK_STREAM, 0, "", address)
        monkeypatch.setattr(loop, "_until_named", watched)
        if connections.Connecting is not None:
            connecting = connections.Connecting(loop, info, asyncio.Protocol)
            connecting.send(None)
            del connecting  # nobody has closed it
            assert len(closed) == 1
            closed.clear()
        connecting = loop.create_connection(asyncio.Protocol, *address)
        connecting.send(None)
        connecting.close()
        assert len(closed) == 1
        monkeypatch.setattr(loop, "_until_named", misnamed)
        with pytest.raises((TypeError, ValueError)):
            await loop.create_connection(asyncio.Protocol, *address)
    await asyncio.sleep(0.01)


async def test_a_connection_that_has_to_wait_is_made_at_last(no_leaks):
    loop = asyncio.get_running_loop()
    with full_queue() as full:
        address = full.getsockname()
        connecting = loop.create_task(loop.create_connection(asyncio.Protocol, *address))
        await asyncio.sleep(0.05)
        assert not connecting.done()
        full.settimeout(10)
        accepted = []
        while not connecting.done():
            accepted.append(await loop.run_in_executor(None, full.accept))
            await asyncio.wait([connecting], timeout=0.05)
        transport, _ = await connecting
        assert transport.get_extra_info("peername") == address
        assert transport.get_extra_info("sockname") == transport.get_extra_info("socket").getsockname()
        transport.close()
        for connection, _ in accepted:
            connection.close()
    await asyncio.sleep(0.01)


@ffloop_only
async def test_all_errors_are_a_group_for_a_single_address_too(no_leaks):
    loop = asyncio.get_running_loop()
    with pytest.raises(ExceptionGroup, match="create_connection failed") as caught:
        await loop.create_connection(asyncio.Protocol, "127.0.0.1", free_port(), all_errors=True)
    assert [type(error) for error in caught.value.exceptions] == [ConnectionRefusedError]
    assert repr(caught.value).startswith("ExceptionGroup('create_connection failed', [ConnectionRefusedError(")


@pytest.mark.parametrize("port", [-1, 65536])
async def test_a_port_that_is_none_is_refused(no_leaks, port):
    with pytest.raises(OverflowError, match="port must be 0-65535"):
        await asyncio.get_running_loop().create_connection(asyncio.Protocol, "127.0.0.1", port)


async def test_without_descriptors_the_systems_error_is_raised(no_leaks):
    loop = asyncio.get_running_loop()
    server = await listening()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(OSError, match="Too many open files") as caught:
            await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == errno.EMFILE
    server.close()
    await server.wait_closed()


async def test_in_debug_mode_a_connection_is_logged(caplog):
    loop = asyncio.get_running_loop()
    server = await listening()
    host, port = server.sockets[0].getsockname()
    loop.set_debug(True)
    with caplog.at_level(logging.DEBUG, "asyncio"):
        transport, _ = await loop.create_connection(asyncio.Protocol, host, port)
    loop.set_debug(False)
    lines = [line for line in caplog.messages if f" connected to 127.0.0.1:{port}: (<" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"<asyncio.TransportSocket fd={transport.get_extra_info('socket').fileno()}, ")
    transport.close()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    "name",
    ["getaddrinfo", "_ensure_resolved", "sock_connect", "_create_connection_transport", "_make_socket_transport"],
)
@pytest.mark.parametrize("where", ["loop", "class", "subclass"])
def test_whoever_replaces_a_part_of_connecting_is_asked(loop, monkeypatch, name, where):
    cls = type(loop)
    own = getattr(cls, name)
    asked = []

    def theirs(self, *args, **kwargs):
        asked.append(name)
        return own(self, *args, **kwargs)

    if where == "loop":
        monkeypatch.setattr(loop, name, lambda *args, **kwargs: theirs(loop, *args, **kwargs), raising=False)
    elif where == "class":
        monkeypatch.setattr(cls, name, theirs)
    else:
        subclass = type("Theirs", (cls,), {name: theirs})
        loop.close()
        loop = subclass()

    async def main():
        server = await listening()
        host, port = server.sockets[0].getsockname()
        if name == "getaddrinfo":
            host = "localhost"
        asked.clear()
        transport, _ = await loop.create_connection(asyncio.Protocol, host, port, family=socket.AF_INET)
        assert asked[:1] == [name]
        await asyncio.sleep(0.01)
        # The connection has two ends here, and both are transports.
        assert asked.count("_make_socket_transport") == (2 if name == "_make_socket_transport" else 0)
        transport.close()
        server.close()

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.mark.parametrize("what", ["class", "connect"])
async def test_whoever_replaces_the_socket_module_s_parts_is_asked(monkeypatch, what):
    loop = asyncio.get_running_loop()
    server = await listening()
    asked = []

    class Theirs(socket.socket):
        def connect(self, address):
            asked.append(address)
            return super().connect(address)

    def connect(self, address):
        asked.append(address)
        return real(self, address)

    real = socket.SocketType.connect
    if what == "class":
        monkeypatch.setattr(socket, "socket", Theirs)
    else:
        monkeypatch.setattr(socket.socket, "connect", connect, raising=False)
    address = server.sockets[0].getsockname()
    transport, _ = await loop.create_connection(asyncio.Protocol, *address)
    monkeypatch.undo()
    assert asked == [address]
    transport.close()
    server.close()
    await server.wait_closed()


@ffloop_only
async def test_an_interrupt_while_a_socket_is_taken_over_leaves_its_descriptor_one_owner(monkeypatch, no_leaks):
    """For ffloop alone: a signal's handler may raise right after the call that has taken the descriptor over."""

    class Interrupted(BaseException):
        pass

    def interrupted(*args):
        real(*args)
        raise Interrupted

    real = connections.Tcp
    sock, peer = socket.socketpair()
    with monkeypatch.context() as patches, peer:
        patches.setattr(connections, "Tcp", interrupted)
        with pytest.raises(Interrupted):
            await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=sock)
        assert sock.fileno() == -1
        peer.settimeout(10)
        assert peer.recv(1) == b""


@pytest.mark.filterwarnings("ignore:unclosed transport")
@pytest.mark.parametrize("moment", ["connect", "adopt"])
def test_an_interrupt_while_a_connection_is_made_loses_no_descriptor_and_closes_none_twice(moment, monkeypatch):
    """For ffloop alone: a signal's handler may raise right after a call that has made, or taken over, a descriptor."""

    class Interrupted(BaseException):
        pass

    if moment == "connect":
        owner, name = connections, "connect"
    elif hasattr(accelerator, "connect"):
        owner, name = ffloop.Loop, "_adopt"
    else:
        owner, name = connections, "Tcp"
    real = getattr(owner, name)

    def interrupted(*args):
        real(*args)
        raise Interrupted

    async def main():
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        with monkeypatch.context() as patches:
            patches.setattr(owner, name, interrupted)
            with pytest.raises(Interrupted):
                # Not all in one call of C, in which there is no such moment.
                await asyncio.open_connection(*address, all_errors=True)
        await asyncio.sleep(0.01)
        handles = ffloop.metrics().handles
        with socket.socket() as other:  # has the number by now
            await asyncio.sleep(0.01)
            assert other.getsockname() is not None
        assert ffloop.metrics().handles == handles
        server.close()

    before = len(open_descriptors())
    ffloop.run(main())
    assert len(open_descriptors()) == before

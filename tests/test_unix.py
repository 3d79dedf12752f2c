import asyncio
import gc
import os
import pathlib
import socket
import ssl
import stat
import tempfile

import pytest

from .conftest import ffloop_only


@pytest.fixture
def folder():
    # Not pytest's: the path of a Unix socket may have a hundred bytes.
    with tempfile.TemporaryDirectory() as folder:
        yield folder


async def echo(reader, writer):
    while data := await reader.read(10_000):
        writer.write(data)
    writer.close()


async def check(path, **options):
    reader, writer = await asyncio.open_unix_connection(path, **options)
    writer.write(b"x" * 100_000)

    assert await reader.readexactly(100_000) == b"x" * 100_000
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("kind", [str, pathlib.Path, os.fsencode])
async def test_a_path_can_be_text_a_path_object_or_bytes(folder, kind, no_leaks):
    path = kind(os.path.join(folder, "socket"))
    server = await asyncio.start_unix_server(echo, path)
    await check(path)
    name = server.sockets[0].getsockname()
    assert os.fsencode(name) == os.fsencode(path)
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("kind", [str, bytes])
async def test_abstract_names_have_no_file(kind, no_leaks):
    # As a client too, which uvloop cannot.
    name = f"\0ffloop-test-{os.getpid()}"
    name = name if kind is str else name.encode()
    server = await asyncio.start_unix_server(echo, name)
    await check(name)
    server.close()
    await server.wait_closed()


async def test_tls_works_over_them(folder):
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    path = os.path.join(folder, "socket")
    server = await asyncio.start_unix_server(echo, path, ssl=server_context)
    await check(path, ssl=client_context, server_hostname="localhost")
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    ("name", "client_name"),
    [
        ("{folder}/socket", ""),
        ("{folder}/socket", "{folder}/client"),
        ("{folder}/s\udcffcket", ""),
        ("{folder}/s{padding}", "{folder}/c{padding}"),  # as long as can be
        ("\0ffloop-test-{process}", "\0ffloop-test-client-{process}"),
        ("\0ffloop-{process}\0with zeros\0", ""),
    ],
)
async def test_both_ends_tell_their_names(folder, no_leaks, name, client_name):
    loop = asyncio.get_running_loop()
    padding = "x" * (105 - len(folder))
    name, client_name = (
        text.format(folder=folder, process=os.getpid(), padding=padding) for text in (name, client_name)
    )
    made = loop.create_future()

    class Server(asyncio.Protocol):
        def connection_made(self, transport):
            made.set_result(transport)

    server = await loop.create_unix_server(Server, name)
    with socket.socket(socket.AF_UNIX) as client:
        if client_name:
            client.bind(client_name)
        client.connect(name)
        accepted = await asyncio.wait_for(made, 10)
        assert accepted.get_extra_info("sockname") == client.getpeername()
        assert accepted.get_extra_info("peername") == client.getsockname()
        accepted.close()
    made = loop.create_future()
    transport, _ = await loop.create_unix_connection(asyncio.Protocol, name)
    accepted = await asyncio.wait_for(made, 10)
    sock = transport.get_extra_info("socket")
    assert (sock.family, sock.type, sock.gettimeout()) == (socket.AF_UNIX, socket.SOCK_STREAM, 0)
    assert transport.get_extra_info("peername") == sock.getpeername() == accepted.get_extra_info("sockname")
    assert transport.get_extra_info("sockname") == "" == accepted.get_extra_info("peername")
    transport.close()
    accepted.close()
    await asyncio.sleep(0.01)
    server.close()
    await server.wait_closed()


async def test_a_socket_that_an_earlier_program_left_is_replaced(folder):
    path = os.path.join(folder, "socket")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    server = await asyncio.start_unix_server(echo, path)
    await check(path)
    server.close()
    await server.wait_closed()


async def test_a_file_that_is_no_socket_is_left_alone(folder):
    path = os.path.join(folder, "file")
    pathlib.Path(path).write_text("precious")
    with pytest.raises(OSError, match="is already in use"):
        await asyncio.start_unix_server(echo, path)
    assert pathlib.Path(path).read_text() == "precious"


async def test_a_path_that_cannot_be_is_an_error(folder, no_leaks):
    with pytest.raises(FileNotFoundError):
        await asyncio.start_unix_server(echo, os.path.join(folder, "nowhere", "socket"))
    with pytest.raises(FileNotFoundError):
        await asyncio.open_unix_connection(os.path.join(folder, "nothing"))
    with pytest.raises(OSError, match="too long"):
        await asyncio.start_unix_server(echo, os.path.join(folder, "x" * 200))
    for wrong in os.path.join(folder, "x" * 200), "\0" + "x" * 200, b"\0" + b"x" * 200:
        with pytest.raises(OSError, match="too long"):
            await asyncio.open_unix_connection(wrong)
    for wrong in 7, [], bytearray(b"socket"):
        with pytest.raises(TypeError):
            await asyncio.open_unix_connection(wrong)
    pathlib.Path(folder, "file").touch()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_unix_connection(os.path.join(folder, "file"))


# stdlib asyncio does so from 3.13 on.
@ffloop_only
async def test_the_file_goes_with_its_server_unless_it_is_another_ones_by_then(folder):
    path = os.path.join(folder, "socket")
    server = await asyncio.start_unix_server(echo, path)
    server.close()
    assert not os.path.exists(path)
    await server.wait_closed()
    server = await asyncio.start_unix_server(echo, path)
    another = await asyncio.start_unix_server(echo, path)
    server.close()
    assert stat.S_ISSOCK(os.stat(path).st_mode)
    await check(path)
    another.close()
    assert not os.path.exists(path)
    server = await asyncio.get_running_loop().create_unix_server(asyncio.Protocol, path, cleanup_socket=False)
    server.close()
    assert stat.S_ISSOCK(os.stat(path).st_mode)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "no path and sock were specified"),
        ({"path": "x", "sock": 1}, "path and sock can not be specified at the same time"),
        ({"path": "x", "ssl": True}, "you have to pass server_hostname"),
        ({"path": "x", "server_hostname": "x"}, "server_hostname is only meaningful with ssl"),
        ({"path": "x", "ssl_handshake_timeout": 1}, "ssl_handshake_timeout is only meaningful with ssl"),
    ],
)
async def test_arguments_that_do_not_go_together_are_refused(arguments, message):
    if arguments.get("sock"):
        arguments = arguments | {"sock": socket.socket(socket.AF_UNIX)}
    with pytest.raises(ValueError, match=message):
        await asyncio.get_running_loop().create_unix_connection(asyncio.Protocol, **arguments)
    if arguments.get("sock"):
        arguments["sock"].close()


async def test_sockets_of_another_kind_are_refused():
    loop = asyncio.get_running_loop()
    with socket.socket() as tcp:
        with pytest.raises(ValueError, match="A UNIX Domain Stream Socket was expected"):
            await loop.create_unix_connection(asyncio.Protocol, sock=tcp)
        with pytest.raises(ValueError, match="A UNIX Domain Stream Socket was expected"):
            await loop.create_unix_server(asyncio.Protocol, sock=tcp)


async def test_a_socket_that_is_there_already_is_used(folder):
    loop = asyncio.get_running_loop()
    path = os.path.join(folder, "socket")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    server = await asyncio.start_unix_server(echo, sock=listening)
    connected = socket.socket(socket.AF_UNIX)
    connected.connect(path)
    connected.setblocking(False)
    transport, _ = await loop.create_unix_connection(asyncio.Protocol, sock=connected)
    transport.close()
    await asyncio.sleep(0.01)
    server.close()
    await server.wait_closed()


@ffloop_only
async def test_an_interrupt_while_a_connection_is_waited_for_closes_no_descriptor_twice(folder, monkeypatch, no_leaks):
    """A signal's handler may raise right after the call that has made an object of the descriptor."""

    class Interrupted(BaseException):
        pass

    class SocketType(socket.SocketType):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            if len(arguments) == 4:
                raise Interrupted

    path = os.path.join(folder, "socket")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(0)
    waiting, refused = [], 0
    while not refused:  # nobody accepts them, and at last there is no room for another one
        waiting.append(socket.socket(socket.AF_UNIX))
        waiting[-1].setblocking(False)
        refused = waiting[-1].connect_ex(path)
    monkeypatch.setattr(socket, "SocketType", SocketType)
    numbers = []
    try:
        await asyncio.get_running_loop().create_unix_connection(asyncio.Protocol, path)
    except Interrupted:
        numbers += [os.open(folder, os.O_RDONLY) for _ in range(3)]  # one of them has the number by now
    gc.collect()
    assert len(numbers) == 3
    for number in numbers:
        os.close(number)
    for sock in (*waiting, listening):
        sock.close()

"""What the loop resolves is what the socket module resolves, results and errors alike."""

import asyncio
import socket
import sys
import sysconfig

import pytest

import ffloop

from .conftest import ffloop_only


def outcome(call, *args):
    try:
        return call(*args)
    except Exception as exc:
        return type(exc), str(exc)


async def awaited(awaitable):
    try:
        return await awaitable
    except Exception as exc:
        return type(exc), str(exc)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "::1",
        "localhost",
        b"localhost",
        None,
        "",
        "fe80::1%lo",
        "host.invalid",
        "1.2.3",
        "a" * 70 + ".x",
        "a..b",
    ],
)
@pytest.mark.parametrize("port", [80, "80", b"80", "http", None, 0, "nonsense"])
async def test_getaddrinfo_gives_what_socket_gives(host, port):
    expected = outcome(socket.getaddrinfo, host, port, 0, socket.SOCK_STREAM)
    found = await awaited(asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM))
    assert found == expected


@pytest.mark.parametrize(
    "arguments",
    [
        {"family": socket.AF_INET},
        {"family": socket.AF_INET6},
        {"type": socket.SOCK_DGRAM},
        {"proto": socket.IPPROTO_TCP},
        {"flags": socket.AI_PASSIVE},
        {"flags": socket.AI_CANONNAME},
        {"flags": socket.AI_NUMERICHOST},
        {"family": 9999},
        {"flags": 1 << 20},
    ],
)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", None])
async def test_getaddrinfo_heeds_its_arguments(host, arguments):
    expected = outcome(lambda: socket.getaddrinfo(host, 80, **arguments))
    assert await awaited(asyncio.get_running_loop().getaddrinfo(host, 80, **arguments)) == expected


@pytest.mark.parametrize(
    "odd",
    [
        (5, 80),
        ("localhost", 1.5),
        ("a\0b", 80),
        ("localhost", object()),
        ("localhost", True),
        ("localhost", 1 << 64),
        (bytearray(b"x"), 1),
    ],
)
async def test_getaddrinfo_says_to_odd_arguments_what_socket_says(odd):
    expected = outcome(socket.getaddrinfo, *odd)
    found = await awaited(asyncio.get_running_loop().getaddrinfo(*odd))
    assert found[0] == expected[0]


async def test_flags_that_are_no_number_are_refused_as_socket_does():
    expected = outcome(lambda: socket.getaddrinfo("localhost", "http", flags="x"))
    assert await awaited(asyncio.get_running_loop().getaddrinfo("localhost", "http", flags="x")) == expected


@pytest.mark.parametrize("flags", [0, socket.NI_NUMERICHOST, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV])
@pytest.mark.parametrize(
    "address",
    [
        ("127.0.0.1", 80),
        ("::1", 80),
        ("::1", 80, 0, 0),
        ("localhost", 80),
        ("127.0.0.1", 99999),
        ("127.0.0.1",),
        "text",
    ],
)
async def test_getnameinfo_gives_what_socket_gives(address, flags):
    expected = outcome(socket.getnameinfo, address, flags)
    assert await awaited(asyncio.get_running_loop().getnameinfo(address, flags)) == expected


async def test_a_tools_own_functions_in_the_socket_module_are_asked(monkeypatch):
    loop = asyncio.get_running_loop()
    asked = []

    def getaddrinfo(host, port, *args, **kwargs):
        asked.append(host)
        return real("127.0.0.1", port, *args, **kwargs)

    def getnameinfo(sockaddr, flags):
        asked.append(sockaddr)
        return "a name", "a service"

    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket, "getnameinfo", getnameinfo)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "known.to.the.tool", 0)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("known.to.the.tool", port)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
    assert (await loop.getaddrinfo("::1", 80, type=socket.SOCK_STREAM))[0][4] == ("127.0.0.1", 80)
    assert await loop.getnameinfo(("127.0.0.1", 80)) == ("a name", "a service")
    assert asked == ["known.to.the.tool", "known.to.the.tool", "::1", ("127.0.0.1", 80)]
    server.close()
    await server.wait_closed()


INET = (socket.AF_INET, socket.SOCK_STREAM, 6, "")


@pytest.mark.parametrize(
    "found",
    [
        lambda port: [(*INET, ("localhost", port))],
        lambda port: [[*INET, ["127.0.0.1", str(port)]]],
        lambda port: ((*INET, (b"127.0.0.1", port)),),
        lambda port: [(77, 77, 77, "", None), (*INET, ("127.0.0.1", port))],
    ],
    ids=["a name", "lists", "bytes", "a family of its own"],
)
async def test_a_tool_may_give_addresses_that_the_system_never_does(found, monkeypatch, no_leaks):
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    real = socket.getaddrinfo

    def getaddrinfo(host, *args, **kwargs):
        return found(port) if host == "known.to.the.tool" else real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, "known.to.the.tool", port)
    assert transport.get_extra_info("peername") == ("127.0.0.1", port)
    transport.close()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("found", [[], None], ids=repr)
async def test_a_tool_may_give_no_address(found, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    with pytest.raises(OSError, match=r"getaddrinfo\(\) returned empty list"):
        await asyncio.get_running_loop().create_connection(asyncio.Protocol, "known.to.the.tool", 1)


async def test_many_lookups_at_once_are_all_answered():
    loop = asyncio.get_running_loop()
    lookups = [loop.getaddrinfo("localhost", port, type=socket.SOCK_STREAM) for port in range(1, 50)]
    assert [infos[0][4][1] for infos in await asyncio.gather(*lookups)] == list(range(1, 50))


# From 3.14 on, and without a GIL, asyncio's executor may have answered before the task comes to wait.
@pytest.mark.asyncio(
    loop_factories=["ffloop"]
    if sys.version_info >= (3, 14) or sysconfig.get_config_var("Py_GIL_DISABLED")
    else ["asyncio", "ffloop"]
)
async def test_a_cancelled_lookup_is_dropped():
    loop = asyncio.get_running_loop()
    lookup = asyncio.create_task(loop.getaddrinfo("localhost", 80))
    # In the turn that begins it: in a later one it may have ended.
    loop.call_soon(lookup.cancel)
    with pytest.raises(asyncio.CancelledError):
        await lookup
    assert await loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)


@ffloop_only
async def test_a_loop_that_is_closed_while_a_name_is_looked_up_goes_quietly():
    def scenario():
        for _ in range(20):
            loop = ffloop.new_event_loop()
            task = loop.create_task(loop.getaddrinfo("localhost", 80))
            loop.call_soon(loop.stop)
            loop.run_forever()
            task.cancel()
            loop.call_soon(loop.stop)
            loop.run_forever()
            loop.close()

    await asyncio.get_running_loop().run_in_executor(None, scenario)


async def test_a_kind_of_socket_that_python_has_no_name_for_is_a_number():
    loop = asyncio.get_running_loop()
    expected = outcome(socket.getaddrinfo, "localhost", 80, 0, 6)
    async with asyncio.timeout(10):
        assert await awaited(loop.getaddrinfo("localhost", 80, type=6)) == expected

import asyncio
import contextvars
import errno
import ipaddress
import logging
import os
import socket
import struct
import sys
import time
import warnings
from asyncio import selector_events

import pytest

from .conftest import PAUSES, collect, ffloop_only

pytestmark = pytest.mark.asyncio

LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
FAMILIES = pytest.mark.parametrize("family", LOOPBACK)


class Recorder(asyncio.DatagramProtocol):
    """Writes down what it is told."""

    def __init__(self):
        self.events = []
        self.received = []
        self.errors = []
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.events.append("made")

    def datagram_received(self, data, addr):
        self.received.append((data, addr))

    def error_received(self, exc):
        self.errors.append(exc)

    def pause_writing(self):
        self.events.append("pause")

    def resume_writing(self):
        self.events.append("resume")

    def connection_lost(self, exc):
        self.events.append("lost")
        self.lost.set_result(exc)


async def endpoint(protocol=None, **arguments):
    if not arguments:
        arguments = {"local_addr": ("127.0.0.1", 0)}
    return await asyncio.get_running_loop().create_datagram_endpoint(protocol or Recorder, **arguments)


async def pair(family=socket.AF_INET):
    """Two endpoints, the second connected to the first."""
    server, server_protocol = await endpoint(local_addr=(LOOPBACK[family], 0))
    name = server.get_extra_info("sockname")
    client, client_protocol = await endpoint(remote_addr=name[:2])
    return server, server_protocol, client, client_protocol


def plain(family=socket.AF_INET):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind((LOOPBACK[family], 0))
    sock.settimeout(10)
    return sock


def sizes_that_fall():
    """Skip where asyncio counts what is queued, and forgets to take off a part of that when it was sent."""
    forgets = sys.version_info >= (3, 13) and not hasattr(selector_events._SelectorDatagramTransport, "_header_size")
    if forgets and isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop):
        pytest.skip("the queue of this asyncio never counts as empty again")


async def full_unix_pair(tmp_path, high=None, fill=True):
    """An endpoint connected to a plain Unix socket that has no room for another datagram."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    peer.bind(str(tmp_path / "peer"))
    peer.setblocking(False)
    transport, protocol = await endpoint(family=socket.AF_UNIX, remote_addr=str(tmp_path / "peer"))
    if high is not None:
        transport.set_write_buffer_limits(high=high)
    count = 0
    while fill and not transport.get_write_buffer_size():
        transport.sendto(b"%d" % count)
        count += 1
        assert count < 100_000
    return transport, protocol, peer, count


def drain(peer):
    data = []
    try:
        while True:
            data.append(peer.recv(300_000))
    except BlockingIOError:
        return data


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def closed(*transports):
    for transport in transports:
        transport.close()
    for transport in transports:
        if transport.get_protocol() is not None:
            await transport.get_protocol().lost


async def test_a_transport_is_an_asyncio_datagram_transport_whose_methods_can_be_replaced():
    transport, protocol = await endpoint()
    if sys.version_info >= (3, 12):  # asyncio's is none before
        assert isinstance(transport, asyncio.DatagramTransport)
    sent = []
    transport.sendto = lambda data, addr=None: sent.append(data)
    transport.sendto(b"x")
    assert sent == [b"x"]
    assert protocol.transport is transport
    assert protocol.events == ["made"]
    await closed(transport)
    assert protocol.events == ["made", "lost"]


@FAMILIES
async def test_a_hundred_datagrams_arrive_in_order_and_so_do_the_answers(family, no_leaks):
    server, server_protocol, client, client_protocol = await pair(family)
    for number in range(100):
        client.sendto(b"%d" % number)
    await until(lambda: len(server_protocol.received) == 100)
    name = client.get_extra_info("sockname")
    assert server_protocol.received == [(b"%d" % number, name) for number in range(100)]
    for data, addr in server_protocol.received:
        server.sendto(data, addr)
    await until(lambda: len(client_protocol.received) == 100)
    assert [data for data, _ in client_protocol.received] == [b"%d" % number for number in range(100)]
    assert client_protocol.received[0][1] == server.get_extra_info("sockname")
    await closed(server, client)


@FAMILIES
async def test_senders_are_named_as_recvfrom_names_them(family):
    transport, protocol = await endpoint(local_addr=(LOOPBACK[family], 0))
    with plain(family) as sender, plain(family) as other:
        for name in (transport.get_extra_info("sockname"), other.getsockname()):
            sender.sendto(b"x", name)
        await until(lambda: protocol.received)
        assert protocol.received == [other.recvfrom(10)]
        assert protocol.received[0][1] == sender.getsockname()
        transport.sendto(b"answer", protocol.received[0][1])
        await asyncio.sleep(0)
        assert sender.recvfrom(10) == (b"answer", transport.get_extra_info("sockname"))
    await closed(transport)


async def test_an_ipv4_sender_at_an_ipv6_socket_is_named_as_a_mapped_address():
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as both:
        both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        both.bind(("::", 0))
        transport, protocol = await endpoint(sock=both)
        port = transport.get_extra_info("sockname")[1]
        with plain() as sender:
            sender.sendto(b"x", ("127.0.0.1", port))
            await until(lambda: protocol.received)
            addr = protocol.received[0][1]
            assert addr == ("::ffff:127.0.0.1", sender.getsockname()[1], 0, 0)
            transport.sendto(b"answer", addr)
            await asyncio.sleep(0)
            assert sender.recv(10) == b"answer"
        await closed(transport)


@FAMILIES
async def test_a_host_that_is_no_literal_address_is_looked_up(family):
    transport, protocol = await endpoint(local_addr=(LOOPBACK[family], 0))
    with plain(family) as peer:
        try:
            socket.getaddrinfo("localhost", 80, family)
        except socket.gaierror:
            pytest.skip("localhost has no address of this family here")
        port = peer.getsockname()[1]
        transport.sendto(b"1", (LOOPBACK[family], port))
        transport.sendto(b"2", ("localhost", port))
        # At once, as the look-up is: and what was sent before has left before.
        assert peer.recv(10) == b"1"
        assert peer.recv(10) == b"2"
        transport.sendto(b"3", (LOOPBACK[family], port))
        await asyncio.sleep(0)
        assert peer.recv(10) == b"3"
    assert not protocol.errors
    await closed(transport)


async def test_a_host_that_does_not_exist_is_an_error_received_at_once():
    transport, protocol = await endpoint()
    transport.sendto(b"x", ("does-not-exist.invalid", 80))
    assert isinstance(protocol.errors[0], socket.gaierror)
    assert not transport.is_closing()
    await closed(transport)


@pytest.mark.skipif(
    sys.implementation.name == "pypy", reason="PyPy's sockets take some of these, and have other errors for others"
)
@pytest.mark.parametrize(
    ("addr", "error"),
    [
        (None, TypeError),
        ("127.0.0.1", TypeError),
        (["127.0.0.1", 80], TypeError),
        (("127.0.0.1", "80"), TypeError),
        (("127.0.0.1", 80.0), TypeError),
        (("127.0.0.1",), TypeError),
        (("127.0.0.1", 80, 0, 0), TypeError),
        (("127.0.0.1", 65536), OverflowError),
        (("127.0.0.1", -1), OverflowError),
        (([], 80), TypeError),
    ],
)
async def test_an_address_of_the_wrong_kind_is_fatal_at_once(addr, error):
    loop = asyncio.get_running_loop()
    told = []
    loop.set_exception_handler(lambda loop, context: told.append(context))
    transport, protocol = await endpoint()
    with plain() as peer:
        transport.sendto(b"before", peer.getsockname())
        transport.sendto(b"right", ("127.0.0.1", 80))
        transport.sendto(b"wrong", addr)
        assert transport.is_closing()
        assert [context["message"] for context in told] == ["Fatal write error on datagram transport"]
        assert told[0]["transport"] is transport
        assert told[0]["protocol"] is protocol
        assert isinstance(await protocol.lost, error)
        # It was queued before, so it has left.
        assert peer.recv(10) == b"before"
    assert not protocol.errors


async def test_an_address_that_only_equals_a_known_one_is_of_the_wrong_kind():
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    with plain() as peer:
        host, port = peer.getsockname()
        transport, protocol = await endpoint()
        transport.sendto(b"1", (host, port))
        transport.sendto(b"2", (str(host), port))
        transport.sendto(b"wrong", (host, float(port)))
        assert transport.is_closing()
        assert isinstance(await protocol.lost, TypeError)
        assert [peer.recv(10), peer.recv(10)] == [b"1", b"2"]


async def test_sendto_takes_its_arguments_by_name_and_no_others():
    with plain() as peer:
        name = peer.getsockname()
        transport, _ = await endpoint()
        transport.sendto(b"1", addr=name)
        transport.sendto(data=b"2", addr=name)
        transport.sendto(addr=name, data=b"3")
        transport.sendto(bytearray(b"4"), addr=name)
        transport.get_write_buffer_size()
        assert [peer.recv(10) for _ in range(4)] == [b"1", b"2", b"3", b"4"]
        for args, kwargs in [
            ((), {}),
            ((), {"addr": name}),
            ((b"x",), {"data": b"x"}),
            ((b"x",), {"address": name}),
            ((b"x", name), {"addr": name}),
            ((b"x", name, 0), {}),
        ]:
            with pytest.raises(TypeError):
                transport.sendto(*args, **kwargs)
        await closed(transport)


async def test_data_of_the_wrong_type_is_refused():
    server, _, client, _ = await pair()
    for data in ("text", None, 5, [b"x"]):
        with pytest.raises(TypeError, match="data argument must be a bytes-like object, not"):
            client.sendto(data)
    await closed(server, client)


async def test_a_memoryview_with_gaps_ends_the_endpoint():
    server, protocol, client, client_protocol = await pair()
    errors = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
    client.sendto(b"before")
    client.sendto(memoryview(b"abcdef")[::2])
    client.sendto(b"after")
    error = await client_protocol.lost
    assert isinstance(error, BufferError)
    assert [(context["message"], context["exception"]) for context in errors] == [
        ("Fatal write error on datagram transport", error)
    ]
    await until(lambda: protocol.received)
    await asyncio.sleep(0.01)
    assert [data for data, _ in protocol.received] == [b"before"]
    await closed(server)


async def test_a_memoryview_of_other_items_than_bytes_is_sent_as_bytes():
    server, protocol, client, _ = await pair()
    client.sendto(memoryview(b"abcdefgh").cast("I"))
    await until(lambda: protocol.received)
    assert protocol.received[0][0] == b"abcdefgh"
    await closed(server, client)


async def test_a_buffer_that_is_changed_after_sendto_is_sent_as_it_was():
    server, protocol, client, _ = await pair()
    data = bytearray(b"before")
    client.sendto(data)
    client.sendto(memoryview(data))
    data[:] = b"after!"
    await until(lambda: len(protocol.received) == 2)
    assert [data for data, _ in protocol.received] == [b"before", b"before"]
    await closed(server, client)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="asyncio drops empty datagrams before 3.13")
async def test_empty_datagrams_are_sent_and_received():
    await empty_datagrams()


@ffloop_only
async def test_empty_datagrams_are_sent_and_received_on_every_version():
    # asyncio drops them before 3.13.
    await empty_datagrams()


async def empty_datagrams():
    server, server_protocol, client, client_protocol = await pair()
    for data in (b"", b"x", b"", b""):
        client.sendto(data)
    await until(lambda: len(server_protocol.received) == 4)
    assert [data for data, _ in server_protocol.received] == [b"", b"x", b"", b""]
    server.sendto(b"", server_protocol.received[0][1])
    await until(lambda: client_protocol.received)
    assert client_protocol.received[0][0] == b""
    await closed(server, client)


async def test_a_connected_endpoint_sends_to_its_peer_and_nobody_else():
    server, protocol, client, _ = await pair()
    name = server.get_extra_info("sockname")
    client.sendto(b"1", name)
    client.sendto(b"2", None)
    with pytest.raises(ValueError, match=r"Invalid address: must be None or \('127.0.0.1', \d+\)"):
        client.sendto(b"3", ("127.0.0.1", 1))
    await until(lambda: len(protocol.received) == 2)
    assert client.get_extra_info("peername") == name
    assert server.get_extra_info("peername") is None
    await closed(server, client)


async def test_a_connected_endpoint_receives_from_its_peer_only():
    server, _, client, protocol = await pair()
    with plain() as stranger:
        stranger.sendto(b"stranger", client.get_extra_info("sockname"))
        server.sendto(b"peer", client.get_extra_info("sockname"))
        await until(lambda: protocol.received)
        await asyncio.sleep(0.01)
    assert [data for data, _ in protocol.received] == [b"peer"]
    await closed(server, client)


async def test_a_connected_socket_that_was_given_is_connected(no_leaks):
    with plain() as peer:
        sock = plain()
        sock.connect(peer.getsockname())
        transport, protocol = await endpoint(sock=sock)
        assert transport.get_extra_info("peername") == peer.getsockname()
        transport.sendto(b"1")
        transport.sendto(b"2", ("127.0.0.1", 1))  # asyncio does not look at it
        await asyncio.sleep(0)
        assert (peer.recv(10), peer.recv(10)) == (b"1", b"2")
        await closed(transport)


@PAUSES
@pytest.mark.parametrize("end", ["close", "abort", "forgotten"])
async def test_a_socket_that_was_given_stays_usable_until_the_transport_is_closed(end, no_leaks):
    sock = plain()
    transport, protocol = await endpoint(sock=sock)
    assert sock.gettimeout() == 0
    assert sock.getsockname() == transport.get_extra_info("sockname")
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 7)
    assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 7
    with plain() as peer:
        transport.sendto(b"x", peer.getsockname())
        await asyncio.sleep(0)
        assert peer.recvfrom(10) == (b"x", sock.getsockname())
        peer.sendto(b"answer", sock.getsockname())
        await until(lambda: protocol.received)
    with pytest.raises(RuntimeError, match="is used by transport"):
        asyncio.get_running_loop().add_reader(sock, print)
    name = sock.getsockname()
    if end == "forgotten":
        transport.pause_reading()
        del protocol.transport
        with pytest.warns(ResourceWarning):
            del transport
            collect()
    else:
        getattr(transport, end)()
        assert sock.fileno() > 0
        await protocol.lost
        await asyncio.sleep(0)
    assert sock.fileno() == -1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as next_owner:
        next_owner.bind(name)


@ffloop_only
async def test_a_given_socket_that_is_closed_by_somebody_else_spoils_nothing(no_leaks):
    # asyncio's transport would use whatever gets the number next.
    sock = plain()
    transport, protocol = await endpoint(sock=sock)
    sock.close()
    with plain() as peer:
        transport.sendto(b"x", peer.getsockname())
        await asyncio.sleep(0)
        assert peer.recv(10) == b"x"
        peer.sendto(b"answer", transport.get_extra_info("sockname"))
        await until(lambda: protocol.received)
        await closed(transport)


async def test_an_endpoint_without_a_local_address_gets_one_with_its_first_datagram():
    with plain() as peer:
        transport, _ = await endpoint(family=socket.AF_INET)
        assert transport.get_extra_info("sockname") == ("0.0.0.0", 0)
        transport.sendto(b"x", peer.getsockname())
        port = transport.get_extra_info("socket").getsockname()[1]
        assert port
        assert peer.recvfrom(10) == (b"x", ("127.0.0.1", port))
        await closed(transport)


async def test_broadcast_has_to_be_allowed():
    broadcast = ("127.255.255.255", 9)
    refused, protocol = await endpoint(family=socket.AF_INET)
    refused.sendto(b"x", broadcast)
    await until(lambda: protocol.errors)
    assert isinstance(protocol.errors[0], PermissionError)
    assert not refused.is_closing()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiving:
        receiving.settimeout(10)
        receiving.bind(("0.0.0.0", 0))
        port = receiving.getsockname()[1]
        allowed, protocol = await endpoint(family=socket.AF_INET, allow_broadcast=True)
        assert allowed.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)
        allowed.sendto(b"all", (broadcast[0], port))
        await asyncio.sleep(0)
        assert receiving.recv(10) == b"all"
        # With broadcast allowed, a remote address is the default and the only one, but not connected to.
        to_all, protocol = await endpoint(remote_addr=(broadcast[0], port), allow_broadcast=True)
        assert to_all.get_extra_info("peername") is None
        to_all.sendto(b"1")
        to_all.sendto(b"2", (broadcast[0], port))
        with pytest.raises(ValueError, match="Invalid address"):
            to_all.sendto(b"3", ("127.0.0.1", port))
        await asyncio.sleep(0)
        assert (receiving.recv(10), receiving.recv(10)) == (b"1", b"2")
    await closed(refused, allowed, to_all)


async def test_several_endpoints_share_a_port_when_they_ask_for_it():
    one, _ = await endpoint(local_addr=("127.0.0.1", 0), reuse_port=True)
    name = one.get_extra_info("sockname")
    other, _ = await endpoint(local_addr=name, reuse_port=True)
    assert other.get_extra_info("sockname") == name
    with pytest.raises(OSError, match="in use"):
        await endpoint(local_addr=name)
    await closed(one, other)


async def test_an_endpoint_does_not_let_others_have_its_port():
    transport, _ = await endpoint()
    sock = transport.get_extra_info("socket")
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
    await closed(transport)


@FAMILIES
async def test_multicast_works_through_the_socket(family):
    group = {socket.AF_INET: "239.255.43.21", socket.AF_INET6: "ff15::4321"}[family]
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 0))
        port = sock.getsockname()[1]
        lo = socket.if_nametoindex("lo")
        packed = ipaddress.ip_address(group).packed
        transport, protocol = await endpoint(sock=sock)
        sock = transport.get_extra_info("socket")
        try:
            if family == socket.AF_INET:
                local = socket.inet_aton("127.0.0.1")
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, packed + local)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, local)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, packed + struct.pack("@i", lo))
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, lo)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
        except OSError as exc:
            await closed(transport)
            pytest.skip(f"the loopback interface takes no multicast here: {exc}")
        transport.sendto(b"to all", (group, port))
        await asyncio.sleep(0.05)
        if protocol.errors:
            await closed(transport)
            pytest.skip(f"the loopback interface has no route for multicast here: {protocol.errors[0]}")
        await until(lambda: protocol.received)
        assert protocol.received[0][0] == b"to all"
        await closed(transport)


# Unix datagram sockets


async def test_unix_datagrams_go_both_ways(tmp_path, no_leaks):
    server, server_protocol = await endpoint(family=socket.AF_UNIX, local_addr=str(tmp_path / "server"))
    client, client_protocol = await endpoint(
        family=socket.AF_UNIX, local_addr=str(tmp_path / "client"), remote_addr=str(tmp_path / "server")
    )
    for number in range(5):
        client.sendto(b"%d" % number)
    await until(lambda: len(server_protocol.received) == 5)
    assert server_protocol.received == [(b"%d" % number, str(tmp_path / "client")) for number in range(5)]
    for data, addr in server_protocol.received:
        server.sendto(data, addr)
    await until(lambda: len(client_protocol.received) == 5)
    assert client_protocol.received[4] == (b"4", str(tmp_path / "server"))
    assert client.get_extra_info("peername") == str(tmp_path / "server")
    await closed(server, client)


async def test_a_unix_datagram_of_200_kib_arrives_whole(tmp_path):
    server, protocol = await endpoint(family=socket.AF_UNIX, local_addr=str(tmp_path / "server"))
    client, _ = await endpoint(family=socket.AF_UNIX, remote_addr=str(tmp_path / "server"))
    client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    data = os.urandom(200 * 1024)
    client.sendto(data)
    client.sendto(b"next")
    await until(lambda: len(protocol.received) == 2)
    assert [received for received, _ in protocol.received] == [data, b"next"]
    await closed(server, client)


async def test_large_unix_datagrams_to_several_endpoints_all_arrive_in_order(tmp_path):
    # More than the region holds in one turn: some endpoints find no room in it.
    paths = [str(tmp_path / f"{number}") for number in range(3)]
    servers = [await endpoint(family=socket.AF_UNIX, local_addr=path) for path in paths]
    for path in paths:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            for number in range(3):
                sender.sendto(bytes([number]) * 140_000, path)
    for _, protocol in servers:
        await until(lambda protocol=protocol: len(protocol.received) == 3)
        assert [(len(data), data[0], addr) for data, addr in protocol.received] == [
            (140_000, number, None) for number in range(3)
        ]
    await closed(*(transport for transport, _ in servers))


@PAUSES
async def test_a_unix_endpoint_that_pauses_inside_a_batch_loses_nothing(tmp_path):
    server, protocol = await endpoint(family=socket.AF_UNIX, local_addr=str(tmp_path / "server"))
    got = []

    def pause_at_once(data, addr):
        got.append((data, addr))
        server.pause_reading()

    protocol.datagram_received = pause_at_once
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.bind(b"\0ffloop-pausing-%d" % os.getpid())
        for number in range(5):
            sender.sendto(b"%d" % number, str(tmp_path / "server"))
        for number in range(5):
            await until(lambda number=number: len(got) == number + 1)
            await asyncio.sleep(0)
            assert len(got) == number + 1
            server.resume_reading()
        assert got == [(b"%d" % number, sender.getsockname()) for number in range(5)]
    await closed(server)


@pytest.mark.parametrize("kind", ["unnamed", "abstract", "abstract with zeros", "bytes that are no text"])
async def test_unix_senders_are_named_as_recvfrom_names_them(tmp_path, kind):
    server, protocol = await endpoint(family=socket.AF_UNIX, local_addr=str(tmp_path / "server"))
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
    ):
        other.bind(str(tmp_path / "other"))
        own = {
            "unnamed": None,
            "abstract": f"\0ffloop-test-{os.getpid()}",
            "abstract with zeros": f"\0ffloop-zeros-{os.getpid()}".encode() + bytes(20),
            "bytes that are no text": os.fsencode(tmp_path) + b"/\xff\xfe",
        }[kind]
        if own is not None:
            sender.bind(own)
        for name in ("server", "other"):
            sender.sendto(b"x", str(tmp_path / name))
        await until(lambda: protocol.received)
        assert protocol.received == [other.recvfrom(10)]
        if own is not None:
            sender.settimeout(10)
            server.sendto(b"answer", protocol.received[0][1])
            await asyncio.sleep(0)
            assert sender.recv(10) == b"answer"
    await closed(server)


async def test_a_stale_unix_socket_is_replaced_and_one_in_use_too(tmp_path):
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stale:
        stale.bind(path)
    transport, _ = await endpoint(family=socket.AF_UNIX, local_addr=path)
    assert transport.get_extra_info("sockname") == path
    await closed(transport)


async def test_a_unix_path_that_does_not_exist_is_an_error_received(tmp_path):
    transport, protocol = await endpoint(family=socket.AF_UNIX, local_addr=str(tmp_path / "own"))
    transport.sendto(b"x", str(tmp_path / "nobody"))
    assert isinstance(protocol.errors[0], FileNotFoundError)
    await closed(transport)


async def test_a_seqpacket_pair_is_a_datagram_endpoint_too():
    if sys.version_info < (3, 13) and "ffloop" not in type(asyncio.get_running_loop()).__module__:
        pytest.skip("asyncio takes SOCK_DGRAM only before 3.13")
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with right:
        transport, protocol = await endpoint(sock=left)
        right.send(b"one")
        right.send(b"two")
        await until(lambda: len(protocol.received) == 2)
        assert protocol.received == [(b"one", None), (b"two", None)]
        transport.abort()
        await protocol.lost


# Errors


async def test_a_refused_port_is_an_error_received_and_the_endpoint_goes_on():
    server, _, client, protocol = await pair()
    name = server.get_extra_info("sockname")
    await closed(server)
    client.sendto(b"x")
    await until(lambda: protocol.errors)
    assert isinstance(protocol.errors[0], ConnectionRefusedError)
    assert not client.is_closing()
    server, server_protocol = await endpoint(local_addr=name)
    client.sendto(b"again")
    await until(lambda: server_protocol.received)
    await closed(server, client)


async def test_a_refusal_that_is_met_by_the_next_datagram_is_told_in_its_place():
    server, _, client, protocol = await pair()
    await closed(server)
    sock = client.get_extra_info("socket")
    client.sendto(b"x")
    sock.fileno()  # it has left, and was refused
    client.sendto(b"dropped")
    sock.fileno()
    await asyncio.sleep(0.01)
    assert len(protocol.errors) == 1
    await closed(client)


@pytest.mark.parametrize("size", [65_508, 65_536, 65_537, 1 << 20])
async def test_a_datagram_that_is_too_large_is_an_error_received_and_the_others_arrive(size):
    server, server_protocol, client, protocol = await pair()
    for data in (b"1", b"x" * size, b"2", b"3"):
        client.sendto(data)
    await until(lambda: len(server_protocol.received) == 3)
    assert [data for data, _ in server_protocol.received] == [b"1", b"2", b"3"]
    await until(lambda: protocol.errors)
    assert [exc.errno for exc in protocol.errors] == [errno.EMSGSIZE]
    assert str(protocol.errors[0]) == "[Errno 90] Message too long"
    await closed(server, client)


async def test_an_unreachable_address_spoils_nothing_for_the_others():
    server, server_protocol, client, _ = await pair()
    transport, protocol = await endpoint()
    name = server.get_extra_info("sockname")
    for number in range(50):
        transport.sendto(b"%d" % number, name)
        transport.sendto(b"x", ("127.255.255.255", 9))  # broadcast is not allowed
    await until(lambda: len(server_protocol.received) == 50 and len(protocol.errors) == 50)
    assert [data for data, _ in server_protocol.received] == [b"%d" % number for number in range(50)]
    assert {type(exc) for exc in protocol.errors} == {PermissionError}
    await closed(server, client, transport)


async def test_what_datagram_received_raises_is_reported_and_the_next_ones_are_delivered():
    loop = asyncio.get_running_loop()
    told = []
    loop.set_exception_handler(lambda loop, context: told.append(context["exception"]))

    class Failing(Recorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            raise ZeroDivisionError(data)

    transport, protocol = await endpoint(Failing)
    with plain() as sender:
        for number in range(5):
            sender.sendto(b"%d" % number, transport.get_extra_info("sockname"))
    await until(lambda: len(told) == 5)
    assert [exc.args for exc in told] == [(b"%d" % number,) for number in range(5)]
    assert not transport.is_closing()
    await closed(transport)


async def test_what_error_received_raises_is_reported_and_the_loop_goes_on():
    loop = asyncio.get_running_loop()
    told = []
    loop.set_exception_handler(lambda loop, context: told.append(context["exception"]))

    class Failing(Recorder):
        def error_received(self, exc):
            raise ZeroDivisionError

    server, _, client, _ = await pair()
    await closed(server)
    client.set_protocol(Failing())
    client.sendto(b"x")
    await until(lambda: told)
    assert isinstance(told[0], ZeroDivisionError)
    client.abort()
    await client.get_protocol().lost


async def test_a_failing_protocol_is_told_of_as_any_callback_is():
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))

    class Failing(Recorder):
        def datagram_received(self, data, addr):
            raise ZeroDivisionError

    transport, _ = await endpoint(Failing)
    with plain() as peer:
        peer.sendto(b"x", transport.get_extra_info("sockname"))
        await until(lambda: told)
    assert told[0]["message"].startswith("Exception in callback ")
    assert "DatagramTransport" in told[0]["message"]
    assert isinstance(told[0]["exception"], ZeroDivisionError)
    assert isinstance(told[0]["handle"], asyncio.Handle)
    transport.close()
    await transport.get_protocol().lost


# Flow control


async def test_a_full_peer_pauses_the_protocol_and_resumes_it_below_the_low_water_mark(tmp_path, no_leaks):
    sizes_that_fall()
    transport, protocol, peer, count = await full_unix_pair(tmp_path)
    transport.set_write_buffer_limits(high=1000, low=300)
    assert protocol.events == ["made"]
    while "pause" not in protocol.events:
        before = transport.get_write_buffer_size()
        transport.sendto(b"%d" % count)
        count += 1
    assert before <= 1000 < transport.get_write_buffer_size()
    received = drain(peer)
    await until(lambda: "resume" in protocol.events or received.extend(drain(peer)))
    assert protocol.events == ["made", "pause", "resume"]
    await until(lambda: received.extend(drain(peer)) or not transport.get_write_buffer_size())
    received += drain(peer)
    assert received == [b"%d" % number for number in range(count)]
    await closed(transport)
    peer.close()


@pytest.mark.skipif(sys.version_info < (3, 13), reason="asyncio counts only the bytes before 3.13")
async def test_a_queued_datagram_counts_eight_bytes_more_than_it_has(tmp_path):
    transport, _, peer, count = await full_unix_pair(tmp_path)
    size = transport.get_write_buffer_size()
    assert size == len(b"%d" % (count - 1)) + 8
    transport.sendto(b"abc")
    transport.sendto(b"")
    assert transport.get_write_buffer_size() == size + 11 + 8
    transport.abort()
    await transport.get_protocol().lost
    peer.close()


async def test_datagrams_of_all_sizes_wait_for_a_full_peer_together(tmp_path):
    transport, protocol, peer, count = await full_unix_pair(tmp_path)
    sent = [b"%d" % number for number in range(count)]
    for size in (1, 100_000, 5, 5, 150_000, 65_536, 65_537, 3, 0 if sys.version_info >= (3, 13) else 1):
        transport.sendto(b"x" * size)
        sent.append(b"x" * size)
    received = []
    await until(lambda: received.extend(drain(peer)) or len(received) >= len(sent))
    assert received == sent
    assert not protocol.errors
    await closed(transport)
    peer.close()


async def test_close_waits_until_a_full_peer_has_taken_everything(tmp_path, no_leaks):
    transport, protocol, peer, count = await full_unix_pair(tmp_path)
    transport.sendto(b"last")
    transport.close()
    await asyncio.sleep(0.01)
    assert "lost" not in protocol.events
    assert transport.is_closing()
    received = []
    await until(lambda: received.extend(drain(peer)) or protocol.lost.done())
    received += drain(peer)
    assert received == [b"%d" % number for number in range(count)] + [b"last"]
    assert protocol.lost.result() is None
    peer.close()


async def test_abort_drops_what_a_full_peer_has_not_taken(tmp_path, no_leaks):
    transport, protocol, peer, count = await full_unix_pair(tmp_path, high=0)
    assert protocol.events == ["made", "pause"]
    transport.sendto(b"dropped")
    transport.abort()
    assert await protocol.lost is None
    assert len(drain(peer)) == count - 1
    # Nobody resumes a protocol that is gone.
    assert protocol.events == ["made", "pause", "lost"]
    peer.close()


async def test_a_peer_that_goes_while_it_is_full_is_an_error_received_for_each(tmp_path):
    transport, protocol, peer, _ = await full_unix_pair(tmp_path)
    transport.sendto(b"1")
    transport.sendto(b"2")
    peer.close()
    await until(lambda: len(protocol.errors) >= 3)
    assert isinstance(protocol.errors[0], ConnectionRefusedError)
    assert {exc.errno for exc in protocol.errors[1:]} == {errno.ENOTCONN}
    assert len(protocol.errors) == 3
    await closed(transport)


async def test_what_resume_writing_sends_goes_before_the_end(tmp_path):
    sizes_that_fall()
    transport, protocol, peer, count = await full_unix_pair(tmp_path, high=0)
    protocol.resume_writing = lambda: (transport.sendto(b"from resume"), transport.close())
    received = []
    await until(lambda: received.extend(drain(peer)) or protocol.lost.done())
    received += drain(peer)
    assert received[-1] == b"from resume"
    assert len(received) == count + 1
    peer.close()


async def test_an_unconnected_endpoint_waits_for_a_full_peer_too(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.bind(str(tmp_path / "peer"))
        peer.setblocking(False)
        transport, protocol = await endpoint(family=socket.AF_UNIX, local_addr=str(tmp_path / "own"))
        count = 0
        while transport.get_write_buffer_size() < 200:
            transport.sendto(b"%d" % count, str(tmp_path / "peer"))
            count += 1
        received = []
        await until(lambda: received.extend(drain(peer)) or len(received) == count)
        assert received == [b"%d" % number for number in range(count)]
        await closed(transport)


async def test_limits_that_do_not_go_together_are_refused():
    transport, _ = await endpoint()
    with pytest.raises(ValueError, match="high"):
        transport.set_write_buffer_limits(high=1, low=2)
    transport.set_write_buffer_limits(high=40)
    assert transport.get_write_buffer_limits() == (10, 40)
    await closed(transport)


async def test_limits_may_be_fractions():
    with plain() as peer:
        transport, protocol = await endpoint()
        transport.set_write_buffer_limits(high=8.5, low=0.5)
        assert transport.get_write_buffer_limits() == (0.5, 8.5)
        for data in (b"1", b"12", b"123"):
            transport.sendto(data, peer.getsockname())
        transport.get_write_buffer_size()
        assert [peer.recv(10) for _ in range(3)] == [b"1", b"12", b"123"]
        assert protocol.events == ["made"]
        await closed(transport)


async def test_a_datagram_goes_where_it_should_even_if_the_last_address_sends_one_when_it_goes():
    class Host(str):
        def __del__(self):
            last_words()

    def last_words():
        transport.sendto(b"for the other", other.getsockname())

    with plain() as peer, plain() as other:
        transport, _ = await endpoint()
        for sock in peer, other:
            transport.sendto(b"known", sock.getsockname())
        transport.sendto(b"odd", (Host("127.0.0.1"), peer.getsockname()[1]))
        await asyncio.sleep(0.01)
        transport.sendto(b"for the peer", peer.getsockname())
        collect()
        await asyncio.sleep(0.01)
        assert [peer.recv(20) for _ in range(3)] == [b"known", b"odd", b"for the peer"]
        assert [other.recv(20) for _ in range(2)] == [b"known", b"for the other"]
        await closed(transport)


@pytest.mark.parametrize("watching", [False, True], ids=["alone", "beside a busy descriptor"])
async def test_a_datagram_that_arrives_broken_does_not_stop_the_next_one(watching):
    """The kernel says that there is something to read, and then that there is not."""
    try:
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
    except PermissionError:
        pytest.skip("only root can send a datagram with a wrong checksum")
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    with raw, left, right, plain() as peer:
        for sock in left, right:
            sock.setblocking(False)
        for _ in range(100 if watching else 0):
            receiving = loop.create_task(loop.sock_recv(left, 1))
            await asyncio.sleep(0)
            await loop.sock_sendall(right, b"x")
            await receiving
        transport, protocol = await endpoint()
        _, port = address = transport.get_extra_info("sockname")
        raw.sendto(struct.pack("!4H", 9999, port, 8 + 500, 0x1234) + bytes(500), ("127.0.0.1", 0))
        later = loop.run_in_executor(None, lambda: (time.sleep(0.05), peer.sendto(b"whole", address)))
        await until(lambda: protocol.received)
        assert protocol.received == [(b"whole", peer.getsockname())]
        await later
        await closed(transport)


# Order, and what may not overtake


async def test_what_was_sent_has_left_when_somebody_looks_at_the_buffer_or_the_socket():
    with plain() as peer:
        peer.setblocking(False)
        transport, _ = await endpoint(remote_addr=peer.getsockname())
        sock = transport.get_extra_info("socket")
        looks = {
            b"buffer": transport.get_write_buffer_size,
            b"limits": lambda: transport.set_write_buffer_limits(high=1000),
            b"fileno": sock.fileno,
            b"getsockname": sock.getsockname,
            b"setsockopt": lambda: sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 5),
            b"getsockopt": lambda: sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR),
        }
        for name, look in looks.items():
            transport.sendto(name)
            look()
            assert peer.recv(100) == name
        await closed(transport)


async def test_each_peer_gets_what_is_sent_to_it_in_order_whatever_stands_between():
    transport, protocol = await endpoint()
    peers = [plain() for _ in range(4)]
    sent = [[] for _ in peers]
    for number in range(150):
        for index, (peer, expected) in enumerate(zip(peers, sent, strict=True)):
            if (number + index) % 3:
                data = b"%d" % number * (number % 50 + 1)
                transport.sendto(data, peer.getsockname())
                expected.append(data)
        if number % 20 == 0:
            transport.sendto(b"x" * 65_508, peers[0].getsockname())
            transport.sendto(b"x", ("localhost", 9))
        if number % 30 == 0:
            await asyncio.sleep(0)
    transport.get_write_buffer_size()
    for peer, expected in zip(peers, sent, strict=True):
        assert [peer.recv(10_000) for _ in expected] == expected
        peer.close()
    await until(lambda: len(protocol.errors) >= 8)
    await closed(transport)


async def test_answers_keep_their_order_whether_one_or_several_answer_a_datagram():
    class Answering(Recorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            for number in range(int(data)):
                self.transport.sendto(b"%d/%d" % (number, int(data)), addr)

    server, _ = await endpoint(Answering)
    client, protocol = await endpoint(remote_addr=server.get_extra_info("sockname"))
    expected = []
    for rounds in ([1], [1], [1], [3], [1], [2, 1], [1], [1, 1, 1], [0], [40], [1]):
        for count in rounds:
            client.sendto(b"%d" % count)
            expected += [b"%d/%d" % (number, count) for number in range(count)]
        await until(lambda: len(protocol.received) == len(expected))  # noqa: B023
    assert [data for data, _ in protocol.received] == expected
    await closed(server, client)


async def test_a_full_peer_is_waited_for_by_one_that_answers_too(tmp_path):
    class Answering(Recorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            self.transport.sendto(data)

    peer = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    peer.bind(str(tmp_path / "peer"))
    peer.setblocking(False)
    transport, _ = await endpoint(
        Answering, family=socket.AF_UNIX, local_addr=str(tmp_path / "own"), remote_addr=str(tmp_path / "peer")
    )
    count = 0
    while transport.get_write_buffer_size() < 200:
        peer.sendto(b"%d" % count, str(tmp_path / "own"))
        count += 1
        await asyncio.sleep(0.001)
        assert count < 10_000
    received = []
    await until(lambda: received.extend(drain(peer)) or len(received) == count)
    assert received == [b"%d" % number for number in range(count)]
    await closed(transport)
    peer.close()


async def test_close_sends_what_was_queued_first(no_leaks):
    with plain() as peer:
        transport, protocol = await endpoint(remote_addr=peer.getsockname())
        for data in (b"1", b"2", b"3"):
            transport.sendto(data)
        transport.close()
        assert transport.is_closing()
        assert [peer.recv(10) for _ in range(3)] == [b"1", b"2", b"3"]
        assert await protocol.lost is None


async def test_a_queue_is_bounded():
    # The largest number of bytes that wait for the end of the turn.
    with plain() as peer:
        peer.setblocking(False)
        transport, _ = await endpoint(remote_addr=peer.getsockname())
        for number in range(80):
            transport.sendto(bytes([number]) * 1000)
        assert peer.recv(2000) == bytes(1000)
        await closed(transport)


async def test_what_is_sent_while_the_loop_does_not_run_leaves_at_once():
    loop = type(asyncio.get_running_loop())()

    # In a loop of its own, because this one is running.
    def scenario():
        with plain() as peer:
            transport, protocol = loop.run_until_complete(
                loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=peer.getsockname())
            )
            transport.sendto(b"out")
            received = [peer.recv(10)]
            loop.call_soon(transport.sendto, b"1")
            loop.call_soon(transport.sendto, b"2")
            loop.call_soon(loop.stop)
            loop.run_forever()
            received += [peer.recv(10), peer.recv(10)]
            transport.abort()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
            return received

    assert await asyncio.to_thread(scenario) == [b"out", b"1", b"2"]


async def test_what_error_received_sends_is_sent():
    class Retry(Recorder):
        def error_received(self, exc):
            super().error_received(exc)
            if len(self.errors) == 1:
                self.transport.sendto(b"retry")

    server, _, client, _ = await pair()
    name = server.get_extra_info("sockname")
    protocol = Retry()
    protocol.transport = client
    client.set_protocol(protocol)
    await closed(server)
    with plain() as peer:
        peer.close()
        client.sendto(b"refused")
        client.get_extra_info("socket").fileno()
        server, server_protocol = await endpoint(local_addr=name)
        await until(lambda: server_protocol.received)
    assert server_protocol.received[0][0] == b"retry"
    await closed(server, client)


# Closing


async def test_nothing_is_delivered_after_close_even_of_the_same_batch(no_leaks):
    class Closing(Recorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            self.transport.close()

    transport, protocol = await endpoint(Closing)
    with plain() as sender:
        for number in range(10):
            sender.sendto(b"%d" % number, transport.get_extra_info("sockname"))
    assert await protocol.lost is None
    assert [data for data, _ in protocol.received] == [b"0"]


async def test_a_protocol_that_is_switched_gets_the_rest_of_the_batch():
    class Switching(Recorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            self.transport.set_protocol(second)

    transport, first = await endpoint(Switching)
    second = Recorder()
    with plain() as sender:
        for number in range(5):
            sender.sendto(b"%d" % number, transport.get_extra_info("sockname"))
    await until(lambda: len(second.received) == 4)
    assert [data for data, _ in first.received] == [b"0"]
    assert transport.get_protocol() is second
    await closed(transport)


@PAUSES
@pytest.mark.parametrize("unix", [False, True])
async def test_pausing_inside_a_batch_keeps_the_rest_of_it_until_resumed(tmp_path, unix):
    class Pausing(Recorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            if len(self.received) == 2:
                self.transport.pause_reading()

    own = {"family": socket.AF_UNIX, "local_addr": str(tmp_path / "own")} if unix else {}
    transport, protocol = await endpoint(Pausing, **own)
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if unix else plain()
    with sender:
        for number in range(6):
            sender.sendto(b"%d" % number, transport.get_extra_info("sockname"))
        await until(lambda: protocol.received)
        await asyncio.sleep(0.02)
        assert len(protocol.received) == 2
        assert not transport.is_reading()
        sender.sendto(b"6", transport.get_extra_info("sockname"))
        transport.resume_reading()
        assert transport.is_reading()
        await until(lambda: len(protocol.received) == 7)
    assert [data for data, _ in protocol.received] == [b"%d" % number for number in range(7)]
    await closed(transport)


@PAUSES
@pytest.mark.parametrize("unix", [False, True])
async def test_what_was_kept_comes_after_what_is_scheduled_when_reading_goes_on(tmp_path, unix):
    loop = asyncio.get_running_loop()
    if unix:
        server, protocol = await endpoint(family=socket.AF_UNIX, local_addr=str(tmp_path / "server"))
        name = str(tmp_path / "server")
    else:
        server, protocol = await endpoint()
        name = server.get_extra_info("sockname")
    order = []

    def received(data, addr):
        order.append(data)
        server.pause_reading()

    protocol.datagram_received = received
    with socket.socket(socket.AF_UNIX if unix else socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"one", name)
        sender.sendto(b"two", name)
        await until(lambda: order)
        server.resume_reading()
        loop.call_soon(order.append, "scheduled")
        await until(lambda: len(order) == 3)
    assert order == [b"one", "scheduled", b"two"]
    await closed(server)


async def test_abort_loses_the_connection_once_and_without_an_exception(no_leaks):
    transport, protocol = await endpoint()
    transport.abort()
    transport.abort()
    transport.close()
    assert await protocol.lost is None
    await asyncio.sleep(0)
    assert protocol.events == ["made", "lost"]


async def test_sending_on_a_lost_connected_endpoint_warns_when_it_goes_on(caplog):
    server, protocol, client, _ = await pair()
    client.close()
    with caplog.at_level(logging.WARNING, logger="asyncio"):
        for _ in range(4):
            client.sendto(b"x")
        assert not caplog.records
        client.sendto(b"x")
    assert [record.message for record in caplog.records] == ["socket.send() raised exception."]
    await asyncio.sleep(0.01)
    assert not protocol.received
    await closed(server)


async def test_a_closed_unconnected_endpoint_still_says_goodbye_until_its_connection_is_lost():
    class Goodbye(Recorder):
        def connection_lost(self, exc):
            self.transport.sendto(b"2", name)
            super().connection_lost(exc)

    with plain() as peer:
        name = peer.getsockname()
        transport, protocol = await endpoint(Goodbye)
        transport.close()
        transport.sendto(b"1", name)
        await protocol.lost
        assert (peer.recv(10), peer.recv(10)) == (b"1", b"2")


@ffloop_only
async def test_sending_on_a_lost_unconnected_endpoint_is_dropped():
    # asyncio's transport raises AttributeError: it has let go of its loop.
    transport, protocol = await endpoint()
    transport.close()
    await protocol.lost
    for _ in range(20):
        transport.sendto(b"x", ("127.0.0.1", 9))


@PAUSES
async def test_a_forgotten_endpoint_warns_and_leaves_no_descriptor_open(no_leaks):
    transport, protocol = await endpoint()
    transport.pause_reading()  # else the loop holds it
    del protocol.transport
    shown = repr(transport)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del transport
        collect()
    assert [str(warning.message) for warning in caught] == [f"unclosed transport {shown}"]
    assert caught[0].category is ResourceWarning


async def test_a_protocol_that_is_set_after_the_end_makes_no_unclosed_endpoint():
    transport, protocol = await endpoint()
    transport.close()
    await protocol.lost
    transport.set_protocol(Recorder())
    del protocol.transport
    collect()  # what other tests have left
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del transport
        collect()
    assert not caught


async def test_an_endpoint_whose_creation_is_cancelled_is_closed(no_leaks):
    task = asyncio.create_task(endpoint())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.01)


async def test_the_loop_closes_endpoints_that_are_left(loop):
    await asyncio.to_thread(leave_an_endpoint, type(asyncio.get_running_loop()))


def leave_an_endpoint(factory):
    loop = factory()
    transport, _ = loop.run_until_complete(
        loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    )
    loop.close()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del transport
        collect()
    assert any("unclosed transport" in str(warning.message) for warning in caught)


@ffloop_only
async def test_a_socket_of_a_closed_loop_is_closed_too(no_leaks):
    # On asyncio it stays open until it is collected.
    def scenario():
        loop = type(running)()
        transport, _ = loop.run_until_complete(
            loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
        )
        loop.close()
        assert transport.get_extra_info("socket").fileno() == -1
        transport.sendto(b"x", ("127.0.0.1", 9))
        with pytest.warns(ResourceWarning):
            del transport
            collect()

    running = asyncio.get_running_loop()
    await asyncio.to_thread(scenario)


# Facts


async def test_facts_are_known_from_the_start_and_after_the_end():
    server, _, client, _ = await pair()
    sock = client.get_extra_info("socket")
    assert isinstance(sock, asyncio.trsock.TransportSocket)
    assert sock.family == socket.AF_INET
    assert sock.type == socket.SOCK_DGRAM
    assert sock.getsockname() == client.get_extra_info("sockname")
    assert sock.getpeername() == client.get_extra_info("peername")
    assert client.get_extra_info("nothing", 5) == 5
    name = client.get_extra_info("sockname")
    await closed(server, client)
    assert client.get_extra_info("sockname") == name
    assert sock.fileno() == -1


async def test_repr_tells_the_descriptor_and_what_is_going_on(tmp_path):
    transport, protocol, peer, _ = await full_unix_pair(tmp_path)
    fd = transport.get_extra_info("socket").fileno()
    size = transport.get_write_buffer_size()
    assert f"fd={fd} read=polling write=<polling, bufsize={size}>" in repr(transport)
    transport.close()
    assert f"closing fd={fd} read=idle" in repr(transport)
    transport.abort()
    await protocol.lost
    assert "closed" in repr(transport)
    peer.close()


async def test_a_transports_descriptor_cannot_be_watched():
    transport, _ = await endpoint()
    fd = transport.get_extra_info("socket").fileno()
    with pytest.raises(RuntimeError, match="is used by transport"):
        asyncio.get_running_loop().add_reader(fd, print)
    await closed(transport)


async def test_datagrams_are_received_in_one_context_made_when_receiving_starts():
    variable = contextvars.ContextVar("variable", default=0)

    class Counting(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            variable.set(10)

        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            variable.set(variable.get() + 1)
            seen.append(variable.get())

    seen = []
    variable.set(1)
    transport, _ = await endpoint(Counting)
    variable.set(5)
    with plain() as sender:
        for _ in range(3):
            sender.sendto(b"x", transport.get_extra_info("sockname"))
    await until(lambda: len(seen) == 3)
    assert seen == [2, 3, 4]
    assert variable.get() == 5
    await closed(transport)


# Arguments


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"family": 0}, ValueError, "unexpected address family"),
        ({"local_addr": "127.0.0.1"}, TypeError, "2-tuple is expected"),
        ({"local_addr": ("127.0.0.1", 0, 0)}, TypeError, "2-tuple is expected"),
        ({"local_addr": ("127.0.0.1", 0), "remote_addr": ("::1", 5)}, ValueError, "can not get address information"),
        ({"family": socket.AF_UNIX, "local_addr": ("127.0.0.1", 0)}, TypeError, "string is expected"),
        ({"local_addr": ("203.0.113.7", 0)}, OSError, "Cannot assign requested address"),
    ],
)
async def test_arguments_that_do_not_go_together_are_refused(arguments, error, text, no_leaks):
    with pytest.raises(error, match=text):
        await endpoint(**arguments)


@pytest.mark.parametrize(
    "arguments", [{"local_addr": ("127.0.0.1", 0)}, {"reuse_port": True}, {"family": 2, "proto": 17}]
)
async def test_a_socket_takes_no_modifiers(arguments):
    with plain() as sock:
        given = ", ".join(f"{name}={value}" for name, value in arguments.items())
        with pytest.raises(ValueError, match="socket modifier keyword arguments can not be used") as caught:
            await endpoint(sock=sock, **arguments)
        assert f"({given})" in str(caught.value)
        assert sock.fileno() > 0


async def test_a_stream_socket_is_refused_and_stays_the_callers():
    with (
        socket.socket() as sock,
        pytest.raises(ValueError, match=r"A (datagram socket|UDP Socket) was expected, got <socket"),
    ):
        await endpoint(sock=sock)
    assert sock.fileno() == -1  # closed by `with`: it was still open


async def test_what_the_protocol_factory_raises_is_raised():
    def factory():
        raise ZeroDivisionError

    with plain() as sock:
        with pytest.raises(ZeroDivisionError):
            await endpoint(factory, sock=sock)
        assert sock.fileno() > 0


async def test_two_hundred_endpoints_come_and_go_without_leaving_a_descriptor(no_leaks):
    for _ in range(20):
        pairs = [await endpoint() for _ in range(10)]
        for transport, _ in pairs:
            transport.sendto(b"x", transport.get_extra_info("sockname"))
        await until(lambda: all(protocol.received for _, protocol in pairs))  # noqa: B023
        await closed(*(transport for transport, _ in pairs))

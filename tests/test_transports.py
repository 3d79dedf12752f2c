import asyncio
import contextvars
import logging
import os
import select
import socket
import struct
import sys
import threading
import time
import warnings

import pytest

from .conftest import collect, ffloop_only


class Recorder(asyncio.Protocol):
    """Writes down what it is told."""

    def __init__(self):
        self.events = []
        self.data = b""
        self.lost = asyncio.get_running_loop().create_future()
        self.keep_open = False

    def connection_made(self, transport):
        self.transport = transport
        self.events.append("made")

    def data_received(self, data):
        if self.events[-1] != "data":
            self.events.append("data")
        self.data += data

    def eof_received(self):
        self.events.append("eof")
        return self.keep_open

    def pause_writing(self):
        self.events.append("pause")

    def resume_writing(self):
        self.events.append("resume")

    def connection_lost(self, exc):
        self.events.append("lost")
        self.lost.set_result(exc)


async def pair(protocol=None):
    """A transport with a Recorder, and the plain socket at the other end."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        peer = socket.create_connection(listening.getsockname())
        connection, _ = listening.accept()
    peer.setblocking(False)
    transport, protocol = await loop.connect_accepted_socket(protocol or Recorder, connection)
    return transport, protocol, peer


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_transport_is_an_asyncio_transport_whose_methods_can_be_replaced():
    transport, protocol, peer = await pair()
    assert isinstance(transport, asyncio.Transport)
    written = []
    transport.write = written.append
    transport.write(b"x")
    assert written == [b"x"]
    transport.close()
    await protocol.lost
    peer.close()


async def test_bytes_arrive_then_the_end_then_the_loss():
    _, protocol, peer = await pair()
    peer.send(b"hello")
    await until(lambda: protocol.data)
    peer.close()
    assert await protocol.lost is None
    assert protocol.data == b"hello"
    assert protocol.events == ["made", "data", "eof", "lost"]


async def test_a_protocol_that_keeps_the_connection_open_can_still_write():
    transport, protocol, peer = await pair()
    protocol.keep_open = True
    peer.shutdown(socket.SHUT_WR)
    await until(lambda: "eof" in protocol.events)
    transport.write(b"still here")
    transport.close()
    await protocol.lost
    assert await asyncio.get_running_loop().sock_recv(peer, 100) == b"still here"
    peer.close()


async def test_several_writes_arrive_in_order_and_close_sends_them_first():
    transport, protocol, peer = await pair()
    transport.write(b"header ")
    transport.write(bytearray(b"body "))
    transport.writelines([b"a", memoryview(b"b"), b"c"])
    transport.close()
    assert transport.is_closing()
    assert await protocol.lost is None
    assert peer.recv(100) == b"header body abc"
    assert peer.recv(100) == b""
    peer.close()


async def test_a_buffer_that_is_changed_after_the_write_is_sent_as_it_was():
    transport, protocol, peer = await pair()
    data = bytearray(b"before")
    transport.write(data)
    data[:] = b"after!"
    transport.close()
    await protocol.lost
    assert peer.recv(100) == b"before"
    peer.close()


async def test_what_was_written_when_the_loop_stops_has_left():
    transport, protocol, peer = await pair()
    loop = asyncio.get_running_loop()
    other = type(loop)()

    # In a loop of its own, because this one is running.
    def scenario():
        left, right = socket.socketpair()
        transport, protocol = other.run_until_complete(other.connect_accepted_socket(asyncio.Protocol, left))
        other.call_soon(transport.write, b"out")
        other.call_soon(other.stop)
        other.run_forever()
        right.settimeout(10)
        received = right.recv(10)
        transport.abort()
        other.run_until_complete(asyncio.sleep(0))
        other.close()
        right.close()
        return received

    assert await loop.run_in_executor(None, scenario) == b"out"
    transport.close()
    await protocol.lost
    peer.close()


@pytest.mark.parametrize("wrong", ["text", 5, None, [b"x"], (b"x",), (), (b"x", 1)])
async def test_write_refuses_what_is_not_bytes_like(wrong):
    transport, protocol, peer = await pair()
    with pytest.raises(TypeError, match="data argument must be a bytes"):
        transport.write(wrong)
    transport.close()
    await protocol.lost
    peer.close()


async def test_write_after_write_eof_is_refused():
    transport, protocol, peer = await pair()
    assert transport.can_write_eof()
    transport.write(b"last")
    transport.write_eof()
    with pytest.raises(RuntimeError, match=r"Cannot call write\(\) after write_eof\(\)"):
        transport.write(b"more")
    loop = asyncio.get_running_loop()
    assert await loop.sock_recv(peer, 100) == b"last"
    assert await loop.sock_recv(peer, 100) == b""
    peer.send(b"reading goes on")
    await until(lambda: protocol.data)
    transport.close()
    await protocol.lost
    peer.close()


async def test_write_after_close_is_dropped_with_a_warning(caplog):
    transport, protocol, peer = await pair()
    transport.close()
    with caplog.at_level(logging.WARNING, "asyncio"):
        for _ in range(6):
            transport.write(b"x")
    assert "socket.send() raised exception." in caplog.text
    await protocol.lost
    transport.write(b"x")
    assert peer.recv(100) == b""
    peer.close()


async def test_the_protocol_is_paused_above_the_high_water_mark_and_resumed_below_the_low_one():
    transport, protocol, peer = await pair()
    data = b"x" * 8_000_000
    transport.write(data)
    assert protocol.events[-1] == "pause"
    assert transport.get_write_buffer_size() > 64 * 1024
    loop = asyncio.get_running_loop()
    received = 0
    while received < len(data):
        received += len(await loop.sock_recv(peer, 1 << 20))
    await until(lambda: protocol.events[-1] == "resume")
    assert transport.get_write_buffer_size() == 0
    transport.close()
    await protocol.lost
    peer.close()


async def test_water_marks_are_asyncios():
    transport, protocol, peer = await pair()
    assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
    transport.set_write_buffer_limits(high=1000)
    assert transport.get_write_buffer_limits() == (250, 1000)
    with pytest.raises(ValueError, match="must be >="):
        transport.set_write_buffer_limits(high=1, low=2)
    transport.write(b"x")
    assert transport.get_write_buffer_size() == 0
    transport.close()
    await protocol.lost
    peer.close()


async def test_with_a_mark_of_zero_the_protocol_is_paused_only_by_what_the_kernel_leaves():
    transport, protocol, peer = await pair()
    transport.set_write_buffer_limits(high=0)
    transport.write(b"x")
    assert "pause" not in protocol.events
    transport.write(b"x" * 8_000_000)
    assert "pause" in protocol.events
    transport.abort()
    await protocol.lost
    peer.close()


async def test_water_marks_may_be_fractions():
    transport, protocol, peer = await pair()
    transport.set_write_buffer_limits(high=1.5, low=0.5)
    assert transport.get_write_buffer_limits() == (0.5, 1.5)
    transport.write(b"x" * 8_000_000)
    assert "pause" in protocol.events
    peer.setblocking(False)
    received = 0
    while received < 8_000_000:
        received += len(await asyncio.get_running_loop().sock_recv(peer, 1 << 20))
    await until(lambda: protocol.events[-1] == "resume")
    transport.close()
    await protocol.lost
    peer.close()


async def test_abort_drops_what_was_not_sent():
    transport, protocol, peer = await pair()
    transport.write(b"x" * 8_000_000)
    transport.abort()
    assert await protocol.lost is None
    assert "resume" not in protocol.events
    peer.close()


async def test_a_paused_transport_keeps_what_has_arrived_until_it_is_resumed():
    transport, protocol, peer = await pair()
    assert transport.is_reading()
    transport.pause_reading()
    transport.pause_reading()
    assert not transport.is_reading()
    peer.send(b"kept")
    await asyncio.sleep(0.02)
    assert protocol.data == b""
    transport.resume_reading()
    await until(lambda: protocol.data)
    assert protocol.data == b"kept"
    transport.close()
    await protocol.lost
    peer.close()


async def test_a_transport_paused_by_another_ones_callback_in_the_same_turn_keeps_its_bytes():
    first, _, first_peer = await pair()
    second, second_protocol, second_peer = await pair()
    order = []

    class Pauses(Recorder):
        def data_received(self, data):
            order.append("first")
            second.pause_reading()

    first.set_protocol(Pauses())
    second_data = second_protocol.data_received
    second_protocol.data_received = lambda data: (order.append("second"), second_data(data))
    # Both are readable when the loop polls next; whichever comes first, no byte may be lost.
    first_peer.send(b"x")
    second_peer.send(b"y")
    await until(lambda: "first" in order)
    await asyncio.sleep(0.01)
    second.resume_reading()
    await until(lambda: second_protocol.data)
    assert second_protocol.data == b"y"
    for transport in (first, second):
        transport.abort()
    await second_protocol.lost
    first_peer.close()
    second_peer.close()


async def test_a_transport_closed_by_another_ones_callback_in_the_same_turn_gets_nothing_more():
    transports, protocols, peers = [], [], []
    for _ in range(5):
        transport, protocol, peer = await pair()
        transports.append(transport)
        protocols.append(protocol)
        peers.append(peer)
    received = []

    def data_received(data):
        received.append(data)
        for transport in transports:
            transport.close()

    for protocol in protocols:
        protocol.data_received = data_received
    for peer in peers:
        peer.send(b"x")
    for protocol in protocols:
        await protocol.lost
    assert received == [b"x"]
    for peer in peers:
        peer.close()


async def test_large_and_small_pieces_alternate_and_a_pause_between_them_loses_nothing():
    transport, protocol, peer = await pair()
    sent = bytearray()
    arrived = lambda: len(protocol.data) == len(sent)  # noqa: E731
    for size in (200_000, 10, 200_000, 40_000, 1):
        piece = bytes([len(sent) % 251]) * size
        sent += piece
        await asyncio.get_running_loop().sock_sendall(peer, piece)
        await until(arrived)
        transport.pause_reading()
        sent += b"paused"
        peer.send(b"paused")
        await asyncio.sleep(0.01)
        assert len(protocol.data) == len(sent) - 6
        transport.resume_reading()
        await until(arrived)
    assert protocol.data == sent
    await asyncio.get_running_loop().sock_sendall(peer, b"x" * 100_000)
    peer.close()
    assert await protocol.lost is None
    assert protocol.data == sent + b"x" * 100_000
    assert protocol.events == ["made", "data", "eof", "lost"]


async def test_a_connection_reset_after_a_large_piece_is_lost_with_the_error():
    _, protocol, peer = await pair()
    await asyncio.get_running_loop().sock_sendall(peer, b"x" * 1_000_000)
    await until(lambda: len(protocol.data) == 1_000_000)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    assert isinstance(await protocol.lost, ConnectionResetError)


async def test_a_protocol_switched_inside_data_received_gets_what_comes_next():
    transport, protocol, peer = await pair()
    second = Recorder()
    second.events.append("switched")

    def switch(data):
        protocol.data += data
        transport.set_protocol(second)

    protocol.data_received = switch
    assert transport.get_protocol() is protocol
    peer.send(b"one")
    await until(lambda: protocol.data)
    peer.send(b"two")
    await until(lambda: second.data)
    assert (protocol.data, second.data) == (b"one", b"two")
    transport.close()
    await second.lost
    peer.close()


class Buffered(asyncio.BufferedProtocol):
    """Receives into a small buffer."""

    def __init__(self, size=10):
        self.buffer = bytearray(size)
        self.data = b""
        self.hints = []
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, sizehint):
        self.hints.append(sizehint)
        return self.buffer

    def buffer_updated(self, nbytes):
        self.data += self.buffer[:nbytes]

    def connection_lost(self, exc):
        self.lost.set_result(exc)


async def test_a_buffered_protocol_gets_all_bytes_through_a_small_buffer():
    transport, protocol, peer = await pair(Buffered)
    data = bytes(range(256)) * 4
    peer.send(data)
    await until(lambda: len(protocol.data) == len(data))
    assert protocol.data == data
    assert set(protocol.hints) == {-1}
    peer.close()
    assert await protocol.lost is None


async def test_a_buffered_protocol_that_pauses_gets_the_rest_when_it_resumes():
    transport, protocol, peer = await pair(Buffered)
    update = protocol.buffer_updated

    def pause(nbytes):
        update(nbytes)
        transport.pause_reading()

    protocol.buffer_updated = pause
    peer.send(b"0123456789abcdefghij")
    await until(lambda: protocol.data)
    await asyncio.sleep(0.01)
    assert protocol.data == b"0123456789"
    transport.resume_reading()
    await until(lambda: len(protocol.data) == 20)
    assert protocol.data == b"0123456789abcdefghij"
    transport.close()
    await protocol.lost
    peer.close()


async def test_a_plain_protocol_takes_over_from_a_buffered_one_in_the_middle_of_a_piece():
    transport, protocol, peer = await pair(Buffered)
    plain = Recorder()
    plain.events.append("switched")
    update = protocol.buffer_updated

    def switch(nbytes):
        update(nbytes)
        transport.set_protocol(plain)

    protocol.buffer_updated = switch
    peer.send(b"0123456789abcdefghij")
    await until(lambda: plain.data)
    assert (protocol.data, plain.data) == (b"0123456789", b"abcdefghij")
    transport.close()
    await plain.lost
    peer.close()


async def test_an_empty_buffer_is_an_error():
    loop = asyncio.get_running_loop()
    told = []
    loop.set_exception_handler(lambda loop, context: told.append(context))
    _, protocol, peer = await pair(lambda: Buffered(0))
    peer.send(b"x")
    exc = await protocol.lost
    assert str(exc) == "get_buffer() returned an empty buffer"
    assert told[0]["message"] == "Fatal error: protocol.get_buffer() call failed."
    peer.close()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("data_received", "Fatal error: protocol.data_received() call failed."),
        ("eof_received", "Fatal error: protocol.eof_received() call failed."),
    ],
)
async def test_an_exception_in_a_protocol_closes_its_connection_and_nothing_else(method, message):
    loop = asyncio.get_running_loop()
    told = []
    loop.set_exception_handler(lambda loop, context: told.append(context))
    transport, protocol, peer = await pair()
    error = ValueError("the protocol's own")

    def fail(*args):
        raise error

    setattr(protocol, method, fail)
    if method == "data_received":
        peer.send(b"x")
    else:
        peer.shutdown(socket.SHUT_WR)
    assert await protocol.lost is error
    assert [context["message"] for context in told] == [message]
    assert told[0]["transport"] is transport
    assert told[0]["protocol"] is protocol
    peer.close()


async def test_a_reset_connection_is_lost_with_the_error():
    _, protocol, peer = await pair()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    assert isinstance(await protocol.lost, ConnectionResetError)


@pytest.mark.parametrize("size", [1, 100_000])
async def test_a_reset_that_comes_with_what_is_answered_to_the_reset_connection_is_the_reason(size):
    _, first, peer = await pair()
    transport, second, reset = await pair()

    def answer(data):
        transport.write(b"x" * size)

    first.data_received = answer
    await asyncio.sleep(0)
    # Both are there by the next poll, in this order.
    peer.send(b"x")
    reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    reset.close()
    assert isinstance(await second.lost, ConnectionResetError)
    peer.close()


async def test_writing_to_a_peer_that_has_gone_loses_the_connection():
    transport, protocol, peer = await pair()
    protocol.keep_open = True
    peer.close()
    await until(lambda: "eof" in protocol.events)
    while not protocol.lost.done():
        transport.write(b"x" * 1000)
        await asyncio.sleep(0.001)
    assert isinstance(protocol.lost.result(), ConnectionError)


async def test_extra_info_tells_of_the_socket_and_both_ends():
    transport, protocol, peer = await pair()
    assert transport.get_extra_info("peername") == peer.getsockname()
    assert transport.get_extra_info("sockname") == peer.getpeername()
    sock = transport.get_extra_info("socket")
    assert isinstance(sock, asyncio.trsock.TransportSocket)
    assert sock.family == socket.AF_INET
    assert sock.type == socket.SOCK_STREAM
    assert sock.gettimeout() == 0
    assert transport.get_extra_info("nothing", "default") == "default"
    transport.close()
    await protocol.lost
    await asyncio.sleep(0)
    assert sock.fileno() == -1
    assert transport.get_extra_info("peername") == peer.getsockname()
    assert transport.get_extra_info("sockname") == peer.getpeername()
    peer.close()


async def test_the_socket_object_that_users_get_closes_nothing_when_it_goes():
    transport, protocol, peer = await pair()
    sock = transport.get_extra_info("socket")
    fd = sock.fileno()
    del sock
    collect()
    peer.send(b"x")
    await until(lambda: protocol.data)
    transport.close()
    await protocol.lost
    await asyncio.sleep(0)
    # Another connection gets the number; nothing of the first may close it.
    other, other_protocol, other_peer = await pair()
    transport = None
    collect()
    other_peer.send(b"alive")
    await until(lambda: other_protocol.data)
    assert other_protocol.data == b"alive"
    assert fd > 2
    other.close()
    await other_protocol.lost
    peer.close()
    other_peer.close()


async def test_facts_are_known_as_long_as_the_transport_is_and_may_be_added_to():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    transport, protocol = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
    names = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
    assert names[0][0] == "127.0.0.1"
    assert names[1] == server.sockets[0].getsockname()
    assert transport.get_extra_info("nothing") is None
    assert transport.get_extra_info("nothing", "default") == "default"
    transport._extra["mine"] = 1
    assert transport.get_extra_info("mine") == 1
    assert transport.get_extra_info("socket").getpeername() == names[1]
    transport.close()
    await protocol.lost
    assert (transport.get_extra_info("sockname"), transport.get_extra_info("peername")) == names
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_connection_that_is_lost_tells_both_names_though_nobody_has_asked_before(host):
    loop = asyncio.get_running_loop()
    told = loop.create_future()

    class Asks(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def connection_lost(self, exc):
            told.set_result([self.transport.get_extra_info(name) for name in ("sockname", "peername", "sockname")])

    server = await loop.create_server(Asks, host, 0)
    client = socket.create_connection(server.sockets[0].getsockname()[:2])
    names = client.getpeername(), client.getsockname()
    client.close()
    sockname, peername, again = await asyncio.wait_for(told, 10)
    assert (sockname, peername) == names
    assert again == sockname
    server.close()
    await server.wait_closed()


async def test_the_descriptor_of_a_transport_that_has_gone_is_anybodys_to_watch():
    loop = asyncio.get_running_loop()
    transport, protocol, peer = await pair()
    number = transport.get_extra_info("socket").fileno()
    with pytest.raises(RuntimeError, match="is used by transport"):
        loop.add_reader(number, print)
    transport.close()
    await protocol.lost
    await asyncio.sleep(0)
    left, right = sorted(socket.socketpair(), key=lambda end: end.fileno() != number)
    if left.fileno() != number:  # then nobody has it
        os.dup2(left.fileno(), number)
        left.close()
        left = socket.socket(fileno=number)
    # The transport is there yet, and has the number no more.
    for _ in range(2):
        ready = loop.create_future()
        loop.add_reader(left, ready.set_result, None)
        right.send(b"x")
        await asyncio.wait_for(ready, 10)
        assert loop.remove_reader(left)
        transport = protocol.transport = None
        collect()
    left.close()
    right.close()
    peer.close()


async def test_a_forgotten_transport_warns_and_closes_its_descriptor(no_leaks):
    left, right = socket.socketpair()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, left)
    transport.pause_reading()  # the loop keeps one that reads
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del transport
        collect()
    assert any(issubclass(warning.category, ResourceWarning) for warning in caught)
    assert right.recv(1) == b""
    right.close()


async def test_callbacks_run_in_the_context_that_the_transport_was_made_in():
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []

    class Looks(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            seen.append(variable.get())

        def data_received(self, data):
            seen.append(variable.get())
            variable.set("changed by data")

        def eof_received(self):
            seen.append(variable.get())

        def connection_lost(self, exc):
            super().connection_lost(exc)

    variable.set("creator")
    _, protocol, peer = await pair(Looks)
    variable.set("later")
    peer.send(b"x")
    await until(lambda: len(seen) == 2)
    peer.close()
    await protocol.lost
    assert seen == ["creator", "creator", "changed by data"]


async def test_repr_tells_the_state():
    transport, protocol, peer = await pair()
    assert "read=polling" in repr(transport)
    transport.pause_reading()
    assert "read=idle" in repr(transport)
    transport.close()
    assert "closing" in repr(transport)
    await protocol.lost
    await asyncio.sleep(0)
    assert "closed" in repr(transport)
    peer.close()


@ffloop_only
async def test_header_and_body_leave_in_one_piece():
    # stdlib asyncio sends each write by itself.
    transport, protocol, peer = await pair()
    peer.setblocking(True)
    transport.write(b"header")
    transport.write(b"body")
    peer.setblocking(False)
    with pytest.raises(BlockingIOError):
        peer.recv(100)
    assert transport.get_write_buffer_size() == 0
    assert peer.recv(100) == b"headerbody"
    transport.close()
    await protocol.lost
    peer.close()


@ffloop_only
async def test_nagles_algorithm_is_off_whatever_the_sockets_protocol_number():
    # stdlib asyncio leaves it on for a socket that was made with proto=0.
    transport, protocol, peer = await pair()
    sock = transport.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    transport.close()
    await protocol.lost
    peer.close()


@ffloop_only
async def test_many_small_writes_in_one_turn_do_not_get_slower_with_their_number():
    transport, protocol, peer = await pair()
    for _ in range(30_000):
        transport.write(b"x")
    assert transport._more_size == 29_999
    transport.abort()
    await protocol.lost
    peer.close()


def arrived(peer, limit=0):
    """Whether there is something to read for `peer`, or will be within `limit` seconds, while the loop stands still."""
    return bool(select.select([peer], [], [], limit)[0])


async def answer(transport, peer, count):
    """Write once in each of `count` turns."""
    for _ in range(count):
        transport.write(b"x")
        await until(lambda: arrived(peer))
        assert peer.recv(100) == b"x"
        await asyncio.sleep(0)


async def test_the_only_write_of_a_turn_does_not_wait_for_its_end_when_it_is_one_of_many_such():
    transport, protocol, peer = await pair()
    await answer(transport, peer, 20)
    transport.write(b"first")
    assert arrived(peer, 10)
    transport.write(b" second")
    await until(lambda: len(peer.recv(100, socket.MSG_PEEK)) == 12)
    transport.close()
    await protocol.lost
    assert peer.recv(100) == b"first second"
    assert peer.recv(100) == b""
    peer.close()


@ffloop_only
async def test_a_transport_that_writes_twice_in_a_turn_sends_both_at_its_end_and_so_do_the_next_ones():
    transport, protocol, peer = await pair()
    await answer(transport, peer, 20)
    transport.write(b"header ")
    assert arrived(peer, 10)  # nothing has told yet that there will be a second
    transport.write(b"body ")
    await until(lambda: len(peer.recv(100, socket.MSG_PEEK)) == 12)
    for _ in range(3):
        transport.write(b"header ")
        transport.write(b"body ")
        assert peer.recv(100)
        assert not arrived(peer)
        await until(lambda: arrived(peer))
        assert peer.recv(100, socket.MSG_PEEK) == b"header body "
    transport.close()
    await protocol.lost
    peer.close()


@ffloop_only
async def test_a_write_waits_for_the_end_of_the_turn_while_something_else_is_ready_in_it():
    transport, protocol, peer = await pair()
    await answer(transport, peer, 20)
    seen = []
    loop = asyncio.get_running_loop()
    loop.call_soon(transport.write, b"x")
    loop.call_soon(lambda: seen.append(arrived(peer)))
    await until(lambda: arrived(peer))
    assert seen == [False]
    transport.close()
    await protocol.lost
    peer.close()


async def test_a_write_that_is_sent_at_once_to_a_peer_that_has_gone_is_an_end_and_no_exception():
    transport, protocol, peer = await pair()
    await answer(transport, peer, 20)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    transport.write(b"x")
    transport.write(b"y")
    assert isinstance(await protocol.lost, ConnectionError)
    assert protocol.events[-1] == "lost"


async def test_a_writer_is_resumed_as_soon_as_the_low_mark_is_reached():
    transport, protocol, peer = await pair()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    transport.set_write_buffer_limits(high=4_000_000, low=3_000_000)
    transport.write(b"x" * 12_000_000)
    assert protocol.events[-1] == "pause"
    loop = asyncio.get_running_loop()
    received = 0
    # The peer stops as soon as no more than the low mark can be left in the buffer.
    while received < 10_000_000 and protocol.events[-1] == "pause":
        received += len(await loop.sock_recv(peer, 1 << 20))
    await until(lambda: protocol.events[-1] == "resume")
    transport.abort()
    await protocol.lost
    peer.close()


async def test_shutting_the_socket_down_sends_what_was_written_before():
    transport, protocol, peer = await pair()
    sock = transport.get_extra_info("socket")
    transport.write(b"first")
    sock.shutdown(socket.SHUT_WR)
    loop = asyncio.get_running_loop()
    assert await loop.sock_recv(peer, 100) == b"first"
    assert await loop.sock_recv(peer, 100) == b""
    peer.close()
    await protocol.lost


async def test_a_duplicate_of_the_socket_is_its_owners_to_close():
    import os

    transport, protocol, peer = await pair()
    duplicate = transport.get_extra_info("socket").dup()
    fd = duplicate.fileno()
    duplicate.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    transport.close()
    await protocol.lost
    peer.close()


@pytest.mark.asyncio(loop_factories=["asyncio", "ffloop"] if sys.version_info >= (3, 15) else ["ffloop"])
async def test_all_callbacks_of_a_connection_run_in_one_context_whoever_writes_or_resumes():
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []

    def look(*_):
        seen.append(variable.get())
        variable.set(f"call {len(seen)}")

    class Looks(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            look()

        def data_received(self, data):
            look()

        def resume_writing(self):
            look()

        def connection_lost(self, exc):
            super().connection_lost(exc)
            look()

    transport, protocol, peer = await pair(Looks)

    async def write():
        variable.set("writer")
        transport.pause_reading()
        transport.resume_reading()
        transport.write(b"x" * 8_000_000)

    await asyncio.create_task(write())
    peer.send(b"x")
    loop = asyncio.get_running_loop()
    received = 0
    while received < 8_000_000:
        received += len(await loop.sock_recv(peer, 1 << 20))
    await until(lambda: len(seen) == 3)
    variable.set("closer")
    transport.close()
    await protocol.lost
    peer.close()
    assert seen == ["unset", "call 1", "call 2", "call 3"]


async def test_what_a_buffered_protocol_schedules_runs_between_two_fillings():
    order = []

    class Schedules(Buffered):
        def buffer_updated(self, nbytes):
            super().buffer_updated(nbytes)
            order.append("filled")
            asyncio.get_running_loop().call_soon(order.append, "scheduled")

    transport, protocol, peer = await pair(lambda: Schedules(4))
    peer.send(b"0123456789")
    await until(lambda: len(order) == 6)
    assert order == ["filled", "scheduled"] * 3
    transport.close()
    await protocol.lost
    peer.close()


async def test_write_eof_on_a_broken_connection_raises():
    transport, protocol, peer = await pair()
    transport.pause_reading()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    await asyncio.sleep(0.01)
    with pytest.raises(OSError, match="not connected"):
        transport.write_eof()
    transport.abort()
    await protocol.lost


@pytest.mark.parametrize("kind", [asyncio.Protocol, asyncio.BufferedProtocol])
@pytest.mark.parametrize("size", [1000, 100_000])
def test_what_comes_while_a_protocol_runs_the_loop_is_delivered_when_it_returns(loop, errors, kind, size):
    left, right = socket.socketpair()

    class Nesting(kind):
        def __init__(self):
            self.got, self.inside, self.sent, self.buffer = b"", False, 1, bytearray(7000)

        def data_received(self, data):
            assert not self.inside
            self.got += data
            self.inside = True
            if len(self.got) == self.sent * size:
                if self.sent < 6:
                    right.sendall(bytes([self.sent]) * size)
                    self.sent += 1
                else:
                    right.close()
            for _ in range(4):
                loop.call_soon(int)  # what nest_asyncio does: a turn, from inside of one
                loop._run_once()
            self.inside = False

        def get_buffer(self, hint):
            return self.buffer

        def buffer_updated(self, nbytes):
            self.data_received(bytes(self.buffer[:nbytes]))

        def eof_received(self):
            assert not self.inside

        def connection_lost(self, exc):
            assert exc is None
            loop.stop()

    with right:
        _, protocol = loop.run_until_complete(loop.connect_accepted_socket(Nesting, left))
        right.sendall(bytes(size))
        loop.run_forever()
    assert protocol.got == b"".join(bytes([n]) * size for n in range(6))
    # asyncio reports each time that it could not enter the context of the callback under way.
    assert not errors or isinstance(loop, asyncio.SelectorEventLoop)


@pytest.mark.parametrize("came", [b"bytes", b""], ids=["bytes", "the end"])
def test_what_came_before_a_protocol_with_a_buffer_comes_again_when_it_is_interrupted(loop, came):
    left, right = socket.socketpair()
    got = []

    class Interrupted(asyncio.BufferedProtocol):
        buffer = None

        def get_buffer(self, sizehint):
            if self.buffer is None:
                self.buffer = bytearray(10)
                raise KeyboardInterrupt
            return self.buffer

        def buffer_updated(self, nbytes):
            got.append(bytes(self.buffer[:nbytes]))
            loop.stop()

        def eof_received(self):
            got.append(b"")
            loop.stop()

    with right:
        transport, _ = loop.run_until_complete(loop.connect_accepted_socket(asyncio.Protocol, left))
        right.send(came) if came else right.shutdown(socket.SHUT_WR)
        loop.call_soon(transport.set_protocol, Interrupted())  # what came is read in this turn, and meets this protocol
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
        limit = loop.call_later(10, loop.stop)
        loop.run_forever()
        limit.cancel()
        assert got == [came]
        transport.abort()
        loop.run_until_complete(asyncio.sleep(0))


def test_the_socket_of_a_transport_lets_go_of_the_descriptor_when_the_loop_is_closed(loop):
    left, right = socket.socketpair()
    transport, _ = loop.run_until_complete(loop.connect_accepted_socket(asyncio.Protocol, left))
    borrowed = transport.get_extra_info("socket")
    assert borrowed.fileno() != -1
    loop.close()
    if not isinstance(loop, asyncio.SelectorEventLoop):  # which leaves it to the garbage collector
        assert borrowed.fileno() == -1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del transport
        collect()
    right.close()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_datagrams_that_come_while_a_protocol_runs_the_loop_are_delivered_when_it_returns(loop, family, tmp_path):
    class Nesting(asyncio.DatagramProtocol):
        got, inside = [], False

        def datagram_received(self, data, address):
            assert not self.inside
            self.got.append(int(data))
            self.inside = True
            for number in numbers[:3]:
                sender.send(b"%d" % number)
                numbers.remove(number)
                loop.call_soon(int)  # what nest_asyncio does: a turn, from inside of one
                loop._run_once()
            self.inside = False
            if self.got[-1] == 9:
                loop.stop()

    loop.set_exception_handler(lambda loop, context: None)  # asyncio tells each time of the context that is entered
    numbers = list(range(1, 10))  # a socket of Unix's queues no more
    Nesting.got = []
    with socket.socket(family, socket.SOCK_DGRAM) as receiver, socket.socket(family, socket.SOCK_DGRAM) as sender:
        receiver.bind(("127.0.0.1", 0) if family == socket.AF_INET else str(tmp_path / "socket"))
        sender.connect(receiver.getsockname())
        transport, protocol = loop.run_until_complete(loop.create_datagram_endpoint(Nesting, sock=receiver))
        sender.send(b"0")
        loop.run_forever()
        transport.close()
        loop.run_until_complete(asyncio.sleep(0))
    assert protocol.got == list(range(10))


async def test_a_closed_transport_that_gets_another_protocol_is_collected_in_silence():
    transport, protocol, peer = await pair()
    transport.close()
    await protocol.lost
    del protocol
    transport.set_protocol(asyncio.Protocol())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        collect()  # what other tests have left
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del transport
        collect()
    assert [item for item in caught if "unclosed transport" in str(item.message)] == []
    peer.close()


async def test_what_was_written_before_abort_has_left():
    transport, protocol, peer = await pair()
    loop = asyncio.get_running_loop()
    transport.write(b"going")
    transport.abort()
    assert await protocol.lost is None
    assert await loop.sock_recv(peer, 100) == b"going"
    peer.close()


async def test_what_a_protocol_wrote_before_it_raised_has_left():
    class Fails(Recorder):
        def data_received(self, data):
            self.transport.write(b"answer")
            raise ValueError("too much")

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: None)
    _, protocol, peer = await pair(Fails)
    peer.send(b"question")
    assert str(await protocol.lost) == "too much"
    assert await loop.sock_recv(peer, 100) == b"answer"
    peer.close()


@ffloop_only  # it changes its way of reading where asyncio has one
async def test_a_connection_that_cannot_be_read_in_another_way_ends():
    def fail():
        raise OSError("no way")

    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    transport, protocol, peer = await pair()
    transport._expect_large = fail
    peer.send(b"x" * 100_000)
    assert str(await protocol.lost) == "no way"
    peer.close()


async def test_a_buffer_that_cannot_be_written_to_is_a_type_error():
    class Constant(Recorder, asyncio.BufferedProtocol):
        def get_buffer(self, sizehint):
            return b"constant"

    told = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
    _, protocol, peer = await pair(Constant)
    peer.send(b"x")
    failure = await protocol.lost
    assert isinstance(failure, TypeError)
    assert "read-write bytes-like object" in str(failure)
    assert told[0]["message"] == "Fatal read error on socket transport"
    peer.close()


async def test_nothing_is_left_to_send_after_abort():
    transport, protocol, peer = await pair()
    transport.write(b"x" * 8_000_000)
    transport.abort()
    assert transport.get_write_buffer_size() == 0
    await protocol.lost
    peer.close()


async def test_a_protocol_set_after_the_end_does_not_get_the_end_again():
    transport, protocol, peer = await pair()
    protocol.keep_open = True
    peer.shutdown(socket.SHUT_WR)
    await until(lambda: "eof" in protocol.events)
    second = Recorder()
    transport.set_protocol(second)
    transport.write(b"still open")
    assert await asyncio.get_running_loop().sock_recv(peer, 100) == b"still open"
    await asyncio.sleep(0.01)
    assert second.events == []
    transport.close()
    await second.lost
    peer.close()


async def test_who_pauses_and_resumes_after_the_end_gets_it_again_and_can_write_on():
    transport, protocol, peer = await pair()
    protocol.keep_open = True
    peer.send(b"x")
    peer.shutdown(socket.SHUT_WR)
    await until(lambda: "eof" in protocol.events)
    for _ in range(2):
        transport.pause_reading()
        transport.resume_reading()
        await asyncio.sleep(0.01)
    assert protocol.events == ["made", "data", "eof", "eof", "eof"]
    transport.write(b"still open")
    assert await asyncio.get_running_loop().sock_recv(peer, 100) == b"still open"
    transport.close()
    assert await protocol.lost is None
    peer.close()


async def test_bytes_that_came_for_a_protocol_with_a_buffer_go_to_one_without_that_is_set_meanwhile():
    class Buffered(Recorder, asyncio.BufferedProtocol):
        def get_buffer(self, sizehint):
            raise AssertionError("not called")

    transport, _, peer = await pair(Buffered)
    second = Recorder()
    second.events.append("set")
    peer.send(b"late")
    asyncio.get_running_loop().call_soon(transport.set_protocol, second)
    await until(lambda: second.data or not transport.is_reading())
    assert second.data == b"late"
    transport.close()
    await second.lost
    peer.close()


async def test_a_failing_protocol_loses_its_connection_in_the_context_that_it_has_set():
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []

    class Fails(Recorder):
        def data_received(self, data):
            variable.set("set")
            raise ValueError

        def connection_lost(self, exc):
            seen.append(variable.get())
            super().connection_lost(exc)

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: seen.append(variable.get()))
    _, protocol, peer = await pair(Fails)
    peer.send(b"x")
    await protocol.lost
    assert seen == ["set", "set"]
    peer.close()


async def test_a_protocol_with_a_buffer_is_asked_for_it_before_an_end_that_came_earlier():
    class Buffered(Recorder, asyncio.BufferedProtocol):
        def get_buffer(self, sizehint):
            self.events.append("buffer")
            return bytearray(10)

    transport, protocol, peer = await pair()
    second = Buffered()
    peer.close()
    asyncio.get_running_loop().call_soon(transport.set_protocol, second)
    await second.lost
    assert second.events == ["buffer", "eof", "lost"]


@ffloop_only
@pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning")
@pytest.mark.parametrize("action", ["write", "close", "abort"])
async def test_a_protocol_whose_finalizer_uses_the_transport_ends_no_more_than_that_connection(action):
    """Both are garbage at once, and the transport's finalizer may have been first.

    For ffloop alone: what asyncio tells its protocol then depends on who was first.
    """
    told = []

    class Late:
        def __del__(self):
            getattr(self.transport, action)(*([b"x"] if action == "write" else []))

    class Forgotten(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
            self.first, self.last = Late(), Late()
            self.first.transport = self.last.transport = transport

        def connection_lost(self, exc):
            told.append(exc)

    transport, protocol, peer = await pair(Forgotten)
    transport.pause_reading()
    del transport, protocol
    await asyncio.sleep(0)
    collect()
    await until(lambda: told)
    assert isinstance(told[0], OSError if action == "write" else type(None))
    assert len(told) == 1
    peer.close()


@ffloop_only
@pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning")
async def test_a_server_counts_a_connection_once_that_is_closed_after_it_was_collected():
    """For ffloop alone: what asyncio's wait_closed() waits for depends on the version."""

    class Forgotten(asyncio.Protocol):
        def connection_made(self, transport):
            transport.pause_reading()
            self.transport = transport

        def __del__(self):
            self.transport.close()

        def connection_lost(self, exc):
            events.append("lost")

    class Kept(asyncio.Protocol):
        def connection_made(self, transport):
            events.append(transport)

    events = []
    protocols = [Kept, Forgotten]
    server = await asyncio.get_running_loop().create_server(lambda: protocols.pop()(), "127.0.0.1", 0)
    peers = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(2)]
    await until(lambda: len(events) == 1 and not protocols)
    await asyncio.sleep(0)
    collect()
    await until(lambda: len(events) == 2)
    server.close()
    closed = asyncio.create_task(server.wait_closed())
    await asyncio.sleep(0.01)
    assert not closed.done()
    events[0].close()
    await asyncio.wait_for(closed, 10)
    for peer in peers:
        peer.close()


@pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning")
async def test_a_transport_that_is_forgotten_while_an_exception_passes_leaves_that_as_it_is():
    class Endless:
        def __init__(self, held):
            self.held = held

        def __iter__(self):
            return self

        def __next__(self):
            return 0

    def fail(box):
        for _ in Endless(box.pop()):  # the frame alone holds it, until the exception leaves the frame
            try:
                raise KeyError
            except KeyError:
                raise ValueError from None

    transport, protocol, peer = await pair()
    transport.pause_reading()
    await asyncio.sleep(0)
    protocol.transport = None
    box = [transport]
    del transport
    try:
        try:
            raise OSError
        except OSError:
            fail(box)
    except ValueError as exc:
        caught = exc
    assert isinstance(caught.__context__, KeyError)
    assert isinstance(caught.__context__.__context__, OSError)
    peer.close()


@ffloop_only  # asyncio's takes the transport apart in that thread, and wakes nobody
@pytest.mark.parametrize("how", ["close", "abort"])
async def test_another_thread_has_the_loop_close_a_connection(how):
    # Nobody should, but garbage is collected in any thread, and a StreamWriter that nobody knows any more closes its
    # transport: libuv is at work meanwhile.
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    with right:
        transport, protocol = await loop.create_connection(Recorder, sock=left)
        threads = []

        class Where(Recorder):
            def connection_lost(self, exc):
                threads.append(threading.get_ident())
                super().connection_lost(exc)

        where = Where()
        transport.set_protocol(where)

        def elsewhere():
            time.sleep(0.02)  # the loop waits
            assert repr(transport) == "<StreamTransport of a loop in another thread>"
            getattr(transport, how)()

        await asyncio.gather(asyncio.wait_for(where.lost, 10), asyncio.to_thread(elsewhere))
        assert threads == [threading.get_ident()]
        assert transport.is_closing()


@ffloop_only
async def test_a_stream_that_is_forgotten_in_another_thread_is_closed_by_the_loop():
    loop = asyncio.get_running_loop()
    told = []
    loop.set_exception_handler(lambda loop, context: told.append(context["message"]))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        streams = list(await asyncio.open_connection(*listening.getsockname()))
        peer, _ = listening.accept()
        with peer:
            peer.setblocking(False)
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", ResourceWarning
                )  # newer Pythons tell of it so, older ones to the handler
                await asyncio.to_thread(lambda: (streams.clear(), collect()))
            assert await asyncio.wait_for(loop.sock_recv(peer, 10), 10) == b""

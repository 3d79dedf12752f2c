import asyncio
import os
import pty
import select
import socket
import sys

import pytest

import ffloop

from .conftest import ffloop_only


async def spin():
    await asyncio.sleep(0.01)


@pytest.fixture
def ends():
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    with left, right:
        yield left, right


async def test_a_reader_is_called_while_there_is_something_to_read(ends):
    left, right = ends
    loop = asyncio.get_running_loop()
    got = []
    loop.add_reader(left, lambda: got.append(left.recv(1)))
    right.send(b"ab")
    await spin()
    assert got == [b"a", b"b"]
    assert loop.remove_reader(left)
    assert not loop.remove_reader(left)
    right.send(b"c")
    await spin()
    assert got == [b"a", b"b"]


async def test_a_reader_and_a_writer_share_a_descriptor(ends):
    left, right = ends
    loop = asyncio.get_running_loop()
    order = []

    def write():
        order.append("write")
        loop.remove_writer(left.fileno())

    def read():
        order.append(left.recv(10))
        loop.remove_reader(left)

    loop.add_reader(left.fileno(), read)
    loop.add_writer(left, write)
    await spin()
    right.send(b"x")
    await spin()
    assert order == ["write", b"x"]


async def test_a_second_reader_replaces_the_first(ends):
    left, right = ends
    loop = asyncio.get_running_loop()
    called = []
    loop.add_reader(left, called.append, "first")
    loop.add_reader(left, lambda: (called.append("second"), left.recv(10)))
    right.send(b"x")
    await spin()
    assert called == ["second"]
    loop.remove_reader(left)


async def test_a_reader_that_raises_is_reported_and_called_again(ends):
    left, right = ends
    loop = asyncio.get_running_loop()
    told = []
    loop.set_exception_handler(lambda loop, context: told.append(type(context["exception"])))

    def fail():
        left.recv(1)
        raise ValueError

    loop.add_reader(left, fail)
    right.send(b"ab")
    await spin()
    assert told == [ValueError, ValueError]
    loop.remove_reader(left)


async def test_watching_does_not_change_the_blocking_mode():
    left, right = socket.socketpair()
    with left, right:
        loop = asyncio.get_running_loop()
        loop.add_reader(left, print)
        assert left.getblocking()
        assert os.get_blocking(left.fileno())
        loop.remove_reader(left)


@pytest.mark.parametrize("wrong", ["text", None, object()])
async def test_what_is_no_descriptor_is_refused(wrong):
    with pytest.raises(ValueError, match="Invalid file object"):
        asyncio.get_running_loop().add_reader(wrong, print)


@pytest.mark.skipif(not hasattr(os, "eventfd"), reason="this Python has no os.eventfd")
async def test_whatever_epoll_takes_can_be_watched(tmp_path):
    loop = asyncio.get_running_loop()
    event = os.eventfd(0)
    child = os.posix_spawn("/bin/true", ["true"], {})
    pidfd = os.pidfd_open(child)
    waiting = select.epoll()
    waiting.register(event, select.EPOLLIN)
    pipe, pipe_end = os.pipe()
    os.mkfifo(tmp_path / "fifo")
    fifo = os.open(tmp_path / "fifo", os.O_RDWR | os.O_NONBLOCK)
    leader, follower = pty.openpty()
    watched = {event: "eventfd", pidfd: "pidfd", waiting.fileno(): "epoll", pipe: "pipe", fifo: "fifo", leader: "pty"}
    ready = set()
    for fd, name in watched.items():
        loop.add_reader(fd, ready.add, name)
    os.eventfd_write(event, 1)
    for fd in pipe_end, fifo, follower:
        os.write(fd, b"x")
    async with asyncio.timeout(10):
        while len(ready) < len(watched):
            await asyncio.sleep(0.01)
    writable = set()
    for fd in pipe_end, follower:
        loop.add_writer(fd, writable.add, fd)
    await asyncio.sleep(0.02)
    assert writable == {pipe_end, follower}
    for fd in watched:
        assert loop.remove_reader(fd)
    for fd in pipe_end, follower:
        assert loop.remove_writer(fd)
    waiting.close()
    os.waitpid(child, 0)
    for fd in event, pidfd, pipe, pipe_end, fifo, leader, follower:
        os.close(fd)


async def test_a_regular_file_is_refused_as_the_system_refuses_it(tmp_path):
    with (tmp_path / "file").open("w") as file, pytest.raises(PermissionError):
        asyncio.get_running_loop().add_reader(file, print)


async def test_a_descriptor_of_a_transport_is_refused():
    left, right = socket.socketpair()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, left)
    fd = transport.get_extra_info("socket").fileno()
    for call in (loop.add_reader, loop.add_writer):
        with pytest.raises(RuntimeError, match="is used by transport"):
            call(fd, print)
    with pytest.raises(RuntimeError, match="is used by transport"):
        loop.remove_reader(fd)
    transport.abort()
    await spin()
    right.close()


async def test_closing_a_watched_socket_ends_nothing_but_its_callbacks(ends):
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    loop.add_reader(left, print)
    fd = left.fileno()
    left.close()
    right.close()
    await spin()
    assert loop.remove_reader(fd)


async def test_sock_methods_talk(ends):
    left, right = ends
    loop = asyncio.get_running_loop()
    reading = asyncio.create_task(loop.sock_recv(left, 10))
    await asyncio.sleep(0)
    await loop.sock_sendall(right, b"hello")
    assert await reading == b"hello"
    buffer = bytearray(10)
    reading = asyncio.create_task(loop.sock_recv_into(left, buffer))
    await asyncio.sleep(0)
    await loop.sock_sendall(right, b"again")
    assert await reading == 5
    assert buffer[:5] == b"again"


async def test_sock_sendall_sends_all_of_a_large_buffer(ends):
    left, right = ends
    loop = asyncio.get_running_loop()
    data = os.urandom(5_000_000)
    sending = asyncio.create_task(loop.sock_sendall(left, memoryview(data)))
    received = bytearray()
    while len(received) < len(data):
        received += await loop.sock_recv(right, 1 << 20)
    await sending
    assert received == data


async def test_sock_connect_and_sock_accept_meet():
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as client:
        listening.setblocking(False)
        client.setblocking(False)
        accepting = asyncio.create_task(loop.sock_accept(listening))
        await loop.sock_connect(client, ("localhost", listening.getsockname()[1]))
        connection, address = await accepting
        with connection:
            assert address == client.getsockname()
            assert connection.gettimeout() == 0


async def test_sock_connect_to_nobody_is_refused():
    loop = asyncio.get_running_loop()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()
    with socket.socket() as client:
        client.setblocking(False)
        with pytest.raises(ConnectionRefusedError, match="Connect call failed"):
            await loop.sock_connect(client, address)


async def test_datagrams_go_by_sock_sendto_and_sock_recvfrom():
    if not hasattr(asyncio.AbstractEventLoop, "sock_sendto"):
        pytest.skip("sock_sendto came with Python 3.11")
    loop = asyncio.get_running_loop()
    with socket.socket(type=socket.SOCK_DGRAM) as left, socket.socket(type=socket.SOCK_DGRAM) as right:
        for sock in (left, right):
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
        assert await loop.sock_sendto(left, b"ping", right.getsockname()) == 4
        assert await loop.sock_recvfrom(right, 10) == (b"ping", left.getsockname())
        await loop.sock_sendto(left, b"pong", right.getsockname())
        buffer = bytearray(10)
        assert await loop.sock_recvfrom_into(right, buffer) == (4, left.getsockname())


async def test_a_cancelled_sock_recv_leaves_the_socket_to_the_next(ends):
    left, right = ends
    loop = asyncio.get_running_loop()
    waiting = asyncio.create_task(loop.sock_recv(left, 10))
    await spin()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    right.send(b"kept")
    assert await loop.sock_recv(left, 10) == b"kept"
    assert not loop.remove_reader(left)


async def test_debug_mode_refuses_a_blocking_socket():
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    with socket.socket() as sock, pytest.raises(ValueError, match="the socket must be non-blocking"):
        await loop.sock_recv(sock, 1)
    loop.set_debug(False)


async def test_a_tls_socket_is_refused():
    import ssl

    context = ssl.create_default_context()
    context.check_hostname = False
    left, right = socket.socketpair()
    wrapped = context.wrap_socket(left, do_handshake_on_connect=False)
    with right, wrapped, pytest.raises(TypeError, match="Socket cannot be of type SSLSocket"):
        await asyncio.get_running_loop().sock_recv(wrapped, 1)


async def test_a_number_that_has_changed_hands_can_be_watched_again():
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    loop.add_reader(left.fileno(), print)
    fd = left.fileno()
    left.close()
    other, other_end = socket.socketpair()
    if other.fileno() == fd:
        loop.add_reader(other, print)
    assert loop.remove_reader(fd)
    for end in (right, other, other_end):
        end.close()


async def test_a_descriptor_that_was_never_watched_is_refused_when_its_number_is_none():
    with pytest.raises(ValueError, match="Invalid file descriptor"):
        asyncio.get_running_loop().remove_reader(-1)


@pytest.mark.skipif(sys.implementation.name == "pypy", reason="PyPy's recv(0) asks the kernel, which waits")
async def test_nothing_is_received_and_nothing_lost_where_nothing_is_wanted():
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    left.setblocking(False)
    with left, right:
        assert await asyncio.wait_for(loop.sock_recv(left, 0), 10) == b""
        right.send(b"datagram")
        assert await loop.sock_recv(left, 0) == b""
        assert await loop.sock_recv(left, 100) == b"datagram"


@pytest.mark.parametrize("wanted", [120 * 1024, 130_000, 1 << 20])
async def test_sock_recv_gives_as_much_of_a_stream_as_has_come(wanted):
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    right.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    with left, right:
        data = os.urandom(1 << 20)
        sent = right.send(data)
        assert sent > 130_000
        received = await loop.sock_recv(left, wanted)
        assert len(received) == min(sent, wanted)
        while len(received) < sent:
            received += await loop.sock_recv(left, wanted)
        assert received == data[:sent]
        reading = loop.create_task(loop.sock_recv(left, wanted))
        await asyncio.sleep(0)
        right.send(b"later")
        assert await asyncio.wait_for(reading, 10) == b"later"
        right.close()
        assert await asyncio.wait_for(loop.sock_recv(left, wanted), 10) == b""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere datagrams are not as large")
async def test_sock_recv_cuts_no_datagram_that_fits():
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    left.setblocking(False)
    with left, right:
        for size in (150_000, 10, 0):
            right.send(b"x" * size)
        for size in (150_000, 10, 0):
            assert len(await asyncio.wait_for(loop.sock_recv(left, 1 << 20), 10)) == size


async def test_a_closed_socket_is_known_by_its_object_though_its_number_was_watched_too():
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    with left, right:
        number = left.fileno()
        loop.add_reader(left, print)
        loop.add_writer(number, print)
        loop.remove_writer(number)
        left.close()
        assert loop.remove_reader(left)
        with pytest.raises(ValueError, match="Invalid file descriptor"):
            loop.remove_reader(left)


@ffloop_only
async def test_who_waits_on_a_socket_that_is_closed_under_him_in_the_same_turn_learns_of_it():
    # asyncio leaves the one who waits to write waiting.
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    first, second = socket.socketpair()
    for sock in left, right, first, second:
        sock.setblocking(False)
    sending = asyncio.create_task(loop.sock_sendall(left, b"x" * 10_000_000))
    loop.add_reader(first, lambda: (loop.remove_reader(first), left.close()))
    receiving = asyncio.create_task(loop.sock_recv(left, 10))
    await asyncio.sleep(0.01)
    second.send(b"x")
    right.send(b"x")
    done, waiting = await asyncio.wait({sending, receiving}, timeout=10)
    assert not waiting
    for task in done:
        with pytest.raises(OSError, match="Bad file descriptor"):
            await task
    for sock in right, first, second:
        sock.close()


async def test_waits_and_watches_on_one_socket_do_not_disturb_each_other():
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    writable = []
    loop.add_writer(left, writable.append, None)
    receiving = asyncio.create_task(loop.sock_recv(left, 10))
    await asyncio.sleep(0.01)
    right.send(b"first")
    assert await receiving == b"first"
    before = len(writable)
    await asyncio.sleep(0.01)
    assert len(writable) > before
    assert loop.remove_writer(left)
    assert not loop.remove_reader(left)
    filling = asyncio.create_task(loop.sock_sendall(left, b"x" * 1_000_000))
    receiving = asyncio.create_task(loop.sock_recv(left, 10))
    await asyncio.sleep(0.01)
    right.send(b"second")
    assert await receiving == b"second"
    received = 0
    while received < 1_000_000:
        received += len(await loop.sock_recv(right, 1 << 20))
    await filling
    left.close()
    right.close()


# stdlib asyncio takes the newcomer's reader away.
@ffloop_only
async def test_a_wait_cancelled_after_it_was_over_leaves_the_next_one_alone():
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    receiving = asyncio.create_task(loop.sock_recv(left, 10))
    await asyncio.sleep(0.01)
    got = []

    def readable():
        got.append(left.recv(10))

    right.send(b"x")
    while not receiving.done():
        # In the turn between the wake-up and the task's next step.
        if receiving._fut_waiter is not None and receiving._fut_waiter.done():
            loop.add_reader(left, readable)
            receiving.cancel()
        await asyncio.sleep(0)
    assert receiving.cancelled()
    await asyncio.sleep(0.01)
    assert got == [b"x"]
    assert loop.remove_reader(left)
    left.close()
    right.close()


def test_a_reader_that_comes_while_a_wait_ends_is_kept():
    """For ffloop alone: asyncio's wait takes the reader away that has come in its place."""

    class Loop(ffloop.Loop):
        hook = None

        def call_soon(self, callback, *args, context=None):
            hook, self.hook = self.hook, None
            if hook is not None:
                hook()
            return super().call_soon(callback, *args, context=context)

    async def main():
        read = []
        left, right = socket.socketpair()
        with left, right:
            for sock in left, right:
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            receiving = loop.create_task(loop.sock_recv(right, 10))
            await asyncio.sleep(0)
            left.send(b"first")
            loop.hook = lambda: loop.add_reader(right, lambda: read.append(right.recv(10)))
            assert await receiving == b"first"
            sending = loop.create_task(loop.sock_sendall(right, bytes(1_000_000)))
            await spin()
            left.send(b"second")
            await spin()
            assert read == [b"second"]
            sending.cancel()
            loop.remove_reader(right)

    loop = Loop()
    loop.run_until_complete(main())
    loop.close()


@pytest.mark.parametrize("port", [-1, 65536])
async def test_sock_connect_says_what_is_wrong_with_a_port(port):
    with socket.socket() as sock:
        sock.setblocking(False)
        with pytest.raises(OverflowError, match=r"^(connect\(\): )?port must be 0-65535\.$"):
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))


@pytest.mark.parametrize("what", ["reader", "writer", "transport", "pipe", "datagrams", "resumed"])
async def test_what_is_there_when_watching_begins_is_told_in_the_next_turn_whatever_else_is_ready(what):
    loop = asyncio.get_running_loop()
    turns, told, ends = 0, [], []

    class Tells(asyncio.Protocol):
        def data_received(self, data):
            told.append(turns)

        def datagram_received(self, data, addr):
            told.append(turns)

        def connection_lost(self, exc):
            pass

    left, right = socket.socketpair(type=socket.SOCK_DGRAM if what == "datagrams" else socket.SOCK_STREAM)
    left.setblocking(False)
    right.send(b"x")
    if what in ("transport", "resumed"):
        transport, _ = await loop.connect_accepted_socket(Tells, left.dup())
    elif what == "pipe":
        reading, writing = os.pipe()
        os.write(writing, b"x")
        os.close(writing)
        transport, _ = await loop.connect_read_pipe(Tells, open(reading, "rb", 0))  # noqa: SIM115
    elif what == "datagrams":
        transport, _ = await loop.create_datagram_endpoint(Tells, sock=left.dup())
    else:
        transport = None
    if transport is not None:
        transport.pause_reading()
        ends.append(transport.close)
        await asyncio.sleep(0.01)
        told.clear()
        right.send(b"x")

    def chain():
        nonlocal turns
        turns += 1
        if turns < 1000 and not told:
            loop.call_soon(chain)

    def begin():
        loop.call_soon(chain)
        if what == "reader":
            loop.add_reader(left, lambda: told.append(turns))
        elif what == "writer":
            loop.add_writer(left, lambda: told.append(turns))
        else:
            transport.resume_reading()

    # From the midst of a chain, of which a turn or two may have gone without a poll.
    for _ in range(3):
        await asyncio.sleep(0)
    loop.call_soon(begin)
    async with asyncio.timeout(10):
        while not told:
            await asyncio.sleep(0)
    assert told[0] <= 3
    loop.remove_reader(left)
    loop.remove_writer(left)
    for end in ends:
        end()
    left.close()
    right.close()
    await asyncio.sleep(0.01)

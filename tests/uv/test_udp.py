"""Datagrams by the binding alone: no asyncio here."""

import errno
import os
import socket
import subprocess
import sys
import time

import pytest

from ffloop import uv


@pytest.fixture
def loop():
    loop = uv.Loop()
    yield loop
    loop.close()


def bound(family=socket.AF_INET, host="127.0.0.1"):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    sock.settimeout(10)
    return sock


def receiver(loop, sock=None):
    """A handle that receives, the address it is reached by, and the list of what it has received."""
    sock = sock or bound()
    name = sock.getsockname()
    udp = uv.Udp(loop, sock.detach())
    peers = uv.Peers(socket.AF_INET6 if len(name) == 4 else socket.AF_INET)
    got = []

    def on_recv(nread, payload):
        if nread < 0:
            got.append(uv.os_error(nread))
        else:
            data, peer = udp.received(nread, payload)
            got.append((data, peers.name(peer)))

    udp.recv_start(on_recv)
    return udp, name, got


def run_until(loop, condition, limit=10):
    end = time.monotonic() + limit
    polls = 0
    while not condition():
        assert time.monotonic() < end, "nothing happened in time"
        if loop.poll(0.01):
            polls += 1
            loop.dispatch()
    return polls


def test_a_hundred_datagrams_arrive_in_order_in_few_polls(loop):
    udp, name, got = receiver(loop)
    with bound() as sender:
        for number in range(100):
            sender.sendto(b"%d" % number, name)
        polls = run_until(loop, lambda: len(got) == 100)
        assert got == [(b"%d" % number, sender.getsockname()) for number in range(100)]
    assert polls <= 4


def test_datagrams_of_every_size_arrive_whole_and_beside_one_another(loop):
    udp, name, got = receiver(loop)
    sent = [
        bytes([number % 256]) * size for number, size in enumerate([1, 0, 63, 64, 65, 9000, 65507, 0, 2, 65507, 100])
    ]
    with bound() as sender:
        for data in sent:
            sender.sendto(data, name)
        run_until(loop, lambda: len(got) == len(sent))
    assert [data for data, _ in got] == sent


def test_the_largest_datagrams_of_ipv6_do_not_run_into_each_other(loop):
    udp, name, got = receiver(loop, bound(socket.AF_INET6, "::1"))
    with bound(socket.AF_INET6, "::1") as sender:
        sent = [bytes([number]) * 65527 for number in range(3)]
        for data in sent:
            sender.sendto(data, name)
        run_until(loop, lambda: len(got) == 3)
        assert got == [(data, sender.getsockname()) for data in sent]


def test_a_full_region_leaves_datagrams_for_the_next_poll(loop):
    receivers = [receiver(loop) for _ in range(5)]
    with bound() as sender:
        for _, name, _ in receivers:
            for _ in range(3):
                sender.sendto(b"x" * 60_000, name)
        run_until(loop, lambda: all(len(got) == 3 for _, _, got in receivers))
    assert all(len(data) == 60_000 for _, _, got in receivers for data, _ in got)


def test_more_senders_than_a_turn_has_room_for_are_told_apart(loop):
    receivers = [receiver(loop) for _ in range(40)]
    senders = [bound() for _ in range(33)]
    for _, name, _ in receivers:
        for sender in senders:
            sender.sendto(b"x", name)
    run_until(loop, lambda: all(len(got) == len(senders) for _, _, got in receivers))
    for _, _, got in receivers:
        assert got == [(b"x", sender.getsockname()) for sender in senders]
    for sender in senders:
        sender.close()


def test_a_flood_does_not_keep_other_sockets_waiting(loop):
    flooded, flooded_name, got = receiver(loop)
    other, other_name, other_got = receiver(loop)
    with bound() as sender:
        for _ in range(150):
            sender.sendto(b"x", flooded_name)
        sender.sendto(b"y", other_name)
        assert loop.poll(1)
        loop.dispatch()
        assert loop.poll(0)
        loop.dispatch()
        assert other_got
        assert 0 < len(got) < 150


def test_streams_and_datagrams_share_the_region(loop):
    left, right = socket.socketpair()
    stream = uv.Tcp(loop, left.detach())
    streamed = []
    stream.read_start(lambda nread, offset: streamed.append(loop.received(nread, offset)))
    udp, name, got = receiver(loop)
    with bound() as sender, right:
        for number in range(50):
            right.sendall(b"s" * 1000)
            sender.sendto(b"%d" % number * 100, name)
        run_until(loop, lambda: len(got) == 50 and sum(map(len, streamed)) == 50_000)
    assert [data for data, _ in got] == [b"%d" % number * 100 for number in range(50)]
    assert set(b"".join(streamed)) == {ord("s")}


def test_many_datagrams_are_sent_in_one_call_in_order(loop):
    # More than libuv hands the kernel at a time: asked for them all at once it leaves some out.
    with bound() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        udp = uv.Udp(loop, bound().detach())
        packed = uv.Peers(socket.AF_INET).pack(peer.getsockname())
        datagrams = [b"%d" % number * (number % 3) for number in range(100)]
        assert udp.try_send(datagrams, [packed] * 100) == (100, 0)
        assert [peer.recv(1000) for _ in range(100)] == datagrams


def test_each_datagram_goes_to_its_own_peer(loop):
    with bound() as one, bound() as other:
        peers = uv.Peers(socket.AF_INET)
        udp = uv.Udp(loop, bound().detach())
        to = [peers.pack(sock.getsockname()) for sock in (one, other, one)]
        assert udp.try_send([b"1", b"2", b"3"], to) == (3, 0)
        assert one.recv(10) == b"1"
        assert one.recv(10) == b"3"
        assert other.recv(10) == b"2"


def test_sending_tells_where_it_stopped_and_why(loop):
    with bound() as peer:
        udp = uv.Udp(loop, bound().detach())
        packed = uv.Peers(socket.AF_INET).pack(peer.getsockname())
        sent, status = udp.try_send([b"1", b"2", b"x" * 65536, b"3"], [packed] * 4)
        assert sent == 2
        assert uv.os_error(status).errno == errno.EMSGSIZE


def test_a_full_peer_is_would_block(loop):
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    udp = uv.Udp(loop, left.detach())
    sent, status = udp.try_send([b"x" * 10_000] * 5000, None)
    assert 0 < sent < 5000
    assert status == uv.EAGAIN
    right.close()


@pytest.mark.parametrize(
    ("family", "host"),
    [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")],
)
def test_senders_are_named_as_the_socket_module_names_them(loop, family, host):
    plain = bound(family, host)
    udp, name, got = receiver(loop, bound(family, host))
    with plain, bound(family, host) as sender:
        for to in (name, plain.getsockname()):
            sender.sendto(b"x", to)
        run_until(loop, lambda: got)
        assert got == [plain.recvfrom(10)]


def test_what_a_peer_is_called_is_what_it_is_sent_to():
    peers = uv.Peers(socket.AF_INET6)
    for name in [("::1", 1, 0, 0), ("fe80::1", 65535, 0xFFFFF, 0xFFFFFFFF), ("::ffff:1.2.3.4", 0, 1, 2)]:
        assert peers.name(peers.pack(name)) == name
    assert peers.name(peers.pack(("::1", 5))) == ("::1", 5, 0, 0)
    # What somebody sends to does not change what others are called.
    assert peers.name(peers.pack(("0:0::0002", 5, 0, 0))) == ("::2", 5, 0, 0)


@pytest.mark.parametrize(
    "name",
    [
        None,
        "127.0.0.1",
        ("localhost", 80),
        ("", 80),
        ("::1", 80),
        ("127.0.0.1", 80.0),
        ("127.0.0.1", True),
        ("127.0.0.1", "80"),
        ("127.0.0.1", 65536),
        ("127.0.0.1", -1),
        ("127.0.0.1", 80, 0, 0),
        ("127.0.0.1",),
        ["127.0.0.1", 80],
        ([], 80),
        (b"127.0.0.1", 80),
        ("127.0.0.1\0", 80),
        ("127.0.0.\ud800", 80),
        (),
    ],
)
def test_what_is_not_a_literal_address_is_not_packed(name):
    peers = uv.Peers(socket.AF_INET)
    peers.pack(("127.0.0.1", 80))  # equal to some of them, once remembered
    peers.pack(("127.0.0.1", 1))
    assert peers.pack(name) is None


def test_the_memory_for_names_is_bounded():
    peers = uv.Peers(socket.AF_INET)
    for port in range(3 * peers.LIMIT):
        packed = peers.pack(("127.0.0.1", port))
        assert peers.name(packed) == ("127.0.0.1", port)
    assert len(peers.names) <= peers.LIMIT
    assert len(peers.packed) <= peers.LIMIT


def test_a_refusal_arrives_as_an_error_and_receiving_goes_on(loop):
    peer = bound()
    sock = bound()
    sock.connect(peer.getsockname())
    own = sock.getsockname()
    udp, _, got = receiver(loop, sock)
    name = peer.getsockname()
    peer.close()
    assert udp.try_send([b"x"], None) == (1, 0)
    run_until(loop, lambda: got)
    assert isinstance(got[0], ConnectionRefusedError)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(name)
        peer.sendto(b"here", own)
        run_until(loop, lambda: len(got) > 1)
    assert got[1][0] == b"here"


def test_the_error_queue_is_left_to_the_program(loop):
    IP_RECVERR, MSG_ERRQUEUE = 11, 0x2000
    peer = bound()
    sock = bound()
    sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    sock.connect(peer.getsockname())
    peer.close()
    other = socket.socket(fileno=os.dup(sock.fileno()))
    udp, _, got = receiver(loop, sock)
    assert udp.try_send([b"x"], None) == (1, 0)
    run_until(loop, lambda: got)
    for _ in range(3):
        loop.poll(0)
        loop.dispatch()
    assert len(got) == 1
    assert isinstance(got[0], ConnectionRefusedError)
    assert other.recvmsg(100, 100, MSG_ERRQUEUE)[0] == b"x"
    other.close()


def test_opening_changes_no_option_of_the_socket(loop):
    for reuse in (0, 1):
        sock = bound()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        with socket.socket(fileno=os.dup(sock.fileno())) as other:
            uv.Udp(loop, sock.detach())
            assert other.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == reuse
            assert other.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0


def test_a_watched_socket_is_told_of_once_a_turn_and_read_by_the_program(loop):
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    udp = uv.Udp(loop, os.dup(left.fileno()))
    told = []
    udp.watch(lambda nread, payload: told.append((nread, payload)))
    right.send(b"x" * 200_000)
    assert loop.poll(1) == 1
    loop.dispatch()
    assert told == [(0, 0)]
    assert len(left.recv(300_000)) == 200_000
    assert loop.poll(0) == 0
    left.close()
    right.close()


def unix_receiver(loop, sock):
    """The same as `receiver`, for Unix datagrams; what there was no room for is None."""
    udp = uv.Udp(loop, os.dup(sock.fileno()))
    peers = uv.Peers(socket.AF_UNIX)
    got = []

    def on_recv(nread, payload):
        if nread >= 0:
            data, peer = udp.received(nread, payload)
            got.append((data, peers.name(peer)))
        else:
            got.append(None if payload else uv.os_error(nread))

    udp.recv_unix_start(on_recv)
    return udp, got


ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Unix datagrams are left to the program")


@ON_LINUX
def test_unix_datagrams_of_every_size_arrive_whole_and_in_order(loop):
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    udp, got = unix_receiver(loop, left)
    right.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    sent = [bytes([number]) * size for number, size in enumerate([1, 0, 200_000, 64, 65, 0, 50_000, 3])]
    for data in sent:
        right.send(data)
    run_until(loop, lambda: len(got) == len(sent))
    assert got == [(data, None) for data in sent]
    udp.close()
    left.close()
    right.close()


@ON_LINUX
def test_a_full_region_leaves_unix_datagrams_in_the_kernel_and_says_so(loop):
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
    receivers = [unix_receiver(loop, left) for left, _ in pairs]
    for _, right in pairs:
        right.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        for number in range(3):
            right.send(bytes([number]) * 140_000)
    assert loop.poll(1) > 0
    loop.dispatch()
    # The first one has taken what there is room for; for none at all is told to whom it happens.
    assert sorted((len(got), got[0] is None) for _, got in receivers) == [(1, True), (2, False)]
    run_until(loop, lambda: all(len(got) >= 3 for _, got in receivers))
    for _, got in receivers:
        assert [data[0] for data, _ in filter(None, got)] == [0, 1, 2]
    for pair in pairs:
        for end in pair:
            end.close()


def test_many_datagrams_after_many_single_ones_are_received_together_again(loop):
    udp, name, got = receiver(loop)
    with bound() as sender:
        for number in range(100):
            sender.sendto(b"x", name)
            run_until(loop, lambda number=number: len(got) == number + 1)
        for number in range(100):
            sender.sendto(b"%d" % number, name)
        polls = run_until(loop, lambda: len(got) == 200)
    assert [data for data, _ in got[100:]] == [b"%d" % number for number in range(100)]
    assert polls <= 15 + 4


def test_a_stopped_handle_receives_no_more_and_a_started_one_what_has_come_since(loop):
    udp, name, got = receiver(loop)
    udp.recv_stop()
    with bound() as sender:
        sender.sendto(b"x", name)
        assert loop.poll(0.01) == 0
        udp.recv_start(lambda nread, payload: got.append(nread))
        run_until(loop, lambda: got)
    assert got == [1]


def test_closing_inside_a_batch_drops_the_rest_of_it(loop):
    sock = bound()
    name = sock.getsockname()
    udp = uv.Udp(loop, sock.detach())
    calls = []
    udp.recv_start(lambda nread, payload: (calls.append(nread), udp.close()))
    with bound() as sender:
        for _ in range(5):
            sender.sendto(b"x", name)
    assert loop.poll(1) == 5
    loop.dispatch()
    assert calls == [1]
    assert udp.closed
    udp.close()
    with pytest.raises(ValueError, match="closed"):
        udp.try_send([b"x", b"y"], None)


def test_who_has_borrowed_the_descriptor_is_told_before_it_goes(loop):
    fd = bound().detach()
    udp = uv.Udp(loop, fd)
    told = []
    udp.on_close = lambda: told.append(os.fstat(fd))
    loop.close()
    assert len(told) == 1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize("number", [-1, 1 << 31, (1 << 32) + 5, 1 << 40])
def test_a_number_that_cannot_be_a_descriptor_is_refused(loop, number):
    with pytest.raises(OSError, match="Bad file descriptor"):
        uv.Udp(loop, number)


def test_a_refused_descriptor_stays_the_callers(loop):
    sock = bound()
    uv.Udp(loop, sock.fileno()).recv_start(print)
    loop.poll(0)
    with pytest.raises(FileExistsError):
        uv.Udp(loop, sock.fileno())
    assert sock.getsockname()
    sock.detach()


def test_a_descriptor_that_was_closed_behind_its_back_gives_an_error(loop):
    # libuv would abort the process at its next turn.
    sock = bound()
    fd = sock.fileno()
    udp = uv.Udp(loop, sock.detach())
    os.close(fd)
    for start in (udp.recv_start, udp.watch):
        with pytest.raises(OSError, match="Bad file descriptor"):
            start(print)
    spare = bound()  # whoever has the number now
    assert spare.fileno() == fd
    spare.detach()


def test_standard_descriptors_that_are_sockets_are_closed_like_any_other():
    # libuv aborts when it comes to close one.
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            """
import os, socket
from ffloop import uv
uv.Loop().close()  # what it opens for the whole process
os.close(0)
before = len(os.listdir("/proc/self/fd"))
left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
assert left.fileno() == 0
loop = uv.Loop()
for close in (True, False):
    udp = uv.Udp(loop, left.detach())
    assert udp.fileno() > 2
    udp.try_send([b"a", b"b"], None)
    if close:
        udp.close()
        print(right.recv(1), right.recv(1))
        right.close()
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        assert left.fileno() == 0
loop.close()
print(right.recv(1), right.recv(1))
right.close()
assert len(os.listdir("/proc/self/fd")) == before
""",
        ],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.stdout == "b'a' b'b'\nb'a' b'b'\n", done.stderr
    assert done.returncode == 0, done.stderr


def test_ten_thousand_handles_leave_descriptors_where_they_were(loop):
    before = len(os.listdir("/proc/self/fd"))
    for number in range(10_000):
        udp = uv.Udp(loop, bound().detach())
        udp.recv_start(print)
        udp.close()
        if number % 100 == 0:
            loop.poll(0)
    loop.poll(0)
    # libuv's and its own epoll descriptors are made when they are first needed.
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    assert not loop.handles
    assert not loop.callbacks

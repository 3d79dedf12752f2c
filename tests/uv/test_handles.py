"""The binding alone: no asyncio here. Where there is an accelerator, its completion queue and its TCP handle too."""

import errno
import os
import resource
import socket
import threading
import time

import pytest

from ffloop import core, transports, uv

KINDS = ["binding"] if core.Queue is uv.Loop else ["binding", "accelerator"]


@pytest.fixture(params=[*KINDS, *(f"{kind}, watching" for kind in KINDS)])
def loop(request):
    loop = core.Queue() if request.param.startswith("accelerator") else uv.Loop()
    if request.param.endswith("watching"):
        watch_for_long(loop)
    yield loop
    loop.close()


def watch_for_long(loop):
    """Have a watched descriptor bring all events of so many turns that the loop expects it to go on like that."""
    left, right = socket.socketpair()
    with left, right:
        right.send(b"x")
        poll = uv.Poll(loop, left.fileno())
        poll.start(uv.READABLE, lambda status, events: None)
        for _ in range(100):
            loop.poll(1)
            loop.dispatch()
        poll.close()


def open_tcp(loop, *args, **kwargs):
    return (uv.Tcp if type(loop) is uv.Loop else transports.Tcp)(loop, *args, **kwargs)


def run_until(loop, condition, limit=10):
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "nothing happened in time"
        # Not long: the condition may be what makes something happen.
        if loop.poll(0.01):
            loop.dispatch()


def connected_pair(loop):
    left, right = socket.socketpair()
    return open_tcp(loop, left.detach()), right


def test_a_repeating_timer_calls_back_until_it_is_stopped(loop):
    calls = []
    timer = uv.Timer(loop)
    timer.start(lambda: calls.append(1), 0.001, repeat=0.001)
    run_until(loop, lambda: len(calls) == 3)
    timer.stop()
    loop.poll(0.01)
    loop.dispatch()
    assert len(calls) == 3


@pytest.mark.parametrize("timeout", [0.0001, 0.0015, 0.0101])
def test_a_poll_that_finds_nothing_waits_the_whole_timeout(loop, timeout):
    started = time.monotonic()
    assert loop.poll(timeout) == 0
    assert time.monotonic() - started >= timeout


def test_an_async_handle_calls_back_on_the_loops_thread(loop):
    threads = []
    wake = uv.Async(loop, lambda: threads.append(threading.get_ident()))
    thread = threading.Thread(target=wake.send)
    thread.start()
    run_until(loop, lambda: threads)
    thread.join()
    assert threads == [threading.get_ident()]


def test_wake_ends_a_poll_with_a_record_that_nobody_gets(loop):
    threading.Timer(0.02, loop.wake).start()
    assert loop.poll(10) == 1
    loop.dispatch()
    assert loop.poll(0) == 0


def test_every_wake_up_ends_a_poll_and_many_before_it_end_one(loop):
    for _ in range(100):
        for _ in range(3):
            loop.wake()
        assert loop.poll(10) == 1
        loop.dispatch()
        assert loop.poll(0) == 0


def test_a_loop_that_many_wake_for_the_first_time_can_be_woken_again():
    # The first wake-up sets something up, while the next ones come: of a thousand such loops four slept on, once.
    def wake(loop, start):
        start.wait()
        for _ in range(20):
            loop.wake()

    for _ in range(500):
        loop = uv.Loop()
        start = threading.Event()
        threads = [threading.Thread(target=wake, args=(loop, start)) for _ in range(3)]
        for thread in threads:
            thread.start()
        start.set()
        loop.poll(10)
        loop.dispatch()
        for thread in threads:
            thread.join()
        while loop.poll(0):
            loop.dispatch()
        loop.wake()
        assert loop.poll(10) == 1
        loop.dispatch()
        loop.close()


def test_a_poll_asks_before_it_waits_and_only_then(loop):
    asked = []
    loop.before_wait = lambda: bool(asked.append("asked"))
    assert loop.poll(0) == 0
    assert asked == []
    assert loop.poll(0.001) == 0
    assert asked == ["asked"]
    loop.before_wait = lambda: True
    assert loop.poll(None) == 0
    loop.before_wait = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        loop.poll(None)
    loop.wake()
    loop.before_wait = None
    assert loop.poll(None) == 1


def test_wake_on_a_closed_loop_is_harmless():
    loop = uv.Loop()
    loop.close()
    loop.wake()


def test_threads_that_wake_a_loop_while_it_closes_do_no_harm():
    for _ in range(50):
        loop = uv.Loop()
        threads = [threading.Thread(target=lambda: [loop.wake() for _ in range(200)]) for _ in range(3)]  # noqa: B023
        for thread in threads:
            thread.start()
        loop.poll(0)
        loop.close()
        for thread in threads:
            thread.join()


def test_poll_reports_what_is_ready_and_leaves_the_blocking_mode_alone(loop):
    left, right = socket.socketpair()
    with left, right:
        seen = []
        poll = uv.Poll(loop, left.fileno())
        poll.start(uv.READABLE, lambda status, events: seen.append(events))
        assert os.get_blocking(left.fileno())
        assert loop.poll(0) == 0
        right.send(b"x")
        run_until(loop, lambda: seen)
        assert seen[0] & uv.READABLE
        poll.stop()
        assert loop.poll(0) == 0
        poll.close()


def test_watching_a_regular_file_is_refused_at_once(loop, tmp_path):
    with open(tmp_path / "file", "w") as file:
        poll = uv.Poll(loop, file.fileno())
        with pytest.raises(PermissionError):
            poll.start(uv.READABLE, lambda status, events: None)


def test_closing_a_watched_descriptor_does_not_end_the_process(loop):
    # libuv aborts here when it watches the descriptor itself.
    left, right = socket.socketpair()
    poll = uv.Poll(loop, left.fileno())
    poll.start(uv.READABLE, lambda status, events: None)
    left.close()
    right.close()
    assert loop.poll(0) == 0
    with pytest.raises(OSError, match=r"Bad file descriptor|No such file"):
        poll.start(uv.WRITABLE, lambda status, events: None)
    poll.close()


def test_a_stream_delivers_bytes_then_the_end(loop):
    stream, peer = connected_pair(loop)
    got = []
    stream.read_start(lambda nread, offset: got.append(loop.received(nread, offset) if nread > 0 else nread))
    peer.send(b"hello")
    run_until(loop, lambda: got)
    peer.close()
    run_until(loop, lambda: len(got) == 2)
    assert got == [b"hello", uv.EOF]


@pytest.mark.skipif(not uv.CAN_WATCH, reason="needs descriptors that can be read beside libuv")
def test_a_watched_stream_leaves_the_bytes_in_the_kernel(loop):
    stream, peer = connected_pair(loop)
    told = []
    stream.watch(lambda *record: told.append(record))
    peer.send(b"hello")
    run_until(loop, lambda: len(told) == 2)
    assert told == [(0, 0), (0, 0)], "it is told again for as long as there is something"
    assert stream.try_read(3) == b"hel"
    buffer = bytearray(10)
    assert stream.try_read_into(buffer) == 2
    assert buffer[:2] == b"lo"
    with pytest.raises(BlockingIOError):
        stream.try_read(1)
    got = []
    stream.read_start(lambda nread, offset: got.append(loop.received(nread, offset)))
    peer.send(b"again")
    run_until(loop, lambda: got)
    assert got == [b"again"]
    stream.watch(lambda *record: told.append(record))
    peer.close()
    run_until(loop, lambda: len(told) == 3)
    assert stream.try_read(1) == b""


def test_a_write_that_the_kernel_does_not_take_at_once_arrives_whole(loop):
    stream, peer = connected_pair(loop)
    data = os.urandom(3_000_000)
    done = []
    stream.write(data, done.append)
    assert stream.write_queue_size() > 0
    received = bytearray()
    peer.setblocking(False)

    def drain():
        try:
            received.extend(peer.recv(1 << 20))
        except BlockingIOError:
            pass
        return done and len(received) == len(data)

    run_until(loop, drain)
    assert received == data
    assert done == [0]
    peer.close()


def test_what_a_turn_receives_beyond_the_region_comes_in_the_next(loop):
    sizes = {}
    peers = []
    payload = b"x" * 150_000
    for index in range(12):
        stream, peer = connected_pair(loop)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400_000)
        peer.sendall(payload)
        peers.append(peer)
        sizes[index] = 0

        def on_read(nread, offset, index=index):
            assert loop.received(nread, offset) == b"x" * nread
            sizes[index] += nread

        stream.read_start(on_read)
    run_until(loop, lambda: set(sizes.values()) == {len(payload)})
    for peer in peers:
        peer.close()


def test_a_closed_stream_refuses_everything_with_a_clear_error(loop):
    stream, peer = connected_pair(loop)
    stream.close()
    stream.close()
    for call in (lambda: stream.write(b"x", print), stream.shutdown, stream.fileno):
        with pytest.raises(ValueError, match="closed"):
            call()
    for at_once in (lambda: stream.try_write(b"x"), lambda: stream.try_writev([b"x", b"y"])):
        with pytest.raises(OSError, match="descriptor") as caught:
            at_once()
        assert caught.value.errno == errno.EBADF
    assert peer.recv(1) == b""
    peer.close()


def test_an_adopted_descriptor_is_closed_once_and_by_the_stream_alone(loop):
    left, right = socket.socketpair()
    fd = left.fileno()
    stream = open_tcp(loop, left.detach())
    stream.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    # The number is somebody else's now, and stays theirs.
    other = os.dup2(right.fileno(), fd)
    loop.poll(0)
    loop.close()
    os.fstat(other)
    os.close(other)
    right.close()


def test_a_descriptor_that_cannot_be_adopted_stays_the_callers(loop):
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        open_tcp(loop, 1_000_000)
    assert caught.value.errno == errno.EBADF
    left, right = socket.socketpair()
    stream = open_tcp(loop, left.fileno())
    stream.read_start(print)
    with pytest.raises(FileExistsError):
        open_tcp(loop, left.fileno())
    assert os.fstat(left.fileno())
    left.detach()
    right.close()


def test_a_tcp_handle_takes_a_loop_that_is_open_and_a_number(loop):
    left, right = socket.socketpair()
    with pytest.raises(TypeError):
        open_tcp(loop, "7")
    with pytest.raises((TypeError, AttributeError)):
        open_tcp(None, left.fileno())
    with pytest.raises(OverflowError):
        open_tcp(loop, 1 << 64)
    assert not loop.handles
    loop.close()
    with pytest.raises(ValueError, match="the loop is closed"):
        open_tcp(loop, left.fileno())
    assert os.fstat(left.fileno())
    left.close()
    right.close()


def test_whoever_has_borrowed_a_descriptor_hears_of_its_end_before_it_is_closed(loop):
    left, right = socket.socketpair()
    fd, seen = left.fileno(), []
    stream = open_tcp(loop, left.detach())
    stream.on_close = lambda: seen.append((os.fstat(fd).st_ino, stream.closed))
    expected = os.fstat(fd).st_ino
    stream.close()
    stream.close()
    assert seen == [(expected, True)]
    assert right.recv(1) == b""
    # A failure there is told, and the descriptor closed all the same.
    left, peer = socket.socketpair()
    stream = open_tcp(loop, left.detach())
    stream.on_close = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        stream.close()
    loop.close()
    assert peer.recv(1) == b""
    peer.close()
    right.close()


def test_a_stream_can_be_closed_between_the_collection_of_its_records_and_their_delivery(loop):
    stream, peer = connected_pair(loop)
    stream.read_start(lambda nread, offset: pytest.fail("a record for a closed handle"))
    peer.send(b"x")
    assert loop.poll(1) == 1
    stream.close()
    loop.dispatch()
    assert not loop.handles
    assert not loop.callbacks
    peer.close()


def test_records_for_a_handle_closed_meanwhile_are_dropped(loop):
    streams, peers, calls = [], [], []
    for _ in range(3):
        stream, peer = connected_pair(loop)
        streams.append(stream)
        peers.append(peer)

    def on_read(nread, offset):
        calls.append(nread)
        for stream in streams:
            stream.close()

    for stream, peer in zip(streams, peers, strict=True):
        stream.read_start(on_read)
        peer.send(b"x")
    assert loop.poll(1) == 3
    loop.dispatch()
    assert calls == [1]
    for peer in peers:
        peer.close()


def test_closing_the_loop_inside_a_records_handling_is_safe():
    loop = uv.Loop()
    peers = []
    calls = []
    for _ in range(5):
        stream, peer = connected_pair(loop)
        stream.read_start(lambda nread, offset: (calls.append(nread), loop.close()))
        peer.send(b"x")
        peers.append(peer)
    assert loop.poll(1) == 5
    loop.dispatch()
    assert calls == [1]
    assert loop.closed
    for peer in peers:
        assert peer.recv(1) == b""
        peer.close()


def test_an_exception_leaves_the_rest_of_the_batch_for_the_next_dispatch(loop):
    calls = []
    peers = []

    def on_read(nread, offset):
        calls.append(loop.received(nread, offset))
        if len(calls) == 2:
            raise KeyboardInterrupt

    for index in range(4):
        stream, peer = connected_pair(loop)
        stream.read_start(on_read)
        peer.send(b"%d" % index)
        peers.append(peer)
    assert loop.poll(1) == 4
    with pytest.raises(KeyboardInterrupt):
        loop.dispatch()
    assert loop.poll(0) == -1
    loop.dispatch()
    assert sorted(calls) == [b"0", b"1", b"2", b"3"]
    for peer in peers:
        peer.close()


def test_polling_inside_a_callback_deals_with_the_rest_of_the_batch_first(loop):
    calls = []
    peers = []

    def on_read(nread, offset):
        calls.append(loop.received(nread, offset))
        if len(calls) == 1:
            for peer in peers:
                peer.send(b"second")
            assert loop.poll(1) == -1
            loop.dispatch()
            assert len(calls) == 3
            assert loop.poll(1) == 3
            loop.dispatch()

    for _ in range(3):
        stream, peer = connected_pair(loop)
        stream.read_start(on_read)
        peer.send(b"first")
        peers.append(peer)
    assert loop.poll(1) == 3
    loop.dispatch()
    assert calls == [b"first"] * 3 + [b"second"] * 3
    for peer in peers:
        peer.close()


@pytest.mark.parametrize("loop", ["binding"], indirect=True)
def test_an_exception_raised_while_polling_loses_no_record(loop, monkeypatch):
    # As a signal's handler does that runs as soon as the poll has returned.
    got = []
    stream, peer = connected_pair(loop)
    stream.read_start(lambda nread, offset: got.append(loop.received(nread, offset)))
    peer.send(b"kept")

    run = uv.loop._run

    def interrupted(c, nanoseconds):
        run(c, nanoseconds)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(uv.loop, "_run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            loop.poll(1)
    assert loop.poll(0) == -1
    loop.dispatch()
    assert got == [b"kept"]
    peer.close()


@pytest.mark.parametrize("loop", ["binding"], indirect=True)
def test_an_exception_raised_before_libuv_runs_brings_no_record_twice(loop, monkeypatch):
    got = []
    stream, peer = connected_pair(loop)
    stream.read_start(lambda nread, offset: got.append(loop.received(nread, offset)))
    peer.send(b"once")
    assert loop.poll(1) == 1
    loop.dispatch()

    def interrupted(c, nanoseconds):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(uv.loop, "_run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            loop.poll(0)
    assert not loop.dispatching
    peer.send(b"again")
    assert loop.poll(1) == 1
    loop.dispatch()
    assert got == [b"once", b"again"]
    peer.close()


def test_a_hundred_thousand_handles_leave_memory_and_descriptors_where_they_were(loop):
    def churn(count):
        for _ in range(count // 4):
            left, right = socket.socketpair()
            handles = [
                uv.Timer(loop),
                uv.Async(loop, print),
                open_tcp(loop, left.detach()),
                uv.Poll(loop, right.fileno()),
            ]
            handles[0].start(print, 100)
            handles[3].start(uv.READABLE, print)
            for handle in handles:
                handle.close()
            right.close()
            loop.poll(0)

    churn(4_000)
    memory, descriptors = resident(), len(os.listdir("/proc/self/fd"))
    churn(100_000)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert resident() - memory < 2 << 20
    assert not loop.handles
    assert not loop.callbacks


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def test_an_error_is_the_exception_that_the_standard_library_raises():
    for number in (errno.ECONNRESET, errno.EPIPE, errno.ECONNREFUSED, errno.EACCES, errno.EEXIST, errno.ENOENT):
        raised = uv.os_error(-number)
        assert type(raised) is type(OSError(number, ""))
        assert str(raised) == str(OSError(number, os.strerror(number)))


def test_an_echo_server_needs_nothing_but_the_binding(loop):
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    streams = []

    def on_connection(status, events):
        connection, _ = listening.accept()
        stream = open_tcp(loop, connection.detach(), nodelay=True)
        streams.append(stream)

        def on_read(nread, offset):
            if nread > 0:
                stream.write(loop.received(nread, offset), lambda status: None)
            else:
                stream.close()

        stream.read_start(on_read)

    poll = uv.Poll(loop, listening.fileno())
    poll.start(uv.READABLE, on_connection)
    answers = []

    def client():
        for number in range(5):
            with socket.create_connection(listening.getsockname(), timeout=10) as sock:
                sock.sendall(b"%d" % number)
                answers.append(sock.recv(10))

    thread = threading.Thread(target=client)
    thread.start()
    run_until(loop, lambda: len(streams) == 5 and all(stream.closed for stream in streams))
    thread.join()
    poll.close()
    listening.close()
    assert answers == [b"0", b"1", b"2", b"3", b"4"]


def test_the_record_array_may_move_when_exactly_as_many_records_come_as_it_held(loop):
    # The array is grown for a record that then does not come.
    got = []
    peers = []
    for _ in range(256):
        stream, peer = connected_pair(loop)
        stream.read_start(lambda nread, offset: got.append(loop.received(nread, offset)))
        peers.append(peer)
    for _ in range(3):
        got.clear()
        for peer in peers:
            peer.send(b"x")
        while len(got) < 256:
            loop.poll(1)
            loop.dispatch()
        assert got == [b"x"] * 256
    for peer in peers:
        peer.close()


@pytest.mark.parametrize("others", [1, 15, 200, 230, 250])
def test_the_record_array_may_move_for_records_that_might_have_come(loop, others):
    # Datagrams are received up to 32 at a time, and as much room is made before anybody knows how many there are.
    got = []
    signals = [uv.Async(loop, lambda *_, number=number: got.append(number)) for number in range(others)]
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    name = sock.getsockname()
    udp = uv.Udp(loop, sock.detach())
    udp.recv_start(lambda nread, payload: got.append(bytes(udp.received(nread, payload)[0])))
    left, right = socket.socketpair()
    poll = uv.Poll(loop, left.fileno())
    poll.start(uv.READABLE, lambda status, events: got.append(left.recv(10)))
    with left, right, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for turn in range(6):
            got.clear()
            for signal in signals if turn % 2 == 0 else signals[:3]:
                signal.send()
            sender.sendto(b"datagram", name)
            right.send(b"bytes")
            wanted = [*range(others if turn % 2 == 0 else min(others, 3)), b"datagram", b"bytes"]
            run_until(loop, lambda wanted=wanted: len(got) >= len(wanted))
            assert sorted(got, key=repr) == sorted(wanted, key=repr)
        poll.close()


def test_loops_closed_in_many_threads_with_names_being_looked_up_do_not_meet():
    def work():
        for _ in range(10):
            loop = uv.Loop()
            for _ in range(3):
                uv.getaddrinfo(loop, print, b"localhost", b"80")
            loop.close()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_received_bytes_can_be_read_after_the_loop_was_closed_by_the_same_callback():
    loop = uv.Loop()
    stream, peer = connected_pair(loop)
    got = []
    stream.read_start(lambda nread, offset: (loop.close(), got.append(loop.received(nread, offset))))
    peer.send(b"late")
    loop.poll(1)
    loop.dispatch()
    assert got == [b"late"]
    peer.close()


def test_a_second_write_is_refused_while_one_is_in_flight(loop):
    stream, peer = connected_pair(loop)
    stream.write(b"x" * 3_000_000, print)
    with pytest.raises(RuntimeError, match="a write is in flight"):
        stream.write(b"y", print)
    peer.close()


def test_a_stream_whose_descriptor_was_closed_behind_its_back_gives_an_error(loop):
    # libuv would abort the process at its next turn.
    left, right = socket.socketpair()
    fd = left.fileno()
    stream = open_tcp(loop, left.detach())
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        stream.read_start(print)
    spare, other = socket.socketpair()  # whoever has the number now
    assert spare.fileno() == fd
    spare.detach()
    stream.close()
    right.close()
    other.close()


@pytest.mark.parametrize("number", [-1, 1 << 31, (1 << 32) + 5, 1 << 40])
def test_a_number_that_cannot_be_a_descriptor_is_refused(loop, number):
    for kind in (open_tcp, uv.Poll):
        with pytest.raises(OSError, match="Bad file descriptor"):
            kind(loop, number)


def test_watching_once_reports_once_until_it_is_begun_again(loop):
    left, right = socket.socketpair()
    poll = uv.Poll(loop, left.fileno())
    told = []
    right.send(b"x")
    for expected in 1, 2:
        poll.start(uv.READABLE | uv.WRITABLE | uv.ONCE, lambda status, events: told.append(events))
        run_until(loop, lambda expected=expected: len(told) == expected)
        assert loop.poll(0.01) == 0
        assert told == [uv.READABLE | uv.WRITABLE] * expected
    poll.close()
    left.close()
    right.close()


def test_watching_for_nothing_is_stopping(loop):
    left, right = socket.socketpair()
    poll = uv.Poll(loop, left.fileno())
    poll.start(uv.READABLE, print)
    poll.start(0, print)
    right.close()
    assert loop.poll(0.01) == 0
    left.close()


@pytest.mark.parametrize("timeout", [-1e9, 0])
def test_a_timer_in_the_past_is_due_at_once(loop, timeout):
    called = []
    uv.Timer(loop).start(lambda: called.append(1), timeout)
    run_until(loop, lambda: called)


def test_a_poll_waits_as_long_as_it_is_told_and_takes_any_number(loop):
    threading.Timer(0.02, loop.wake).start()
    assert loop.poll(1e300) == 1  # the wake-up


def run_python(code):
    import subprocess
    import sys

    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)


def test_a_child_that_exits_after_its_parent_looked_a_name_up_exits_well():
    if uv.libuv_is_system():
        pytest.skip("the mend is in the vendored build")
    done = run_python("""
import os, sys
from ffloop import uv
loop = uv.Loop()
got = []
uv.getaddrinfo(loop, got.append, b"localhost", b"80")
while not got:
    loop.poll(1)
    loop.dispatch()
loop.close()
child = os.fork()
if child == 0:
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""")
    assert done.stdout == "7\n", done.stderr


@pytest.mark.parametrize("spare", range(8))
def test_the_first_loop_without_descriptors_is_an_error_and_not_an_abort(spare):
    done = run_python(f"""
import os, resource
import ffloop
resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
taken = []
try:
    while True:
        taken.append(os.dup(0))
except OSError:
    pass
for fd in taken[:{spare}]:
    os.close(fd)
try:
    ffloop.new_event_loop()
except OSError as exc:
    print(exc.errno)
""")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{errno.EMFILE}\n"
    assert "Traceback" not in done.stderr


def test_standard_descriptors_that_are_sockets_are_closed_like_any_other():
    done = run_python("""
import os, socket
from ffloop import uv
os.close(0)
left, right = socket.socketpair()
assert left.fileno() == 0
loop = uv.Loop()
stream = uv.Tcp(loop, left.detach())
stream.close()
right.settimeout(10)
print(right.recv(1))
""")
    assert done.stdout == "b''\n", done.stderr


def test_one_sender_that_never_stops_does_not_keep_the_others_waiting(loop):
    flood, flooder = connected_pair(loop)
    flooder.setblocking(False)
    flood.read_start(lambda nread, offset: None)
    stream, peer = connected_pair(loop)
    got = []
    stream.read_start(lambda nread, offset: got.append(nread))
    data = b"x" * (1 << 20)
    turns = 0
    peer.send(b"x")
    while not got:
        try:
            flooder.send(data)
        except BlockingIOError:
            pass
        loop.poll(1)
        loop.dispatch()
        turns += 1
    assert turns <= 2
    peer.close()
    flooder.close()


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("kind", [uv.Tcp, uv.Udp, uv.Timer])
def test_a_handle_is_the_loops_when_a_signals_handler_raises_as_it_was_made(kind, monkeypatch):
    loop = uv.Loop()
    real = uv.Handle.__init__

    def __init__(self, loop, create, *arguments):
        def interrupted(*arguments):
            create(*arguments)
            raise Interrupted

        real(self, loop, interrupted, *arguments)

    left, right = socket.socketpair(type=socket.SOCK_DGRAM if kind is uv.Udp else socket.SOCK_STREAM)
    fd = left.detach()
    with monkeypatch.context() as patches:
        patches.setattr(uv.Handle, "__init__", __init__)
        with pytest.raises(Interrupted):
            kind(loop, *(() if kind is uv.Timer else (fd,)))
    (handle,) = loop.handles.values()
    assert not handle.closed
    if kind is uv.Timer:
        os.close(fd)
    else:
        assert handle.fileno() == fd
    loop.close()
    assert handle.closed
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    right.close()


def test_a_stream_can_be_closed_as_soon_as_the_loop_knows_it(monkeypatch):
    """When a signal's handler raises in the midst of its constructor, the loop's end closes it."""
    loop = uv.Loop()
    real = uv.Handle.__init__

    def interrupted(*arguments):
        real(*arguments)
        raise Interrupted

    left, right = socket.socketpair()
    with monkeypatch.context() as patches, right:
        patches.setattr(uv.Handle, "__init__", interrupted)
        with pytest.raises(Interrupted):
            uv.Tcp(loop, left.detach())
        loop.close()
        right.settimeout(10)
        assert right.recv(1) == b""


@pytest.mark.parametrize("loop", ["binding"], indirect=True)
def test_a_loop_keeps_no_memoryview(loop):
    # Before 3.12.2 CPython crashes when it collects one, in whatever order, that an iterator or a write still uses.
    loop.wake()
    assert loop.poll(1) == 1
    kept = list(vars(loop).values())
    kept += [item for value in kept if isinstance(value, list) for item in value]
    assert not [value for value in kept if isinstance(value, memoryview)]
    loop.dispatch()

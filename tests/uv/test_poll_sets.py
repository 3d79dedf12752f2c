"""Two epoll sets, libuv's and that of the watched descriptors, one in the other.

Which of them is the outer one, and that nobody notices.
"""

import errno
import os
import select
import signal
import socket
import sys
import threading
import time

import pytest

from ffloop import core, uv

from .test_handles import KINDS, open_tcp, run_until, watch_for_long

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere libuv watches them")


@pytest.fixture(params=KINDS)
def loop(request):
    loop = core.Queue() if request.param == "accelerator" else uv.Loop()
    yield loop
    loop.close()


def is_outer(watched):
    """Return whether another epoll set stands in the one that watches `watched`."""
    sets = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{number}") == "anon_inode:[eventpoll]":
                with open(f"/proc/self/fdinfo/{number}") as info:
                    sets[int(number)] = {int(line.split()[1]) for line in info if line.startswith("tfd:")}
        except FileNotFoundError:
            pass  # the listing's own
    (found,) = [members for members in sets.values() if watched in members]
    return not found.isdisjoint(sets)


class Busy:
    """A watched descriptor and a connection, which bring events when they are told to."""

    def __init__(self, loop):
        self.loop = loop
        self.got = []
        self.left, self.right = socket.socketpair()
        self.poll = uv.Poll(loop, self.left.fileno())
        self.poll.start(uv.READABLE, lambda status, events: self.got.append(self.left.recv(10)))
        near, self.far = socket.socketpair()
        self.stream = open_tcp(loop, near.detach())
        self.stream.read_start(lambda nread, offset: self.got.append(loop.received(nread, offset)))

    def turns(self, count, watched=False, connection=False):
        for _ in range(count):
            self.got.clear()
            expected = []
            if watched:
                self.right.send(b"watched")
                expected.append(b"watched")
            if connection:
                self.far.send(b"connection")
                expected.append(b"connection")
            run_until(self.loop, lambda expected=expected: len(self.got) == len(expected))
            assert sorted(self.got) == sorted(expected)

    def is_outer(self):
        return is_outer(self.left.fileno())

    def close(self):
        self.poll.close()
        self.stream.close()
        for sock in self.left, self.right, self.far:
            sock.close()


@pytest.fixture
def busy(loop):
    busy = Busy(loop)
    yield busy
    busy.close()


def test_the_set_that_brings_most_events_becomes_the_outer_one(busy):
    for _ in range(3):
        busy.turns(100, connection=True)
        assert not busy.is_outer()
        busy.turns(100, watched=True)
        assert busy.is_outer()
    busy.turns(100, connection=True, watched=True)
    assert busy.is_outer()
    busy.turns(100, connection=True)
    busy.turns(100, connection=True, watched=True)
    assert not busy.is_outer()


def test_a_listening_socket_does_not_make_connections_slower(busy):
    # It is watched, but each connection that it brings has something to say.
    for _ in range(100):
        busy.turns(1, watched=True)
        busy.turns(2, connection=True)
    assert not busy.is_outer()


def test_both_kinds_are_heard_in_any_order(busy):
    for turn in range(300):
        busy.turns(turn % 50, watched=turn % 3 != 0, connection=turn % 4 != 0)


def test_a_loop_that_watches_hears_of_wake_ups_and_timers_of_libuvs(loop):
    watch_for_long(loop)
    thread = threading.Timer(0.02, loop.wake)
    thread.start()
    assert loop.poll(None) == 1
    loop.dispatch()
    thread.join()
    calls = []
    timer = uv.Timer(loop)
    timer.start(lambda: calls.append(time.monotonic()), 0.003, repeat=0.002)
    started = time.monotonic()
    for _ in range(20):
        loop.poll(None)
        loop.dispatch()
    assert len(calls) >= 10
    assert calls[0] - started >= 0.003
    timer.close()


def test_a_loop_that_watches_never_returns_early_whatever_signals_come(loop):
    watch_for_long(loop)
    # On no wake-up descriptor: the wait itself is interrupted.
    before = signal.signal(signal.SIGALRM, lambda *args: None)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    try:
        for timeout in 0.0001, 0.0015, 0.0301:
            started = time.monotonic()
            assert loop.poll(timeout) == 0
            assert time.monotonic() - started >= timeout
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_watched_descriptor_that_is_closed_leaves_its_number_to_a_connection(loop):
    watch_for_long(loop)
    left, right = socket.socketpair()
    poll = uv.Poll(loop, left.fileno())
    poll.start(uv.READABLE, lambda status, events: None)
    number = left.fileno()
    left.close()
    near, far = socket.socketpair()
    assert near.fileno() == number
    stream = open_tcp(loop, near.detach())
    got = []
    stream.read_start(lambda nread, offset: got.append(loop.received(nread, offset)))
    far.send(b"one")
    run_until(loop, lambda: got)
    poll.close()
    far.send(b"two")
    run_until(loop, lambda: len(got) == 2)
    assert got == [b"one", b"two"]
    stream.close()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        uv.Poll(loop, number).start(uv.READABLE, lambda status, events: None)
    right.close()
    far.close()


def test_a_loop_that_watches_counts_what_it_does(loop):
    watch_for_long(loop)
    loop.metrics()
    left, right = socket.socketpair()
    with left, right:
        poll = uv.Poll(loop, left.fileno())
        poll.start(uv.READABLE, lambda status, events: left.recv(1))
        before = loop.metrics()
        for _ in range(10):
            right.send(b"x")
            loop.poll(1)
            loop.dispatch()
        loop.poll(0.01)
        after = loop.metrics()
        assert after.iterations - before.iterations == 11
        assert after.events - before.events == 10
        assert after.idle_seconds - before.idle_seconds >= 0.01
        poll.close()


def test_a_loop_that_watches_closes_like_any_other(loop):
    watch_for_long(loop)
    open_tcp(loop, socket.socketpair()[0].detach())
    loop.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_sets_are_parted_in_a_forked_child_whichever_is_the_outer_one(busy):
    for connection in False, True:
        busy.turns(100, watched=True)
        busy.turns(100 if connection else 0, connection=True)
        assert busy.is_outer() is not connection
        child = os.fork()
        if child == 0:
            status = 1
            try:
                busy.turns(100, watched=True)
                busy.turns(100, connection=True)
                busy.turns(100, watched=True, connection=True)
                busy.loop.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        busy.turns(3, watched=True)
        busy.turns(3, connection=True)


def test_a_chain_of_sets_that_would_be_too_deep_under_libuvs_leaves_ours_the_outer_one(busy):
    busy.turns(100, watched=True)
    heard, chain = [], []
    reading, writing = os.pipe()
    inner = reading
    for _ in range(4):
        chain.append(select.epoll())
        chain[-1].register(inner, select.EPOLLIN)
        inner = chain[-1].fileno()
    deep = uv.Poll(busy.loop, inner)
    deep.start(uv.READABLE, lambda status, events: heard.append(os.read(reading, 1)))
    for count in range(1, 3):
        os.write(writing, b"x")
        run_until(busy.loop, lambda count=count: len(heard) == count)
        busy.turns(100, connection=True)
        assert busy.is_outer()
    deep.close()
    for epoll in chain:
        epoll.close()
    busy.turns(100, connection=True)
    assert not busy.is_outer()
    os.close(reading)
    os.close(writing)

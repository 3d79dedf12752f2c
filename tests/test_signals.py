import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

import ffloop


def send_later(number, delay=0.05):
    timer = threading.Timer(delay, os.kill, [os.getpid(), number])
    timer.start()
    return timer


def test_a_signal_handler_is_called_in_the_loop_while_it_waits(loop):
    called = []
    loop.add_signal_handler(signal.SIGUSR1, lambda *args: (called.append(args), loop.stop()), 1, 2)
    loop.call_later(10, loop.stop)
    timer = send_later(signal.SIGUSR1)
    started = time.monotonic()
    loop.run_forever()
    timer.join()
    assert called == [(1, 2)]
    assert time.monotonic() - started < 9
    assert loop.remove_signal_handler(signal.SIGUSR1)
    assert not loop.remove_signal_handler(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_a_signal_that_comes_before_the_loop_runs_is_not_lost(loop):
    called = []
    loop.add_signal_handler(signal.SIGUSR1, called.append, 1)
    os.kill(os.getpid(), signal.SIGUSR1)
    loop.call_later(0.05, loop.stop)
    loop.run_forever()
    assert called == [1]


def test_ctrl_c_ends_a_loop_that_waits(loop):
    timer = send_later(signal.SIGINT)
    loop.call_later(10, loop.stop)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    timer.join()


def test_ctrl_c_ends_a_run_with_the_main_task_cancelled():
    ended = []

    async def main():
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    timer = send_later(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        ffloop.run(main())
    timer.join()
    assert ended == ["cancelled"]


def test_a_plain_python_handler_runs_while_the_loop_waits(loop):
    called = []
    before = signal.signal(signal.SIGUSR1, lambda *args: called.append(args[0]))
    try:
        timer = send_later(signal.SIGUSR1)
        deadline = time.monotonic() + 10
        while not called and time.monotonic() < deadline:
            loop.call_later(0.5, loop.stop)
            loop.run_forever()
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert called == [signal.SIGUSR1]


def test_the_wakeup_descriptor_is_put_back_and_gets_its_signals_meanwhile():
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    before = signal.set_wakeup_fd(right.fileno())
    handler = signal.signal(signal.SIGUSR1, lambda *args: None)
    try:
        loop = ffloop.new_event_loop()
        loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
        loop.call_later(0.02, loop.stop)
        loop.run_forever()
        loop.close()
        assert signal.set_wakeup_fd(right.fileno()) == right.fileno()
        assert left.recv(10) == bytes([signal.SIGUSR1])
    finally:
        signal.signal(signal.SIGUSR1, handler)
        signal.set_wakeup_fd(before)
        left.close()
        right.close()


@pytest.mark.parametrize("takes", ["a run", "a handler"])
def test_no_wakeup_descriptor_is_left_when_a_signal_handler_raises_as_it_is_set(monkeypatch, takes):
    # What had its number next would get bytes that nobody sent. For ffloop alone: no run of asyncio's sets one.
    real = signal.set_wakeup_fd

    class Raised(BaseException):
        pass

    def interrupted(*args, **options):
        real(*args, **options)
        monkeypatch.undo()
        raise Raised

    loop = ffloop.new_event_loop()
    loop.call_later(0.01, loop.stop)
    monkeypatch.setattr(signal, "set_wakeup_fd", interrupted)
    with pytest.raises(Raised):
        loop.run_forever() if takes == "a run" else loop.add_signal_handler(signal.SIGUSR1, print)
    loop.close()
    assert signal.set_wakeup_fd(-1) == -1


def test_a_run_that_never_waits_leaves_the_wakeup_descriptor_alone(loop):
    found = []

    async def main():
        for _ in range(3):
            found.append(signal.set_wakeup_fd(-1))
            await asyncio.sleep(0)

    loop.run_until_complete(main())
    assert found == [-1] * 3


def test_a_signal_that_comes_before_the_first_wait_is_dealt_with_before_it(loop):
    # Its handler sets no descriptor and wakes nobody: the wait would not end.
    called = []

    def handler(signum, frame):
        called.append(signum)
        loop.stop()

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
        end = loop.call_later(20, loop.stop)
        loop.run_forever()
        end.cancel()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert called == [signal.SIGUSR1]


def test_what_a_handler_writes_right_before_the_first_wait_is_sent():
    loop = ffloop.new_event_loop()
    left, right = socket.socketpair()
    right.settimeout(5)
    received = []

    def receive():
        try:
            received.append(right.recv(100))
        finally:
            loop.call_soon_threadsafe(loop.stop)

    def take_wakeup():
        # In this moment nothing but the handler itself tells of a signal.
        transport.write(b"from a handler")
        type(loop)._take_wakeup(loop)

    with right:
        transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=left))
        loop._take_wakeup = take_wakeup
        thread = threading.Thread(target=receive)
        thread.start()
        loop.run_forever()
        thread.join()
        transport.close()
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
    assert received == [b"from a handler"]


def test_running_off_the_main_thread_touches_no_signals():
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    raised = []

    def elsewhere():
        loop = ffloop.new_event_loop()

        async def main():
            with pytest.raises(RuntimeError) as caught:
                loop.add_signal_handler(signal.SIGUSR1, print)
            raised.append(caught.value)

        loop.run_until_complete(main())
        loop.close()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(raised) == 1


@pytest.mark.parametrize(
    ("number", "error"), [("SIGINT", TypeError), (signal.NSIG + 1, ValueError), (signal.SIGKILL, RuntimeError)]
)
def test_a_signal_that_cannot_be_handled_is_refused(loop, number, error):
    with pytest.raises(error):
        loop.add_signal_handler(number, print)


def test_a_coroutine_is_refused_as_a_handler(loop):
    async def handler():
        pass

    with pytest.raises(TypeError, match="coroutines cannot be used"):
        loop.add_signal_handler(signal.SIGUSR1, handler)


def test_closing_the_loop_removes_its_handlers(loop):
    loop.add_signal_handler(signal.SIGUSR1, print)
    loop.close()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


AT_THE_END = """
import asyncio, signal, sys

loop = {"asyncio": asyncio.SelectorEventLoop, "ffloop": __import__("ffloop").new_event_loop}[sys.argv[1]]()
loop.add_signal_handler(signal.SIGUSR1, print)


class Last:
    def __del__(self, loop=loop, sys=sys):
        assert sys.is_finalizing()
        loop.close()
        print("closed", loop.is_closed(), flush=True)


last = Last()
"""


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="objects are not finalized at the end of others")
@pytest.mark.parametrize("name", ["asyncio", "ffloop"])
def test_a_loop_that_is_closed_while_the_interpreter_ends_warns_that_its_handlers_stay(name):
    command = [sys.executable, "-W", "always", "-c", AT_THE_END, name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.stdout == "closed True\n", done.stderr
    assert "on interpreter shutdown stage, skipping signal handlers removal" in done.stderr

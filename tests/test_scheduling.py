import asyncio
import contextvars
import gc
import logging
import signal
import socket
import sys
import threading
import time
import weakref

import pytest

import ffloop

from .conftest import FACTORIES, collect


def test_the_loop_is_a_base_event_loop():
    loop = ffloop.new_event_loop()
    assert isinstance(loop, asyncio.BaseEventLoop)
    assert repr(loop) == "<ffloop.Loop running=False closed=False debug=False>"
    loop.close()


def test_callbacks_run_in_the_order_of_their_scheduling(loop):
    order = []
    for number in range(5):
        loop.call_soon(order.append, number)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert order == [0, 1, 2, 3, 4]


def test_a_moment_in_whole_seconds_is_kept_as_it_is_and_takes_its_turn_among_the_others(loop):
    order = []
    moment = int(loop.time())
    timers = [loop.call_at(when, order.append, when) for when in (moment + 0.5, moment, moment - 0.5, moment - 1)]
    assert [type(timer.when()) for timer in timers] == [float, int, float, int]
    late = [loop.call_at(2**60 + more, print) for more in (1, 0)]  # as floats they are the same
    assert [timer.when() - 2**60 for timer in sorted(late)] == [0, 1]
    loop.call_at(moment + 0.6, loop.stop)
    loop.run_forever()
    assert order == [moment - 1, moment - 0.5, moment, moment + 0.5]
    timers[0].cancel()
    for timer in late:
        timer.cancel()


def test_timers_fire_in_the_order_of_their_deadlines_and_never_early(loop):
    fired = []
    now = loop.time()
    for delay in (0.03, 0.01, 0.02, 0.0015):
        loop.call_at(now + delay, lambda delay=delay: fired.append((delay, loop.time() - now)))
    loop.call_at(now + 0.04, loop.stop)
    loop.run_forever()
    assert [delay for delay, _ in fired] == [0.0015, 0.01, 0.02, 0.03]
    assert all(elapsed >= delay - loop._clock_resolution for delay, elapsed in fired)


def test_a_cancelled_timer_does_not_fire(loop):
    fired = []
    handle = loop.call_later(0.001, fired.append, 1)
    assert isinstance(handle, asyncio.TimerHandle)
    handle.cancel()
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert fired == []


def test_call_later_with_no_delay_gives_a_timer_handle(loop):
    assert isinstance(loop.call_later(0, print), asyncio.TimerHandle)


def test_a_patched_clock_moves_the_timers(loop):
    fired = []
    offset = 0.0
    real = loop.time
    loop.time = lambda: real() + offset
    loop.call_later(3600, fired.append, 1)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert fired == []
    offset = 3600.0
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert fired == [1]


def test_call_soon_threadsafe_wakes_a_loop_that_waits(loop):
    thread = threading.Timer(0.02, loop.call_soon_threadsafe, [loop.stop])
    loop.call_later(10, loop.stop)
    started = time.monotonic()
    thread.start()
    loop.run_forever()
    thread.join()
    assert time.monotonic() - started < 9


def test_who_cancels_a_callback_of_another_thread_waits_while_it_runs_from_3_14_on(loop):
    waits = sys.version_info >= (3, 14)
    running, cancelled, order = threading.Event(), threading.Event(), []

    def callback(*args):
        running.set()
        order.append((args, cancelled.wait(0.2 if waits else 10)))

    def other():
        handle = loop.call_soon_threadsafe(callback, 1, 2)
        assert running.wait(10)
        handle.cancel()
        cancelled.set()
        order.append((handle.cancelled(), handle._args))
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=other)
    thread.start()
    loop.run_forever()
    thread.join()
    assert sorted(order, key=repr) == [((1, 2), not waits), (True, None)]


@pytest.mark.skipif(sys.version_info < (3, 14), reason="nobody waits before Python 3.14")
def test_all_who_cancel_a_callback_of_another_thread_while_it_runs_go_on_after_it(loop):
    running, leave, order = threading.Event(), threading.Event(), []

    def callback():
        running.set()
        assert leave.wait(10)
        handle.cancel()  # in the thread that runs it there is nothing to wait for
        order.append("ran")

    def cancel():
        handle.cancel()
        order.append(handle.cancelled())

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    handle = loop.call_soon_threadsafe(callback)
    assert running.wait(10)
    cancelling = [threading.Thread(target=cancel) for _ in range(5)]
    for other in cancelling:
        other.start()
    time.sleep(0.05)
    assert order == []
    leave.set()
    for other in cancelling:
        other.join(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    assert order == ["ran"] + 5 * [True]
    assert "cancelled" in repr(handle)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="nobody waits before Python 3.14")
def test_who_waits_to_cancel_a_callback_of_another_thread_can_be_interrupted(loop):
    running, leave = threading.Event(), threading.Event()

    def callback():
        running.set()
        assert leave.wait(10)

    def interrupt(*args):
        raise KeyboardInterrupt

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    handle = loop.call_soon_threadsafe(callback)
    assert running.wait(10)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            handle.cancel()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        leave.set()
    handle.cancel()
    assert handle.cancelled()
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


def test_callbacks_of_another_thread_may_fail_cancel_themselves_and_interrupt(loop, errors):
    ran, handles = [], []

    def interrupts():
        ran.append("interrupts")
        raise KeyboardInterrupt

    def cancels():
        handles[1].cancel()
        ran.append("cancels")

    variable = contextvars.ContextVar("variable")
    context = contextvars.Context()
    context.run(variable.set, "context")
    handles += [
        loop.call_soon_threadsafe(lambda: 1 / 0),
        loop.call_soon_threadsafe(cancels),
        loop.call_soon_threadsafe(ran.append, "never"),
        loop.call_soon_threadsafe(lambda: ran.append(variable.get()), context=context),
        loop.call_soon_threadsafe(interrupts),
        loop.call_soon_threadsafe(loop.stop),
    ]
    handles[2].cancel()
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    loop.run_forever()
    assert ran == ["cancels", "context", "interrupts"]
    assert [type(told["exception"]) for told in errors] == [ZeroDivisionError]
    assert errors[0]["handle"] is handles[0]
    assert [handle.cancelled() for handle in handles] == [False, True, True, False, False, False]
    # Nobody is left waiting for one that has run.
    thread = threading.Thread(target=lambda: [handle.cancel() for handle in handles])
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def test_many_threads_schedule_and_nothing_is_lost(loop):
    seen = []

    def work(base):
        for number in range(1000):
            loop.call_soon_threadsafe(seen.append, base + number)

    threads = [threading.Thread(target=work, args=(base * 1000,)) for base in range(4)]
    for thread in threads:
        thread.start()
    while len(seen) < 4000:
        loop.call_later(0.001, loop.stop)
        loop.run_forever()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(4000))


def test_an_exception_in_a_callback_reaches_the_handler_and_the_loop_goes_on(loop, errors):
    order = []
    loop.call_soon(lambda: 1 / 0)
    loop.call_soon(order.append, 1)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert order == [1]
    assert isinstance(errors[0]["exception"], ZeroDivisionError)


def test_keyboard_interrupt_in_a_callback_ends_the_run_and_loses_nothing(loop):
    order = []

    def interrupt():
        raise KeyboardInterrupt

    loop.call_soon(interrupt)
    loop.call_soon(order.append, 1)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert order == [1]


def test_a_loop_cannot_run_twice(loop):
    async def main():
        with pytest.raises(RuntimeError, match="already running"):
            loop.run_forever()

    loop.run_until_complete(main())


def test_a_loop_cannot_be_closed_while_it_runs(loop):
    async def main():
        with pytest.raises(RuntimeError, match="Cannot close a running event loop"):
            loop.close()

    loop.run_until_complete(main())


@pytest.mark.parametrize(
    "call",
    [
        lambda loop: loop.call_soon(print),
        lambda loop: loop.call_later(1, print),
        lambda loop: loop.call_soon_threadsafe(print),
        lambda loop: loop.run_forever(),
        lambda loop: loop.add_reader(0, print),
        lambda loop: loop.run_in_executor(None, print),
    ],
)
def test_a_closed_loop_refuses_work(loop, call):
    loop.close()
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        call(loop)


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="references are not counted")
@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
@pytest.mark.parametrize("new_event_loop", FACTORIES.values(), ids=FACTORIES)
def test_a_closed_loop_goes_with_its_last_reference(new_event_loop, debug):
    # anyio's and tornado's tests ask for it: no loop of theirs is to wait for the garbage collector.
    async def answer(reader, writer):
        writer.write(await reader.readexactly(1))
        writer.close()
        await writer.wait_closed()

    async def main():
        loop = asyncio.get_running_loop()
        loop.call_later(1000, print)
        await asyncio.sleep(0.001)
        await loop.run_in_executor(None, int)
        await loop.shutdown_default_executor()
        loop.add_signal_handler(signal.SIGUSR1, print)
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x")
        assert await reader.read() == b"x"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        endpoint, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
        endpoint.close()
        await asyncio.sleep(0)
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            loop.add_reader(left, print)
            loop.remove_reader(left)
            right.send(b"x")
            assert await loop.sock_recv(left, 1) == b"x"

    loop = new_event_loop()
    loop.set_debug(debug)
    collect()
    gc.disable()
    try:
        loop.run_until_complete(main())
        loop.close()
        gone = weakref.ref(loop)
        del loop
        assert gone() is None
    finally:
        gc.enable()


def test_debug_mode_refuses_call_soon_from_another_thread(loop):
    loop.set_debug(True)
    raised = []

    def elsewhere():
        try:
            loop.call_soon(print)
        except RuntimeError as exc:
            raised.append(str(exc))

    async def main():
        await loop.run_in_executor(None, elsewhere)

    loop.run_until_complete(main())
    assert raised == ["Non-thread-safe operation invoked on an event loop other than the current one"]


def test_debug_mode_names_a_slow_callback(loop, caplog):
    loop.set_debug(True)
    loop.slow_callback_duration = 0.01

    def slow():
        time.sleep(0.02)

    loop.call_soon(slow)
    loop.call_soon(loop.stop)
    with caplog.at_level(logging.WARNING, "asyncio"):
        loop.run_forever()
    assert "slow" in caplog.text
    assert "took" in caplog.text


async def test_tasks_futures_and_gather_work():
    async def double(number):
        await asyncio.sleep(0)
        return 2 * number

    assert await asyncio.gather(*map(double, range(100))) == list(range(0, 200, 2))
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, 1)
    assert await future == 1


async def test_a_task_factory_gets_what_asyncio_gives_it():
    loop = asyncio.get_running_loop()
    made = []

    def factory(loop, coro, **kwargs):
        made.append(kwargs)
        return asyncio.Task(coro, loop=loop, **kwargs)

    loop.set_task_factory(factory)
    await loop.create_task(asyncio.sleep(0), context=contextvars.copy_context())
    loop.set_task_factory(None)
    assert "context" in made[0]


async def test_futures_and_tasks_are_of_the_classes_that_asyncio_names_just_then(monkeypatch):
    loop = asyncio.get_running_loop()

    class Future(asyncio.Future):
        pass

    class Task(asyncio.Task):
        """Wants what each version of asyncio gives it."""

        if sys.version_info < (3, 14):

            def __init__(self, coro, *, loop, name, context):
                super().__init__(coro, loop=loop, name=name, context=context)

    monkeypatch.setattr(asyncio.futures, "Future", Future)
    monkeypatch.setattr(asyncio.tasks, "Task", Task)
    assert type(loop.create_future()) is Future
    task = loop.create_task(asyncio.sleep(0, "slept"))
    assert type(task) is Task
    assert await task == "slept"
    monkeypatch.undo()
    assert type(loop.create_future()) is asyncio.Future


async def test_who_replaces_how_futures_and_tasks_are_made_gets_to_make_them(monkeypatch):
    loop = asyncio.get_running_loop()
    calls = []
    create_future, create_task = asyncio.BaseEventLoop.create_future, asyncio.BaseEventLoop.create_task

    def future(self):
        calls.append("future")
        return create_future(self)

    def task(self, coroutine, **kwargs):
        calls.append("task")
        return create_task(self, coroutine, **kwargs)

    monkeypatch.setattr(asyncio.BaseEventLoop, "create_future", future)
    monkeypatch.setattr(asyncio.BaseEventLoop, "create_task", task)
    loop.create_future()
    await asyncio.create_task(asyncio.sleep(0))
    assert calls == ["future", "task"]
    monkeypatch.undo()
    loop.create_future()
    await asyncio.create_task(asyncio.sleep(0))
    assert calls == ["future", "task"]


async def test_the_debug_mode_writes_down_who_has_made_a_future_or_a_task():
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    future = loop.create_future()
    task = loop.create_task(asyncio.sleep(0))
    for made in (future, task):
        assert any(frame.name.startswith("test_the_debug_mode_writes") for frame in made._source_traceback)
    await task


async def test_create_task_takes_what_the_version_takes():
    loop = asyncio.get_running_loop()
    seen = contextvars.ContextVar("seen", default=None)
    context = contextvars.copy_context()
    context.run(seen.set, "passed")

    async def work():
        return asyncio.current_task().get_name(), seen.get()

    assert await loop.create_task(work(), name="named", context=context) == ("named", "passed")
    if sys.version_info >= (3, 14):
        task = loop.create_task(work(), name="eager", context=context, eager_start=True)
        assert task.result() == ("eager", "passed")  # without a turn
        assert task.get_loop() is loop
    coroutine = work()
    with pytest.raises(TypeError):
        await loop.create_task(coroutine, wrong=1)
    coroutine.close()


@pytest.mark.parametrize("variables", [0, 1], ids=("an empty context", "a context with a variable"))
def test_a_callback_runs_in_a_copy_of_its_callers_context_that_is_its_own(loop, variables):
    variable, other = contextvars.ContextVar("variable"), contextvars.ContextVar("other")
    seen = []

    def callback(number):
        seen.append((other.get(None), variable.get(None)))
        variable.set(number)

    def schedule():
        if variables:
            other.set("callers")
        handles = [loop.call_soon(callback, number) for number in range(3)]
        handles.append(loop.call_at(0.0, callback, 3))
        handles.append(loop.call_soon_threadsafe(callback, 4))
        for number in range(5, 8):
            loop.call_soon(callback, number)  # nobody keeps these, and what they have set is nobody's any more
        loop.call_later(0, loop.call_soon, loop.stop)
        return handles

    handles = contextvars.Context().run(schedule)
    before = [handle._context for handle in handles[1:]]
    assert len({id(context) for context in before}) == len(before)
    loop.run_forever()
    assert seen == [("callers" if variables else None, None)] * 8
    assert all(handle._context is context for handle, context in zip(handles[1:], before, strict=True))
    assert [handle._context[variable] for handle in handles] == [0, 1, 2, 3, 4]


def test_a_context_that_a_callback_has_shown_to_others_is_used_for_no_other_callback(loop):
    kept, seen, variable = [], [], contextvars.ContextVar("variable", default=None)

    def keep(number):
        kept.append(handles[number]._context)

    def look():
        seen.append(variable.get())

    def schedule():
        return [loop.call_soon(keep, number) for number in range(2)]

    handles = contextvars.Context().run(schedule)
    loop.call_soon(loop.stop)
    loop.run_forever()
    handles.clear()
    weak = weakref.ref(kept[0])
    kept[0].run(variable.set, "kept")
    for _ in range(3):
        contextvars.Context().run(loop.call_soon, look)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == [None] * 3
    assert kept[0] is not kept[1]
    kept.clear()
    collect()
    assert weak() is None


async def test_to_thread_runs_beside_the_loop_in_the_callers_context():
    seen = contextvars.ContextVar("seen")
    seen.set("carried over")
    thread, value = await asyncio.to_thread(lambda: (threading.get_ident(), seen.get()))
    assert thread != threading.get_ident()
    assert value == "carried over"
    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(lambda: 1 / 0)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="call graphs came with Python 3.14")
async def test_the_call_graph_of_a_task_shows_who_waits_for_whom():
    async def inner():
        await asyncio.sleep(10)

    async def outer():
        async with asyncio.TaskGroup() as group:
            group.create_task(inner(), name="inner task")

    task = asyncio.create_task(outer(), name="outer task")
    await asyncio.sleep(0.01)
    graph = asyncio.format_call_graph(task)
    assert "outer task" in graph
    assert "outer()" in graph
    (waiting,) = [other for other in asyncio.all_tasks() if other.get_name() == "inner task"]
    assert "outer task" in asyncio.format_call_graph(waiting), "it is awaited by the outer one"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="eager tasks came with Python 3.12")
async def test_eager_tasks_run_at_once():
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    order = []

    async def eager():
        order.append("task")

    task = loop.create_task(eager())
    order.append("creator")
    await task
    loop.set_task_factory(None)
    assert order == ["task", "creator"]


async def test_the_executor_answers_and_raises():
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(None, sum, [1, 2, 3]) == 6
    with pytest.raises(ZeroDivisionError):
        await loop.run_in_executor(None, lambda: 1 / 0)


def test_asynchronous_generators_are_shut_down(loop):
    closed = []

    async def numbers():
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    async def main():
        generator = numbers()
        await anext(generator)
        return generator

    generator = loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert closed == [True]
    del generator


def test_a_task_that_is_never_awaited_is_reported_in_debug_mode(loop, errors):
    loop.set_debug(True)

    async def fails():
        raise ValueError("lost")

    loop.create_task(fails())
    loop.call_later(0.01, loop.stop)
    loop.run_forever()

    collect()
    assert any("never retrieved" in context["message"] for context in errors)


def test_stop_in_an_io_callback_leaves_what_it_scheduled_for_the_next_run(loop):
    left, right = socket.socketpair()
    left.setblocking(False)
    order = []

    def ready():
        left.recv(10)
        loop.call_soon(order.append, "scheduled")
        loop.stop()

    loop.add_reader(left, ready)
    right.send(b"x")
    loop.run_forever()
    assert order == []
    loop.call_soon(order.append, "later")
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert order == ["scheduled", "later"]
    loop.remove_reader(left)
    left.close()
    right.close()


def test_a_timer_that_is_due_runs_before_what_io_callbacks_schedule(loop):
    left, right = socket.socketpair()
    left.setblocking(False)
    order = []

    def ready():
        left.recv(10)
        order.append("io")
        loop.call_soon(lambda: (order.append("scheduled"), loop.stop()))

    loop.add_reader(left, ready)
    right.send(b"x")
    loop.call_at(loop.time() - 1, order.append, "timer")
    loop.run_forever()
    assert order == ["io", "timer", "scheduled"]
    loop.remove_reader(left)
    left.close()
    right.close()


def test_a_batch_that_keyboard_interrupt_ends_goes_on_in_the_next_run():
    loop = ffloop.new_event_loop()
    received, peers, transports = [], [], []

    class Interrupts(asyncio.Protocol):
        def data_received(self, data):
            received.append(data)
            if len(received) == 1:
                raise KeyboardInterrupt

    for _ in range(3):
        left, right = socket.socketpair()
        transport, _ = loop.run_until_complete(loop.connect_accepted_socket(Interrupts, left))
        transports.append(transport)
        peers.append(right)
    for number, peer in enumerate(peers):
        peer.send(b"%d" % number)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    loop.call_later(0.02, loop.stop)
    loop.run_forever()
    assert sorted(received) == [b"0", b"1", b"2"]
    for transport in transports:
        transport.abort()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    for peer in peers:
        peer.close()


def connected(loop, protocol):
    left, right = socket.socketpair()
    transport, protocol = loop.run_until_complete(loop.connect_accepted_socket(protocol, left))
    right.settimeout(10)
    return transport, protocol, right


def test_what_is_written_while_the_loop_does_not_run_leaves_at_once(loop):
    transport, _, peer = connected(loop, asyncio.Protocol)
    transport.write(b"now")
    assert peer.recv(10) == b"now"
    transport.abort()
    loop.run_until_complete(asyncio.sleep(0))
    peer.close()


def test_keyboard_interrupt_at_the_end_of_a_stream_does_not_lose_the_end(loop):
    class Interrupts(asyncio.Protocol):
        interrupted = lost = False

        def eof_received(self):
            if not self.interrupted:
                self.interrupted = True
                raise KeyboardInterrupt

        def connection_lost(self, exc):
            self.lost = True

    _, protocol, peer = connected(loop, Interrupts)
    peer.close()
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    loop.call_later(0.02, loop.stop)
    loop.run_forever()
    assert protocol.lost


def test_the_first_turn_after_keyboard_interrupt_polls(loop):
    class Interrupts(asyncio.Protocol):
        received = b""

        def data_received(self, data):
            self.received += data
            if data == b"first":
                raise KeyboardInterrupt

    transport, protocol, peer = connected(loop, Interrupts)
    peer.send(b"first")
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    peer.send(b"second")
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert protocol.received == b"firstsecond"
    transport.abort()
    loop.run_until_complete(asyncio.sleep(0))
    peer.close()


def test_an_interrupt_in_the_midst_of_a_burst_of_datagrams_loses_none(loop):
    class Interrupts(asyncio.DatagramProtocol):
        def __init__(self):
            self.received = []

        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, addr):
            self.received.append(data)
            self.transport.sendto(data, addr)
            if int(data) % 3 == 1:
                raise KeyboardInterrupt

    transport, protocol = loop.run_until_complete(
        loop.create_datagram_endpoint(Interrupts, local_addr=("127.0.0.1", 0))
    )
    numbers = [b"%d" % number for number in range(8)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(10)
        for number in numbers:
            sender.sendto(number, transport.get_extra_info("sockname"))
        for count in 2, 5, 8:
            with pytest.raises(KeyboardInterrupt):
                loop.run_forever()
            assert protocol.received == numbers[:count]
        assert [sender.recv(10) for _ in numbers] == numbers
    transport.abort()
    loop.run_until_complete(asyncio.sleep(0))


def test_an_interrupted_batch_leaves_no_entry_that_overtakes_others_in_debug_mode(loop):
    order = []

    class Interrupts(asyncio.Protocol):
        def data_received(self, data):
            order.append(data)
            if data == b"first":
                loop.call_soon(order.append, "scheduled")
                raise KeyboardInterrupt

    loop.set_debug(True)
    transport, protocol, peer = connected(loop, Interrupts)
    peer.send(b"first")
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    peer.send(b"second")
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert order == [b"first", "scheduled", b"second"]
    transport.abort()
    loop.run_until_complete(asyncio.sleep(0))
    peer.close()


def test_a_transport_left_open_when_its_loop_is_closed_still_warns(loop):

    transport, _, peer = connected(loop, asyncio.Protocol)
    loop.close()
    transport.pause_reading()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        transport.resume_reading()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        transport.close()
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        del transport
        collect()
    peer.close()


@pytest.mark.parametrize("ends", [False, True], ids=["goes on", "removes itself"])
def test_debug_mode_names_a_slow_reader(loop, caplog, ends):
    loop.set_debug(True)
    loop.slow_callback_duration = 0.01
    left, right = socket.socketpair()

    def slow_reader():
        left.recv(10)
        time.sleep(0.02)
        if ends:
            loop.remove_reader(left)
        loop.stop()

    loop.add_reader(left, slow_reader)
    right.send(b"x")
    with caplog.at_level(logging.WARNING, "asyncio"):
        loop.run_forever()
    assert "slow_reader" in caplog.text
    loop.remove_reader(left)
    left.close()
    right.close()


def test_timers_due_meanwhile_do_not_overtake_io_that_was_ready(loop):
    left, right = socket.socketpair()
    other, other_end = socket.socketpair()
    order = []

    def first():
        left.recv(10)
        order.append("first")
        time.sleep(0.05)
        other_end.send(b"x")

    def second():
        other.recv(10)
        order.append("second")
        loop.call_soon(loop.stop)

    loop.add_reader(left, first)
    loop.add_reader(other, second)
    loop.call_later(0.03, order.append, "timer")
    right.send(b"x")
    loop.run_forever()
    assert order == ["first", "second", "timer"]
    for end in (left, other):
        loop.remove_reader(end)
    for end in (left, right, other, other_end):
        end.close()


def test_a_patched_select_sees_that_another_thread_has_scheduled_something(loop):
    # looptime's clock polls without waiting first, and waits when nothing was there.
    real, seen = loop._selector.select, []

    def select(timeout=None):
        if timeout is None:
            thread = threading.Thread(target=loop.call_soon_threadsafe, args=(loop.stop,))
            thread.start()
            thread.join()
        found = real(timeout=0)
        seen.append((timeout, bool(found)))
        return found

    loop._selector.select = select
    loop.run_forever()
    assert seen[-1] == (None, True)


def test_what_a_loop_has_fits_into_the_object_itself():
    # CPython keeps 30 attributes there. With one more, all of them, asyncio's included, move to a dictionary.
    loop = ffloop.new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    assert len(vars(loop)) <= 30
    loop.close()

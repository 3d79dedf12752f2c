"""Loops on both sides of a fork. Each test's forks happen in a process of its own."""

import subprocess
import sys

import pytest

PRELUDE = """
import asyncio, os, signal, socket, sys, threading, time, warnings
import ffloop
warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads

def join(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

async def echo(reader, writer):
    while data := await reader.read(1000):
        writer.write(data)
    writer.close()
"""


def run(text, *options):
    done = subprocess.run([sys.executable, *options, "-c", PRELUDE + text], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.split()


def test_a_child_runs_a_loop_of_its_own_and_the_parents_goes_on():
    assert run("""
async def child():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"child")
    assert await reader.readexactly(5) == b"child"
    await asyncio.sleep(0.01)
    loop = asyncio.get_running_loop()
    caught = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, caught.set)
    os.kill(os.getpid(), signal.SIGUSR1)
    await caught.wait()
    writer.write_eof()  # and the other side ends before this one
    assert await reader.read() == b""
    writer.close()

async def main():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    readable = asyncio.Event()
    loop.add_reader(left, readable.set)
    pid = os.fork()
    if pid == 0:
        try:
            ffloop.run(child())
        except BaseException:
            import traceback; traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert await asyncio.to_thread(join, pid) == 0
    for _ in range(3):
        writer.write(b"parent")
        assert await reader.readexactly(6) == b"parent"
    right.send(b"x")
    await readable.wait()
    await loop.run_in_executor(None, time.sleep, 0.01)
    writer.write_eof()  # and the other side ends before this one
    assert await reader.read() == b""
    writer.close()
    print("fine")

ffloop.run(main())
""") == ["fine"]


def test_a_child_that_closes_the_inherited_loop_does_not_disturb_the_parents():
    # The two share an epoll set until the child has one of its own.
    assert run("""
loop = ffloop.new_event_loop()
left, right = socket.socketpair()
got = []
loop.add_reader(left, lambda: (got.append(left.recv(10)), loop.stop()))
a, b = socket.socketpair()
transport, _ = loop.run_until_complete(loop.connect_accepted_socket(asyncio.Protocol, a))
pid = os.fork()
if pid == 0:
    transport.abort()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    os._exit(0)
assert join(pid) == 0
right.send(b"parent")
loop.call_later(20, loop.stop)
loop.run_forever()
assert got == [b"parent"]
threading.Timer(0.05, loop.call_soon_threadsafe, (loop.stop,)).start()
loop.run_forever()
transport.write(b"still there")
loop.run_until_complete(asyncio.sleep(0))
assert b.recv(100) == b"still there"
print("fine")
transport.close()
loop.run_until_complete(asyncio.sleep(0))
loop.close()
""") == ["fine"]


def test_an_inherited_loop_runs_in_the_child():
    assert run("""
loop = ffloop.new_event_loop()
got = []
pairs = [socket.socketpair() for _ in range(2)]
for left, _ in pairs:
    loop.add_reader(left, lambda left=left: (got.append(left.recv(10)), loop.stop()))
loop.call_later(20, loop.stop)
pid = os.fork()
loop.remove_reader(pairs[pid != 0][0])  # the other side's
pairs[pid == 0][1].send(b"x" if pid else b"y")
loop.run_forever()
assert got == [b"x" if pid else b"y"]
threading.Timer(0.01, loop.call_soon_threadsafe, (loop.stop,)).start()
loop.run_forever()
loop.close()
if pid == 0:
    sys.exit(7)
assert join(pid) == 7
print("fine")
""") == ["fine"]


def test_threads_wake_the_loop_of_their_own_process_after_a_fork():
    # Both have been woken before, so what wakes them is set up.
    assert run("""
async def ask(loop, times):
    for number in range(times):
        assert await loop.run_in_executor(None, lambda: number + 1) == number + 1

async def main(loop):
    await ask(loop, 3)
    await loop.shutdown_default_executor()

loop = ffloop.new_event_loop()
loop.run_until_complete(main(loop))
loop._default_executor, loop._executor_shutdown_called = None, False
there, back = os.pipe()
pid = os.fork()
if pid == 0:
    # While the parent waits, this one is woken often: not one of it may reach the parent, nor the parent's reach it.
    loop.run_until_complete(asyncio.wait_for(ask(loop, 1000), 30))
    os.write(back, b"x")
    os._exit(0)
turns = loop._uv.metrics().iterations
loop.run_until_complete(asyncio.wait_for(loop.run_in_executor(None, os.read, there, 1), 30))
assert loop._uv.metrics().iterations - turns < 20, loop._uv.metrics().iterations - turns
assert join(pid) == 0
print("done")
""") == ["done"]


def test_what_was_written_before_the_fork_is_sent_once():
    assert run("""
async def main():
    left, right = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, left)
    transport.write(b"once")
    pid = os.fork()
    if pid == 0:
        transport.close()
        os._exit(0)
    assert join(pid) == 0
    transport.close()
    await asyncio.sleep(0.01)
    print(right.recv(100).decode())

ffloop.run(main())
""") == ["once"]


def test_a_child_of_another_thread_than_the_loops_ends_in_the_ordinary_way():
    assert run("""
loop = ffloop.new_event_loop()
left, right = socket.socketpair()
async def serve():
    return await loop.connect_accepted_socket(asyncio.Protocol, left)
transport, _ = loop.run_until_complete(serve())
thread = threading.Thread(target=loop.run_forever)
thread.start()
time.sleep(0.05)
pid = os.fork()
if pid == 0:
    import gc
    del transport
    ffloop.run(asyncio.sleep(0.01))
    gc.collect()
    sys.exit(3)
assert join(pid) == 3
async def still_works():
    transport.write(b"alive")
    await asyncio.sleep(0.01)
asyncio.run_coroutine_threadsafe(still_works(), loop).result(10)
print(right.recv(10).decode())
loop.call_soon_threadsafe(loop.stop)
thread.join(10)
transport.abort()
loop.run_until_complete(asyncio.sleep(0))
loop.close()
""") == ["alive"]


def test_a_fork_while_a_handle_is_made_says_nothing():
    assert run("""
from ffloop import uv
from ffloop.uv.handle import Handle

def create(*arguments):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    print(join(pid))
    raise OSError("not made")

loop = uv.Loop()
try:
    Handle.__init__(uv.Poll.__new__(uv.Poll), loop, create)
except OSError as exc:
    print(str(exc).split()[0])
loop.close()
""") == ["0", "not"]


def test_signals_of_a_child_do_not_reach_the_parent():
    assert run("""
async def main():
    loop = asyncio.get_running_loop()
    caught = []
    loop.add_signal_handler(signal.SIGUSR1, caught.append, "parent")
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.01)
        os._exit(0)
    assert await asyncio.to_thread(join, pid) == 0
    await asyncio.sleep(0.02)
    assert caught == []
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.sleep(0.02)
    print(*caught)

ffloop.run(main())
""") == ["parent"]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_works_from_inside_a_loop(method, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"""{PRELUDE}
import concurrent.futures, multiprocessing

async def work(number):
    await asyncio.sleep(0.001)
    process = await asyncio.create_subprocess_exec("true")
    return number * number + await process.wait()

def child(number):
    return ffloop.run(work(number))

def target(queue):
    queue.put(child(7))

async def main():
    context = multiprocessing.get_context("{method}")
    queue = context.Queue()
    process = context.Process(target=target, args=(queue,))
    process.start()
    assert await asyncio.to_thread(queue.get, True, 30) == 49
    await asyncio.to_thread(process.join, 30)
    assert process.exitcode == 0
    loop = asyncio.get_running_loop()
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        squares = await asyncio.gather(*(loop.run_in_executor(pool, child, number) for number in range(5)))
    print(*squares)

if __name__ == "__main__":
    ffloop.run(main())
""")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.split() == ["0", "1", "4", "9", "16"]


def test_an_interpreter_ends_quietly_with_loops_left_open():
    text = """
async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    loop.call_later(60, print)
    loop.add_signal_handler(signal.SIGUSR1, print)
    process = await asyncio.create_subprocess_exec("cat", stdin=-1)
    loop.getaddrinfo("localhost", 1)
    writer.write(b"x" * 10_000_000)
    return server, reader, writer, process

loop = ffloop.new_event_loop()
kept = loop.run_until_complete(main())
other = ffloop.new_event_loop()
other.run_until_complete(asyncio.sleep(0))
print("end")
"""
    assert run(text, "-W", "ignore") == ["end"]

"""anyio with `loop_factory`: sockets, TLS, Unix sockets, UDP, threads, signals, cancel scopes."""

import signal
import socket
import subprocess
import sys

import anyio
import pytest
from anyio import to_thread
from anyio.from_thread import start_blocking_portal
from anyio.streams.tls import TLSListener, TLSStream

from ..conftest import FACTORIES
from .processes import LIMIT


@pytest.fixture(params=FACTORIES)
def options(request):
    return {"loop_factory": FACTORIES[request.param]}


@pytest.fixture
def run(options):
    """`anyio.run`, on each loop, with a limit."""

    def run(function, *arguments):
        async def limited():
            with anyio.fail_after(LIMIT):
                return await function(*arguments)

        return anyio.run(limited, backend="asyncio", backend_options=options)

    return run


async def echo(stream):
    async with stream:
        try:
            async for data in stream:
                await stream.send(data)
        except anyio.BrokenResourceError:
            pass


async def exchange(stream, size=1_000_000):
    """Send `size` bytes while reading them back."""
    data, back = bytes(range(256)) * (size // 256), bytearray()
    async with anyio.create_task_group() as group:
        group.start_soon(stream.send, data)
        while len(back) < len(data):
            back += await stream.receive()
    assert back == data


def test_the_loop_is_the_one_that_was_asked_for(run, options):
    async def main():
        import asyncio

        return type(asyncio.get_running_loop())

    made = options["loop_factory"]()
    made.close()
    assert run(main) is type(made)


def test_tcp_with_half_close(run):
    async def main():
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as group,
        ):
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            group.start_soon(listener.serve, echo)
            async with await anyio.connect_tcp("localhost", port) as stream:
                await exchange(stream)
                await stream.send(b"last")
                await stream.send_eof()
                assert b"".join([data async for data in stream]) == b"last"
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()
            group.cancel_scope.cancel()

    run(main)


def test_tls(run, certificates):
    async def main():
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as plain,
            anyio.create_task_group() as group,
        ):
            port = plain.extra(anyio.abc.SocketAttribute.local_port)
            group.start_soon(TLSListener(plain, certificates.server).serve, echo)
            async with await anyio.connect_tcp("127.0.0.1", port, ssl_context=certificates.client) as stream:
                assert isinstance(stream, TLSStream)
                await exchange(stream)
            group.cancel_scope.cancel()

    run(main)


def test_unix_sockets_pass_descriptors(run, tmp_path):
    left, right = socket.socketpair()

    async def giver(stream):
        async with stream:
            await stream.send_fds(b"here", [left.fileno()])

    async def main():
        path = tmp_path / "socket"
        async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, giver)
            async with await anyio.connect_unix(path) as stream:
                message, (fd,) = await stream.receive_fds(4, 1)
                assert message == b"here"
            with socket.socket(fileno=fd) as given:
                given.sendall(b"through a descriptor that travelled")
            group.cancel_scope.cancel()

    with left, right:
        run(main)
        assert right.recv(100) == b"through a descriptor that travelled"


def test_udp(run):
    async def main():
        async with await anyio.create_udp_socket(local_host="127.0.0.1") as server:
            port = server.extra(anyio.abc.SocketAttribute.local_port)
            async with await anyio.create_connected_udp_socket("127.0.0.1", port) as client:
                for n in range(20):
                    await client.send(b"datagram %d" % n)
                    data, sender = await server.receive()
                    await server.sendto(data.upper(), *sender)
                    assert await client.receive() == b"DATAGRAM %d" % n

    run(main)


def test_sockets_are_waited_for(run):
    async def main():
        left, right = socket.socketpair()
        with left, right:
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.wait_readable, left)
                await anyio.wait_writable(right)
                right.send(b"x")

    run(main)


def test_threads_work_for_the_loop_and_call_back_into_it(run):
    async def main():
        def work(n):
            return anyio.from_thread.run(double, n) + 1

        async def double(n):
            await anyio.sleep(0.001)
            return 2 * n

        results = []

        async def one(n):
            results.append(await to_thread.run_sync(work, n))

        async with anyio.create_task_group() as group:
            for n in range(50):
                group.start_soon(one, n)
        return sorted(results)

    assert run(main) == [2 * n + 1 for n in range(50)]


def test_a_blocking_portal_runs_the_loop_in_a_thread(options):
    async def double(n):
        await anyio.sleep(0)
        return 2 * n

    with start_blocking_portal("asyncio", options) as portal:
        assert [portal.call(double, n) for n in range(100)] == [2 * n for n in range(100)]


def test_a_scope_cancels_what_waits_for_a_socket(run):
    async def main():
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            accept = listener.listeners[0].accept
            with anyio.move_on_after(0.02) as scope:
                await accept()
            assert scope.cancelled_caught
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            async with (
                await anyio.connect_tcp("127.0.0.1", port) as client,
                await accept() as stream,
            ):
                with anyio.move_on_after(0.02) as scope:
                    await client.receive()
                assert scope.cancelled_caught
                await stream.send(b"and nothing was lost")
                assert await client.receive() == b"and nothing was lost"

    run(main)


def test_signals_are_received(run):
    async def main():
        with anyio.open_signal_receiver(signal.SIGUSR1, signal.SIGUSR2) as signals:
            signal.raise_signal(signal.SIGUSR1)
            assert await anext(signals) == signal.SIGUSR1
            signal.raise_signal(signal.SIGUSR2)
            assert await anext(signals) == signal.SIGUSR2

    run(main)


def test_files_are_read_in_threads(run, tmp_path):
    async def main():
        async with await anyio.open_file(tmp_path / "file", "w") as file:
            await file.write("line\n" * 1000)
        async with await anyio.open_file(tmp_path / "file") as file:
            return [line async for line in file]

    assert run(main) == ["line\n"] * 1000


def test_processes_are_run_fed_and_stopped(run):
    async def main():
        upper = "import sys; sys.stdout.write(sys.stdin.read().upper()); print('note', file=sys.stderr); sys.exit(3)"
        done = await anyio.run_process([sys.executable, "-c", upper], input=b"x" * 300_000, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (3, b"X" * 300_000, b"note\n")
        with pytest.raises(subprocess.CalledProcessError):
            await anyio.run_process([sys.executable, "-c", "raise SystemExit(1)"])
        cat = "import sys\nfor line in sys.stdin: print(line.upper(), end='', flush=True)"
        async with await anyio.open_process([sys.executable, "-c", cat]) as process:
            for word in (b"one\n", b"two\n"):
                await process.stdin.send(word)
                assert await process.stdout.receive() == word.upper()
            process.terminate()
            assert await process.wait() == -signal.SIGTERM

    run(main)


def test_a_cancelled_scope_kills_its_process(run):
    async def main():
        with anyio.move_on_after(0.2) as scope:
            async with await anyio.open_process([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
                await process.wait()
        assert scope.cancelled_caught
        assert process.returncode == -signal.SIGKILL

    run(main)

import asyncio
import fcntl
import os
import pty
import socket
import sys
import tty

import pytest

from .conftest import collect, ffloop_only


class Recorder(asyncio.Protocol):
    def __init__(self):
        self.events = []
        self.data = b""
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.events.append("made")

    def data_received(self, data):
        self.data += data

    def eof_received(self):
        self.events.append("eof")

    def pause_writing(self):
        self.events.append("pause")

    def resume_writing(self):
        self.events.append("resume")

    def connection_lost(self, exc):
        self.events.append("lost")
        self.lost.set_result(exc)


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def reading(pipe):
    return await asyncio.get_running_loop().connect_read_pipe(Recorder, pipe)


async def writing(pipe):
    return await asyncio.get_running_loop().connect_write_pipe(Recorder, pipe)


async def test_bytes_go_through_a_pipe_and_the_end_arrives(no_leaks):
    read, write = os.pipe()
    source, got = await reading(os.fdopen(read, "rb", 0))
    sink, sent = await writing(os.fdopen(write, "wb", 0))
    assert isinstance(source, asyncio.ReadTransport)
    assert isinstance(sink, asyncio.WriteTransport)
    data = os.urandom(1_000_000)
    sink.write(data)
    assert sink.get_write_buffer_size() > 0
    assert sent.events == ["made", "pause"]
    sink.write_eof()
    assert await got.lost is None
    assert await sent.lost is None
    assert got.data == data
    assert got.events == ["made", "eof", "lost"]
    assert sent.events == ["made", "pause", "resume", "lost"]


@pytest.mark.skipif(not hasattr(fcntl, "F_SETPIPE_SZ"), reason="the size of a pipe can be set on Linux")
async def test_a_larger_pipe_is_read_in_larger_pieces():
    class Pieces(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.events.append(len(data))

    loop = asyncio.get_running_loop()
    read, write = os.pipe()
    try:
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 256 * 1024)
        assert os.write(write, b"x" * 200_000) == 200_000
        source, got = await loop.connect_read_pipe(Pieces, os.fdopen(read, "rb", 0))
        await until(lambda: len(got.data) == 200_000)
        assert len(got.events) <= 3
    finally:
        os.close(write)
    assert await got.lost is None


async def test_a_writer_learns_that_the_reader_has_gone():
    read, write = os.pipe()
    sink, sent = await writing(os.fdopen(write, "wb", 0))
    sink.write(b"x" * 1_000_000)
    os.close(read)
    assert isinstance(await sent.lost, BrokenPipeError)


async def test_a_writer_learns_at_once_that_the_reading_transport_was_closed(no_leaks):
    read, write = os.pipe()
    source, got = await reading(os.fdopen(read, "rb", 0))
    os.write(write, b"read")
    await until(lambda: got.data == b"read")
    os.write(write, b"never read")
    source.close()
    assert await got.lost is None
    assert got.data == b"read"
    with pytest.raises(BrokenPipeError):
        os.write(write, b"to nobody")
    os.close(write)


async def test_a_number_that_was_a_pipe_can_be_watched_when_it_is_something_else():
    loop = asyncio.get_running_loop()
    read, write = os.pipe()
    source, got = await reading(os.fdopen(read, "rb", 0))
    source.close()
    await got.lost
    ready = loop.create_future()
    left, right = socket.socketpair()
    with left, right:
        assert read in (left.fileno(), right.fileno())
        loop.add_writer(read, lambda: ready.done() or ready.set_result(None))
        async with asyncio.timeout(10):
            await ready
        assert loop.remove_writer(read)
    os.close(write)


async def test_two_transports_in_turn_read_what_one_pipe_has():
    read, write = os.pipe()
    kept = os.dup(read)
    for data in b"first", b"second":
        source, got = await reading(os.fdopen(os.dup(kept), "rb", 0))
        os.write(write, data)
        await until(lambda got=got, data=data: got.data == data)
        source.close()
        await got.lost
    os.close(read)
    os.close(kept)
    os.close(write)


async def test_a_pipe_that_is_closed_under_its_transport_is_closed():
    # As a `with` statement of subprocess.Popen does: the child is to learn that nobody reads.
    read, write = os.pipe()
    pipe = os.fdopen(read, "rb", 0)
    source, got = await reading(pipe)
    await asyncio.sleep(0)
    pipe.close()
    with pytest.raises(BrokenPipeError):
        os.write(write, b"to nobody")
    # The number is somebody else's by now: the transport must not read that.
    other_read, other_write = os.pipe()
    assert other_read == read
    os.write(other_write, b"somebody else's")
    await asyncio.sleep(0.01)
    assert os.read(other_read, 100) == b"somebody else's"
    assert got.data == b""
    source.close()
    await got.lost
    os.close(write)
    os.close(other_read)
    os.close(other_write)


async def test_a_reader_that_pauses_gets_nothing_until_it_resumes():
    read, write = os.pipe()
    source, got = await reading(os.fdopen(read, "rb", 0))
    source.pause_reading()
    os.write(write, b"later")
    await asyncio.sleep(0.02)
    assert got.data == b""
    source.resume_reading()
    await until(lambda: got.data == b"later")
    source.close()
    await got.lost
    os.close(write)


async def test_fifos_sockets_and_character_devices_are_pipes_too(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    source, got = await reading(os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", 0))
    sink, sent = await writing(os.fdopen(os.open(path, os.O_WRONLY), "wb", 0))
    sink.write(b"fifo")
    sink.close()
    await got.lost
    assert got.data == b"fifo"
    left, right = socket.socketpair()
    source, got = await reading(left)
    sink, sent = await writing(right)
    sink.write(b"socket")
    sink.close()
    await got.lost
    assert got.data == b"socket"
    await sent.lost


async def test_a_terminal_is_read_and_written_at_once_and_nothing_is_lost():
    leader, follower = pty.openpty()
    tty.setraw(follower)
    source, got = await reading(os.fdopen(os.dup(leader), "rb", 0))
    sink, sent = await writing(os.fdopen(leader, "wb", 0))
    inside, heard = await reading(os.fdopen(os.dup(follower), "rb", 0))
    answer, told = await writing(os.fdopen(follower, "wb", 0))
    for number in range(200):
        sink.write(b"%d," % number)
        answer.write(b"%d;" % number)
        await asyncio.sleep(0)
    await until(lambda: heard.data.count(b",") == 200 and got.data.count(b";") == 200)
    assert heard.data == b"".join(b"%d," % number for number in range(200))
    assert got.data == b"".join(b"%d;" % number for number in range(200))
    for transport in source, sink, inside, answer:
        transport.close()
    await asyncio.gather(got.lost, sent.lost, heard.lost, told.lost)


async def test_one_descriptor_can_be_read_and_written():
    left, right = socket.socketpair()
    source, got = await reading(os.fdopen(os.dup(left.fileno()), "rb", 0))
    sink, sent = await writing(os.fdopen(left.detach(), "wb", 0))
    sink.write(b"out")
    right.send(b"in")
    await until(lambda: got.data == b"in")
    assert right.recv(10) == b"out"
    right.close()
    await got.lost
    await sent.lost


@pytest.mark.parametrize("connect", [reading, writing])
async def test_a_regular_file_is_refused(connect, tmp_path):
    with open(tmp_path / "file", "w+b", 0) as file:
        with pytest.raises(ValueError, match="Pipe transport is"):
            await connect(file)
        assert os.get_blocking(file.fileno())


@ffloop_only
@pytest.mark.parametrize("connect", [reading, writing])
async def test_what_is_no_file_is_refused_and_nothing_is_left_of_it(connect, monkeypatch):
    # What asyncio leaves fails once more when it is collected.
    failures = []
    monkeypatch.setattr(sys, "unraisablehook", failures.append)
    with pytest.raises(AttributeError):
        await connect(object())
    collect()
    assert not failures


@ffloop_only
async def test_the_blocking_mode_is_put_back():
    # stdlib asyncio leaves the descriptor non-blocking, and with it the terminal of the shell that started the program.
    leader, follower = pty.openpty()
    kept = os.dup(follower)
    source, got = await reading(os.fdopen(os.dup(follower), "rb", 0))
    sink, sent = await writing(os.fdopen(follower, "wb", 0))
    assert not os.get_blocking(kept)
    source.close()
    await got.lost
    assert not os.get_blocking(kept), "the other transport still needs it"
    sink.close()
    await sent.lost
    assert os.get_blocking(kept)
    fcntl.fcntl(kept, fcntl.F_SETFL, os.O_NONBLOCK | fcntl.fcntl(kept, fcntl.F_GETFL))
    source, got = await reading(os.fdopen(os.dup(kept), "rb", 0))
    source.close()
    await got.lost
    assert not os.get_blocking(kept), "it was non-blocking before"
    os.close(kept)
    os.close(leader)


async def test_a_forgotten_pipe_transport_warns_and_closes_its_descriptor(no_leaks):
    read, write = os.pipe()
    source, got = await reading(os.fdopen(read, "rb", 0))
    source.pause_reading()
    await asyncio.sleep(0)
    del got.transport
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        del source
        collect()
    os.close(write)


async def test_a_pipe_transport_that_is_forgotten_in_another_thread_closes_its_descriptor(no_leaks):
    read, write = os.pipe()
    source, got = await reading(os.fdopen(read, "rb", 0))
    source.pause_reading()
    await asyncio.sleep(0)
    del got.transport
    transports = [source]
    del source
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        await asyncio.to_thread(lambda: (transports.clear(), collect()))
    await asyncio.sleep(0)
    with pytest.raises(BrokenPipeError):
        os.write(write, b"to nobody")
    os.close(write)


def test_a_loop_that_is_closed_lets_go_of_its_pipes(loop):
    read, write = os.pipe()

    async def main():
        await loop.connect_read_pipe(asyncio.Protocol, pipe)

    with pytest.warns(ResourceWarning, match="unclosed transport"):
        with os.fdopen(read, "rb", 0) as pipe:
            loop.run_until_complete(main())
            loop.close()
        with pytest.raises(BrokenPipeError):
            os.write(write, b"to nobody")
        collect()
    os.close(write)


@pytest.mark.skipif(not hasattr(socket, "SOCK_SEQPACKET"), reason="no sockets that keep messages apart")
async def test_writing_nothing_sends_nothing():
    """A socket that keeps messages apart would send an empty one."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with far:
        far.setblocking(False)
        transport, _ = await asyncio.get_running_loop().connect_write_pipe(asyncio.BaseProtocol, near)
        transport.write(b"")
        transport.write(b"something")
        assert await asyncio.get_running_loop().sock_recv(far, 20) == b"something"
        transport.close()
        await asyncio.sleep(0.01)

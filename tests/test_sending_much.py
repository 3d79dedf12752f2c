"""Much at a time, of any type, in one piece or several, of which the kernel takes a part at once: no byte of it is
lost, doubled, out of order, or somebody else's by the time that it leaves.
"""

import array
import asyncio
import contextlib
import socket
import struct
import sys

import pytest

import ffloop

from .conftest import ffloop_only
from .test_transports import Recorder, pair, until

MORE_THAN_THE_KERNEL_TAKES = 8 * 1024 * 1024


def pattern(size, seed=0):
    """Bytes of which no two neighbourhoods are alike."""
    return b"".join(struct.pack("<I", seed + n) for n in range((size + 3) // 4))[:size]


async def all_of(peer):
    """What comes until the end."""
    loop = asyncio.get_running_loop()
    pieces = []
    async with asyncio.timeout(20):
        while piece := await loop.sock_recv(peer, 1 << 20):
            pieces.append(piece)
    peer.close()
    return b"".join(pieces)


async def sent_by(write):
    """What arrives of what `write`, which gets a transport, writes to it."""
    transport, protocol, peer = await pair()
    write(transport)
    transport.close()
    received = await all_of(peer)
    assert await protocol.lost is None
    return received


SIZES = pytest.mark.parametrize("size", [100_000, MORE_THAN_THE_KERNEL_TAKES])


def write_around(kind, data):
    def write(transport):
        transport.write(b"before ")
        transport.write(kind(data))
        transport.write(kind(data))
        transport.write(b" after")

    return write


@SIZES
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_much_of_any_type_arrives_between_what_is_written_around_it(size, kind):
    data = pattern(size)
    assert await sent_by(write_around(kind, data)) == b"before " + data + data + b" after"


@ffloop_only  # asyncio's count the items of what they have to send later, and send less
@SIZES
async def test_much_in_items_that_are_larger_than_bytes_arrives_too(size):
    data = pattern(size)
    received = await sent_by(write_around(lambda data: memoryview(array.array("I", data)), data))
    assert received == b"before " + data + data + b" after"


@SIZES
async def test_pieces_with_much_in_them_arrive_in_their_order(size):
    data, other = pattern(size), pattern(size, 7)
    lines = [b"head", b"", data, bytearray(b"-"), memoryview(other), b"tail"]

    def write(transport):
        transport.writelines(lines)
        transport.writelines(iter(lines))
        transport.write(b"between")
        transport.writelines((b"head", data, b"tail"))
        transport.writelines([data])
        transport.writelines([])

    once = b"".join(lines)
    assert await sent_by(write) == once * 2 + b"betweenhead" + data + b"tail" + data


async def test_more_pieces_than_a_system_call_takes_arrive():
    lines = [pattern(1000, n) for n in range(3000)]
    expected = b"".join(lines)
    assert await sent_by(lambda transport: transport.writelines(lines)) == expected
    assert await sent_by(lambda transport: [transport.write(line) for line in lines]) == expected


async def check_refusal(lines):
    def write(transport):
        with pytest.raises(TypeError):
            transport.writelines(lines)
        transport.write(b"the rest")

    assert await sent_by(write) == b"the rest"


@pytest.mark.parametrize("lines", [["text"], 5])
async def test_pieces_that_are_not_bytes_like_are_refused(lines):
    await check_refusal(lines)


@ffloop_only  # from 3.15 on, asyncio sends the pieces before it with the next write
@pytest.mark.parametrize("lines", [[b"x" * 200_000, 5], [b"x", [120]]])
async def test_no_piece_is_sent_before_one_that_is_not_bytes_like_is_refused(lines):
    await check_refusal(lines)


async def test_the_argument_of_both_has_its_name():
    def write(transport):
        transport.write(data=b"one ")
        transport.writelines(list_of_data=[b"two ", b"three"])
        for method, wrong in ((transport.write, {"lines": b""}), (transport.writelines, {"data": []})):
            with pytest.raises(TypeError):
                method(**wrong)
            with pytest.raises(TypeError):
                method()

    assert await sent_by(write) == b"one two three"


@ffloop_only  # from 3.12 on, asyncio's keep views of what is not theirs
@SIZES
@pytest.mark.parametrize("method", ["write", "writelines"])
async def test_a_large_buffer_that_is_changed_after_the_write_is_sent_as_it_was(size, method):
    data = bytearray(pattern(size))
    expected = bytes(data)

    def write(transport):
        if method == "write":
            transport.write(data)
        else:
            transport.writelines([b"", data])
        data[:] = bytes(size)
        data.clear()  # which nobody's view of it forbids

    assert await sent_by(write) == expected


@ffloop_only
@pytest.mark.parametrize("method", ["write", "writelines"])
async def test_what_was_accepted_before_an_interrupt_is_sent_at_the_end_of_the_turn(method):
    transport, protocol, peer = await pair()
    data = pattern(100_000)

    def interrupt():
        raise KeyboardInterrupt

    transport._flush = interrupt
    with contextlib.suppress(KeyboardInterrupt):  # in C nothing can be interrupted there
        if method == "write":
            transport.write(data)
        else:
            transport.writelines([data[:5], data[5:]])
    del transport._flush
    received = b""
    async with asyncio.timeout(10):
        while len(received) < len(data):
            received += await asyncio.get_running_loop().sock_recv(peer, 1 << 20)
    assert received == data
    transport.abort()
    await protocol.lost
    peer.close()


@contextlib.contextmanager
def when_called(name, act, caller=""):
    """Have `act` run as the next function of this name begins: where a signal's handler, or a finalizer, might."""

    def hook(frame, event, arg):
        if event == "call" and frame.f_code.co_name == name and caller in ("", frame.f_back.f_code.co_name):
            sys.setprofile(None)
            called.append(name)
            act()

    called = []
    sys.setprofile(hook)
    try:
        yield
    finally:
        sys.setprofile(None)
    assert called == [name]


METHODS = pytest.mark.parametrize("method", ["bytes", "bytearray", "writelines"])


def write_by(transport, method, data):
    if method == "writelines":
        transport.writelines([data[:5], data[5:]])
    else:
        transport.write(data if method == "bytes" else bytearray(data))


@ffloop_only  # below the names are ours
@METHODS
async def test_nothing_follows_a_write_that_was_interrupted_in_its_midst(method):
    transport, protocol, peer = await pair()
    data = pattern(MORE_THAN_THE_KERNEL_TAKES)

    def interrupt():
        raise KeyboardInterrupt

    with when_called("_send_later", interrupt), pytest.raises(KeyboardInterrupt):
        write_by(transport, method, data)
    transport.write(b"more")
    received = await all_of(peer)
    assert 0 < len(received) < len(data)
    assert data.startswith(received)
    assert await protocol.lost is None
    assert transport.is_closing()


@ffloop_only
@METHODS
async def test_nothing_follows_a_write_for_whose_rest_there_is_no_memory(method):
    transport, protocol, peer = await pair()
    data = pattern(MORE_THAN_THE_KERNEL_TAKES)

    def act():
        transport.write(b"meanwhile")
        raise MemoryError

    asyncio.get_running_loop().set_exception_handler(lambda loop, context: transport.write(b"to whoever is told"))
    with when_called("_send_later", act):
        write_by(transport, method, data)
    received = await all_of(peer)
    assert 0 < len(received) < len(data)
    assert data.startswith(received)
    assert isinstance(await protocol.lost, MemoryError)


@ffloop_only
@pytest.mark.parametrize("name", ["_write_more", "_send_later"])
async def test_nothing_follows_a_portion_after_which_the_next_was_interrupted(name):
    transport, protocol, peer = await pair()
    data = pattern(MORE_THAN_THE_KERNEL_TAKES)

    def interrupt():
        raise ValueError  # from a signal's handler; a KeyboardInterrupt would end the test's run

    told = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: told.append(context))
    transport.write(data)
    with when_called(name, interrupt):
        received = await all_of(peer)
    assert [type(context["exception"]) for context in told] == [ValueError]
    assert 0 < len(received) < len(data)
    assert data.startswith(received)
    assert await protocol.lost is None


@ffloop_only
@METHODS
@pytest.mark.parametrize("caller", ["", "_write_more"])
async def test_what_is_written_in_the_midst_of_a_write_comes_after_it(method, caller):
    transport, protocol, peer = await pair()
    data, other = pattern(MORE_THAN_THE_KERNEL_TAKES), pattern(60_000, 7)

    def act():
        transport.write(other)
        transport.close()

    with when_called("_send_later", act, caller):
        write_by(transport, method, data)
        received = await all_of(peer)
    assert received == data + other
    assert await protocol.lost is None


def lines_that(act, data):
    yield b"a"
    act()
    yield data


@ffloop_only  # asyncio's looks before the pieces are there, and never again
@SIZES
async def test_pieces_whose_iterator_ends_the_transport_are_written_after_the_end(size):
    def write(transport):
        transport.writelines(lines_that(transport.close, pattern(size)))

    assert await sent_by(write) == b""

    def write_after_eof(transport):
        transport.write(b"before")
        with pytest.raises(RuntimeError, match="after write_eof"):
            transport.writelines(lines_that(transport.write_eof, pattern(size)))
        transport.write_eof()

    assert await sent_by(write_after_eof) == b"before"


@ffloop_only  # asyncio believes it, and the connection ends when the kernel does not
async def test_what_only_claims_to_be_bytes_is_refused():
    class Claims:
        __class__ = bytes

        def __len__(self):
            return 3

    def write(transport):
        for lines in ([b"x" * 40_000, Claims()], [Claims()]):
            with pytest.raises(TypeError):
                transport.writelines(lines)
        with pytest.raises(TypeError):
            transport.write(Claims())
        transport.write(b"the rest")

    assert await sent_by(write) == b"the rest"


@ffloop_only
@pytest.mark.skipif(sys.version_info < (3, 12), reason="__buffer__ of a class in Python is new in 3.12")
async def test_a_buffer_that_writes_when_it_is_asked_for_comes_after_that():
    class Writes(bytearray):
        def __buffer__(self, flags):
            if self.transport is not None:
                transport, self.transport = self.transport, None
                transport.write(b"first")
            return super().__buffer__(flags)

    def write(transport):
        data = Writes(pattern(100_000))
        data.transport = transport
        transport.write(data)

    assert await sent_by(write) == b"first" + pattern(100_000)


@ffloop_only  # from 3.12 on, asyncio's keep views of what is not theirs
async def test_who_is_paused_by_a_write_may_resize_what_was_written():
    transport, protocol, peer = await pair()
    data = bytearray(MORE_THAN_THE_KERNEL_TAKES)
    resized = []

    def pause_writing():
        data.clear()
        resized.append(True)

    protocol.pause_writing = pause_writing
    transport.write(data)
    assert resized == [True]
    transport.abort()
    await protocol.lost
    peer.close()


async def test_a_view_of_any_shape_is_sent_as_it_lies_in_memory():
    data = pattern(200_000)
    view = memoryview(data)

    def write(transport):
        transport.write(view.cast("B", (4, 50_000)))
        transport.write(view[:12].cast("B", (3, 4)))

    assert await sent_by(write) == data + data[:12]


@ffloop_only  # asyncio's give an error to the protocol, where a small one with gaps is sent
async def test_a_large_view_with_gaps_is_sent_without_them():
    data = pattern(400_000)
    assert await sent_by(lambda transport: transport.write(memoryview(data)[::4])) == data[::4]


async def check_pause(write, data):
    transport, protocol, peer = await pair()
    write(transport, data)
    assert protocol.events == ["made", "pause"]
    assert 0 < transport.get_write_buffer_size() <= len(data)
    received = 0
    loop = asyncio.get_running_loop()
    while received < len(data):
        received += len(await loop.sock_recv(peer, 1 << 20))
    await until(lambda: protocol.events[-1] == "resume")
    assert protocol.events == ["made", "pause", "resume"]
    assert transport.get_write_buffer_size() == 0
    transport.close()
    await protocol.lost
    peer.close()


async def test_more_than_the_kernel_takes_pauses_the_writer_once_and_resumes_it():
    data = memoryview(pattern(MORE_THAN_THE_KERNEL_TAKES))
    await check_pause(lambda transport, data: transport.write(data), data)


@ffloop_only  # some versions of asyncio pause for what write() gets alone
async def test_pieces_that_are_more_than_the_kernel_takes_pause_the_writer_too():
    data = pattern(MORE_THAN_THE_KERNEL_TAKES)
    await check_pause(lambda transport, data: transport.writelines([b"", data[:5], data[5:]]), data)
    await check_pause(lambda transport, data: transport.writelines([b"", memoryview(data)]), data)


class BufferedRecorder(Recorder, asyncio.BufferedProtocol):
    """The same, with a buffer."""

    def get_buffer(self, sizehint):
        return bytearray(1000)

    def buffer_updated(self, nbytes):
        pass


@pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("received", [0, 50_000])
async def test_a_reset_while_much_is_to_be_written_is_no_end(factory, received):
    transport, protocol, peer = await pair(factory)
    loop = asyncio.get_running_loop()
    if received:  # so much at once is read in another way from then on
        await loop.sock_sendall(peer, bytes(received))
        await asyncio.sleep(0.02)
    transport.write(pattern(MORE_THAN_THE_KERNEL_TAKES))
    await asyncio.sleep(0.02)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    assert isinstance(await protocol.lost, ConnectionResetError)
    assert "eof" not in protocol.events


@ffloop_only  # asyncio's closed loops leave transports to themselves
async def test_what_is_left_to_write_can_be_asked_for_after_the_loop_is_closed():
    sizes = []

    def run_another():
        with asyncio.Runner(loop_factory=ffloop.new_event_loop) as runner:
            transport, protocol, peer = runner.run(pair())
            transport.write(pattern(MORE_THAN_THE_KERNEL_TAKES))
            sizes.append(transport.get_write_buffer_size())
        sizes.append(transport.get_write_buffer_size())
        peer.close()

    await asyncio.to_thread(run_another)
    assert sizes[0] >= sizes[1] >= 0


@pytest.mark.parametrize("data", [b"x" * 200_000, memoryview(b"x" * 200_000), [b"x", b"y" * 200_000]])
async def test_much_for_a_peer_that_has_gone_ends_the_connection_and_raises_nothing(data):
    transport, protocol, peer = await pair()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    for _ in range(3):
        (transport.writelines if isinstance(data, list) else transport.write)(data)
    assert isinstance(await protocol.lost, ConnectionError)
    assert protocol.events[-1] == "lost"


@pytest.mark.parametrize("data", [memoryview(b"x" * 200_000), [b"x", b"y" * 200_000]])
async def test_much_after_the_end_is_dropped_or_refused_as_little_is(data):
    transport, protocol, peer = await pair()
    method = transport.writelines if isinstance(data, list) else transport.write
    transport.write(b"last")
    transport.write_eof()
    with pytest.raises(RuntimeError, match="after write_eof"):
        method(data)
    assert await all_of(peer) == b"last"
    transport.close()
    await protocol.lost
    transport, protocol, peer = await pair()
    transport.abort()
    method = transport.writelines if isinstance(data, list) else transport.write
    method(data)
    await protocol.lost
    assert await all_of(peer) == b""

"""grpc.aio, server and client in the loop under test: all four kinds of call, errors, deadlines, cancelling.

grpc polls in a thread of its own and wakes the loop through a descriptor given to `add_reader`. Messages are bytes.
"""

import asyncio

import pytest
import pytest_asyncio

from . import need
from .processes import LIMIT

grpc = need("grpc")
aio = need("grpc.aio")
pytestmark = pytest.mark.asyncio


class Service(grpc.GenericRpcHandler):
    def __init__(self):
        self.cancelled = asyncio.Event()
        self.methods = {
            "/Test/Upper": grpc.unary_unary_rpc_method_handler(self.upper),
            "/Test/Count": grpc.unary_stream_rpc_method_handler(self.count),
            "/Test/Sum": grpc.stream_unary_rpc_method_handler(self.sum),
            "/Test/Echo": grpc.stream_stream_rpc_method_handler(self.echo),
            "/Test/Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "/Test/Hang": grpc.unary_unary_rpc_method_handler(self.hang),
        }

    def service(self, details):
        return self.methods.get(details.method)

    async def upper(self, request, context):
        await asyncio.sleep(0)
        return request.upper()

    async def count(self, request, context):
        for n in range(int(request)):
            yield b"%d" % n

    async def sum(self, requests, context):
        return b"%d" % sum([int(request) async for request in requests])

    async def echo(self, requests, context):
        async for request in requests:
            yield request

    async def fail(self, request, context):
        await context.abort(grpc.StatusCode.NOT_FOUND, "there is none")

    async def hang(self, request, context):
        try:
            await asyncio.sleep(3600)
        finally:
            self.cancelled.set()


SIZES = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@pytest_asyncio.fixture(params=["tcp", "tls", "unix"])
async def channel(request, certificates, tmp_path):
    server = aio.server(options=SIZES)
    service = Service()
    server.add_generic_rpc_handlers((service,))
    if request.param == "unix":
        server.add_insecure_port(f"unix:{tmp_path}/socket")
        channel = aio.insecure_channel(f"unix:{tmp_path}/socket", options=SIZES)
    elif request.param == "tcp":
        port = server.add_insecure_port("127.0.0.1:0")
        channel = aio.insecure_channel(f"127.0.0.1:{port}", options=SIZES)
    else:
        pair = certificates.key.read_bytes(), certificates.cert.read_bytes()
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        credentials = grpc.ssl_channel_credentials(certificates.ca.read_bytes())
        channel = aio.secure_channel(f"127.0.0.1:{port}", credentials, options=SIZES)
    await server.start()
    async with channel, asyncio.timeout(LIMIT):
        channel.service = service
        yield channel
    await server.stop(None)


async def test_a_call_is_answered_whatever_its_size(channel):
    call = channel.unary_unary("/Test/Upper")
    for size in (0, 1, 1000, 5_000_000):
        assert await call(b"x" * size) == b"X" * size


async def test_two_hundred_calls_at_once(channel):
    call = channel.unary_unary("/Test/Upper")
    assert await asyncio.gather(*(call(b"x" * n) for n in range(200))) == [b"X" * n for n in range(200)]


async def test_streams_in_every_direction(channel):
    assert [n async for n in channel.unary_stream("/Test/Count")(b"1000")] == [b"%d" % n for n in range(1000)]

    async def numbers():
        for n in range(500):
            yield b"%d" % n

    assert await channel.stream_unary("/Test/Sum")(numbers()) == b"%d" % sum(range(500))
    assert [n async for n in channel.stream_stream("/Test/Echo")(numbers())] == [b"%d" % n for n in range(500)]


async def test_a_conversation(channel):
    call = channel.stream_stream("/Test/Echo")()
    for n in range(100):
        await call.write(b"%d" % n * n)
        assert await call.read() == b"%d" % n * n
    await call.done_writing()
    assert await call.read() is aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_errors_have_their_code(channel):
    with pytest.raises(aio.AioRpcError) as error:
        await channel.unary_unary("/Test/Fail")(b"")
    assert (error.value.code(), error.value.details()) == (grpc.StatusCode.NOT_FOUND, "there is none")
    with pytest.raises(aio.AioRpcError) as error:
        await channel.unary_unary("/Test/None")(b"")
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_deadline_ends_a_call(channel):
    with pytest.raises(aio.AioRpcError) as error:
        await channel.unary_unary("/Test/Hang")(b"", timeout=0.05)
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_call_that_is_cancelled_is_cancelled_on_the_server(channel):
    call = channel.unary_unary("/Test/Hang")(b"")
    waiting = asyncio.ensure_future(call.code())
    await channel.unary_unary("/Test/Upper")(b"")
    await asyncio.sleep(0.05)
    call.cancel()
    assert await waiting is grpc.StatusCode.CANCELLED
    await channel.service.cancelled.wait()

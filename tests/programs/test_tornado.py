"""tornado on asyncio's loop: HTTP server and client, websockets, TLS, timers, its Subprocess, plain TCP."""

import asyncio
import signal
import sys

import pytest
import pytest_asyncio

from . import need
from .processes import LIMIT

tornado = need("tornado")
from tornado import httpserver, iostream, netutil, process, tcpclient, tcpserver, web, websocket  # noqa: E402
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest  # noqa: E402
from tornado.ioloop import IOLoop, PeriodicCallback  # noqa: E402
from tornado.simple_httpclient import SimpleAsyncHTTPClient  # noqa: E402

pytestmark = pytest.mark.asyncio


class Size(web.RequestHandler):
    async def get(self, size):
        left = int(size)
        while left:
            piece = min(left, 100_000)
            self.write(bytes(piece))
            await self.flush()
            left -= piece


@web.stream_request_body
class Length(web.RequestHandler):
    def prepare(self):
        self.length = 0

    async def data_received(self, chunk):
        await asyncio.sleep(0)
        self.length += len(chunk)

    def post(self):
        self.write(str(self.length))


class Hang(web.RequestHandler):
    async def get(self):
        await asyncio.sleep(3600)


class Echo(websocket.WebSocketHandler):
    def on_message(self, message):
        self.write_message(message, binary=isinstance(message, bytes))

    def get_compression_options(self):
        return {}


@pytest_asyncio.fixture(params=["plain", "tls"])
async def url(request, certificates):
    app = web.Application([("/size/(.*)", Size), ("/length", Length), ("/hang", Hang), ("/echo", Echo)])
    server = httpserver.HTTPServer(
        app, ssl_options=certificates.server if request.param == "tls" else None, max_body_size=1 << 26
    )
    sockets = netutil.bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    async with asyncio.timeout(LIMIT):
        yield f"{'https' if request.param == 'tls' else 'http'}://127.0.0.1:{sockets[0].getsockname()[1]}"
        server.stop()
        await server.close_all_connections()


@pytest.fixture
def fetch(url, certificates):
    def fetch(path, **options):
        return client.fetch(HTTPRequest(url + path, ssl_options=certificates.client, **options))

    client = SimpleAsyncHTTPClient(force_instance=True, max_clients=100)
    yield fetch
    client.close()


async def test_answers_of_several_sizes_come_whole(fetch):
    for size in (0, 1, 1000, 3_000_000):
        response = await fetch(f"/size/{size}")
        assert (response.code, response.body) == (200, bytes(size))
    with pytest.raises(HTTPClientError, match="404"):
        await fetch("/none")


async def test_a_streamed_upload_arrives_whole(fetch):
    async def pieces(write):
        for n in range(100):
            await write(bytes(n * 500))

    response = await fetch("/length", method="POST", body_producer=pieces)
    assert int(response.body) == sum(n * 500 for n in range(100))


async def test_fifty_requests_at_once(fetch):
    responses = await asyncio.gather(*(fetch(f"/size/{n * 1001}") for n in range(50)))
    assert [len(response.body) for response in responses] == [n * 1001 for n in range(50)]


async def test_a_request_times_out(fetch):
    with pytest.raises(HTTPClientError, match="Timeout"):
        await fetch("/hang", request_timeout=0.1)
    assert (await fetch("/size/1")).body == b"\0"


async def test_a_websocket_echoes_small_and_large_messages(url, certificates):
    request = HTTPRequest(url.replace("http", "ws") + "/echo", ssl_options=certificates.client)
    client = await websocket.websocket_connect(request, compression_options={})
    for message in ("", "grüße", b"\x00\xff", "x" * 100_000, bytes(range(256)) * 8000):
        await client.write_message(message, binary=isinstance(message, bytes))
        assert await client.read_message() == message
    client.close(1000)
    assert await client.read_message() is None


async def test_a_tcp_server_and_client_speak_and_upgrade_to_tls(certificates):
    class Server(tcpserver.TCPServer):
        async def handle_stream(self, stream, address):
            assert await stream.read_until(b"\n") == b"STARTTLS\n"
            await stream.write(b"go\n")
            stream = await stream.start_tls(True, certificates.server)
            stream.set_nodelay(True)
            try:
                while True:
                    await stream.write(await stream.read_until(b"\n"))
            except iostream.StreamClosedError:
                pass

    server = Server()
    sockets = netutil.bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    async with asyncio.timeout(LIMIT):
        stream = await tcpclient.TCPClient().connect("127.0.0.1", sockets[0].getsockname()[1])
        await stream.write(b"STARTTLS\n")
        assert await stream.read_until(b"\n") == b"go\n"
        stream = await stream.start_tls(False, certificates.client, server_hostname="localhost")
        stream.set_nodelay(True)
        for n in range(50):
            await stream.write(b"x" * n * 1000 + b"\n")
            assert await stream.read_until(b"\n") == b"x" * n * 1000 + b"\n"
        stream.close()
        server.stop()


async def test_timers_and_callbacks_of_the_ioloop():
    loop, calls, done = IOLoop.current(), [], asyncio.Event()
    assert loop.asyncio_loop is asyncio.get_running_loop()
    loop.add_callback(calls.append, "callback")
    loop.call_later(0.01, calls.append, "timer")
    cancelled = loop.call_later(0.01, calls.append, "cancelled")
    loop.remove_timeout(cancelled)

    def tick():
        calls.append("tick")
        if calls.count("tick") == 3:
            periodic.stop()
            done.set()

    periodic = PeriodicCallback(tick, 20)
    periodic.start()
    async with asyncio.timeout(LIMIT):
        await done.wait()
        assert await loop.run_in_executor(None, sum, [1, 2, 3]) == 6
    assert sorted(calls) == ["callback", "tick", "tick", "tick", "timer"]


async def test_a_subprocess_is_fed_and_its_exit_is_seen():
    code = "import sys; sys.stdout.write(sys.stdin.read().upper()); sys.exit(3)"
    child = process.Subprocess(
        [sys.executable, "-c", code], stdin=process.Subprocess.STREAM, stdout=process.Subprocess.STREAM
    )
    try:
        async with asyncio.timeout(LIMIT):
            await child.stdin.write(b"x" * 200_000)
            child.stdin.close()
            assert await child.stdout.read_until_close() == b"X" * 200_000
            assert await child.wait_for_exit(raise_error=False) == 3
    finally:
        process.Subprocess.uninitialize()
    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL


async def test_the_default_client_is_usable_too(url, certificates):
    client = AsyncHTTPClient(defaults={"ssl_options": certificates.client})
    assert (await client.fetch(f"{url}/size/7")).body == bytes(7)
    client.close()

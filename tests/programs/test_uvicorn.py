"""uvicorn: both HTTP parsers, websockets, TLS, workers, and the way it stops."""

import asyncio
import contextlib
import hashlib
import http.client
import json
import re
import signal
import socket
import time

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from ..conftest import TWO_WORKERS
from . import missing
from .processes import LIMIT, Program

PARSERS = [
    pytest.param("httptools", marks=pytest.mark.skipif(bool(missing("httptools")), reason=str(missing("httptools")))),
    "h11",
]


def start(factory, *options):
    return Program.python("-m", "uvicorn", "app:app", "--host", "127.0.0.1", "--port", "0", "--loop", factory, *options)


def port_of(program):
    return int(program.wait_for(r"running on https?://127.0.0.1:(\d+)")[1])


class Websocket:
    """A client in a single thread.

    Not that of `websockets.sync`, which reads in one thread while another writes: OpenSSL does not lock what the two
    share, nor did CPython (gh-151508), and now and then a large message crashes the client.
    """

    def __init__(self, uri, tls):
        self.runner = asyncio.Runner(loop_factory=asyncio.SelectorEventLoop)
        options = {"ssl": tls, "max_size": None, "open_timeout": LIMIT, "ping_interval": None, "proxy": None}
        self.connection = self.runner.run(self.open(uri, options))

    @staticmethod
    async def open(uri, options):
        return await connect(uri, **options)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        with self.runner:
            self.wait(self.connection.close())

    def wait(self, awaitable):
        return self.runner.run(asyncio.wait_for(awaitable, LIMIT))

    def send(self, message):
        self.wait(self.connection.send(message))

    def recv(self):
        return self.wait(self.connection.recv())


class Server:
    def __init__(self, port, tls=None):
        self.port, self.tls = port, tls

    def client(self):
        if self.tls:
            return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=LIMIT, context=self.tls)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)

    def get(self, path):
        client = self.client()
        try:
            client.request("GET", path)
            return client.getresponse().read()
        finally:
            client.close()

    def websocket(self):
        scheme = "wss" if self.tls else "ws"
        return Websocket(f"{scheme}://127.0.0.1:{self.port}/", self.tls)


@pytest.fixture(scope="module", params=PARSERS)
def parser(request):
    return request.param


@pytest.fixture(scope="module", params=["plain", "tls"])
def server(request, factory, parser, certificates):
    options = ["--http", parser, "--ws", "websockets-sansio" if parser == "h11" else "websockets"]
    tls = None
    if request.param == "tls":
        options += ["--ssl-certfile", certificates.cert, "--ssl-keyfile", certificates.key]
        tls = certificates.client
    with start(factory, *options, "--ws-max-size", "100000000") as program:
        yield Server(port_of(program), tls)


def test_answers_of_several_sizes_come_whole_on_one_connection(server):
    client = server.client()
    client.connect()
    sock = client.sock
    for size in (0, 1, 1000, 65536, 3_000_000, 5):
        client.request("GET", f"/size/{size}")
        response = client.getresponse()
        assert response.status == 200
        assert response.read() == bytes(range(256)) * (size // 256) + bytes(size % 256)
        assert client.sock is sock, "the connection was not kept"
    client.request("GET", "/none")
    assert client.getresponse().status == 404
    client.close()


def test_a_chunked_upload_of_some_megabytes_arrives_whole(server):
    pieces = [bytes([n]) * (n * 1000 + 1) for n in range(100)]
    client = server.client()
    client.request("POST", "/digest", iter(pieces), encode_chunked=True)
    told = json.loads(client.getresponse().read())
    client.close()
    body = b"".join(pieces)
    assert len(body) > 4_000_000
    assert told == {"length": len(body), "digest": hashlib.sha256(body).hexdigest()}


def test_pipelined_requests_are_answered_in_order(server):
    sizes = [10, 70_000, 3, 0, 256]
    with contextlib.closing(server.client()) as client:
        client.connect()
        client.sock.sendall(b"".join(b"GET /size/%d HTTP/1.1\r\nHost: x\r\n\r\n" % size for size in sizes))
        client.sock.sendall(b"GET /size/1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        with client.sock.makefile("rb") as stream:
            answers = re.split(rb"HTTP/1.1 200 OK\r\n", stream.read())[1:]
    assert [len(re.split(rb"\r\n\r\n", answer, maxsplit=1)[1]) for answer in answers] == [*sizes, 1]


def test_a_client_that_vanishes_in_the_middle_is_noticed_and_the_server_goes_on(server):
    before = json.loads(server.get("/"))["gone"]
    client = server.client()
    client.request("GET", "/endless")
    assert client.getresponse().read(200_000)
    client.sock.close()  # its file object holds the socket open
    client.close()
    upload = server.client()
    upload.putrequest("POST", "/digest")
    upload.putheader("Content-Length", "1000000")
    upload.endheaders(bytes(1000))
    upload.close()
    end = time.monotonic() + LIMIT
    while (gone := json.loads(server.get("/"))["gone"]) < before + 2:
        assert time.monotonic() < end, f"{gone - before} of 2 clients were noticed to be gone"
        time.sleep(0.02)
    assert server.get("/size/1") == b"\x00"


def test_a_websocket_echoes_small_and_large_messages(server):
    with server.websocket() as websocket:
        for message in ("", "grüße", b"\x00", "x" * 200, "y" * 70_000, bytes(range(256)) * 20_000, "done"):
            websocket.send(message)
            assert websocket.recv() == message
        for n in range(200):
            websocket.send(str(n))
        assert [websocket.recv() for _ in range(200)] == [str(n) for n in range(200)]
        websocket.send("close")
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv()
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "asked for")


def test_sigterm_lets_a_slow_request_finish(factory, parser):
    with start(factory, "--http", parser) as program:
        client = http.client.HTTPConnection("127.0.0.1", port_of(program), timeout=LIMIT)
        client.request("GET", "/slow")
        program.wait_for("a slow request runs")
        program.send(signal.SIGTERM)
        answer = client.getresponse().read()
        client.close()
        assert answer.startswith(b"piece " * 10)
        assert json.loads(answer[60:])["pid"] == program.process.pid
        assert program.ended() == -signal.SIGTERM  # uvicorn raises the signal again when all is done
        assert "the application was shut down" in program.text
        assert "Finished server process" in program.text
        assert "Traceback" not in program.text


def test_sigint_closes_websockets_and_stops(factory):
    with start(factory, "--timeout-graceful-shutdown", "5") as program:
        with Server(port_of(program)).websocket() as websocket:
            websocket.send("here")
            assert websocket.recv() == "here"
            program.send(signal.SIGINT)
            with pytest.raises(ConnectionClosed) as closed:
                websocket.recv()
        assert closed.value.rcvd.code == 1012
        program.ended()
        assert "the websocket was closed with 1012" in program.text
        assert "the application was shut down" in program.text


@TWO_WORKERS
def test_two_workers_share_a_port_and_stop_together(factory):
    # On a busy machine a worker may be slow to say that it lives, and would be replaced for that.
    with start(factory, "--workers", "2", "--timeout-worker-healthcheck", str(LIMIT)) as program:
        server = Server(port_of(program))
        program.wait_for(r"(?s)startup complete.*startup complete")
        pids, end = set(), time.monotonic() + LIMIT
        while len(pids) < 2 and time.monotonic() < end:
            # Held open together, so that one worker cannot answer them all between two naps of the other.
            clients = [server.client() for _ in range(8)]
            for client in clients:
                client.request("GET", "/slow")
            pids |= {json.loads(client.getresponse().read()[60:])["pid"] for client in clients}
            for client in clients:
                client.close()
        assert len(pids) == 2
        assert program.process.pid not in pids
        program.send(signal.SIGTERM)
        assert program.ended() == 0
        assert program.text.count("the application was shut down") == 2


@pytest.mark.parametrize("way", ["--uds", "--fd"])
def test_a_unix_socket_and_an_inherited_one_serve_too(factory, way, tmp_path):
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listening:
        options = {}
        if way == "--fd":
            listening.bind(path)
            listening.listen()
            options = {"pass_fds": [listening.fileno()]}
        where = path if way == "--uds" else listening.fileno()
        command = ["-m", "uvicorn", "app:app", "--loop", factory, way, where]
        with Program.python(*command, **options) as program:
            program.wait_for("running on")
            client = http.client.HTTPConnection("localhost", timeout=LIMIT)
            client.sock = socket.socket(socket.AF_UNIX)
            client.sock.settimeout(LIMIT)
            client.sock.connect(path)
            for size in (1, 1_000_000):
                client.request("GET", f"/size/{size}")
                assert len(client.getresponse().read()) == size
            client.close()
            program.send(signal.SIGTERM)
            program.ended()
            assert "the application was shut down" in program.text


def test_requests_are_served_in_debug_mode(factory):
    with Program.python(
        *("-X", "dev", "-m", "uvicorn", "app:app", "--host", "127.0.0.1", "--port", "0", "--loop", factory)
    ) as program:
        server = Server(port_of(program))
        assert len(server.get("/size/1000000")) == 1_000_000
        program.send(signal.SIGTERM)
        program.ended()
        assert "the application was shut down" in program.text
        assert "ResourceWarning" not in program.text
        assert "Traceback" not in program.text

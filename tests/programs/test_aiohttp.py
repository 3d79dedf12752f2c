"""aiohttp, server and client in the loop under test: bodies, streams, gzip, TLS, websockets, names."""

import asyncio
import contextlib
import hashlib
import http.client
import signal

import aiohttp
import pytest
from aiohttp import web

from ..conftest import free_port
from .processes import LIMIT, Program

HUNG, LEFT = web.AppKey("HUNG", asyncio.Event), web.AppKey("LEFT", asyncio.Event)


async def digest(request):
    hasher, length = hashlib.sha256(), 0
    async for piece in request.content.iter_any():
        hasher.update(piece)
        length += len(piece)
    return web.json_response({"length": length, "digest": hasher.hexdigest()})


async def stream(request):
    response = web.StreamResponse()
    if "gzip" in request.query:
        response.enable_compression(web.ContentCoding.gzip)
    await response.prepare(request)
    for n in range(int(request.query["pieces"])):
        await response.write(b"%06d" % n * 1000)
    await response.write_eof()
    return response


async def websocket(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type is aiohttp.WSMsgType.TEXT:
            if message.data == "close":
                await socket.close(code=4001, message=b"asked for")
            else:
                await socket.send_str(message.data)
        elif message.type is aiohttp.WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


async def form(request):
    parts = await request.post()
    return web.json_response({"name": parts["name"], "file": len(parts["file"].file.read())})


async def hang(request):
    request.app[HUNG].set()
    try:
        await asyncio.sleep(3600)
    finally:
        request.app[LEFT].set()


@contextlib.asynccontextmanager
async def serving(folder, tls=None, app=None):
    if app is None:
        app = web.Application(client_max_size=1 << 26)
    app[HUNG], app[LEFT] = asyncio.Event(), asyncio.Event()
    app.router.add_get("/stream", stream)
    app.router.add_post("/digest", digest)
    app.router.add_post("/form", form)
    app.router.add_get("/websocket", websocket)
    app.router.add_get("/hang", hang)
    app.router.add_static("/files", folder)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls and tls.server).start()
    host, port = runner.addresses[0][:2]
    timeout = aiohttp.ClientTimeout(LIMIT)
    connector = aiohttp.TCPConnector(ssl=tls.client if tls else True)
    async with aiohttp.ClientSession(
        f"{'https' if tls else 'http'}://{host}:{port}", timeout=timeout, connector=connector
    ) as session:
        yield session
    await runner.cleanup()


@pytest.fixture(params=["plain", "tls"])
def tls(request, certificates):
    return certificates if request.param == "tls" else None


@pytest.mark.asyncio
async def test_a_streamed_upload_of_some_megabytes_arrives_whole(tmp_path, tls):
    async def pieces():
        for n in range(80):
            yield bytes([n]) * 50_000

    whole = b"".join([piece async for piece in pieces()])
    async with serving(tmp_path, tls) as session, session.post("/digest", data=pieces()) as response:
        assert await response.json() == {"length": len(whole), "digest": hashlib.sha256(whole).hexdigest()}


@pytest.mark.asyncio
@pytest.mark.parametrize("query", ["", "&gzip"])
async def test_a_streamed_answer_comes_whole(tmp_path, tls, query):
    async with serving(tmp_path, tls) as session:
        for _ in range(3):
            async with session.get(f"/stream?pieces=300{query}") as response:
                assert response.headers.get("Content-Encoding") == ("gzip" if query else None)
                assert await response.read() == b"".join(b"%06d" % n * 1000 for n in range(300))


@pytest.mark.asyncio
async def test_a_file_is_sent_and_a_range_of_it(tmp_path, tls):
    whole = bytes(range(256)) * 20_000
    (tmp_path / "file").write_bytes(whole)
    async with serving(tmp_path, tls) as session:
        async with session.get("/files/file") as response:
            assert await response.read() == whole
        async with session.get("/files/file", headers={"Range": "bytes=1000-2999999"}) as response:
            assert response.status == 206
            assert await response.read() == whole[1000:3_000_000]
        async with session.get("/files/none") as response:
            assert response.status == 404


@pytest.mark.asyncio
async def test_a_form_with_a_file_is_taken_apart(tmp_path, tls):
    data = aiohttp.FormData()
    data.add_field("name", "grüße")
    data.add_field("file", bytes(1_000_000), filename="zeros")
    async with serving(tmp_path, tls) as session, session.post("/form", data=data) as response:
        assert await response.json() == {"name": "grüße", "file": 1_000_000}


@pytest.mark.asyncio
async def test_a_hundred_requests_at_once(tmp_path, tls):
    async def one(session, n):
        async with session.post("/digest", data=bytes(n * 100)) as response:
            return (await response.json())["length"]

    async with serving(tmp_path, tls) as session:
        assert await asyncio.gather(*(one(session, n) for n in range(100))) == [n * 100 for n in range(100)]


@pytest.mark.asyncio
async def test_a_websocket_echoes_small_and_large_messages(tmp_path, tls):
    async with serving(tmp_path, tls) as session, session.ws_connect("/websocket", compress=15) as socket:
        for message in ("", "grüße", "x" * 100_000):
            await socket.send_str(message)
            assert await socket.receive_str() == message
        await socket.send_bytes(bytes(range(256)) * 10_000)
        assert await socket.receive_bytes() == bytes(range(256)) * 10_000
        await socket.send_str("close")
        message = await socket.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 4001)


@pytest.mark.asyncio
async def test_a_client_that_gives_up_cancels_the_handler(tmp_path, tls):
    app = web.Application()
    async with serving(tmp_path, tls, app) as session:
        request = asyncio.ensure_future(session.get("/hang"))
        async with asyncio.timeout(LIMIT):
            await app[HUNG].wait()
            request.cancel()
            await app[LEFT].wait()
        with pytest.raises(asyncio.CancelledError):
            await request
        async with session.post("/digest", data=b"x") as response:
            assert (await response.json())["length"] == 1


@pytest.mark.asyncio
async def test_a_client_times_out(tmp_path, tls):
    async with serving(tmp_path, tls) as session:
        with pytest.raises(asyncio.TimeoutError):
            await session.get("/hang", timeout=aiohttp.ClientTimeout(0.05))


@pytest.mark.asyncio
async def test_nobody_listens_and_a_bad_certificate_are_errors_of_the_client(tmp_path, certificates):
    async with serving(tmp_path, certificates) as session:
        port = session._base_url.port
        async with aiohttp.ClientSession() as stranger:
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await stranger.get(f"https://127.0.0.1:{port}/stream?pieces=1")
            # By name: both families are tried.
            async with stranger.get(f"https://localhost:{port}/files/none", ssl=False) as response:
                assert response.status == 404
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"http://127.0.0.1:{port}/")


@pytest.mark.asyncio
async def test_a_unix_socket_serves_too(tmp_path):
    app = web.Application()
    app.router.add_post("/digest", digest)
    runner = web.AppRunner(app)
    await runner.setup()
    path = str(tmp_path / "socket")
    await web.UnixSite(runner, path).start()
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session,
        session.post("http://localhost/digest", data=bytes(300_000)) as response,
    ):
        assert (await response.json())["length"] == 300_000
    await runner.cleanup()


PROGRAM = """
import asyncio, importlib, sys
from aiohttp import web

async def hello(request):
    print("asked", flush=True)
    await asyncio.sleep(0.3)
    return web.Response(text="hello")

async def cleanup(app):
    await asyncio.sleep(0)
    print("cleaned up", flush=True)

app = web.Application()
app.router.add_get("/", hello)
app.on_cleanup.append(cleanup)
module, name = sys.argv[1].split(":")
web.run_app(app, host="127.0.0.1", port=int(sys.argv[2]), loop=getattr(importlib.import_module(module), name)())
print("left in order", flush=True)
"""


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_run_app_ends_in_order_when_a_signal_comes(factory, sig):
    # The handler of the signal raises SystemExit out of the loop, which is run again to finish and to clean up.
    port = free_port()
    with Program.python("-c", PROGRAM, factory, port) as program:
        program.wait_for("Running on")
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)) as client:
            client.request("GET", "/")
            program.wait_for("asked")
            program.send(sig)
            assert client.getresponse().read() == b"hello"
        assert program.ended() == 0
        assert "cleaned up" in program.text
        assert "left in order" in program.text
        assert "Traceback" not in program.text

"""hypercorn, and httpx as its client: HTTP/1.1 and HTTP/2 over TLS, many streams at once, and its end."""

import asyncio
import hashlib
import signal

import httpx
import pytest
import pytest_asyncio
from hypercorn.asyncio import serve
from hypercorn.config import Config

from ..conftest import free_port
from .app import app
from .processes import LIMIT, Program


@pytest_asyncio.fixture
async def address(certificates):
    """hypercorn in the loop of the test."""
    config = Config()
    config.bind = [f"127.0.0.1:{free_port()}"]
    config.certfile, config.keyfile = str(certificates.cert), str(certificates.key)
    config.errorlog = None
    config.graceful_timeout = 0.1  # what the clients have left behind is not waited for
    ready, end = asyncio.Event(), asyncio.Event()

    async def announced(scope, receive, send):
        await app(scope, receive, send) if scope["type"] != "lifespan" else await lifespan(receive, send)

    async def lifespan(receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        ready.set()
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    server = asyncio.ensure_future(serve(announced, config, shutdown_trigger=end.wait))
    async with asyncio.timeout(LIMIT):
        await ready.wait()
    yield config.bind[0]
    end.set()
    async with asyncio.timeout(LIMIT):
        await server


@pytest.fixture(params=["HTTP/1.1", "HTTP/2"])
def version(request):
    return request.param


def client_of(certificates, version, address):
    # The server listens only when its start-up is complete: hence the retries.
    transport = httpx.AsyncHTTPTransport(verify=certificates.client, http2=version == "HTTP/2", retries=5)
    return httpx.AsyncClient(transport=transport, base_url=f"https://{address}", timeout=LIMIT)


@pytest.mark.asyncio
async def test_answers_of_several_sizes_come_whole(certificates, version, address):
    async with client_of(certificates, version, address) as client:
        for size in (0, 1, 1000, 65536, 1_000_000):
            response = await client.get(f"/size/{size}")
            assert response.http_version == version
            assert response.status_code == 200
            assert response.content == bytes(range(256)) * (size // 256) + bytes(size % 256)
        assert (await client.get("/none")).status_code == 404


@pytest.mark.asyncio
async def test_a_streamed_upload_arrives_whole(certificates, version, address):
    async def pieces():
        for n in range(60):
            yield bytes([n]) * 20_000

    whole = b"".join([piece async for piece in pieces()])
    async with client_of(certificates, version, address) as client:
        response = await client.post("/digest", content=pieces())
    assert response.json() == {"length": len(whole), "digest": hashlib.sha256(whole).hexdigest()}


@pytest.mark.asyncio
async def test_fifty_requests_at_once(certificates, version, address):
    async with client_of(certificates, version, address) as client:
        responses = await asyncio.gather(*(client.get(f"/size/{n * 1001}") for n in range(50)))
    assert [len(response.content) for response in responses] == [n * 1001 for n in range(50)]


@pytest.mark.asyncio
async def test_a_client_may_stop_reading_in_the_middle(certificates, version, address):
    async with client_of(certificates, version, address) as client:
        async with client.stream("GET", "/endless") as response:
            total = 0
            async for piece in response.aiter_bytes():
                total += len(piece)
                if total > 500_000:
                    break
        assert (await client.get("/size/7")).content == bytes(7)


@pytest.mark.asyncio
async def test_a_read_times_out_and_the_client_goes_on(certificates, version, address):
    async with client_of(certificates, version, address) as client:
        with pytest.raises(httpx.ReadTimeout):
            # The body's pieces come every 0.1 s.
            await client.get("/slow", timeout=httpx.Timeout(LIMIT, read=0.02))
        assert (await client.get("/size/7")).content == bytes(7)


SCRIPT = """
import asyncio, importlib, signal, sys
from hypercorn.asyncio import serve
from hypercorn.config import Config
from app import app

config = Config()
config.bind = [sys.argv[2]]
module, name = sys.argv[1].split(":")

async def main():
    await serve(app, config)  # it sets handlers of SIGINT and SIGTERM with add_signal_handler

with asyncio.Runner(loop_factory=getattr(importlib.import_module(module), name)) as runner:
    runner.run(main())
print("left in order")
"""


def test_sigterm_lets_a_slow_request_finish(factory):
    address = f"127.0.0.1:{free_port()}"
    with Program.python("-c", SCRIPT, factory, address) as program:
        program.wait_for("Running on")
        with httpx.stream("GET", f"http://{address}/slow", timeout=LIMIT) as response:
            program.wait_for("a slow request runs")
            program.send(signal.SIGTERM)
            assert response.read().startswith(b"piece " * 10)
        assert program.ended() == 0
        assert "the application was shut down" in program.text
        assert "left in order" in program.text
        assert "Traceback" not in program.text

"""websockets, both sides in the loop under test: messages of all sizes, compression, TLS, broadcast, closing."""

import asyncio

import pytest
import websockets
from websockets.asyncio.client import connect
from websockets.asyncio.server import broadcast, serve, unix_serve

from .processes import LIMIT

pytestmark = pytest.mark.asyncio

MESSAGES = ["", "a", "grüße", b"", b"\x00\xff", "x" * 126, "y" * 65_536, bytes(range(256)) * 8192]


async def echo(websocket):
    async for message in websocket:
        await websocket.send(message)


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("tls", [False, True])
async def test_messages_of_all_sizes_come_back(certificates, no_leaks, compression, tls):
    sides = {"ssl": certificates.server}, {"ssl": certificates.client}
    server_side, client_side = sides if tls else ({}, {})
    async with serve(echo, "127.0.0.1", 0, compression=compression, max_size=None, **server_side) as server:
        host, port = server.sockets[0].getsockname()
        url = f"{'wss' if tls else 'ws'}://{host}:{port}/"
        async with connect(url, compression=compression, max_size=None, **client_side) as websocket:
            for message in MESSAGES:
                await websocket.send(message)
                assert await websocket.recv() == message
            for message in MESSAGES:
                await websocket.send(message)
            assert [await websocket.recv() for _ in MESSAGES] == MESSAGES
            async with asyncio.timeout(LIMIT):
                await (await websocket.ping())
        assert websocket.close_code == 1000


async def test_a_fragmented_message_is_put_together(no_leaks):
    async with serve(echo, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        async with connect(f"ws://{host}:{port}/") as websocket:
            await websocket.send(f"piece {n} " for n in range(100))
            assert await websocket.recv() == "".join(f"piece {n} " for n in range(100))


async def test_a_broadcast_reaches_a_hundred_clients(no_leaks):
    async with serve(echo, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        clients = await asyncio.gather(*(connect(f"ws://{host}:{port}/") for _ in range(100)))
        broadcast(server.connections, "to all")
        assert await asyncio.gather(*(client.recv() for client in clients)) == ["to all"] * 100
        await asyncio.gather(*(client.close() for client in clients))


async def test_a_server_that_closes_tells_its_clients_why(no_leaks):
    async with serve(echo, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        async with connect(f"ws://{host}:{port}/") as websocket:
            await websocket.send("here")
            await websocket.recv()
            server.close()
            with pytest.raises(websockets.ConnectionClosedOK) as closed:
                await websocket.recv()
            assert closed.value.rcvd.code == 1001
            async with asyncio.timeout(LIMIT):
                await server.wait_closed()


async def test_a_peer_that_vanishes_is_an_abnormal_end(no_leaks):
    ended = asyncio.get_running_loop().create_future()

    async def handler(websocket):
        with pytest.raises(websockets.ConnectionClosedError) as closed:
            await websocket.recv()
        ended.set_result((closed.value.rcvd, websocket.close_code))

    async with serve(handler, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        async with connect(f"ws://{host}:{port}/") as websocket:
            websocket.transport.abort()
            async with asyncio.timeout(LIMIT):
                assert await ended == (None, 1006)


async def test_a_slow_reader_holds_the_writer_back(no_leaks):
    sent = 0

    async def handler(websocket):
        nonlocal sent
        for _ in range(200):
            await websocket.send(bytes(100_000))
            sent += 1

    async with serve(handler, "127.0.0.1", 0, compression=None) as server:
        host, port = server.sockets[0].getsockname()
        async with connect(f"ws://{host}:{port}/", max_queue=2, compression=None) as websocket:
            await websocket.recv()
            held = -1
            while held != sent:  # until nothing moves any more
                held = sent
                await asyncio.sleep(0.05)
            assert sent < 200
            for _ in range(199):
                assert len(await websocket.recv()) == 100_000
            assert sent == 200


async def test_a_unix_socket_serves_too(tmp_path, no_leaks):
    path = str(tmp_path / "socket")
    async with unix_serve(echo, path), websockets.asyncio.client.unix_connect(path, "ws://localhost/") as websocket:
        await websocket.send("over a file")
        assert await websocket.recv() == "over a file"

import asyncio
import socket
import ssl

import pytest

trustme = pytest.importorskip("trustme", reason="it needs cryptography, of which PyPy has no wheel")


@pytest.fixture(scope="module")
def contexts():
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


async def echo(reader, writer):
    try:
        while data := await reader.read(100_000):
            writer.write(data)
            await writer.drain()
    except (ConnectionError, ssl.SSLError):
        pass
    finally:
        writer.close()


async def test_a_megabyte_goes_both_ways(contexts, no_leaks):
    server_side, client_side = contexts
    async with await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server_side) as server:
        host, port = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(host, port, ssl=client_side, server_hostname="localhost")
        assert writer.get_extra_info("peercert")["subjectAltName"] == (("DNS", "localhost"),)
        assert writer.get_extra_info("sslcontext") is client_side
        assert writer.get_extra_info("peername") == (host, port)
        data = bytes(range(256)) * 4096
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
        writer.close()
        await writer.wait_closed()
    await asyncio.sleep(0.02)


async def test_a_certificate_that_nobody_vouches_for_is_refused(contexts, no_leaks):
    server_side, _ = contexts
    async with await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server_side) as server:
        host, port = server.sockets[0].getsockname()
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(host, port, ssl=ssl.create_default_context(), server_hostname="localhost")
        await asyncio.sleep(0.02)


async def test_a_certificate_for_another_name_is_refused(contexts, no_leaks):
    server_side, client_side = contexts
    async with await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server_side) as server:
        host, port = server.sockets[0].getsockname()
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            await asyncio.open_connection(host, port, ssl=client_side, server_hostname="elsewhere")
        await asyncio.sleep(0.02)


async def test_a_server_that_vanishes_in_the_handshake_is_a_lost_connection(contexts, no_leaks):
    _, client_side = contexts

    async def vanish(reader, writer):
        await reader.read(10)
        writer.transport.abort()

    async with await asyncio.start_server(vanish, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        with pytest.raises(ConnectionError):
            await asyncio.open_connection(host, port, ssl=client_side, server_hostname="localhost")
        await asyncio.sleep(0.02)


async def test_a_client_that_vanishes_in_the_handshake_leaves_nothing_open(contexts, no_leaks):
    server_side, _ = contexts
    async with await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server_side) as server:
        for _ in range(5):
            client = socket.create_connection(server.sockets[0].getsockname())
            client.send(b"\x16\x03\x01")
            client.close()
        await asyncio.sleep(0.05)
        assert server.is_serving()
    await asyncio.sleep(0.02)


async def test_a_handshake_that_takes_too_long_is_given_up(contexts, no_leaks):
    _, client_side = contexts
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host, port = silent.getsockname()
        with pytest.raises(ConnectionAbortedError, match="SSL handshake is taking longer than"):
            await asyncio.open_connection(
                host, port, ssl=client_side, server_hostname="localhost", ssl_handshake_timeout=0.05
            )
        await asyncio.sleep(0.02)


async def upgrade(contexts, prefix):
    """A client that sends `prefix` and its hello in one piece; the server reads a line, then starts TLS."""
    server_side, client_side = contexts
    answers = asyncio.get_running_loop().create_future()

    async def serve(reader, writer):
        line = await reader.readline()
        loop = asyncio.get_running_loop()
        transport = await loop.start_tls(
            writer.transport, reader._transport.get_protocol(), server_side, server_side=True
        )
        writer._transport = transport
        reader._transport = transport
        writer.write(line + await reader.readexactly(5))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()

    def client():
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = client_side.wrap_bio(incoming, outgoing, server_hostname="localhost")
        with socket.create_connection((host, port), timeout=10) as sock:
            pending = prefix
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    sock.sendall(pending + outgoing.read())
                    pending = b""
                    incoming.write(sock.recv(65536))
            tls.write(b"hello")
            sock.sendall(outgoing.read())
            received = b""
            while len(received) < len(prefix) + 5:
                try:
                    received += tls.read(100)
                except ssl.SSLWantReadError:
                    data = sock.recv(65536)
                    if not data:
                        break
                    incoming.write(data)
            return received

    answers = await asyncio.get_running_loop().run_in_executor(None, client)
    server.close()
    await asyncio.sleep(0.02)
    return answers


@pytest.mark.asyncio(loop_factories=["ffloop"])
async def test_start_tls_does_not_lose_a_hello_that_came_with_the_plain_prefix(contexts):
    # gh-142352: fixed in the newest asyncio only.
    assert await upgrade(contexts, b"PROXY line\n") == b"PROXY line\nhello"


async def test_start_tls_on_the_clients_side(contexts, no_leaks):
    server_side, client_side = contexts

    async def serve(reader, writer):
        await reader.readline()
        writer.write(b"ready\n")
        await writer.start_tls(server_side)
        writer.write(await reader.readexactly(5))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"ready\n"
        await writer.start_tls(client_side, server_hostname="localhost")
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()
        await writer.wait_closed()
    await asyncio.sleep(0.02)


async def test_start_tls_refuses_what_it_cannot_upgrade(contexts):
    loop = asyncio.get_running_loop()
    with pytest.raises(TypeError, match="sslcontext is expected"):
        await loop.start_tls(None, None, None)
    with pytest.raises(TypeError, match="is not supported by start_tls"):
        await loop.start_tls(asyncio.Transport(), asyncio.Protocol(), contexts[0])

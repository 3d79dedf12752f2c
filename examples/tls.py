"""A TLS server and a client that checks its certificate. Needs trustme, which makes certificates for tests.

python examples/tls.py
"""

import asyncio
import ssl

import trustme

import ffloop


async def greet(reader, writer):
    name = (await reader.readline()).decode().strip()
    cipher = writer.get_extra_info("cipher")[0]
    writer.write(f"Hello {name}, over {cipher}\n".encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def main():
    authority = trustme.CA()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server_side)
    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)

    server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=server_side)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_side, server_hostname="localhost")
    writer.write(b"world\n")
    print((await reader.readline()).decode().strip())
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


if __name__ == "__main__":
    ffloop.run(main())

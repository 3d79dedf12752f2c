"""asyncpg against a real PostgreSQL: queries, COPY, cancelling, LISTEN/NOTIFY, cursors, pools, TLS."""

import asyncio
import io
import os
import secrets
import ssl

import pytest
import pytest_asyncio

from . import need, services
from .processes import LIMIT

asyncpg = need("asyncpg")
pytestmark = pytest.mark.asyncio


@pytest.fixture(scope="module")
def server():
    with services.postgres() as (port, folder):
        yield (
            {"port": port, "user": "tests", "database": "postgres", "timeout": LIMIT, "command_timeout": LIMIT},
            folder,
        )


@pytest_asyncio.fixture(params=["tcp", "unix"])
async def connection(request, server):
    where, folder = server
    connection = await asyncpg.connect(host="127.0.0.1" if request.param == "tcp" else folder, **where)
    yield connection
    await connection.close(timeout=LIMIT)


async def test_values_come_back_as_they_went(connection):
    for value in (b"", b"x", secrets.token_bytes(3_000_000)):
        assert await connection.fetchval("SELECT $1::bytea", value) == value
    row = await connection.fetchrow("SELECT $1::text AS text, $2::int[] AS numbers, now() AS now", "grüße", [1, None])
    assert (row["text"], row["numbers"]) == ("grüße", [1, None])
    rows = await connection.fetch("SELECT n, repeat('x', n % 100) AS x FROM generate_series(1, 50000) AS n")
    assert [row["n"] for row in rows] == list(range(1, 50001))
    assert sum(len(row["x"]) for row in rows) == 50000 * 99 // 2


async def test_a_transaction_is_undone_and_an_error_names_itself(connection):
    await connection.execute("CREATE TEMPORARY TABLE t (n int PRIMARY KEY)")
    with pytest.raises(asyncpg.UniqueViolationError):
        async with connection.transaction():
            await connection.executemany("INSERT INTO t VALUES ($1)", [(1,), (2,), (1,)])
    assert await connection.fetchval("SELECT count(*) FROM t") == 0
    with pytest.raises(asyncpg.PostgresSyntaxError):
        await connection.execute("SELEKT")
    async with connection.transaction():
        await connection.executemany("INSERT INTO t VALUES ($1)", [(n,) for n in range(1000)])
        numbers = [row["n"] async for row in connection.cursor("SELECT n FROM t ORDER BY n", prefetch=7)]
    assert numbers == list(range(1000))


async def test_copy_in_and_out(connection):
    await connection.execute("CREATE TEMPORARY TABLE t (n int, x text)")
    records = [(n, "x" * (n % 50)) for n in range(100_000)]
    assert await connection.copy_records_to_table("t", records=records) == "COPY 100000"
    out = io.BytesIO()
    await connection.copy_from_query("SELECT * FROM t ORDER BY n", output=out, format="csv")
    lines = out.getvalue().decode().splitlines()
    assert [line.split(",")[0] for line in lines] == [str(n) for n in range(100_000)]
    out.seek(0)
    await connection.execute("TRUNCATE t")
    assert await connection.copy_to_table("t", source=out, format="csv") == "COPY 100000"
    assert await connection.fetchval("SELECT sum(length(x)) FROM t") == sum(len(x) for _, x in records)


async def test_a_slow_consumer_holds_the_copy_back(connection):
    taken = 0

    async def consume(data):
        nonlocal taken
        taken += len(data)
        await asyncio.sleep(0)

    await connection.copy_from_query("SELECT repeat('x', 1000) FROM generate_series(1, 5000)", output=consume)
    assert taken == 5000 * 1001


async def test_a_cancelled_query_is_cancelled_on_the_server_and_the_connection_goes_on(connection):
    for _ in range(3):
        query = asyncio.ensure_future(connection.execute("SELECT pg_sleep(60)"))
        await asyncio.sleep(0.05)
        query.cancel()
        with pytest.raises(asyncio.CancelledError):
            await query
        assert await connection.fetchval("SELECT 1") == 1
    with pytest.raises(asyncio.TimeoutError):
        await connection.execute("SELECT pg_sleep(60)", timeout=0.05)
    assert await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'") == 0


async def test_notifications_arrive_in_order(connection, server):
    where, folder = server
    heard, all_of_them = [], asyncio.Event()

    def listener(connection, pid, channel, payload):
        heard.append((channel, payload))
        if len(heard) == 100:
            all_of_them.set()

    await connection.add_listener("news", listener)
    other = await asyncpg.connect(host=folder, **where)
    for n in range(100):
        await other.execute(f"NOTIFY news, '{n}'")
    async with asyncio.timeout(LIMIT):
        await all_of_them.wait()
    assert heard == [("news", str(n)) for n in range(100)]
    await connection.remove_listener("news", listener)
    await other.close()


async def test_a_pool_serves_more_tasks_than_it_has_connections(server):
    where, _ = server

    async def one(n):
        async with pool.acquire() as connection:
            return await connection.fetchval("SELECT $1::int FROM pg_sleep(0.001)", n), connection.get_server_pid()

    async with asyncpg.create_pool(host="127.0.0.1", min_size=1, max_size=4, **where) as pool:
        results = await asyncio.gather(*(one(n) for n in range(200)))
        assert [n for n, _ in results] == list(range(200))
        assert 1 < len({pid for _, pid in results}) <= 4
        assert pool.get_size() <= 4


async def test_a_connection_that_the_server_ends_says_so(connection, server):
    where, folder = server
    other = await asyncpg.connect(host=folder, **where)
    ended = asyncio.Event()
    other.add_termination_listener(lambda connection: ended.set())
    assert await connection.fetchval("SELECT pg_terminate_backend($1)", other.get_server_pid())
    async with asyncio.timeout(LIMIT):
        await ended.wait()
    assert other.is_closed()
    with pytest.raises((asyncpg.InterfaceError, asyncpg.PostgresConnectionError)):
        await other.execute("SELECT 1")


async def test_nobody_listens_is_an_os_error(server):
    where, folder = server
    with pytest.raises(ConnectionRefusedError):
        await asyncpg.connect(host="127.0.0.1", **{**where, "port": 1})
    with pytest.raises(FileNotFoundError):
        await asyncpg.connect(host=os.path.join(folder, "none"), **where)


@pytest.fixture(scope="module")
def secure(server, certificates):
    """The same server, by now with TLS."""
    where, folder = server
    for source, name in ((certificates.cert, "server.crt"), (certificates.key, "server.key")):
        target = os.path.join(folder, "data", name)
        with open(target, "wb") as file:
            file.write(source.read_bytes())
        os.chmod(target, 0o600)
        os.chown(target, os.stat(folder).st_uid, os.stat(folder).st_gid)
    return where


async def test_tls_is_started_on_the_connection(secure, certificates):
    # Both ways: with the request of PostgreSQL, which upgrades a connection, and refused for an unknown authority.
    plain = await asyncpg.connect(host="127.0.0.1", ssl=False, **secure)
    await plain.execute("ALTER SYSTEM SET ssl = on")
    await plain.execute("SELECT pg_reload_conf()")
    async with asyncio.timeout(LIMIT):
        while await plain.fetchval("SHOW ssl") != "on":
            await asyncio.sleep(0.02)
    await plain.close()
    connection = await asyncpg.connect(host="127.0.0.1", ssl=certificates.client, **secure)
    assert await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    value = secrets.token_bytes(1_000_000)
    assert await connection.fetchval("SELECT $1::bytea", value) == value
    await connection.close()
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncpg.connect(host="127.0.0.1", ssl=ssl.create_default_context(), **secure)

"""redis-py's asyncio side against a real Redis: pipelines, pub/sub, blocking pops, pools, a server that goes."""

import asyncio
import secrets

import pytest
import pytest_asyncio
from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import ConnectionError, TimeoutError

from . import services
from .processes import LIMIT

pytestmark = pytest.mark.asyncio


@pytest.fixture(scope="module")
def server():
    with services.redis() as addresses:
        yield addresses


@pytest_asyncio.fixture(params=["tcp", "unix"])
async def client(request, server):
    port, path = server
    where = {"host": "127.0.0.1", "port": port} if request.param == "tcp" else {"unix_socket_path": path}
    async with Redis(**where, socket_timeout=LIMIT) as client:
        await client.flushall()
        yield client


async def test_values_of_all_sizes_come_back(client):
    for size in (0, 1, 1000, 100_000, 5_000_000):
        value = secrets.token_bytes(size)
        assert await client.set("key", value)
        assert await client.get("key") == value
    assert await client.get("none") is None


async def test_a_pipeline_of_ten_thousand_commands_answers_in_order(client):
    async with client.pipeline(transaction=False) as pipeline:
        for n in range(5000):
            pipeline.incrby("sum", n).set(f"key:{n}", n)
        answers = await pipeline.execute()
    assert answers[::2] == [n * (n + 1) // 2 for n in range(5000)]
    assert answers[1::2] == [True] * 5000
    assert await client.mget([f"key:{n}" for n in range(5000)]) == [str(n).encode() for n in range(5000)]


async def test_a_transaction_is_tried_again_when_a_watched_key_changes(client):
    async def add(pipeline):
        value = int(await pipeline.get("count") or 0)
        await asyncio.sleep(0)
        pipeline.multi()
        pipeline.set("count", value + 1)

    await asyncio.gather(*(client.transaction(add, "count") for _ in range(10)))
    assert await client.get("count") == b"10"


async def test_what_is_published_reaches_every_subscriber_in_order(client):
    async def subscriber():
        heard = []
        async with client.pubsub() as pubsub:
            await pubsub.psubscribe("news:*")
            messages = pubsub.listen()
            assert (await anext(messages))["type"] == "psubscribe"
            subscribed.release()
            while heard[-1:] != [b"last"]:
                heard.append((await anext(messages))["data"])
        return heard

    subscribed = asyncio.Semaphore(0)
    async with asyncio.timeout(LIMIT):
        subscribers = [asyncio.ensure_future(subscriber()) for _ in range(5)]
        for _ in subscribers:
            await subscribed.acquire()
        for n in range(300):
            assert await client.publish("news:all", str(n)) == 5
        await client.publish("news:other", "last")
        results = await asyncio.gather(*subscribers)
    assert results == [[b"%d" % n for n in range(300)] + [b"last"]] * 5


async def test_a_blocking_pop_waits_for_a_push_or_for_its_time(client):
    loop = asyncio.get_running_loop()
    waiting = asyncio.ensure_future(client.blpop(["queue"], timeout=LIMIT))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await client.rpush("queue", "first", "second")
    assert await waiting == (b"queue", b"first")
    assert await client.blpop(["queue"]) == (b"queue", b"second")
    start = loop.time()
    assert await client.blpop(["queue"], timeout=0.1) is None
    assert loop.time() - start >= 0.1


async def test_a_cancelled_command_leaves_no_answer_for_the_next(client):
    for n in range(20):
        with pytest.raises(asyncio.TimeoutError):
            async with asyncio.timeout(0.05):  # on a busy machine too, the command has left by then
                await client.blpop(["nothing"], timeout=LIMIT)
        assert await client.echo(str(n)) == str(n).encode()


async def test_a_pool_hands_three_connections_to_a_hundred_tasks(server):
    pool = BlockingConnectionPool(host="127.0.0.1", port=server[0], max_connections=3, timeout=LIMIT)
    async with Redis(connection_pool=pool) as client:
        assert await asyncio.gather(*(client.echo(str(n)) for n in range(100))) == [b"%d" % n for n in range(100)]
        assert len(await client.client_list()) <= 3
    await pool.aclose()


async def test_a_read_that_takes_too_long_is_an_error(server):
    async with Redis(host="127.0.0.1", port=server[0], socket_timeout=0.05, retry=None) as client:
        await client.ping()
        with pytest.raises(TimeoutError):
            await client.blpop(["nothing"], timeout=1)


async def test_a_connection_that_the_server_closes_is_made_anew(client, server):
    async with Redis(host="127.0.0.1", port=server[0]) as other:
        number = await other.client_id()
        await client.client_kill_filter(_id=number)
        assert await other.client_id() > number


async def test_a_server_that_goes_is_a_connection_error():
    with services.redis() as (port, _):
        client = Redis(host="127.0.0.1", port=port, retry=None)
        waiting = asyncio.ensure_future(client.blpop(["nothing"]))
        await asyncio.sleep(0.05)
        assert await client.ping()
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(waiting, LIMIT)
    with pytest.raises(ConnectionError):
        await client.ping()
    await client.aclose()

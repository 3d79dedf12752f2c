"""What ffloop alone has: the figures of a loop, and watching files."""

import asyncio
import os
import socket

import pytest

import ffloop

pytestmark = pytest.mark.asyncio(loop_factories=["ffloop"])


async def test_the_figures_of_a_loop_count_what_it_does():
    loop = asyncio.get_running_loop()
    before = ffloop.metrics()
    timer = loop.call_later(60, print)
    loop.call_soon(lambda: None)
    loop.call_soon(lambda: None)
    left, right = socket.socketpair()
    loop.add_reader(left, left.recv, 1)
    now = ffloop.metrics(loop)
    assert now.scheduled == before.scheduled + 1
    assert now.ready == before.ready + 2
    assert now.handles == before.handles + 1
    assert now.iterations == before.iterations
    right.send(b"x")
    await asyncio.sleep(0.03)
    later = ffloop.metrics()
    assert later.iterations > now.iterations
    assert later.events > now.events
    assert later.idle_seconds - before.idle_seconds > 0
    timer.cancel()
    loop.remove_reader(left)
    left.close()
    right.close()
    left, right = socket.socketpair()
    now = ffloop.metrics().handles
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, left)
    assert ffloop.metrics().handles == now + 1
    transport.abort()
    await asyncio.sleep(0)
    assert ffloop.metrics().handles == now
    right.close()


async def test_metrics_want_a_loop_of_ffloops_that_is_open():
    other = asyncio.SelectorEventLoop()
    with pytest.raises(TypeError, match="a loop of ffloop's was expected"):
        ffloop.metrics(other)
    other.close()
    closed = ffloop.new_event_loop()
    closed.close()
    with pytest.raises(ValueError, match="closed"):
        ffloop.metrics(closed)


async def test_changes_in_a_folder_are_told_by_name(tmp_path):
    with ffloop.watch_path(tmp_path) as changes:
        (tmp_path / "new").write_text("text")
        change = await asyncio.wait_for(anext(changes), 10)
        assert change == ffloop.Change(str(tmp_path / "new"), renamed=True)
        while change != ffloop.Change(str(tmp_path / "new"), renamed=False):
            change = await asyncio.wait_for(anext(changes), 10)
        os.rename(tmp_path / "new", tmp_path / "old")
        seen = set()
        while len(seen) < 2:
            change = await asyncio.wait_for(anext(changes), 10)
            if change.renamed:
                seen.add(os.path.basename(change.path))
        assert seen == {"new", "old"}


async def test_a_change_of_a_file_is_told(tmp_path):
    file = tmp_path / "file"
    file.write_text("before")
    with ffloop.watch_path(str(file)) as changes:
        (tmp_path / "another").write_text("not watched")
        file.write_text("after")
        assert await asyncio.wait_for(anext(changes), 10) == ffloop.Change(str(file), renamed=False)


async def test_closing_ends_the_iteration(tmp_path):
    changes = ffloop.watch_path(os.fsencode(tmp_path))
    handles = ffloop.metrics().handles

    async def collect():
        return [change async for change in changes]

    collecting = asyncio.create_task(collect())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="another task waits"):
        await anext(changes)
    changes.close()
    assert await collecting == []
    changes.close()
    assert repr(changes) == f"<ffloop.watch_path {str(tmp_path)!r} closed>"
    assert ffloop.metrics().handles == handles - 1


async def test_a_wait_that_is_cancelled_can_be_begun_again(tmp_path):
    with ffloop.watch_path(tmp_path) as changes:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(changes), 0.01)
        (tmp_path / "new").write_text("text")
        assert (await asyncio.wait_for(anext(changes), 10)).path == str(tmp_path / "new")


async def test_a_path_that_is_not_there_is_an_error(tmp_path):
    handles = ffloop.metrics().handles
    with pytest.raises(FileNotFoundError):
        ffloop.watch_path(tmp_path / "nothing")
    assert ffloop.metrics().handles == handles

"""py-spy, which reads a running program's memory: a loop's Python frames are visible, asleep and at work."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ffloop.speed import accelerator

from . import missing
from .processes import LIMIT, Program

pytestmark = pytest.mark.skipif(missing("py_spy") is not None, reason=str(missing("py_spy")))

CODE = """
import asyncio, importlib, sys, time
module, name = sys.argv[1].split(":")

def dawdle():
    print("at work", flush=True)
    while not asleep:
        time.sleep(0.001)

class Protocol(asyncio.Protocol):
    def data_received(self, data):
        dawdle()

async def main():
    global asleep
    asleep = sys.argv[2] == "asleep"
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Protocol, "127.0.0.1", 0)
    transport, _ = await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())
    if not asleep:
        transport.write(b"x")
    loop.call_later(0.1, print, "asleep")
    await asyncio.sleep(60)

asyncio.Runner(loop_factory=getattr(importlib.import_module(module), name)).run(main())
"""


def turn(factory):
    """The frames of a turn of the loop: Python's, unless the turn is the accelerator's."""
    return [] if factory.startswith("ffloop") and accelerator is not None else ["_run_once"]


def dump(program):
    py_spy = shutil.which("py-spy", path=str(Path(sys.executable).parent))
    done = subprocess.run(
        [py_spy, "dump", "--json", "--pid", str(program.process.pid)], capture_output=True, text=True, timeout=LIMIT
    )
    if re.search("[Pp]ermission denied|Operation not permitted|requires root", done.stderr):
        pytest.skip("the system does not let py-spy read another process: it needs root or kernel.yama.ptrace_scope=0")
    assert done.returncode == 0, done.stderr
    threads = json.loads(done.stdout)
    main = next(thread for thread in threads if "main" in (thread["thread_name"] or "").lower())
    return [frame["name"].rpartition(".")[2] for frame in main["frames"]]  # the innermost first


def test_what_a_protocol_does_is_seen_below_the_loop(factory):
    with Program.python("-c", CODE, factory, "busy") as program:
        program.wait_for("at work")
        frames = dump(program)
    order = [frames.index(name) for name in ("dawdle", "data_received", *turn(factory), "run_forever", "run")]
    assert order == sorted(order), frames


def test_a_loop_that_waits_is_seen_in_its_poll(factory):
    with Program.python("-c", CODE, factory, "asleep") as program:
        program.wait_for("asleep")
        frames = dump(program)
    if turn(factory):
        assert frames[0] in ("select", "poll"), frames
        assert frames[1] == "_run_once"
    else:
        assert frames[0] == "run_forever", frames

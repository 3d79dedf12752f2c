"""Looking at a running program from outside."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, sys
import ffloop

async def leaf():
    await asyncio.sleep(60)

async def main():
    async with asyncio.TaskGroup() as group:
        group.create_task(leaf(), name="the leaf")
        await asyncio.sleep(0)
        print("ready", flush=True)

if sys.argv[1] == "ffloop":
    ffloop.run(main())
else:
    asyncio.run(main())
"""


@pytest.mark.skipif(sys.version_info < (3, 14), reason="python -m asyncio ps came with Python 3.14")
@pytest.mark.skipif(sys.implementation.name != "cpython", reason="it reads CPython's memory")
@pytest.mark.parametrize("name", ["asyncio", "ffloop"])
@pytest.mark.parametrize("command", ["ps", "pstree"])
def test_the_tasks_of_a_running_program_can_be_listed(name, command):
    program = subprocess.Popen([sys.executable, "-c", PROGRAM, name], stdout=subprocess.PIPE, text=True)
    try:
        assert program.stdout.readline() == "ready\n"
        listed = subprocess.run(
            [sys.executable, "-m", "asyncio", command, str(program.pid)], capture_output=True, text=True, timeout=50
        )
        if "ermission" in listed.stderr or os.strerror(1) in listed.stderr:
            pytest.skip("this system lets no process look into another")
        assert "the leaf" in listed.stdout, listed.stderr
        assert "leaf" in listed.stdout
    finally:
        program.kill()
        program.wait()
        program.stdout.close()

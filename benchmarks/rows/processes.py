"""Child processes, and names that need no lookup."""

from __future__ import annotations

import asyncio
import socket
import subprocess

from ..row import Loop, Operations, inside
from .tcp import MIB

GROUP = "processes and names"


@inside(GROUP, 10, unit="processes/s", quick=True)
def subprocess_true(loop: Loop) -> Operations:
    """create_subprocess_exec("true") and wait, one at a time."""

    async def main(count: int) -> None:
        for _ in range(count):
            process = await asyncio.create_subprocess_exec("true")
            await process.wait()

    return lambda count: loop.run_until_complete(main(count))


@inside(GROUP, 64 * MIB, unit="bytes/s")
def subprocess_read_64m(loop: Loop) -> Operations:
    """64 MiB from the standard output of a child, read(65536)."""

    async def main(count: int) -> None:
        process = await asyncio.create_subprocess_exec("head", "-c", str(count), "/dev/zero", stdout=subprocess.PIPE)
        assert process.stdout is not None
        received = 0
        while data := await process.stdout.read(65536):
            received += len(data)
        await process.wait()
        if received != count:
            raise RuntimeError(f"{received} bytes of {count}")

    return lambda count: loop.run_until_complete(main(count))


@inside(GROUP, 200, unit="lookups/s")
def getaddrinfo_numeric(loop: Loop) -> Operations:
    """loop.getaddrinfo("127.0.0.1", 80), one at a time."""

    async def main(count: int) -> None:
        for _ in range(count):
            await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)

    return lambda count: loop.run_until_complete(main(count))

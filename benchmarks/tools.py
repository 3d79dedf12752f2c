"""The two C programs, load.c and serve.c: built, run and stopped. Every wait has a limit."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
START_LIMIT = 60.0  # seconds: ten thousand connections, or valgrind, take their time
STOP_LIMIT = 5.0


class Failed(Exception):
    """A loop could not do a row; the text says why."""


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end by ending its standard input; kill it when it does not."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_LIMIT)
    finally:
        process.stdout.close()


def read_line(process: subprocess.Popen[bytes], limit: float) -> str:
    """Return the next line that a process prints, waiting `limit` seconds at most."""
    assert process.stdout is not None
    end = time.monotonic() + limit
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            raise Failed(f"no answer within {limit:.0f} s")
        byte = os.read(process.stdout.fileno(), 1)  # one line at a time: nothing is left in a buffer
        if not byte:
            raise Failed("it ended too early")
        line += byte
    return line.decode().strip()


@dataclass(frozen=True)
class Tools:
    """Where the programs are, and a folder for what they read."""

    folder: Path
    load: Path
    serve: Path

    def write(self, name: str, data: bytes) -> str:
        path = self.folder / name
        path.write_bytes(data)
        return str(path)


def compile_tools(folder: Path) -> Tools:
    """Build both programs in `folder`. Without OpenSSL's headers the client has no TLS, and its rows say so."""
    flags = ["cc", "-O2", "-Wall"]
    load, serve = folder / "load", folder / "serve"
    with_tls = [*flags, "-DWITH_TLS", "-o", str(load), str(HERE / "load.c"), "-lssl", "-lcrypto"]
    if subprocess.run(with_tls, capture_output=True, timeout=START_LIMIT).returncode != 0:
        subprocess.run([*flags, "-o", str(load), str(HERE / "load.c")], check=True, timeout=START_LIMIT)
    subprocess.run([*flags, "-o", str(serve), str(HERE / "serve.c")], check=True, timeout=START_LIMIT)
    return Tools(folder, load, serve)


@contextmanager
def serving(tools: Tools, what: str) -> Iterator[str]:
    """Run serve.c; give its address."""
    process = subprocess.Popen([tools.serve, what], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield read_line(process, START_LIMIT)
    finally:
        stop(process)


@contextmanager
def holding(command: list[str]) -> Iterator[None]:
    """Run load.c in its mode `hold`, from when all connections are there."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        if read_line(process, START_LIMIT) != "ready":
            raise Failed("the client failed")
        yield
    finally:
        stop(process)


def run_load(command: list[str], seconds: float) -> tuple[float, float]:
    """Run load.c; return what it counted a second, and all that it did."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + START_LIMIT)
    except subprocess.TimeoutExpired:
        raise Failed("the client did not end") from None
    if done.returncode != 0:
        raise Failed(f"the client: {done.stderr.strip()}")
    rate, total = done.stdout.split()
    return float(rate), float(total)

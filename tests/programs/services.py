"""Redis and PostgreSQL, started by the tests and stopped by their pid. `.ci/services` installs them on Debian."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..conftest import free_port
from .processes import LIMIT, Program

# Of the sanitizers' libraries, which tests are run under, PostgreSQL's programs take for ever to start.
BARE = {"LD_PRELOAD": ""}

HOW = "'apt-get install redis-server postgresql', or .ci/services as root on Debian"


@contextmanager
def redis():
    """Run Redis; the value is its port and the path of its Unix socket."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip(f"no redis-server here; {HOW} installs it")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        options = f"--bind 127.0.0.1 --port {port} --save  --appendonly no --dir {folder} --unixsocket {folder}/socket"
        with Program(binary, *options.split(" ")) as program:
            program.wait_for("Ready to accept connections")
            yield port, f"{folder}/socket"


def postgres_binaries():
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return found[-1].parent if found else None


@contextmanager
def postgres():
    """Run PostgreSQL in a fresh cluster; the value is its port and the folder of its Unix socket."""
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip(f"no PostgreSQL in /usr/lib/postgresql; {HOW} installs it")
    options = {}
    folder = Path(tempfile.mkdtemp())
    if os.geteuid() == 0:  # as whom PostgreSQL refuses to run
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        options = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    try:
        made = subprocess.run(
            [binaries / "initdb", "-D", folder / "data", "-U", "tests", "-A", "trust", "-E", "UTF8", "--no-sync"],
            capture_output=True,
            text=True,
            timeout=50,
            cwd=folder,
            env={**os.environ, **BARE},
            **options,
        )
        assert made.returncode == 0, made.stderr
        port = free_port()
        settings = f"port={port} listen_addresses=127.0.0.1 fsync=off unix_socket_directories={folder}".split()
        command = [binaries / "postgres", "-D", folder / "data", *(word for item in settings for word in ("-c", item))]
        with Program(*command, cwd=folder, env={"LC_ALL": "C", **BARE}, **options) as program:
            program.wait_for("ready to accept connections")
            yield port, str(folder)
            program.send(signal.SIGINT)  # clients that are still there are sent away
            assert program.ended() == 0, program.text
    finally:
        end = time.monotonic() + LIMIT
        while folder.exists() and time.monotonic() < end:
            shutil.rmtree(folder, ignore_errors=True)

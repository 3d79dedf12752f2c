import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from pathlib import Path

import pytest

import ffloop
from ffloop.speed import accelerator

from .conftest import TWO_WORKERS, free_port

ROOT = Path(__file__).resolve().parent.parent


async def which():
    return type(asyncio.get_running_loop())


def test_run_runs_on_ffloop_and_gives_the_result():
    assert ffloop.run(which()) is ffloop.Loop


def test_a_loop_factory_is_all_that_asyncio_needs():
    with asyncio.Runner(loop_factory=ffloop.new_event_loop) as runner:
        assert runner.run(which()) is ffloop.Loop
    if sys.version_info >= (3, 12):
        assert asyncio.run(which(), loop_factory=ffloop.new_event_loop) is ffloop.Loop


def test_run_passes_debug_on_and_refuses_what_asyncio_refuses():
    async def debug():
        with pytest.raises(RuntimeError, match="running event loop"):
            ffloop.run(None)
        return asyncio.get_running_loop().get_debug()

    assert ffloop.run(debug(), debug=True) is True
    with pytest.raises((ValueError, TypeError)):
        ffloop.run(5)


def python(code, **environment):
    command = [sys.executable, "-W", "always", "-c", code]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=50, cwd=ROOT, env={**os.environ, **environment}
    )


@pytest.mark.skipif(sys.version_info >= (3, 16), reason="asyncio has no policies from 3.16 on")
def test_install_makes_ffloop_the_default_and_names_the_better_way():
    done = python("import asyncio, ffloop; ffloop.install(); print(type(asyncio.new_event_loop()).__name__)")
    assert done.stdout == "Loop\n", done.stderr
    assert ("DeprecationWarning" in done.stderr) == (sys.version_info >= (3, 12))
    assert ("loop_factory=ffloop.new_event_loop" in done.stderr) == (sys.version_info >= (3, 12))


@pytest.mark.skipif(sys.version_info >= (3, 16), reason="asyncio has no policies from 3.16 on")
def test_the_policy_makes_ffloops_loops():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        loop = ffloop.EventLoopPolicy().new_event_loop()
    assert isinstance(loop, ffloop.Loop)
    loop.close()


def test_without_policies_the_error_says_what_to_do():
    code = """
import asyncio.events as events
for name in ("BaseDefaultEventLoopPolicy", "_BaseDefaultEventLoopPolicy"):
    if hasattr(events, name):
        delattr(events, name)
import ffloop
from ffloop.speed import accelerator
try:
    ffloop.install()
except RuntimeError as exc:
    print(exc)
"""
    assert "asyncio has no event loop policies" in python(code).stdout


def test_the_report_names_all_versions():
    done = subprocess.run([sys.executable, "-m", "ffloop"], capture_output=True, text=True, timeout=50)
    assert ffloop.__version__ in done.stdout
    assert ffloop.libuv_version() in done.stdout
    assert re.search(r"libuv +\d+\.\d+\.\d+ \((vendored|system)\)", done.stdout)
    assert f"speed   {'pure Python' if accelerator is None else 'accelerated'}" in done.stdout


def test_a_loop_left_open_at_exit_harms_nothing():
    code = "import ffloop; loop = ffloop.new_event_loop(); "
    code += "loop.run_until_complete(loop.create_server(int, '127.0.0.1', 0))"
    done = python(code)
    assert done.returncode == 0
    if sys.implementation.name == "cpython":  # PyPy finalizes nothing at exit
        assert "unclosed event loop" in done.stderr


def test_loops_run_in_several_threads_at_once():
    results = []

    meeting = threading.Barrier(5, timeout=10)

    async def work():
        meeting.wait()
        await asyncio.gather(*(asyncio.sleep(0.001 * number) for number in range(10)))
        return threading.get_ident()

    threads = [threading.Thread(target=lambda: results.append(ffloop.run(work()))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(results)) == 5


# The examples


def example(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=55, cwd=ROOT / "examples"
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["echo.py"], "received b'three\\n'"),
        pytest.param(
            ["tls.py"],
            "Hello world, over TLS",
            marks=pytest.mark.skipif(sys.implementation.name == "pypy", reason="trustme needs a wheel of cryptography"),
        ),
        (["timers_and_signals.py", "0.5"], "time is up"),
        (["demo.py", "400"], "all is well"),
    ],
)
def test_an_example_does_what_it_says(arguments, expected):
    done = example(*arguments)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_the_echo_example_serves_until_ctrl_c():
    command = [sys.executable, "echo.py", "serve", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT / "examples") as server:
        assert "serving on" in server.stdout.readline()
        server.send_signal(signal.SIGINT)
        assert server.stdout.read() == "stopped\n"
        assert server.wait(20) == 0


def test_the_signals_example_stops_in_an_orderly_way():
    command = [sys.executable, "timers_and_signals.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT / "examples") as program:
        assert "tick" in program.stdout.readline()
        program.send_signal(signal.SIGTERM)
        assert program.stdout.read().endswith("stopped by a signal\n")
        assert program.wait(20) == 0


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=TWO_WORKERS)])
def test_uvicorn_serves_on_ffloop_with_one_worker_and_with_several(workers):
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--loop", "ffloop:new_event_loop", "--app-dir", str(ROOT / "examples")]
    command += ["--port", str(port), "--workers", str(workers), "--log-level", "warning", "asgi_app:app"]
    with subprocess.Popen(command) as server:
        try:
            for _ in range(200):
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/loop", timeout=5) as response:
                        answer = response.read()
                    break
                except OSError:
                    time.sleep(0.1)
            for _ in range(20):
                with urllib.request.urlopen(
                    f"http://127.0.0.1:{port}/echo", data=b"x" * 100_000, timeout=5
                ) as response:
                    assert response.read() == b"x" * 100_000
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(20)
    assert answer == b'{"loop": "ffloop.loop.Loop"}'

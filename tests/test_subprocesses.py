import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import ffloop

from .conftest import collect, ffloop_only

PYTHON = sys.executable

needs_pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="without a pidfd a thread reaps the child")


async def run(*command, input=b"", **options):
    """The exit status and what the child has written, for a command that is to end by itself."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )
    out, err = await asyncio.wait_for(process.communicate(input), 20)
    return process.returncode, out, err


def script(text):
    return PYTHON, "-c", text


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


class Recorder(asyncio.SubprocessProtocol):
    def __init__(self):
        self.events = []
        self.data = {1: b"", 2: b""}
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.events.append("made")

    def pipe_data_received(self, fd, data):
        self.data[fd] += data

    def pipe_connection_lost(self, fd, exc):
        self.events.append(("pipe lost", fd, exc))

    def process_exited(self):
        self.events.append("exited")

    def connection_lost(self, exc):
        self.events.append("lost")
        self.lost.set_result(exc)


async def test_a_child_gets_its_input_and_its_output_comes_back():
    assert await run("cat", input=b"hello") == (0, b"hello", b"")


async def test_megabytes_go_in_and_out_at_once():
    data = os.urandom(5_000_000)
    assert await run("cat", input=data) == (0, data, b"")


async def test_output_and_errors_come_apart_or_together():
    text = "import os; os.write(1, b'out'); os.write(2, b'err')"
    assert await run(*script(text)) == (0, b"out", b"err")
    process = await asyncio.create_subprocess_exec(*script(text), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert await process.communicate() == (b"outerr", None)


async def test_the_exit_status_is_the_childs_and_a_signals_is_negative():
    assert (await run("sh", "-c", "exit 7"))[0] == 7
    process = await asyncio.create_subprocess_exec("sleep", "60")
    process.terminate()
    assert await process.wait() == -signal.SIGTERM
    process = await asyncio.create_subprocess_exec("sleep", "60")
    process.kill()
    assert await process.wait() == -signal.SIGKILL
    process = await asyncio.create_subprocess_exec("sleep", "60")
    process.send_signal(signal.SIGINT)
    assert await process.wait() == -signal.SIGINT


async def test_a_shell_command_runs_in_a_shell():
    process = await asyncio.create_subprocess_shell("echo $((6 * 7)); exit 3", stdout=subprocess.PIPE)
    assert await process.communicate() == (b"42\n", None)
    assert process.returncode == 3


async def test_a_program_that_is_not_there_is_an_error(no_leaks):
    with pytest.raises(FileNotFoundError):
        await asyncio.create_subprocess_exec("/there/is/no/such/program", stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"universal_newlines": True}, "universal_newlines must be False"),
        ({"bufsize": 4096}, "bufsize must be 0"),
        ({"text": True}, "text must be False"),
        ({"encoding": "utf-8"}, "encoding must be None"),
        ({"errors": "strict"}, "errors must be None"),
        ({"shell": True}, "shell must be False"),
    ],
)
async def test_options_that_make_no_sense_here_are_refused(option, message):
    loop = asyncio.get_running_loop()
    with pytest.raises(ValueError, match=message):
        await loop.subprocess_exec(asyncio.SubprocessProtocol, "true", **option)


async def test_the_protocol_is_told_in_order():
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.subprocess_exec(Recorder, "sh", "-c", "cat; echo done >&2")
    assert transport.get_pid() == transport.get_extra_info("subprocess").pid
    assert transport.get_returncode() is None
    assert transport.get_pipe_transport(3) is None
    stdin = transport.get_pipe_transport(0)
    stdin.write(b"text")
    stdin.write_eof()
    assert await protocol.lost is None
    assert protocol.data == {1: b"text", 2: b"done\n"}
    assert protocol.events[0] == "made"
    assert protocol.events[-1] == "lost"
    assert sorted(event[1] for event in protocol.events if event[0] == "pipe lost") == [0, 1, 2]
    assert transport.get_returncode() == 0
    transport.close()


async def test_closing_the_transport_kills_the_child():
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.subprocess_exec(Recorder, "sleep", "60")
    assert not transport.is_closing()
    transport.close()
    assert transport.is_closing()
    await protocol.lost
    assert transport.get_returncode() == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        transport.send_signal(signal.SIGTERM)
    transport.close()


async def test_of_a_child_without_pipes_nothing_is_left_when_its_end_was_waited_for():
    process = await asyncio.create_subprocess_exec(*script("pass"))
    assert await asyncio.wait_for(process.wait(), 20) == 0
    with pytest.raises(ProcessLookupError):
        process.kill()


@ffloop_only
async def test_what_is_no_protocol_is_an_error_and_ends_the_child():
    # asyncio's waits for ever, unless the child has ended by then.
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: None)
    with pytest.raises(AttributeError, match="connection_made"):
        await asyncio.wait_for(loop.subprocess_exec(lambda: None, *script("import time; time.sleep(100)")), 20)


@ffloop_only
async def test_the_end_is_noticed_while_a_grandchild_holds_the_pipes_open():
    # As in asyncio from 3.14 on; before, wait() waits for the pipes too.
    process = await asyncio.create_subprocess_shell("sleep 60 & echo $!", stdout=subprocess.PIPE)
    grandchild = int(await process.stdout.readline())
    try:
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        os.kill(grandchild, signal.SIGKILL)
    assert await process.stdout.read() == b""


async def test_a_wait_that_is_cancelled_leaves_the_child_running():
    process = await asyncio.create_subprocess_exec("sleep", "60")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.wait(), 0.05)
    assert process.returncode is None
    process.kill()
    assert await process.wait() == -signal.SIGKILL


async def test_a_cancelled_start_leaves_no_child_behind(no_leaks):
    task = asyncio.create_task(asyncio.create_subprocess_exec("sleep", "60", stdout=subprocess.PIPE))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


async def test_a_hundred_children_at_once_all_come_back(no_leaks):
    processes = await asyncio.gather(
        *(asyncio.create_subprocess_shell(f"exit {number}", stdout=subprocess.PIPE) for number in range(100))
    )
    assert await asyncio.gather(*(process.wait() for process in processes)) == list(range(100))
    for process in processes:
        assert await process.stdout.read() == b""


async def test_writing_to_a_child_that_has_gone_is_an_error_for_the_writer():
    process = await asyncio.create_subprocess_exec("true", stdin=subprocess.PIPE)
    await process.wait()

    async def write():
        for _ in range(100):
            process.stdin.write(b"x" * 65536)
            await process.stdin.drain()

    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        await write()


async def test_a_child_that_does_not_read_makes_the_writer_wait():
    process = await asyncio.create_subprocess_exec("sleep", "60", stdin=subprocess.PIPE)
    process.stdin.write(b"x" * 4_000_000)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.stdin.drain(), 0.05)
    process.kill()
    await process.wait()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        await process.stdin.drain()


# stdlib asyncio's standard input is a socket before 3.12, and /dev/stdin cannot be opened on one.
@pytest.mark.asyncio(loop_factories=["asyncio", "ffloop"] if sys.version_info >= (3, 12) else ["ffloop"])
async def test_stdio_are_pipes_which_can_be_opened_by_name():
    code, out, err = await run("sh", "-c", "cat /dev/stdin > /dev/stdout; test -p /dev/stdin && test -p /dev/stdout")
    assert (code, out, err) == (0, b"", b"")
    assert await run("cat", "/dev/stdin", input=b"by name") == (0, b"by name", b"")


async def test_every_option_of_popen_works(tmp_path):
    text = "import os; print(os.getcwd(), os.environ['NAME'], os.umask(0), os.getpgid(0) == os.getpid())"
    code, out, err = await run(*script(text), cwd=tmp_path, env={"NAME": "value"}, umask=0o27, process_group=0)
    assert (code, out.decode().split()) == (0, [str(tmp_path), "value", str(0o27), "True"]), err
    code, out, err = await run(*script("import os; print(os.getsid(0) == os.getpid())"), start_new_session=True)
    assert (code, out) == (0, b"True\n"), err


async def test_preexec_fn_runs_in_the_child():
    code, out, err = await run("sh", "-c", "ulimit -c", preexec_fn=_no_core_files)
    assert (code, out) == (0, b"0\n"), err


def _no_core_files():
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_a_child_can_run_as_somebody_else():
    code, out, err = await run("sh", "-c", "id -u; id -g; id -G", user=65534, group=65533, extra_groups=[65532])
    assert (code, out.split()) == (0, [b"65534", b"65533", b"65533", b"65532"]), err


async def test_only_the_descriptors_that_were_passed_reach_the_child():
    passed, kept = os.pipe()
    os.set_inheritable(kept, True)
    try:
        text = (
            f"import os\nfor fd in {passed}, {kept}:\n try: os.fstat(fd); print(fd)\n except OSError: print('closed')"
        )
        code, out, err = await run(*script(text), pass_fds=[passed])
        assert (code, out.split()) == (0, [str(passed).encode(), b"closed"]), err
        code, out, err = await run(*script(text), close_fds=False)
        assert (code, out.split()) == (0, [b"closed", str(kept).encode()]), err
    finally:
        os.close(passed)
        os.close(kept)


async def test_files_and_descriptors_serve_as_stdio(tmp_path):
    (tmp_path / "in").write_bytes(b"from a file")
    with open(tmp_path / "in", "rb") as stdin, open(tmp_path / "out", "wb") as stdout:
        process = await asyncio.create_subprocess_exec("cat", stdin=stdin, stdout=stdout.fileno())
        assert (process.stdin, process.stdout) == (None, None)
        assert await process.wait() == 0
    assert (tmp_path / "out").read_bytes() == b"from a file"
    process = await asyncio.create_subprocess_exec("cat", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert await process.communicate() == (b"", None)


async def test_what_runs_at_fork_does_not_run_for_a_subprocess():
    # A child of its own: hooks cannot be taken back.
    text = """
import asyncio, os, sys, ffloop
os.register_at_fork(before=lambda: print("forked"))
async def main():
    process = await asyncio.create_subprocess_exec("true")
    await process.wait()
ffloop.run(main()) if sys.argv[1] == "ffloop" else asyncio.run(main())
"""
    name = "ffloop" if isinstance(asyncio.get_running_loop(), ffloop.Loop) else "asyncio"
    assert await run(*script(text), name) == (0, b"", b"")


async def test_sigchld_stays_the_programs():
    caught = []
    before = signal.signal(signal.SIGCHLD, lambda signum, frame: caught.append(signum))
    try:
        assert (await run("true"))[0] == 0
        assert signal.getsignal(signal.SIGCHLD) is not before
        await until(lambda: caught)
    finally:
        signal.signal(signal.SIGCHLD, before)


async def test_a_handler_for_sigchld_can_be_added():
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    loop.add_signal_handler(signal.SIGCHLD, told.set)
    try:
        assert (await run("true"))[0] == 0
        await asyncio.wait_for(told.wait(), 10)
    finally:
        loop.remove_signal_handler(signal.SIGCHLD)


# stdlib asyncio has a thread that reaps it before 3.12.
@needs_pidfd
@pytest.mark.asyncio(loop_factories=["asyncio", "ffloop"] if sys.version_info >= (3, 12) else ["ffloop"])
async def test_a_child_that_somebody_else_has_reaped_ends_with_255_and_a_warning(caplog):
    process = await asyncio.create_subprocess_exec("sh", "-c", "sleep 0.2; exit 3", stdout=subprocess.PIPE)
    # While the loop does not run: it must not be first.
    os.waitpid(process.pid, 0)
    with caplog.at_level(logging.WARNING, logger="asyncio"):
        assert await process.wait() == 255
    assert any("will report returncode 255" in record.getMessage() for record in caplog.records)
    await process.stdout.read()


async def test_a_child_that_was_asked_through_its_popen_object_keeps_its_status():
    process = await asyncio.create_subprocess_exec("sh", "-c", "exit 3", stdout=subprocess.PIPE)
    popen = process._transport.get_extra_info("subprocess")
    while popen.poll() is None:
        time.sleep(0.01)
    if isinstance(asyncio.get_running_loop(), ffloop.Loop):  # stdlib asyncio gives 255
        assert await process.wait() == 3
    else:
        await process.wait()
    await process.stdout.read()


@ffloop_only
@pytest.mark.parametrize("error", [AttributeError("no pidfd_open"), OSError(24, "Too many open files")])
async def test_without_a_pidfd_the_end_is_noticed_all_the_same(monkeypatch, error):
    def pidfd_open(pid):
        raise error

    monkeypatch.setattr(os, "pidfd_open", pidfd_open, raising=False)  # PyPy 3.11 has none
    assert await run("sh", "-c", "echo out; exit 5") == (5, b"out\n", b"")


# ffloop alone: it names its threads, and which way asyncio takes depends on its version.
@ffloop_only
async def test_the_status_that_a_thread_has_reaped_counts_more_than_what_popen_makes_up(monkeypatch):
    def pidfd_open(pid):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", pidfd_open, raising=False)
    process = await asyncio.create_subprocess_exec("sh", "-c", "read line; exit 3", stdin=subprocess.PIPE)
    (reaper,) = [thread for thread in threading.enumerate() if thread.name == f"waitpid-{process.pid}"]
    os.write(process._transport.get_pipe_transport(0).get_extra_info("pipe").fileno(), b"\n")
    reaper.join(20)  # the loop is not told before it runs again
    assert not reaper.is_alive()
    popen = process._transport.get_extra_info("subprocess")
    assert popen.poll() == 0, "Popen's word for a child that somebody else has reaped"
    assert await process.wait() == 3
    assert popen.returncode == 3


async def test_debug_mode_logs_the_start_and_the_end(caplog):
    asyncio.get_running_loop().set_debug(True)
    with caplog.at_level(logging.DEBUG, logger="asyncio"):
        process = await asyncio.create_subprocess_exec("true")
        await process.wait()
    text = caplog.text
    assert f"process 'true' created: pid {process.pid}" in text
    assert "exited with return code 0" in text


def test_loops_in_several_threads_have_children_of_their_own(loop):
    factory = type(loop) if isinstance(loop, ffloop.Loop) else asyncio.SelectorEventLoop
    if sys.version_info < (3, 12) and factory is asyncio.SelectorEventLoop:
        pytest.skip("before 3.12 stdlib asyncio's threads that wait for children outlive the loops that they tell")
    codes = []

    async def main(number):
        process = await asyncio.create_subprocess_shell(f"exit {number}")
        codes.append((number, await process.wait()))

    def work(number):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main(number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(codes) == [(number, number) for number in range(5)]


# The next ones are about loops that end, which stdlib asyncio does with noise of its own.


@needs_pidfd
def test_a_child_outlives_its_loop(tmp_path):
    loop = ffloop.new_event_loop()
    mark = tmp_path / "mark"
    before = len(os.listdir("/proc/self/fd"))

    async def main():
        loop = asyncio.get_running_loop()
        transport, _ = await loop.subprocess_exec(
            asyncio.SubprocessProtocol,
            "sh",
            "-c",
            f"sleep 0.3; echo done > {mark}",
            stdin=None,
            stdout=None,
            stderr=None,
        )
        return transport

    transport = loop.run_until_complete(main())
    loop.close()
    assert len(os.listdir("/proc/self/fd")) < before, "the pidfd is closed with the loop"
    os.waitpid(transport.get_pid(), 0)
    assert mark.read_text() == "done\n"
    transport.close()


@needs_pidfd
def test_a_forgotten_child_is_killed_with_a_warning():
    loop = ffloop.new_event_loop()

    async def main():
        transport, _ = await asyncio.get_running_loop().subprocess_exec(asyncio.SubprocessProtocol, "sleep", "60")
        return transport

    transport = loop.run_until_complete(main())
    popen = transport.get_extra_info("subprocess")
    loop.close()
    with pytest.warns(ResourceWarning, match=r"unclosed transport <SubprocessTransport pid=\d+ running"):
        del transport
        collect()
    assert popen.wait(10) == -signal.SIGKILL

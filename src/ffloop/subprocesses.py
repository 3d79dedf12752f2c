"""Subprocesses: `subprocess.Popen` starts them, a pidfd tells when they have ended.

Popen knows every option and starts a child with vfork; SIGCHLD stays the program's. What lives here is one child and
its pipes' protocols; the transports of the pipes are those of pipes.py.
"""

import asyncio
import os
import signal
import subprocess
import threading
import warnings
from asyncio.log import logger
from collections.abc import Callable
from typing import Any

from .pipes import Pipes

UNKNOWN = 255
"""The exit status of a child that somebody else has reaped, as in asyncio."""


class _PipeProtocol(asyncio.Protocol):
    """Tells the subprocess's transport what happens to one of the child's pipes."""

    def __init__(self, process: "SubprocessTransport", fd: int) -> None:
        self._process: SubprocessTransport | None = process
        self._fd = fd
        self.pipe: Any = None
        self.disconnected = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.pipe = transport

    def data_received(self, data: bytes) -> None:
        if self._process is not None:
            self._process._pipe_data_received(self._fd, data)

    def pause_writing(self) -> None:
        if self._process is not None:
            self._process._protocol.pause_writing()

    def resume_writing(self) -> None:
        # The child's last pipe can be lost, and its protocol let go, before this one's buffer is empty.
        if self._process is not None and self._process._protocol is not None:
            self._process._protocol.resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.disconnected = True
        process, self._process = self._process, None
        if process is not None:
            process._pipe_connection_lost(self._fd, exc)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} fd={self._fd} pipe={self.pipe!r}>"


class SubprocessTransport(asyncio.SubprocessTransport):
    """A child. Follows https://docs.python.org/3/library/asyncio-protocol.html#subprocess-transports."""

    _closed = True  # until there is something to close

    def __init__(
        self,
        loop: "Subprocesses",
        protocol: Any,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        waiter: asyncio.Future[None],
        extra: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Start the child; `waiter` is done once its pipes are connected. Raises what `subprocess.Popen` raises."""
        super().__init__(extra)
        self._loop = loop
        self._protocol = protocol
        self._returncode: int | None = None
        self._exit_waiters: list[asyncio.Future[int]] = []
        self._waiting: list[tuple[Any, ...]] | None = []  # what the protocol is to be told after connection_made()
        self._pipes: dict[int, _PipeProtocol] = {}
        self._finished = False
        self._proc: subprocess.Popen[bytes] | None = subprocess.Popen(
            args, shell=shell, stdin=stdin, stdout=stdout, stderr=stderr, bufsize=bufsize, **kwargs
        )
        self._closed = False
        self._pid = self._proc.pid
        self._extra["subprocess"] = self._proc  # type: ignore[attr-defined]
        if loop.get_debug():
            logger.debug("process %r created: pid %s", args if isinstance(args, str | bytes) else args[0], self._pid)
        try:
            self._connect_pipes(self._proc)
        except BaseException:
            self.close()
            raise
        finally:
            loop._watch_child(self._pid, self._process_exited)
        loop.call_soon(self._begin, waiter)

    def _connect_pipes(self, proc: "subprocess.Popen[bytes]") -> None:
        if proc.stdin is not None:
            protocol = self._pipes[0] = _PipeProtocol(self, 0)
            protocol.pipe = self._loop._make_write_pipe_transport(proc.stdin, protocol)
        for fd, pipe in (1, proc.stdout), (2, proc.stderr):
            if pipe is not None:
                protocol = self._pipes[fd] = _PipeProtocol(self, fd)
                protocol.pipe = self._loop._make_read_pipe_transport(pipe, protocol)

    def _begin(self, waiter: asyncio.Future[None]) -> None:
        """Tell the protocol of the child, then what has happened to it already. The pipes are connected by now."""
        told, self._waiting = self._waiting, None
        try:
            self._loop.call_soon(self._protocol.connection_made, self)
        except Exception as exc:  # what the factory has returned is no protocol
            if not waiter.done():
                waiter.set_exception(exc)
            return
        for callback, *args in told or ():
            self._loop.call_soon(callback, *args)
        if not waiter.done():
            waiter.set_result(None)

    def _tell(self, callback: Callable[..., object], *args: Any) -> None:
        if self._waiting is not None:
            self._waiting.append((callback, *args))
        else:
            self._loop.call_soon(callback, *args)

    # The child

    def get_pid(self) -> int:
        """Return the child's number."""
        return self._pid

    def get_returncode(self) -> int | None:
        """Return the exit status, negative for the signal that has ended the child; None while it runs."""
        return self._returncode

    def send_signal(self, signal: int) -> None:
        """Send `signal`, unless the child has ended. Raises `ProcessLookupError` after `connection_lost`."""
        if self._proc is None:
            raise ProcessLookupError
        if self._returncode is None and self._proc.returncode is None:
            # Nobody has reaped it, so the number is still its own. Not Popen.send_signal(): that would reap it.
            try:
                os.kill(self._pid, signal)
            except ProcessLookupError:
                pass

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _process_exited(self, status: int | None) -> None:
        """Take note of the child's exit status, as `os.waitpid` gives it; None when somebody else has reaped it."""
        proc = self._proc
        if proc is None or self._returncode is not None:
            return
        if status is not None:
            # Whoever asked the Popen object meanwhile was told 0: it found no child any more.
            returncode = os.waitstatus_to_exitcode(status)
        elif proc.returncode is not None:
            returncode = proc.returncode  # somebody has asked the Popen object, which has reaped the child
        else:
            logger.warning(
                "child process pid %d was reaped by somebody else: will report returncode %d", self._pid, UNKNOWN
            )
            returncode = UNKNOWN
        self._returncode = proc.returncode = returncode
        if self._loop.get_debug():
            logger.info("%r exited with return code %r", self, returncode)
        try:
            self._tell(self._protocol.process_exited)
            self._try_finish()  # first, as in asyncio: without pipes nothing is left when who waits is woken
        finally:
            self._wake_waiters()

    async def _wait(self) -> int:
        """Return the exit status once the child has ended; pipes that its own children hold open do not count."""
        if self._returncode is not None:
            return self._returncode
        waiter: asyncio.Future[int] = self._loop.create_future()
        self._exit_waiters.append(waiter)
        return await waiter

    def _wake_waiters(self) -> None:
        waiters, self._exit_waiters = self._exit_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(self._returncode)  # type: ignore[arg-type]

    # Its pipes

    def get_pipe_transport(self, fd: int) -> Any:
        """Return the transport of the child's descriptor 0, 1 or 2; None when it is no pipe."""
        protocol = self._pipes.get(fd)
        return protocol.pipe if protocol is not None else None

    def _pipe_data_received(self, fd: int, data: bytes) -> None:
        self._tell(self._protocol.pipe_data_received, fd, data)

    def _pipe_connection_lost(self, fd: int, exc: BaseException | None) -> None:
        self._tell(self._protocol.pipe_connection_lost, fd, exc)
        self._try_finish()

    def _try_finish(self) -> None:
        if self._returncode is None or self._finished:
            return
        if all(protocol.disconnected for protocol in self._pipes.values()):
            self._finished = True
            self._tell(self._call_connection_lost, None)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        try:
            self._protocol.connection_lost(exc)
        finally:
            self._proc = None
            self._protocol = None

    # The transport

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Tell `protocol` of the child from now on."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol in use."""
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def is_closing(self) -> bool:
        """Return whether `close()` was called."""
        return self._closed

    def close(self) -> None:
        """Close the pipes, and kill the child if it still runs."""
        if self._closed:
            return
        self._closed = True
        if not self._loop.is_closed():
            for protocol in self._pipes.values():
                if protocol.pipe is not None:
                    protocol.pipe.close()
        if self._proc is not None and self._returncode is None and self._proc.poll() is None:
            if self._loop.get_debug():
                logger.warning("Close running child process: kill %r", self)
            try:
                self._proc.kill()
            except (ProcessLookupError, PermissionError):
                pass  # it has ended meanwhile, or runs as another user

    def __repr__(self) -> str:
        facts = [type(self).__name__]
        if self._closed:
            facts.append("closed")
        facts.append(f"pid={self._pid}")
        facts.append("running" if self._returncode is None else f"returncode={self._returncode}")
        for name, fd in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
            if fd in self._pipes:
                facts.append(f"{name}={self._pipes[fd].pipe}")
        return f"<{' '.join(facts)}>"

    def __del__(self) -> None:
        if not self._closed:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()


class Subprocesses(Pipes):
    """The part of the loop that starts children and learns of their end."""

    _pidfds: frozenset[int] = frozenset()
    """What tells of the ends of children."""

    async def _make_subprocess_transport(
        self,
        protocol: asyncio.BaseProtocol,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        extra: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> SubprocessTransport:
        waiter = self.create_future()
        transport = SubprocessTransport(
            self, protocol, args, shell, stdin, stdout, stderr, bufsize, waiter, extra, **kwargs
        )
        try:
            await waiter
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            transport.close()
            await transport._wait()
            raise
        return transport

    def _watch_child(self, pid: int, callback: Callable[[int | None], object]) -> None:
        """Call `callback` with the status of the child `pid` when it has ended; None if somebody else has reaped it."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            # Reaped already: the program ignores SIGCHLD.
            self.call_soon(callback, None)
        except (AttributeError, OSError):
            # The system has no pidfds, or none left: the child must not go unnoticed for that.
            waiting = threading.Thread(
                target=_wait_in_thread, args=(self, pid, callback), name=f"waitpid-{pid}", daemon=True
            )
            waiting.start()
        else:
            self._pidfds |= {pidfd}
            self._add_reader(pidfd, self._child_ended, pidfd, pid, callback)

    def _child_ended(self, pidfd: int, pid: int, callback: Callable[[int | None], object]) -> None:
        self._remove_reader(pidfd)
        self._pidfds -= {pidfd}
        os.close(pidfd)
        callback(_reap(pid, os.WNOHANG))

    def close(self) -> None:
        """Close the loop and every descriptor that it owns. Raises `RuntimeError` while it runs."""
        super().close()
        pidfds, self._pidfds = self._pidfds, frozenset()
        for pidfd in pidfds:
            os.close(pidfd)


def _reap(pid: int, options: int) -> int | None:
    try:
        return os.waitpid(pid, options)[1]
    except ChildProcessError:
        return None


def _wait_in_thread(loop: Subprocesses, pid: int, callback: Callable[[int | None], object]) -> None:
    status = _reap(pid, 0)
    try:
        loop.call_soon_threadsafe(callback, status)
    except RuntimeError:
        logger.warning("Loop %r that handles pid %r is closed", loop, pid)

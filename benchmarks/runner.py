"""Runs rows: the loops' processes, the rounds, the order. What the figures mean is in `results`."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .loops import LoopKind, environment
from .results import RowResult, Samples
from .row import Inside, Row, Served
from .tools import START_LIMIT, Failed, Tools, holding, read_line, run_load, serving, stop

ROOT = Path(__file__).resolve().parent.parent
MIB = 1024 * 1024
MEMORY_ROUNDS = 3


@dataclass(frozen=True)
class Plan:
    """How often and how long each loop is measured, and after how many rounds in new processes.

    Two processes of one loop differ by a tenth where much memory is moved, by where their buffers happen to lie, and
    no number of rounds in one process shows that.
    """

    rounds: int
    seconds: float
    rounds_of_a_process: int = 3

    def parts(self) -> list[range]:
        """Return the numbers of the rounds, in one part for each set of processes."""
        numbers, size = range(self.rounds), self.rounds_of_a_process
        return [numbers[first : first + size] for first in numbers[::size]]


class Worker:
    """A loop in a process of its own, at work on one row."""

    def __init__(self, kind: LoopKind, row: Row, tools: Tools, address: str = ""):
        command = [sys.executable, "-m", "benchmarks.worker", kind.name, row.name, *([address] if address else [])]
        self.errors = tools.folder / f"{kind.name}.stderr"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**environment(kind), "TMPDIR": str(tools.folder)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self.address = ""

    def explain(self, error: Failed) -> str:
        """Return what went wrong, with the last that the process said."""
        said = self.errors.read_text(errors="replace").strip().splitlines()
        return f"{error} ({said[-1]})" if said else str(error)

    def wait_until_ready(self) -> None:
        word, _, rest = read_line(self.process, START_LIMIT).partition(" ")
        if word != "ready":
            raise Failed(rest)
        self.address = rest

    def measure(self, seconds: float) -> tuple[float, float]:
        """Let it measure itself: operations a second, by the clock and by processor time."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{seconds}\n".encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed("it ended too early") from None
        rate, cpu = read_line(self.process, seconds + START_LIMIT).split()
        return float(rate), float(cpu)

    def processor_time(self) -> float:
        """Return the seconds of processor time that all its threads have used."""
        used = 0.0
        for task in Path(f"/proc/{self.process.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # a thread that has just ended
                used += int(task.read_text().split()[0]) / 1e9
        return used

    def memory(self) -> int:
        """Return its resident memory, in bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()

    def stop(self) -> None:
        stop(self.process)


def reply_size(address: str, request: bytes) -> int:
    """Return the size of the whole reply to an HTTP request."""
    with socket.create_connection(("127.0.0.1", int(address.partition(":")[2])), timeout=START_LIMIT) as sock:
        sock.sendall(request)
        received = b""
        while True:
            piece = sock.recv(65536)
            if not piece:
                raise Failed("the server closed the connection")
            received += piece
            head, empty, body = received.partition(b"\r\n\r\n")
            if not empty:
                continue
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if len(lengths) != 1:
                raise Failed("a reply without a length")
            if len(body) == int(lengths[0].split(b":")[1]):
                return len(received)


def load_command(row: Served, address: str, tools: Tools, seconds: float, reply: int, connections: int) -> list[str]:
    return [
        str(tools.load),
        row.mode,
        address,
        str(connections),
        str(seconds),
        tools.write("request", row.request),
        str(reply),
        *([tools.write("preface", row.preface)] if row.preface else []),
    ]


def drive(worker: Worker, command: list[str], seconds: float) -> tuple[float, float]:
    """Let load.c drive a serving worker: operations a second, by the clock and by the worker's processor time."""
    before = worker.processor_time()
    rate, total = run_load(command, seconds)
    return rate, total / max(1e-9, worker.processor_time() - before)


Measure = Callable[[float], tuple[float, float]]


def start(row: Row, worker: Worker, tools: Tools) -> Measure:
    """Wait for a worker; return what measures it."""
    worker.wait_until_ready()
    if not isinstance(row, Served):
        return worker.measure
    reply = reply_size(worker.address, row.request) if row.reply is None else row.reply

    def measure(seconds: float) -> tuple[float, float]:
        return drive(worker, load_command(row, worker.address, tools, seconds, reply, row.connections), seconds)

    return measure


def measure_rates(row: Row, kinds: list[LoopKind], tools: Tools, plan: Plan, result: RowResult) -> None:
    """All loops of a row run at once, each in its process, and are measured in turn, in an order that rotates."""
    for rounds in plan.parts():
        able = [kind for kind in kinds if kind.name not in result.failed]
        if able:
            measure_part(row, able, tools, plan, rounds, result)
    for name in result.failed:
        result.samples.pop(name, None)


def measure_part(row: Row, kinds: list[LoopKind], tools: Tools, plan: Plan, rounds: range, result: RowResult) -> None:
    """Measure some of a row's rounds, with processes of their own."""
    with contextlib.ExitStack() as stack:
        address = ""
        if isinstance(row, Inside) and row.server:
            address = stack.enter_context(serving(tools, row.server))
        workers = {}
        for kind in kinds:
            workers[kind.name] = Worker(kind, row, tools, address)
            stack.callback(workers[kind.name].stop)
        measures: dict[str, Measure] = {}

        def attempt(name: str, work: Callable[[], None]) -> None:
            """Do something with one loop. A failure ends the row for it, and for no other."""
            try:
                work()
            except Failed as error:
                result.failed[name] = workers[name].explain(error)
                measures.pop(name, None)
                workers[name].stop()

        def prepare(name: str) -> None:
            measures[name] = start(row, workers[name], tools)
            measures[name](plan.seconds)  # the warm-up

        def measure(name: str) -> None:
            rate, cpu = measures[name](plan.seconds)
            samples = result.samples.setdefault(name, Samples())
            samples.rate.append(rate)
            samples.cpu.append(cpu)

        for name in workers:
            attempt(name, functools.partial(prepare, name))
        names = list(workers)
        for number in rounds:
            shift = number % len(names)
            for name in names[shift:] + names[:shift]:
                if name in measures:
                    attempt(name, functools.partial(measure, name))


def measure_memory(row: Served, kinds: list[LoopKind], tools: Tools, plan: Plan, result: RowResult) -> None:
    """Each loop in turn holds the connections, in a fresh process each time."""
    connections = min(row.connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200)
    for _ in range(min(plan.rounds, MEMORY_ROUNDS)):
        for kind in kinds:
            if kind.name in result.failed:
                continue
            worker = Worker(kind, row, tools)
            try:
                worker.wait_until_ready()
                assert row.reply is not None
                # What is loaded on first use is not the connections'.
                with holding(load_command(row, worker.address, tools, 0, row.reply, 10)):
                    before = worker.memory()
                with holding(load_command(row, worker.address, tools, 0, row.reply, connections)):
                    used = worker.memory() - before
                result.samples.setdefault(kind.name, Samples()).rate.append(connections / max(1, used) * MIB)
            except Failed as error:
                result.failed[kind.name] = worker.explain(error)
            finally:
                worker.stop()
    for name in result.failed:
        result.samples.pop(name, None)


def measure_row(row: Row, kinds: list[LoopKind], tools: Tools, plan: Plan) -> RowResult:
    """Measure one row on all loops; what a loop cannot do is noted, and stops nothing."""
    result = RowResult(row.group, row.what, row.unit, row.quick)
    if isinstance(row, Served) and row.mode == "hold":
        measure_memory(row, kinds, tools, plan, result)
    else:
        measure_rates(row, kinds, tools, plan, result)
    return result


def raise_descriptor_limit() -> None:
    """As many descriptors as the system lets us have: connections are counted in thousands."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def processors() -> int:
    return os.cpu_count() or 1

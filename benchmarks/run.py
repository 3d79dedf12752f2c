"""Measure event loops side by side, as ratios.

    python benchmarks/run.py [--quick] [--rows PATTERN ...] [--loops NAME ...] [--json FILE]

All loops of a row run at once, each in a process of its own, and are driven in turn, a fraction of a second
each, in an order that rotates: what disturbs the machine disturbs all of them alike. The figure is the median
over the rounds of the ratio to the baseline in the same round; above 1 is faster (for memory: smaller).
"""

import argparse
import contextlib
import fnmatch
import importlib.util
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
BASELINE = "uvloop"
LIMIT = 60  # seconds that anything may take to answer

# Rows that a worker measures by itself.
INSIDE = ["call_soon", "call_soon_chain", "sleep0", "timers", "getaddrinfo", "spawn", "child_pipe"]

# Rows of a server with clients: the request's size, the reply's, and the number of connections.
SERVED = {
    f"{kind}_{size}k_c{connections}": (size * 1024, size * 1024, connections)
    for kind in ("proto", "buffered", "streams")
    for size in (1, 64)
    for connections in (1, 10, 100)
}
SERVED |= {
    f"{kind}_1k_c{connections}": (1024, 1024, connections)
    for kind in ("unix", "udp", "sock")
    for connections in (1, 10, 100)
}
SERVED |= {"churn_c10": (64, 64, 10), "sendfile_1m_c10": (64, 1024 * 1024, 10)}
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
IDLE = 10_000


def compile_load(folder):
    target = Path(folder) / "load"
    subprocess.run(["cc", "-O2", "-o", target, HERE / "load.c"], check=True, timeout=LIMIT)
    return target


class Worker:
    """A loop in a process of its own."""

    def __init__(self, loop, row):
        command = [sys.executable, HERE / "worker.py", loop, row]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.target = self.process.stdout.readline().strip()

    def measure(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def memory(self):
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    def cpu(self):
        """Return the seconds of processor time used so far."""
        return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[0]) / 1e9

    def stop(self):
        self.process.stdin.close()
        try:
            self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def run_load(load, target, connections, seconds, request, reply_size):
    with tempfile.NamedTemporaryFile() as file:
        file.write(request)
        file.flush()
        command = [load, target, str(connections), str(seconds), str(len(request)), str(reply_size), file.name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    if done.returncode != 0:
        raise RuntimeError(f"the client failed: {done.stderr.strip()}")
    return float(done.stdout)


def reply_size(target):
    import http.client
    import socket

    with socket.create_connection(("127.0.0.1", int(target.partition(":")[2])), timeout=LIMIT) as sock:
        sock.sendall(REQUEST)
        received = b""
        while b"\r\n\r\n" not in received or not received.endswith(b"Hello, world!"):
            piece = sock.recv(65536)
            if not piece:
                raise http.client.IncompleteRead(received)
            received += piece
    return len(received)


def measure_rates(row, loops, load, rounds, seconds):
    with contextlib.ExitStack() as stack:
        workers = {}
        for loop in loops:
            workers[loop] = Worker(loop, row)
            stack.callback(workers[loop].stop)
        if row in INSIDE:
            measures = {loop: worker.measure for loop, worker in workers.items()}
        else:
            if row.startswith("uvicorn"):
                request, connections = REQUEST, 50
                replies = {loop: reply_size(worker.target) for loop, worker in workers.items()}
            else:
                size, reply, connections = SERVED[row]
                request = b"x" * size
                replies = dict.fromkeys(loops, reply)
            measures = {
                loop: lambda worker=worker, loop=loop: run_load(
                    load, worker.target, connections, seconds, request, replies[loop]
                )
                for loop, worker in workers.items()
            }
        for measure in measures.values():
            measure()  # warm up
        rates = {loop: [] for loop in loops}
        for number in range(rounds):
            shift = number % len(loops)
            for loop in loops[shift:] + loops[:shift]:
                rates[loop].append(measures[loop]())
        return rates


def measure_memory(row, loops, load):
    used = {}
    for loop in loops:
        worker = Worker(loop, row)
        try:
            run_load(load, worker.target, 10, 0.1, b"x" * 64, 64)  # what is loaded on first use is not the connections'
            before = worker.memory()
            command = [load, worker.target, str(IDLE), "0", "64", "64"]
            client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            try:
                if client.stdout.readline() != "ready\n":
                    raise RuntimeError("the client failed")
                used[loop] = [IDLE / max(1, worker.memory() - before)]
            finally:
                client.stdin.close()
                client.wait(LIMIT)
        finally:
            worker.stop()
    return used


def summarize(rates, baseline):
    """Return for each loop the median rate, and the median and spread of its ratio to the baseline."""
    summary = {}
    for loop, values in rates.items():
        ratios = [value / base for value, base in zip(values, rates[baseline], strict=True)]
        summary[loop] = {
            "median": statistics.median(values),
            "ratio": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
        }
    return summary


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--rows", nargs="*", default=["*"], help="patterns of rows")
    parser.add_argument("--loops", nargs="*", default=["asyncio", "uvloop", "ffloop"])
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    rounds = arguments.rounds or (5 if arguments.quick else 11)
    seconds = 0.3 if arguments.quick else 0.5

    loops = [loop for loop in arguments.loops if importlib.util.find_spec(loop)]
    for loop in set(arguments.loops) - set(loops):
        print(f"{loop} is not installed: left out")
    baseline = BASELINE if BASELINE in loops else loops[0]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = IDLE + 1000 if hard == resource.RLIM_INFINITY else min(hard, IDLE + 1000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

    rows = [*INSIDE, *SERVED, "uvicorn_plaintext", "memory_proto", "memory_streams"]
    rows = [row for row in rows if any(fnmatch.fnmatch(row, pattern) for pattern in arguments.rows)]
    print(
        f"{platform.python_implementation()} {platform.python_version()}, ratios to {baseline}: median (lowest-highest)"
    )
    print(f"{'row':20}" + "".join(f"{loop:>24}" for loop in loops))
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        load = compile_load(folder)
        for row in rows:
            if row.startswith("memory"):
                rates = measure_memory(row.replace("memory_", ""), loops, load)
            else:
                rates = measure_rates(row, loops, load, rounds, seconds)
            results[row] = summarize(rates, baseline)
            cells = (
                f"{cell['ratio']:.2f} ({cell['lowest']:.2f}-{cell['highest']:.2f})" for cell in results[row].values()
            )
            print(f"{row:20}" + "".join(f"{cell:>24}" for cell in cells), flush=True)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"python": sys.version, "rows": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()

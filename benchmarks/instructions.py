"""Counts instructions with valgrind, for rows that do all their work alone. What disturbs a clock does not touch these.

A row is run twice in processes of its own, with few operations and with many: the difference is the operations'.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from .loops import LoopKind, environment
from .results import RowResult, Samples
from .row import Inside
from .runner import ROOT, processors
from .tools import Failed, Tools

LIMIT = 300.0  # seconds; valgrind takes fifty times as long
FEW, MANY = 1000, 6000
UNIT = "operations per million instructions"


def available() -> bool:
    return shutil.which("valgrind") is not None


def count(kind: LoopKind, row: Inside, operations: int, tools: Tools) -> int:
    """Return how many instructions a process needs for so many operations, start and all."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, "-m"]
    command += ["benchmarks.worker", kind.name, row.name, "--count", str(operations)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**environment(kind), "TMPDIR": str(tools.folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=LIMIT,
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or found is None:
        raise Failed((done.stdout or done.stderr).strip().splitlines()[-1])
    return int(found[1])


def count_row(row: Inside, kinds: list[LoopKind], tools: Tools) -> RowResult:
    """Count one row on all loops, on all processors: they do not disturb one another."""
    result = RowResult(row.group, row.what, UNIT, row.quick)

    def one(kind: LoopKind) -> None:
        try:
            used = count(kind, row, MANY, tools) - count(kind, row, FEW, tools)
            result.samples[kind.name] = Samples([(MANY - FEW) / used * 1e6])
        except (Failed, subprocess.TimeoutExpired) as error:
            result.failed[kind.name] = str(error)

    with ThreadPoolExecutor(processors()) as pool:
        list(pool.map(one, kinds))
    return result

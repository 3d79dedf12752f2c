"""Counts instructions with valgrind, for rows that do all their work alone. What disturbs a clock does not touch these.

A row runs in a process of its own, first to warm up, uncounted, and then for the count.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .loops import LoopKind, environment
from .results import RowResult, Samples
from .row import Inside
from .runner import ROOT, processors
from .tools import HERE, Failed

LIMIT = 300.0  # seconds; valgrind takes fifty times as long
COUNTED = 5000  # operations
UNIT = "operations/Minstr"


def compile_switch(folder: Path) -> Path | None:
    """Build what switches the count on and off; None without valgrind."""
    library = folder / "callgrind.so"
    command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(HERE / "callgrind.c")]
    if shutil.which("valgrind") is None or subprocess.run(command, timeout=LIMIT).returncode != 0:
        return None
    return library


def count(kind: LoopKind, row: Inside, library: Path) -> int:
    """Return how many instructions the operations needed."""
    command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--callgrind-out-file=/dev/null"]
    command += [sys.executable, "-m", "benchmarks.worker", kind.name, row.name, "--count", str(library)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(kind),
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


def count_row(row: Inside, kinds: list[LoopKind], library: Path) -> RowResult:
    """Count one row on all loops, on all processors: they do not disturb one another."""
    result = RowResult(row.group, row.what, UNIT, row.quick)

    def one(kind: LoopKind) -> None:
        try:
            result.samples[kind.name] = Samples([COUNTED / count(kind, row, library) * 1e6])
        except (Failed, subprocess.TimeoutExpired) as error:
            result.failed[kind.name] = str(error)

    with ThreadPoolExecutor(processors()) as pool:
        list(pool.map(one, kinds))
    return result

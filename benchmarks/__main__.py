"""The command: python -m benchmarks --help."""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from . import chart, instructions, report, rows
from .loops import BASELINE, LOOPS, LoopKind
from .results import Key, Results, RowResult
from .row import ROWS, Inside, Row
from .runner import Plan, measure_row, raise_descriptor_limit
from .tools import compile_tools

assert rows  # it is imported for the list
OUTPUT = Path(__file__).resolve().parent / "results" / "latest"
PLAN, QUICK_PLAN = Plan(9, 0.3), Plan(3, 0.15)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Event loops side by side: docs/performance.md")
    parser.add_argument("--quick", action="store_true", help="the main rows, in fewer and shorter rounds")
    parser.add_argument("--full", action="store_true", help="every size with every number of connections")
    parser.add_argument("--instructions", action="store_true", help="count instructions with valgrind")
    parser.add_argument("--rows", nargs="+", metavar="PATTERN", help="rows by name, such as 'proto_*'")
    parser.add_argument("--loops", nargs="+", metavar="NAME", choices=LOOPS, help=f"of {', '.join(LOOPS)}")
    parser.add_argument("--rounds", type=int, help="how often each loop is measured")
    parser.add_argument("--seconds", type=float, help="for how long each time")
    parser.add_argument("--by", choices=("clock", "processor"), default="clock", help="what time the ratios are of")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where .json, .md and .svg go (%(default)s)")
    parser.add_argument("--report", type=Path, metavar="JSON", help="measure nothing: report these figures")
    parser.add_argument("--list", action="store_true", help="name the rows and the loops")
    return parser.parse_args()


def choose_rows(arguments: argparse.Namespace) -> list[Row]:
    chosen = list(ROWS.values())
    if arguments.instructions:
        chosen = [row for row in chosen if isinstance(row, Inside) and row.counted]
    if arguments.rows:
        return [
            row
            for row in chosen
            if row.name in arguments.rows
            or ((row.default or arguments.full) and any(fnmatch.fnmatch(row.name, each) for each in arguments.rows))
        ]
    if arguments.quick:
        return [row for row in chosen if row.quick]
    return [row for row in chosen if row.default or arguments.full]


def choose_loops(arguments: argparse.Namespace) -> list[LoopKind]:
    chosen = []
    for name in arguments.loops or LOOPS:
        reason = LOOPS[name].why_not()
        if reason:
            print(f"without {name}: {reason}")
        else:
            chosen.append(LOOPS[name])
    return chosen


def about(arguments: argparse.Namespace, plan: Plan) -> dict[str, str]:
    return {
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} processors",
        "date": datetime.date.today().isoformat(),
        "measured": "instructions"
        if arguments.instructions
        else f"{plan.rounds} rounds of {plan.seconds} s, in {len(plan.parts())} processes each",
    }


def print_list() -> None:
    for row in ROWS.values():
        sets = "quick" if row.quick else "" if row.default else "full"
        print(f"{row.name:24}{row.group:21}{sets:7}{row.what}")
    for kind in LOOPS.values():
        print(f"{kind.name:24}{kind.why_not() or kind.version()}")


def write(results: Results, output: Path, key: Key) -> None:
    results.save(Path(f"{output}.json"))
    Path(f"{output}.md").write_text(report.markdown(results, key))
    Path(f"{output}.svg").write_text(chart.draw(results, key))
    print(f"written: {output}.json, .md, .svg")


def measure(
    arguments: argparse.Namespace, chosen: list[Row], kinds: list[LoopKind], plan: Plan, folder: Path
) -> Iterator[tuple[str, RowResult]]:
    """Measure, or count, row after row."""
    if not arguments.instructions:
        tools = compile_tools(folder)
        for row in chosen:
            yield row.name, measure_row(row, kinds, tools, plan)
        return
    library = instructions.compile_switch(folder)
    if library is None:
        sys.exit("--instructions needs valgrind and its headers")
    for row in chosen:
        assert isinstance(row, Inside)
        yield row.name, instructions.count_row(row, kinds, library)


def main() -> int:
    arguments = parse()
    key: Key = "cpu" if arguments.by == "processor" else "rate"
    if arguments.list:
        print_list()
        return 0
    if arguments.report:
        write(Results.load(arguments.report), arguments.output, key)
        return 0
    chosen, kinds = choose_rows(arguments), choose_loops(arguments)
    if not chosen or not kinds:
        print("no such row, or no such loop: see --list", file=sys.stderr)
        return 1
    usual = QUICK_PLAN if arguments.quick else PLAN
    plan = Plan(arguments.rounds or usual.rounds, arguments.seconds or usual.seconds)
    # Whoever stops us stops the loops' processes too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    raise_descriptor_limit()
    names = [kind.name for kind in kinds]
    results = Results(
        about(arguments, plan),
        {kind.name: kind.version() for kind in kinds},
        BASELINE if BASELINE in names else names[0],
        [kind.name for kind in kinds if kind.ours],
    )
    print(report.line(report.header(results)))
    with tempfile.TemporaryDirectory(prefix="ffloop-bench-") as folder:
        for name, result in measure(arguments, chosen, kinds, plan, Path(folder)):
            results.rows[name] = result
            print(report.line(report.cells(results, name, key)), flush=True)
    print(report.text_means(results, key))
    print("\n".join(report.failures(results)))
    write(results, arguments.output, key)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The benchmarks work: a row of each theme, what a loop cannot do, table and chart. Nothing here looks at a speed."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest
from benchmarks import chart, report, rows
from benchmarks.results import Results, RowResult, Samples
from benchmarks.row import ROWS
from benchmarks.rows import tcp

ROOT = Path(__file__).resolve().parent.parent
NEEDS_C = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("cc") is None,
    reason="the benchmarks' C programs use epoll, and are compiled when they are needed",
)
PYPY = sys.implementation.name == "pypy"
SMOKE = {
    "scheduling": "call_soon",
    "TCP": "streams_1k_c10",
    "TCP, new connections": "churn",
    "TCP, one way": "bulk_send",
    "memory": "idle_rss",
    "TLS": "tls_1k_c10",
    "pipes": "fifo_1k",
    "datagrams": "udp_1k_c10",
    "clients": "client_proto_c50",
    "applications": "uvicorn_h11",
    "applications, with a preface": "websockets_echo",
    "processes": "subprocess_true",
}
# A loop without Unix sockets, whose process dies over UDP.
BROKEN = """
import asyncio, os

class Loop(asyncio.SelectorEventLoop):
    async def create_unix_server(self, *args, **kwargs):
        raise NotImplementedError("no Unix sockets")

    async def create_datagram_endpoint(self, *args, **kwargs):
        os._exit(3)

new_event_loop = Loop
"""


def limit_descriptors():
    """A thousand idle connections will do."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (1200, 1200))


def command(output, *arguments):
    tiny = ["--rounds", "2", "--seconds", "0.02", "--output", str(output)]
    return [sys.executable, "-m", "benchmarks", *tiny, *arguments]


def bench(folder, *arguments, **environment):
    """Run the benchmarks with tiny times, and return what they wrote and said."""
    done = subprocess.run(
        command(folder / "figures", *arguments),
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder), **environment},
        preexec_fn=limit_descriptors,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    return Results.load(folder / "figures.json"), done.stdout


def left_behind(folder):
    """Processes that have the folder for their temporary files."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder) in process.environ().get("TMPDIR", ""):
                found.append(process)
        except psutil.Error:
            pass
    return found


def workers(folder):
    """Those of them that are loops at work."""
    found = []
    for process in left_behind(folder):
        try:
            if "benchmarks.worker" in process.cmdline():
                found.append(process)
        except psutil.Error:
            pass
    return found


@pytest.fixture
def tmp_path():
    """A folder with a short name: that of a Unix socket in it has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="ff-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def smoke():
    with tempfile.TemporaryDirectory(prefix="ff-") as folder:
        yield bench(Path(folder), "--rows", *SMOKE.values(), "--loops", "asyncio", "ffloop")


@NEEDS_C
@pytest.mark.timeout(180)  # the first of them runs all
@pytest.mark.parametrize("theme", SMOKE)
def test_a_row_of_each_theme_has_a_figure_of_each_loop(smoke, theme):
    row = smoke[0].rows[SMOKE[theme]]
    if theme == "TLS" and any("built without OpenSSL" in reason for reason in row.failed.values()):
        pytest.skip("OpenSSL's headers are not installed")
    if theme == "TLS" and PYPY:
        pytest.skip("trustme is not tested on PyPy")
    assert row.failed == {}
    for loop in ("asyncio", "ffloop"):
        assert row.samples[loop].rate, loop
        assert all(rate > 0 for rate in row.samples[loop].rate), loop


@NEEDS_C
@pytest.mark.timeout(120)
def test_what_one_loop_cannot_do_is_noted_and_stops_nothing(tmp_path):
    (tmp_path / "rloop.py").write_text(BROKEN)
    names = ["call_soon", "unix_1k_c10", "udp_1k_c10", "proto_1k_c10"]
    results, said = bench(
        tmp_path, "--rows", *names, "--loops", "asyncio", "rloop", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT / 'src'}"
    )
    assert results.rows["unix_1k_c10"].failed == {"rloop": "NotImplementedError: no Unix sockets"}
    assert results.rows["udp_1k_c10"].failed == {"rloop": "it ended too early"}
    for name in names:
        assert results.rows[name].samples["asyncio"].rate
    assert results.rows["proto_1k_c10"].samples["rloop"].rate
    assert "unix_1k_c10, rloop: NotImplementedError: no Unix sockets" in said
    assert left_behind(tmp_path) == []


@NEEDS_C
@pytest.mark.timeout(60)
def test_a_run_that_is_stopped_leaves_no_process(tmp_path):
    arguments = ["--rows", "call_soon", "proto_1k_c10", "--loops", "asyncio", "ffloop", "--seconds", "20"]
    process = subprocess.Popen(
        command(tmp_path / "figures", *arguments),
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 30
        while len(workers(tmp_path)) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        assert len(workers(tmp_path)) == 2
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    assert left_behind(tmp_path) == []


@pytest.fixture
def sample():
    """Three loops on three rows; peer is the best of the others on the first, and cannot do the second."""
    return Results(
        about={"Python": "CPython 3.13.0", "measured": "3 rounds of 0.1 s"},
        loops={"uvloop": "0.23.0", "rloop": "0.5.0", "ffloop": "0.1.0"},
        baseline="uvloop",
        ours=["ffloop"],
        rows={
            "call_soon": RowResult(
                "scheduling",
                "a burst",
                "operations/s",
                True,
                {
                    "uvloop": Samples([100.0, 200.0, 400.0], [10.0, 10.0, 10.0]),
                    "rloop": Samples([200.0, 400.0, 800.0], [10.0, 10.0, 10.0]),
                    "ffloop": Samples([400.0, 800.0, 1600.0], [5.0, 5.0, 5.0]),
                },
            ),
            "tls_1k_c10": RowResult(
                "TLS",
                "TLS & echo",
                "requests/s",
                True,
                {"uvloop": Samples([100.0, 100.0, 100.0]), "ffloop": Samples([100.0, 50.0, 150.0])},
                {"rloop": "NotImplementedError"},
            ),
            "churn": RowResult(
                "TCP", "new ones", "connections/s", False, {loop: Samples([1.0]) for loop in ("uvloop", "rloop")}
            ),
        },
    )


def test_a_ratio_is_the_median_of_the_rounds_ratios(sample):
    assert sample.ratio("call_soon", "rloop", "uvloop").median == 2  # though the machine got faster each round
    assert sample.ratio("call_soon", "rloop", "uvloop").spread == 0
    assert sample.ratio("tls_1k_c10", "ffloop", "uvloop").median == 1
    assert sample.ratio("tls_1k_c10", "ffloop", "uvloop").spread == 0.25
    assert sample.ratio("tls_1k_c10", "rloop", "uvloop") is None
    assert sample.ratio("call_soon", "ffloop", "uvloop", "cpu").median == 0.5
    assert sample.ratio("tls_1k_c10", "ffloop", "uvloop", "cpu").median == 1  # it has no processor time: the clock's


def test_the_best_peer_is_never_one_of_ours(sample):
    assert sample.best_peer("call_soon") == "rloop"
    assert sample.best_peer("tls_1k_c10") == "uvloop"


def test_means_are_geometric_and_of_the_rows_that_a_loop_can_do(sample):
    assert sample.mean("ffloop") == pytest.approx(2)  # of 4 and 1
    assert sample.mean("ffloop", "TLS") == pytest.approx(1)
    assert sample.mean("rloop", "TLS") is None
    assert sample.mean_to_best("ffloop") == pytest.approx(2**0.5)  # of 2 and 1


def test_the_table_shows_ratios_to_uvloop_and_to_the_best_peer(sample):
    table = report.markdown(sample)
    assert "| row | uvloop, absolute | uvloop | rloop | ffloop | best peer | ffloop/best |" in table
    assert "| call_soon | 200 operations/s | 1.00 ±0.00 | 2.00 ±0.00 | 4.00 ±0.00 | rloop | 2.00 ±0.00 |" in table
    assert "| tls_1k_c10 | 100 requests/s | 1.00 ±0.00 | - | 1.00 ±0.25 | uvloop | 1.00 ±0.25 |" in table
    assert "- tls_1k_c10, rloop: NotImplementedError" in table


def test_the_chart_is_svg_with_a_dot_for_each_loop_and_row(sample):
    drawing = ElementTree.fromstring(chart.draw(sample))
    texts = [element.text for element in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert {"scheduling", "TLS", "TCP", "all rows", "call_soon", "tls_1k_c10", "ffloop 0.1.0"} <= set(texts)
    assert "churn" not in texts  # not a main row
    dots = [title.text for title in drawing.iter("{http://www.w3.org/2000/svg}title")]
    assert dots.count("ffloop 4.00") == 2  # the mean of its group, and the row
    assert "prefers-color-scheme: dark" in chart.draw(sample)


def test_figures_survive_json_and_can_be_reported_again(sample, tmp_path):
    sample.save(tmp_path / "kept.json")
    assert Results.load(tmp_path / "kept.json") == sample
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--report", tmp_path / "kept.json", "--output", tmp_path / "again"],
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 0
    assert (tmp_path / "again.md").read_text() == report.markdown(sample)
    assert (tmp_path / "again.svg").read_text() == chart.draw(sample)
    assert json.loads((tmp_path / "again.json").read_text())["baseline"] == "uvloop"


def test_every_row_that_is_named_exists_and_is_documented():
    assert rows
    assert set(tcp.DEFAULT) | set(tcp.QUICK) <= set(ROWS)
    page = (ROOT / "docs" / "performance.md").read_text()
    for row in ROWS.values():
        assert not row.default or f"| `{row.name}` | {row.what} |" in page, row.name
        assert row.default or not row.quick, row.name

"""The rules of the house that a test can check: who imports whom, and what is vendored how."""

import ast
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "ffloop"

# Each adapter module, after those that it may import.
ORDER = """speed turns core monitoring readers sockets resolver signals pipes subprocesses flow stream_state
    stream_receiving stream_sending transports datagram_state datagram_receiving datagram_sending datagrams sendfile
    servers tls connections unix loop runners""".split()


def imports(path, typing_only=False):
    """The modules that a file imports at run time, relative ones from the package's root."""
    tree = ast.parse(path.read_text())
    if not typing_only:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = [ast.Pass()]
    level_up = len(path.relative_to(PACKAGE).parts) - 1
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if not node.level:
                yield node.module
                continue
            inside = path.relative_to(PACKAGE).parts[: level_up - (node.level - 1)]
            base = ".".join(("ffloop", *inside, *([node.module] if node.module else [])))
            if node.module:
                yield base
            else:
                yield from (f"{base}.{alias.name}" for alias in node.names)


def test_the_binding_knows_nothing_of_asyncio_or_the_adapter():
    for path in (PACKAGE / "uv").glob("*.py"):
        for name in imports(path, typing_only=True):
            assert not name.startswith("asyncio"), path
            assert not name.startswith("ffloop") or name.startswith("ffloop.uv"), path


def test_only_the_binding_touches_the_cffi_module():
    for path in PACKAGE.glob("*.py"):
        for name in imports(path, typing_only=True):
            assert "_libuv" not in name, path
            assert not name.startswith(("ffloop.uv.", "cffi")), path
        assert "lib.ffloop" not in path.read_text(), path


def test_the_adapter_imports_in_one_direction():
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__", "_version"}
    assert modules == set(ORDER)
    for position, module in enumerate(ORDER):
        for name in imports(PACKAGE / f"{module}.py"):
            other = name.removeprefix("ffloop.")
            if name.startswith("ffloop.") and other != "uv":
                assert other in ORDER[:position], f"{module} imports {other}"


def test_only_one_module_chooses_the_speed():
    for path in PACKAGE.rglob("*.py"):
        assert "_speed" not in path.read_text() or path.stem == "speed", path


def test_every_room_says_what_lives_there():
    for path in PACKAGE.rglob("*.py"):
        if path.name != "_version.py":
            assert ast.get_docstring(ast.parse(path.read_text())), path
    for path in (PACKAGE / "native").rglob("*.[ch]"):
        assert path.read_text().startswith("/* "), path


def test_libuvs_source_is_not_committed():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "vendor"], cwd=ROOT, capture_output=True, text=True, timeout=30).stdout
    assert "vendor/libuv.pin" in listed
    assert "vendor/libuv/" not in listed


@pytest.fixture
def vendor(tmp_path):
    """A copy of vendor/, with libuv's tree beside it as a source."""
    if not (ROOT / "vendor" / "libuv").is_dir():
        pytest.skip("built against the system's libuv: the vendored one was not fetched")
    copy = tmp_path / "vendor"
    shutil.copytree(ROOT / "vendor", copy, ignore=shutil.ignore_patterns("libuv", ".libuv-*"))
    shutil.copytree(ROOT / "vendor" / "libuv", tmp_path / "source")
    return copy


def fetch(vendor, *arguments, **environment):
    command = [sys.executable, str(vendor / "fetch_libuv.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, env=environment or None)


def test_libuv_is_filled_from_a_folder_and_verified(vendor, tmp_path):
    done = fetch(vendor, "--from", str(tmp_path / "source"))
    assert done.returncode == 0, done.stderr
    digest = hashlib.sha256((vendor / "libuv" / "src" / "unix" / "stream.c").read_bytes()).hexdigest()
    assert digest in (vendor / "libuv-1.52.1.sha256").read_text()
    assert fetch(vendor).returncode == 0


def test_libuv_is_filled_from_an_archive(vendor, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "libuv"), "gztar", tmp_path, "source")
    assert fetch(vendor, "--from", archive).returncode == 0


def test_a_wrong_checksum_names_the_file_and_leaves_nothing_half_filled(vendor, tmp_path):
    with (tmp_path / "source" / "src" / "timer.c").open("a") as file:
        file.write("/* changed */\n")
    done = fetch(vendor, "--from", str(tmp_path / "source"))
    assert done.returncode == 1
    assert "src/timer.c" in done.stderr
    assert "checksum" in done.stderr
    assert not (vendor / "libuv").exists()
    assert not list(vendor.glob(".libuv-*"))


def test_a_filled_tree_that_was_changed_is_not_built(vendor, tmp_path):
    assert fetch(vendor, "--from", str(tmp_path / "source")).returncode == 0
    (vendor / "libuv" / "src" / "timer.c").unlink()
    done = fetch(vendor)
    assert done.returncode == 1
    assert "src/timer.c is missing" in done.stderr


def test_without_network_and_source_the_error_says_what_to_do(vendor, tmp_path):
    done = fetch(
        vendor,
        PATH="/usr/bin:/bin",
        HOME=str(tmp_path),
        PIP_NO_INDEX="1",
        PIP_FIND_LINKS="",
        PIP_DISABLE_PIP_VERSION_CHECK="1",
    )
    assert done.returncode == 1
    assert "FFLOOP_LIBUV_SOURCE" in done.stderr
    assert "FFLOOP_SYSTEM_LIBUV=1" in done.stderr
    assert not (vendor / "libuv").exists()

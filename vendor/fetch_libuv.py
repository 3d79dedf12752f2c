"""Fill vendor/libuv with the pinned libuv, and verify every file of it.

Usage: python vendor/fetch_libuv.py [--from PATH]

PATH (or the environment variable FFLOOP_LIBUV_SOURCE) is an unpacked release of libuv or a tar archive
of one. Without it, pip downloads the source distribution named in libuv.pin, which carries the very
same tree. Only files that stand in the list of checksums are taken, so what is compiled is what was
pinned, whatever the source. The build (build_ffi.py) calls `ensure()`; nothing here needs more than the
standard library and pip.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = HERE / "libuv"


class FetchError(Exception):
    """Says in one line what is wrong, and what to do about it."""


def pin() -> dict[str, str]:
    """Return the settings in libuv.pin."""
    lines = (HERE / "libuv.pin").read_text(encoding="ascii").splitlines()
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {key.strip(): value.strip() for key, value in pairs}


def checksums() -> dict[str, str]:
    """Return the SHA-256 of every file of the tree, by its path."""
    text = (HERE / f"libuv-{pin()['version']}.sha256").read_text(encoding="ascii")
    return {path: digest for digest, path in (line.split() for line in text.splitlines())}


def verify(tree: Path) -> None:
    """Raise FetchError naming the first file of `tree` that is missing or not what was pinned."""
    for path, digest in checksums().items():
        file = tree / path
        if not file.is_file():
            raise FetchError(f"libuv {pin()['version']}: {path} is missing from {tree}")
        if hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            raise FetchError(f"libuv {pin()['version']}: {path} in {tree} has the wrong checksum")


def _unpack(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(folder, filter="data")
        else:  # 3.11.0 to 3.11.3; every file is verified before it is used
            tar.extractall(folder)
    (root,) = folder.iterdir()
    return root


def _download(folder: Path) -> Path:
    settings = pin()
    name = settings["sdist"].split("==")[0]
    # Only this one package as source: with `:all:` pip would compile its build requirements too.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", name, "--dest", str(folder / "sdist"), settings["sdist"]]
    print(f"fetching libuv {settings['version']} (from {settings['sdist']})", file=sys.stderr)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=600)
    archives = list((folder / "sdist").glob("*.tar.gz"))
    if done.returncode != 0 or len(archives) != 1:
        raise FetchError(
            f"libuv {settings['version']} is not in vendor/libuv, and pip could not download {settings['sdist']}. "
            "Unpack a release of libuv and set FFLOOP_LIBUV_SOURCE to its path, "
            "or set FFLOOP_SYSTEM_LIBUV=1 to build against the libuv that is installed."
        )
    return _unpack(archives[0], folder / "unpacked") / settings["folder"]


def fill(source: Path | None = None) -> None:
    """Fill vendor/libuv from `source` (a folder or a tar archive; None: download) and verify it.

    Raises FetchError; then vendor/libuv is as it was before.
    """
    with tempfile.TemporaryDirectory(prefix=".libuv-", dir=HERE) as name:
        scratch = Path(name)
        if source is None:
            tree = _download(scratch)
        elif source.is_dir():
            tree = source
        elif source.is_file():
            tree = _unpack(source, scratch / "unpacked")
        else:
            raise FetchError(f"no libuv at {source}: give an unpacked release, or a tar archive of one")
        verify(tree)
        fresh = scratch / "fresh"
        for path in checksums():
            (fresh / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(tree / path, fresh / path)
        if TARGET.exists():
            shutil.rmtree(TARGET)
        fresh.rename(TARGET)


def ensure() -> Path:
    """Return vendor/libuv, filled and verified; fill it first when it is not there."""
    if TARGET.is_dir() and any(TARGET.iterdir()):
        verify(TARGET)
    else:
        source = os.environ.get("FFLOOP_LIBUV_SOURCE")
        fill(Path(source) if source else None)
    return TARGET


def main() -> int:
    """Run the command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--from", dest="source", type=Path, help="an unpacked release of libuv, or a tar archive of one"
    )
    arguments = parser.parse_args()
    try:
        if arguments.source is not None:
            fill(arguments.source)
        else:
            ensure()
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"libuv {pin()['version']}: {len(checksums())} files verified in {TARGET}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

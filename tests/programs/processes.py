"""A program in a process of its own: started, waited for, stopped by its pid. Every wait has a limit."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIMIT = 20  # seconds


class Program:
    """A running program and what it has printed, standard error included."""

    def __init__(self, *command, env=None, **options):
        self._changed = threading.Condition()
        self._text = ""
        self._ended = False
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            **options,
        )
        threading.Thread(target=self._read, daemon=True).start()

    @classmethod
    def python(cls, *arguments, **options):
        return cls(sys.executable, *arguments, **{"cwd": HERE, **options})

    def _read(self):
        with self.process.stdout as stream:
            for line in stream:
                with self._changed:
                    self._text += line
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def text(self):
        with self._changed:
            return self._text

    def wait_for(self, pattern, limit=LIMIT):
        """Return the match of `pattern` in what was printed; wait for it when it is not there yet."""
        end = time.monotonic() + limit
        with self._changed:
            while not (match := re.search(pattern, self._text)):
                left = end - time.monotonic()
                if self._ended or left <= 0:
                    raise AssertionError(f"{pattern!r} was not printed, but:\n{self._text}")
                self._changed.wait(left)
            return match

    def send(self, sig):
        self.process.send_signal(sig)

    def ended(self, limit=LIMIT):
        """Wait for the end and return the exit code."""
        code = self.process.wait(limit)
        with self._changed:
            self._changed.wait_for(lambda: self._ended, limit)
        return code

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(LIMIT)


def run_python(code, *arguments, limit=50, quiet=True):
    """Run `code` in a fresh interpreter and return what it prints. Fails when it fails; if `quiet`, when it warns."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=HERE, capture_output=True, text=True, timeout=limit
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (quiet and done.stderr), done.stderr
    return done.stdout

# SPDX-License-Identifier: Apache-2.0
"""What the integration tests share: the program, a place for files, waiting for a condition."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
ASHLAR = Path(os.environ.get("ASHLAR", ROOT / "build" / "ashlar"))


class Ashlar:
    """Runs the program with its state below a temporary directory."""

    def __init__(self, tmp_path):
        self.dir = tmp_path
        self.env = dict(os.environ, XDG_STATE_HOME=str(tmp_path / "state"))
        self.started = []

    def __call__(self, *words, timeout=60):
        return subprocess.run([ASHLAR, *map(str, words)], env=self.env, capture_output=True,
                              text=True, timeout=timeout)

    def json(self, *words, status=0):
        """The object that a command with --json prints; its exit code must be `status`."""
        done = self(*words, "--json")
        assert done.returncode == status, done.stderr
        return json.loads(done.stdout)

    def start(self, *words):
        """The program in the background; ended after the test if it still runs."""
        process = subprocess.Popen([ASHLAR, *map(str, words)], env=self.env, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.started.append(process)
        return process

    def file(self, name, size):
        """An empty sparse file; returns its path."""
        path = self.dir / name
        with path.open("wb") as file:
            file.truncate(size)
        return path

    def end(self):
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def ashlar(tmp_path):
    if not ASHLAR.exists():
        pytest.fail(f"{ASHLAR} is not built: run ./do build")
    program = Ashlar(tmp_path)
    yield program
    program.end()


def wait_until(condition, timeout_s=20, what="the condition"):
    """Ask again and again until `condition()` is true; its value is returned."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} did not come true in {timeout_s} s"
        time.sleep(0.01)

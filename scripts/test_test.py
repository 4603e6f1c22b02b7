#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""test_test - does scripts/test count right, and can nothing pass by not running?

Each row is a command that a part could run, how it is counted, and the sum expected of it.
"""

import sys
import tempfile
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

sys.dont_write_bytecode = True
LOADER = SourceFileLoader("runner", str(Path(__file__).resolve().parent / "test"))
runner = module_from_spec(spec_from_loader("runner", LOADER))
sys.modules["runner"] = runner
LOADER.exec_module(runner)

PYTEST = ("SKIPPED [2] a.py:3: no root\nFAILED a.py::b - assert 0\n"
          "==== 1 failed, 7 passed, 2 skipped, 1 warning in 3.21s ====\n")

# name, how it is counted, what it prints, its exit status, (passed, failed, skipped)
TABLE = [
    ("two points", "tap", "1..2\nok 1 - a\nok 2 - b\n", 0, (2, 0, 0)),
    ("plan at the end", "tap", "ok 1 - a\n1..1\n", 0, (1, 0, 0)),
    ("a failed point", "tap", "1..2\nok 1 - a\nnot ok 2 - b\n# why\n", 1, (1, 1, 0)),
    ("a failed point and status 0", "tap", "1..1\nnot ok 1 - b\n", 0, (0, 1, 0)),
    ("a skipped point", "tap", "1..1\nok 1 - a # SKIP no root\n", 0, (0, 0, 1)),
    ("everything skipped", "tap", "1..0 # SKIP no qemu\n", 0, (0, 0, 1)),
    ("a plan not kept", "tap", "1..3\nok 1 - a\n", 0, (1, 1, 0)),
    ("died before its first point", "tap", "", 139, (0, 1, 0)),
    ("printed nothing and was happy", "tap", "", 0, (0, 1, 0)),
    ("only good points, bad status", "tap", "1..1\nok 1 - a\n", 1, (1, 1, 0)),
    ("bailed out", "tap", "1..2\nok 1\nBail out! no disk\n", 0, (1, 2, 0)),
    ("a word that begins with ok", "tap", "okay then\n1..1\nok 1 - a\n", 0, (1, 0, 0)),
    ("several streams", "tap", "1..1\nok 1 - a\n1..1\nok 1 - b\n", 0, (2, 0, 0)),
    ("pytest", "pytest", PYTEST, 1, (7, 1, 2)),
    ("pytest, twice", "pytest", PYTEST + "==== 5 passed in 1.00s ====\n", 1, (12, 1, 2)),
    ("pytest found nothing", "pytest", "==== no tests ran in 0.01s ====\n", 5, (0, 1, 0)),
    ("a plain command", "exit", "", 0, (1, 0, 0)),
    ("a plain command that fails", "exit", "", 3, (0, 1, 0)),
]


def main():
    print(f"1..{len(TABLE) + 2}")
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        runner.LOGS = Path(folder)
        for number, (name, counts, text, status, expected) in enumerate(TABLE, 1):
            command = ["sh", "-c", 'printf "%s" "$1"; exit $2', "sh", text, str(status)]
            tally, _ = runner.run(runner.Part("part", "", command, counts), 60)
            got = (tally.passed, tally.failed, tally.skipped)
            bad += got != expected
            print(f"{'ok' if got == expected else 'not ok'} {number} - {counts}: {name}")
            if got != expected:
                print(f"#   expected {expected}, got {got}")
        tally, _ = runner.run(runner.Part("part", "", ["sleep", "60"], "exit", limit_s=1), 60)
        good = tally.failed == 1 and "time up" in tally.failures[0]
        print(f"{'ok' if good else 'not ok'} {len(TABLE) + 1} - a part ends when its time is up")
        part = runner.Part("part", "", ["true"], "exit", package="no-such-package")
        lacks = runner.run(part, 60)[0]
        is_skipped = (lacks.passed, lacks.failed, lacks.skipped) == (0, 0, 1)
        print(f"{'ok' if is_skipped else 'not ok'} {len(TABLE) + 2} - a missing package skips")
    return 0 if good and is_skipped and not bad else 1


if __name__ == "__main__":
    sys.exit(main())

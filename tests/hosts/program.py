# SPDX-License-Identifier: Apache-2.0
"""A program of ours on this machine, beside what the guest does: bench and copy over nvmf://.

Its output is in a log of the run's folder. Like everything else here it dies with this process.
"""

import itertools
import json
import os
import subprocess

from guest import die_with_parent

END_TIMEOUT_S = 20


class ProgramError(Exception):
    """It ended with another status than was wanted, or not at all; its output is in the text."""


class Program:
    numbers = itertools.count(1)

    def __init__(self, log_dir, *command, place=None):
        """`place': the network (cables.py) it runs in; None: this machine's."""
        self.text = " ".join([os.path.basename(command[0]), *command[1:]])
        self.log = os.path.join(log_dir, f"program-{next(self.numbers)}.log")
        with open(self.log, "wb") as log:
            log.write(f"$ {self.text}\n".encode())
            log.flush()
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log,
                                            preexec_fn=place.enter if place else die_with_parent)

    def output(self):
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return log.read().split("\n", 1)[1]

    def running(self):
        return self.process.poll() is None

    def wait(self, timeout_s=60, status=0):
        """Its output, once it ended with `status'. One that hangs is ended, and is an error."""
        try:
            ended_with = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ProgramError(f"not ended after {timeout_s} s: {self}") from None
        if ended_with != status:
            raise ProgramError(f"ended with {ended_with}, not {status}: {self}")
        return self.output()

    def json(self, timeout_s=60):
        """The JSON object that bench or copy printed in the end."""
        out = self.wait(timeout_s)
        start = out.rindex("\n{") + 1 if "\n{" in out else out.index("{")
        return json.JSONDecoder().raw_decode(out[start:])[0]

    def kill(self):
        if self.running():
            self.process.kill()
        self.process.wait(END_TIMEOUT_S)

    def __str__(self):
        return f"{self.text}\n{self.output()[-3000:]}"

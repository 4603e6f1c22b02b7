# SPDX-License-Identifier: Apache-2.0
"""A process that is an NVMe/TCP host is killed while a write is with the target's slow disk, and
the next one of that host comes before the disk has done it."""

import json
import signal

import pytest
from conftest import wait_until
from test_export import Export
from test_nvmf import NQN, url

BLOCK, WRITES = 4096, 8


class SlowDisk:
    """An export whose disk holds its first write for a while, and a client that waits for it."""

    def __init__(self, ashlar, delay_s=4):
        self.ashlar, self.disk = ashlar, ashlar.dir / "slow"
        self.disk.write_bytes(bytes(1 << 20))
        fault = f"inject://{self.disk}?op=write&method=delay&delay_us={delay_s * 1000000}&retries=1"
        self.target = Export(ashlar, "--inject", fault, uris=[f"aio://{self.disk}?blk_size=512"],
                             nqn=NQN)
        self.client = ashlar.start("bench", *self.words(1, WRITES))
        wait_until(lambda: self.done() == WRITES - 1, what="all writes but the first")
        assert self.first() == bytes(BLOCK)

    def words(self, seed, writes=1, more="", rw="write"):
        return [url(self.target.port, more), "--rw", rw, "--bs", BLOCK, "--qd", writes, "--ops",
                writes, "--seed", seed]

    def kill(self):
        self.client.send_signal(signal.SIGKILL)
        self.client.communicate()

    def done(self):
        """Writes that the disk has done."""
        [ns] = json.loads(self.target.ok("stats"))["namespaces"]
        return ns.get("write", {"ops": 0})["ops"]

    def first(self):
        with open(self.disk, "rb") as file:
            return file.read(BLOCK)


@pytest.fixture(name="slow")
def make_slow(ashlar):
    return SlowDisk(ashlar)


def test_what_a_killed_process_left_lands_on_nothing_newer(ashlar, slow):
    slow.kill()
    done = ashlar("bench", *slow.words(2, more="?connect_timeout=30s"))
    newer = slow.first()
    assert done.returncode == 0, done.stderr
    wait_until(lambda: slow.done() == WRITES + 1, what="the write of the dead process")
    assert newer != bytes(BLOCK) and slow.first() == newer


def test_what_takes_too_long_is_told(ashlar, slow):
    slow.kill()
    done = ashlar("bench", *slow.words(2, more="?connect_timeout=500ms"))
    assert done.returncode == 1
    assert "of 1 earlier connections of this host are still with devices" in done.stderr
    assert "connect_timeout=" in done.stderr
    assert slow.first() == bytes(BLOCK)  # nothing was written


@pytest.mark.parametrize("more", [
    "",  # of the same host, whose other process lives
    "?hostnqn=nqn.2014-08.org.example:other",
])
def test_who_is_not_concerned_does_not_wait(ashlar, slow, more):
    if more:
        slow.kill()
    done = ashlar("bench", *slow.words(2, more=more, rw="read"))
    assert done.returncode == 0, done.stderr
    assert slow.done() == WRITES - 1
    if not more:
        assert slow.client.wait(timeout=20) == 0

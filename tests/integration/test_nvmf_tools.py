# SPDX-License-Identifier: Apache-2.0
"""`ashlar copy` over nvmf:// when the target dies in the middle, and many connections at once."""

import filecmp
import json
import os
import random
import socket
import threading

import pytest
from conftest import wait_until
from test_failover import Export

MIB = 1 << 20
NQN = "nqn.2019-05.io.openebs:tools"
SIZE = 8 * MIB


class Copy:
    """A file copied to a remote one, or back, slowly enough to be disturbed."""

    def __init__(self, ashlar, way, more):
        self.ashlar = ashlar
        self.here, self.there = ashlar.file("here", SIZE), ashlar.file("there", SIZE)
        source = self.here if way == "to" else self.there
        source.write_bytes(random.Random(5).randbytes(SIZE))
        self.target = Export(ashlar, "target", f"aio://{self.there}", "--nqn", NQN)
        ends = [f"aio://{self.here}", f"nvmf://127.0.0.1:{self.target.port}/{NQN}{more}"]
        self.place = ashlar.dir / "position"
        self.words = ["copy", *(ends if way == "to" else ends[::-1]), "--bs", "64k", "--state",
                      self.place]

    def position(self):
        try:
            return json.loads(self.place.read_text())["position"]
        except (FileNotFoundError, json.JSONDecodeError):
            return 0

    def start(self, *words):
        """Until a position is on record."""
        process = self.ashlar.start(*self.words, "--rate", "3M", *words)
        wait_until(lambda: self.position() > 0, what="a checkpoint")
        return process


@pytest.mark.parametrize("way", ["to", "from"])
def test_copy_resumes_after_the_target_was_restarted(ashlar, way):
    copy = Copy(ashlar, way, "?ctrl_loss=0")
    process = copy.start()
    copy.target.kill()
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "--resume" in err, err
    position = copy.position()
    assert 0 < position < SIZE
    copy.target.restart()
    got = ashlar.json(*copy.words, "--resume", "--verify")
    assert got["ok"] and got["resumed_from"] == position
    assert got["copied_bytes"] == SIZE - position
    assert filecmp.cmp(copy.here, copy.there, shallow=False)
    assert not copy.place.exists()


def test_copy_without_the_target_says_so(ashlar):
    copy = Copy(ashlar, "to", "?ctrl_loss=0")
    process = copy.start()
    copy.target.kill()
    process.communicate(timeout=20)
    before = copy.place.read_text()
    done = ashlar(*copy.words, "--resume")
    assert done.returncode == 1 and "refused" in done.stderr
    assert copy.place.read_text() == before


@pytest.mark.parametrize("way", ["to", "from"])
def test_copy_goes_on_when_the_target_comes_back(ashlar, way):
    copy = Copy(ashlar, way, "?reconnect_delay=100ms")
    process = copy.start("--verify")
    copy.target.kill()
    threading.Event().wait(0.3)  # the outage is what is tested
    copy.target.restart()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "back after" in err
    assert filecmp.cmp(copy.here, copy.there, shallow=False)


def test_copy_from_one_target_to_another(ashlar):
    """Holes of the source are not known across the wire; the copy is right all the same."""
    disks = [ashlar.file(name, SIZE) for name in ("a", "b")]
    with disks[0].open("r+b") as file:
        file.seek(3 * MIB)
        file.write(os.urandom(MIB))
    disks[1].write_bytes(os.urandom(SIZE))
    targets = [Export(ashlar, f"t{i}", f"aio://{disk}", "--nqn", f"{NQN}{i}")
               for i, disk in enumerate(disks)]
    got = ashlar.json("copy", *[f"nvmf://127.0.0.1:{t.port}/{NQN}{i}?hdgst&ddgst"
                                for i, t in enumerate(targets)], "--verify")
    assert got["ok"]
    assert filecmp.cmp(*disks, shallow=False)


# ---- many

class Many:
    """Processes with so many hosts each, an I/O queue per core and device, on one target."""

    def __init__(self, ashlar, target, first, count, seconds):
        uris = [f"nvmf://127.0.0.{1 + first + i}:{target.port}/{NQN}"
                f"?hostnqn=nqn.2014-08.org.example:h{first + i}" for i in range(count)]
        self.process = ashlar.start("bench", *uris, "--time", seconds, "--qd", 4, "--rw",
                                    "randread", "--json")


def stats(ashlar, path):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(20)
        s.connect(str(path))
        s.sendall(b"stats\n")
        s.shutdown(socket.SHUT_WR)
        answer = b""
        while more := s.recv(65536):
            answer += more
    return json.loads(answer.decode()[3:])


def rss(process):
    with open(f"/proc/{process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) * 1024


def test_half_of_64_hosts_killed(ashlar):
    """Two processes of 32 hosts with I/O on all; one is killed: the other sees no error, and what
    the target held for the dead comes back. A second time it takes no more memory."""
    control = ashlar.dir / "control"
    target = Export(ashlar, "target", "malloc:///m?size_mb=8", "--nqn", NQN, "--control", control,
                    listen="0.0.0.0:0")
    grown = []
    for _ in range(2):
        living = Many(ashlar, target, 0, 32, 2)
        dying = Many(ashlar, target, 32, 32, 20)
        wait_until(lambda: stats(ashlar, control)["connections"] == 128, what="64 hosts")
        before = stats(ashlar, control)["commands"]
        wait_until(lambda: stats(ashlar, control)["commands"] > before + 10000,
                   what="I/O")
        dying.process.kill()
        wait_until(lambda: stats(ashlar, control)["controllers"] <= 32, what="the dead to go")
        out, err = living.process.communicate(timeout=60)
        assert living.process.returncode == 0, err
        result = json.loads(out)
        assert result["errors"] == 0 and len(result["devices"]) == 32
        assert all(device["reads"] > 0 for device in result["devices"])
        wait_until(lambda: stats(ashlar, control)["controllers"] == 0, what="all to go")
        end = stats(ashlar, control)
        assert end["connections"] == 0 and end["connection_bytes"] == 0
        grown.append(rss(target.process))
    assert grown[1] - grown[0] < 4 * MIB

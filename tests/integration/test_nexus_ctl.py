# SPDX-License-Identifier: Apache-2.0
"""The control socket of an export whose mirror holds I/O: no command holds up another."""

import concurrent.futures
import json
import os
import random
import socket
import subprocess
import time

import pytest
from conftest import wait_until
from nvmetcp import HOSTNQN, Host
from test_nexus_cli import MIB, NQN, SIZE_MB, Mirror


class Frozen(Mirror):
    """A mirror of which no child is left, with a host whose write waits for that to change."""

    def __init__(self, ashlar):
        super().__init__(ashlar)
        self.host = Host(self.port, NQN)
        queue = self.host.queue(1)
        for child in self.nexus()["children"]:
            name = child["device"].replace("/", "%2F")
            self.ok("inject", f"inject://{name}?op=write&stage=completion")
        queue.submit(queue.rw(1, 1, 100, 1), b"x" * 4096)
        wait_until(lambda: self.nexus()["frozen"], what="the nexus is frozen")

    def begin(self, *words):
        """A command that will not be answered soon."""
        process = self.ashlar.start("ctl", self.control, *words)
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=1)
        return process


@pytest.mark.parametrize("words", [["disconnect", HOSTNQN], ["disconnect", HOSTNQN, "force"],
                                   ["host-del", HOSTNQN], ["pause"]])
def test_a_command_that_waits_holds_up_nobody(ashlar, words):
    mirror = Frozen(ashlar)
    mirror.ok("host-add", HOSTNQN)
    waiting = mirror.begin(*words)
    assert mirror.nexus()["frozen"]
    assert mirror.ok("stats")["nqn"] == NQN
    mirror.ok("remove", 1)
    out, err = waiting.communicate(timeout=20)
    assert waiting.returncode == 0, out + err
    assert mirror.ok("nexus") == []
    mirror.stop()


@pytest.mark.parametrize("words", [["disconnect", HOSTNQN, "force"], ["pause"]])
def test_the_export_ends_while_a_command_waits(ashlar, words):
    mirror = Frozen(ashlar)
    waiting = mirror.begin(*words)
    assert "start it again" in mirror.refused("child-online", mirror.uris[0])
    assert "I/O is held; when its children are back stop what serves it" in mirror.stop()
    waiting.communicate(timeout=20)


def test_rebuild_and_scrub_of_a_frozen_mirror_can_be_left(ashlar):
    mirror = Mirror(ashlar, count=3)
    mirror.write(0, bytes(range(256)) * (64 << 10))
    mirror.ok("rebuild-limits", "rate=1M")
    new = f"malloc:///m?size_mb={SIZE_MB + 16}&blk_size=4096"
    mirror.ok("child-add", new)
    mirror.ok("scrub", "start")
    with Host(mirror.port, NQN) as host:
        queue = host.queue(1)
        for child in mirror.nexus()["children"][:3]:
            name = child["device"].replace("/", "%2F")
            mirror.ok("inject", f"inject://{name}?op=write&stage=completion")
        queue.submit(queue.rw(1, 1, 100, 1), b"x" * 4096)
        wait_until(lambda: mirror.nexus()["frozen"], what="the nexus is frozen")
        waiting = [mirror.ashlar.start("ctl", mirror.control, *words) for words in
                   (["rebuild", new, "stop"], ["scrub", "stop"], ["child-offline", new])]
        mirror.nexus()
        mirror.ok("remove", 1)
        for process in waiting:
            process.communicate(timeout=20)
    mirror.stop()


def test_a_client_that_says_nothing_holds_up_nobody(ashlar):
    mirror = Mirror(ashlar)
    silent = []
    for _ in range(15):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(mirror.control))
        client.sendall(b"lis")
        silent.append(client)
    assert mirror.nexus()["status"] == "Online"
    mirror.stop()
    for client in silent:
        assert client.recv(100) == b""
        client.close()




def test_names_that_are_no_utf8_are_shown_all_the_same(ashlar):
    mirror = Mirror(ashlar)
    uri = f"malloc:///m%FF?size_mb={SIZE_MB + 16}&blk_size=4096"
    mirror.ok("child-add", uri)
    mirror.wait_online()
    assert [c["uri"] for c in mirror.nexus()["children"]] == mirror.uris + [uri]
    assert mirror.nexus()["children"][2]["device"] == "m?"
    assert mirror.ok("rebuilds")["history"][0]["child"] == uri
    mirror.ok("child-remove", uri)
    raw = b"malloc:///n\xff?size_mb=48&blk_size=4096"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(mirror.control))
        for line in (b"child-add " + raw, b"nexus", b"events", b"rebuilds", b"add " + raw,
                     b"list", b"stats"):
            client.sendall(line + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                answer += client.recv(65536)
            if answer.startswith(b"ok "):
                json.loads(answer[3:].decode())
            assert b"no memory" not in answer, answer
    mirror.stop()


def ask(control, line):
    """One command over a connection of its own; the answer, whatever it is."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(control))
        client.sendall(line.encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            more = client.recv(65536)
            assert more, f"{line}: the socket was closed"
            answer += more
    return answer


def change_at_random(mirror, uris, dice, end):
    while time.monotonic() < end:
        uri = dice.choice(uris)
        answer = ask(mirror.control, dice.choice([
            f"child-offline {uri}", f"child-online {uri}", f"child-online {uri}",
            f"child-add {uri}", f"child-add {uri} norebuild", f"child-remove {uri}",
            f"rebuild {uri} start", f"rebuild {uri} stop", f"rebuild {uri} pause",
            f"rebuild {uri} resume", "scrub start", "scrub stop", "scrub", "rebuilds", "nexus",
            "events", "stats", "list", "pause", "resume", "resume",
            f"rebuild-limits rate={dice.choice(['0', '4M', '50M'])}",
            f"nexus-resize {dice.randrange(SIZE_MB, SIZE_MB + 8)}MiB"]))
        assert answer.startswith((b"ok", b"error ")), answer


def test_many_clients_at_once(ashlar):
    """Whatever they do to the mirror at the same time, under load: the copies are equal."""
    mirror = Mirror(ashlar, count=3)
    uris = mirror.uris + [f"aio://{ashlar.file(name, (SIZE_MB + 16) * MIB)}?blk_size=4096"
                          for name in ("x", "y")]
    seed = int.from_bytes(os.urandom(4), "little")
    load = ashlar.start("bench", f"nvmf://127.0.0.1:{mirror.port}/{NQN}", "--rw", "randrw", "--qd",
                        "8", "--time", "4", "--verify")
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(change_at_random, mirror, uris, random.Random(seed + n),
                            time.monotonic() + 4) for n in range(6)]
        for job in jobs:
            job.result()
    while ask(mirror.control, "resume").startswith(b"ok"):
        pass
    out, err = load.communicate(timeout=60)
    assert load.returncode == 0, f"seed {seed}: {out} {err}"
    mirror.ok("rebuild-limits", "rate=0")

    def is_online():
        seen = mirror.nexus()
        for child in seen["children"]:
            for words in (f"child-online {child['uri']}", f"rebuild {child['uri']} resume",
                          f"rebuild {child['uri']} start"):
                ask(mirror.control, words)
        return seen["status"] == "Online" and not seen["rebuilds"]
    wait_until(is_online, what=f"seed {seed}: all children are in sync")
    mirror.ok("scrub", "stop")
    if len(mirror.nexus()["children"]) > 1:
        mirror.ok("scrub", "start")
        wait_until(lambda: mirror.ok("scrub")["state"] == "completed", what="the scrub")
        assert mirror.ok("scrub")["blocks_differ"] == 0, f"seed {seed}"
    mirror.stop()

# SPDX-License-Identifier: Apache-2.0
"""What is said of a child that gets worse, over real NVMe/TCP; and that it stays nevertheless."""

import json

import pytest
from conftest import wait_until
from faketarget import Fake, patched
from test_nexus_tcp import Process

MIB = 1 << 20
UUID = "00000000-0000-4000-8000-00000000000"
BLOCKS = 64 * MIB // 512


class Watched:
    """A nexus over children by URI, and what it says of them."""

    def __init__(self, ashlar, uris, more=""):
        self.uris = uris
        children = ",".join(u.replace("&", "%26").replace(",", "%252C") for u in uris)
        self.nexus = Process(ashlar, "n0", f"nexus:///n0?size=48MiB{more}&children={children}")

    def ok(self, line):
        return json.loads(self.nexus.ok(line))

    def child(self, n):
        return next(c for c in self.ok("nexus")[0]["children"] if c["uri"] == self.uris[n])

    def events(self):
        """(child, warning, did it end) of all there were, without their numbers."""
        return [(self.uris.index(e["child"]), e["warning"], e["ok"]) for e in self.ok("events")
                if e["type"] == "health"]

    def wait_for(self, *event):
        wait_until(lambda: event in self.events(), timeout_s=40, what=str(event))


@pytest.fixture
def replicas(ashlar):
    return [Process(ashlar, f"r{i}", f"malloc:///m{i}?size_mb=64&uuid={UUID}{i}") for i in range(2)]


def test_a_slow_replica_is_told(ashlar, replicas):
    watched = Watched(ashlar, [r.url() for r in replicas])
    delay = "inject://m1?op=write&method=delay&delay_us=60000"
    replicas[1].ok("inject " + delay)
    load = ashlar.start("bench", watched.nexus.url(), "--time", 60, "--rw", "randwrite", "--qd", 8)
    watched.wait_for(1, "slow", False)
    child = watched.child(1)
    assert child["warnings"] == ["slow"] and child["health"] == "Online"
    assert child["write"]["lat_p50_ns"] > 60e6 > watched.child(0)["write"]["lat_p50_ns"]
    event = next(e for e in watched.ok("events") if e["type"] == "health")
    assert event["detail"].startswith("writes take ") and event["status"] == "Online"
    replicas[1].ok("uninject " + delay)
    watched.wait_for(1, "slow", True)
    assert watched.child(1)["warnings"] == []
    load.terminate()
    load.communicate(timeout=20)
    code, err = watched.nexus.stop()
    assert code == 0 and f"child {watched.uris[1]}, slow: writes take " in err
    assert watched.uris[0] not in err


def test_a_replica_that_hangs_is_told_before_it_is_out(ashlar, replicas):
    watched = Watched(ashlar, [r.url() for r in replicas], "&stall_warn=1s")
    replicas[1].ok("inject inject://m1?op=write&method=delay&delay_us=4000000&retries=1")
    load = ashlar.start("bench", watched.nexus.url(), "--time", 5, "--qd", 1,
                        "--rw", "randwrite")
    watched.wait_for(1, "stall", False)
    assert watched.child(1)["warnings"] == ["stall"]
    assert load.wait(40) == 0
    watched.wait_for(1, "stall", True)
    assert [e for e in watched.events() if e[1] != "slow"] == [(1, "stall", False),
                                                              (1, "stall", True)]
    assert watched.ok("nexus")[0]["status"] == "Online"
    assert watched.nexus.stop()[0] == 0


def test_smart_warnings_are_told(ashlar):
    name, bad = patched("log-2", (0, "<BHBBB", 0x04, 300, 5, 10, 101), (160, "<Q", 7))
    _, good = patched("log-2", (0, "<BHBBB", 0, 300, 100, 10, 3), (160, "<Q", 8))
    fake = Fake({name: bad}, blocks=BLOCKS)
    try:
        uris = [f"malloc:///m0?size_mb=64&uuid={UUID}0", fake.url()]
        watched = Watched(ashlar, uris, "&smart_every=1s")
        for warning in "spare", "worn", "unreliable":
            watched.wait_for(1, warning, False)
        child = watched.child(1)
        assert child["warnings"] == ["spare", "worn", "unreliable"]
        assert child["smart"] == {"critical": 4, "spare": 5, "spare_threshold": 10, "used": 101,
                                  "temperature_k": 300, "media_errors": 7}
        assert child["health"] == "Online" and watched.child(0)["smart"] is None
        fake.lies[name] = good
        for warning in "spare", "worn", "unreliable":
            watched.wait_for(1, warning, True)
        watched.wait_for(1, "media-errors", False)  # one more than before
        assert watched.child(1)["warnings"] == ["media-errors"]
        code, err = watched.nexus.stop()
        assert code == 0 and f"child {uris[1]}, worn: SMART says" in err
    finally:
        fake.stop()

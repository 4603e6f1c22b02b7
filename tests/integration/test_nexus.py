# SPDX-License-Identifier: Apache-2.0
"""A mirror of files in processes that die: records, write-intent marks, rebuilds, `nexus check`."""

import json
import re
import signal
import time
from urllib.parse import quote

import pytest
from conftest import wait_until
from test_export import Export

MIB = 1 << 20
SIZE = 64 * MIB
START = 5 * MIB  # of the data on a replica, layout V1
VOLUME = "6e3f9d0e-5c2a-4a53-9a42-0f6f8f1c2b11"
COPIED = re.compile(r"rebuild of child (\S+) completed, (\d+) blocks copied, (\d+) zeroed")


class Mirror:
    """Files a, b, ... and the URI of a mirror over them."""

    def __init__(self, ashlar, names):
        self.ashlar = ashlar
        self.paths = {n: ashlar.file(n, SIZE + 8 * MIB) for n in names}
        self.children = {n: f"uring://{path}?uuid=00000000-0000-4000-8000-0000000000a{i}"
                         for i, (n, path) in enumerate(self.paths.items())}

    def uri(self, names=None):
        names = names or list(self.children)
        children = ",".join(quote(self.children[n], safe="") for n in names)
        return f"nexus:///vol?size={SIZE}&uuid={VOLUME}&children={children}"

    def check(self):
        done = self.ashlar("nexus", "check", *self.children.values(), "--key", VOLUME, "--json")
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def kill_under_load(self):
        """Write, and die in the middle of it, by SIGKILL."""
        process = self.ashlar.start("bench", self.uri(), "--rw", "randwrite", "--bs", "4096",
                                    "--qd", "16", "--time", "60", "--rate", "3000")
        store = self.ashlar.dir / "state" / "ashlar" / "nexus" / f"{VOLUME}.json"
        until = time.monotonic() + 20
        first = next(iter(self.paths.values()))
        before = first.stat().st_blocks
        while not store.exists() or first.stat().st_blocks < before + 2000:
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.02)  # polled: another process's writes cannot be waited for
        process.kill()
        process.communicate()

    def run_until_ok(self):
        """Make it again until nothing is left to rebuild; what was moved, by child."""
        moved = {}
        until = time.monotonic() + 60
        while not self.check()["ok"]:
            assert time.monotonic() < until
            done = self.ashlar("bench", self.uri(), "--rw", "read", "--time", "1")
            assert done.returncode == 0, done.stderr
            for uri, copied, zeroed in COPIED.findall(done.stderr):
                moved[uri] = moved.get(uri, 0) + (int(copied) + int(zeroed)) * 512
        return moved

    def data(self, name):
        with self.paths[name].open("rb") as file:
            file.seek(START)
            return file.read(SIZE - MIB)


@pytest.fixture
def mirror(ashlar):
    return Mirror(ashlar, "ab")


def test_killed_under_load_and_made_again(mirror):
    mirror.kill_under_load()
    report = mirror.check()
    assert not report["ok"]
    verdicts = {r["uri"]: r for r in report["replicas"]}
    assert report["source"] == mirror.children["a"]
    other = verdicts[mirror.children["b"]]
    assert (other["verdict"], other["rebuild"]) == ("in sync", "partial")
    assert 0 < other["rebuild_bytes"] <= SIZE
    moved = mirror.run_until_ok()
    assert 0 < moved[mirror.children["b"]] <= other["rebuild_bytes"]
    assert mirror.data("a") == mirror.data("b")


def test_who_is_missing_is_named(mirror):
    assert mirror.ashlar("bench", mirror.uri(), "--ops", "1").returncode == 0
    uris = list(mirror.children.values())
    done = mirror.ashlar("nexus", "check", uris[0], "--key", VOLUME)
    assert "missing    00000000-0000-4000-8000-0000000000a1\n" in done.stdout
    assert "it may be newer than these, or stale" in done.stdout
    done = mirror.ashlar("nexus", "check", uris[0], uris[1] + "&blk_size=4096", "--key", VOLUME)
    assert done.returncode == 1 and "blocks of 4096 bytes" in done.stdout
    done = mirror.ashlar("nexus", "check", *uris, "--key", VOLUME)
    assert done.returncode == 0 and "may be newer" not in done.stdout


def test_a_stale_replica_alone_is_refused(mirror):
    mirror.kill_under_load()
    done = mirror.ashlar("bench", mirror.uri(["a"]), "--rw", "randwrite", "--ops", "200")
    assert done.returncode == 0, done.stderr
    done = mirror.ashlar("bench", mirror.uri(["b"]), "--rw", "read", "--ops", "1")
    assert done.returncode == 1
    assert "healthy" in done.stderr
    report = mirror.check()
    assert [r["verdict"] for r in report["replicas"]] == ["source", "stale"]
    mirror.run_until_ok()
    assert mirror.data("a") == mirror.data("b")


def test_check_says_what_it_does_not_know(mirror):
    done = mirror.ashlar("nexus", "check", *mirror.children.values())
    assert done.returncode == 1
    assert "no write-intent records" in done.stdout
    done = mirror.ashlar("nexus", "check", *mirror.children.values(), "--key", VOLUME)
    assert done.returncode == 1 and VOLUME in done.stderr
    assert mirror.ashlar("nexus", "mend", "null:///x").returncode == 2
    gone = mirror.ashlar("nexus", "check", "uring:///nowhere/x", mirror.children["a"])
    assert gone.returncode == 1 and "unreadable" in gone.stdout


def test_the_store_is_said_when_it_is_none(mirror):
    mirror.ashlar.env["ASHLAR_STORE"] = "memory"
    done = mirror.ashlar("bench", mirror.uri(), "--rw", "read", "--ops", "1")
    assert done.returncode == 0 and "memory only" in done.stderr
    assert not (mirror.ashlar.dir / "state").exists()


@pytest.mark.parametrize("how", ["SIGTERM", "remove"])
def test_a_frozen_nexus_can_be_ended(ashlar, how):
    """Its I/O is held for good; who ends it must not wait for that."""
    nqn = "nqn.2019-05.io.openebs:frozen"
    export = Export(ashlar, "--store", ashlar.dir / "store", nqn=nqn, uris=[
        f"nexus:///vol?size={SIZE}&uuid={VOLUME}&children=malloc:///only?size_mb=72"])
    load = ashlar.start("bench", f"nvmf://127.0.0.1:{export.port}/{nqn}?ctrl_loss=0", "--rw",
                        "randwrite", "--qd", "4")
    wait_until(lambda: json.loads(export.ok("stats"))["commands"] > 100, what="I/O")
    export.ok("inject inject://only?op=write")
    wait_until(lambda: json.loads(export.ok("nexus"))[0]["frozen"], what="the freeze")
    if how == "remove":
        export.ok("remove 1")
    export.process.send_signal(signal.SIGTERM)
    export.process.communicate(timeout=10)
    assert export.process.returncode == 0
    load.communicate(timeout=20)
    assert load.returncode == 1

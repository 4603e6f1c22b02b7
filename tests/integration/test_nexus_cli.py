# SPDX-License-Identifier: Apache-2.0
"""What an export is told of its mirrors over `ashlar ctl`, and where a mirror keeps its record."""

import json
import os
import signal
import socket
import subprocess

import pytest
from conftest import ROOT, wait_until
from nvmetcp import Host

MIB = 1 << 20
SIZE_MB = 32
NQN = "nqn.2026-11.invalid.ashlar:nexus-test"
DATA_AT = 5 * MIB  # ashlar-uri(7), nexus: label=v1


class Mirror:
    """An export of one nexus over files, asked with `ashlar ctl`."""

    def __init__(self, ashlar, *words, count=2, query="", extra=()):
        self.ashlar = ashlar
        self.words, self.query, self.extra = words, query, extra
        self.paths = [ashlar.file(f"r{n}", (SIZE_MB + 16) * MIB) for n in range(count)]
        self.uris = [self.uri_of(n) for n in range(count)]
        self.control, self.port_file = ashlar.dir / "ctl", ashlar.dir / "port"
        self.run()

    def uri_of(self, n):
        return f"aio://{self.paths[n]}?blk_size=4096&uuid=00000000-0000-4000-8000-00000000000{n}"

    def run(self, uris=None):
        children = ",".join(uris or self.uris).replace("&", "%26")
        self.port_file.unlink(missing_ok=True)
        self.process = self.ashlar.start(
            "export", f"nexus:///vol0?size={SIZE_MB}MiB&children={children}{self.query}",
            *self.extra, "--nqn", NQN, "--listen", "127.0.0.1:0", "--control", self.control,
            "--port-file", self.port_file, *self.words)
        wait_until(lambda: self.port_file.exists() or self.process.poll() is not None,
                   what="the port file")
        assert self.process.poll() is None, self.process.communicate()
        self.port = int(self.port_file.read_text())
        wait_until(self.control.exists, what="the control socket")

    def ctl(self, *words):
        return self.ashlar("ctl", self.control, *words)

    def ok(self, *words):
        done = self.ctl(*words)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        return json.loads(done.stdout) if done.stdout[:1] in ("[", "{") else done.stdout

    def refused(self, *words):
        done = self.ctl(*words)
        assert done.returncode == 1 and done.stdout == ""
        return done.stderr

    def nexus(self):
        return self.ok("nexus")[0]

    def child(self, n):
        return next(c for c in self.nexus()["children"] if c["uri"] == self.uris[n])

    def wait_online(self):
        """Until nothing is left to rebuild."""
        wait_until(lambda: self.nexus()["status"] == "Online" and not self.nexus()["rebuilds"],
                   what="the nexus is online")

    def write(self, lba, data):
        with Host(self.port, NQN) as host:
            queue = host.queue(1)
            for at in range(0, len(data), 128 << 10):
                queue.write(1, lba + at // 4096, data[at:at + (128 << 10)], bs=4096)
            queue.flush(1)

    def record(self, name="vol0"):
        path = self.ashlar.dir / "state" / "ashlar" / "nexus" / f"{name}.json"
        return json.loads(path.read_text())

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        _, err = self.process.communicate(timeout=20)
        assert self.process.returncode == 0, err
        return err


@pytest.fixture
def mirror(ashlar):
    return Mirror(ashlar)


def test_nexus_tells_of_itself_and_its_children(mirror):
    seen = mirror.nexus()
    assert (seen["name"], seen["state"], seen["status"]) == ("vol0", "Open", "Online")
    assert seen["block_size"] == 4096 and seen["label"] == "v1" and not seen["frozen"]
    assert 0 < seen["size"] <= seen["size_asked"] == SIZE_MB * MIB
    assert [c["uri"] for c in seen["children"]] == mirror.uris
    for n, child in enumerate(seen["children"]):
        assert child["uuid"] == f"00000000-0000-4000-8000-00000000000{n}"
        assert (child["state"], child["health"], child["reason"]) == ("Open", "Online", "None")
        assert child["synced"] and child["local"] and child["rebuild_progress"] is None
    mirror.write(0, os.urandom(4096))
    assert all(c["write"]["ops"] > 0 for c in mirror.nexus()["children"])
    assert mirror.ok("nexus", "@vol0") == mirror.ok("nexus", "@" + seen["uuid"])


def test_offline_online_moves_what_was_missed(mirror):
    data = os.urandom(8192)
    mirror.ok("child-offline", mirror.uris[1])
    assert mirror.nexus()["status"] == "Degraded"
    assert mirror.child(1)["reason"] == "ByClient" and not mirror.child(1)["synced"]
    assert [c["healthy"] for c in mirror.record()["children"]] == [True, False]
    mirror.write(100, data)
    wait_until(lambda: mirror.child(1)["missed_segments"] == 1, what="one segment is missed")
    mirror.ok("child-online", mirror.uris[1])
    mirror.wait_online()
    history = mirror.ok("rebuilds")["history"]
    assert len(history) == 1 and mirror.ok("rebuilds")["jobs"] == []
    assert history[0]["state"] == "completed" and history[0]["partial"]
    assert (history[0]["child"], history[0]["source"]) == (mirror.uris[1], mirror.uris[0])
    # holes of the segment stay holes
    assert len(data) <= history[0]["bytes_transferred"] <= mirror.nexus()["segment_size"]
    at = DATA_AT + 100 * 4096
    mirror.stop()
    assert [p.read_bytes()[at:at + 8192] for p in mirror.paths] == [data, data]
    assert mirror.record()["clean_shutdown"] is True


def test_children_come_and_go(mirror):
    new = mirror.ashlar.file("new", (SIZE_MB + 16) * MIB)
    uri = f"aio://{new}?blk_size=4096"
    mirror.write(7, b"x" * 4096)
    mirror.ok("child-add", uri)
    mirror.wait_online()
    assert len(mirror.nexus()["children"]) == 3
    assert uri in mirror.refused("child-add", uri)
    mirror.ok("child-remove", mirror.uris[0])
    mirror.ok("child-fault", mirror.uris[1])
    assert mirror.child(1)["health"] == "Faulted"
    assert mirror.refused("child-fault", uri) != ""
    mirror.ok("child-remove", mirror.uris[1])
    mirror.stop()
    assert new.read_bytes()[DATA_AT + 7 * 4096:][:4096] == b"x" * 4096


def test_norebuild_waits_for_a_start(mirror):
    uri = f"malloc:///m?size_mb={SIZE_MB + 16}&blk_size=4096"
    mirror.ok("child-add", uri, "norebuild")
    assert mirror.nexus()["children"][2]["health"] == "Degraded"
    assert mirror.ok("rebuilds") == {"jobs": [], "history": []}
    mirror.ok("rebuild", uri, "start")
    mirror.wait_online()
    assert mirror.ok("rebuilds")["history"][0]["child"] == uri


def test_a_rebuild_is_held_paused_and_stopped(mirror):
    mirror.ok("rebuild-limits", "rate=1M", "latency=off")
    assert mirror.ok("rebuild-limits") == {"rate": MIB, "latency": "off"}
    assert mirror.ok("rebuild-limits", "latency=5ms")["latency"] == "5.00 ms"
    assert mirror.ok("rebuild-limits", "latency=auto") == {"rate": MIB, "latency": "auto"}
    mirror.write(0, os.urandom(24 * MIB))
    uri = f"malloc:///m?size_mb={SIZE_MB + 16}&blk_size=4096"
    mirror.ok("child-add", uri)
    job = mirror.ok("rebuilds")["jobs"][0]
    assert job["child"] == uri and job["state"] == "running" and not job["partial"]
    mirror.ok("rebuild", uri, "pause")
    paused = mirror.ok("rebuilds")["jobs"][0]
    assert paused["state"] == "paused"
    assert mirror.nexus()["children"][2]["rebuild_progress"] == paused["progress"]
    mirror.ok("rebuild", uri, "resume")
    assert mirror.ok("rebuilds")["jobs"][0]["state"] == "running"
    mirror.ok("rebuild", uri, "stop")
    ended = mirror.ok("rebuilds")
    assert ended["jobs"] == [] and ended["history"][0]["state"] == "stopped"


def test_scrub_finds_and_mends(ashlar):
    mirror = Mirror(ashlar, count=3)
    mirror.write(5, b"y" * 4096)
    mirror.stop()
    with mirror.paths[2].open("r+b") as file:
        file.seek(DATA_AT + 5 * 4096)
        file.write(b"n" * 4096)
    mirror.run()
    assert mirror.ok("scrub")["state"] == "none"

    def scrubbed(*how):
        mirror.ok("scrub", "start", *how)
        wait_until(lambda: mirror.ok("scrub", "status")["state"] == "completed", what="scrub")
        seen = mirror.ok("scrub")
        return seen["blocks_differ"], seen["blocks_repaired"], seen["first_differ"]
    assert scrubbed() == (1, 0, 5)
    assert any(e["type"] == "mismatch" and e["child"] == mirror.uris[2] and e["lba"] == 5
               for e in mirror.ok("events"))
    assert scrubbed("repair") == (1, 1, 5)
    assert scrubbed() == (0, 0, None)
    mirror.stop()
    assert mirror.paths[2].read_bytes()[DATA_AT + 5 * 4096:][:4096] == b"y" * 4096


def test_a_replica_that_is_cut_off_under_load_is_out(mirror):
    """Its lost blocks are neither repaired nor read, and it comes back by a full copy only."""
    step = 64 << 10
    size = mirror.nexus()["size"] // step * step
    data = os.urandom(size)
    mirror.write(0, data)
    with Host(mirror.port, NQN) as host:
        queue = host.queue(1)
        for turn in range(3):
            if turn == 1:
                os.truncate(mirror.paths[1], 10 * MIB)
            for at in range(0, size, step):
                assert queue.read(1, at // 4096, step // 4096, bs=4096) == data[at:at + step], at
                if at < 2 * MIB:  # writes that go on, where the file still is
                    queue.write(1, at // 4096, data[at:at + step], bs=4096)
    assert mirror.nexus()["status"] == "Degraded"
    assert (mirror.child(1)["state"], mirror.child(1)["synced"]) == ("Faulted", False)
    assert mirror.child(1)["missed_segments"] is None
    assert os.path.getsize(mirror.paths[1]) == 10 * MIB
    assert "too small" in mirror.refused("child-online", mirror.uris[1])
    os.truncate(mirror.paths[1], (SIZE_MB + 16) * MIB)
    mirror.ok("child-online", mirror.uris[1])
    mirror.wait_online()
    assert [r["partial"] for r in mirror.ok("rebuilds")["history"]] == [False]
    assert mirror.stop().count("it ends before its") == 1
    assert all(p.read_bytes()[DATA_AT:][:size] == data for p in mirror.paths)


def test_scrub_takes_the_operators_word(mirror):
    mirror.write(5, b"y" * 4096)
    mirror.stop()
    with mirror.paths[0].open("r+b") as file:
        file.seek(DATA_AT + 5 * 4096)
        file.write(b"n" * 4096)
    mirror.run()
    mirror.ok("scrub", "start", "repair-from", mirror.uris[1])
    wait_until(lambda: mirror.ok("scrub")["state"] == "completed", what="scrub")
    assert mirror.ok("scrub")["blocks_repaired"] == 1
    mirror.ok("scrub", "stop")
    mirror.stop()
    assert mirror.paths[0].read_bytes()[DATA_AT + 5 * 4096:][:4096] == b"y" * 4096


def test_resize(mirror):
    before = mirror.nexus()["size"]
    for path in mirror.paths:
        os.truncate(path, (2 * SIZE_MB + 16) * MIB)
    assert mirror.refused("nexus-resize", "1M") != ""
    mirror.ok("nexus-resize", f"{2 * SIZE_MB}MiB")
    seen = mirror.nexus()
    assert seen["size_asked"] == 2 * SIZE_MB * MIB and seen["size"] > before + 16 * MIB
    assert mirror.ok("list")[0]["blocks"] * 4096 == seen["size"]
    mirror.stop()
    done = mirror.ashlar("bench", f"nexus:///vol0?size={SIZE_MB}MiB&children="
                         + ",".join(mirror.uris).replace("&", "%26"), "--ops", 1)
    assert done.returncode == 1 and f"has size={2 * SIZE_MB * MIB}" in done.stderr


def test_events_are_numbered_and_bounded(mirror):
    mirror.ok("child-offline", mirror.uris[1])
    events = mirror.ok("events")
    assert [e["number"] for e in events] == list(range(1, len(events) + 1))
    assert events[0]["type"] == "created" and events[0]["nexus"] == "vol0"
    assert any(e["type"] == "child-state" and e["child"] == mirror.uris[1] and
               e["reason"] == "ByClient" for e in events)
    last = events[-1]["number"]
    assert mirror.ok("events", last) == []
    assert mirror.ok("events", last - 1) == events[-1:]
    while last <= 300:
        mirror.ok("child-online", mirror.uris[1])
        mirror.wait_online()
        mirror.ok("child-offline", mirror.uris[1])
        last = mirror.ok("events")[-1]["number"]
    events = mirror.ok("events")
    assert len(events) == 256 and events[-1]["number"] - events[0]["number"] == 255


def test_latencies_of_each_child(mirror):
    mirror.write(0, os.urandom(4096))
    rows = mirror.ok("latency")
    assert [(r["child"], r["op"]) for r in rows] == [
        (uri, op) for uri in mirror.uris for op in ("read", "write")]
    for row in rows:
        if row["op"] == "write":
            assert row["ops"] > 0 and row["bytes"] >= 4096 and row["errors"] == 0
            assert 0 < row["lat_p50_ns"] <= row["lat_p99_ns"] <= row["lat_p999_ns"]
            assert row["lat_p999_ns"] <= row["lat_max_ns"]
    writes = [c["write"] for c in mirror.nexus()["children"]]
    assert [w["lat_p999_ns"] for w in writes] == [
        r["lat_p999_ns"] for r in rows if r["op"] == "write"]
    mirror.ok("child-offline", mirror.uris[1])
    assert {r["child"] for r in mirror.ok("latency", "@vol0")} == {mirror.uris[0]}


def test_a_list_is_a_table_too(mirror):
    mirror.write(0, os.urandom(4096))
    table = mirror.ashlar("ctl", "--table", mirror.control, "latency").stdout.splitlines()
    assert table[0].split() == ["nexus", "op", "ops", "bytes", "errors", "lat_mean_ns",
                                "lat_p50_ns", "lat_p99_ns", "lat_p999_ns", "lat_max_ns", "child"]
    assert len(table) == 5
    assert table[2].split()[:2] == ["vol0", "write"] and table[2].split()[-1] == mirror.uris[0]
    mirror.ok("child-offline", mirror.uris[1])  # an event with more to it than the first one has
    table = mirror.ashlar("ctl", "--table", mirror.control, "events").stdout
    assert "reason" in table.splitlines()[0] and "ByClient" in table
    last = mirror.ok("events")[-1]["number"]
    nothing = mirror.ashlar("ctl", "--table", mirror.control, "events", str(last))
    assert (nothing.returncode, nothing.stdout) == (0, "")


def test_other_answers_are_tables_too(mirror):
    def table(*words):
        done = mirror.ashlar("ctl", "--table", mirror.control, *words)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        return done.stdout
    seen = table("nexus").split("\n\n")
    assert len(seen) == 2 and seen[0].splitlines()[1].split()[0] == "vol0"
    assert seen[1].startswith("children of vol0:\nuri ")
    assert [uri in seen[1] for uri in mirror.uris] == [True, True]
    mirror.ok("child-offline", mirror.uris[1])
    mirror.ok("child-online", mirror.uris[1])
    mirror.wait_online()
    assert "\nhistory:\nchild " in table("rebuilds") and mirror.uris[1] in table("rebuilds")
    rows = dict(line.split(None, 1) for line in table("scrub").splitlines()[1:])
    assert rows["state"].strip() == "none" and rows["blocks_differ"].strip() == "0"
    assert any(line.split() == ["nqn", NQN] for line in table("stats").splitlines())
    refused = mirror.ashlar("ctl", "--table", mirror.control, "rescan")
    assert refused.returncode == 1 and "no table: it is empty" in refused.stderr


def test_what_was_done_is_said(mirror):
    def said(*words):
        done = mirror.ctl(*words)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        assert done.stdout.count("\n") == 1
        return done.stdout
    uri = mirror.uris[1]
    assert said("child-offline", uri).startswith(f"{uri} is offline")
    assert uri in said("child-online", uri)
    mirror.wait_online()
    assert "scrub has begun" in said("scrub", "start")
    wait_until(lambda: mirror.ok("scrub")["state"] == "completed", what="scrub")
    assert "no scrub runs" in said("scrub", "stop")
    assert said("child-remove", uri) == f"{uri} is gone\n"
    mirror.ok("rebuild-limits", "rate=1M")
    assert "rebuild of" in said("child-add", uri)
    assert said("rebuild", uri, "pause") == f"rebuild of {uri}: pause\n"
    mirror.ok("child-remove", uri)
    os.truncate(mirror.paths[0], (2 * SIZE_MB + 16) * MIB)
    assert said("nexus-resize", f"{2 * SIZE_MB}MiB") == "the size is 64 MiB\n"


def test_many_mismatches_leave_other_events_in_sight(mirror):
    mirror.write(0, b"y" * (16 * MIB))
    mirror.stop()
    with mirror.paths[1].open("r+b") as file:
        for block in range(0, 4096, 8):
            file.seek(DATA_AT + block * 4096)
            file.write(b"n" * 4096)
    mirror.run()
    mirror.ok("scrub", "start")
    wait_until(lambda: mirror.ok("scrub")["state"] == "completed", what="scrub")
    events = mirror.ok("events")
    assert events[0]["type"] == "created"
    assert len([e for e in events if e["type"] == "mismatch"]) == 8
    end = [e for e in events if e["type"] == "scrub"][-1]
    assert end["detail"].startswith("512 blocks differ, 0 of them repaired; 504 differences")


def test_the_log_says_each_thing_once(mirror):
    mirror.ok("child-offline", mirror.uris[1])
    mirror.write(0, bytes(4096))
    mirror.ok("child-online", mirror.uris[1])
    mirror.wait_online()
    mirror.process.kill()
    err = mirror.process.communicate()[1]
    assert "(None)" not in err
    lines = [line.split(" is ", 1)[1] for line in err.splitlines()
             if f"child {mirror.uris[1]} is " in line and "recorded" not in line]
    assert lines == ["Degraded (ByClient)", "Degraded", "Online"]


def test_a_start_after_a_crash_says_degraded(mirror):
    mirror.ok("child-offline", mirror.uris[1])
    mirror.write(0, os.urandom(MIB))
    mirror.process.kill()
    mirror.process.communicate()
    mirror.run()
    mirror.wait_online()
    err = mirror.stop()
    assert err.index("nexus vol0 is Degraded") < err.index("nexus vol0 is Online")


def test_which_of_several(ashlar):
    other = "nexus:///vol1?size=8MiB&children=malloc:///m1?size_mb=24"
    mirror = Mirror(ashlar, extra=[other])
    assert [n["name"] for n in mirror.ok("nexus")] == ["vol0", "vol1"]
    assert "@NAME" in mirror.refused("rebuilds")
    assert mirror.ok("rebuilds", "@vol1") == {"jobs": [], "history": []}
    assert "no nexus 'vol9'" in mirror.refused("scrub", "@vol9", "start")
    mirror.ok("child-offline", mirror.uris[1])  # the child says which
    assert mirror.nexus()["status"] == "Degraded"


@pytest.mark.parametrize("words", [
    ["child-add"], ["child-add", "a", "b"], ["child-offline", "nobody"], ["rebuild", "x"],
    ["rebuild", "malloc:///x", "faster"], ["rebuild-limits", "rate=much"], ["scrub", "perhaps"],
    ["rebuild-limits", "rate"], ["scrub", "start", "repair-from"], ["nexus-resize", "huge"],
    ["events", "x"], ["nexus", "vol0"], ["rebuilds", "a", "b", "c", "d", "e", "f", "g"]])
def test_what_makes_no_sense_is_refused(mirror, words):
    assert mirror.refused(*words).startswith("ashlar ctl: error: ")
    assert mirror.nexus()["status"] == "Online"


def test_no_nexus_here(ashlar):
    control = ashlar.dir / "ctl"
    ashlar.start("export", "malloc:///m?size_mb=8", "--listen", "127.0.0.1:0", "--control", control)
    wait_until(control.exists, what="the control socket")
    wait_until(lambda: ashlar("ctl", control, "list").returncode == 0, what="an answer")
    assert ashlar("ctl", control, "nexus").stdout == "[]\n"
    assert "no nexus is served" in ashlar("ctl", control, "scrub", "start").stderr


# ---- the record --------------------------------------------------------------------------------

@pytest.mark.parametrize("query,name", [
    ("", "vol0"), ("&uuid=12345678-0000-4000-8000-000000000000",
                   "12345678-0000-4000-8000-000000000000"), ("&key=a/b", "a%2Fb")])
def test_a_stale_replica_is_known_after_kill_9(ashlar, query, name):
    mirror = Mirror(ashlar, query=query)
    mirror.ok("child-offline", mirror.uris[0])
    mirror.write(3, b"new" + bytes(4093))
    mirror.process.kill()
    mirror.process.communicate()
    assert [c["healthy"] for c in mirror.record(name)["children"]] == [False, True]
    mirror.run()
    mirror.wait_online()  # it is known as stale, and brought in sync at once
    assert [r["child"] for r in mirror.ok("rebuilds")["history"]] == [mirror.uris[0]]
    with Host(mirror.port, NQN) as host:
        assert host.queue(1).read(1, 3, 1, bs=4096)[:3] == b"new"


def test_a_volume_without_uuid_stays_the_same_disk(ashlar):
    """Hosts know it by its uuid, and what was in flight is found by it."""
    mirror = Mirror(ashlar)
    uuid = mirror.ok("list")[0]["uuid"]
    mirror.write(3, os.urandom(4096))
    mirror.process.kill()
    mirror.process.communicate()
    mirror.run()
    assert mirror.ok("list")[0]["uuid"] == uuid
    mirror.wait_online()
    assert mirror.ok("rebuilds")["history"][0]["partial"]
    mirror.stop()
    mirror.run()
    assert mirror.ok("list")[0]["uuid"] == uuid
    mirror.stop()


def test_store_in_a_directory_of_choice(ashlar):
    store = ashlar.dir / "deep" / "store"
    mirror = Mirror(ashlar, "--store", store)
    assert sorted(path.name for path in store.iterdir()) == ["vol0.json", "vol0.lock"]
    assert not (ashlar.dir / "state").exists()
    assert "memory" not in mirror.stop()


def test_store_in_memory_warns(ashlar):
    mirror = Mirror(ashlar, "--store", "memory")
    assert not (ashlar.dir / "state").exists()
    assert "kept in memory only" in mirror.stop()


def test_a_store_that_cannot_be_made_ends_the_command(ashlar):
    (ashlar.dir / "file").write_text("")
    done = ashlar("export", "nexus:///v?size=8MiB&children=malloc:///m?size_mb=24", "--listen",
                  "127.0.0.1:0", "--store", ashlar.dir / "file" / "below")
    assert done.returncode == 1 and "another directory" in done.stderr


def test_a_store_of_no_use_is_told_before_there_is_a_mirror(ashlar):
    (ashlar.dir / "file").write_text("")
    done = ashlar("export", "null:///n?size_mb=1", "--listen", "127.0.0.1:0", "--store",
                  ashlar.dir / "file" / "below")
    assert done.returncode == 1 and "another directory" in done.stderr


@pytest.mark.parametrize("option", ["--listen", "--control"])
def test_what_is_in_use_costs_an_error_and_nothing_else(mirror, option):
    """A mirror that is made has a record, and begins to rebuild: not if nobody can reach it."""
    words = {"--listen": "127.0.0.1:0", "--control": mirror.ashlar.dir / "other"}
    words[option] = f"127.0.0.1:{mirror.port}" if option == "--listen" else mirror.control
    done = mirror.ashlar("export", "nexus:///w?size=8MiB&children=malloc:///m?size_mb=24",
                         *(word for pair in words.items() for word in pair))
    assert done.returncode == 1 and str(words[option]).rsplit(":", 1)[-1] in done.stderr
    assert not (mirror.ashlar.dir / "state/ashlar/nexus/w.json").exists()
    assert not (mirror.ashlar.dir / "other").exists()
    assert mirror.nexus()["status"] == "Online"  # the first's socket is still the first's


def test_a_replica_that_cannot_be_reached_ends_the_command(ashlar):
    with socket.socket() as closed:  # bound, and nobody listens
        closed.bind(("127.0.0.1", 0))
        remote = f"nvmf://127.0.0.1:{closed.getsockname()[1]}/nqn.2026-11.invalid.ashlar:r"
        done = ashlar("export", f"nexus:///v?size=8MiB&children=malloc:///m?size_mb=24,{remote}",
                      "--listen", "127.0.0.1:0")
    assert done.returncode == 1 and "Connection refused" in done.stderr
    assert "without this one in the list the others serve" in done.stderr
    assert done.stderr.count(remote) == 2  # in the URI of the nexus, and as the child that failed
    assert f"{remote}?ctrl_loss=0: " in done.stderr
    assert not (ashlar.dir / "state").exists() or not list((ashlar.dir / "state").rglob("*.json"))


def test_other_commands_keep_a_record_too(ashlar):
    uri = "nexus:///v?size=8MiB&children=malloc:///m?size_mb=24"
    assert ashlar("bench", uri, "--ops", 100).returncode == 0
    assert (ashlar.dir / "state" / "ashlar" / "nexus" / "v.json").exists()


# ---- ctl --------------------------------------------------------------------------------

def test_ctl_says_who_is_missing(ashlar):
    done = ashlar("ctl", ashlar.dir / "nobody", "list")
    assert done.returncode == 1 and "running?" in done.stderr
    assert ashlar("ctl", ashlar.dir / ("x" * 200), "list").returncode == 1
    assert ashlar("ctl", "path").returncode == 2
    assert ashlar("ctl", "path", "two\nlines").returncode == 2


def test_ctl_tells_ok_from_error(mirror):
    assert mirror.ctl("rescan").stdout == ""
    done = mirror.ctl("dance")
    assert done.returncode == 1 and "'help' lists them" in done.stderr


def test_the_demo():
    done = subprocess.run([ROOT / "scripts" / "demo", "--fast"], capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 blocks differ; cmp(1) says the same" in done.stdout

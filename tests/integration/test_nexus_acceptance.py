# SPDX-License-Identifier: Apache-2.0
"""The acceptance list of the mirror: what holds of any engine that stands in for the original.

Where a row is shown: here, in src/nexus/NAME.c, in NAME.py beside this file, or, as `hosts', in a
case of tests/hosts/ with Linux' own host. The last test looks whether all of them are there.

  1  sizes of children         acceptance_test.c: sizes_of_children
                               geometry_test.c: sizes_to_the_block
  2  a child fails a write     here: test_a_child_that_fails
                               nexus_test.c: a_failing_leg_is_retired_and_the_host_sees_nothing
  3  a child fails a read      here: test_a_child_that_fails
                               nexus_test.c: a_read_is_answered_by_another_child
                               nexus_test.c: a_medium_error_is_repaired_and_the_child_stays
  4  partial after a fault     here: test_twelve_segments
                               rebuild_test.c: twelve_dirty_segments_move_twelve
  5  double fault              rebuild_test.c: a_second_fault_makes_it_full
  6  thin rebuild              here: test_thin_stays_thin
                               rebuild_test.c: thin_stays_thin
                               copy_test.c: holes_within_a_chunk
  7  rebuild source            here: test_a_local_source_first
  8  lock against a write      rebuild_test.c: a_write_waits_for_the_range_that_is_copied
  9  store paused              here: test_the_store_is_away_for_a_while
                               retire_test.c: nothing_is_acknowledged_while_the_store_is_away
 10  store lost                acceptance_test.c: the_store_is_lost_while_a_child_is_retired
 11  last healthy child        acceptance_test.c: the_last_healthy_child
                               here: test_the_life_of_a_record
 12  life of the record        here: test_the_life_of_a_record
 13  a faulted nexus freezes   test_nexus_tcp.py: test_a_faulted_nexus_freezes
                               nexus_test.c: without_a_healthy_child_io_is_held_until_the_end
                               hosts: nexus-frozen
 14  retry delay               hosts: nexus-retry-delay
                               test_nexus_tcp.py: test_retry_delay_is_that_of_the_class
 15  no space                  here: test_no_space
                               acceptance_test.c: a_child_that_is_full_to_the_last_page_comes_back
                               space_test.c: where_all_are_full_the_host_hears_it
                               hosts: nexus-no-space
 16  reservation preempted     test_nexus_tcp.py: test_the_second_owner_preempts_the_first
                               test_nexus_tcp.py: test_the_policy_holder
                               test_nexus_tcp.py: test_another_owner_stays_unless_asked
 17  two paths, ANA            test_nexus_tcp.py: test_two_nexuses_of_one_volume_are_two_paths
                               hosts: nexus-two-paths
 18  zeroes, unmap             nexus_test.c: zeroes_and_unmap_reach_all_children
                               hosts: nexus-zeroes
 19  resize                    acceptance_test.c: replicas_grow_first
                               here: test_resize_is_told
                               rebuild_test.c: the_nexus_grows_while_it_rebuilds
 20  shutdown under load       acceptance_test.c: shutting_down_twice_under_load
 24  faults, time and blocks   acceptance_test.c: a_fault_fires_within_its_time
                               acceptance_test.c: a_fault_fires_within_its_blocks
  -  rebuild, counted          here: test_twelve_segments
                               here: test_killed_under_load_moves_what_it_must
                               rebuild_end_test.c: after_a_crash_no_more_than_missed_and_in_flight
  -  replicas change hands     here: test_taken_over_and_given_back
                               acceptance_test.c: names_and_uuids

Where the rules of this engine are stricter they are what is tested: a read that fails is answered
by another child, so no host need retry; medium errors are repaired; a record that is damaged, or
only stale children, make no nexus.
"""

import hashlib
import json
import os
import re
import struct
import threading
from pathlib import Path

import pytest
from conftest import ROOT, wait_until
from nvmetcp import Host, NvmeError, sqe
from test_nexus_cli import DATA_AT, NQN, SIZE_MB, Mirror
from test_nexus_tcp import Process

KIB, MIB = 1 << 10, 1 << 20
SEGMENT = 64 * KIB
CAPACITY_EXCEEDED = 0x81  # NVMe Base 2.0, figure 94


def fill(mirror, segments):
    """Data in all of them, so that no rebuild may save anything on holes; and nothing in flight."""
    with Host(mirror.port, NQN) as host:
        queue = host.queue(1)
        for segment in segments:
            queue.write(1, segment * SEGMENT // 4096, os.urandom(SEGMENT), bs=4096)
    again(mirror)


def again(mirror):
    mirror.stop()
    mirror.run()


def touch(mirror, segments):
    """One block in each."""
    with Host(mirror.port, NQN) as host:
        queue = host.queue(1)
        for segment in segments:
            queue.write(1, segment * SEGMENT // 4096 + segment % 16, os.urandom(4096), bs=4096)


def same_replicas(mirror):
    """All that is behind the reserved area."""
    first, *others = (path.read_bytes()[DATA_AT:] for path in mirror.paths)
    return all(other == first for other in others)


def moved(record):
    return record["bytes_transferred"] + record["bytes_cleared"]


def inject(mirror, fault):
    mirror.ok("inject", fault)


# ---- rows 2 and 3

@pytest.mark.parametrize("op", ["write", "read"])
def test_a_child_that_fails(ashlar, op):
    mirror = Mirror(ashlar)
    data = os.urandom(4096)
    mirror.write(9, data)
    inject(mirror, f"inject://{mirror.paths[1]}?op={op}&stage=completion")
    with Host(mirror.port, NQN) as host:
        queue = host.queue(1)
        if op == "write":
            data = os.urandom(4096)
            queue.write(1, 9, data, bs=4096)
            # when the host has its answer, not later
            assert [c["healthy"] for c in mirror.record()["children"]] == [True, False]
        for _ in range(2):  # children take turns
            assert queue.read(1, 9, 1, bs=4096) == data
    wait_until(lambda: mirror.child(1)["health"] == "Faulted", what="the child is closed")
    child = mirror.child(1)
    assert (child["state"], child["reason"]) == ("Faulted", "IoFailure")
    # its log has begun; what a file caches it may have lost, as long as nobody has flushed it
    assert child["missed_segments"] in ([1] if op == "write" else [0, 1])
    assert mirror.nexus()["status"] == "Degraded"
    assert [c["healthy"] for c in mirror.record()["children"]] == [True, False]


# ---- rows 4 and 7, and what the rebuild moves

def test_twelve_segments(ashlar):
    """After a fault under writes twelve, after offline and online three, and copies are equal."""
    twelve, three = range(100, 112), (5, 7, 300)
    mirror = Mirror(ashlar, count=3)
    fill(mirror, [*twelve, *three])
    inject(mirror, f"inject://{mirror.paths[1]}?op=write&stage=completion&retries=1"
                   f"&offset={DATA_AT // 4096}&num_blk=1000000")
    touch(mirror, twelve)
    wait_until(lambda: mirror.child(1)["health"] == "Faulted", what="the child is closed")
    for n, segments in ((1, twelve), (2, three)):
        assert mirror.child(n)["missed_segments"] == len(segments)
        mirror.ok("child-online", mirror.uris[n])
        mirror.wait_online()
        assert [(r["child"], r["partial"], r["state"], r["bytes_transferred"], r["bytes_cleared"])
                for r in mirror.ok("rebuilds")["history"]] == [
                    (mirror.uris[n], True, "completed", len(segments) * SEGMENT, 0)]
        again(mirror)  # a file may lose what it caches: what is in flight would be moved, too
        if n == 1:
            mirror.ok("child-offline", mirror.uris[2])
            touch(mirror, three)
    mirror.stop()
    assert same_replicas(mirror)


def test_a_local_source_first(ashlar):
    """A remote replica, though it is named first, is not read while there is a local one."""
    mirror = Mirror(ashlar, count=2)
    mirror.stop()
    remote = Process(ashlar, "remote", f"malloc:///remote?size_mb={SIZE_MB + 16}&blk_size=4096")
    mirror.uris = [remote.url(), *mirror.uris]
    mirror.run()
    mirror.wait_online()  # the remote one is a stranger to the record, and gets everything
    mirror.ok("child-offline", mirror.uris[2])
    touch(mirror, [3])
    mirror.ok("child-online", mirror.uris[2])
    mirror.wait_online()
    newest = mirror.ok("rebuilds")["history"][0]
    assert (newest["child"], newest["source"]) == (mirror.uris[2], mirror.uris[1])
    assert [mirror.child(n)["local"] for n in range(3)] == [False, True, True]


class Writer(threading.Thread):
    """Writes to the first `segments' of the volume until its connection ends."""

    def __init__(self, port, segments):
        super().__init__()
        self.host = Host(port, NQN)
        self.queue = self.host.queue(1)
        self.segments, self.count = segments, 0
        self.start()

    def run(self):
        blocks = self.segments * SEGMENT // 4096
        data = os.urandom(4096)
        waiting = []
        try:
            while True:
                entry = self.queue.rw(1, 1, self.count * 37 % blocks, 1)
                waiting.append(self.queue.submit(entry, data))
                if len(waiting) == 16:
                    self.queue.wait(waiting.pop(0))
                self.count += 1
        except (EOFError, OSError):
            self.host.close()


def test_killed_under_load_moves_what_it_must(ashlar):
    """kill -9 of the nexus' process while hosts write: made again from its record it moves what was
    missed and what was in flight, counted, and no more."""
    load, missed = range(32), range(100, 112)
    mirror = Mirror(ashlar, count=3)
    uuid = mirror.nexus()["uuid"]
    fill(mirror, [*load, *missed])
    mirror.ok("child-offline", mirror.uris[2])
    touch(mirror, missed)
    writer = Writer(mirror.port, len(load))
    wait_until(lambda: mirror.child(2)["missed_segments"] == len(load) + len(missed) and
               writer.count > 500, what="writes to all of the segments")
    mirror.process.kill()
    mirror.process.communicate()
    writer.join()
    check = ashlar("nexus", "check", *mirror.uris, "--key", "vol0", "--json")
    said = {r["uri"]: r for r in json.loads(check.stdout)["replicas"]}
    mirror.run()
    mirror.wait_online()
    assert mirror.nexus()["uuid"] == uuid  # nobody gave one
    history = {r["child"]: r for r in mirror.ok("rebuilds")["history"]}
    assert set(history) == set(mirror.uris[1:])
    for uri in mirror.uris[1:]:
        assert history[uri]["partial"] and history[uri]["state"] == "completed"
        # where more was marked than ever written to there are holes, and nothing is moved
        assert moved(history[uri]) <= said[uri]["rebuild_bytes"]
    # the twelve were in flight, too, as far as anybody knows: they were written a moment ago
    assert moved(history[mirror.uris[1]]) <= (len(load) + len(missed)) * SEGMENT
    assert len(missed) * SEGMENT <= moved(history[mirror.uris[2]]) \
        <= (len(load) + len(missed)) * SEGMENT
    mirror.stop()
    assert same_replicas(mirror)


# ---- row 6

@pytest.mark.parametrize("source", ["remote", "local"])
@pytest.mark.parametrize("target", ["remote", "local"])
def test_thin_stays_thin(ashlar, source, target):
    """What is allocated is the same on both, whatever was on the new one before."""
    size = "size_mb=48&blk_size=4096"
    remote = [Process(ashlar, f"r{n}", f"malloc:///r{n}?{size}") for n in range(2)]
    places = {"remote": [(r.url(), r.port, r.nqn, 1) for r in remote]}
    uris = [places["remote"][0][0] if source == "remote" else "bdev:///l0"]
    nexus = Process(ashlar, "nexus", f"malloc:///l0?{size}", f"malloc:///l1?{size}")
    nexus.ok("add nexus:///thin?size=32MiB&children=" + uris[0].replace("&", "%26"))
    places["local"] = [(f"bdev:///l{n}", nexus.port, nexus.nqn, n + 1) for n in range(2)]
    one, other = places[source][0], places[target][1]

    def used(place):
        with Host(place[1], place[2]) as host:
            return struct.unpack_from("<Q", host.admin.identify(0, place[3]), 16)[0]

    with Host(other[1], other[2]) as host:  # stale data of somebody else
        host.queue(1).write(other[3], 2000, os.urandom(128 * KIB), bs=4096)
    with Host(nexus.port, nexus.nqn) as host:
        queue = host.queue(1)
        for lba, count in ((0, 1), (777, 32), (5000, 3)):
            queue.write(3, lba, os.urandom(count * 4096), bs=4096)
        nexus.ok("child-add " + other[0])
        wait_until(lambda: (seen := json.loads(nexus.ok("nexus"))[0])["status"] == "Online" and
                   not seen["rebuilds"], what="a rebuild")
        last = json.loads(nexus.ok("rebuilds"))["history"][0]
        assert last["bytes_transferred"] == 36 * 4096 and last["bytes_cleared"] >= 128 * KIB
        queue.deallocate(3, [(777, 30)])
    nexus.ok("remove 3")
    for place in (one, other):
        with Host(place[1], place[2]) as host:
            assert used(place) > 6
            host.queue(1).deallocate(place[3], [(0, DATA_AT // 4096)])  # our notes
        assert used(place) == 6


# ---- row 9

def test_the_store_is_away_for_a_while(ashlar):
    """A child falls and the record cannot be written: nothing is acknowledged until it can."""
    store = ashlar.dir / "store"
    mirror = Mirror(ashlar, "--store", store)
    mirror.write(0, bytes(4096))
    before = (store / "vol0.json").read_text()
    blocker = store / "vol0.json.tmp"  # where the new text would be written
    blocker.mkdir()
    inject(mirror, f"inject://{mirror.paths[1]}?op=write&stage=completion")
    with Host(mirror.port, NQN) as host:
        queue = host.queue(1)
        held = [queue.submit(queue.rw(1, 1, lba, 1), os.urandom(4096)) for lba in (1, 2, 600)]
        wait_until(lambda: any(e["type"] == "store" for e in mirror.ok("events")),
                   what="trouble with the store")
        assert queue.read(1, 0, 1, bs=4096) == bytes(4096)  # reads go on
        assert not any(cid in queue.done for cid in held)
        assert (store / "vol0.json").read_text() == before
        blocker.rmdir()
        for cid in held:
            queue.wait(cid)
    record = json.loads((store / "vol0.json").read_text())
    assert [c["healthy"] for c in record["children"]] == [True, False]
    assert mirror.nexus()["status"] == "Degraded"


# ---- row 12

def test_the_life_of_a_record(ashlar):
    """The text after each step, byte for byte; what follows the children is ours, and stays."""
    mirror = Mirror(ashlar, query="&uuid=5a0c3b1e-7d52-4c0a-9f5b-d2f1a4c0e6b7&key=vol0")
    path = ashlar.dir / "state" / "ashlar" / "nexus" / "vol0.json"
    generation = json.loads(path.read_text())["generation"]
    assert re.fullmatch("[0-9a-f]{16}", generation)

    def expect(healthy, clean=False):
        """`healthy': by number of the replica, in the order of the record."""
        children = ", ".join(f'{{"uuid": "00000000-0000-4000-8000-00000000000{n}", '
                             f'"healthy": {str(ok).lower()}}}' for n, ok in healthy.items())
        assert path.read_text() == (f'{{"clean_shutdown": {str(clean).lower()}, "children": '
                                    f'[{children}], "generation": "{generation}", '
                                    f'"size": {SIZE_MB * MIB}, "label": "v1"}}')

    expect({0: True, 1: True})
    mirror.paths.append(ashlar.file("r2", (SIZE_MB + 16) * MIB))
    mirror.uris.append(mirror.uri_of(2))
    mirror.ok("child-add", mirror.uris[2], "norebuild")
    expect({0: True, 1: True, 2: False})
    mirror.ok("rebuild", mirror.uris[2], "start")
    mirror.wait_online()
    expect({0: True, 1: True, 2: True})
    inject(mirror, f"inject://{mirror.paths[1]}?op=write&stage=completion&retries=1")
    mirror.write(4, b"x" * 4096)
    expect({0: True, 1: False, 2: True})
    wait_until(lambda: mirror.child(1)["health"] == "Faulted", what="the child is closed")
    mirror.ok("child-online", mirror.uris[1])
    mirror.wait_online()
    expect({0: True, 1: True, 2: True})
    mirror.ok("child-fault", mirror.uris[1])
    expect({0: True, 1: False, 2: True})
    mirror.ok("child-remove", mirror.uris[1])
    expect({0: True, 2: True})
    mirror.ok("child-offline", mirror.uris[0])
    expect({0: False, 2: True})
    for what in ("child-offline", "child-fault", "child-remove"):
        assert "last healthy" in mirror.refused(what, mirror.uris[2])
    expect({0: False, 2: True})
    mirror.ok("child-online", mirror.uris[0])
    mirror.wait_online()
    expect({0: True, 2: True})
    mirror.stop()
    expect({0: True, 2: True}, clean=True)
    mirror.run([mirror.uris[0], mirror.uris[2]])
    first, generation = generation, json.loads(path.read_text())["generation"]
    assert generation != first
    expect({0: True, 2: True})
    mirror.process.kill()
    mirror.process.communicate()
    expect({0: True, 2: True})


# ---- row 15

def test_no_space(ashlar):
    """One replica is full: the volume goes on without it. All are: the host is told. When there is
    room again both are well again."""
    thin = [f"malloc:///thin{n}?size_mb=48&blk_size=4096&capacity_mb={capacity}"
            for n, capacity in enumerate((8, 16))]
    nexus = Process(ashlar, "nexus", *thin)
    nexus.ok("add nexus:///vol?size=32MiB&children=bdev:///thin0,bdev:///thin1")

    def seen():
        return json.loads(nexus.ok("nexus"))[0]

    def child(n):
        return seen()["children"][n]

    def is_full(lba, count):
        try:
            for at in range(lba, lba + count, 32):
                queue.write(3, at, data, bs=4096)
        except NvmeError as error:
            assert error.status & 0x7FF == CAPACITY_EXCEEDED
            return True
        return False

    data = os.urandom(128 * KIB)
    with Host(nexus.port, nexus.nqn) as host:
        queue = host.queue(1)
        assert not is_full(0, 4 * 256)
        assert seen()["status"] == "Online"
        assert not is_full(4 * 256, 6 * 256)  # 10 MiB now
        wait_until(lambda: child(0)["health"] == "Degraded", what="the full one is closed")
        assert (child(0)["reason"], seen()["status"]) == ("NoSpace", "Degraded")
        assert is_full(10 * 256, 10 * 256)
        assert is_full(20 * 256, 256)  # it stays so, and is no reason to end anything
        assert not seen()["frozen"] and child(1)["health"] == "Online"
        assert queue.read(3, 9 * 256, 32, bs=4096) == data
        queue.deallocate(3, [(0, 2 * 256), (4 * 256, 18 * 256)])
        assert not is_full(0, 256)
        nexus.ok("child-online bdev:///thin0")
        wait_until(lambda: seen()["status"] == "Online" and not seen()["rebuilds"],
                   what="both are well")
        assert queue.read(3, 3 * 256, 32, bs=4096) == data
    last = json.loads(nexus.ok("rebuilds"))["history"][0]
    assert (last["child"], last["partial"]) == ("bdev:///thin0", True)
    health = [e["health"] for e in json.loads(nexus.ok("events"))
              if e["type"] == "child-state" and e["child"] == "bdev:///thin0"]
    assert health[-2:] == ["Degraded", "Online"]  # out of sync first


# ---- row 19

def test_resize_is_told(ashlar):
    """Refused before the replicas grew, told to hosts after, without their I/O being in the way."""
    mirror = Mirror(ashlar)
    tight, big = (SIZE_MB + 16) * MIB, (2 * SIZE_MB + 16) * MIB
    mirror.ok("nexus-resize", str(tight))  # as far as there is room: 6 blocks are a table's
    assert mirror.nexus()["size"] == tight - DATA_AT - 6 * 4096
    for path in mirror.paths:
        assert "after its replicas" in mirror.refused("nexus-resize", f"{2 * SIZE_MB}MiB")
        assert mirror.nexus()["size_asked"] == tight
        os.truncate(path, big)
    with Host(mirror.port, NQN) as host:
        host.admin.set_feature(0x0B, 0x100)
        event = host.admin.submit(sqe(0x0C))
        queue = host.queue(1)
        cids = [queue.submit(queue.rw(1, 1, lba, 1), bytes(4096)) for lba in range(64)]
        mirror.ok("nexus-resize", f"{2 * SIZE_MB}MiB")
        for cid in cids:
            queue.wait(cid)
        assert host.admin.wait(event).dw0 == 0x040002  # namespace attribute changed
        blocks = struct.unpack_from("<Q", host.admin.identify(0, 1))[0]
        assert blocks * 4096 == mirror.nexus()["size"] == 2 * SIZE_MB * MIB - 4096
        queue.write(1, blocks - 1, b"e" * 4096, bs=4096)
        assert mirror.refused("nexus-resize", str(SIZE_MB * MIB)) != ""
        assert mirror.nexus()["size"] == blocks * 4096
    mirror.stop()
    for path in mirror.paths:
        with path.open("rb") as file:
            file.seek(DATA_AT + (blocks - 1) * 4096)
            assert file.read(4096) == b"e" * 4096


# ---- replicas of the original

# label, block size, blocks of a replica, size asked, more; then, as on the original's disks: the
# first block of data and how many there are. 64 MiB on 64 MiB is the dossier's own example.
LAYOUTS = [
    ("v1", 512, 131072, 64 * MIB, "", 10240, 120798),
    ("v1", 512, 49152, 16 * MIB, "", 10240, 32767),
    ("v1", 512, 49152, 16 * MIB, "&required_size", 10240, 32768),
    ("v1", 4096, 6144, 16 * MIB, "", 1280, 4095),
    ("v2", 512, 49152, 16 * MIB, "&required_size", 8192, 32768),
    ("v2", 512, 40960, 16 * MIB, "", 8192, 40960 - 16384),
    ("v2", 4096, 6144, 16 * MIB, "&required_size", 1024, 4096),
]


def used_disk(paths, size, start):
    """What is on a replica that has been in use: something everywhere, so that nothing goes unseen
    that moves, and holes between."""
    old = bytearray(size)
    pieces = [*((at, 4 * KIB) for at in range(start, size, 64 * KIB)),
              (0, 6 * MIB), (size - 5 * MIB, 5 * MIB)]
    for at, length in pieces:
        old[at:at + length] = os.urandom(length)
    for path in paths:
        with path.open("r+b") as file:
            for at, length in pieces:
                file.seek(at)
                file.write(old[at:at + length])
    return old


@pytest.mark.parametrize("label, bs, replica, size, more, start, blocks", LAYOUTS)
def test_taken_over_and_given_back(ashlar, label, bs, replica, size, more, start, blocks):
    """Replicas that another engine has written, with its record: all data is where it was, hosts
    find the device by the same names, and whatever is not the volume's stays as it is."""
    uuid = "5a0c3b1e-7d52-4c0a-9f5b-d2f1a4c0e6b7"
    children = [f"00000000-0000-4000-8000-00000000000{n}" for n in range(2)]
    paths = [ashlar.file(f"disk{n}", replica * bs) for n in range(2)]
    old = used_disk(paths, replica * bs, start * bs)
    record = ashlar.dir / "state" / "ashlar" / "nexus" / f"{uuid}.json"
    record.parent.mkdir(parents=True)

    def given():
        """As the other engine writes it."""
        record.write_text(json.dumps({"clean_shutdown": True, "children": [
            {"uuid": c, "healthy": True} for c in children]}, separators=(",", ":")))

    uris = ",".join(f"aio://{p}?blk_size={bs}%26uuid={c}" for p, c in zip(paths, children))
    uri = f"nexus:///vol-7?size={size}&uuid={uuid}&label={label}{more}&children={uris}"

    def serve():
        return Process(ashlar, "nexus", uri, nqn="nqn.2019-05.io.openebs:vol-7")

    def check_all(queue, want):
        """Both ends, and what lies 64 KiB apart: a block that is elsewhere shows at once."""
        step = 64 * KIB // bs
        for lba in (*range(0, blocks - 1, step), blocks - 1):
            assert queue.read(1, lba, 1, bs=bs) == want[(start + lba) * bs:(start + lba + 1) * bs]

    given()
    nexus = serve()
    with Host(nexus.port, nexus.nqn) as host:
        ctrl, ns = host.admin.identify(1), host.admin.identify(0, 1)
        assert ctrl[24:64] == b"Mayastor NVMe controller".ljust(40)
        digest = hashlib.sha256(bytes.fromhex(uuid.replace("-", ""))).hexdigest()
        assert ctrl[4:24] == b"DCS" + digest[:17].upper().encode()
        assert struct.unpack_from("<Q", ns)[0] == blocks
        assert ns[104:120].hex() == uuid.replace("-", "")
        queue = host.queue(1)
        check_all(queue, old)
        new = {lba: os.urandom(bs) for lba in (0, 1, blocks // 2, blocks - 1)}
        for lba, data in new.items():
            queue.write(1, lba, data, bs=bs)
        with pytest.raises(NvmeError):
            queue.write(1, blocks, bytes(bs), bs=bs)
        seen = json.loads(nexus.ok("nexus"))[0]
        assert (seen["status"], seen["label"], seen["size_asked"]) == ("Online", label, size)
        assert json.loads(nexus.ok("rebuilds")) == {"jobs": [], "history": []}
    assert nexus.stop()[0] == 0
    want = bytearray(old)
    for lba, data in new.items():
        want[(start + lba) * bs:(start + lba + 1) * bs] = data
    for path in paths:
        have = path.read_bytes()
        assert have[:MIB] == want[:MIB], "in front of the metadata"
        assert have[start * bs:] == want[start * bs:], "data, and what is behind"
    said = json.loads(record.read_text())
    assert said["clean_shutdown"] is True
    assert said["children"] == [{"uuid": c, "healthy": True} for c in children]
    # the other engine writes, and leaves our notes in the metadata as they are: they are void now
    for path in paths:
        with path.open("r+b") as file:
            file.seek((start + 5) * bs)
            file.write(b"o" * bs)
    given()
    nexus = serve()
    with Host(nexus.port, nexus.nqn) as host:
        assert host.queue(1).read(1, 5, 1, bs=bs) == b"o" * bs
    assert json.loads(nexus.ok("rebuilds")) == {"jobs": [], "history": []}
    assert nexus.stop()[0] == 0


# ---- the list itself

def test_the_list_names_what_is_there():
    """Each test of the list above exists, and each row has one."""
    names = re.findall(r"(here|hosts|\w+\.c|\w+\.py): ([\w-]+)$", __doc__, re.M)
    rows = {int(row) for row in re.findall(r"^ ([ \d]\d)  ", __doc__, re.M)}
    assert rows == {*range(1, 21), 24} and len(names) > len(rows)
    for place, name in names:
        path, sign = {
            "here": (Path(__file__), f"def {name}("),
            "hosts": (ROOT / "tests" / "hosts" / "cases_nexus.py", f'@case("{name}"'),
        }.get(place) or ((ROOT / "src" / "nexus" / place, f"TEST({name})")
                         if place.endswith(".c") else
                         (Path(__file__).parent / place, f"def {name}("))
        assert sign in path.read_text(), f"{place}: {name}"

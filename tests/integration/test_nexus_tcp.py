# SPDX-License-Identifier: Apache-2.0
"""A nexus over NVMe/TCP: each replica is an export, the nexus another, the load a fifth process."""

import json
import signal
import socket

import pytest
from conftest import wait_until
from nvmetcp import Host, NvmeError

NQN = "nqn.2019-05.io.openebs:"
MIB = 1 << 20
UUID = "00000000-0000-4000-8000-00000000000"
NEXUS_UUID = "00000000-0000-4000-8000-0000000000aa"


class Process:
    """One `ashlar export` of one URI."""

    def __init__(self, ashlar, name, uri, *words, nqn=None):
        self.ashlar, self.name, self.uri = ashlar, name, uri
        self.control = ashlar.dir / f"{name}.control"
        port_file = ashlar.dir / f"{name}.port"
        port_file.unlink(missing_ok=True)  # of one that was killed
        self.nqn = nqn or NQN + name
        self.process = ashlar.start("export", uri, "--listen", "127.0.0.1:0", "--nqn", self.nqn,
                                    "--control", self.control, "--port-file", port_file, *words)
        wait_until(lambda: port_file.exists() or self.process.poll() is not None,
                   what="the port file")
        assert self.process.poll() is None, self.process.communicate()
        wait_until(self.control.exists, what="the control socket")
        self.port = int(port_file.read_text())

    def url(self, more=""):
        return f"nvmf://127.0.0.1:{self.port}/{self.nqn}{more}"

    def ok(self, line):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(20)
            s.connect(str(self.control))
            s.sendall((line + "\n").encode())
            s.shutdown(socket.SHUT_WR)
            answer = b""
            while more := s.recv(65536):
                answer += more
        assert answer.startswith(b"ok"), answer
        return answer.decode()[3:].strip()

    def writes(self):
        ns = json.loads(self.ok("stats"))["namespaces"][0]
        return ns.get("write", {}).get("ops", 0)

    def kill(self, how=signal.SIGKILL):
        self.process.send_signal(how)

    def stop(self):
        self.kill(signal.SIGTERM)
        _, err = self.process.communicate(timeout=30)
        return self.process.returncode, err


class Volume:
    """Replicas in files, an export each; and what nexuses are made of."""

    def __init__(self, ashlar, count):
        self.ashlar = ashlar
        self.disks = [ashlar.file(f"disk{i}", 64 * MIB) for i in range(count)]
        self.replicas = [Process(ashlar, f"r{i}", f"aio://{disk}?blk_size=512&uuid={UUID}{i}")
                         for i, disk in enumerate(self.disks)]

    def nexus(self, name, *words, more="", child="", nqn=None):
        children = ",".join(r.url(child).replace("&", "%26").replace(",", "%252C")
                            for r in self.replicas)
        uri = f"nexus:///{name}?size=48MiB&uuid={NEXUS_UUID}{more}&children={children}"
        return Process(self.ashlar, name, uri, *words, nqn=nqn)

    def record(self, key=NEXUS_UUID):
        """What the record says: uuid of each replica's last digit -> healthy."""
        path = self.ashlar.dir / "state" / "ashlar" / "nexus" / f"{key}.json"
        record = json.loads(path.read_text())
        return [c["healthy"] for c in sorted(record["children"], key=lambda c: c["uuid"])]


def load(ashlar, url, seconds):
    return ashlar.start("bench", url, "--time", seconds, "--rw", "randrw", "--rwmix", 30, "--qd",
                        16, "--verify", "--json")


def result(process):
    """Ends well, and everything is as written; how long the slowest request took, in seconds."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    report = json.loads(out)
    assert report["errors"] == 0
    return report, err


def slowest_s(report):
    return report["lat_ns"]["max"] / 1e9


def same_data(disks):
    """Everything behind the reserved area."""
    first, *others = (disk.read_bytes()[5 * MIB:] for disk in disks)
    return all(other == first for other in others)


def test_verified_load_through_three_hops(ashlar):
    volume = Volume(ashlar, 3)
    nexus = volume.nexus("n0")
    result(load(ashlar, nexus.url(), 1))
    assert nexus.stop()[0] == 0
    assert volume.record() == [True, True, True]
    for replica in volume.replicas:
        assert replica.stop()[0] == 0
    assert same_data(volume.disks)


@pytest.mark.parametrize("how, more, bound_s", [
    (signal.SIGKILL, "", 3),
    (signal.SIGSTOP, "&child_timeout=1s", 5),
])
def test_a_replica_dies_under_load(ashlar, how, more, bound_s):
    """Killed, it is noticed at once; stopped, it hangs until child_timeout has passed. No host
    sees an error either way, and nothing waits for it longer."""
    volume = Volume(ashlar, 3)
    nexus = volume.nexus("n0", more=more)
    bench = load(ashlar, nexus.url(), 4 if how == signal.SIGKILL else 7)
    wait_until(lambda: nexus.writes() > 500, what="I/O")
    volume.replicas[1].kill(how)
    wait_until(lambda: volume.record() == [True, False, True], what="the record")
    before = nexus.writes()
    wait_until(lambda: nexus.writes() > before + 500, what="I/O with two replicas")
    report, _ = result(bench)
    assert slowest_s(report) < bound_s
    status, err = nexus.stop()
    assert status == 0
    assert ("TimedOut" if how == signal.SIGSTOP else "IoFailure") in err \
        or "AdminFailed" in err, err
    assert volume.record() == [True, False, True]
    for i in (0, 2):
        assert volume.replicas[i].stop()[0] == 0
    assert same_data([volume.disks[0], volume.disks[2]])


def host(number):
    return f"?hostnqn=nqn.2014-08.org.example:h{number}"


def holders(volume):
    """Of each replica: the type of its reservation and the keys that hold it."""
    all_of_them = [json.loads(r.ok("reservations"))[0] for r in volume.replicas]
    return [(r["type"], sorted(g["key"] for g in r["registrants"] if g["holds"]))
            for r in all_of_them]


@pytest.mark.parametrize("first, second", [
    ("&resv_key=17&resv_type=1", "&resv_key=34&resv_type=1&preempt=holder"),
    ("&resv_key=17&resv_type=1", "&resv_key=34&resv_type=1&preempt_key=17"),
    ("&resv_key=17", "&resv_key=34&preempt_key=17"),
    ("&resv_key=17&resv_type=3", "&resv_key=34&resv_type=2&preempt=holder"),
])
def test_the_second_owner_preempts_the_first(ashlar, first, second):
    volume = Volume(ashlar, 2)
    old = volume.nexus("old", more=first + "&key=old", child=host(1))
    before = holders(volume)
    assert before[0] == before[1] and before[0][1] == ["0x11"]
    bench = load(ashlar, old.url("?fast_io_fail=200ms"), 3)
    wait_until(lambda: old.writes() > 200, what="I/O")
    new = volume.nexus("new", more=second + "&key=new", child=host(2))
    after = holders(volume)
    assert after[0] == after[1] and after[0][1] == ["0x22"]
    _, err = bench.communicate(timeout=60)  # it has no other path
    assert bench.returncode == 1, "the old nexus went on writing"
    record = volume.record("old")
    assert json.loads(old.ok("nexus"))[0]["state"] == "Shutdown"
    result(load(ashlar, new.url(), 1))
    status, err = old.stop()
    assert "ends itself: a child is reserved by another owner" in err
    assert volume.record("old") == record == [True, True]
    assert new.stop()[0] == 0


@pytest.mark.parametrize("words", [["--ana"], []], ids=["ana", "no-ana"])
def test_a_host_follows_the_owner_who_preempts(ashlar, words):
    """Two paths, the second begins to serve when it takes the replicas from the first. A command
    that meets that, and those that come later, go to the other path: the host sees no error."""
    volume = Volume(ashlar, 2)
    nqn = NQN + "volume"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        old = volume.nexus("old", *words, "--cntlid-range", "1-100", nqn=nqn, child=host(1),
                           more="&resv_key=17&resv_type=1&key=old")
        bench = load(ashlar, old.url(f"?paths={place}&reconnect_delay=100ms"), 5)
        wait_until(lambda: old.writes() > 200, what="I/O through the first")
    new = volume.nexus("new", *words, "--cntlid-range", "101-200", "--listen", place, nqn=nqn,
                       child=host(2), more="&resv_key=34&resv_type=1&preempt=holder&key=new")
    wait_until(lambda: new.writes() > 200, what="I/O through the other")
    assert json.loads(old.ok("nexus"))[0]["state"] == "Shutdown"
    why = "a child is reserved by another owner"
    assert json.loads(old.ok("nexus"))[0]["why"] == why
    assert f": it has ended itself: {why}\n" in ashlar("ctl", old.control, "status").stdout
    assert len(json.loads(old.ok("controllers"))) == len(words)  # without ANA it is sent away
    if not words:
        done = ashlar("bench", old.url("?ctrl_loss=0"), "--time", 0.1)
        assert done.returncode == 1 and "or the volume has ended there" in done.stderr
    result(bench)
    status, err = old.stop()
    assert status == 0 and "path closed, its device has ended" in err
    for process in (new, *volume.replicas):
        assert process.stop()[0] == 0
    assert same_data(volume.disks)


@pytest.mark.parametrize("words", [["--ana"], []], ids=["ana", "no-ana"])
def test_a_host_without_another_path_waits(ashlar, words):
    """It is told nothing that it would take for the end of the volume: it waits until that is
    served there again. The namespace is there meanwhile, with ANA inaccessible."""
    volume = Volume(ashlar, 2)
    old = volume.nexus("old", *words, more="&resv_key=17&resv_type=1&key=old", child=host(1))
    bench = load(ashlar, old.url("?reconnect_delay=100ms"), 5)
    wait_until(lambda: old.writes() > 200, what="I/O")
    new = volume.nexus("new", more="&resv_key=34&resv_type=1&preempt=holder&key=new",
                       child=host(2))
    wait_until(lambda: json.loads(old.ok("nexus"))[0]["state"] == "Shutdown", what="the end")
    with pytest.raises(NvmeError) as e, Host(old.port, old.nqn) as us:
        us.queue(1).write(1, 0, b"o" * 512)
    # inaccessible; or busy, come again. Neither says "do not retry"
    assert e.value.cqe.status & 0x47ff == (0x302 if words else 0x181)
    assert old.stop()[0] == 0 and new.stop()[0] == 0
    again = volume.nexus("again", *words, "--listen", f"127.0.0.1:{old.port}", nqn=old.nqn,
                         more="&resv_key=17&resv_type=1&preempt=holder&key=new", child=host(1))
    result(bench)
    assert again.writes() > 0
    assert again.stop()[0] == 0


# Type and key wanted by host 2; who was there before: host, type and key, if any; what is held
# then. All registrants hold the types 5 and 6.
TYPES = {1: "write exclusive", 2: "exclusive access", 5: "write exclusive, all registrants"}
HOLDER = {
    "nobody": (1, 34, None, 1, ["0x22"]),
    "ourselves": (1, 34, (2, 1, 34), 1, ["0x22"]),
    "ourselves, another key": (1, 34, (2, 1, 17), 1, ["0x22"]),
    "ourselves, another type": (2, 34, (2, 1, 34), 2, ["0x22"]),
    "all registrants": (1, 34, (1, 5, 17), 1, ["0x22"]),
    "all registrants, as wanted": (5, 34, (1, 5, 17), 5, ["0x11", "0x22"]),
    "all registrants, wanted differently": (6, 34, (1, 5, 17), 5, ["0x11", "0x22"]),
}


@pytest.mark.parametrize("case", HOLDER)
def test_the_policy_holder(ashlar, case):
    """With preempt=holder, whoever holds the replicas; a nexus that is made again among them."""
    wanted, key, before, kind, keys = HOLDER[case]
    volume = Volume(ashlar, 2)
    old = None
    if before:
        old = volume.nexus("old", more=f"&resv_type={before[1]}&resv_key={before[2]}&key=old",
                           child=host(before[0]))
        if before[0] == 2:
            old.kill()
            old.process.wait()
    new = volume.nexus("new", more=f"&resv_type={wanted}&resv_key={key}&preempt=holder&key=new",
                       child=host(2))
    after = holders(volume)
    assert after == [(TYPES[kind], keys)] * 2
    with Host(new.port, new.nqn) as us:
        us.queue(1).write(1, 0, b"n" * 512)
    if before and before[0] == 1:
        with Host(old.port, old.nqn) as them:
            queue = them.queue(1)
            if "0x11" in keys:
                queue.write(1, 8, b"o" * 512)
            else:
                with pytest.raises(NvmeError):
                    queue.write(1, 8, b"o" * 512)
        state = "Open" if "0x11" in keys else "Shutdown"
        wait_until(lambda: json.loads(old.ok("nexus"))[0]["state"] == state, what=state)
    assert json.loads(new.ok("nexus"))[0]["state"] == "Open"


def test_another_owner_stays_unless_asked(ashlar):
    volume = Volume(ashlar, 2)
    old = volume.nexus("old", more="&resv_key=17&resv_type=1&key=old", child=host(1))
    children = ",".join(r.url(host(2)) for r in volume.replicas)
    done = ashlar("bench", f"nexus:///new?size=48MiB&resv_key=34&resv_type=1&children={children}",
                  "--time", 0.1)
    assert done.returncode == 1
    assert "cannot be reserved" in done.stderr
    result(load(ashlar, old.url(), 0.5))
    assert old.stop()[0] == 0


def test_children_without_reservations_are_used_without(ashlar):
    disk = ashlar.file("disk", 64 * MIB)
    done = ashlar("bench", f"nexus:///n?size=48MiB&resv_key=17&children=aio://{disk}", "--time",
                  0.1, "--rw", "randrw", "--verify")
    assert done.returncode == 0, done.stderr


def test_two_nexuses_of_one_volume_are_two_paths(ashlar):
    """Two engines serve one volume under one name with controller ids of their own; ANA says who
    does it now, and one host follows without an error."""
    volume = Volume(ashlar, 2)
    nqn = NQN + "volume"
    a = volume.nexus("a", "--ana", "--cntlid-range", "1-100", more="&key=a", nqn=nqn)
    b = volume.nexus("b", "--ana", "--cntlid-range", "101-200", "--ana-state", "inaccessible",
                     more="&key=b", nqn=nqn)
    bench = load(ashlar, a.url(f"?paths=127.0.0.1:{b.port}"), 5)
    wait_until(lambda: a.writes() > 200, what="I/O through the first")
    ids = [[c["cntlid"] for c in json.loads(n.ok("controllers"))] for n in (a, b)]
    assert [len(i) for i in ids] == [1, 1]
    assert 1 <= ids[0][0] <= 100 and 101 <= ids[1][0] <= 200
    assert b.writes() == 0
    for old, new in ((a, b), (b, a)):
        old.ok("ana inaccessible")
        stopped, before = old.writes(), new.writes()
        new.ok("ana optimized")
        wait_until(lambda: new.writes() > before + 200, what="I/O through the other")
        assert old.writes() == stopped
    result(bench)
    for process in (a, b, *volume.replicas):
        assert process.stop()[0] == 0
    assert same_data(volume.disks)


@pytest.mark.parametrize("how", ["export", "bench"])
def test_a_volume_that_is_served_is_left_alone(ashlar, how):
    """The same command once more while the first serves: it touches no replica. After kill -9 the
    next one has the volume at once."""
    volume = Volume(ashlar, 2)
    nexus = volume.nexus("n0")
    bench = load(ashlar, nexus.url(), 4)
    wait_until(lambda: nexus.writes() > 200, what="I/O")
    events = nexus.ok("events")
    came = [json.loads(r.ok("stats"))["accepted"] for r in volume.replicas]
    own = ["--listen", "127.0.0.1:0"] if how == "export" else ["--rw", "randwrite", "--time", "1"]
    done = ashlar(how, nexus.uri, *own)
    assert done.returncode == 1
    assert f"served by another process (pid {nexus.process.pid}" in done.stderr
    assert "ashlar ctl" in done.stderr
    assert came == [json.loads(r.ok("stats"))["accepted"] for r in volume.replicas]
    result(bench)
    assert nexus.ok("events") == events
    nexus.ok("scrub start")
    wait_until(lambda: json.loads(nexus.ok("scrub"))["state"] == "completed", what="the scrub")
    assert json.loads(nexus.ok("scrub"))["blocks_differ"] == 0
    nexus.kill()
    nexus.process.communicate()
    again = volume.nexus("n0")
    wait_until(lambda: json.loads(again.ok("nexus"))[0]["status"] == "Online", what="in sync")
    result(load(ashlar, again.url(), 0.5))
    assert again.stop()[0] == 0
    assert same_data(volume.disks)


def test_pause_of_the_export_and_retirement_together(ashlar):
    volume = Volume(ashlar, 2)
    nexus = volume.nexus("n0")
    bench = load(ashlar, nexus.url(), 3)
    wait_until(lambda: nexus.writes() > 200, what="I/O")
    nexus.ok("pause")
    held = nexus.writes()
    volume.replicas[0].kill()
    wait_until(lambda: volume.record() == [False, True], what="the record")
    assert nexus.writes() == held
    nexus.ok("resume")
    wait_until(lambda: nexus.writes() > held + 200, what="I/O with one replica")
    result(bench)
    assert nexus.stop()[0] == 0


def test_a_faulted_nexus_freezes(ashlar):
    """No replica is left: the host waits, and sees no error, until the nexus is gone. The record
    has the last one as healthy, so the volume can be made again from it."""
    volume = Volume(ashlar, 2)
    nexus = volume.nexus("n0")
    bench = ashlar.start("bench", nexus.url("?reconnect_delay=100ms"), "--time", 2, "--rw",
                         "randwrite", "--verify", "--json")
    wait_until(lambda: nexus.writes() > 200, what="I/O")
    volume.replicas[1].kill()
    wait_until(lambda: volume.record() == [True, False], what="the record")
    volume.replicas[0].kill()
    wait_until(lambda: json.loads(nexus.ok("stats"))["controllers"] == 1, what="the host")
    stuck = wait_until(lambda: (n := nexus.writes()) == nexus.writes() and n, what="silence")
    with pytest.raises(Exception, match="timed out"):
        bench.communicate(timeout=4)
    assert nexus.writes() == stuck and bench.poll() is None
    assert volume.record() == [True, False]
    # made again, from what the record has as healthy, where the host looks for it
    again = Process(ashlar, "r0b", f"aio://{volume.disks[0]}?blk_size=512&uuid={UUID}0",
                    nqn=volume.replicas[0].nqn)
    volume.replicas = [again]
    port = nexus.port
    nexus.kill()
    nexus.process.wait()
    nexus = volume.nexus("n0b", "--listen", f"127.0.0.1:{port}", nqn=nexus.nqn)
    report, _ = result(bench)
    assert report["writes"] > stuck
    assert nexus.stop()[0] == 0


@pytest.mark.parametrize("uri, crd", [
    ("malloc:///m0?size_mb=64", 3),
    ("nexus:///m0?size=48MiB&children=malloc:///c0?size_mb=64", 1),
])
def test_retry_delay_is_that_of_the_class(ashlar, uri, crd):
    """An error of a nexus carries the first delay, that of a replica the third."""
    served = Process(ashlar, "n", uri, "--crdt", "1,2,3")
    served.ok("inject inject://m0?op=read")
    with Host(served.port, served.nqn) as host:
        host.admin.set_feature(0x16, 0, bytes([1]) + bytes(511))
        with pytest.raises(NvmeError) as failed:
            host.queue(1).read(1, 0, 1)
        assert failed.value.cqe.status >> 11 & 3 == crd

# SPDX-License-Identifier: Apache-2.0
"""A device that hangs: what it keeps, what goes on, and how a change that needs it ends."""

import json
import signal
import socket
import struct
import threading
import time

import pytest
from conftest import wait_until
from nvmetcp import HOSTNQN, READ, WRITE, Host, NvmeError, sqe
from test_export import NQN, Export

LIMIT_S = 0.4
NS_HANGS, NS_WELL = 1, 2


@pytest.fixture(name="export")
def make_export(ashlar):
    return Export(ashlar, "--limit", f"device-time={int(LIMIT_S * 1000)}ms", "--ana")


def hang(export, queue, for_s=3600, commands=3):
    """So many reads that the first namespace's device does not end."""
    export.ok(f"inject inject://{export.disk}?op=read&method=delay&delay_us={int(for_s * 1e6)}"
              f"&retries={commands}")
    cids = [queue.submit(queue.rw(READ, NS_HANGS, i, 1), expect=512) for i in range(commands)]
    queue.read(NS_WELL, 0, 1, bs=4096)  # commands are taken in order: those are with the device
    return cids


def refused(export, line, limit_s=LIMIT_S):
    started = time.monotonic()
    answer = export.one(line)
    assert limit_s * 0.9 < time.monotonic() - started < limit_s + 5, answer
    assert answer.startswith("error device '"), answer
    assert str(export.disk) in answer and "(namespace 1) holds 3 commands" in answer
    assert "waited for" in answer
    return answer


def test_a_change_gives_up_and_changes_nothing(export):
    with Host(export.port, NQN) as host:
        q = host.queue(1)
        cids = hang(export, q, for_s=3)
        assert "the namespace stays" in refused(export, "remove 1")
        assert "nothing is paused" in refused(export, "pause")
        held = q.submit(q.rw(READ, NS_HANGS, 9, 1), expect=512)
        assert len(json.loads(export.ok("list"))) == 2
        for cid in cids + [held]:
            q.wait(cid)  # the device was slow, not dead: every answer comes
        assert not json.loads(export.ok("stats"))["paused"]
        assert export.ok("remove 1") == ""
        with pytest.raises(NvmeError, match="status 0x400b"):
            q.read(NS_HANGS, 0, 1)


def test_others_go_on_meanwhile(export):
    """The other namespace is served, and the other clients of the control socket, while a change
    waits for the one that hangs."""
    with Host(export.port, NQN) as host:
        q = host.queue(1)
        hang(export, q)
        waiting = threading.Thread(target=refused, args=(export, "remove 1"))
        waiting.start()
        rounds = 0
        while waiting.is_alive():
            started = time.monotonic()
            q.read(NS_WELL, 0, 1, bs=4096)
            assert len(json.loads(export.ok("list"))) == 2
            assert json.loads(export.ok("stats"))["controllers"] == 1
            assert time.monotonic() - started < LIMIT_S * 0.8
            rounds += 1
        waiting.join()
        assert rounds > 5
        assert export.ok("remove 2") == ""  # it waits for nobody
        assert export.ok("add malloc:///n?size_mb=1") == "nsid=2"


@pytest.mark.parametrize("line, drain_s, says", [
    ("disconnect {host} force", 0, "controllers are closed"),
    ("disconnect {host}", 5, "controllers are closed"),
    ("host-add nqn.2014-08.org.example:other", 0, "those hosts are out"),
    ("ana inaccessible", 0, "the change is made"),
])
def test_what_cannot_be_undone_is_done_and_told(export, line, drain_s, says):
    with Host(export.port, NQN) as host:
        hang(export, host.queue(1))
        answer = refused(export, line.format(host=HOSTNQN), drain_s + LIMIT_S)
        assert says in answer and "may still be carried out" in answer
        with Host(export.port, NQN, hostnqn="nqn.2014-08.org.example:other") as other:
            assert len(json.loads(export.ok("list"))) == 2
            other.queue(1)


def test_a_reservation_needs_the_device_to_be_quiet(export):
    """Rights change only where nothing of those who lose them is under way."""
    with Host(export.port, NQN) as host, Host(
            export.port, NQN, hostnqn="nqn.2014-08.org.example:other",
            hostid=bytes(range(16))) as other:
        q, theirs = host.queue(1), other.queue(1)
        hang(export, q)
        for nsid in (NS_HANGS, NS_WELL):
            register = sqe(0x0D, nsid, cdw10=0)
            acquire = sqe(0x11, nsid, cdw10=1 << 8)
            theirs.command(register, struct.pack("<QQ", 0, 7))
            if nsid == NS_WELL:
                theirs.command(acquire, struct.pack("<QQ", 7, 0))
                continue
            with pytest.raises(NvmeError, match="status 0x6"):
                theirs.command(acquire, struct.pack("<QQ", 7, 0))
        types = {r["nsid"]: r["type"] for r in json.loads(export.ok("reservations"))}
        assert types[NS_HANGS] != types[NS_WELL]


def test_the_end_does_not_wait_for_ever(export):
    with Host(export.port, NQN) as host:
        hang(export, host.queue(1))
        started = time.monotonic()
        status, _, err = export.stop(signal.SIGTERM)
        assert time.monotonic() - started < LIMIT_S + 5
    assert status == 1
    assert "ending although something does not answer" in err and str(export.disk) in err
    assert "(namespace 1) holds 3 commands" in err
    assert not export.control.exists() and not export.port_file.exists()


def test_the_end_begins_no_command(export):
    """Lines that came before the end but were not begun are left out, however many there are."""
    with Host(export.port, NQN) as host, socket.socket(socket.AF_UNIX) as client:
        hang(export, host.queue(1))
        client.settimeout(20)
        client.connect(str(export.control))
        client.sendall(b"remove 1\n" * 500)
        assert client.recv(1).startswith(b"e")
        started = time.monotonic()
        status, _, err = export.stop(signal.SIGTERM)
        assert time.monotonic() - started < LIMIT_S + 5
        answers = b""
        while more := client.recv(65536):
            answers += more
        assert answers.count(b"\n") <= 3
    assert status == 1 and str(export.disk) in err.split("does not answer")[1]


class Sick(Export):
    """Two nexuses; the first has no healthy child, and a write is still with the one it had."""

    def __init__(self, ashlar, *more):
        super().__init__(ashlar, "--store", ashlar.dir / "store", "--limit", "device-time=400ms",
                         uris=[f"nexus:///{name}?size={64 << 20}"
                               f"&uuid=12345678-9abc-4def-8012-{i:012}"
                               f"&children=malloc:///{name}-child?size_mb=72"
                               for i, name in enumerate(("sick", "well"))] + list(more))

    def fall_ill(self, host):
        q = host.queue(1)
        self.ok("inject inject://sick-child?op=write&method=delay&delay_us=3600000000&retries=1")
        q.submit(q.rw(WRITE, 1, 100, 1), bytes(512))
        q.read(2, 0, 1)  # commands are taken in order
        self.ok("inject inject://sick-child?op=write")
        q.submit(q.rw(WRITE, 1, 200, 1), bytes(512))
        wait_until(lambda: json.loads(self.ok("nexus @sick"))[0]["frozen"], what="the freeze")


def test_a_nexus_whose_child_hangs_is_not_removed(ashlar):
    """It was waited for without end, and with it whoever changes the list of namespaces."""
    export = Sick(ashlar)
    with Host(export.port, NQN) as host:
        export.fall_ill(host)
        assert "the namespace stays" in export.one("remove 1")
        assert export.ok("remove 2") == ""
        assert export.stop(signal.SIGTERM)[0] == 1


def test_the_end_does_not_wait_for_a_child_that_hangs(ashlar):
    """A nexus without a healthy child cannot be shut down while a write is still with one; that
    keeps neither the process nor the clean end of what does not hang."""
    export = Sick(ashlar)
    with Host(export.port, NQN) as host:
        export.fall_ill(host)
        status, _, err = export.stop(signal.SIGTERM)
    assert status == 1
    assert err.rstrip().endswith("something does not answer: a child of a nexus")
    assert "nexus sick is ShuttingDown" in err and "namespace removed" in err


def test_the_end_does_not_wait_for_a_rebuild_that_hangs(ashlar):
    """A local disk that does not answer a rebuild cannot be closed. The process ends without it,
    says so, and what else it had has ended in order."""
    children = ",".join(f"malloc:///c{i}?size_mb=72" for i in range(2))
    export = Export(ashlar, "--store", ashlar.dir / "store", "--limit", "device-time=500ms",
                    uris=[f"nexus:///{name}?size={64 << 20}&child_timeout=500ms"
                          f"&uuid=12345678-9abc-4def-8012-{i:012}&children={c}"
                          for i, (name, c) in enumerate((("sick", children),
                                                         ("well", "malloc:///w?size_mb=72")))])
    child = "malloc:///c1?size_mb=72"
    with Host(export.port, NQN) as host:
        export.ok(f"child-offline {child}")
        host.queue(1).write(1, 100, b"x" * 512)
        export.ok("inject inject://c1?op=write&method=delay&delay_us=3600000000&offset=10000"
                  "&num_blk=1000000")
        export.ok(f"child-online {child}")
        started = time.monotonic()
        status, _, err = export.stop(signal.SIGTERM)
    assert status == 1 and time.monotonic() - started < 3 + 5
    last = err.rstrip().splitlines()[-1]
    assert f"device 'sick' waits for answers of its child {child}, for 3.00 s" in last, err
    for i in range(2):
        record = ashlar.dir / "store" / f"12345678-9abc-4def-8012-{i:012}.json"
        assert json.loads(record.read_text())["clean_shutdown"], record.read_text()


def test_the_end_while_a_change_waits(ashlar):
    """The change is given up at once: it does not add its time to that of the end."""
    export = Export(ashlar, "--limit", "device-time=20s")
    with Host(export.port, NQN) as host:
        hang(export, host.queue(1), for_s=2)
        answers = []
        waiting = threading.Thread(target=lambda: answers.append(export.one("remove 1")))
        waiting.start()
        wait_until(lambda: waiting.is_alive() and json.loads(export.ok("list")), what="a list")
        started = time.monotonic()
        status, _, err = export.stop(signal.SIGTERM)
        waiting.join()
        assert time.monotonic() - started < 10
    assert status == 0, err
    assert "does not answer" not in err.split("asked to end")[0]


def test_a_mirror_of_devices_that_are_served_ends_before_them(ashlar):
    """They closed at the same time, or first: the mirror lost its replicas, and its record said
    that one was stale."""
    export = Export(ashlar, "--store", ashlar.dir / "store",
                    uris=["malloc:///r0?size_mb=72", "malloc:///r1?size_mb=72",
                          f"nexus:///v?size={64 << 20}&uuid=12345678-9abc-4def-8012-000000000000"
                          "&children=bdev:///r0,bdev:///r1"])
    with Host(export.port, NQN) as host:
        host.queue(1).write(3, 100, b"x" * 512)
        assert export.stop(signal.SIGTERM)[0] == 0
    record = ashlar.dir / "store" / "12345678-9abc-4def-8012-000000000000.json"
    said = json.loads(record.read_text())
    assert said["clean_shutdown"] and all(c["healthy"] for c in said["children"]), said


def test_the_end_does_not_wait_for_a_second_thing_that_hangs(ashlar):
    """What does not hang is closed when something does; one more that hangs was waited for."""
    children = ",".join(f"malloc:///c{i}?size_mb=72" for i in range(2))
    export = Sick(ashlar, f"nexus:///third?size={64 << 20}&child_timeout=500ms"
                          f"&uuid=12345678-9abc-4def-8012-000000000002&children={children}")
    with Host(export.port, NQN) as host:
        export.ok("child-offline @third malloc:///c1?size_mb=72")
        host.queue(2).write(3, 100, b"x" * 512)
        export.ok("inject inject://c1?op=write&method=delay&delay_us=3600000000&offset=10000"
                  "&num_blk=1000000")
        export.ok("child-online @third malloc:///c1?size_mb=72")
        export.fall_ill(host)
        status, _, err = export.stop(signal.SIGTERM)
    assert status == 1
    assert "not waiting for a child of a nexus any longer" in err
    assert "device 'third' waits for answers of its child" in err.rstrip().splitlines()[-1], err
    record = ashlar.dir / "store" / "12345678-9abc-4def-8012-000000000001.json"
    assert json.loads(record.read_text())["clean_shutdown"], record.read_text()


def leftover(host):
    """Log page DEh: closed connections of this host with commands, controllers that look alive."""
    raw = host.admin.log_page(0xDE, 64)
    assert raw[:16] == b"ashlar leftover\0" and raw[28:] == bytes(36)
    version, conns, ctrlrs = struct.unpack_from("<III", raw, 16)
    assert version == 1
    return conns, ctrlrs


def test_a_host_is_told_what_its_dead_connections_left(export):
    with Host(export.port, NQN) as host, Host(export.port, NQN) as same, Host(
            export.port, NQN, hostid=bytes(range(16))) as other:
        queue = host.queue(1)
        hang(export, queue, for_s=2)
        host.queue(2)
        assert leftover(same) == (0, 2) and leftover(other) == (0, 1)  # it lives
        queue.close()  # a queue that ends is dead, its controller is not
        wait_until(lambda: leftover(same) == (1, 2), timeout_s=1.5, what="the closed queue")
        host.close()
        wait_until(lambda: leftover(same) == (1, 1), timeout_s=1.5, what="the closed controller")
        assert leftover(other) == (0, 1)
        wait_until(lambda: leftover(same) == (0, 1), what="its commands")

# SPDX-License-Identifier: Apache-2.0
"""Paths, hosts and limits of the target: ANA changed under I/O, hosts shut out live, graceful and
forced disconnects, limits reached and memory that returns."""

import resource
import struct
import threading
import time

import pytest
from nvmetcp import (COMPARE, DISCOVERY, FLUSH, HOSTNQN, NQN, WRITE, Conn, Host, NvmeError, Targetd,
                     eventually, sgl, sqe)

URI = "malloc:///m0?size_mb=64"
OTHER = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-000000000002"
ANA_LOG, ANA_EVENT, NS_EVENT = 0x0C, 1 << 11, 1 << 8
PERSISTENT_LOSS, INACCESSIBLE, TRANSITION = 0x301, 0x302, 0x303
BUSY, INVALID_HOST = 0x181, 0x184
DRAIN_S = 5  # after which a graceful disconnect becomes a forced one
STATES = {"optimized": 1, "non-optimized": 2, "inaccessible": 3, "persistent-loss": 4, "change": 15}


@pytest.fixture
def target():
    """Two listeners, a subsystem with ANA and two namespaces."""
    with Targetd() as t:
        t.ports = [t.listen(), t.listen()]
        t("subsystem-opts", "ana=optimized")
        t("subsystem", NQN)
        t("add", NQN, URI)
        t("add", NQN, "malloc:///m1?size_mb=8")
        yield t


@pytest.fixture
def plain():
    """One listener, a subsystem without any option."""
    with Targetd() as t:
        t.port = t.listen()
        t("subsystem", NQN)
        t("add", NQN, URI)
        yield t


def ana_page(admin, rgo=False, size=4096, rae=False):
    """(change count, {group: (change count, state, [nsid])})"""
    entry = sqe(2, 0xFFFFFFFF, cdw10=ANA_LOG | (1 << 15 if rae else 0) | (1 << 8 if rgo else 0) |
                (size // 4 - 1) << 16)
    raw = admin.command(entry, expect=size).data
    count, ngroups = struct.unpack_from("<QH", raw)
    groups, at = {}, 16
    for _ in range(ngroups):
        group, nnsids, changes, state = struct.unpack_from("<IIQB", raw, at)
        at += 32
        groups[group] = (changes, state, list(struct.unpack_from(f"<{nnsids}I", raw, at)))
        at += 4 * nnsids
    assert not any(raw[at:])
    return count, groups


def status_of(run, *args, **kwargs):
    with pytest.raises(NvmeError) as failed:
        run(*args, **kwargs)
    assert not failed.value.cqe.status & 0x4000, "Do Not Retry"
    return failed.value.status


# ---- ANA

def test_off_shows_nothing(plain):
    with Host(plain.port) as host:
        data = host.admin.identify(1)
        assert data[76] == 3 and data[342] == data[343] == 0
        assert struct.unpack_from("<I", data, 92)[0] == 1 << 8
        assert struct.unpack_from("<II", data, 344) == (0, 0)
        assert struct.unpack_from("<I", data, 540)[0] == 0
        assert host.admin.identify(0, 1)[92:96] == bytes(4)
        assert host.admin.identify(8, 1)[4:8] == bytes(4)
        with pytest.raises(NvmeError) as failed:
            ana_page(host.admin)
        assert failed.value.status == 0x109
        host.admin.set_feature(0x0B, ANA_EVENT | 1 << 8)
        assert host.admin.get_feature(0x0B).dw0 == 1 << 8
    with pytest.raises(AssertionError, match="was made without"):
        plain("ana", NQN, "inaccessible")


def test_identify_says_what_linux_checks(target):
    with Host(target.ports[0]) as host:
        data = host.admin.identify(1)
        assert data[76] & 8, "CMIC"
        assert struct.unpack_from("<I", data, 92)[0] & ANA_EVENT, "OAES"
        assert data[342] > 0 and data[343] & 0x1F == 0x1F
        anagrpmax, nanagrpid = struct.unpack_from("<II", data, 344)
        nn, mnan = struct.unpack_from("<I", data, 516)[0], struct.unpack_from("<I", data, 540)[0]
        assert 0 < nanagrpid <= anagrpmax and 0 < mnan <= nn
        for nsid in (1, 2):
            assert host.admin.identify(0, nsid)[92:96] == struct.pack("<I", 1)
            assert host.admin.identify(8, nsid)[4:8] == struct.pack("<I", 1)
        # The buffer Linux makes of these numbers holds every page, and fits one transfer.
        size = 16 + 32 * nanagrpid + 4 * mnan
        assert size <= 128 << 10
        assert ana_page(host.admin, size=size)[1] == {1: (2, 1, [1, 2])}
        assert ana_page(host.admin, size=size, rgo=True)[1] == {1: (2, 1, [])}


@pytest.mark.parametrize("state, status", [("non-optimized", 0), ("inaccessible", INACCESSIBLE),
                                           ("persistent-loss", PERSISTENT_LOSS),
                                           ("change", TRANSITION)])
def test_states_answer(target, state, status):
    with Host(target.ports[0]) as host:
        q = host.queue(1)
        q.write(1, 0, b"a" * 512)
        target("ana", NQN, state)
        for run in (lambda: q.read(1, 0, 1), lambda: q.write(1, 0, b"b" * 512),
                    lambda: q.write(1, 0, b"b" * 8192), lambda: q.flush(2),
                    lambda: q.compare(1, 0, b"a" * 512), lambda: q.write_zeroes(1, 0, 8),
                    lambda: q.deallocate(1, [(0, 8)]), lambda: q.verify(1, 0, 1)):
            if status:
                assert status_of(run) == status
        # Queues that come later are on the same path; admin commands are served.
        late = host.queue(2)
        if status:
            assert status_of(late.read, 1, 0, 1) == status
        host.admin.identify(0, 1)
        assert ana_page(host.admin)[1][1][1] == STATES[state]
        target("ana", NQN, "optimized")
        assert q.read(1, 0, 1) == b"a" * 512 == late.read(1, 0, 1)


def test_state_from_the_start():
    with Targetd() as t:
        t("subsystem-opts", "ana=inaccessible")
        t("subsystem", NQN)
        t("add", NQN, URI)
        port = t.listen()
        with Host(port) as host:
            assert status_of(host.queue(1).read, 1, 0, 1) == INACCESSIBLE


def test_one_listener(target):
    """A controller belongs to the listener of its admin queue, with queues from anywhere."""
    with Host(target.ports[0]) as first, Host(target.ports[1]) as second:
        q, other = first.queue(1), second.queue(1)
        first.port = target.ports[1]
        strayed = first.queue(2)
        target("ana", NQN, "inaccessible", 0)
        assert status_of(q.read, 1, 0, 1) == status_of(strayed.read, 1, 0, 1) == INACCESSIBLE
        other.read(1, 0, 1)
        assert ana_page(first.admin)[1][1][:2] == (3, 3)
        assert ana_page(second.admin)[1][1][:2] == (2, 1)
        assert ana_page(second.admin)[0] < ana_page(first.admin)[0]
        # One more listener begins with what all were last set to.
        target("ana", NQN, "non-optimized")
        with Host(target.listen()) as third:
            assert ana_page(third.admin)[1][1][1] == 2
    with pytest.raises(AssertionError, match="no listener 7"):
        target("ana", NQN, "optimized", 7)


def test_groups(target):
    with Host(target.ports[0]) as host:
        q = host.queue(1)
        target("group", NQN, 2, 32)
        assert ana_page(host.admin)[1] == {1: (3, 1, [1]), 32: (1, 1, [2])}
        assert host.admin.identify(0, 2)[92:96] == struct.pack("<I", 32)
        before = ana_page(host.admin)[0]
        target("ana", NQN, "change", 0, 32)
        q.read(1, 0, 1)
        assert status_of(q.read, 2, 0, 1) == TRANSITION
        assert ana_page(host.admin) == (before + 1, {1: (3, 1, [1]), 32: (2, 15, [2])})
        target("group", NQN, 2, 1)
        q.read(2, 0, 1)
        target("remove", NQN, 2)
        assert ana_page(host.admin)[1] == {1: (5, 1, [1])}
    for group in (0, 33):
        with pytest.raises(AssertionError, match=f"group {group}"):
            target("group", NQN, 1, group)


def test_event(target):
    """Told once until the page was read, to those who asked, on the listener that changed."""
    with Host(target.ports[0]) as host, Host(target.ports[0]) as deaf, \
            Host(target.ports[1]) as elsewhere:
        for h in (host, elsewhere):
            h.admin.set_feature(0x0B, ANA_EVENT)
            h.aer = h.admin.submit(sqe(0x0C))
        deaf.aer = deaf.admin.submit(sqe(0x0C))
        target("ana", NQN, "inaccessible", 0)
        assert host.admin.wait(host.aer).dw0 == 2 | 3 << 8 | ANA_LOG << 16
        again = host.admin.submit(sqe(0x0C))
        target("ana", NQN, "change", 0)
        ana_page(host.admin, rae=True)
        assert again not in host.admin.done
        assert ana_page(host.admin)[1][1][:2] == (4, 15)
        target("ana", NQN, "change", 0)  # no change
        host.admin.get_feature(0x0B)
        assert again not in host.admin.done
        target("ana", NQN, "optimized", 0)
        host.admin.wait(again)
        for h in (deaf, elsewhere):
            h.admin.get_feature(0x0B)
            assert h.aer not in h.admin.done


def test_a_refused_read_reads_nothing(target):
    """An offset behind the end of a page: what it tells of is not taken for told."""
    with Host(target.ports[0]) as host:
        host.admin.set_feature(0x0B, NS_EVENT)
        aer = host.admin.submit(sqe(0x0C))
        target("group", NQN, 2, 3)
        host.admin.wait(aer)
        with pytest.raises(NvmeError, match="status 0x4002"):  # Invalid Field, do not retry
            host.admin.log_page(4, 8, off=1 << 20)
        assert struct.unpack("<2I", host.admin.log_page(4, 8)) == (2, 0)
        assert struct.unpack("<2I", host.admin.log_page(4, 8)) == (0, 0)
        target("group", NQN, 2, 1)


def test_a_reset_forgets_events(target):
    """An event that was sent before the reset does not mask the one after it."""
    with Host(target.ports[0]) as host:
        for _ in range(2):
            host.admin.set_feature(0x0B, ANA_EVENT | NS_EVENT)
            aers = [host.admin.submit(sqe(0x0C)) for _ in range(2)]
            target("group", NQN, 2, 3)  # both are told, neither page is read
            assert {host.admin.wait(aer).dw0 >> 16 for aer in aers} == {ANA_LOG, 4}
            target("group", NQN, 2, 1)
            host.admin.property_set(0x14, 0)
            host.admin.enable()


def test_change_under_io(target):
    """Every command ends exactly once, served or refused; what is refused did not happen."""
    with Host(target.ports[0]) as host:
        queues = [host.queue(1), host.queue(2)]
        stop = threading.Event()
        failed, refused, served = [], [], []

        def load(q, base):
            number = 0
            try:
                while not stop.is_set():
                    cids = []
                    for i in range(16):
                        number += 1
                        block = struct.pack("<Q", number) * 64
                        cids.append((i, block, q.submit(q.rw(WRITE, 1, base + i, 1), block)))
                    for i, block, cid in cids:
                        try:
                            q.wait(cid)
                            last[q][i] = block
                            served.append(1)
                        except NvmeError as error:
                            assert error.status == INACCESSIBLE
                            refused.append(1)
            except Exception as error:  # pylint: disable=broad-except
                failed.append(error)

        last = {q: {} for q in queues}
        threads = [threading.Thread(target=load, args=(q, 100 * n))
                   for n, q in enumerate(queues)]
        for thread in threads:
            thread.start()
        for _ in range(60):
            target("ana", NQN, "inaccessible")
            target("ana", NQN, "optimized")
        eventually(lambda: failed or (served and refused), "both outcomes")
        stop.set()
        for thread in threads:
            thread.join()
        assert not failed
        for n, q in enumerate(queues):
            for i, block in last[q].items():
                assert q.read(1, 100 * n + i, 1) == block


def test_held_commands_see_the_new_state(target):
    """What is held or waits for its data when the path closes does not reach the device."""
    with Host(target.ports[0]) as host:
        q = host.queue(1)
        target("pause", NQN)
        held = q.submit(q.rw(WRITE, 1, 0, 1), b"x" * 512)
        entry = q.rw(WRITE, 1, 8, 64)
        cid = 9000
        q.data[cid] = bytearray()
        q.writes[cid] = (b"y" * 32768, None)
        q.send(q.capsule(entry[:2] + struct.pack("<H", cid) + entry[4:24] + sgl(0x5A, 32768) +
                         entry[40:]))
        kind, _, header, _ = q.recv_pdu()
        assert kind == 9, "R2T"
        target("ana", NQN, "persistent-loss")
        target("resume", NQN)
        assert status_of(q.wait, held) == PERSISTENT_LOSS
        q.answer_r2t(header)
        assert status_of(q.wait, cid) == PERSISTENT_LOSS
        target("ana", NQN, "optimized")
        assert q.read(1, 0, 72) == bytes(72 * 512)


@pytest.mark.parametrize("how", ["ana", "group"])
def test_a_path_closes_although_its_device_hangs(target, how):
    """Hosts are sent elsewhere at once; the call ends when the last command has ended."""
    if how == "group":
        target("ana", NQN, "inaccessible", 0, 7)
    with Host(target.ports[0]) as host:
        q = host.queue(1)
        slow, fault = delayed_write(target, q, 500)
        q.capsule_max = 0
        late = q.submit(q.rw(WRITE, 1, 8, 1), b"l" * 512)
        kind, _, r2t, _ = q.recv_pdu()
        assert kind == 9, "R2T"
        if how == "group":
            target.start("group", NQN, 1, 7)
        else:
            target.start("ana", NQN, "inaccessible", 0)
        eventually(lambda: any(1 in nsids and state == 3
                               for _, state, nsids in ana_page(host.admin)[1].values()), "the page")
        assert status_of(q.read, 1, 0, 1) == INACCESSIBLE
        q.answer_r2t(r2t)
        assert status_of(q.wait, late) == INACCESSIBLE
        assert slow not in q.done
        q.wait(slow)
        target.finish()
        target("heal", fault)
        target("ana", NQN, "optimized")
        assert q.read(1, 8, 1) == bytes(512)


# ---- controller ids

def test_controller_id_ranges():
    """Two targets of one volume serve one host under one name."""
    with Targetd() as t:
        port = t.listen()
        t("subsystem-opts", "cntlid=100-102")
        t("subsystem", NQN)
        hosts = [Host(port) for _ in range(3)]
        assert {h.cntlid for h in hosts} == {100, 101, 102}
        assert status_of(Host, port) == BUSY
        hosts[1].close()
        eventually(lambda: t("controllers", NQN) == "2", "the controller to go")
        with Host(port) as again:
            assert again.cntlid == 101
        for h in hosts:
            h.close()


# ---- hosts

def delayed_write(t, q, ms):
    """A write that is with the device for so long; the fault's name."""
    fault = f"inject://m0?op=write&method=delay&delay_us={ms * 1000}"
    t("inject", fault)
    before = t.stats()["commands"]
    cid = q.submit(q.rw(WRITE, 1, 0, 1), b"d" * 512)
    eventually(lambda: t.stats()["commands"] > before, "the write")
    return cid, fault


def shown(port, hostnqn):
    with Host(port, DISCOVERY, hostnqn=hostnqn) as host:
        raw = host.admin.log_page(0x70, 4096)
        return struct.unpack_from("<Q", raw, 8)[0]


def test_hosts_are_shut_out_live(plain):
    """Also one that came while any host was welcome."""
    with Host(plain.port, hostnqn=OTHER) as other, Host(plain.port) as host:
        q, lost = host.queue(1), other.queue(1)
        assert shown(plain.port, OTHER) == shown(plain.port, HOSTNQN) == 1
        plain("host-add", NQN, HOSTNQN)
        assert plain("controllers", NQN) == "1"
        lost.expect_end()
        other.admin.expect_end()
        assert shown(plain.port, OTHER) == 0 and shown(plain.port, HOSTNQN) == 1
        with pytest.raises(NvmeError) as failed:
            Host(plain.port, hostnqn=OTHER)
        assert failed.value.status == INVALID_HOST
        plain("host-add", NQN, OTHER)
        plain("host-add", NQN, OTHER)  # is there already
        with Host(plain.port, hostnqn=OTHER) as other2:
            q2 = other2.queue(1)
            plain("host-del", NQN, HOSTNQN)
            q.expect_end()
            q2.read(1, 0, 1)
            plain("host-del", NQN, OTHER)
            q2.expect_end()
        # A list that became empty is nobody, not everybody.
        for nqn in (HOSTNQN, OTHER):
            with pytest.raises(NvmeError) as failed:
                Host(plain.port, hostnqn=nqn)
            assert failed.value.status == INVALID_HOST
        assert shown(plain.port, OTHER) == 0
        with pytest.raises(AssertionError, match="does not list"):
            plain("host-del", NQN, OTHER)
        plain("hosts-any", NQN)
        with pytest.raises(AssertionError, match="any host may"):
            plain("host-del", NQN, OTHER)
        with Host(plain.port, hostnqn=OTHER):
            pass


def test_nothing_of_a_host_is_left(plain):
    """host-del answers only when the host's last write has ended at its device."""
    with Host(plain.port, hostnqn=OTHER) as other:
        q = other.queue(1)
        plain("host-add", NQN, OTHER)
        _, fault = delayed_write(plain, q, 1000)
        plain("host-del", NQN, OTHER)
        assert plain.stats()["conns"] == 0
        plain("heal", fault)
        plain("hosts-any", NQN)
    with Host(plain.port) as host:
        assert host.queue(1).read(1, 0, 1) == b"d" * 512


def test_limit_of_hosts():
    with Targetd("--hosts", "2") as t:
        t("subsystem", NQN)
        t("host-add", NQN, HOSTNQN)
        t("host-add", NQN, OTHER)
        t("host-add", NQN, OTHER)
        with pytest.raises(AssertionError, match="hosts_max"):
            t("host-add", NQN, OTHER + "3")
        with pytest.raises(AssertionError, match="NVMe qualified name"):
            t("host-add", NQN, "quark")


# ---- disconnecting

def test_graceful_disconnect(plain):
    """What is in flight is answered on every queue before any of them closes."""
    with Host(plain.port) as host:
        queues = [host.queue(i) for i in (1, 2)]
        aer = host.admin.submit(sqe(0x0C))
        cid, fault = delayed_write(plain, queues[0], 500)
        plain.start("disconnect", NQN, HOSTNQN)
        assert status_of(host.admin.wait, aer) == 0x08
        dropped = queues[0].submit(sqe(FLUSH, 1))
        queues[0].wait(cid)
        queues[1].expect_end()
        host.admin.expect_end()
        queues[0].expect_end()
        assert dropped not in queues[0].done
        assert plain.finish() == "1"
        plain("heal", fault)
    assert plain("controllers", NQN) == "0"
    with Host(plain.port) as host:
        assert host.queue(1).read(1, 0, 1) == b"d" * 512


def test_graceful_disconnect_finishes_writes_under_way(plain):
    """The data of a write that was asked for still arrives."""
    with Host(plain.port) as host:
        q = host.queue(1)
        q.capsule_max = 0
        cid = q.submit(q.rw(WRITE, 1, 0, 64), b"r" * 32768)
        kind, _, header, _ = q.recv_pdu()
        assert kind == 9, "R2T"
        plain.start("disconnect", NQN, host.cntlid)
        q.answer_r2t(header)
        q.wait(cid)
        q.expect_end()
        assert plain.finish() == "1"


def test_graceful_disconnect_does_not_wait_for_ever(plain):
    """A host that never sends what it was asked for."""
    with Host(plain.port) as host:
        q = host.queue(1)
        q.capsule_max = 0
        q.submit(q.rw(WRITE, 1, 0, 64), b"r" * 32768)
        assert q.recv_pdu()[0] == 9, "R2T"
        assert plain("disconnect", NQN, HOSTNQN) == "1"
    assert plain.stats()["conns"] == 0


def test_graceful_disconnect_does_not_wait_for_half_a_pair(plain):
    """Its other half would be dropped: it is dropped too, and at once."""
    with Host(plain.port) as host:
        q = host.queue(1)
        entry = bytearray(q.rw(COMPARE, 1, 0, 1))
        entry[1] |= 1
        before = plain.stats()["commands"]
        half = q.submit(bytes(entry), bytes(512))
        eventually(lambda: plain.stats()["commands"] > before, "the half")
        start = time.monotonic()
        assert plain("disconnect", NQN, HOSTNQN) == "1"
        assert time.monotonic() - start < DRAIN_S / 2
        q.expect_end()
        assert half not in q.done


def test_forced_disconnect(plain):
    with Host(plain.port) as host, Host(plain.port) as stays:
        q = host.queue(1)
        cid, fault = delayed_write(plain, q, 500)
        assert plain("disconnect", NQN, host.cntlid, "force") == "1"
        q.expect_end()
        assert cid not in q.done
        stays.admin.identify(1)
        plain("heal", fault)
    with pytest.raises(AssertionError, match="has no controller 999"):
        plain("disconnect", NQN, 999)
    with pytest.raises(AssertionError, match="is not connected"):
        plain("disconnect", NQN, OTHER, "force")


def test_disconnect_while_paused_and_removed(plain):
    """Commands that are held do not keep a host, and a subsystem can go meanwhile."""
    with Host(plain.port) as host:
        q = host.queue(1)
        plain("pause", NQN)
        q.submit(sqe(FLUSH, 1))
        assert plain("disconnect", NQN, HOSTNQN, "force") == "1"
        plain("resume", NQN)
    with Host(plain.port) as host:
        host.queue(1)
        plain("subsystem-remove", NQN)


def test_controllers_are_listed(target):
    with Host(target.ports[1], kato_ms=15000) as host, Host(target.ports[0], hostnqn=OTHER):
        host.queue(1)
        host.queue(5)
        words = target("controllers-of", NQN).split()
        nqn = HOSTNQN.replace(":", "%")
        assert sorted(w.replace(HOSTNQN, nqn).replace(OTHER, "other") for w in words) == sorted(
            [f"{host.cntlid}:{nqn}:1:2:15000", f"{words[1].split(':')[0]}:other:0:0:0"])


# ---- limits

def test_connections_of_a_host_and_a_subsystem():
    with Targetd("--conns-per-host", "3", "--conns-per-subsystem", "4") as t:
        port = t.listen()
        t("subsystem", NQN)
        t("add", NQN, URI)
        with Host(port) as host, Host(port, hostnqn=OTHER):
            host.queue(1)
            host.queue(2)
            assert status_of(host.queue, 3) == BUSY
            with Host(port, DISCOVERY, hostnqn=OTHER):
                pass  # other subsystems have their own number
            assert status_of(Host, port, hostnqn=OTHER) == BUSY
            assert t.stats()["connects_refused"] == 2
            host.queues[0].close()
            eventually(lambda: t.stats()["conns"] == 3, "the connections to go")
            host.queue(1).read(1, 0, 1)


def test_memory_is_bounded_and_returns():
    with Targetd("--memory", str(4 << 20)) as t:
        port = t.listen()
        t("subsystem", NQN)
        t("add", NQN, URI)
        assert t.stats()["conn_memory"] == 0
        each = t.stats()["conn_memory_each"]
        assert 128 * 4096 < each < 1 << 20
        with Host(port) as host:
            queues = []
            with pytest.raises(NvmeError) as failed:
                for qid in range(1, 30):
                    before = t.stats()["conn_memory"]
                    queues.append(host.queue(qid))
                    assert t.stats()["conn_memory"] == before + each
            assert failed.value.status == BUSY
            assert (4 << 20) // each - 1 <= len(queues) <= (4 << 20) // each
            assert t.stats()["conn_memory_peak"] <= 4 << 20
            # A shallow queue may still fit; what there is works.
            queues[0].read(1, 0, 1)
            # Strangers are refused before they take anything beyond it.
            strangers = [Conn(port, ic=False) for _ in range(200)]
            eventually(lambda: t.stats()["conns_refused"] > 0, "a refusal")
            assert t.stats()["conn_memory_peak"] <= 4 << 20
            for conn in strangers:
                conn.close()
        eventually(lambda: t.stats()["conns"] == 0, "the connections to go")
        assert t.stats()["conn_memory"] == 0


def test_idle_controller_ends():
    with Targetd("--idle-timeout", "400") as t:
        port = t.listen()
        t("subsystem", NQN)
        t("add", NQN, URI)
        with Host(port) as idle, Host(port, kato_ms=60000) as alive, Host(port) as busy:
            q = idle.queue(1)
            alive.queue(1)
            working = busy.queue(1)
            eventually(lambda: not working.read(1, 0, 1).strip(b"\0") and
                       t.stats()["idle_timeouts"] == 1, "the idle timeout")
            q.expect_end()
            idle.admin.expect_end()
            alive.admin.identify(1)
            busy.admin.identify(1)


def test_queues_spread_over_reactors():
    with Targetd("--cores", "0x3") as t:
        port = t.listen()
        t("subsystem", NQN)
        t("add", NQN, URI)
        hosts = []
        for n in range(4):  # one I/O queue each: not all on the reactor without admin queues
            hosts.append(Host(port))
            hosts[-1].queue(1)
            loads = [int(x) for x in t("cores").split()]
            assert sum(loads) == n + 1 and max(loads) - min(loads) <= 1
        for qid in range(2, 6):
            hosts[0].queue(qid)
        assert t("cores").split() == ["4", "4"]
        for h in hosts:
            h.close()
        eventually(lambda: t("cores") == "0 0", "the connections to go")


# ---- retry delays

def crd_of(t, kind, method):
    """CRD of a failed read, before and after the host said that it knows delays."""
    t("subsystem-opts", *kind)
    t("subsystem", NQN)
    t("add", NQN, URI)
    seen = []
    with Host(t.port) as host:
        assert struct.unpack_from("<HHH", host.admin.identify(1), 128) == (3, 4, 5)
        q = host.queue(1)
        fault = f"inject://m0?op=read&{method}"
        t("inject", fault)
        for acre in (0, 1):
            host.admin.set_feature(0x16, 0, bytes([acre]) + bytes(511))
            assert host.admin.get_feature(0x16, expect=512).data[0] == acre
            with pytest.raises(NvmeError) as failed:
                q.read(1, 0, 1)
            seen.append(failed.value.cqe.status >> 11 & 3)
        late = host.queue(2)
        with pytest.raises(NvmeError) as failed:
            late.read(1, 0, 1)
        assert failed.value.cqe.status >> 11 & 3 == seen[1]
        t("heal", fault)
        # Errors of the host's own making carry none.
        with pytest.raises(NvmeError) as failed:
            q.read(9, 0, 1)
        assert failed.value.cqe.status >> 11 & 3 == 0
        with pytest.raises(NvmeError):
            host.admin.set_feature(0x16, 0, b"\2" + bytes(511))
    t("subsystem-remove", NQN)
    t("destroy", URI)
    return seen


@pytest.mark.parametrize("kind, method, crd", [
    ([], "method=status", 3), (["nexus"], "method=status", 1),
    (["nexus"], "method=status-lvol-nospace", 2), (["nexus"], "method=status-nvme-0-83", 2),
    ([], "method=status-lvol-nospace", 3)])
def test_retry_delays(kind, method, crd):
    with Targetd("--crdt", "3") as t:
        t.port = t.listen()
        assert crd_of(t, kind, method) == [0, crd]


# ---- many

def test_many_hosts():
    """1,024 connections of 64 hosts with I/O on all; half of them vanish in the middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip(f"needs 4096 open files, the limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    try:
        with Targetd() as t:
            port = t.listen()
            t("subsystem", NQN)
            t("add", NQN, URI)
            many_hosts(t, port)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def many_hosts(t, port):
    hosts = [Host(port, hostnqn=f"{HOSTNQN[:-2]}{n:02x}") for n in range(64)]
    queues = [(n, h.queue(qid, sqsize=15)) for n, h in enumerate(hosts) for qid in range(1, 16)]
    assert t.stats()["conns"] == 1024
    full = t.stats()["conn_memory"]
    blocks = {}
    for i, (n, q) in enumerate(queues):
        block = struct.pack("<II", n, i) * 64
        blocks[i] = (i, q, block, q.submit(q.rw(WRITE, 1, i, 1), block))
    for n, h in enumerate(hosts):
        if n % 2:
            h.close()
    for i, q, _, cid in blocks.values():
        if queues[i][0] % 2 == 0:
            q.wait(cid)
    eventually(lambda: t.stats()["conns"] == 512, "half of the connections to go")
    assert t.stats()["conn_memory"] == full // 2
    for i, q, block, _ in blocks.values():
        if queues[i][0] % 2 == 0:
            assert q.read(1, i, 1) == block
    for h in hosts[::2]:
        h.close()
    eventually(lambda: t.stats()["conns"] == 0, "the connections to go")
    assert t.stats()["conn_memory"] == 0

# SPDX-License-Identifier: Apache-2.0
"""Reservations as hosts see them: six types, every verb, who is told, what a restart finds."""

import os
import struct

import pytest
from nvmetcp import COMPARE, NQN, READ, WRITE, Host, NvmeError, Targetd, eventually, sqe

UUID = "12345678-9abc-4def-8012-3456789abcde"
URI = f"malloc:///m0?size_mb=8&uuid={UUID}"
A, B, C = (bytes([0xA0 + i]) * 16 for i in range(3))
KEY = {A: 0x1111, B: 0x2222, C: 0x3333}
CONFLICT, INVALID, ABORTED, FAILED_FUSED = 0x083, 0x002, 0x01B, 0x009
REGISTRATION_PREEMPTED, RELEASED, PREEMPTED = 1, 2, 3
WE, EA, WE_RO, EA_RO, WE_AR, EA_AR = range(1, 7)
TYPES = [WE, EA, WE_RO, EA_RO, WE_AR, EA_AR]
LOG_EVENT = 0x800006  # log page 80h, information 0, I/O command specific


def start(*options):
    t = Targetd(*options)
    t.port = t.listen()
    t("subsystem", NQN)
    return t


@pytest.fixture
def target():
    with start() as t:
        t("add", NQN, URI)
        yield t


class Party:
    """A host with its admin queue and one I/O queue."""

    def __init__(self, port, hostid):
        self.host = Host(port, hostid=hostid)
        self.id, self.key = hostid, KEY.get(hostid, 1)
        self.admin, self.q = self.host.admin, self.host.queue(1)

    def register(self, **options):
        self.q.register(1, self.key, **options)

    def acquire(self, rtype):
        self.q.acquire(1, rtype, self.key)

    def listen(self):
        return self.admin.submit(sqe(0x0C))

    def log(self, rae=False):
        return struct.unpack_from("<QBBxxI", self.admin.log_page(0x80, 64, rae=rae))


@pytest.fixture
def parties(target):
    made = [Party(target.port, hostid) for hostid in (A, B, C)]
    yield made
    for party in made:
        party.host.close()


def status_of(run, *args, **kwargs):
    with pytest.raises(NvmeError) as failed:
        run(*args, **kwargs)
    return failed.value.status


def reads(q):
    return [lambda: q.read(1, 0, 1), lambda: q.verify(1, 0, 1),
            lambda: q.compare(1, 0, b"\0" * 512)]


def writes(q):
    return [lambda: q.write(1, 0, b"\0" * 512), lambda: q.write_zeroes(1, 0, 1),
            lambda: q.deallocate(1, [(0, 1)]), lambda: q.flush(1)]


def check(q, may_read, may_write):
    for runs, may in ((reads(q), may_read), (writes(q), may_write)):
        for run in runs:
            if may:
                run()
            else:
                assert status_of(run) == CONFLICT


# ---- rights

@pytest.mark.parametrize("rtype", TYPES)
def test_who_may_do_what(target, parties, rtype):
    a, b, c = parties
    c.q.write(1, 0, b"\0" * 512)
    a.register()
    b.register()
    for p in parties:
        check(p.q, True, True)
    a.acquire(rtype)
    check(a.q, True, True)
    check(b.q, rtype != EA, rtype not in (WE, EA))
    check(c.q, rtype in (WE, WE_RO, WE_AR), False)
    # A registrant is a host: another controller of A may what A may, and release as well.
    other = Party(target.port, A)
    check(other.q, True, True)
    # A stranger who comes now is an outsider from his first command on.
    stranger = Party(target.port, b"\x77" * 16)
    check(stranger.q, rtype in (WE, WE_RO, WE_AR), False)
    a.host.close()
    check(other.q, True, True)
    other.q.release(1, rtype, KEY[A])
    for p in (b, c, other, stranger):
        check(p.q, True, True)


def test_a_refused_write_leaves_nothing(parties):
    a, b, _ = parties
    data = os.urandom(64 << 10)
    a.register()
    a.q.write(1, 0, data)
    a.acquire(WE)
    for size in (512, 4096, 8192, 64 << 10):  # in the capsule, by R2T
        assert status_of(b.q.write, 1, 0, b"\xEE" * size) == CONFLICT
    assert a.q.read(1, 0, 128) == data


def test_other_namespaces_are_free(target, parties):
    a, b, _ = parties
    target("add", NQN, "malloc:///m1?size_mb=8")
    a.register()
    a.acquire(EA)
    b.q.write(2, 0, b"2" * 512)
    assert b.q.read(2, 0, 1) == b"2" * 512
    assert status_of(b.q.read, 1, 0, 1) == CONFLICT
    assert b.q.report(2).type == 0 and b.q.report(1).type == EA


# ---- verbs

def test_register_and_report(parties):
    a, b, c = parties
    empty = c.q.report(1)
    assert (empty.gen, empty.type, empty.ptpls, empty.hosts) == (0, 0, 0, {})
    a.register()
    b.register()
    b.register()
    assert status_of(b.q.register, 1, 0x9999) == CONFLICT
    assert status_of(c.q.register, 1, 0) == INVALID
    assert status_of(c.q.unregister, 1, 0) == CONFLICT
    assert status_of(c.q.register, 1, 5, action=3) == INVALID
    assert status_of(c.q.register, 1, 5, cptpl=1) == INVALID
    assert status_of(c.q.register, 1, 5, cptpl=3) == INVALID  # there is no folder
    a.acquire(WE)
    seen = c.q.report(1)
    assert (seen.gen, seen.type, seen.ptpls) == (3, WE, 0)
    assert seen.hosts == {A: (KEY[A], True), B: (KEY[B], False)}
    # Replace: with the right key, or without one, also without a registration.
    assert status_of(b.q.register, 1, 7, crkey=1, action=2) == CONFLICT
    b.q.register(1, 7, crkey=KEY[B], action=2)
    assert status_of(c.q.register, 1, 8, action=2) == CONFLICT
    c.q.register(1, 8, action=2, iekey=True)
    assert a.q.report(1).hosts == {A: (KEY[A], True), B: (7, False), C: (8, False)}
    c.q.unregister(1, 0, iekey=True)
    b.q.unregister(1, 7)
    a.q.unregister(1, KEY[A])
    assert a.q.report(1).hosts == {} and a.q.report(1).type == 0


def test_report_sizes(parties):
    a, b, _ = parties
    a.register()
    b.register()
    assert status_of(a.q.report, 1, eds=0) == 0x018  # 64-bit host identifiers are not used here
    whole = a.q.report(1, 192).raw
    for size in (4, 64, 96, 188):
        raw = a.q.command(sqe(0x0E, 1, cdw10=size // 4 - 1, cdw11=1), expect=size).data
        assert raw == whole[:size]
    more = a.q.report(1, 128 << 10).raw
    assert more[:192] == whole and not any(more[192:])
    assert status_of(a.q.report, 1, (128 << 10) + 4) == INVALID
    assert status_of(a.q.report, 9) == 0x00B
    assert status_of(a.q.command, sqe(0x0E, 1, cdw10=47, cdw11=1), expect=100) == 0x00F


def test_acquire_and_release(parties):
    a, b, c = parties
    assert status_of(c.q.acquire, 1, WE, 0) == CONFLICT
    a.register()
    b.register()
    assert status_of(a.q.acquire, 1, WE, 0x9999) == CONFLICT
    assert status_of(a.q.acquire, 1, WE, KEY[A], iekey=True) == INVALID
    for rtype in (0, 7, 255):
        assert status_of(a.q.acquire, 1, rtype, KEY[A]) == INVALID
    assert status_of(a.q.acquire, 1, WE, KEY[A], action=3) == INVALID
    a.acquire(WE)
    a.acquire(WE)
    assert status_of(a.q.acquire, 1, EA, KEY[A]) == CONFLICT
    assert status_of(b.q.acquire, 1, WE, KEY[B]) == CONFLICT
    assert status_of(a.q.release, 1, EA, KEY[A]) == INVALID
    assert status_of(a.q.release, 1, WE, KEY[A], iekey=True) == INVALID
    assert status_of(a.q.release, 1, WE, KEY[A], action=2) == INVALID
    b.q.release(1, WE, KEY[B])  # not the holder: no error, no effect
    assert a.q.report(1).type == WE
    # Linux sends 16 bytes with Release.
    a.q.command(a.q.resv(0x15, 1, 0, WE), struct.pack("<QQ", KEY[A], 0))
    assert a.q.report(1).type == 0
    a.q.release(1, WE, KEY[A])
    b.q.clear(1, KEY[B])
    assert a.q.report(1).hosts == {}


def test_all_registrants_share(parties):
    a, b, c = parties
    a.register()
    a.acquire(EA_AR)
    b.register()  # and holds at once
    check(b.q, True, True)
    assert a.q.report(1).hosts == {A: (KEY[A], True), B: (KEY[B], True)}
    a.q.unregister(1, KEY[A])
    check(a.q, False, False)
    check(b.q, True, True)
    b.q.unregister(1, KEY[B])
    check(c.q, True, True)


def test_commands_that_are_wrong(target, parties):
    a, _, _ = parties
    q = a.q
    for opcode, size in ((0x0D, 16), (0x11, 16), (0x15, 8)):
        entry = q.resv(opcode, 1, 0, WE)
        assert status_of(q.command, entry, b"\0" * (size - 1)) == 0x00F
        assert status_of(q.command, entry) == 0x00F
        assert status_of(q.command, q.resv(opcode, 2, 0, WE), b"\0" * size) == 0x00B
        assert status_of(q.command, q.resv(opcode, 0xFFFFFFFF, 0, WE), b"\0" * size) == 0x00B
        assert status_of(a.admin.command, entry, b"\0" * size) == 0x001  # not an admin command
        q.capsule_max = 0  # by R2T
        assert status_of(q.command, q.resv(opcode, 1, 7, WE), b"\0" * size) == INVALID
        assert status_of(q.command, entry, b"\0" * 8192) == 0x00F
        q.capsule_max = 4096
    nobody = Party(target.port, b"\0" * 16)
    assert status_of(nobody.q.register, 1, 5) == INVALID
    q.read(1, 0, 1)


def test_table_of_registrants_is_bounded(target, parties):
    a, _, _ = parties
    for i in range(128):
        with Host(target.port, hostid=struct.pack("<QQ", i, 1)) as host:
            host.queue(1).register(1, 5)
    assert status_of(a.q.register, 1, 5) == 0x006
    assert len(a.q.report(1, 64 + 128 * 64).hosts) == 128
    check(a.q, True, True)


# ---- preempt

@pytest.mark.parametrize("abort", [False, True])
def test_preempt(parties, abort):
    a, b, c = parties
    a.register()
    b.register()
    c.register()
    a.acquire(WE)
    assert status_of(b.q.preempt, 1, EA_RO, KEY[B], 0, abort) == INVALID
    assert status_of(b.q.preempt, 1, EA_RO, KEY[B], 0x9999, abort) == CONFLICT
    b.q.preempt(1, EA_RO, KEY[B], KEY[A], abort)
    assert b.q.report(1).hosts == {B: (KEY[B], True), C: (KEY[C], False)}
    check(a.q, False, False)
    check(c.q, True, True)
    b.q.preempt(1, WE, KEY[B], KEY[C], abort)  # a registration only
    assert b.q.report(1).type == EA_RO and set(b.q.report(1).hosts) == {B}
    b.q.preempt(1, WE_AR, KEY[B], KEY[B], abort)  # itself: another type
    assert b.q.report(1).type == WE_AR
    a.register()
    a.q.preempt(1, WE, KEY[A], 0, abort)  # all others
    assert a.q.report(1).hosts == {A: (KEY[A], True)} and a.q.report(1).type == WE


def test_held_commands_are_judged_again(target, parties):
    """What waits for a paused subsystem meets the rights of the moment it goes on."""
    a, b, _ = parties
    a.register()
    b.register()
    a.acquire(WE)
    target("pause", NQN)
    held = [a.q.submit(a.q.rw(WRITE, 1, i, 1), b"\xEE" * 512) for i in range(4)]
    a.q.capsule_max = 0
    held.append(a.q.submit(a.q.rw(WRITE, 1, 4, 1), b"\xEE" * 512))
    read = a.q.submit(a.q.rw(READ, 1, 0, 1), expect=512)
    a.q.pump()  # the R2T is answered, so all before it is held
    b.q.preempt(1, WE, KEY[B], KEY[A])
    target("resume", NQN)
    for cid in held:
        assert status_of(a.q.wait, cid) == CONFLICT
    assert a.q.wait(read).data == b"\0" * 512
    assert b.q.read(1, 0, 8) == b"\0" * 4096


def test_preempt_and_abort_ends_what_waits(target, parties):
    """Also reads, which the new reservation would let through; not those of others."""
    a, b, c = parties
    for p in parties:
        p.register()
    a.acquire(WE_RO)
    target("pause", NQN)
    held = [a.q.submit(a.q.rw(WRITE, 1, 0, 1), b"\xEE" * 512),
            a.q.submit(a.q.rw(READ, 1, 0, 1), expect=512),
            a.q.submit(a.q.rw(READ, 1, 0, 256), expect=128 << 10)]
    a.q.capsule_max = 0
    late = a.q.submit(a.q.rw(WRITE, 1, 1, 1), b"\xEE" * 512)
    kind, _, r2t, _ = a.q.recv_pdu()
    assert kind == 9  # R2T; answered only after the preemption
    theirs = c.q.submit(c.q.rw(READ, 1, 0, 1), expect=512)
    c.q.command(sqe(0x0E, 1, cdw10=15, cdw11=1), expect=64)  # the read is there and held
    b.q.preempt(1, WE_RO, KEY[B], KEY[A], abort=True)
    for cid in held:
        assert status_of(a.q.wait, cid) == ABORTED
    a.q.answer_r2t(r2t)
    target("resume", NQN)
    assert status_of(a.q.wait, late) == ABORTED
    c.q.wait(theirs)
    a.q.read(1, 0, 1)  # what comes later is judged by the reservation alone
    assert status_of(a.q.write, 1, 0, b"\xEE" * 512) == CONFLICT
    assert b.q.read(1, 0, 2) == b"\0" * 1024


def test_no_write_lands_after_the_fence(target, parties):
    """A write that was with the device is waited for; it is on this side of the fence."""
    a, b, _ = parties
    fault = "inject://m0?op=write&stage=submission&method=delay&delay_us=300000"
    b.register()
    target("inject", fault)
    late = a.q.submit(a.q.rw(WRITE, 1, 0, 1), b"\xEE" * 512)
    a.q.report(1)  # the write was started before this was
    b.acquire(WE)
    seen = b.q.read(1, 0, 1)
    a.q.wait(late)
    assert seen == b.q.read(1, 0, 1) == b"\xEE" * 512
    target("heal", fault)


def test_a_host_that_left_is_fenced_too(target, parties):
    """Its controllers are gone, but not its write: that one is waited for as well."""
    a, b, _ = parties
    a.register()
    b.register()
    b.acquire(WE_RO)
    fault = "inject://m0?op=write&stage=submission&method=delay&delay_us=500000"
    target("inject", fault)
    a.q.submit(a.q.rw(WRITE, 1, 0, 1), b"\xEE" * 512)
    a.q.report(1)  # the write was started before this was
    a.host.close()
    eventually(lambda: target("controllers", NQN) == "2", "the host to go")
    b.q.preempt(1, WE_RO, KEY[B], KEY[A])
    assert b.q.read(1, 0, 1) == b"\xEE" * 512
    target("heal", fault)


@pytest.mark.parametrize("cores", ["0x1", "0x3"])
def test_hosts_that_race(cores):
    """Two hosts preempt each other with full queues while both write, each its own blocks: commands
    are serialised, one holds in the end, and only that one writes."""
    with start("--cores", cores) as t:
        t("add", NQN, URI)
        a, b = Party(t.port, A), Party(t.port, B)
        for _ in range(20):
            cids = []
            for p, other, lba in ((a, b, 0), (b, a, 8)):
                cids += [(p, p.q.submit(p.q.resv(0x0D, 1, 2, 0, True),
                                        struct.pack("<QQ", 0, p.key))),
                         (p, p.q.submit(p.q.resv(0x11, 1, 0, WE),
                                        struct.pack("<QQ", p.key, 0))),
                         (p, p.q.submit(p.q.rw(WRITE, 1, lba, 8), p.id * 256)),
                         (p, p.q.submit(p.q.resv(0x11, 1, 2, WE),
                                        struct.pack("<QQ", p.key, other.key))),
                         (p, p.q.submit(p.q.rw(WRITE, 1, lba, 8), p.id * 256))]
            for p, cid in cids:
                try:
                    p.q.wait(cid)
                except NvmeError as failed:
                    assert failed.status in (CONFLICT, ABORTED)
            holders = [h for h, (_, holds) in a.q.report(1).hosts.items() if holds]
            assert len(holders) == 1
            holder, loser = (a, b) if holders[0] == A else (b, a)
            holder.q.write(1, 0, holder.id * 256)
            assert status_of(loser.q.write, 1, 0, loser.id * 256) == CONFLICT
            assert holder.q.read(1, 0, 8) == holder.id * 256
            holder.q.clear(1, holder.key)
        a.host.close()
        b.host.close()


def test_a_host_that_leaves_in_the_middle(target, parties):
    _, b, _ = parties
    b.register()
    for _ in range(5):
        a = Party(target.port, A)
        for _ in range(30):
            a.q.submit(a.q.resv(0x0D, 1, 2, 0, True), struct.pack("<QQ", 0, 1))
            a.q.submit(a.q.resv(0x11, 1, 0, WE), struct.pack("<QQ", 1, 0))
            a.q.submit(a.q.resv(0x15, 1, 0, WE), struct.pack("<QQ", 1, 0))
        a.host.close()
    eventually(lambda: target("controllers", NQN) == "3", "the host to go")
    b.q.report(1)
    target("remove", NQN, 1)
    target("add", NQN, "malloc:///m1?size_mb=8")  # another device under the same number
    assert b.q.report(1).hosts == {}
    b.q.write(1, 0, b"1" * 512)


def test_a_flood_does_not_keep_others_waiting(target, parties):
    """While A's first command takes its time, A sends many; B's is still the next but one."""
    a, b, c = parties
    a.register()
    b.register()
    fault = "inject://m0?op=write&stage=submission&method=delay&delay_us=300000"
    target("inject", fault)
    late = c.q.submit(c.q.rw(WRITE, 1, 0, 1), b"\xEE" * 512)
    c.q.report(1)
    cids = [a.q.submit(a.q.resv(0x11, 1, 0, WE), struct.pack("<QQ", KEY[A], 0))]
    for old, new in [(KEY[A], KEY[A])] * 5 + [(KEY[A] + i, KEY[A] + i + 1) for i in range(50)]:
        cids.append(a.q.submit(a.q.resv(0x0D, 1, 2), struct.pack("<QQ", old, new)))
    a.q.report(1)
    b.q.preempt(1, WE, KEY[B], KEY[A])  # in order of arrival A's key would be another by now
    for cid in cids[:2]:
        a.q.wait(cid)
    for cid in cids[2:]:
        assert status_of(a.q.wait, cid) == CONFLICT
    c.q.wait(late)
    target("heal", fault)


def test_a_graceful_disconnect_answers_what_waits_for_its_turn(target, parties):
    """A command that was there before the disconnect is carried out, not refused."""
    a, b, c = parties
    a.register()
    fault = "inject://m0?op=write&stage=submission&method=delay&delay_us=500000"
    target("inject", fault)
    late = c.q.submit(c.q.rw(WRITE, 1, 0, 1), b"\xEE" * 512)
    c.q.report(1)
    acquire = a.q.submit(a.q.resv(0x11, 1, 0, WE), struct.pack("<QQ", KEY[A], 0))
    a.q.report(1)  # it is on its way, and waits for the write
    register = b.q.submit(b.q.resv(0x0D, 1, 0), struct.pack("<QQ", 0, KEY[B]))
    b.q.report(1)
    event = b.listen()
    target.start("disconnect", NQN, b.host.cntlid)
    assert status_of(b.admin.wait, event) == 0x008  # the disconnect has begun
    assert late not in c.q.done
    b.q.wait(register)
    assert target.finish() == "1"
    a.q.wait(acquire)
    c.q.wait(late)
    target("heal", fault)
    assert a.q.report(1).hosts == {A: (KEY[A], True), B: (KEY[B], False)}


def test_a_victim_that_left_before_its_commands_ended(target, parties):
    """Its connection is closed and its controller gone while its commands wait for their turn, and
    for those of the host that preempts it."""
    a, b, c = parties
    a.register()
    b.register()
    fault = "inject://m0?op=write&stage=submission&method=delay&delay_us=300000"
    target("inject", fault)
    late = c.q.submit(c.q.rw(WRITE, 1, 0, 1), b"\xEE" * 512)
    c.q.report(1)
    preempt = b.q.submit(b.q.resv(0x11, 1, 2, WE), struct.pack("<QQ", KEY[B], KEY[A]))
    b.q.report(1)  # the preemption is on its way, and waits for the write
    for _ in range(10):
        a.q.submit(a.q.resv(0x0D, 1, 2, 0, True), struct.pack("<QQ", 0, 1))
    a.q.report(1)
    a.host.close()
    eventually(lambda: target("controllers", NQN) == "2", "the victim to go")
    c.q.wait(late)
    b.q.wait(preempt)
    target("heal", fault)
    assert b.q.report(1).hosts == {B: (KEY[B], False)}


# ---- fused pairs

def pair(q, old, new):
    """Submit a fused compare-and-write of the first block."""
    return [q.submit(q.rw(op, 1, 0, 1)[:1] + bytes([0x40 | half]) + q.rw(op, 1, 0, 1)[2:], data)
            for half, op, data in ((1, COMPARE, old), (2, WRITE, new))]


def ends(q, cids):
    statuses = []
    for cid in cids:
        try:
            statuses.append(q.wait(cid).status)
        except NvmeError as failed:
            statuses.append(failed.status)
    return statuses


def test_a_fused_pair_is_one_write(parties):
    a, b, _ = parties
    a.register()
    a.acquire(WE)
    assert ends(b.q, pair(b.q, b"\0" * 512, b"\xEE" * 512)) == [CONFLICT, FAILED_FUSED]
    assert ends(a.q, pair(a.q, b"\0" * 512, b"a" * 512)) == [0, 0]
    assert b.q.read(1, 0, 1) == b"a" * 512


@pytest.mark.parametrize("abort", [False, True])
def test_a_fused_pair_that_waits_is_preempted(target, parties, abort):
    a, b, _ = parties
    a.register()
    b.register()
    a.acquire(WE)
    target("pause", NQN)
    held = pair(a.q, b"\0" * 512, b"\xEE" * 512)
    a.q.report(1)
    b.q.preempt(1, WE, KEY[B], KEY[A], abort)
    target("resume", NQN)
    assert ends(a.q, held) == [ABORTED if abort else CONFLICT, FAILED_FUSED]
    assert b.q.read(1, 0, 1) == b"\0" * 512


# ---- events

def test_events_and_log(parties):
    a, b, c = parties
    for p in parties:
        assert p.log() == (0, 0, 0, 0)
        p.register()
    event = {p: p.listen() for p in parties}
    a.acquire(WE_RO)
    b.q.preempt(1, EA_RO, KEY[B], KEY[A])
    assert a.admin.wait(event[a]).dw0 == LOG_EVENT
    assert c.admin.wait(event[c]).dw0 == LOG_EVENT
    assert a.log(rae=True) == a.log() == (1, REGISTRATION_PREEMPTED, 0, 1)
    assert a.log() == (0, 0, 0, 0)
    # C has not read yet: no second event, but a second page.
    event[c] = c.listen()
    b.q.release(1, EA_RO, KEY[B])
    b.q.clear(1, KEY[B])
    assert c.log(rae=True) == (1, RELEASED, 2, 1)
    assert event[c] not in c.admin.done
    assert c.log() == (1, RELEASED, 2, 1)
    assert c.admin.wait(event[c]).dw0 == LOG_EVENT  # more is waiting
    assert c.log() == (2, RELEASED, 1, 1)
    assert c.log() == (3, PREEMPTED, 0, 1)
    # Who did it is told nothing.
    assert b.log() == (0, 0, 0, 0)
    assert event[b] not in b.admin.done


def test_every_controller_of_a_host_is_told(target, parties):
    a, b, _ = parties
    second = Party(target.port, A)
    a.register()
    b.register()
    b.q.clear(1, KEY[B])
    assert a.log()[1] == second.log()[1] == PREEMPTED


def test_log_that_is_not_read_loses_the_oldest(parties):
    a, b, _ = parties
    a.register()
    b.register()
    for _ in range(40):
        a.acquire(WE_RO)
        a.q.release(1, WE_RO, KEY[A])
    assert b.log() == (9, RELEASED, 31, 1)
    assert b.log() == (10, RELEASED, 30, 1)
    # A controller reset begins anew.
    b.admin.property_set(0x14, 0)
    b.admin.enable()
    assert b.log() == (0, 0, 0, 0)


def test_mask(target, parties):
    a, b, _ = parties
    target("add", NQN, "malloc:///m1?size_mb=8")
    a.register()
    b.register()
    assert a.admin.get_feature(0x82, nsid=1).dw0 == 0
    for nsid in (0, 3, 0xFFFFFFFF):
        assert status_of(a.admin.get_feature, 0x82, nsid=nsid) == 0x00B
    assert status_of(a.admin.set_feature, 0x82, 4, nsid=3) == 0x00B
    a.admin.set_feature(0x82, 1 << RELEASED | 1, nsid=1)
    assert a.admin.get_feature(0x82, nsid=1).dw0 == 1 << RELEASED
    assert a.admin.get_feature(0x82, nsid=2).dw0 == 0
    assert a.admin.command(sqe(0x0A, 1, cdw10=0x82 | 3 << 8)).dw0 == 6  # changeable, per namespace
    a.acquire(WE_RO)
    a.q.release(1, WE_RO, KEY[A])
    assert b.log() == (0, 0, 0, 0)
    a.admin.set_feature(0x82, 0, nsid=0xFFFFFFFF)
    assert a.admin.get_feature(0x82, nsid=1).dw0 == 0
    a.q.clear(1, KEY[A])
    assert b.log() == (1, PREEMPTED, 0, 1)


# ---- Identify and persistence

def rescap(party, nsid=1):
    one, two = party.admin.identify(0, nsid)[31], party.admin.identify(8, nsid)[2]
    assert one == two
    return one


def test_capabilities(tmp_path, parties):
    a, _, _ = parties
    assert rescap(a) == 0xFE
    assert a.admin.get_feature(0x83, nsid=1).dw0 == 0
    assert status_of(a.admin.set_feature, 0x83, 1, nsid=1) == INVALID
    a.admin.set_feature(0x83, 0, nsid=1)
    with start("--ptpl-dir", tmp_path / "resv") as t:
        t("add", NQN, URI)
        t("add", NQN, "malloc:///made_up?size_mb=8")
        p = Party(t.port, A)
        assert rescap(p, 1) == 0xFF and rescap(p, 2) == 0xFE
        assert status_of(p.admin.set_feature, 0x83, 1, nsid=0xFFFFFFFF) == INVALID
        assert p.admin.get_feature(0x83, nsid=1).dw0 == 0
        assert status_of(p.q.register, 2, 1, cptpl=3) == INVALID
        p.host.close()


def killed(t):
    t.proc.kill()
    t.proc.wait()
    t.proc.stdin.close()
    t.proc.stdout.close()


@pytest.mark.parametrize("rtype", TYPES)
def test_restart_finds_reservations(tmp_path, rtype):
    options = ("--ptpl-dir", tmp_path)
    t = start(*options)
    t("add", NQN, URI)
    a, b = Party(t.port, A), Party(t.port, B)
    a.register(cptpl=3)
    b.register()
    a.acquire(rtype)
    assert a.q.report(1).ptpls == 1 and a.admin.get_feature(0x83, nsid=1).dw0 == 1
    killed(t)
    assert [f.name for f in tmp_path.glob("*.json")] == [f"{UUID}.json"]
    with start(*options) as t:
        t("add", NQN, URI)
        a, b, c = (Party(t.port, hostid) for hostid in (A, B, C))
        seen = c.q.report(1)
        assert (seen.gen, seen.type, seen.ptpls) == (0, rtype, 1)
        assert seen.hosts == {A: (KEY[A], True), B: (KEY[B], rtype >= WE_AR)}
        c_reads = rtype in (WE, WE_RO, WE_AR)
        assert (status_of(c.q.write, 1, 0, b"\0" * 512) == CONFLICT)
        if not c_reads:
            assert status_of(c.q.read, 1, 0, 1) == CONFLICT
        a.q.write(1, 0, b"\0" * 512)
        a.q.release(1, rtype, KEY[A])
        # Taken back: nothing is left on disk.
        b.register(cptpl=2)
        assert list(tmp_path.glob("*.json")) == []
        assert c.q.report(1).ptpls == 0


def test_restart_forgets_what_was_not_to_last(tmp_path):
    options = ("--ptpl-dir", tmp_path)
    t = start(*options)
    t("add", NQN, URI)
    a = Party(t.port, A)
    a.register()
    a.acquire(WE)
    assert list(tmp_path.glob("*.json")) == []
    killed(t)
    with start(*options) as t:
        t("add", NQN, URI)
        a = Party(t.port, A)
        assert a.q.report(1).hosts == {}
        # The feature does what CPTPL does, also later.
        a.register()
        a.acquire(WE)
        a.admin.set_feature(0x83, 1, nsid=1)
        assert len(list(tmp_path.glob("*.json"))) == 1
        # A namespace that leaves and comes back finds its reservation.
        t("remove", NQN, 1)
        t("destroy", URI)
        t("add", NQN, URI)
        b = Party(t.port, B)
        assert b.q.report(1).hosts == {A: (KEY[A], True)}
        assert status_of(b.q.write, 1, 0, b"\0" * 512) == CONFLICT
        a.admin.set_feature(0x83, 0, nsid=0xFFFFFFFF)
        assert list(tmp_path.glob("*.json")) == []


def test_what_cannot_be_written_did_not_happen(tmp_path):
    folder, away = tmp_path / "here", tmp_path / "away"
    with start("--ptpl-dir", folder) as t:
        t("add", NQN, URI)
        a, b = Party(t.port, A), Party(t.port, B)
        a.register(cptpl=3)
        before = a.q.report(1).raw
        folder.rename(away)
        assert status_of(a.q.acquire, 1, EA, KEY[A]) == 0x006
        assert status_of(b.q.register, 1, KEY[B]) == 0x006
        assert a.q.report(1).raw == before
        check(b.q, True, True)
        away.rename(folder)
        a.acquire(EA)
        check(b.q, False, False)


def test_damage_keeps_the_device_from_being_served(tmp_path):
    options = ("--ptpl-dir", tmp_path)
    file = tmp_path / f"{UUID}.json"
    with start(*options) as t:
        t("add", NQN, URI)
        a = Party(t.port, A)
        a.register(cptpl=3)
        a.acquire(WE)
    good = file.read_text()
    assert '"type": 1' in good
    for bad in (good.replace('"type": 1', '"type": 2'), good[:-9], "", "{}"):
        file.write_text(bad)
        with start(*options) as t:
            with pytest.raises(AssertionError) as refused:
                t("add", NQN, URI)
            assert str(file) in str(refused.value) and "cannot be trusted" in str(refused.value)
            assert file.read_text() == bad, "the evidence was touched"
            file.write_text(good)
            t("destroy", URI)
            t("add", NQN, URI)
            a = Party(t.port, A)
            assert a.q.report(1).type == WE

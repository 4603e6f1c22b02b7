# SPDX-License-Identifier: Apache-2.0
"""Fused compare-and-write: pairs that go through, and everything that is not a pair."""

import os
import struct
import threading

import pytest
from nvmetcp import (COMPARE, FLUSH, NQN, READ, SGL_TRANSPORT, WRITE, Host, NvmeError, Targetd,
                     eventually, sgl, sqe)

URI = "malloc:///m0?size_mb=64"
BLOCKS = 64 * 2048
FIRST, SECOND, BOTH = 0x41, 0x42, 0x43
OK, INVALID, FAILED, MISSING, DIFFERS = 0, 0x002, 0x009, 0x00A, 0x285
UNIT_EXCEEDED, OUT_OF_RANGE = 0x014, 0x080


@pytest.fixture
def target():
    with Targetd() as t:
        t.port = t.listen()
        t("subsystem", NQN)
        t("add", NQN, URI)
        yield t


@pytest.fixture
def host(target):
    with Host(target.port) as h:
        yield h


@pytest.fixture
def q(host):
    return host.queue(1)


def half(q, flags, opcode, lba, data, nsid=1, bs=512, inline=True, nlb=None):
    entry = bytearray(q.rw(opcode, nsid, lba, nlb or len(data) // bs))
    entry[1] = flags
    if not inline:
        entry[24:40] = sgl(SGL_TRANSPORT, len(data))
    return q.submit(bytes(entry), data)


def status(q, cid):
    try:
        return q.wait(cid).status
    except NvmeError as failed:
        return failed.status


def fused(q, lba, old, new, first=True, second=True, **where):
    """The statuses of the two halves; whether each brings its data along."""
    a = half(q, FIRST, COMPARE, lba, old, inline=first, **where)
    b = half(q, SECOND, WRITE, lba, new, inline=second, **where)
    return status(q, a), status(q, b)


# ---- pairs

@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("second", [True, False])
@pytest.mark.parametrize("blocks", [1, 8])
def test_pair(q, first, second, blocks):
    old, new = os.urandom(blocks * 512), os.urandom(blocks * 512)
    q.write(1, 100, old)
    assert fused(q, 100, old, new, first, second) == (OK, OK)
    assert q.read(1, 100, blocks) == new
    assert fused(q, 100, old, old, first, second) == (DIFFERS, FAILED)
    assert q.read(1, 100, blocks) == new


def test_digests(target):
    with Host(target.port, hdgst=True, ddgst=True) as host:
        q = host.queue(1)
        assert fused(q, 0, bytes(512), b"n" * 512) == (OK, OK)
        assert fused(q, 0, b"n" * 512, b"m" * 512, False, False) == (OK, OK)
        assert q.read(1, 0, 1) == b"m" * 512


@pytest.mark.parametrize("spoil_first", [True, False])
def test_bad_digest_of_a_half(target, spoil_first):
    with Host(target.port, ddgst=True) as host:
        q = host.queue(1)
        cids = []
        for flags, opcode in ((FIRST, COMPARE), (SECOND, WRITE)):
            entry = bytearray(q.rw(opcode, 1, 0, 1))
            entry[1], entry[2:4] = flags, struct.pack("<H", flags)
            entry[24:40] = sgl(1, 512)
            q.data[flags] = bytearray()
            q.send(q.capsule(bytes(entry), bytes(512),
                             spoil_ddgst=(flags == FIRST) == spoil_first))
            cids.append(flags)
        expected = (0x022, FAILED) if spoil_first else (FAILED, 0x022)
        assert tuple(status(q, cid) for cid in cids) == expected


def test_halves_in_different_turns(target, host, q):
    before = target.stats()["commands"]
    a = half(q, FIRST, COMPARE, 5, bytes(512))
    eventually(lambda: target.stats()["commands"] > before, "the first half to arrive")
    host.admin.identify(1)
    assert a not in q.done
    b = half(q, SECOND, WRITE, 5, b"w" * 512)
    assert status(q, a) == OK and status(q, b) == OK
    assert q.read(1, 5, 1) == b"w" * 512


def test_many_pairs_at_once(q):
    pairs = [(half(q, FIRST, COMPARE, i, bytes(512), inline=i % 2 == 0),
              half(q, SECOND, WRITE, i, bytes([i]) * 512, inline=i % 3 == 0)) for i in range(60)]
    for a, b in pairs:
        assert status(q, a) == OK and status(q, b) == OK
    assert q.read(1, 0, 60) == b"".join(bytes([i]) * 512 for i in range(60))


def test_other_commands_after_a_pair(q):
    assert fused(q, 0, bytes(512), b"1" * 512) == (OK, OK)
    q.compare(1, 0, b"1" * 512)
    q.write(1, 0, b"2" * 512)
    assert q.read(1, 0, 1) == b"2" * 512


def test_blocks_of_4096_and_an_emulated_device(target, host):
    target("add", NQN, "malloc:///m1?size_mb=8&blk_size=4096")
    target("add", NQN, "null:///n0?size_mb=8&blk_size=512")
    q = host.queue(1)
    old, new = bytes(4096), os.urandom(4096)
    assert fused(q, 3, old, new, nsid=2, bs=4096) == (OK, OK)
    assert q.read(2, 3, 1, bs=4096) == new
    # null keeps nothing to compare with
    assert fused(q, 0, bytes(512), bytes(512), nsid=3) == (0x001, FAILED)


def test_emulated_device(tmp_path, host, target):
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 20))
    target("add", NQN, f"aio://{path}?blk_size=512")
    q = host.queue(1)
    assert fused(q, 8, bytes(4096), b"n" * 4096, nsid=2) == (OK, OK)
    assert fused(q, 8, bytes(4096), b"m" * 4096, False, False, nsid=2) == (DIFFERS, FAILED)
    assert q.read(2, 8, 8) == b"n" * 4096


def test_it_is_atomic():
    """A counter that hosts on two reactors raise by compare-and-write loses nothing."""
    rounds, counters = 200, []

    def count(host, qid):
        q = host.queue(qid)
        done = 0
        while done < rounds:
            old = q.read(1, 0, 1)
            value = struct.unpack_from("<Q", old)[0]
            new = struct.pack("<Q", value + 1) * 64
            result = fused(q, 0, old, new, qid % 2 == 0, qid % 3 == 0)
            assert result in ((OK, OK), (DIFFERS, FAILED))
            done += result == (OK, OK)
        counters.append(done)

    with Targetd("--cores", "0x3") as t:
        port = t.listen()
        t("subsystem", NQN)
        t("add", NQN, URI)
        with Host(port) as host:
            threads = [threading.Thread(target=count, args=(host, i)) for i in range(1, 5)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert counters == [rounds] * 4
            assert struct.unpack_from("<Q", host.queue(9).read(1, 0, 1))[0] == 4 * rounds


# ---- what is not a pair

def test_second_without_a_first(q):
    assert status(q, half(q, SECOND, WRITE, 0, bytes(512))) == MISSING
    assert status(q, half(q, SECOND, WRITE, 0, bytes(512), inline=False)) == MISSING
    q.flush(1)


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("between", ["read", "flush", "first", "fabrics"])
def test_first_without_a_second(q, inline, between):
    a = half(q, FIRST, COMPARE, 0, bytes(512), inline=inline)
    if between == "read":
        q.read(1, 0, 1)
    elif between == "flush":
        q.flush(1)
    elif between == "fabrics":
        with pytest.raises(NvmeError):
            q.property_get(0x1C)
    else:
        b = half(q, FIRST, COMPARE, 0, bytes(512), inline=inline)
    assert status(q, a) == MISSING
    if between == "first":
        c = half(q, SECOND, WRITE, 0, b"2" * 512)
        assert status(q, b) == OK and status(q, c) == OK
    else:
        assert status(q, half(q, SECOND, WRITE, 0, bytes(512))) == MISSING


def test_both_bits(q):
    assert status(q, half(q, BOTH, COMPARE, 0, bytes(512))) == INVALID
    a = half(q, FIRST, COMPARE, 0, bytes(512))
    assert status(q, half(q, BOTH, WRITE, 0, bytes(512))) == INVALID
    assert status(q, a) == MISSING


@pytest.mark.parametrize("inline", [True, False])
def test_different_blocks(target, host, inline):
    target("add", NQN, "malloc:///m1?size_mb=8")
    q = host.queue(1)
    for where in ({"lba": 1}, {"nlb": 2}, {"nsid": 2}, {"lba": 1 << 32}):
        a = half(q, FIRST, COMPARE, 0, bytes(512), inline=inline)
        data = b"x" * (512 * where.get("nlb", 1))
        b = half(q, SECOND, WRITE, where.get("lba", 0), data, nsid=where.get("nsid", 1),
                 inline=inline)
        assert (status(q, a), status(q, b)) == (INVALID, INVALID), where
    assert q.read(1, 0, 2) == bytes(1024) and q.read(2, 0, 1) == bytes(512)


def test_wrong_operations(q):
    for first, second, expected in ((COMPARE, COMPARE, (FAILED, INVALID)),
                                    (WRITE, WRITE, (INVALID, FAILED)),
                                    (WRITE, COMPARE, (INVALID, FAILED))):
        a = half(q, FIRST, first, 0, bytes(512))
        b = half(q, SECOND, second, 0, bytes(512))
        assert (status(q, a), status(q, b)) == expected
    entry = bytearray(sqe(FLUSH, 1))
    entry[1] = FIRST
    assert status(q, q.submit(bytes(entry))) == INVALID
    entry = bytearray(q.rw(READ, 1, 0, 1))
    entry[1] = SECOND
    assert status(q, q.submit(bytes(entry), expect=512)) == FAILED


def test_faults_of_one_half(q):
    assert fused(q, BLOCKS, bytes(512), bytes(512)) == (OUT_OF_RANGE, FAILED)
    assert fused(q, 0, bytes(512), bytes(512), nsid=9) == (0x00B, FAILED)
    # beyond what a slot holds
    assert fused(q, 0, bytes(9 * 512), bytes(9 * 512), False, False) == (UNIT_EXCEEDED, FAILED)
    # a second half whose descriptor does not fit
    a = half(q, FIRST, COMPARE, 0, bytes(512))
    b = half(q, SECOND, WRITE, 0, bytes(1024), nlb=1)
    assert (status(q, a), status(q, b)) == (FAILED, 0x00F)


def test_errors_of_the_device(target, q):
    for method, expected in (("status-nvme-2-81", (0x281, FAILED)),
                             ("status-lvol-nospace", (FAILED, 0x081))):
        fault = f"inject://m0?op=compare_write&method={method}"
        target("inject", fault)
        assert fused(q, 0, bytes(512), bytes(512)) == expected
        target("heal", fault)
    assert fused(q, 0, bytes(512), bytes(512)) == (OK, OK)


def test_admin_commands_are_not_fused(host):
    entry = bytearray(sqe(6, cdw10=1))
    entry[1] = FIRST
    assert status(host.admin, host.admin.submit(bytes(entry), expect=4096)) == INVALID


# ---- waiting

def test_queues_do_not_mix(host):
    one, two = host.queue(1), host.queue(2)
    a = half(one, FIRST, COMPARE, 0, bytes(512))
    assert status(two, half(two, SECOND, WRITE, 0, bytes(512))) == MISSING
    two.flush(1)
    b = half(one, SECOND, WRITE, 0, b"k" * 512)
    assert status(one, a) == OK and status(one, b) == OK


@pytest.mark.parametrize("inline", [True, False])
def test_a_silent_host_holds_nothing_but_its_slot(target, inline):
    """No buffer, no device, no pause waits for a second half; and the connection can go."""
    with Host(target.port) as silent, Host(target.port) as other:
        q = silent.queue(1)
        before = target.stats()
        half(q, FIRST, COMPARE, 0, bytes(4096), inline=inline)
        eventually(lambda: target.stats()["commands"] > before["commands"], "the first half")
        target("pause", NQN)
        target("resume", NQN)
        assert target.stats()["buffers_free_min"] == before["buffers_free_min"]
        other.queue(1).read(1, 0, 1)
        target("remove", NQN, 1)
    eventually(lambda: target.stats()["conns"] == 0, "the connections to go")


def test_abort_of_a_waiting_first(host, q):
    a = half(q, FIRST, COMPARE, 0, bytes(512))
    eventually(lambda: host.admin.command(sqe(8, cdw10=a << 16 | 1)).dw0 == 0, "the abort")
    assert status(q, a) == 0x007
    assert status(q, half(q, SECOND, WRITE, 0, bytes(512))) == FAILED
    assert fused(q, 0, bytes(512), b"n" * 512) == (OK, OK)


@pytest.mark.parametrize("aborts_first", [True, False])
def test_abort_of_a_held_pair(target, host, q, aborts_first):
    target("pause", NQN)
    a = half(q, FIRST, COMPARE, 0, bytes(512))
    b = half(q, SECOND, WRITE, 0, b"x" * 512, inline=False)
    q.answer_r2t(q.recv_pdu()[2])
    cid = a if aborts_first else b
    eventually(lambda: host.admin.command(sqe(8, cdw10=cid << 16 | 1)).dw0 == 0, "the abort")
    assert (status(q, a), status(q, b)) == ((0x007, FAILED) if aborts_first else (FAILED, 0x007))
    target("resume", NQN)
    assert q.read(1, 0, 1) == bytes(512)


def test_held_while_paused(target, host, q):
    target("pause", NQN)
    a = half(q, FIRST, COMPARE, 0, bytes(512))
    b = half(q, SECOND, WRITE, 0, b"h" * 512)
    host.admin.identify(1)
    assert not q.done
    target("resume", NQN)
    assert (status(q, a), status(q, b)) == (OK, OK)
    assert q.read(1, 0, 1) == b"h" * 512


@pytest.mark.parametrize("second_is_there", [True, False])
def test_another_device_takes_the_number(target, host, q, second_is_there):
    """A pair that was meant for the device that went does not reach the next one."""
    target("pause", NQN)
    a = half(q, FIRST, COMPARE, 0, bytes(512))
    if second_is_there:
        b = half(q, SECOND, WRITE, 0, b"x" * 512)
    host.admin.identify(1)
    target("remove", NQN, 1)
    target("add", NQN, "malloc:///other?size_mb=8")
    if not second_is_there:
        b = half(q, SECOND, WRITE, 0, b"x" * 512)
    target("resume", NQN)
    assert (status(q, a), status(q, b)) == (0x00B, FAILED)
    assert q.read(1, 0, 1) == bytes(512)


def test_disconnect_in_the_middle(target):
    fault = "inject://m0?op=compare_write&method=delay&delay_us=20000-60000&seed=4"
    target("inject", fault)
    for n in range(8):
        with Host(target.port) as host:
            q = host.queue(1)
            for i in range(20):
                half(q, FIRST, COMPARE, i, bytes(512), inline=n % 2 == 0)
                half(q, SECOND, WRITE, i, bytes(512), inline=n % 3 == 0)
            half(q, FIRST, COMPARE, 0, bytes(512), inline=n % 2 == 0)
    target("heal", fault)
    eventually(lambda: target.stats()["conns"] == 0, "the connections to go")


def test_identify(host):
    ctrl = host.admin.identify(1)
    assert struct.unpack_from("<H", ctrl, 522)[0] == 1, "FUSES"
    awun, awupf, acwu = struct.unpack_from("<HHxxH", ctrl, 526)
    assert (awun, awupf, acwu) == (0, 0, 0)
    ns = host.admin.identify(0, 1)
    assert ns[24] & 2 and struct.unpack_from("<HHH", ns, 34) == (0, 0, 7)

# SPDX-License-Identifier: Apache-2.0
"""What a controller says of itself: logs of errors and of what there is, features and their
defaults, space in use, and the vendor snapshot command."""

import struct

import pytest
from nvmetcp import (COMPARE, DISCOVERY, NQN, READ, VERIFY, WRITE, Host, NvmeError, Targetd, sqe)

URI = "malloc:///m0?size_mb=64"
BLOCKS = 64 * 2048
CURRENT, DEFAULT, SAVED, SUPPORTED = 0, 1, 2, 3


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


def status_of(run, *args, **kwargs):
    with pytest.raises(NvmeError) as failed:
        run(*args, **kwargs)
    return failed.value.status


# ---- the error log

def errors(admin, count=64):
    """Entries as (count, sqid, cid, status, location, lba, nsid, trtype), newest first."""
    raw = admin.log_page(1, 64 * count)
    entries = []
    for at in range(0, len(raw), 64):
        entry = struct.unpack_from("<QHHHHQIxB", raw, at)
        if entry[0] == 0:
            assert not any(raw[at:]), "entries behind the last one"
            break
        entries.append((*entry[:3], entry[3] >> 1 & 0x3FFF, *entry[4:]))
    return entries


def error_count(admin):
    return struct.unpack_from("<Q", admin.log_page(2, 512), 176)[0]


def test_error_log(host):
    admin, q = host.admin, host.queue(3)
    assert admin.identify(1)[262] == 63, "ELPE"
    assert errors(admin) == [] and error_count(admin) == 0
    q.write(1, 0, b"e" * 512)
    assert status_of(q.compare, 1, 0, b"\0" * 512) == 0x285  # is no error
    assert status_of(q.read, 1, BLOCKS + 5, 1) == 0x080
    first = q.next_cid - 1
    assert status_of(q.flush, 77) == 0x00B
    assert status_of(admin.command, sqe(0x7E, 1)) == 0x001
    log = errors(admin)
    assert [e[0] for e in log] == [3, 2, 1]
    assert log[2] == (1, 3, first, 0x080, 0xFFFF, BLOCKS + 5, 1, 3)
    assert log[1] == (2, 3, first + 1, 0x00B, 0xFFFF, 0, 77, 3)
    assert log[0][1] == 0 and log[0][3] == 0x001
    assert error_count(admin) == 3
    assert errors(admin, 2) == log[:2]


def test_error_log_is_a_ring(host):
    admin, q = host.admin, host.queue(1)
    for i in range(100):
        assert status_of(q.read, 1, BLOCKS + i, 1) == 0x080
    log = errors(admin)
    assert len(log) == 64 and error_count(admin) == 100
    assert [e[0] for e in log] == list(range(100, 36, -1))
    assert [e[5] for e in log] == [BLOCKS + i for i in range(99, 35, -1)]


def test_a_burst_of_errors_is_counted(host):
    admin, q = host.admin, host.queue(1)
    raw, cids = b"", []
    for cid in range(3000, 3120):
        entry = q.rw(READ, 1, BLOCKS, 1)
        q.data[cid] = bytearray()
        cids.append(cid)
        raw += q.capsule(entry[:2] + struct.pack("<H", cid) + entry[4:])
    q.send(raw)
    for cid in cids:
        assert status_of(q.wait, cid) == 0x011  # it has no descriptor
    assert error_count(admin) == 120
    log = errors(admin)
    assert 8 <= len(log) <= 64
    assert [e[0] for e in log] == sorted((e[0] for e in log), reverse=True)


def test_error_logs_are_per_controller(target, host):
    with Host(target.port) as other:
        assert status_of(other.queue(1).flush, 9) == 0x00B
        assert len(errors(other.admin)) == 1
        assert errors(host.admin) == []


# ---- pages of what there is

def bits(raw):
    return {i for i, word in enumerate(struct.unpack("<256I", raw)) if word & 1}


def test_supported_pages(host):
    admin = host.admin
    pages = bits(admin.log_page(0, 1024))
    assert {0, 1, 2, 3, 4, 5, 0x12, 0x13} <= pages and 0x70 not in pages
    for lid in range(256):
        if lid in pages:
            admin.log_page(lid, 512)
        else:
            assert status_of(admin.log_page, lid, 512) == 0x109
    lpa = admin.identify(1)[261]
    assert lpa & 0x27 == 0x27


def test_supported_pages_of_discovery(target):
    with Host(target.port, DISCOVERY) as host:
        assert bits(host.admin.log_page(0, 1024)) == {0, 1, 0x70}
        assert status_of(host.admin.log_page, 2, 512) == 0x109
        assert status_of(host.admin.get_feature, 0x0E, expect=8) == 0x002


def test_supported_features(host):
    admin = host.admin
    raw = admin.log_page(0x12, 1024)
    features = bits(raw)
    for fid in range(256):
        entry = sqe(0x0A, cdw10=fid | SUPPORTED << 8)
        if fid in features:
            assert struct.unpack_from("<I", raw, fid * 4)[0] >> 20, f"no scope of {fid:#x}"
            if fid not in (0x82, 0x83):  # want a namespace
                assert admin.command(entry).dw0 & ~7 == 0
        else:
            assert status_of(admin.command, entry) == 0x002, hex(fid)
    assert admin.log_page(0x13, 4096) == b"\0" * 4096


def test_effects_have_a_scope(host):
    effects = struct.unpack("<512I", host.admin.log_page(5, 2048))
    for word in effects:
        assert bool(word & 1) == bool(word >> 20), hex(word)
    assert effects[0xC1] & 1 and effects[256 + COMPARE] & 1


def test_smart(host):
    admin = host.admin
    raw = admin.log_page(2, 512)
    assert raw[0] == 0, "a critical warning"
    cycles, hours = struct.unpack_from("<Q8xQ", raw, 112)
    assert cycles == 1 and hours == 0


def test_used_space(target, host):
    def nuse(nsid):
        return struct.unpack_from("<Q", host.admin.identify(0, nsid), 16)[0]
    target("add", NQN, "passthru:///p0?base=m0")
    target("add", NQN, "null:///n0?num_blocks=1000&blk_size=512")
    q = host.queue(1)
    q.write(1, 100, b"u" * 8192)
    assert nuse(1) == nuse(2) == 16
    assert nuse(3) == 1000
    q.deallocate(1, [(100, 8)])
    assert nuse(1) == nuse(2) == 8


# ---- features

def feature(admin, fid, sel=CURRENT, cdw11=0, expect=0):
    return admin.command(sqe(0x0A, cdw10=fid | sel << 8, cdw11=cdw11), expect=expect)


def test_select(host):
    admin = host.admin
    assert struct.unpack_from("<H", admin.identify(1), 520)[0] & 1 << 4, "ONCS says no SEL"
    admin.set_feature(0x0B, 0x100)
    admin.set_feature(0x0F, 7000)
    admin.set_feature(4, 310)
    for fid, current, default in ((0x0B, 0x100, 0), (0x0F, 7000, 0), (4, 310, 343)):
        assert feature(admin, fid).dw0 == current
        assert feature(admin, fid, DEFAULT).dw0 == default
        assert feature(admin, fid, SAVED).dw0 == default
        assert feature(admin, fid, SUPPORTED).dw0 == 4
    assert feature(admin, 1, SUPPORTED).dw0 == 0
    for sel in range(4, 8):
        assert status_of(feature, admin, 0x0B, sel) == 0x002
    assert status_of(feature, admin, 0x55, DEFAULT) == 0x002
    assert feature(admin, 0x81, SUPPORTED).dw0 & 3 == 0


def test_select_of_features_with_data(host):
    """What a host set is the current value only."""
    host.admin.set_feature(0x16, 0, b"\1" + bytes(511))
    for sel, acre in ((CURRENT, 1), (DEFAULT, 0), (SAVED, 0)):
        assert feature(host.admin, 0x16, sel, expect=512).data == bytes([acre]) + bytes(511)


def test_temperature_thresholds(host):
    admin = host.admin
    under, all_sensors = 1 << 20, 0xF << 16
    assert feature(admin, 4).dw0 == 343 and feature(admin, 4, cdw11=under).dw0 == 0
    admin.set_feature(4, 250 | under)
    admin.set_feature(4, 0 | all_sensors)
    assert feature(admin, 4).dw0 == 0 and feature(admin, 4, cdw11=under).dw0 == 250
    assert feature(admin, 4, DEFAULT, cdw11=under).dw0 == 0
    for wrong in (1 << 16, 2 << 20):
        assert status_of(feature, admin, 4, cdw11=wrong) == 0x002
        assert status_of(admin.set_feature, 4, 300 | wrong) == 0x002
    assert status_of(feature, admin, 4, cdw11=all_sensors) == 0x002
    assert feature(admin, 4).dw0 == 0


def timestamp(admin, sel=CURRENT):
    raw = struct.unpack("<Q", feature(admin, 0x0E, sel, expect=8).data)[0]
    return raw & (1 << 48) - 1, raw >> 48


def test_timestamp(host):
    admin = host.admin
    assert struct.unpack_from("<H", admin.identify(1), 520)[0] & 1 << 6, "ONCS says no timestamp"
    since_start, attributes = timestamp(admin)
    assert attributes == 0 and since_start < 3600 * 1000
    when = 1700000000000
    admin.set_feature(0x0E, 0, struct.pack("<Q", when))
    now, attributes = timestamp(admin)
    assert attributes == 1 << 1 and 0 <= now - when < 60000
    assert timestamp(admin)[0] >= now
    assert timestamp(admin, DEFAULT) == (0, 0)
    assert feature(admin, 0x0E, SUPPORTED).dw0 == 4
    assert status_of(admin.set_feature, 0x0E, 0) == 0x002
    assert status_of(admin.set_feature, 0x0E, 0, b"\0" * 4) == 0x002
    assert status_of(feature, admin, 0x0E, expect=4) == 0x002


# ---- Verify

def test_verify(target, host):
    q = host.queue(1)
    q.verify(1, 0, 256)
    q.verify(1, BLOCKS - 1, 1)
    # Without protection information PRINFO is not looked at (NVM 3.2.6); nor is its FUA.
    for flag in (1 << 26, 7 << 26, 1 << 29, 1 << 30):
        q.command(q.rw(VERIFY, 1, 0, 8, flag))
    assert status_of(q.verify, 1, BLOCKS, 1) == 0x080
    assert status_of(q.verify, 1, BLOCKS - 1, 2) == 0x080
    assert status_of(q.verify, 1, (1 << 64) - 1, 2) == 0x080
    assert status_of(q.verify, 1, 0, 257) == 0x002  # VSL
    assert status_of(q.verify, 9, 0, 1) == 0x00B
    fault = "inject://m0?op=read&method=status-nvme-2-81"
    target("inject", fault)
    assert status_of(q.verify, 1, 0, 8) == 0x281
    target("heal", fault)
    # Data nobody asked for.
    assert status_of(q.command, q.rw(VERIFY, 1, 0, 1), b"\0" * 512) == 0x002


# ---- the vendor snapshot command

def snapshot(*texts, variant=0, discarded=b"\0"):
    out = struct.pack("<I", variant)
    for text in texts:
        out += b"\0" if text is None else b"\1" + struct.pack("<Q", len(text)) + text
    return out + discarded


PARAMS = snapshot(b"entity", None, b"txn", b"snap-1", b"1234", None)


def errno_of(admin, nsid, payload, seconds=0):
    entry = sqe(0xC1, nsid, cdw10=seconds & 0xFFFFFFFF, cdw11=seconds >> 32)
    with pytest.raises(NvmeError) as failed:
        admin.command(entry, payload)
    assert failed.value.status == 0x006
    return failed.value.cqe.dw0


def test_snapshot_of_a_device_that_makes_none(host):
    assert errno_of(host.admin, 1, PARAMS) == 95


@pytest.mark.parametrize("capsule_max", [8192, 0])
def test_snapshot(target, host, capsule_max):
    target("snapshots", 0)
    admin = host.admin
    admin.capsule_max = capsule_max
    when = 0x123456789
    admin.command(sqe(0xC1, 1, cdw10=when & 0xFFFFFFFF, cdw11=when >> 32), PARAMS.ljust(4096, b"x"))
    assert target("snapshot") == f"m0 snap-1 entity txn {when}"
    target("snapshots", 28)
    assert errno_of(admin, 1, PARAMS) == 28


def test_snapshot_refused(target, host):
    target("snapshots", 0)
    admin = host.admin
    for bad in (PARAMS[:-1], b"\1" + PARAMS[1:], snapshot(*[b"x" * 256] * 6),
                b"\0" * 4 + b"\1" + b"\xff" * 8, snapshot(b"a\0b", *[None] * 5), b"\0" * 4):
        assert errno_of(admin, 1, bad) == 22
    assert status_of(admin.command, sqe(0xC1, 2), PARAMS) == 0x00B
    assert status_of(admin.command, sqe(0xC1, 0xFFFFFFFF), PARAMS) == 0x00B
    assert status_of(admin.command, sqe(0xC1, 1)) == 0x002
    admin.command(sqe(0xC1, 1), PARAMS)


def test_many_snapshots_at_once(target, host):
    target("snapshots", 0)
    admin = host.admin
    cids = [admin.submit(sqe(0xC1, 1), PARAMS) for _ in range(24)]
    results = []
    for cid in cids:
        try:
            admin.wait(cid)
            results.append(0)
        except NvmeError as failed:
            results.append(failed.cqe.dw0)
    assert set(results) <= {0, 16} and results.count(0) >= 8


def test_snapshot_while_everything_goes(target):
    target("snapshots", 0)
    with Host(target.port) as host:
        for _ in range(4):
            host.admin.submit(sqe(0xC1, 1), PARAMS)
    with Host(target.port) as host:
        host.admin.submit(sqe(0xC1, 1), PARAMS)
        target("destroy", URI)


def test_writes_and_unknown_commands(host):
    """What is announced as unsupported is refused as such."""
    effects = struct.unpack("<512I", host.admin.log_page(5, 2048))
    q = host.queue(1)
    for opcode in range(0x80):
        if not effects[256 + opcode] & 1 and opcode != 0x7F:
            assert status_of(q.command, sqe(opcode, 1)) == 0x001, hex(opcode)
    assert effects[256 + WRITE] & 2

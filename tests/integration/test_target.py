# SPDX-License-Identifier: Apache-2.0
"""The NVMe/TCP target as hosts see it: every opcode, every answer a Linux host relies on."""

import os
import struct
import uuid

import pytest
from nvmetcp import (C2HDATA, COMPARE, DISCOVERY, DSM, HOSTNQN, NQN, READ, SGL_OFFSET,
                     SGL_TRANSPORT, WRITE, WRITE_ZEROES, Conn, Cqe, Host, NvmeError, Targetd,
                     connect_data, connect_sqe, eventually, sgl, sqe)

UUID = "12345678-9abc-4def-8012-3456789abcde"
URI = f"malloc:///m0?size_mb=64&uuid={UUID}"
SIZE_BLOCKS = 64 * 2048


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


# ---- the connection

@pytest.mark.parametrize("hdgst", [False, True])
@pytest.mark.parametrize("ddgst", [False, True])
@pytest.mark.parametrize("hpda", [0, 7, 31])
def test_data_survives_every_way(target, hdgst, ddgst, hpda):
    with Host(target.port, hdgst=hdgst, ddgst=ddgst, hpda=hpda) as host:
        q = host.queue(1)
        for blocks in (1, 3, 8, 9, 64, 256):
            data = os.urandom(blocks * 512)
            q.write(1, 1000, data)
            assert q.read(1, 1000, blocks) == data
            q.compare(1, 1000, data)
        # The same in pieces of the host's choosing: several H2CData per R2T.
        data = os.urandom(128 << 10)
        q.write(1, 5000, data, chunk=20000)
        assert q.read(1, 5000, 256) == data


def test_small_write_by_r2t(host):
    q = host.queue(1)
    q.capsule_max = 0
    data = os.urandom(4096)
    q.write(1, 8, data)
    assert q.read(1, 8, 8) == data


def test_pdus_cut_anywhere(target):
    """The same session, sent byte by byte and in odd pieces."""
    with Host(target.port, hdgst=True, ddgst=True) as host:
        q = host.queue(1)
        data = os.urandom(2048)
        for size in (1, 7, 72, 73, 1000):
            entry = q.rw(WRITE, 1, 4, 4)
            entry = entry[:2] + struct.pack("<H", 500) + entry[4:24] + sgl(
                SGL_OFFSET, len(data)) + entry[40:]
            raw = q.capsule(entry, data)
            q.data[500] = bytearray()
            for at in range(0, len(raw), size):
                q.send(raw[at:at + size])
            q.wait(500)
        assert q.read(1, 4, 4) == data


def test_many_commands_in_one_segment(host):
    q = host.queue(1)
    blocks = [os.urandom(512) for _ in range(100)]
    raw, cids = b"", []
    for i, block in enumerate(blocks):
        cid = 1000 + i
        entry = q.rw(WRITE, 1, i, 1)
        entry = entry[:2] + struct.pack("<H", cid) + entry[4:24] + sgl(
            SGL_OFFSET, 512) + entry[40:]
        q.data[cid] = bytearray()
        cids.append(cid)
        raw += q.capsule(entry, block)
    q.send(raw)
    for cid in cids:
        q.wait(cid)
    assert q.read(1, 0, 100) == b"".join(blocks)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_both_families(address):
    with Targetd() as t:
        port = t.listen(address)
        t("subsystem", NQN)
        t("add", NQN, URI)
        with Host(port, host=address) as host:
            q = host.queue(1)
            q.write(1, 0, b"6" * 512)
            assert q.read(1, 0, 1) == b"6" * 512


def test_success_flag_and_sqhd(target):
    """Reads come without a capsule; a host with flow control learns SQHD now and then."""
    with Host(target.port) as host:
        q = host.queue(1, sqsize=15)
        for _ in range(64):
            q.read(1, 0, 1)
        assert 32 <= q.success_count < 64
        free = host.queue(2, sqsize=15, cattr=4)
        for _ in range(64):
            free.read(1, 0, 1)
        assert free.success_count == 64
    with Targetd("--no-success") as t:
        port = t.listen()
        t("subsystem", NQN)
        t("add", NQN, URI)
        with Host(port) as host:
            q = host.queue(1)
            q.read(1, 0, 1)
            assert q.success_count == 0


def test_sqhd_counts(host):
    q = host.queue(1, sqsize=3)
    seen = [q.command(sqe(0, 1)).sqhd for _ in range(6)]
    assert seen == [2, 3, 0, 1, 2, 3]


# ---- Connect

def refused(port, status, where=None, subnqn=NQN, entry=None, data=None):
    with Conn(port) as conn:
        entry = connect_sqe() if entry is None else entry
        data = connect_data(subnqn) if data is None else data
        with pytest.raises(NvmeError) as failed:
            conn.command(entry, data)
        assert failed.value.status == status
        if where is not None:
            assert failed.value.cqe.dw0 == where
        # The connection lives, and a right Connect goes through.
        assert conn.connect(NQN) > 0


def test_connect_refusals(target, host):
    in_data = 1 << 16
    refused(target.port, 0x182, in_data | 256, subnqn="nqn.2019-05.io.openebs:other")
    refused(target.port, 0x182, in_data | 512, data=connect_data(NQN, hostnqn=""))
    refused(target.port, 0x182, in_data | 256, data=connect_data("x" * 256))
    refused(target.port, 0x182, in_data | 16, data=connect_data(NQN, cntlid=1))
    refused(target.port, 0x182, 44, entry=connect_sqe(sqsize=0))
    refused(target.port, 0x182, 44, entry=connect_sqe(sqsize=4000))
    refused(target.port, 0x180, entry=connect_sqe(recfmt=1))
    refused(target.port, 0x00F, entry=connect_sqe(sgl1=sgl(SGL_OFFSET, 512)),
            data=connect_data(NQN)[:512])
    cntlid = host.cntlid
    refused(target.port, 0x182, 42, entry=connect_sqe(qid=33),
            data=connect_data(NQN, cntlid=cntlid))
    refused(target.port, 0x182, 44, entry=connect_sqe(qid=1, sqsize=128),
            data=connect_data(NQN, cntlid=cntlid))
    refused(target.port, 0x182, in_data | 16, entry=connect_sqe(qid=1),
            data=connect_data(NQN, cntlid=0x7777))
    refused(target.port, 0x182, in_data | 512, entry=connect_sqe(qid=1),
            data=connect_data(NQN, hostnqn="nqn.2014-08.org:other", cntlid=cntlid))
    refused(target.port, 0x182, in_data | 0, entry=connect_sqe(qid=1),
            data=connect_data(NQN, cntlid=cntlid, hostid=b"\x22" * 16))
    host.queue(1)
    refused(target.port, 0x00C, entry=connect_sqe(qid=1), data=connect_data(NQN, cntlid=cntlid))


def test_connect_wants_enabled_controller(target):
    with Conn(target.port) as admin, Conn(target.port) as io:
        cntlid = admin.connect(NQN)
        assert status_of(io.connect, NQN, qid=1, cntlid=cntlid) == 0x00C
        assert status_of(admin.identify, 1) == 0x00C
        admin.enable()
        io.connect(NQN, qid=1, cntlid=cntlid)
        io.flush(1)


def test_nothing_before_connect(target):
    with Conn(target.port) as conn:
        assert status_of(conn.identify, 1) == 0x00C
        assert status_of(conn.read, 1, 0, 1) == 0x00C
        assert conn.connect(NQN) > 0


def test_connect_twice(host):
    assert status_of(host.admin.connect, NQN) == 0x00C


def test_allowed_hosts():
    with Targetd() as t:
        port = t.listen()
        t("subsystem", NQN, HOSTNQN)
        t("subsystem", NQN + "2", "nqn.2014-08.org:somebody")
        with Host(port) as host:
            assert host.cntlid == 1
        with Conn(port) as conn:
            assert status_of(conn.connect, NQN + "2") == 0x184
        with Host(port, DISCOVERY) as host:
            log = host.admin.log_page(0x70, 4096)
            assert struct.unpack_from("<Q", log, 8)[0] == 1, "a stranger's subsystem is shown"


def test_properties(host):
    admin = host.admin
    cap = admin.property_get(0, 8)
    assert cap & 0xFFFF == 127 and cap >> 16 & 1 and cap >> 37 & 1 and cap >> 24 & 0xFF
    assert admin.property_get(8) == 0x20000
    assert admin.property_get(0x14) & 1 and admin.property_get(0x1C) == 1
    assert status_of(admin.property_get, 0, 4) == 0x002
    assert status_of(admin.property_get, 0x777) == 0x002
    assert status_of(admin.property_set, 0x1C, 1) == 0x002
    admin.property_set(0x14, admin.property_get(0x14) | 1 << 14)
    assert admin.property_get(0x1C) >> 2 & 3 == 2, "shutdown is not complete"


def test_controller_reset_closes_queues(host):
    q = host.queue(1)
    host.admin.property_set(0x14, 0)
    assert host.admin.property_get(0x1C) == 0
    q.expect_end()
    host.admin.enable()
    eventually(lambda: connects(host), "the queue to be free again")


def connects(host):
    try:
        host.queue(1).flush(1)
        return True
    except NvmeError:
        return False


def test_unsupported_cc(target):
    with Conn(target.port) as conn:
        conn.connect(NQN)
        conn.property_set(0x14, 1 | 3 << 7)
        assert conn.property_get(0x1C) & 3 == 2, "no fatal status"


def test_controllers_have_their_own_ids(target):
    with Host(target.port) as a, Host(target.port) as b:
        assert a.cntlid != b.cntlid
        assert target("controllers", NQN) == "2"
    eventually(lambda: target("controllers", NQN) == "0", "the controllers to go")


# ---- Identify, features, logs

def test_identify_controller(host):
    data = host.admin.identify(1)
    assert data[4:24] == b"DCS05A31AA88F14E1BE2" or data[4:24].startswith(b"DCS")
    assert data[24:64].rstrip() == b"Mayastor NVMe controller"
    assert data[77] == 5 and struct.unpack_from("<H", data, 78)[0] == host.cntlid
    assert data[111] == 1 and data[512:514] == b"\x66\x44"
    assert struct.unpack_from("<I", data, 80)[0] == 0x20000
    assert struct.unpack_from("<I", data, 92)[0] & 1 << 8, "no namespace events"
    assert struct.unpack_from("<H", data, 320)[0] == 10
    assert struct.unpack_from("<H", data, 514)[0] == 128
    oncs = struct.unpack_from("<H", data, 520)[0]
    assert oncs & 0x2D == 0x2D
    assert struct.unpack_from("<I", data, 536)[0] & 3 == 1
    assert struct.unpack_from("<IIH", data, 1792) == (260, 1, 0)
    assert data[768:1024].rstrip(b"\0") == NQN.encode()


def test_identify_namespace(host):
    data = host.admin.identify(0, 1)
    assert struct.unpack_from("<QQQ", data) == (SIZE_BLOCKS, SIZE_BLOCKS, 0)
    assert data[24] & 1, "not thin"
    assert data[25] == 0 and data[26] == 0 and data[130] == 9
    assert data[33] & 9 == 9, "deallocated blocks read zero"
    assert data[104:120] == uuid.UUID(UUID).bytes
    assert host.admin.identify(0, 7) == b"\0" * 4096
    assert status_of(host.admin.identify, 0, 0) == 0x00B
    assert status_of(host.admin.identify, 0, 0xFFFFFFFF) == 0x00B


def test_identify_lists(target, host):
    target("add", NQN, "malloc:///m1?size_mb=8&blk_size=4096")
    admin = host.admin
    assert struct.unpack_from("<3I", admin.identify(2)) == (1, 2, 0)
    assert struct.unpack_from("<2I", admin.identify(2, 1)) == (2, 0)
    assert struct.unpack_from("<2I", admin.identify(7)) == (1, 2)
    raw = uuid.UUID(UUID).bytes
    assert admin.identify(3, 1)[:44] == (b"\2\x10\0\0" + raw + b"\3\x10\0\0" + raw + b"\0" * 4)
    assert admin.identify(0, 2)[130] == 12
    independent = admin.identify(8, 1)
    assert independent[14] & 1 and independent[1] & 1
    limits = admin.identify(6)
    assert limits[0] == 5 and limits[3] == 255
    assert admin.identify(5, 1) == b"\0" * 4096
    for cns in (3, 5, 8):
        assert status_of(admin.identify, cns, 9) == 0x00B
    assert status_of(admin.identify, 0x55) == 0x002
    assert status_of(admin.identify, 6, csi=2) == 0x002
    assert status_of(admin.command, sqe(6, cdw10=1), expect=512) == 0x00F
    q = host.queue(1)
    data = os.urandom(8192)
    q.write(2, 3, data, bs=4096)
    assert q.read(2, 3, 2, bs=4096) == data


def test_features(host):
    admin = host.admin
    assert admin.get_feature(7).dw0 == 31 | 31 << 16
    assert admin.set_feature(7, 3 | 3 << 16).dw0 == 31 | 31 << 16
    assert status_of(admin.set_feature, 7, 0xFFFF) == 0x002
    host.queue(1)
    assert status_of(admin.set_feature, 7, 3 | 3 << 16) == 0x00C
    admin.set_feature(0x0B, 0x100)
    assert admin.get_feature(0x0B).dw0 == 0x100
    admin.set_feature(0x0F, 4500)
    assert admin.get_feature(0x0F).dw0 == 5000
    assert admin.get_feature(0x81, cdw11=1, expect=16).data == b"\x11" * 16
    assert status_of(admin.get_feature, 0x81, expect=16) == 0x002
    assert admin.get_feature(6).dw0 in (0, 1)
    assert status_of(admin.get_feature, 0x55) == 0x002
    assert status_of(admin.set_feature, 0x55, 0) == 0x002
    assert status_of(admin.command, sqe(9, cdw10=0x8000000B, cdw11=1)) == 0x10D
    assert admin.command(sqe(0x0A, cdw10=0x30B)).dw0 == 4
    for fid in (1, 2, 4, 5, 0x0A):
        admin.get_feature(fid)


def test_log_pages(host):
    admin, q = host.admin, host.queue(1)
    q.write(1, 0, b"\1" * 4096)
    q.read(1, 0, 8)
    smart = admin.log_page(2, 512, nsid=0xFFFFFFFF)
    reads, writes = struct.unpack_from("<Q8xQ8x", smart, 64)
    assert reads >= 1 and writes == 1
    assert admin.log_page(3, 512)[0] == 1
    effects = struct.unpack("<512I", admin.log_page(5, 2048))
    assert effects[6] & 0xFF == 1 and effects[256 + WRITE] & 0xFF == 3
    assert effects[256 + READ] & 0xFF == 1 and effects[256 + 0x19] == 0
    assert admin.log_page(2, 512, off=256)[:256] == smart[256:]
    assert status_of(admin.log_page, 2, 512, off=4096) == 0x002
    assert status_of(admin.log_page, 2, 512, off=2) == 0x002
    assert status_of(admin.log_page, 0x70, 512) == 0x109
    assert status_of(admin.log_page, 0xC0, 512) == 0x109
    assert status_of(admin.command, sqe(2, cdw10=2 | 1023 << 16), expect=512) == 0x00F


def test_discovery(target):
    target.listen("::1")
    target("subsystem", NQN + "2")
    with Host(target.port, DISCOVERY) as host:
        admin = host.admin
        ident = admin.identify(1)
        assert ident[111] == 2 and ident[768:1024].rstrip(b"\0") == DISCOVERY.encode()
        log = admin.log_page(0x70, 1024 * 5)
        genctr, numrec, recfmt = struct.unpack_from("<QQH", log)
        assert numrec == 4 and recfmt == 0
        entries = [log[at:at + 1024] for at in range(1024, 1024 * 5, 1024)]
        seen = {(e[256:512].rstrip(b"\0").decode(), e[512:768].rstrip(b"\0").decode(),
                 e[1]) for e in entries}
        assert seen == {(NQN, "127.0.0.1", 1), (NQN, "::1", 2), (NQN + "2", "127.0.0.1", 1),
                        (NQN + "2", "::1", 2)}
        for e in entries:
            assert e[0] == 3 and e[2] == 2 and struct.unpack_from("<H", e, 6)[0] == 0xFFFF
        assert str(target.port).encode() in {e[32:64].rstrip(b"\0") for e in entries}
        # A change is announced to who asked, and counts.
        admin.set_feature(0x0B, 1 << 31)
        event = admin.submit(sqe(0x0C))
        target("subsystem", NQN + "3")
        assert admin.wait(event).dw0 == 0x70F002
        assert struct.unpack_from("<Q", admin.log_page(0x70, 16))[0] == genctr + 1
        assert status_of(admin.identify, 2) == 0x002
        with Conn(target.port) as io:
            assert status_of(io.connect, DISCOVERY, qid=1, cntlid=host.cntlid) == 0x182


def test_discovery_on_wildcard():
    with Targetd() as t:
        port = t.listen("0.0.0.0")
        t("subsystem", NQN)
        with Host(port, DISCOVERY) as host:
            entry = host.admin.log_page(0x70, 2048)[1024:]
            assert entry[512:768].rstrip(b"\0") == b"127.0.0.1"


# ---- I/O

def test_io_commands(host):
    q = host.queue(1)
    data = os.urandom(16 * 512)
    q.write(1, 64, data, fua=True)
    q.compare(1, 64, data[:4096])
    assert status_of(q.compare, 1, 64, b"\0" * 512) == 0x285
    q.verify(1, 64, 16)
    q.write_zeroes(1, 66, 2)
    assert q.read(1, 64, 16) == data[:1024] + b"\0" * 1024 + data[2048:]
    q.write_zeroes(1, 64, 16, deac=True)
    assert q.read(1, 64, 16) == b"\0" * 8192
    q.flush(1)


def test_deallocate_many_ranges(host):
    q = host.queue(1)
    q.write(1, 0, b"\7" * (256 * 512))
    q.deallocate(1, [(lba, 1) for lba in range(0, 256, 2)] + [(300, 0)])
    got = q.read(1, 0, 256)
    for lba in range(256):
        expected = 0 if lba % 2 == 0 else 7
        assert got[lba * 512:(lba + 1) * 512] == bytes([expected]) * 512, f"lba {lba}"
    q.deallocate(1, [(1, 1)], attributes=1)  # only a hint
    assert q.read(1, 1, 1) == b"\7" * 512
    q.deallocate(1, [(lba, 1) for lba in range(256)])
    assert q.read(1, 0, 256) == b"\0" * (256 * 512)
    assert status_of(q.deallocate, 1, [(0, 1), (SIZE_BLOCKS, 1)]) == 0x080
    short = sqe(DSM, 1, sgl(SGL_OFFSET, 16), cdw10=1, cdw11=4)
    assert status_of(q.command, short, b"\0" * 16) == 0x00F
    # Linux describes a whole page, whatever number of ranges it names.
    q.write(1, 0, b"\7" * 1024)
    one = struct.pack("<IIQ", 0, 1, 0)
    q.command(sqe(DSM, 1, cdw10=0, cdw11=4), one + bytes([255]) * (4096 - 16))
    assert q.read(1, 0, 2) == b"\0" * 512 + b"\7" * 512
    assert status_of(q.command, sqe(DSM, 1, cdw10=0, cdw11=4), one + bytes(4096)) == 0x00F


def test_io_errors(host):
    q = host.queue(1)
    assert status_of(q.read, 2, 0, 1) == 0x00B
    assert status_of(q.read, 0, 0, 1) == 0x00B
    assert status_of(q.read, 0xFFFFFFFF, 0, 1) == 0x00B
    assert status_of(q.flush, 0xFFFFFFFF) == 0x00B
    assert status_of(q.read, 1, SIZE_BLOCKS, 1) == 0x080
    assert status_of(q.read, 1, SIZE_BLOCKS - 1, 2) == 0x080
    assert status_of(q.read, 1, (1 << 64) - 1, 2) == 0x080
    assert status_of(q.write, 1, SIZE_BLOCKS, b"\0" * 512) == 0x080
    assert status_of(q.read, 1, 0, 257) == 0x002
    assert status_of(q.command, sqe(0x7E, 1)) == 0x001
    assert status_of(q.command, sqe(0x19, 1)) == 0x001
    # Fused, and data that is not described by an SGL.
    assert status_of(q.command, sqe(READ, 1, flags=0x41), expect=512) == 0x002
    assert status_of(q.command, sqe(READ, 1, flags=0), expect=512) == 0x002
    # Descriptors that do not fit the command.
    assert status_of(q.command, q.rw(READ, 1, 0, 2), expect=512) == 0x00F
    wrong = q.rw(WRITE, 1, 0, 2)
    wrong = wrong[:24] + sgl(SGL_OFFSET, 512) + wrong[40:]
    assert status_of(q.command, wrong, b"\0" * 512) == 0x00F
    wrong = wrong[:24] + sgl(SGL_OFFSET, 1024, addr=8) + wrong[40:]
    assert status_of(q.command, wrong, b"\0" * 1024) == 0x016
    wrong = wrong[:24] + sgl(0x30, 1024) + wrong[40:]
    assert status_of(q.command, wrong) == 0x011
    # Data nobody asked for.
    wrong = sqe(0, 1, sgl(SGL_OFFSET, 512))
    assert status_of(q.command, wrong, b"\0" * 512) == 0x002
    q.read(1, 0, 1)


def test_fabrics_on_io_queue(host):
    q = host.queue(1)
    assert status_of(q.property_get, 0x1C) == 0x002
    assert status_of(q.connect, NQN, qid=2, cntlid=host.cntlid) == 0x00C


def test_admin_errors(host):
    admin = host.admin
    assert status_of(admin.command, sqe(0x7E)) == 0x001
    assert status_of(admin.command, struct.pack("<BBHB59x", 0x7F, 0x40, 0, 8)) == 0x001
    admin.command(sqe(0x18))
    assert status_of(admin.command, sqe(8, cdw10=9)) == 0x002


def test_null_shows_nothing_of_others():
    """A null device leaves buffers as they are; another host's data must not be in them."""
    with Targetd() as t:
        port = t.listen()
        t("subsystem", NQN)
        t("add", NQN, "null:///n0?size_mb=64&blk_size=512")
        t("add", NQN, URI)
        with Host(port) as a, Host(port) as b:
            qa, qb = a.queue(1), b.queue(1)
            for blocks in (8, 64, 256):
                secret = os.urandom(blocks * 512)
                qa.write(2, 0, secret)
                qa.read(2, 0, blocks)
                got = qb.read(1, 0, blocks)
                assert got == b"\0" * len(got)


# ---- events, abort, pause

def test_namespace_events(target, host):
    admin = host.admin
    admin.set_feature(0x0B, 0x100)
    event = admin.submit(sqe(0x0C))
    target("resize", f"malloc:///m0?num_blocks={SIZE_BLOCKS * 2}&resize")
    assert admin.wait(event).dw0 == 0x040002
    assert struct.unpack_from("<Q", admin.identify(0, 1))[0] == SIZE_BLOCKS * 2
    # Masked until the log was read; then the next change is told.
    event = admin.submit(sqe(0x0C))
    target("add", NQN, "malloc:///m1?size_mb=8")
    assert struct.unpack_from("<3I", admin.log_page(4, 4096, rae=True)) == (1, 2, 0)
    assert event not in admin.done
    assert struct.unpack_from("<3I", admin.log_page(4, 4096)) == (1, 2, 0)
    assert struct.unpack_from("<2I", admin.log_page(4, 4096)) == (0, 0)
    target("remove", NQN, 2)
    assert admin.wait(event).dw0 == 0x040002
    assert struct.unpack_from("<2I", admin.log_page(4, 4096)) == (2, 0)
    assert struct.unpack_from("<2I", admin.identify(2)) == (1, 0)


def test_event_limit_and_abort(host):
    admin = host.admin
    cids = [admin.submit(sqe(0x0C)) for _ in range(4)]
    assert status_of(admin.command, sqe(0x0C)) == 0x105
    assert admin.command(sqe(8, cdw10=cids[1] << 16)).dw0 == 0
    assert status_of(admin.wait, cids[1]) == 0x007
    assert admin.command(sqe(8, cdw10=0x7777 << 16)).dw0 == 1


def test_device_removed_under_load(target, host):
    admin, q = host.admin, host.queue(1)
    admin.set_feature(0x0B, 0x100)
    event = admin.submit(sqe(0x0C))
    cids = [q.submit(q.rw(READ, 1, i, 8), expect=4096) for i in range(64)]
    target("destroy", URI)
    for cid in cids:
        try:
            q.wait(cid)
        except NvmeError as failed:
            assert failed.status == 0x00B
    assert admin.wait(event).dw0 == 0x040002
    assert status_of(q.read, 1, 0, 1) == 0x00B
    assert admin.identify(2)[:4] == b"\0" * 4
    target("add", NQN, URI)
    q.read(1, 0, 1)


def test_pause_holds_and_resume_lets_go(target, host):
    q = host.queue(1)
    q.write(1, 0, b"a" * 512)
    target("pause", NQN)
    held = q.submit(q.rw(READ, 1, 0, 1), expect=512)
    inline = q.submit(q.rw(WRITE, 1, 1, 1), b"b" * 512)
    big = q.submit(q.rw(WRITE, 1, 8, 64), b"c" * 32768)
    aborted = q.submit(q.rw(READ, 1, 0, 1), expect=512)
    # Admin commands and connects are served; what is held can be aborted.
    host.admin.identify(1)
    other = host.queue(2)
    eventually(lambda: host.admin.command(sqe(8, cdw10=aborted << 16 | 1)).dw0 == 0,
               "the abort of a held command")
    assert status_of(q.wait, aborted) == 0x007
    assert held not in q.done and inline not in q.done
    late = other.submit(other.rw(READ, 1, 0, 1), expect=512)
    target("resume", NQN)
    assert q.wait(held).data == b"a" * 512
    q.wait(inline)
    q.wait(big)
    other.wait(late)
    assert q.read(1, 1, 1) == b"b" * 512 and q.read(1, 8, 64) == b"c" * 32768


def test_namespace_swapped_while_paused(target, host):
    """A held command meets another device under its number: it must not run with old lengths."""
    q = host.queue(1)
    target("pause", NQN)
    held = q.submit(q.rw(READ, 1, 0, 1), expect=512)
    write = q.submit(q.rw(WRITE, 1, 0, 1), b"w" * 512)
    q.sock.settimeout(10)
    host.admin.identify(1)
    target("remove", NQN, 1)
    target("add", NQN, "malloc:///big?size_mb=8&blk_size=4096")
    target("resume", NQN)
    assert status_of(q.wait, held) == 0x00B
    assert status_of(q.wait, write) == 0x00B
    assert q.read(1, 0, 1, bs=4096) == b"\0" * 4096


def test_held_write_meets_another_device(target, host):
    """What was meant for one device never reaches another of the same form; a neighbour's stays."""
    q = host.queue(1)
    target("add", NQN, "malloc:///second?size_mb=8&blk_size=512")
    target("pause", NQN)
    lost = q.submit(q.rw(WRITE, 1, 0, 1), b"w" * 512)
    zeroes = q.submit(q.rw(WRITE_ZEROES, 1, 8, 8))
    kept = q.submit(q.rw(WRITE, 2, 0, 1), b"k" * 512)
    host.admin.identify(1)
    target("remove", NQN, 1)
    target("add", NQN, "malloc:///other?size_mb=64&blk_size=512")
    target("resume", NQN)
    assert status_of(q.wait, lost) == 0x00B
    assert status_of(q.wait, zeroes) == 0x00B
    q.wait(kept)
    assert q.read(1, 0, 1) == b"\0" * 512
    assert q.read(2, 0, 1) == b"k" * 512


def test_null_in_place_of_another_while_paused(target):
    """A large read is held; the device under its number becomes one that fills nothing."""
    with Host(target.port) as other, Host(target.port) as host:
        secret, qo, q = os.urandom(128 << 10), other.queue(1), host.queue(1)
        for i in range(8):  # every buffer that comes next was somebody's
            qo.write(1, i * 256, secret)
        target("pause", NQN)
        held = q.submit(q.rw(READ, 1, 0, 256), expect=128 << 10)
        host.admin.identify(1)
        target("remove", NQN, 1)
        target("add", NQN, "null:///n0?size_mb=64&blk_size=512")
        target("resume", NQN)
        assert status_of(q.wait, held) == 0x00B
        assert q.read(1, 0, 256) == b"\0" * (128 << 10)


def test_subsystem_removed_under_load(target, host):
    q = host.queue(1)
    for i in range(64):
        q.submit(q.rw(READ, 1, i, 8), expect=4096)
    target("subsystem-remove", NQN)
    q.expect_end()
    host.admin.expect_end()
    with Conn(target.port) as conn:
        assert status_of(conn.connect, NQN) == 0x182


def test_disconnect_with_io_in_flight(target):
    for _ in range(20):
        with Host(target.port) as host:
            q = host.queue(1)
            for i in range(100):
                q.submit(q.rw(WRITE, 1, i * 8, 8), b"\5" * 4096)
    eventually(lambda: target.stats()["conns"] == 0, "the connections to go")


def test_slow_device_keeps_its_data(target, host):
    """Writes wait in the device while the receive buffer fills again and again."""
    fault = "inject://m0?op=write&method=delay&delay_us=1000-30000&seed=3"
    target("inject", fault)
    queues = [host.queue(i) for i in (1, 2)]
    blocks = [[os.urandom(4096) for _ in range(127)] for _ in queues]
    for _ in range(3):
        cids = [(q, q.submit(q.rw(WRITE, 1, (i * 127 + n) * 8, 8), block))
                for i, q in enumerate(queues) for n, block in enumerate(blocks[i])]
        for q, cid in cids:
            q.wait(cid)
    target("heal", fault)
    for i, q in enumerate(queues):
        for n, block in enumerate(blocks[i]):
            assert q.read(1, (i * 127 + n) * 8, 8) == block, f"queue {i} block {n}"


def cross_reset(host, other, instance=None):
    ciu, cirn = instance or struct.unpack_from("<BQ", other.admin.identify(1), 135)
    return sqe(0x38, cdw10=other.cntlid | ciu << 16, cdw12=cirn & 0xFFFFFFFF, cdw13=cirn >> 32)


def test_cross_controller_reset_waits_for_the_device(target, host):
    """The answer comes when nothing of the other controller can reach the device any more."""
    fault = "inject://m0?op=write&method=delay&delay_us=400000"
    q = host.queue(1)
    q.write(1, 0, b"\1" * 4096)
    target("inject", fault)
    with Host(target.port) as other:
        entry = cross_reset(host, other)
        instance = struct.unpack_from("<BQ", other.admin.identify(1), 135)
        lost = other.queue(1)
        lost.submit(lost.rw(WRITE, 1, 0, 8), b"\2" * 4096)
        other.admin.identify(1)  # behind it: the write is with the device
        assert q.read(1, 0, 8) == b"\1" * 4096
        assert host.admin.command(entry).dw0 == 1
        assert q.read(1, 0, 8) == b"\2" * 4096
        lost.expect_end()
        other.admin.expect_end()
        assert host.admin.command(cross_reset(host, other, instance)).dw0 == 1, "known no more"
    target("heal", fault)


def test_cross_controller_reset_is_for_others_of_the_same_host(target, host):
    assert status_of(host.admin.command, cross_reset(host, host)) == 0x002
    assert status_of(host.admin.command, cross_reset(host, host, (0, 0))) == 0x002
    with Host(target.port, hostnqn=HOSTNQN + "x") as stranger:
        assert status_of(host.admin.command, cross_reset(host, stranger)) == 0x002
        stranger.admin.identify(1)


def test_cross_controller_reset_ends_with_its_connection(target, host):
    fault = "inject://m0?op=write&method=delay&delay_us=400000"
    target("inject", fault)
    with Host(target.port) as other, Host(target.port) as third:
        lost = other.queue(1)
        lost.submit(lost.rw(WRITE, 1, 0, 8), b"\2" * 4096)
        other.admin.identify(1)
        third.admin.submit(cross_reset(third, other))
        other.admin.expect_end()
    target("heal", fault)
    eventually(lambda: target.stats()["conns"] == 1, "the connections to go")
    host.queue(1).read(1, 0, 8)


def test_disconnect_while_the_device_is_slow(target):
    fault = "inject://m0?op=all&method=delay&delay_us=20000-60000&seed=4"
    target("inject", fault)
    for _ in range(5):
        with Host(target.port) as host:
            q = host.queue(1)
            for i in range(40):
                q.submit(q.rw(WRITE, 1, i * 8, 8), b"\6" * 4096)
                q.submit(q.rw(READ, 1, i * 256, 256), expect=128 << 10)
    # One is removed with its I/O in the device.
    with Host(target.port) as host:
        q = host.queue(1)
        for i in range(40):
            q.submit(q.rw(READ, 1, i * 8, 8), expect=4096)
        host.admin.identify(1)
        target("remove", NQN, 1)
        for _ in range(40):
            q.pump()
    target("heal", fault)
    eventually(lambda: target.stats()["conns"] == 0, "the connections to go")


@pytest.mark.parametrize("op,method,status", [
    ("read", "status-nvme-2-81", 0x281), ("write", "status-nvme-2-80", 0x280),
    ("write", "status-lvol-nospace", 0x081), ("read", "status-nvme-0-6", 0x006),
    ("flush", "status-nvme-0-6", 0x006), ("unmap", "status-nvme-0-6", 0x006),
    ("write_zeroes", "status-nvme-3-60", 0x360), ("compare", "status-nvme-2-85", 0x285),
])
@pytest.mark.parametrize("stage", ["submit", "completion"])
def test_device_errors_reach_the_host(target, host, op, method, status, stage):
    q = host.queue(1)
    run = {"read": lambda: q.read(1, 0, 8), "write": lambda: q.write(1, 0, b"e" * 4096),
           "flush": lambda: q.flush(1), "unmap": lambda: q.deallocate(1, [(64, 8), (0, 8)]),
           "write_zeroes": lambda: q.write_zeroes(1, 0, 8),
           "compare": lambda: q.compare(1, 8, b"\0" * 512)}[op]
    run()
    fault = f"inject://m0?op={op}&stage={stage}&method={method}"
    target("inject", fault)
    assert status_of(run) == status
    target("heal", fault)
    run()


def test_few_buffers_wait_in_order():
    with Targetd("--buffers", "2") as t:
        port = t.listen()
        t("subsystem", NQN)
        t("add", NQN, URI)
        with Host(port) as host:
            q = host.queue(1)
            data = os.urandom(128 << 10)
            writes = [q.submit(q.rw(WRITE, 1, i * 256, 256), data) for i in range(16)]
            for cid in writes:
                q.wait(cid)
            reads = [q.submit(q.rw(READ, 1, i * 256, 256), expect=len(data)) for i in range(16)]
            for cid in reads:
                assert q.wait(cid).data == data
        stats = t.stats()
        assert stats["buffer_waits"] > 0 and stats["buffers_free_min"] == 0


def test_several_reactors():
    with Targetd("--cores", "0x3") as t:
        port = t.listen()
        t("subsystem", NQN)
        t("add", NQN, URI)
        with Host(port) as host:
            queues = [host.queue(i) for i in range(1, 5)]
            blocks = [os.urandom(4096) for _ in queues]
            for i, q in enumerate(queues):
                q.write(1, i * 8, blocks[i])
            for i, q in enumerate(queues):
                other = (i + 1) % len(queues)
                assert q.read(1, other * 8, 8) == blocks[other]
            t("add", NQN, "malloc:///m1?size_mb=8")
            for q in queues:
                q.read(2, 0, 1)
            t("remove", NQN, 2)
            for q in queues:
                assert status_of(q.read, 2, 0, 1) == 0x00B

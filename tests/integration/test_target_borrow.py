# SPDX-License-Identifier: Apache-2.0
"""Reads that leave from where they lie: what hosts see, and that a host which takes its time holds
nothing up."""

import os
import socket

import pytest
from nvmetcp import NQN, READ, WRITE, Conn, Host, NvmeError, Targetd, eventually

URI = "malloc:///m0?size_mb=64"
BLOCKS = 64 * 2048
BIG = 256  # blocks of the largest transfer


@pytest.fixture
def target():
    with Targetd("--borrow-min", "4096") as t:
        t.port = t.listen()
        t("subsystem", NQN)
        t("add", NQN, URI)
        yield t


class SlowHost:
    """Many large reads are under way on a queue whose answers nobody takes."""

    def __init__(self, target, count=120):
        self.host = Host(target.port)
        self.queue = Conn(target.port)
        self.queue.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 << 10)
        self.queue.connect(NQN, qid=1, sqsize=127, cntlid=self.host.cntlid)
        self.queue.capsule_max = 4096
        before = target.stats()["commands"]
        self.cids = [self.queue.submit(self.queue.rw(READ, 1, i * BIG, BIG), expect=BIG * 512)
                     for i in range(count)]
        eventually(lambda: target.stats()["commands"] >= before + count, "the reads to arrive")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.queue.close()
        self.host.close()


def fill(q, count, byte=None):
    """Each 128 KiB its own contents; returns them."""
    data = [os.urandom(BIG * 512) if byte is None else byte * (BIG * 512) for _ in range(count)]
    for i, piece in enumerate(data):
        q.write(1, i * BIG, piece)
    return data


@pytest.mark.parametrize("cores", ["0x1", "0x3"])
def test_every_size_arrives(cores):
    with Targetd("--borrow-min", "512", "--cores", cores) as t:
        port = t.listen()
        t("subsystem", NQN)
        t("add", NQN, "malloc:///big?size_mb=512")
        edge = (256 << 20) // 512  # the memory of a device comes in pieces of 256 MiB
        with Host(port) as host:
            q = host.queue(1)
            data = os.urandom(128 << 10)
            q.write(1, 1000, data)
            q.write(1, edge - 100, data)
            for blocks in (1, 8, 9, 64, 255, 256):
                assert q.read(1, 1000, blocks) == data[:blocks * 512]
                assert q.read(1, edge - 100, blocks) == data[:blocks * 512]
                assert q.read(1, 90000, blocks) == b"\0" * (blocks * 512)
            assert q.read(1, 1128, 256) == data[65536:] + b"\0" * 65536
            assert t.stats()["reads_lent"] == 19


def test_with_a_data_digest_it_is_a_copy(target):
    with Host(target.port, ddgst=True) as host:
        q = host.queue(1)
        data = fill(q, 1)[0]
        assert q.read(1, 0, BIG) == data
    assert target.stats()["reads_lent"] == 0


def test_small_reads_are_copied_by_default():
    with Targetd() as t:
        port = t.listen()
        t("subsystem", NQN)
        t("add", NQN, URI)
        with Host(port) as host:
            q = host.queue(1)
            q.read(1, 0, 31)
            assert t.stats()["reads_lent"] == 0
            q.read(1, 0, 32)
            assert t.stats()["reads_lent"] == 1


def test_a_slow_host_does_not_hold_up_a_resize(target):
    with Host(target.port) as writer:
        q = writer.queue(1)
        data = fill(q, 120)
        with SlowHost(target) as slow:
            eventually(lambda: target.stats()["reads_lent"] > 100, "loans")
            target("resize", f"malloc:///m0?num_blocks={BLOCKS * 2}&resize")
            q.write(1, 119 * BIG, b"n" * (BIG * 512))
            # What was read before the write is what comes, from the copy.
            for cid, piece in zip(slow.cids, data):
                assert slow.queue.wait(cid).data == piece


def test_a_slow_host_does_not_hold_up_a_removal(target):
    with Host(target.port) as writer:
        q = writer.queue(1)
        data = fill(q, 120)
        with SlowHost(target) as slow:
            target("remove", NQN, 1)
            target("destroy", URI)
            for cid, piece in zip(slow.cids, data):
                assert slow.queue.wait(cid).data == piece
            with pytest.raises(NvmeError):
                slow.queue.read(1, 0, 1)


def test_a_device_goes_by_itself(target):
    with Host(target.port) as writer:
        data = fill(writer.queue(1), 120)
        with SlowHost(target) as slow:
            target("destroy", URI)
            for cid, piece in zip(slow.cids, data):
                assert slow.queue.wait(cid).data == piece


def test_reads_that_are_lent_while_the_namespace_goes(target):
    """They are with the device when the removal begins, and lent when it has begun."""
    fault = "inject://m0?op=read&stage=completion&method=delay&delay_us=200000"
    with Host(target.port) as writer:
        data = fill(writer.queue(1), 20)
        target("inject", fault)
        with SlowHost(target, count=20) as slow:
            target("remove", NQN, 1)
            target("destroy", URI)
            for cid, piece in zip(slow.cids, data):
                assert slow.queue.wait(cid).data == piece


def test_a_host_that_goes_gives_back(target):
    with Host(target.port) as writer:
        fill(writer.queue(1), 120)
    for _ in range(3):
        with SlowHost(target):
            pass
    eventually(lambda: target.stats()["conns"] == 0, "the connections to go")
    target("remove", NQN, 1)
    target("destroy", URI)


def test_no_block_is_torn():
    """On one reactor a block is old or new, however slowly it is taken."""
    with Targetd("--borrow-min", "4096", "--cores", "0x1") as target:
        target.port = target.listen()
        target("subsystem", NQN)
        target("add", NQN, URI)
        tear(target)


def tear(target):
    with Host(target.port) as writer:
        q = writer.queue(1)
        fill(q, 120, b"o")
        with SlowHost(target) as slow:
            fill(q, 120, b"n")
            seen = set()
            for cid in slow.cids:
                got = slow.queue.wait(cid).data
                for at in range(0, len(got), 512):
                    block = got[at:at + 512]
                    assert block in (b"o" * 512, b"n" * 512), f"torn: {set(block)}"
                    seen.add(block[0])
            assert seen == set(b"on"), "nothing was lent while it was written"


def test_unmapped_while_it_is_lent(target):
    with Host(target.port) as writer:
        q = writer.queue(1)
        fill(q, 120, b"o")
        with SlowHost(target) as slow:
            q.deallocate(1, [(0, 120 * BIG)])
            for cid in slow.cids:
                got = slow.queue.wait(cid).data
                assert set(got) <= set(b"o\0")
            assert q.read(1, 0, BIG) == b"\0" * (BIG * 512)


def test_a_read_sees_what_was_written_before(target):
    """A read that is submitted after a write has completed sees it, lent or not."""
    with Host(target.port) as host:
        q = host.queue(1)
        for i in range(50):
            piece = os.urandom(BIG * 512)
            q.command(q.rw(WRITE, 1, 0, BIG), piece)
            assert q.read(1, 0, BIG) == piece, i

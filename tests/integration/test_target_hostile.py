# SPDX-License-Identifier: Apache-2.0
"""Hosts that break the rules lose their connection, are told why, and nobody else notices."""

import os
import random
import signal
import socket
import struct
import threading
import time

import pytest
from nvmetcp import (CAPSULE, FLUSH, H2CDATA, ICREQ, ICRESP, NQN, READ, SGL_OFFSET,
                     SGL_TRANSPORT, WRITE, Conn, Host, NvmeError, Targetd, connect_data,
                     connect_sqe, eventually, icreq, sgl, sqe)

URI = "malloc:///m0?size_mb=64"
INVALID, SEQUENCE, HDGST, RANGE, LIMIT, UNSUPPORTED = 1, 2, 3, 4, 5, 6


@pytest.fixture(scope="module")
def target():
    with Targetd() as t:
        t.port = t.listen()
        t("subsystem", NQN)
        t("add", NQN, URI)
        yield t
        eventually(lambda: t.stats()["conns"] == 0, "every connection to go")


@pytest.fixture
def neighbour(target):
    """Another host, which must not notice anything."""
    with Host(target.port) as host:
        host.q = host.queue(1)
        data = os.urandom(4096)
        host.q.write(1, 0, data)
        yield host
        assert host.q.read(1, 0, 8) == data
        host.admin.identify(1)


pytestmark = pytest.mark.usefixtures("neighbour")


def raw_conn(target):
    return Conn(target.port, ic=False)


def r2t_of(q, length=32768, cid=7):
    """Start a write; returns the TTAG of its R2T."""
    entry = q.rw(WRITE, 1, 64, length // 512)
    entry = entry[:2] + struct.pack("<H", cid) + entry[4:24] + sgl(
        SGL_TRANSPORT, length) + entry[40:]
    q.send(q.capsule(entry))
    _, _, header, _ = q.recv_pdu()
    got_cid, ttag, off, got = struct.unpack_from("<HHII", header, 8)
    assert (got_cid, off, got) == (cid, 0, length)
    return ttag


# ---- before and during initialisation

@pytest.mark.parametrize("name,bytes_,fes,fei", [
    ("version", icreq(pfv=1), UNSUPPORTED, 8),
    ("header length", icreq(hlen=127), INVALID, 2),
    ("length", icreq(plen=129), INVALID, 4),
    ("huge length", icreq(plen=0xFFFFFFFF), INVALID, 4),
    ("alignment", icreq(hpda=32), INVALID, 10),
    ("digest bits", icreq()[:11] + b"\xff" + icreq()[12:], INVALID, 11),
    ("flags", icreq(flags=1), INVALID, 1),
    ("a capsule first", struct.pack("<BBBBI", CAPSULE, 0, 72, 0, 72) + b"\0" * 64, SEQUENCE, None),
    ("data first", struct.pack("<BBBBI", H2CDATA, 0, 24, 24, 536) + b"\0" * 16, SEQUENCE, None),
    ("controller's PDU", struct.pack("<BBBBI", ICRESP, 0, 128, 0, 128), INVALID, 0),
    ("unknown type", b"\x42" * 8, INVALID, 0),
    ("http", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", INVALID, 0),
])
def test_bad_initialisation(target, name, bytes_, fes, fei):
    with raw_conn(target) as conn:
        conn.send(bytes_)
        end = conn.expect_term(fes, fei)
        sent = bytes_[:len(end.header)]
        assert end.header == sent and len(sent) >= 8, "the offending header is not sent back"


def test_initialise_twice(target):
    with Conn(target.port) as conn:
        conn.send(icreq())
        conn.expect_term(SEQUENCE)


def test_second_command_before_connect_ends(target):
    with Conn(target.port) as conn:
        entry = connect_sqe()
        both = conn.capsule(entry, connect_data(NQN)) * 2
        conn.send(both)
        conn.expect_term(SEQUENCE)


# ---- capsules

@pytest.mark.parametrize("over,fei", [
    ({"hlen": 71}, 2), ({"hlen": 24}, 2), ({"flags": 4}, 1), ({"flags": 0x80}, 1),
    ({"flags": 1}, 1), ({"flags": 2}, 1), ({"plen": 71}, 4), ({"plen": 8}, 4), ({"plen": 0}, 4),
    ({"plen": 0x7FFFFFFF, "pdo": 72}, 4), ({"type": 5}, 0), ({"type": 9}, 0), ({"type": 0xFF}, 0),
])
def test_bad_capsule(target, over, fei):
    with Host(target.port) as host:
        q = host.queue(1)
        q.send(q.capsule(sqe(0, 1), **over))
        q.expect_term(INVALID, fei)
        host.admin.identify(1)


@pytest.mark.parametrize("over,fei", [
    ({"pdo": 0}, 3), ({"pdo": 71}, 3), ({"pdo": 73}, 3), ({"pdo": 4}, 3),
    ({"plen": 76, "pdo": 76}, 4),
])
def test_bad_capsule_data(target, over, fei):
    with Host(target.port) as host:
        q = host.queue(1)
        entry = q.rw(WRITE, 1, 0, 1)
        entry = entry[:24] + sgl(SGL_OFFSET, 512) + entry[40:]
        q.send(q.capsule(entry, b"\0" * 512, **over))
        q.expect_term(INVALID, fei)


def test_capsule_data_limit(target):
    with Host(target.port) as host:
        q = host.queue(1)
        entry = q.rw(WRITE, 1, 0, 9)
        entry = entry[:24] + sgl(SGL_OFFSET, 9 * 512) + entry[40:]
        q.send(q.capsule(entry, b"\0" * 9 * 512))
        q.expect_term(INVALID, 4)


def test_digest_flags_must_agree(target):
    with Host(target.port, hdgst=True, ddgst=True) as host:
        q = host.queue(1)
        raw = bytearray(q.capsule(sqe(0, 1)))
        raw[1] = 0
        q.send(raw)
        q.expect_term(INVALID, 1)


def test_header_digest_is_fatal(target):
    with Host(target.port, hdgst=True) as host:
        q = host.queue(1)
        raw = q.capsule(sqe(0, 1), spoil_hdgst=True)
        q.send(raw)
        q.expect_term(HDGST, struct.unpack("<I", raw[72:76])[0])
        host.admin.identify(1)


def test_data_digest_is_not(target):
    with Host(target.port, ddgst=True) as host:
        q = host.queue(1)
        q.write(1, 500, b"o" * 512)
        entry = q.rw(WRITE, 1, 500, 1)
        entry = entry[:24] + sgl(SGL_OFFSET, 512) + entry[40:]
        q.data[0] = bytearray()
        q.send(q.capsule(entry, b"x" * 512, spoil_ddgst=True))
        with pytest.raises(NvmeError) as failed:
            q.wait(0)
        assert failed.value.status == 0x022 and not failed.value.cqe.status & 0x4000
        assert q.read(1, 500, 1) == b"o" * 512, "damaged data was written"
        # The same in an H2CData.
        ttag = r2t_of(q, 1024, cid=9)
        q.data[9] = bytearray()
        q.send(q.h2c(9, ttag, 0, b"y" * 512, last=False, spoil_ddgst=True))
        q.send(q.h2c(9, ttag, 512, b"y" * 512))
        with pytest.raises(NvmeError) as failed:
            q.wait(9)
        assert failed.value.status == 0x022
    assert target.stats()["digest_errors"] >= 2


def test_queue_overflow(target):
    with Host(target.port) as host:
        q = host.queue(1, sqsize=3)
        target("pause", NQN)
        try:
            q.send(b"".join(q.capsule(q.rw(READ, 1, 0, 1)[:24] + sgl(SGL_TRANSPORT, 512) +
                                      q.rw(READ, 1, 0, 1)[40:]) for _ in range(5)))
            q.expect_term(SEQUENCE)
        finally:
            target("resume", NQN)


# ---- H2CData

@pytest.mark.parametrize("name,fes,fei", [
    ("ttag", INVALID, 10), ("cid", INVALID, 8), ("offset", RANGE, None), ("beyond", RANGE, None),
    ("early last", INVALID, 1), ("no last", INVALID, 1), ("datal", INVALID, 16),
    ("limit", LIMIT, None), ("empty", INVALID, 16), ("wrong plen", INVALID, 16),
])
def test_bad_data(target, name, fes, fei):
    with Host(target.port) as host:
        q = host.queue(1)
        ttag = r2t_of(q)
        data = b"d" * 32768
        q.send({
            "ttag": lambda: q.h2c(7, ttag ^ 0x5555, 0, data),
            "cid": lambda: q.h2c(8, ttag, 0, data),
            "offset": lambda: q.h2c(7, ttag, 512, data[512:]),
            "beyond": lambda: q.h2c(7, ttag, 0, data + b"d"),
            "early last": lambda: q.h2c(7, ttag, 0, data[:512], last=True),
            "no last": lambda: q.h2c(7, ttag, 0, data, last=False),
            "datal": lambda: q.h2c(7, ttag, 0, data, datal=len(data) - 1),
            "limit": lambda: q.h2c(7, ttag, 0, b"d" * (q.maxh2c + 4)),
            "empty": lambda: q.h2c(7, ttag, 0, b""),
            "wrong plen": lambda: q.h2c(7, ttag, 0, data, plen=24 + 512),
        }[name]())
        q.expect_term(fes, fei)
        host.admin.identify(1)


def test_data_nobody_asked_for(target):
    with Host(target.port) as host:
        q = host.queue(1)
        for ttag in (0, 5, 127, 128, 0xFFFF):
            with pytest.raises(Exception):
                q.send(q.h2c(0, ttag, 0, b"d" * 512))
                q.expect_term(99)
            break
        q.close()
    with Host(target.port) as host:
        q = host.queue(1)
        q.send(q.h2c(0, 0xFFFF, 0, b"d" * 512))
        q.expect_term(INVALID, 10)


def test_data_twice(target):
    with Host(target.port) as host:
        q = host.queue(1)
        ttag = r2t_of(q, 512)
        q.send(q.h2c(7, ttag, 0, b"d" * 512) * 2)
        q.expect_term(INVALID, 10)


# ---- going away, staying silent

def test_host_says_terminate(target):
    with Host(target.port) as host:
        q = host.queue(1)
        q.send(struct.pack("<BBBBIHI10x", 2, 0, 24, 0, 24, 1, 0))
        q.expect_end()
        host.admin.identify(1)


def test_disconnect_at_every_byte(target):
    """A session that ends anywhere leaves nothing behind."""
    with Host(target.port) as host:
        for size in range(0, 700, 23):
            conn = Conn(target.port, ic=False)
            helper = object.__new__(Conn)
            helper.hdgst = helper.ddgst = False
            session = icreq() + helper.capsule(connect_sqe(), connect_data(NQN))
            conn.send(session[:size])
            conn.close()
        # In the middle of the data of a write, by capsule and by R2T.
        for qid in range(1, 9):
            q = host.queue(qid)
            if qid % 2:
                r2t_of(q)
                q.send(q.h2c(7, 0, 0, b"d" * 32768)[:5000])
            else:
                entry = q.rw(WRITE, 1, 0, 8)
                entry = entry[:24] + sgl(SGL_OFFSET, 4096) + entry[40:]
                q.send(q.capsule(entry, b"d" * 4096)[:3000])
            q.close()
    eventually(lambda: target.stats()["conns"] <= 2, "the broken connections to go")


def test_half_open_connection_times_out():
    with Targetd("--connect-timeout", "200") as t:
        port = t.listen()
        t("subsystem", NQN)
        with Conn(port, ic=False) as silent, Conn(port) as half, Host(port) as good:
            silent.expect_end()
            half.expect_end()
            good.admin.identify(1)
        assert t.stats()["connect_timeouts"] == 2


def test_connection_limit():
    with Targetd("--conns", "2") as t:
        port = t.listen()
        t("subsystem", NQN)
        t("add", NQN, URI)
        with Host(port) as host:
            q = host.queue(1)
            with Conn(port, ic=False) as third:
                third.expect_end()
            q.read(1, 0, 1)
        eventually(lambda: t.stats()["conns"] == 0, "the connections to go")
        assert t.stats()["conns_refused"] == 1
        with Host(port):
            pass


def test_keep_alive_expires(target):
    with Host(target.port, kato_ms=1000) as silent, Host(target.port, kato_ms=1000) as alive:
        q, end = silent.queue(1), time.monotonic() + 2.5
        while time.monotonic() < end:
            alive.admin.command(sqe(0x18))
            time.sleep(0.1)
        silent.admin.expect_end()
        q.expect_end()
        alive.admin.identify(1)
    assert target.stats()["keep_alive_timeouts"] == 1


def test_traffic_keeps_alive(target):
    with Host(target.port, kato_ms=1000) as host:
        q, end = host.queue(1), time.monotonic() + 2.5
        while time.monotonic() < end:
            q.read(1, 0, 1)
            time.sleep(0.1)
        host.admin.identify(1)


def test_host_that_does_not_read(target, neighbour):
    """Its answers pile up; others are served all the same."""
    with Host(target.port) as lazy:
        q = lazy.queue(1)
        for i in range(100):
            q.submit(q.rw(READ, 1, 0, 256), expect=128 << 10)
        for _ in range(20):
            neighbour.q.read(1, 0, 8)


def test_host_that_sits_on_buffers():
    """Writes whose data never comes hold buffers; under need the host is thrown out."""
    with Targetd("--buffers", "8") as t:
        port = t.listen()
        t("subsystem", NQN)
        t("add", NQN, URI)
        with Host(port) as bad, Host(port) as good:
            qb, qg = bad.queue(1), good.queue(1)
            for i in range(20):
                qb.submit(qb.rw(WRITE, 1, 0, 256), b"x" * (128 << 10))
            eventually(lambda: t.stats()["buffers_free_min"] == 0, "the buffers to be gone")
            qg.sock.settimeout(30)
            data = os.urandom(128 << 10)
            stop = threading.Event()

            def chat():
                """Looks alive, on that very queue, but never sends the data."""
                while not stop.wait(0.2):
                    try:
                        qb.send(qb.capsule(sqe(0, 1, cid=999)))
                    except OSError:
                        return

            thread = threading.Thread(target=chat)
            thread.start()
            try:
                qg.write(1, 0, data)
            finally:
                stop.set()
                thread.join()
            assert qg.read(1, 0, 256) == data


def test_misbehaviour_beside_load(target):
    """Random garbage on many connections while another host verifies its data."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    stop = threading.Event()

    def garbage():
        rng = random.Random(seed)
        while not stop.is_set():
            with socket.create_connection(("127.0.0.1", target.port)) as sock:
                piece = bytearray(icreq()) + rng.randbytes(rng.randrange(200))
                for _ in range(rng.randrange(3)):
                    piece[rng.randrange(len(piece))] = rng.randrange(256)
                try:
                    sock.sendall(piece)
                    sock.settimeout(0.05)
                    sock.recv(4096)
                except OSError:
                    pass

    thread = threading.Thread(target=garbage)
    thread.start()
    try:
        with Host(target.port) as host:
            q = host.queue(1)
            for i in range(200):
                data = os.urandom(4096 + 512 * (i % 40))
                q.write(1, 1000, data)
                assert q.read(1, 1000, len(data) // 512) == data
    finally:
        stop.set()
        thread.join()


def test_many_deep_batches_at_once():
    """More commands in one turn than receive memory holds: what is not judged yet stays whole."""
    queues, depth, size = 96, 440, 24
    with Targetd("--queue-depth", "512") as t:
        t.port = t.listen()
        t("subsystem", NQN)
        t("add", NQN, URI)
        hosts = [Host(t.port) for _ in range(3)]
        conns = [h.queue(qid, sqsize=depth) for h in hosts for qid in range(1, queues // 3 + 1)]
        first = [600 * i for i in range(queues)]
        os.kill(t.proc.pid, signal.SIGSTOP)  # so that all of it is there when it looks
        try:
            for conn, cid in zip(conns, first):
                conn.send(b"".join(conn.capsule(sqe(FLUSH, 1, cid=cid + i)) for i in range(depth)))
        finally:
            os.kill(t.proc.pid, signal.SIGCONT)
        for conn, cid in zip(conns, first):
            answers = conn.recv_exact(depth * size)
            got = {struct.unpack_from("<H", answers, at + 20)[0]
                   for at in range(0, len(answers), size)}
            assert got == set(range(cid, cid + depth))
        for h in hosts:
            h.close()

# SPDX-License-Identifier: Apache-2.0
"""tshark decodes what the target says, without a malformed mark.

Capturing needs privileges; this needs none: the bytes of both directions are recorded by the
client and written as the TCP segments that would carry them.
"""

import os
import shutil
import struct
import subprocess

import pytest
from nvmetcp import DISCOVERY, NQN, Conn, Host, NvmeError, Targetd, sqe

SEGMENT = 16384  # bytes of one recorded segment
SERVER_PORT = 4420  # what tshark takes for NVMe/TCP
HEADERS = 20 + 20


class Recorder:
    """A socket that notes what passes."""

    def __init__(self, sock, log, stream):
        self.sock, self.log, self.stream = sock, log, stream

    def sendall(self, data):
        self.log.append((self.stream, True, bytes(data)))
        self.sock.sendall(data)

    def recv(self, size):
        data = self.sock.recv(size)
        self.log.append((self.stream, False, data))
        return data

    def __getattr__(self, name):
        return getattr(self.sock, name)


def record(monkeypatch, log):
    """Every Conn made from now on is recorded, from its first byte."""
    real = Conn.initialise
    count = iter(range(1, 1000))

    def initialise(self, *args):
        self.sock = Recorder(self.sock, log, next(count))
        real(self, *args)

    monkeypatch.setattr(Conn, "initialise", initialise)


def packet(stream, from_host, seq, ack, data, flags):
    """An IPv4 packet with a TCP segment."""
    host, server = (b"\x0a\0\0\1", 40000 + stream), (b"\x0a\0\0\2", SERVER_PORT)
    (src, sport), (dst, dport) = (host, server) if from_host else (server, host)
    ip = struct.pack(">BBHHHBBH", 0x45, 0, HEADERS + len(data), 0, 0, 64, 6, 0) + src + dst
    tcp = struct.pack(">HHIIBBHHH", sport, dport, seq, ack, 5 << 4, flags, 65535, 0, 0)
    return ip + tcp + data


def write_pcap(path, log):
    syn, synack, ack = 0x02, 0x12, 0x10
    with open(path, "wb") as out:
        out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 18, 101))
        clock, sent = 0, {}

        def put(data):
            nonlocal clock
            clock += 1
            out.write(struct.pack("<IIII", clock // 1000, clock % 1000 * 1000, len(data),
                                  len(data)) + data)

        for stream, from_host, data in log:
            if stream not in sent:
                sent[stream] = {True: 1, False: 1}
                put(packet(stream, True, 0, 0, b"", syn))
                put(packet(stream, False, 0, 1, b"", synack))
                put(packet(stream, True, 1, 1, b"", ack))
            seq = sent[stream]
            for at in range(0, len(data), SEGMENT):
                piece = data[at:at + SEGMENT]
                put(packet(stream, from_host, seq[from_host], seq[not from_host], piece, ack))
                seq[from_host] += len(piece)


def tshark(path, *words):
    done = subprocess.run(["tshark", "-r", path, "-o", "nvme-tcp.check_hdgst:TRUE", "-o",
                           "nvme-tcp.check_ddgst:TRUE", *words],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def session(port, digests):
    with Host(port, DISCOVERY, hdgst=digests, ddgst=digests) as host:
        host.admin.log_page(0x70, 4096)
    with Host(port, hdgst=digests, ddgst=digests) as host:
        admin = host.admin
        for cns, nsid in ((1, 0), (2, 0), (0, 1), (3, 1), (8, 1)):
            admin.identify(cns, nsid)
        admin.set_feature(7, 3 | 3 << 16)
        q = host.queue(1)
        admin.set_feature(0x0B, 0x100)
        admin.submit(sqe(0x0C))
        admin.log_page(2, 512)
        data = os.urandom(65536)
        q.write(1, 0, data[:4096])
        q.write(1, 0, data)
        assert q.read(1, 0, 128) == data
        q.compare(1, 0, data[:512])
        q.write_zeroes(1, 0, 8, deac=True)
        q.deallocate(1, [(0, 8), (64, 8)])
        q.flush(1)
        with pytest.raises(NvmeError):
            q.read(1, 1 << 40, 1)
        q.send(q.capsule(sqe(0, 1), hlen=71))
        q.expect_term(1, 2)


@pytest.mark.parametrize("digests", [False, True])
def test_tshark_understands_everything(tmp_path, monkeypatch, digests):
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed (apt-get install tshark)")
    log, path = [], tmp_path / "session.pcap"
    record(monkeypatch, log)
    with Targetd() as target:
        port = target.listen()
        target("subsystem", NQN)
        target("add", NQN, "malloc:///m0?size_mb=8")
        session(port, digests)
    write_pcap(path, log)
    from_target = f"tcp.srcport=={SERVER_PORT}"
    types = set()
    for line in tshark(path, "-Y", f"nvme-tcp && {from_target}", "-T", "fields", "-e",
                       "nvme-tcp.type"):
        types.update(int(t, 0) for t in line.split(",") if t)
    assert types == {1, 3, 5, 7, 9}, f"PDU types seen: {types}"
    assert tshark(path, "-Y", "nvme-tcp.icresp") and tshark(path, "-Y", "nvme-tcp.c2htermreq")
    bad = tshark(path, "-Y", f"_ws.malformed && {from_target}")
    assert not bad, "\n".join(bad)
    # Only the one PDU that the session spoils on purpose may be malformed.
    assert len(tshark(path, "-Y", "_ws.malformed")) <= 1
    status = "bad" if digests else "none"
    wrong = tshark(path, "-Y", f"{from_target} && (nvme-tcp.hdgst.status==Bad || "
                               "nvme-tcp.ddgst.status==Bad)")
    assert not wrong, f"{status}: " + "\n".join(wrong)

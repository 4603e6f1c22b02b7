# SPDX-License-Identifier: Apache-2.0
"""nvmetcp - an NVMe/TCP host in Python, small enough to send anything, right or wrong.

    with Targetd() as t:
        port = t.listen("127.0.0.1")
        t("subsystem", NQN); t("add", NQN, "malloc:///m0?size_mb=64")
        with Host(port, NQN) as host:
            q = host.queue(1)
            q.write(1, 0, b"x" * 512)

`Conn` is one TCP connection with the initialisation done: it sends capsules, answers R2T, collects
data, and checks digests and lengths of everything that comes. A C2HTermReq raises Terminated with
its FES and FEI. `Host` is an admin connection and its I/O queues. `Targetd` runs the target.

Only the standard library is used. CRC32C is a table: slow, right.
"""

import os
import socket
import struct
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("ASHLAR_BUILD", ROOT / "build")).resolve()
NQN = "nqn.2019-05.io.openebs:test"
DISCOVERY = "nqn.2014-08.org.nvmexpress.discovery"
HOSTNQN = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-000000000001"
TIMEOUT_S = 10

ICREQ, ICRESP, H2CTERM, C2HTERM, CAPSULE, RESP, H2CDATA, C2HDATA, R2T = 0, 1, 2, 3, 4, 5, 6, 7, 9
F_HDGST, F_DDGST, F_LAST, F_SUCCESS = 1, 2, 4, 8
SGL_OFFSET, SGL_TRANSPORT = 0x01, 0x5A
DNR = 0x4000  # in the 15-bit status as cqe() returns it
FLUSH, WRITE, READ, COMPARE, WRITE_ZEROES, DSM, VERIFY = 0, 1, 2, 5, 8, 9, 0x0C


def _crc_table():
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_CRC = _crc_table()


def crc32c(data, crc=0):
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


class Terminated(Exception):
    """The target sent C2HTermReq."""

    def __init__(self, fes, fei, header):
        super().__init__(f"C2HTermReq fes={fes} fei={fei}")
        self.fes, self.fei, self.header = fes, fei, header


class NvmeError(Exception):
    """A command ended with a status."""

    def __init__(self, cqe, what):
        super().__init__(f"{what}: status {cqe.status:#x}")
        self.cqe, self.status = cqe, cqe.status & ~DNR


class Cqe:
    def __init__(self, raw):
        self.dw0, self.dw1, self.sqhd, _, self.cid, status = struct.unpack("<IIHHHH", raw)
        self.status = status >> 1


def sgl(kind, length, addr=0):
    return struct.pack("<QI3xB", addr, length, kind)


def sqe(opcode, nsid=0, sgl1=b"\0" * 16, cdw10=0, cdw11=0, cdw12=0, cdw13=0, cdw14=0, cdw15=0,
        flags=0x40, cid=0):
    return (struct.pack("<BBHI", opcode, flags, cid, nsid) + b"\0" * 16 + sgl1 +
            struct.pack("<6I", cdw10, cdw11, cdw12, cdw13, cdw14, cdw15))


def connect_sqe(qid=0, sqsize=31, kato_ms=0, recfmt=0, cattr=0, sgl1=None, cid=0):
    sgl1 = sgl(SGL_OFFSET, 1024) if sgl1 is None else sgl1
    return (struct.pack("<BBHB19x", 0x7F, 0x40, cid, 1) + sgl1 +
            struct.pack("<HHHBxI12x", recfmt, qid, sqsize, cattr, kato_ms))


def connect_data(subnqn, hostnqn=HOSTNQN, cntlid=0xFFFF, hostid=b"\x11" * 16):
    return (hostid + struct.pack("<H238x", cntlid) + subnqn.encode().ljust(256, b"\0") +
            hostnqn.encode().ljust(256, b"\0") + b"\0" * 256)


class Conn:
    """One connection. `step` methods are raw; `command` runs one command to its end."""

    def __init__(self, port, host="127.0.0.1", hdgst=False, ddgst=False, hpda=0, ic=True,
                 maxr2t=0):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect((host, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.hdgst = self.ddgst = False
        self.hpda, self.capsule_max, self.next_cid = hpda, 8192, 0
        self.data, self.done, self.writes = {}, {}, {}
        self.success_count = 0
        if ic:
            self.initialise(hdgst, ddgst, hpda, maxr2t)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    # ---- PDUs out

    def initialise(self, hdgst, ddgst, hpda=0, maxr2t=0):
        self.send(icreq(hdgst, ddgst, hpda, maxr2t))
        kind, flags, header, _ = self.recv_pdu()
        assert kind == ICRESP and flags == 0 and len(header) == 128, (kind, flags)
        pfv, self.cpda, digests, self.maxh2c = struct.unpack_from("<HBBI", header, 8)
        assert pfv == 0 and digests == (1 if hdgst else 0) | (2 if ddgst else 0)
        assert self.maxh2c >= 4096
        self.hdgst, self.ddgst = hdgst, ddgst

    def send(self, data):
        self.sock.sendall(data)

    def pdu(self, kind, header, data=b"", flags=0, spoil_hdgst=False, spoil_ddgst=False, **over):
        """Bytes of a PDU; `header` is what follows the common header."""
        hlen = 8 + len(header)
        digest = 4 if self.hdgst and kind in (CAPSULE, H2CDATA) else 0
        pdo = hlen + digest if data else 0
        plen = hlen + digest + len(data) + (4 if data and self.ddgst else 0)
        flags |= (F_HDGST if digest else 0) | (F_DDGST if data and self.ddgst else 0)
        out = struct.pack("<BBBBI", over.get("type", kind), over.get("flags", flags),
                          over.get("hlen", hlen), over.get("pdo", pdo),
                          over.get("plen", plen)) + header
        if digest:
            out += struct.pack("<I", crc32c(out) ^ (1 if spoil_hdgst else 0))
        out += data
        if data and self.ddgst:
            out += struct.pack("<I", crc32c(data) ^ (1 if spoil_ddgst else 0))
        return out

    def capsule(self, entry, data=b"", **over):
        return self.pdu(CAPSULE, entry, data, **over)

    def h2c(self, cid, ttag, off, data, last=True, **over):
        header = struct.pack("<HHII4x", cid, ttag, off, over.pop("datal", len(data)))
        return self.pdu(H2CDATA, header, data, F_LAST if last else 0, **over)

    # ---- PDUs in

    def recv_exact(self, size):
        out = bytearray()
        while len(out) < size:
            piece = self.sock.recv(size - len(out))
            if not piece:
                raise EOFError(f"connection closed after {len(out)} of {size} bytes")
            out += piece
        return bytes(out)

    def recv_pdu(self):
        """type, flags, header, data; checks everything a host should check."""
        common = self.recv_exact(8)
        kind, flags, hlen, pdo, plen = struct.unpack("<BBBBI", common)
        rest = self.recv_exact(plen - 8)
        raw = common + rest
        header, at = raw[:hlen], hlen
        if kind == C2HTERM:
            fes, fei = struct.unpack_from("<HI", header, 8)
            raise Terminated(fes, fei, raw[24:])
        if kind != ICRESP:
            assert bool(flags & F_HDGST) == self.hdgst, "header digest flag"
            if self.hdgst:
                assert struct.unpack_from("<I", raw, hlen)[0] == crc32c(header), "header digest"
                at += 4
        data = b""
        if kind == C2HDATA:
            assert pdo >= at and pdo % ((self.hpda + 1) * 4) == 0, f"PDO {pdo}"
            assert not any(raw[at:pdo]), "padding is not zero"
            datal = struct.unpack_from("<I", header, 16)[0]
            data = raw[pdo:pdo + datal]
            assert len(raw) == pdo + datal + (4 if self.ddgst else 0), "PLEN of C2HData"
            assert bool(flags & F_DDGST) == self.ddgst
            if self.ddgst:
                assert struct.unpack("<I", raw[-4:])[0] == crc32c(data), "data digest"
        else:
            assert len(raw) == at, f"PLEN {plen} of type {kind}"
        return kind, flags, header, data

    def expect_end(self):
        """The target closes the connection (a late termination request is fine)."""
        try:
            while True:
                self.recv_pdu()
        except (EOFError, ConnectionResetError, Terminated):
            return

    def expect_term(self, fes, fei=None):
        """The target says why and closes."""
        try:
            while True:
                self.recv_pdu()
        except Terminated as end:
            assert end.fes == fes, f"FES {end.fes}, expected {fes}"
            if fei is not None:
                assert end.fei == fei, f"FEI {end.fei}, expected {fei}"
            self.sock.shutdown(socket.SHUT_WR)
            self.expect_end()
            return end

    # ---- commands

    def submit(self, entry, data=None, expect=0, chunk=None, reverse=False):
        """Send a command; `data` goes in the capsule when it fits, else waits for R2T."""
        cid = self.next_cid
        self.next_cid = (cid + 1) & 0xFFFF
        entry = entry[:2] + struct.pack("<H", cid) + entry[4:]
        if data is not None and entry[24:40] == b"\0" * 16:
            inline = len(data) <= self.capsule_max
            entry = entry[:24] + sgl(SGL_OFFSET if inline else SGL_TRANSPORT,
                                     len(data)) + entry[40:]
        elif expect and entry[24:40] == b"\0" * 16:
            entry = entry[:24] + sgl(SGL_TRANSPORT, expect) + entry[40:]
        self.data[cid] = bytearray()
        if data is not None and entry[39] == SGL_TRANSPORT:
            self.writes[cid] = (data, chunk)
            self.send(self.capsule(entry))
        else:
            self.send(self.capsule(entry, data or b""))
        return cid

    def answer_r2t(self, header):
        cid, ttag, off, length = struct.unpack_from("<HHII", header, 8)
        data, chunk = self.writes[cid]
        chunk = min(chunk or self.maxh2c, self.maxh2c)
        end = off + length
        while off < end:
            piece = data[off:min(off + chunk, end)]
            self.send(self.h2c(cid, ttag, off, piece, off + len(piece) == end))
            off += len(piece)

    def pump(self):
        """Handle one PDU from the target."""
        kind, flags, header, data = self.recv_pdu()
        if kind == RESP:
            cqe = Cqe(header[8:24])
            self.done[cqe.cid] = cqe
            self.writes.pop(cqe.cid, None)
        elif kind == C2HDATA:
            cid, _, off, _ = struct.unpack_from("<HHII", header, 8)
            assert off == len(self.data[cid]), "C2HData out of order"
            self.data[cid] += data
            if flags & F_SUCCESS:
                assert flags & F_LAST
                self.success_count += 1
                self.done[cid] = Cqe(struct.pack("<IIHHHH", 0, 0, 0, 0, cid, 0))
        elif kind == R2T:
            self.answer_r2t(header)
        else:
            raise AssertionError(f"PDU type {kind} from a target")

    def wait(self, cid, what="command"):
        while cid not in self.done:
            self.pump()
        cqe = self.done.pop(cid)
        cqe.data = bytes(self.data.pop(cid))
        if cqe.status:
            raise NvmeError(cqe, what)
        return cqe

    def command(self, entry, data=None, expect=0, **options):
        return self.wait(self.submit(entry, data, expect, **options), f"opcode {entry[0]:#x}")

    def connect(self, subnqn, qid=0, sqsize=31, cntlid=0xFFFF, kato_ms=0, hostnqn=HOSTNQN,
                hostid=b"\x11" * 16, **options):
        entry = connect_sqe(qid, sqsize, kato_ms, **options)
        cqe = self.command(entry, connect_data(subnqn, hostnqn, cntlid, hostid))
        return cqe.dw0 & 0xFFFF

    # ---- admin

    def property_get(self, off, size=4):
        entry = (struct.pack("<BBHB35xB3xI16x", 0x7F, 0x40, 0, 4, 1 if size == 8 else 0, off))
        cqe = self.command(entry)
        return cqe.dw0 | cqe.dw1 << 32

    def property_set(self, off, value):
        self.command(struct.pack("<BBHB35xB3xIQ8x", 0x7F, 0x40, 0, 0, 0, off, value))

    def enable(self):
        self.property_set(0x14, 1 | 6 << 16 | 4 << 20)
        assert self.property_get(0x1C) & 1, "controller is not ready"

    def identify(self, cns, nsid=0, csi=0):
        return self.command(sqe(6, nsid, cdw10=cns, cdw11=csi << 24), expect=4096).data

    def log_page(self, lid, size, off=0, nsid=0, rae=False):
        numd = size // 4 - 1
        entry = sqe(2, nsid, cdw10=lid | (1 << 15 if rae else 0) | (numd & 0xFFFF) << 16,
                    cdw11=numd >> 16, cdw12=off & 0xFFFFFFFF, cdw13=off >> 32)
        return self.command(entry, expect=size).data

    def get_feature(self, fid, cdw11=0, expect=0, nsid=0):
        return self.command(sqe(0x0A, nsid, cdw10=fid, cdw11=cdw11), expect=expect)

    def set_feature(self, fid, value, data=None, nsid=0):
        return self.command(sqe(9, nsid, cdw10=fid, cdw11=value), data)

    # ---- I/O; 512-byte blocks unless told

    @staticmethod
    def rw(opcode, nsid, lba, nlb, flags12=0):
        return sqe(opcode, nsid, cdw10=lba & 0xFFFFFFFF, cdw11=lba >> 32,
                   cdw12=(nlb - 1) | flags12)

    def read(self, nsid, lba, nlb, bs=512, flags12=0):
        cqe = self.command(self.rw(READ, nsid, lba, nlb, flags12), expect=nlb * bs)
        assert len(cqe.data) == nlb * bs
        return cqe.data

    def write(self, nsid, lba, data, bs=512, fua=False, **options):
        entry = self.rw(WRITE, nsid, lba, len(data) // bs, 1 << 30 if fua else 0)
        self.command(entry, data, **options)

    def compare(self, nsid, lba, data, bs=512):
        self.command(self.rw(COMPARE, nsid, lba, len(data) // bs), data)

    def write_zeroes(self, nsid, lba, nlb, deac=False):
        self.command(self.rw(WRITE_ZEROES, nsid, lba, nlb, 1 << 25 if deac else 0))

    def flush(self, nsid):
        self.command(sqe(FLUSH, nsid))

    def verify(self, nsid, lba, nlb):
        self.command(self.rw(VERIFY, nsid, lba, nlb))

    def deallocate(self, nsid, ranges, attributes=4):
        data = b"".join(struct.pack("<IIQ", 0, nlb, lba) for lba, nlb in ranges)
        self.command(sqe(DSM, nsid, cdw10=len(ranges) - 1, cdw11=attributes), data)


    # ---- reservations

    @staticmethod
    def resv(opcode, nsid, action, rtype=0, iekey=False, cptpl=0):
        return sqe(opcode, nsid, cdw10=action | (8 if iekey else 0) | rtype << 8 | cptpl << 30)

    def register(self, nsid, nrkey, crkey=0, action=0, iekey=False, cptpl=0):
        return self.command(self.resv(0x0D, nsid, action, 0, iekey, cptpl),
                            struct.pack("<QQ", crkey, nrkey))

    def unregister(self, nsid, crkey, iekey=False):
        return self.register(nsid, 0, crkey, 1, iekey)

    def acquire(self, nsid, rtype, crkey, prkey=0, action=0, iekey=False):
        return self.command(self.resv(0x11, nsid, action, rtype, iekey),
                            struct.pack("<QQ", crkey, prkey))

    def preempt(self, nsid, rtype, crkey, prkey, abort=False):
        return self.acquire(nsid, rtype, crkey, prkey, 2 if abort else 1)

    def release(self, nsid, rtype, crkey, action=0, iekey=False):
        return self.command(self.resv(0x15, nsid, action, rtype, iekey),
                            struct.pack("<Q", crkey))

    def clear(self, nsid, crkey):
        return self.release(nsid, 0, crkey, 1)

    def report(self, nsid, size=16384, eds=1):
        data = self.command(sqe(0x0E, nsid, cdw10=size // 4 - 1, cdw11=eds), expect=size).data
        return Report(data)


class Report:
    """Extended Reservation Status; `hosts` is {hostid: (key, holds)}."""

    def __init__(self, data):
        self.raw = data
        self.gen, self.type, count, self.ptpls = struct.unpack_from("<IBHxxB", data)
        self.hosts = {}
        for at in range(64, 64 + 64 * count, 64):
            cntlid, status, key = struct.unpack_from("<HB5xQ", data, at)
            assert cntlid == 0xFFFF
            self.hosts[data[at + 16:at + 32]] = (key, status == 1)
        assert len(self.hosts) == count


def icreq(hdgst=False, ddgst=False, hpda=0, maxr2t=0, pfv=0, **over):
    return (struct.pack("<BBBBI", over.get("type", ICREQ), over.get("flags", 0),
                        over.get("hlen", 128), over.get("pdo", 0), over.get("plen", 128)) +
            struct.pack("<HBBI112x", pfv, hpda, (1 if hdgst else 0) | (2 if ddgst else 0),
                        maxr2t))


class Host:
    """An enabled controller."""

    def __init__(self, port, nqn=NQN, kato_ms=0, hostnqn=HOSTNQN, hostid=b"\x11" * 16,
                 **conn_options):
        self.port, self.nqn, self.hostnqn, self.hostid = port, nqn, hostnqn, hostid
        self.conn_options = conn_options
        self.queues = []
        self.admin = Conn(port, **conn_options)
        try:
            self.cntlid = self.admin.connect(nqn, kato_ms=kato_ms, hostnqn=hostnqn,
                                             hostid=hostid)
            self.admin.enable()
        except Exception:
            self.admin.close()  # a traceback would keep it open
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for conn in self.queues:
            conn.close()
        self.admin.close()

    def queue(self, qid, sqsize=127, cattr=0, **conn_options):
        conn = Conn(self.port, **{**self.conn_options, **conn_options})
        try:
            conn.connect(self.nqn, qid=qid, sqsize=sqsize, cntlid=self.cntlid,
                         hostnqn=self.hostnqn, hostid=self.hostid, cattr=cattr)
        except Exception:
            conn.close()
            raise
        conn.capsule_max = 4096
        self.queues.append(conn)
        return conn


class Targetd:
    """The target under test, driven over its stdin. TARGETD_OPTIONS in the environment adds options
    to each, e.g. "--cores 0x3"."""

    def __init__(self, *options, prefix=()):
        program = BUILD / "tests" / "integration" / "targetd"
        options = [*os.environ.get("TARGETD_OPTIONS", "").split(), *options]
        env = dict(os.environ)
        env.setdefault("UBSAN_OPTIONS", "halt_on_error=1:print_stacktrace=1")
        env.setdefault("TSAN_OPTIONS", "halt_on_error=1:second_deadlock_stack=1")
        self.proc = subprocess.Popen([*prefix, program, *options], env=env, stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, text=True, bufsize=1)
        line = self.proc.stdout.readline().strip()
        assert line == "ready", f"targetd said {line!r}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def __call__(self, *words):
        self.proc.stdin.write(" ".join(str(w) for w in words) + "\n")
        answer = self.proc.stdout.readline().strip()
        assert answer.startswith("ok"), f"{words}: {answer or 'targetd died'}"
        return answer[3:]

    def start(self, *words):
        """A command that may wait: the answer comes with finish()."""
        self.proc.stdin.write(" ".join(str(w) for w in words) + "\n")

    def finish(self):
        answer = self.proc.stdout.readline().strip()
        assert answer.startswith("ok"), answer
        return answer[3:]

    def listen(self, host="127.0.0.1"):
        return int(self("listen", host))

    def stats(self):
        return {k: int(v) for k, v in (item.split("=") for item in self("stats").split())}

    def stop(self):
        """End it in order; any complaint of a sanitizer shows as an exit code."""
        if self.proc.poll() is None:
            self.proc.stdin.close()
        code = self.proc.wait(timeout=30)
        self.proc.stdout.close()
        assert code == 0, f"targetd ended with {code}"


def eventually(condition, what, limit_s=TIMEOUT_S):
    """Wait until condition() is true."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.005)
